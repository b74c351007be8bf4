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
import { Intake } from './intake.js'
import type { LogGaps } from './log-gaps.js'
import type { Priority } from './net/link.js'
import { EntryServer, type EntryReader } from './serve-entries.js'
import {
  MAX_CERTIFICATES, MAX_CERTIFICATE_BYTES, MAX_ENTRIES, MAX_ENTRIES_BYTES, MAX_FORKED_HEADER_BYTES, MAX_HAVE_LOGS, entryBytes, logKey,
  type Forked, type Have, type HeldLog, type LogName, type Peer, type SignedEntry, type SyncMessage,
} from './messages.js'

/** A new entry is pushed unless so much waits in the link: then the peer learns of it and asks when it can. */
const PUSH_QUEUE_BYTES = 2 * 1024 * 1024

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
   * If they are proof (isForkProof: signatures alone are not), keep both and call `forked`; if not, call `lied`.
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
  /** Our own log was pushed to it up to here. */
  pushed: number
}

export class LogSync {
  readonly #store: LogStore
  readonly #server: EntryServer
  readonly #intake: Intake
  readonly #peers = new Map<Peer, PeerState>()
  #own: string
  #out: SyncEffect[] = []

  constructor(store: LogStore, own: LogName) {
    this.#store = store
    this.#server = new EntryServer(store)
    this.#intake = new Intake((log, seq) => store.hashOf(log, seq), (effect) => this.#out.push(effect))
    this.#own = logKey(own)
    for (const held of store.held()) this.#intake.settle(held)
    for (const proof of store.forks()) this.#intake.prove(proof)
  }

  // --- events; each gives what is to be done now, in this order ---

