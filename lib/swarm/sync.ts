/**
 * Log sync: every device ends with every entry of every log. A step machine:
 * events in, effects out; no I/O, clock or thread of its own.
 *
 * - Devices tell each other what they hold durably (`have`), whole at connect
 *   and then what changed.
 * - The author of an entry pushes it to everybody it is connected to. Whoever
 *   sees in a `have` that somebody holds more asks for it, different ranges of
 *   different peers at the same time: so gaps are filled, and so entries
 *   travel on between devices that are not connected.
 * - The host gets the entries of a log in order, without gaps, each once, a
 *   batch at a time, and judges each batch before the next.
 *
 * Invariants, asserted by test/sim:
 * - bytes asked for, kept out of order and being judged: at most MAX_HELD_BYTES;
 * - bytes with the host, judged or not, that are not durable yet: at most MAX_UNDURABLE_BYTES and one batch;
 * - nothing is told or sent that is not durable here.
 */
import { Asking, REQUEST_BYTES } from './asking.js'
import { LogGaps, type Claim } from './log-gaps.js'
import type { Priority } from './net/link.js'
import { EntryServer, type EntryReader } from './serve-entries.js'
import { entryHash } from '../log/entry.js'
import {
  MAX_CERTIFICATES, MAX_CERTIFICATE_BYTES, MAX_ENTRIES, MAX_ENTRIES_BYTES, MAX_ENTRY_BYTES, MAX_FORKED_HEADER_BYTES, MAX_HAVE_LOGS, MAX_PEER_LOGS,
  entryBytes, logKey,
  type Entries, type EntryPart, type Forked, type Have, type HeldLog, type LogName, type NoEntries, type Peer, type SignedEntry, type SyncMessage,
} from './messages.js'

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
/** A new entry is pushed unless so much waits in the link: then the peer learns of it and asks when it can. */
const PUSH_QUEUE_BYTES = 2 * 1024 * 1024
/** Liars that are remembered; the host keeps its own record of them. */
const MAX_LIARS = 1024

/** What sync reads of the host, at once. */
export interface LogStore extends EntryReader {
  /** Everything held durably; read once, in the constructor. */
  held(): Iterable<HeldLog>
  /** Hash of entry `seq` of a log, as held durably; undefined if it is not known (truncated, or not there). */
  hashOf(log: LogName, seq: number): Buffer | undefined
  /** All device certificates. */
  certificates(): Buffer[]
  /** All proofs of forks. */
  forks(): Forked[]
}

export type SyncEffect =
  /** Give it to the link. */
  | { type: 'send'; peer: Peer; message: SyncMessage; priority: Priority }
  /** Entries from, from + 1, ... that follow what this log had so far. Verify, keep, then call `verdict`; none follows before. */
  | { type: 'deliver'; peer: Peer; log: LogName; from: number; entries: SignedEntry[] }
  /** Verify and keep; call `certified` with those that were new. */
  | { type: 'certificates'; peer: Peer; certificates: Buffer[] }
  /**
   * Perhaps a fork: signed headers of entry `seq`, which is held here and differs, or two that differ from each other.
   * If the log's device signed them, keep both and call `forked`; if not, the peer lies.
   */
  | { type: 'suspect'; peer: Peer; log: LogName; seq: number; headers: Buffer[] }
  /**
   * A peer says that it holds more of our own log than we do: the tail was lost here. Make no entries until the missing
   * ones have come by `deliver` (which proves it), then go on as a new incarnation and call `setOwn`.
   */
  | { type: 'ownAhead'; peer: Peer; log: LogName; seq: number }
  /** Nobody connected can serve entry `from`, this peer has dropped it after stability: take a snapshot, then call `adopted`. */
  | { type: 'needSnapshot'; peer: Peer; log: LogName; from: number }
  /** A peer holds our own log durably up to `seq`. */
  | { type: 'receipt'; peer: Peer; seq: number }
  /** Proven wrong. Report it and close the link. */
  | { type: 'lying'; peer: Peer; log: LogName | undefined; why: string }

