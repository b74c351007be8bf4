/**
 * What comes in: the gaps of each log, who claims to hold what is missing, what
 * is asked of whom, and what is handed to the host. Part of LogSync, which has
 * the invariants.
 */
import { Asking, REQUEST_BYTES } from './asking.js'
import { LogGaps, type Claim } from './log-gaps.js'
import { headerOf } from '../log/entry.js'
import { entryHash } from '../log/entry.js'
import {
  MAX_ENTRY_BYTES, MAX_PEER_LOGS, entryBytes, logKey,
  type Entries, type EntryPart, type Forked, type HeldLog, type LogName, type NoEntries, type Peer, type SignedEntry,
} from './messages.js'
import type { SyncEffect, Verdict } from './sync.js'

/** Under way, kept and being judged, of all peers: several entries of the largest kind. */
export const MAX_HELD_BYTES = 20 * 1024 * 1024
/** Of it, entries that others must precede, and what is asked of them: there is always room for what a log needs first. */
const MAX_AHEAD_BYTES = MAX_HELD_BYTES - MAX_ENTRY_BYTES - REQUEST_BYTES
/** Above this the host is slower than the network: nothing more is handed to it or asked for. */
export const MAX_UNDURABLE_BYTES = 16 * 1024 * 1024
/** A peer that did not have what it said is asked again when it says something new, or after this. */
const REFUSED_MS = 10_000
/** Entries that could not be judged: a certificate or a snapshot may have come in by then. */
const RETRY_MS = 5_000
/** Liars that are remembered; the host keeps its own record of them. */
const MAX_LIARS = 1024

interface PeerClaims {
  /** Logs of which it has said what it holds. */
  readonly logs: Set<string>
  /** Those of which it can give something that is missing here. */
  readonly useful: Set<string>
}

export class Intake {
  nowMs = 0
  isPaused = false
  readonly #hashOf: (log: LogName, seq: number) => Buffer | undefined
  readonly #emit: (effect: SyncEffect) => void
  readonly #logs = new Map<string, LogGaps>()
  readonly #peers = new Map<Peer, PeerClaims>()
  readonly #asking = new Asking()
  /** Logs with entries that came. */
  readonly #arrived = new Set<LogGaps>()
  readonly #liars = new Map<Peer, Set<string>>()
  #gotBytes = 0
  #checkingBytes = 0
  #undurableBytes = 0

  constructor(hashOf: (log: LogName, seq: number) => Buffer | undefined, emit: (effect: SyncEffect) => void) {
    this.#hashOf = hashOf
    this.#emit = emit
  }

  // --- peers and what they claim ---

  addPeer(peer: Peer): void {
    this.#peers.set(peer, { logs: new Set(), useful: new Set() })
    this.#asking.addPeer(peer)
  }

  dropPeer(peer: Peer): void {
    this.#asking.dropPeer(peer)
    this.forgetClaims(peer)
    this.#peers.delete(peer)
  }

  forgetClaims(peer: Peer): void {
    const { logs, useful } = this.#of(peer)
    for (const key of logs) this.#unclaim(key, peer)
    logs.clear()
    useful.clear()
  }

  /** What it holds of one log now. Gives what it said before; undefined also if it has named too many logs. */
  claim(peer: Peer, held: HeldLog): { log: LogGaps; before: number } | undefined {
    const { logs } = this.#of(peer)
    const key = logKey(held)
    if (!logs.has(key) && logs.size >= MAX_PEER_LOGS) return undefined
    logs.add(key)
    const log = this.log(held)
    const before = log.claims.get(peer)
    const isSame = before?.seq === held.seq && before.hash.equals(held.hash)
    log.claims.set(peer, {
      first: held.first, seq: held.seq, hash: held.hash, refusedUntilMs: 0, large: undefined,
      isReported: isSame && before.isReported && before.first === held.first, isCompared: isSame && before.isCompared,
    })
    this.#compare(peer, log)
    this.#claimsChanged(log, peer)
    return { log, before: before?.seq ?? 0 }
  }

  log(name: LogName): LogGaps {
    const key = logKey(name)
    let log = this.#logs.get(key)
    if (!log) this.#logs.set(key, log = new LogGaps({ incarnation: name.incarnation, device: name.device }, key, 0))
    return log
  }