  /** A link is up. */
  peerUp(nowMs: number, peer: Peer): SyncEffect[] {
    this.#intake.nowMs = nowMs
    if (this.#peers.has(peer)) throw new Error(`invariant: ${peer} is connected already`)
    this.#peers.set(peer, { isKnown: false, pushed: 0 })
    this.#intake.addPeer(peer)
    this.#sendCertificates(peer, this.#store.certificates())
    this.#sendHave(peer, [...this.#store.held()], true)
    for (const proof of this.#store.forks()) this.#sendFork(peer, proof)
    return this.#end()
  }

  peerDown(nowMs: number, peer: Peer): SyncEffect[] {
    this.#intake.nowMs = nowMs
    if (!this.#peers.delete(peer)) return this.#end()
    this.#intake.dropPeer(peer)
    this.#server.drop(peer)
    return this.#end()
  }

  message(nowMs: number, peer: Peer, m: SyncMessage): SyncEffect[] {
    this.#intake.nowMs = nowMs
    if (!this.#peers.has(peer)) return this.#end()
    switch (m.type) {
      case 'have': this.#onHave(peer, m); break
      case 'wantEntries': this.#server.want(peer, m, (answer) => this.#send(peer, answer)); break
      case 'entries': this.#intake.onEntries(peer, m); break
      case 'entryPart': this.#intake.onPart(peer, m); break
      case 'noEntries': this.#intake.onNoEntries(peer, m); break
      case 'certificates': this.#out.push({ type: 'certificates', peer, certificates: m.certificates }); break
      case 'forked': this.#onForked(peer, m); break
    }
    return this.#end()
  }

  /** Our own entries from.. became durable; `held` is our log after them. Pushed to everybody. */
  localEntries(nowMs: number, held: HeldLog, from: number, entries: SignedEntry[]): SyncEffect[] {
    this.#intake.nowMs = nowMs
    const log = this.#intake.settle(held)
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
    this.#intake.nowMs = nowMs
    this.#intake.judged(name, verdict)
    return this.#end()
  }

  /** Entries of others that were accepted became durable, or old ones were dropped: what is held of these logs now. Everybody is told. */
  durable(nowMs: number, logs: HeldLog[]): SyncEffect[] {
    this.#intake.nowMs = nowMs
    for (const held of logs) this.#intake.settle(held)
    for (const peer of this.#peers.keys()) this.#sendHave(peer, logs, false)
    return this.#end()
  }

  /** A snapshot was taken in, or our state was replaced: as `durable`, with logs that may have jumped ahead. */
  adopted(nowMs: number, logs: HeldLog[]): SyncEffect[] {
    return this.durable(nowMs, logs)
  }

  /** Certificates that are new here: passed on, and entries that waited for them are tried again. `from`: who sent them. */
  certified(nowMs: number, certificates: Buffer[], from?: Peer): SyncEffect[] {
    this.#intake.nowMs = nowMs
    for (const peer of this.#peers.keys()) if (peer !== from) this.#sendCertificates(peer, certificates)
    this.#intake.retry()
    return this.#end()
  }

  /** A verified proof of a fork: nothing is added to the log any more, everybody is told. */
  forked(nowMs: number, proof: Forked): SyncEffect[] {
    this.#intake.nowMs = nowMs
    this.#intake.prove(proof)
    for (const peer of this.#peers.keys()) this.#sendFork(peer, proof)
    return this.#end()
  }

  /** The host found that a peer lies about a log (a suspicion that was false). */
  lied(nowMs: number, peer: Peer, name: LogName, why: string): SyncEffect[] {
    this.#intake.nowMs = nowMs
    this.#intake.lies(peer, name, why)
    return this.#end()
  }

  /** We go on as another incarnation. */
  setOwn(own: LogName): void {
    this.#own = logKey(own)
    for (const state of this.#peers.values()) state.pushed = 0
  }

  /** Others have ended a log: of what comes behind `seq` nothing is asked for or taken. */
  end(nowMs: number, name: LogName, seq: number): SyncEffect[] {
    this.#intake.nowMs = nowMs
    this.#intake.end(name, seq)
    return this.#end()
  }

  /** As Intake.stuck. */
  stuck(isBelieved: (peer: Peer) => boolean): { log: LogName; seq: number }[] { return this.#intake.stuck(isBelieved) }

  /** A link has room again. */
  drained(nowMs: number, peer: Peer): SyncEffect[] {
    this.#intake.nowMs = nowMs
    return this.#end(peer)
  }

  /** While paused nothing is asked for and nothing delivered (a snapshot is coming in). */
  setPaused(nowMs: number, isPaused: boolean): SyncEffect[] {
    this.#intake.nowMs = nowMs
    this.#intake.isPaused = isPaused
    return this.#end()
  }

  /** Every 50 to 500 ms. */
  tick(nowMs: number): SyncEffect[] {
    this.#intake.nowMs = nowMs
    for (const peer of this.#peers.keys()) this.#server.serve(peer, (m) => this.#send(peer, m))
    this.#intake.tick()
    return this.#end()
  }

  // --- what can be asked ---

  /** Bytes in memory or on their way, for assertions and `dfs status`. */
  get bytes(): { asked: number; kept: number; judged: number; undurable: number } {
    return this.#intake.bytes
  }

  /** Entries that the peer lacks of what is held here, and that we lack of what it holds, as far as it said. */
  owed(peer: Peer): { toPeer: number; fromPeer: number } {
    let toPeer = 0, fromPeer = 0
    for (const log of this.#intake.all()) {
      const seq = log.claims.get(peer)?.seq ?? 0
      const taken = Math.min(seq, log.commonSeq, log.endSeq)
      if (taken > log.durable) fromPeer += taken - log.durable
      else toPeer += Math.max(0, log.durable - seq)
    }
    return { toPeer, fromPeer }
  }

  /** Whether everything is here that peers have, as far as they said and it is taken; false while none has. */
  get hasCaughtUp(): boolean {
    return [...this.#peers.values()].some((state) => state.isKnown) && ![...this.#intake.all()].some((log) => (log.isBehind || log.checking) && log.retryAtMs <= this.#intake.nowMs)
  }

  /** Connected peers that hold a log durably up to `seq`. */
  holders(name: LogName, seq: number): Peer[] {
    const claims = this.#intake.find(name)?.claims
    return claims ? [...claims].filter(([, claim]) => claim.seq >= seq).map(([peer]) => peer) : []
  }

  // --- messages ---

  #onHave(peer: Peer, m: Have): void {
    if (m.isFull) {
      this.#intake.forgetClaims(peer)
      this.#peers.get(peer)!.isKnown = true
    }
    for (const held of m.logs) {
      const claimed = this.#intake.claim(peer, held)
      if (claimed && claimed.log.key === this.#own) this.#onOwn(peer, claimed.log, claimed.before, held.seq)
    }
  }

  #onOwn(peer: Peer, log: LogGaps, before: number, seq: number): void {
    if (seq > log.durable) this.#out.push({ type: 'ownAhead', peer, log: log.name, seq })
    else if (seq > before) this.#out.push({ type: 'receipt', peer, seq })
  }

  #onForked(peer: Peer, m: Forked): void {
    const name = { incarnation: m.incarnation, device: m.device }
    if (this.#intake.find(name)?.isForked || this.#intake.isLiar(peer, name)) return
    this.#out.push({ type: 'suspect', peer, log: name, seq: 0, headers: [m.one, m.other] })
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
    this.#intake.proceed()
    const out = this.#out
    this.#out = []
    return out
  }
}