/**
 * What became of a batch. `accepted`: entries up to this seq are good (verified and in the open transaction).
 * `then` says why not the rest: 'invalid': forged or damaged, the peer lies; 'forked': a proof follows by `forked`;
 * 'later': it cannot be judged yet (no certificate of the device).
 */
export interface Verdict { accepted: number; then?: 'invalid' | 'forked' | 'later' }

interface PeerState {
  /** It has told what it holds. */
  isKnown: boolean
  /** Logs of which it holds more than we have. */
  readonly useful: Set<string>
  readonly logs: Set<string>
  /** Our own log was pushed to it up to here. */
  pushed: number
}

export class LogSync {
  readonly #store: LogStore
  readonly #server: EntryServer
  readonly #logs = new Map<string, LogGaps>()
  readonly #peers = new Map<Peer, PeerState>()
  readonly #asking = new Asking()
  /** Logs with entries that came. */
  readonly #arrived = new Set<LogGaps>()
  readonly #liars = new Map<Peer, Set<string>>()
  #own: string
  #nowMs = 0
  #isPaused = false
  #gotBytes = 0
  #checkingBytes = 0
  #undurableBytes = 0
  #out: SyncEffect[] = []

  constructor(store: LogStore, own: LogName) {
    this.#store = store
    this.#server = new EntryServer(store)
    this.#own = logKey(own)
    for (const held of store.held()) this.#log(held).durable = this.#log(held).delivered = held.seq
    for (const proof of store.forks()) this.#log(proof).isForked = true
  }

  // --- events; each gives what is to be done now, in this order ---