  find(name: LogName): LogGaps | undefined {
    return this.#logs.get(logKey(name))
  }

  all(): Iterable<LogGaps> { return this.#logs.values() }

  #unclaim(key: string, peer: Peer): void {
    const log = this.#logs.get(key)
    if (!log) return
    log.claims.delete(peer)
    if (log.isIdle) this.#logs.delete(key)
  }

  /** Who can serve something of a log may be different now. */
  #claimsChanged(log: LogGaps, only?: Peer): void {
    for (const [peer, claim] of log.claims) {
      if (only !== undefined && peer !== only) continue
      const isUseful = log.taken(claim) > log.delivered && claim.refusedUntilMs <= this.nowMs && !this.isLiar(peer, log.name)
      if (isUseful) this.#of(peer).useful.add(log.key)
      else this.#of(peer).useful.delete(log.key)
    }
    this.#checkSnapshot(log)
  }

  #checkSnapshot(log: LogGaps): void {
    const next = log.delivered + 1
    let best: [Peer, Claim] | undefined
    for (const [peer, claim] of log.claims) {
      if (this.isLiar(peer, log.name) || log.taken(claim) < next) continue
      if (claim.first <= next) return
      if (!best || claim.seq > best[1].seq) best = [peer, claim]
    }
    if (!best || best[1].isReported) return
    best[1].isReported = true
    this.#emit({ type: 'needSnapshot', peer: best[0], log: log.name, from: next })
  }

  /**
   * Logs of which peers that are believed hold more, and none of them what comes next: with the last entry that is here. What
   * is dropped was final, so all of them must say that they have had it.
   */
  stuck(isBelieved: (peer: Peer) => boolean): { log: LogName; seq: number }[] {
    const believed = [...this.#peers.keys()].filter(isBelieved)
    const stuck: { log: LogName; seq: number }[] = []
    for (const log of this.#logs.values()) {
      const next = log.durable + 1
      const have = believed.map((peer) => log.claims.get(peer))
      const isDropped = have.every((claim) => claim !== undefined && claim.first > next && log.taken(claim) >= next)
      if (believed.length > 0 && isDropped) stuck.push({ log: log.name, seq: log.durable })
    }
    return stuck
  }

  #of(peer: Peer): PeerClaims { return this.#peers.get(peer)! }

  // --- what comes ---

  onEntries(peer: Peer, m: Entries): void {
    const r = this.#asking.find(peer, m.request)
    const last = m.from + m.entries.length - 1
    if (!r) {
      if (m.request === 0) this.#announced(peer, m, last)
      // Without a claim it is a late answer about a log that nobody holds now.
      const log = this.#logs.get(logKey(m))
      if (log?.claims.has(peer)) this.#take(peer, log, m.from, m.entries, true)
      return
    }
    this.#asking.close(r, this.nowMs)
    const bytes = m.entries.reduce((n, e) => n + entryBytes(e), 0)
    if (logKey(m) !== r.log.key || m.from !== r.run.from || last > r.run.to || bytes > r.limitBytes) {
      return this.lies(peer, r.log.name, 'it sent other entries than those asked for')
    }
    if (r.isEvidence) this.#onEvidence(peer, r.log, m.from, m.entries[0]!)
    else this.#take(peer, r.log, m.from, m.entries, false)
  }

  onPart(peer: Peer, m: EntryPart): void {
    const r = this.#asking.find(peer, m.request)
    if (!r) return
    const total = m.signedBytes + m.sealedBytes
    if (m.offset !== r.partBytes || total > r.limitBytes) {
      this.#asking.close(r, this.nowMs)
      return this.lies(peer, r.log.name, 'parts that do not fit together')
    }
    r.parts.push(m.part)
    r.partBytes += m.part.length
    r.progressMs = this.nowMs
    if (r.partBytes < total) return
    this.#asking.close(r, this.nowMs)
    const whole = Buffer.concat(r.parts)
    const entry = { signed: whole.subarray(0, m.signedBytes), sealed: whole.subarray(m.signedBytes) }
    if (r.partBytes !== total || entry.sealed.length !== m.sealedBytes) return this.lies(peer, r.log.name, 'parts that do not fit together')
    if (r.isEvidence) this.#onEvidence(peer, r.log, r.run.from, entry)
    else this.#take(peer, r.log, r.run.from, [entry], false)
  }

  onNoEntries(peer: Peer, m: NoEntries): void {
    const r = this.#asking.find(peer, m.request)
    if (!r) return
    this.#asking.close(r, this.nowMs)
    const claim = r.log.claims.get(peer)
    if (!claim || r.isEvidence) return
    if (m.needBytes > r.limitBytes) claim.large = { seq: r.run.from, bytes: m.needBytes }
    else {
      claim.refusedUntilMs = this.nowMs + REFUSED_MS
      this.#of(peer).useful.delete(r.log.key)
    }
  }

  /** A push says what the author holds, too. */
  #announced(peer: Peer, m: Entries, last: number): void {
    const state = this.#of(peer)
    const key = logKey(m)
    if (!state.logs.has(key) && state.logs.size >= MAX_PEER_LOGS) return
    state.logs.add(key)
    const log = this.log(m)
    const before = log.claims.get(peer)
    if (before && before.seq >= last) return
    log.claims.set(peer, {
      first: before?.first ?? m.from, seq: last, hash: entryHash(m.entries.at(-1)!.signed), refusedUntilMs: 0, large: undefined, isReported: false, isCompared: false,
    })
    this.#claimsChanged(log, peer)
  }

  /** Entries came: asked for, or not (pushed, or too late). */
  #take(peer: Peer, log: LogGaps, from: number, entries: SignedEntry[], isUnasked: boolean): void {
    if (this.isLiar(peer, log.name)) return
    if (log.isForked) {
      entries = entries.slice(0, Math.max(0, log.commonSeq - from + 1))
      const end = entries[log.commonSeq - from]
      // Of the other history: let somebody else be asked.
      if (end && log.commonHash && !entryHash(end.signed).equals(log.commonHash)) {
        const claim = log.claims.get(peer)
        if (claim) claim.refusedUntilMs = this.nowMs + REFUSED_MS
        entries = entries.slice(0, -1)
      }
      if (entries.length === 0) return
    }
    entries = entries.slice(0, Math.max(0, log.endSeq - from + 1))
    if (entries.length === 0) return
    const last = from + entries.length - 1
    // The newest of those that we have: the chain vouches for the ones before it.
    const known = Math.min(last, log.durable)
    if (known >= from) this.#look(peer, log, known, entries[known - from]!)
    if (last <= log.delivered) return
    const bytes = entries.reduce((n, e) => n + entryBytes(e), 0)
    // What does not fit is asked for later: its author is known to hold it.
    if (isUnasked && this.#heldBytes + bytes > MAX_AHEAD_BYTES) return
    this.#gotBytes += log.insert(peer, from, entries)
    this.#arrived.add(log)
  }

  // --- what the host has done ---

  /** It has judged the batch of a log. */
  judged(name: LogName, verdict: Verdict): void {
    const log = this.#logs.get(logKey(name))
    const batch = log?.checking
    if (!log || !batch) throw new Error('invariant: a verdict without a batch')
    if (verdict.accepted < batch.from - 1 || verdict.accepted > batch.to) throw new Error('invariant: a verdict on other entries')
    log.checking = undefined
    this.#checkingBytes -= batch.bytes
    const good = batch.entries.slice(0, verdict.accepted - batch.from + 1)
    const bytes = good.reduce((n, e) => n + entryBytes(e), 0)
    if (verdict.accepted > log.durable && bytes > 0) {
      log.undurable.push({ seq: verdict.accepted, bytes })
      this.#undurableBytes += bytes
    }
    if (verdict.then === undefined) return
    log.delivered = Math.max(log.durable, verdict.accepted)
    if (verdict.then === 'invalid') this.lies(batch.peer, log.name, `entry ${verdict.accepted + 1} is not valid`)
    else if (verdict.then === 'forked') this.quarantine(log, verdict.accepted)
    else {
      this.#gotBytes -= log.drop()
      log.retryAtMs = this.nowMs + RETRY_MS
    }
    this.#claimsChanged(log)
  }

  /** It holds a log durably, so far. */
  settle(held: HeldLog): LogGaps {
    const log = this.log(held)
    log.durable = held.seq
    this.#undurableBytes -= log.settle(held.seq)
    if (log.delivered < held.seq) {
      log.delivered = held.seq
      this.#gotBytes -= log.trim()
    }
    this.compareAll(log)
    return log
  }

  /** What could not be judged may be judged now. */
  retry(): void {
    for (const log of this.#logs.values()) log.retryAtMs = 0
  }

  tick(): void {
    this.#asking.tick(this.nowMs)
    for (const log of this.#logs.values()) {
      // Nobody has what must precede it any more.
      if (log.got.length > 0 && !log.isUnderWay(log.delivered + 1) && !this.#isServed(log)) this.#gotBytes -= log.drop()
      if (log.claims.size === 0) continue
      this.compareAll(log)
      if (log.isBehind) this.#claimsChanged(log)
    }
  }

  /** Hands on what can be, and asks for what is missing. */
  proceed(): void {
    if (this.isPaused) return
    this.#deliver()
    this.#fill()
  }

  get bytes(): { asked: number; kept: number; judged: number; undurable: number } {
    return { asked: this.#asking.bytes, kept: this.#gotBytes, judged: this.#checkingBytes, undurable: this.#undurableBytes }
  }

  // --- forks and lies ---

  compareAll(log: LogGaps): void {
    for (const peer of log.claims.keys()) this.#compare(peer, log)
  }

  /** The hash that a peer names for its last entry against ours, as soon as we have that one. */
  #compare(peer: Peer, log: LogGaps): void {
    const claim = log.claims.get(peer)
    if (!claim || claim.isCompared || claim.seq > log.durable || log.isForked || this.isLiar(peer, log.name)) return
    const ours = this.#hashOf(log.name, claim.seq)
    if (!ours || ours.equals(claim.hash)) claim.isCompared = true
    else if (this.#asking.mayAsk(peer, MAX_ENTRY_BYTES, this.nowMs) && this.#heldBytes + MAX_ENTRY_BYTES <= MAX_HELD_BYTES) {
      claim.isCompared = true
      this.#ask(peer, log, { from: claim.seq, to: claim.seq }, MAX_ENTRY_BYTES, true)
    }
  }

  #look(peer: Peer, log: LogGaps, seq: number, entry: SignedEntry): void {
    const ours = this.#hashOf(log.name, seq)
    if (ours && !ours.equals(entryHash(entry.signed))) this.#emit({ type: 'suspect', peer, log: log.name, seq, headers: [entry.signed] })
  }

  #onEvidence(peer: Peer, log: LogGaps, seq: number, entry: SignedEntry): void {
    if (log.isForked || this.isLiar(peer, log.name)) return
    const ours = this.#hashOf(log.name, seq)
    if (ours?.equals(entryHash(entry.signed))) this.lies(peer, log.name, 'it named a hash that its own entry does not have')
    else this.#look(peer, log, seq, entry)
  }

  lies(peer: Peer, name: LogName, why: string): void {
    const key = logKey(name)
    let logs = this.#liars.get(peer)
    if (!logs) {
      if (this.#liars.size >= MAX_LIARS) this.#liars.delete(this.#liars.keys().next().value!)
      this.#liars.set(peer, logs = new Set())
    }
    if (logs.size < MAX_PEER_LOGS) logs.add(key)
    this.#asking.drop((r) => r.peer === peer && r.log.key === key)
    this.#peers.get(peer)?.useful.delete(key)
    const log = this.#logs.get(key)
    if (log) this.#gotBytes -= log.drop(peer)
    this.#emit({ type: 'lying', peer, log: { incarnation: name.incarnation, device: name.device }, why })
  }

  isLiar(peer: Peer, name: LogName): boolean {
    return this.#liars.get(peer)?.has(logKey(name)) ?? false
  }

  /** Nothing behind `commonSeq` any more. */
  quarantine(log: LogGaps, commonSeq: number, commonHash?: Buffer): void {
    if (log.commonSeq <= commonSeq) return
    log.commonSeq = commonSeq
    log.commonHash = commonHash
    this.#gotBytes -= log.drop()
    this.#asking.drop((r) => r.log === log)
    for (const state of this.#peers.values()) state.useful.delete(log.key)
    this.#claimsChanged(log)
  }

  /** Others have ended the log: nothing behind `seq` is taken. Of what is known only. */
  end(name: LogName, seq: number): void {
    const log = this.#logs.get(logKey(name))
    if (!log || log.endSeq === seq) return
    log.endSeq = seq
    this.#claimsChanged(log)
  }

  /** As a proof says. */
  prove({ one, other, ...name }: Forked): void {
    const log = this.log(name)
    const [a, b] = [headerOf(one), headerOf(other)]
    this.quarantine(log, b ? b.seq - 1 : log.delivered, a?.seq === b?.seq ? undefined : entryHash(one))
  }

  // --- filling gaps ---

  get #heldBytes(): number { return this.#asking.bytes + this.#gotBytes + this.#checkingBytes }

  /** Asks the peer that has least to do for the first thing that it can give, until nobody can or memory is full. */
  #fill(): void {
    if (this.#undurableBytes >= MAX_UNDURABLE_BYTES) return
    const idle = new Set<Peer>()
    for (const [peer, state] of this.#peers) if (state.useful.size > 0) idle.add(peer)
    while (idle.size > 0) {
      let least: Peer | undefined
      for (const peer of idle) if (least === undefined || this.#asking.askedOf(peer) < this.#asking.askedOf(least)) least = peer
      if (!this.#askNext(least!)) idle.delete(least!)
    }
  }

  #askNext(peer: Peer): boolean {
    const { useful } = this.#of(peer)
    if (!this.#asking.mayAsk(peer, REQUEST_BYTES, this.nowMs)) return false
    for (const key of useful) {
      const log = this.#logs.get(key)
      const claim = log?.claims.get(peer)
      if (!log || !claim || log.taken(claim) <= log.delivered) {
        useful.delete(key)
        continue
      }
      const run = log.retryAtMs > this.nowMs ? undefined : log.missing(claim.first, log.taken(claim))
      if (!run) continue
      const isFirst = run.from === log.delivered + 1
      // What others must precede is of no use while nobody has those.
      if (!isFirst && !log.isUnderWay(log.delivered + 1) && !this.#isServed(log)) continue
      const limitBytes = claim.large?.seq === run.from ? claim.large.bytes : REQUEST_BYTES
      // A large entry goes alone: until the others are answered nothing more is asked of this peer.
      if (limitBytes > REQUEST_BYTES && !this.#asking.mayAsk(peer, limitBytes, this.nowMs)) return false
      if (this.#heldBytes + limitBytes > (isFirst ? MAX_HELD_BYTES : MAX_AHEAD_BYTES)) continue
      this.#ask(peer, log, { from: run.from, to: Math.min(run.to, run.from + log.guessCount(limitBytes) - 1) }, limitBytes, false)
      // The next log comes first another time: none waits for the end of a long one.
      useful.delete(key)
      useful.add(key)
      return true
    }
    return false
  }

  /** Somebody is ready to give what this log needs first. */
  #isServed(log: LogGaps): boolean {
    for (const [peer, claim] of log.claims) {
      if (claim.first <= log.delivered + 1 && this.#of(peer).useful.has(log.key)) return true
    }
    return false
  }

  #ask(peer: Peer, log: LogGaps, run: { from: number; to: number }, limitBytes: number, isEvidence: boolean): void {
    const r = this.#asking.open(peer, log, run, limitBytes, isEvidence, this.nowMs)
    this.#emit({ type: 'send', peer, priority: 'now', message: { type: 'wantEntries', request: r.id, ...log.name, from: run.from, to: run.to, limitBytes: r.limitBytes } })
  }

  #deliver(): void {
    for (const log of this.#arrived) {
      if (this.#undurableBytes + this.#checkingBytes >= MAX_UNDURABLE_BYTES) return
      if (log.got.length === 0) {
        this.#arrived.delete(log)
        continue
      }
      if (log.checking || log.retryAtMs > this.nowMs) continue
      const batch = log.takeNext()
      if (!batch) continue
      log.checking = batch
      log.delivered = batch.to
      this.#gotBytes -= batch.bytes
      this.#checkingBytes += batch.bytes
      this.#emit({ type: 'deliver', peer: batch.peer, log: log.name, from: batch.from, entries: batch.entries })
    }
  }
}