  /** A link is up. */
  peerUp(nowMs: number, peer: Peer): SyncEffect[] {
    this.#nowMs = nowMs
    if (this.#peers.has(peer)) throw new Error(`invariant: ${peer} is connected already`)
    this.#peers.set(peer, { isKnown: false, useful: new Set(), logs: new Set(), pushed: 0 })
    this.#asking.addPeer(peer)
    this.#sendCertificates(peer, this.#store.certificates())
    this.#sendHave(peer, [...this.#store.held()], true)
    for (const proof of this.#store.forks()) this.#sendFork(peer, proof)
    return this.#end()
  }

  peerDown(nowMs: number, peer: Peer): SyncEffect[] {
    this.#nowMs = nowMs
    const state = this.#peers.get(peer)
    if (!state) return this.#end()
    this.#asking.dropPeer(peer)
    for (const key of state.logs) this.#unclaim(key, peer)
    this.#peers.delete(peer)
    this.#server.drop(peer)
    return this.#end()
  }

  message(nowMs: number, peer: Peer, m: SyncMessage): SyncEffect[] {
    this.#nowMs = nowMs
    if (!this.#peers.has(peer)) return this.#end()
    switch (m.type) {
      case 'have': this.#onHave(peer, m); break
      case 'wantEntries': this.#server.want(peer, m, (answer) => this.#send(peer, answer)); break
      case 'entries': this.#onEntries(peer, m); break
      case 'entryPart': this.#onPart(peer, m); break
      case 'noEntries': this.#onNoEntries(peer, m); break
      case 'certificates': this.#out.push({ type: 'certificates', peer, certificates: m.certificates }); break
      case 'forked': this.#onForked(peer, m); break
    }
    return this.#end()
  }

  /** Our own entries from.. became durable; `held` is our log after them. Pushed to everybody. */
  localEntries(nowMs: number, held: HeldLog, from: number, entries: SignedEntry[]): SyncEffect[] {
    this.#nowMs = nowMs
    const log = this.#log(held)
    log.durable = log.delivered = held.seq
    this.#gotBytes -= log.trim()
    for (const [peer, state] of this.#peers) {
      const has = Math.max(state.pushed, log.claims.get(peer)?.seq ?? 0)
      const fresh = has >= from ? entries.slice(has + 1 - from) : entries
      const canPush = state.isKnown && !log.isForked && has >= from - 1 && fresh.length <= MAX_ENTRIES
        && fresh.reduce((n, e) => n + entryBytes(e), 0) <= MAX_ENTRIES_BYTES && this.#store.queuedBytes(peer) < PUSH_QUEUE_BYTES
      if (!canPush) this.#sendHave(peer, [held], false)
      else if (fresh.length > 0) {
        this.#send(peer, { type: 'entries', request: 0, ...log.name, from: held.seq - fresh.length + 1, entries: fresh })
        state.pushed = held.seq
      }
    }
    return this.#end()
  }

  /** What the host made of the last `deliver` of a log. */
  verdict(nowMs: number, name: LogName, verdict: Verdict): SyncEffect[] {
    this.#nowMs = nowMs
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
    if (verdict.then === undefined) return this.#end()
    log.delivered = Math.max(log.durable, verdict.accepted)
    if (verdict.then === 'invalid') this.#lies(batch.peer, log.name, `entry ${verdict.accepted + 1} is not valid`)
    else if (verdict.then === 'forked') this.#quarantine(log)
    else {
      this.#gotBytes -= log.drop()
      log.retryAtMs = nowMs + RETRY_MS
    }
    this.#claimsChanged(log)
    return this.#end()
  }

  /** Entries of others that were accepted became durable, or old ones were dropped: what is held of these logs now. Everybody is told. */
  durable(nowMs: number, logs: HeldLog[]): SyncEffect[] {
    this.#nowMs = nowMs
    for (const held of logs) {
      const log = this.#log(held)
      log.durable = held.seq
      this.#undurableBytes -= log.settle(held.seq)
      if (log.delivered < held.seq) this.#skipTo(log, held.seq)
      this.#compareAll(log)
    }
    for (const peer of this.#peers.keys()) this.#sendHave(peer, logs, false)
    return this.#end()
  }

  /** A snapshot was taken in, or our state was replaced: as `durable`, with logs that may have jumped ahead. */
  adopted(nowMs: number, logs: HeldLog[]): SyncEffect[] {
    return this.durable(nowMs, logs)
  }

  /** Certificates that are new here: passed on, and entries that waited for them are tried again. `from`: who sent them. */
  certified(nowMs: number, certificates: Buffer[], from?: Peer): SyncEffect[] {
    this.#nowMs = nowMs
    for (const peer of this.#peers.keys()) if (peer !== from) this.#sendCertificates(peer, certificates)
    for (const log of this.#logs.values()) log.retryAtMs = 0
    return this.#end()
  }

  /** A verified proof of a fork: nothing is added to the log any more, everybody is told. */
  forked(nowMs: number, proof: Forked): SyncEffect[] {
    this.#nowMs = nowMs
    this.#quarantine(this.#log(proof))
    for (const peer of this.#peers.keys()) this.#sendFork(peer, proof)
    return this.#end()
  }

  /** The host found that a peer lies about a log (a suspicion that was false). */
  lied(nowMs: number, peer: Peer, name: LogName, why: string): SyncEffect[] {
    this.#nowMs = nowMs
    this.#lies(peer, name, why)
    return this.#end()
  }

  /** We go on as another incarnation. */
  setOwn(own: LogName): void {
    this.#own = logKey(own)
    for (const state of this.#peers.values()) state.pushed = 0
  }

  /** A link has room again. */
  drained(nowMs: number, peer: Peer): SyncEffect[] {
    this.#nowMs = nowMs
    return this.#end(peer)
  }

  /** While paused nothing is asked for and nothing delivered (a snapshot is coming in). */
  setPaused(nowMs: number, isPaused: boolean): SyncEffect[] {
    this.#nowMs = nowMs
    this.#isPaused = isPaused
    return this.#end()
  }

  /** Every 50 to 500 ms. */
  tick(nowMs: number): SyncEffect[] {
    this.#nowMs = nowMs
    this.#asking.tick(nowMs)
    for (const peer of this.#peers.keys()) this.#server.serve(peer, (m) => this.#send(peer, m))
    for (const log of this.#logs.values()) {
      // Nobody has what must precede it any more.
      if (log.got.length > 0 && !log.isUnderWay(log.delivered + 1) && !this.#isServed(log)) this.#gotBytes -= log.drop()
      if (log.claims.size === 0) continue
      this.#compareAll(log)
      if (this.#isBehind(log)) this.#claimsChanged(log)
    }
    return this.#end()
  }

  // --- what can be asked ---

  /** Bytes in memory or on their way, for assertions and `dfs status`. */
  get bytes(): { asked: number; kept: number; judged: number; undurable: number } {
    return { asked: this.#asking.bytes, kept: this.#gotBytes, judged: this.#checkingBytes, undurable: this.#undurableBytes }
  }

  /** Entries that the peer lacks of what is held here, and that we lack of what it holds, as far as it said. */
  owed(peer: Peer): { toPeer: number; fromPeer: number } {
    let toPeer = 0, fromPeer = 0
    for (const log of this.#logs.values()) {
      const seq = log.claims.get(peer)?.seq ?? 0
      if (seq > log.durable) fromPeer += seq - log.durable
      else toPeer += log.durable - seq
    }
    return { toPeer, fromPeer }
  }

  /** Connected peers that hold a log durably up to `seq`. */
  holders(name: LogName, seq: number): Peer[] {
    const claims = this.#logs.get(logKey(name))?.claims
    return claims ? [...claims].filter(([, claim]) => claim.seq >= seq).map(([peer]) => peer) : []
  }

  // --- messages ---

  #onHave(peer: Peer, m: Have): void {
    const state = this.#peers.get(peer)!
    if (m.isFull) {
      for (const key of state.logs) this.#unclaim(key, peer)
      state.logs.clear()
      state.useful.clear()
      state.isKnown = true
    }
    for (const held of m.logs) {
      const key = logKey(held)
      if (!state.logs.has(key) && state.logs.size >= MAX_PEER_LOGS) continue
      state.logs.add(key)
      const log = this.#log(held)
      const before = log.claims.get(peer)
      const isSame = before?.seq === held.seq && before.hash.equals(held.hash)
      log.claims.set(peer, {
        first: held.first, seq: held.seq, hash: held.hash, refusedUntilMs: 0, large: undefined,
        isReported: isSame && before.isReported && before.first === held.first, isCompared: isSame && before.isCompared,
      })
      if (key === this.#own) this.#onOwn(peer, log, before?.seq ?? 0, held.seq)
      this.#compare(peer, log)
      this.#claimsChanged(log, peer)
    }
  }

  #onOwn(peer: Peer, log: LogGaps, before: number, seq: number): void {
    if (seq > log.durable) this.#out.push({ type: 'ownAhead', peer, log: log.name, seq })
    else if (seq > before) this.#out.push({ type: 'receipt', peer, seq })
  }

  #onEntries(peer: Peer, m: Entries): void {
    const r = this.#asking.find(peer, m.request)
    const last = m.from + m.entries.length - 1
    if (!r) {
      if (m.request === 0) this.#announced(peer, m, last)
      // Without a claim it is a late answer about a log that nobody holds now.
      const log = this.#logs.get(logKey(m))
      if (log?.claims.has(peer)) this.#take(peer, log, m.from, m.entries, true)
      return
    }
    this.#asking.close(r, this.#nowMs)
    const bytes = m.entries.reduce((n, e) => n + entryBytes(e), 0)
    if (logKey(m) !== r.log.key || m.from !== r.run.from || last > r.run.to || bytes > r.limitBytes) {
      return this.#lies(peer, r.log.name, 'it sent other entries than those asked for')
    }
    if (r.isEvidence) this.#onEvidence(peer, r.log, m.from, m.entries[0]!)
    else this.#take(peer, r.log, m.from, m.entries, false)
  }

  #onPart(peer: Peer, m: EntryPart): void {
    const r = this.#asking.find(peer, m.request)
    if (!r) return
    const total = m.signedBytes + m.sealedBytes
    if (m.offset !== r.partBytes || total > r.limitBytes) {
      this.#asking.close(r, this.#nowMs)
      return this.#lies(peer, r.log.name, 'parts that do not fit together')
    }
    r.parts.push(m.part)
    r.partBytes += m.part.length
    if (r.partBytes < total) return
    this.#asking.close(r, this.#nowMs)
    const whole = Buffer.concat(r.parts)
    const entry = { signed: whole.subarray(0, m.signedBytes), sealed: whole.subarray(m.signedBytes) }
    if (r.partBytes !== total || entry.sealed.length !== m.sealedBytes) return this.#lies(peer, r.log.name, 'parts that do not fit together')
    if (r.isEvidence) this.#onEvidence(peer, r.log, r.run.from, entry)
    else this.#take(peer, r.log, r.run.from, [entry], false)
  }

  #onNoEntries(peer: Peer, m: NoEntries): void {
    const r = this.#asking.find(peer, m.request)
    if (!r) return
    this.#asking.close(r, this.#nowMs)
    const claim = r.log.claims.get(peer)
    if (!claim || r.isEvidence) return
    if (m.needBytes > r.limitBytes) claim.large = { seq: r.run.from, bytes: m.needBytes }
    else {
      claim.refusedUntilMs = this.#nowMs + REFUSED_MS
      this.#peers.get(peer)!.useful.delete(r.log.key)
    }
  }

  #onForked(peer: Peer, m: Forked): void {
    const name = { incarnation: m.incarnation, device: m.device }
    if (this.#logs.get(logKey(m))?.isForked || this.#isLiar(peer, name)) return
    this.#out.push({ type: 'suspect', peer, log: name, seq: 0, headers: [m.one, m.other] })
  }

  /** A push says what the author holds, too. */
  #announced(peer: Peer, m: Entries, last: number): void {
    const state = this.#peers.get(peer)!
    const key = logKey(m)
    if (!state.logs.has(key) && state.logs.size >= MAX_PEER_LOGS) return
    state.logs.add(key)
    const log = this.#log(m)
    const before = log.claims.get(peer)
    if (before && before.seq >= last) return
    log.claims.set(peer, {
      first: before?.first ?? m.from, seq: last, hash: entryHash(m.entries.at(-1)!.signed), refusedUntilMs: 0, large: undefined, isReported: false, isCompared: false,
    })
    this.#claimsChanged(log, peer)
  }

  /** Entries came: asked for, or not (pushed, or too late). */
  #take(peer: Peer, log: LogGaps, from: number, entries: SignedEntry[], isUnasked: boolean): void {
    if (log.isForked || this.#isLiar(peer, log.name)) return
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

  // --- forks and lies ---

  /** The hash that a peer names for its last entry against ours, as soon as we have that one. */
  #compare(peer: Peer, log: LogGaps): void {
    const claim = log.claims.get(peer)
    if (!claim || claim.isCompared || claim.seq > log.durable || log.isForked || this.#isLiar(peer, log.name)) return
    const ours = this.#store.hashOf(log.name, claim.seq)
    if (!ours || ours.equals(claim.hash)) claim.isCompared = true
    else if (this.#asking.mayAsk(peer, MAX_ENTRY_BYTES, this.#nowMs) && this.#heldBytes + MAX_ENTRY_BYTES <= MAX_HELD_BYTES) {
      claim.isCompared = true
      this.#ask(peer, log, { from: claim.seq, to: claim.seq }, MAX_ENTRY_BYTES, true)
    }
  }

  #compareAll(log: LogGaps): void {
    for (const peer of log.claims.keys()) this.#compare(peer, log)
  }

  #look(peer: Peer, log: LogGaps, seq: number, entry: SignedEntry): void {
    const ours = this.#store.hashOf(log.name, seq)
    if (ours && !ours.equals(entryHash(entry.signed))) this.#out.push({ type: 'suspect', peer, log: log.name, seq, headers: [entry.signed] })
  }

  #onEvidence(peer: Peer, log: LogGaps, seq: number, entry: SignedEntry): void {
    if (log.isForked || this.#isLiar(peer, log.name)) return
    const ours = this.#store.hashOf(log.name, seq)
    if (ours?.equals(entryHash(entry.signed))) this.#lies(peer, log.name, 'it named a hash that its own entry does not have')
    else this.#look(peer, log, seq, entry)
  }

  #lies(peer: Peer, name: LogName, why: string): void {
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
    this.#out.push({ type: 'lying', peer, log: { incarnation: name.incarnation, device: name.device }, why })
  }

  #isLiar(peer: Peer, name: LogName): boolean {
    return this.#liars.get(peer)?.has(logKey(name)) ?? false
  }

  #quarantine(log: LogGaps): void {
    log.isForked = true
    this.#gotBytes -= log.drop()
    this.#asking.drop((r) => r.log === log)
    for (const state of this.#peers.values()) state.useful.delete(log.key)
  }

  // --- filling gaps ---

  #log(name: LogName): LogGaps {
    const key = logKey(name)
    let log = this.#logs.get(key)
    if (!log) this.#logs.set(key, log = new LogGaps({ incarnation: name.incarnation, device: name.device }, key, 0))
    return log
  }

  #unclaim(key: string, peer: Peer): void {
    const log = this.#logs.get(key)
    if (!log) return
    log.claims.delete(peer)
    if (log.isIdle) this.#logs.delete(key)
  }

  #isBehind(log: LogGaps): boolean {
    if (log.isForked) return false
    for (const claim of log.claims.values()) if (claim.seq > log.delivered) return true
    return false
  }

  #skipTo(log: LogGaps, seq: number): void {
    log.delivered = seq
    this.#gotBytes -= log.trim()
  }

  /** Who can serve something of a log may be different now. */
  #claimsChanged(log: LogGaps, only?: Peer): void {
    for (const [peer, claim] of log.claims) {
      if (only !== undefined && peer !== only) continue
      const isUseful = !log.isForked && claim.seq > log.delivered && claim.refusedUntilMs <= this.#nowMs && !this.#isLiar(peer, log.name)
      if (isUseful) this.#peers.get(peer)!.useful.add(log.key)
      else this.#peers.get(peer)!.useful.delete(log.key)
    }
    this.#checkSnapshot(log)
  }

  #checkSnapshot(log: LogGaps): void {
    const next = log.delivered + 1
    let best: [Peer, Claim] | undefined
    for (const [peer, claim] of log.claims) {
      if (log.isForked || this.#isLiar(peer, log.name) || claim.seq < next) continue
      if (claim.first <= next) return
      if (!best || claim.seq > best[1].seq) best = [peer, claim]
    }
    if (!best || best[1].isReported) return
    best[1].isReported = true
    this.#out.push({ type: 'needSnapshot', peer: best[0], log: log.name, from: next })
  }

  get #heldBytes(): number { return this.#asking.bytes + this.#gotBytes + this.#checkingBytes }

  /** Asks the peer that has least to do for the first thing that it can give, until nobody can or memory is full. */
  #fill(): void {
    if (this.#isPaused || this.#undurableBytes >= MAX_UNDURABLE_BYTES) return
    const idle = new Set<Peer>()
    for (const [peer, state] of this.#peers) if (state.useful.size > 0) idle.add(peer)
    while (idle.size > 0) {
      let least: Peer | undefined
      for (const peer of idle) if (least === undefined || this.#asking.askedOf(peer) < this.#asking.askedOf(least)) least = peer
      if (!this.#askNext(least!)) idle.delete(least!)
    }
  }

  #askNext(peer: Peer): boolean {
    const { useful } = this.#peers.get(peer)!
    if (!this.#asking.mayAsk(peer, REQUEST_BYTES, this.#nowMs)) return false
    for (const key of useful) {
      const log = this.#logs.get(key)
      const claim = log?.claims.get(peer)
      if (!log || !claim || claim.seq <= log.delivered) {
        useful.delete(key)
        continue
      }
      const run = log.retryAtMs > this.#nowMs ? undefined : log.missing(claim.first, claim.seq)
      if (!run) continue
      const isFirst = run.from === log.delivered + 1
      // What others must precede is of no use while nobody has those.
      if (!isFirst && !log.isUnderWay(log.delivered + 1) && !this.#isServed(log)) continue
      const limitBytes = claim.large?.seq === run.from ? claim.large.bytes : REQUEST_BYTES
      // A large entry goes alone: until the others are answered nothing more is asked of this peer.
      if (limitBytes > REQUEST_BYTES && !this.#asking.mayAsk(peer, limitBytes, this.#nowMs)) return false
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
      if (claim.first <= log.delivered + 1 && this.#peers.get(peer)!.useful.has(log.key)) return true
    }
    return false
  }

  #ask(peer: Peer, log: LogGaps, run: { from: number; to: number }, limitBytes: number, isEvidence: boolean): void {
    const r = this.#asking.open(peer, log, run, limitBytes, isEvidence, this.#nowMs)
    this.#send(peer, { type: 'wantEntries', request: r.id, ...log.name, from: run.from, to: run.to, limitBytes: r.limitBytes })
  }

  #deliver(): void {
    if (this.#isPaused) return
    for (const log of this.#arrived) {
      if (this.#undurableBytes + this.#checkingBytes >= MAX_UNDURABLE_BYTES) return
      if (log.got.length === 0) {
        this.#arrived.delete(log)
        continue
      }
      if (log.checking || log.isForked || log.retryAtMs > this.#nowMs) continue
      const batch = log.takeNext()
      if (!batch) continue
      log.checking = batch
      log.delivered = batch.to
      this.#gotBytes -= batch.bytes
      this.#checkingBytes += batch.bytes
      this.#out.push({ type: 'deliver', peer: batch.peer, log: log.name, from: batch.from, entries: batch.entries })
    }
  }

  // --- sending ---

  #send(peer: Peer, message: SyncMessage): void {
    // Names go before content: what a log says is waited for by somebody who looks at a folder.
    this.#out.push({ type: 'send', peer, message, priority: 'now' })
  }

  #sendHave(peer: Peer, logs: HeldLog[], isFull: boolean): void {
    for (let at = 0; at < logs.length || (isFull && at === 0); at += MAX_HAVE_LOGS) {
      this.#send(peer, { type: 'have', isFull: isFull && at === 0, logs: logs.slice(at, at + MAX_HAVE_LOGS) })
    }
  }

  #sendCertificates(peer: Peer, certificates: Buffer[]): void {
    const fit = certificates.filter((c) => c.length <= MAX_CERTIFICATE_BYTES)
    for (let at = 0; at < fit.length; at += MAX_CERTIFICATES) this.#send(peer, { type: 'certificates', certificates: fit.slice(at, at + MAX_CERTIFICATES) })
  }

  #sendFork(peer: Peer, proof: Forked): void {
    if (Math.max(proof.one.length, proof.other.length) <= MAX_FORKED_HEADER_BYTES) this.#send(peer, proof)
  }

  #end(drained?: Peer): SyncEffect[] {
    if (drained !== undefined && this.#peers.has(drained)) this.#server.serve(drained, (m) => this.#send(drained, m))
    this.#deliver()
    this.#fill()
    const out = this.#out
    this.#out = []
    return out
  }
}
