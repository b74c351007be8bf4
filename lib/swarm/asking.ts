/**
 * Requests for entries that are under way: how much of each peer, since when,
 * and what may still be asked. Part of LogSync.
 *
 * Invariant: `bytes` is the sum of the requests' limits; of one peer they are at
 * most MAX_PEER_BYTES, or a single request.
 */
import { MAX_ENTRY_BYTES, type Peer } from './messages.js'
import type { LogGaps } from './log-gaps.js'

/** One request: long enough to be worth its round trip, short enough to spread a gap over several peers. */
export const REQUEST_BYTES = 256 * 1024
/** Asked of one peer at a time: fills a link of 100 MB/s and 20 ms. */
export const MAX_PEER_BYTES = 2 * 1024 * 1024
/** Before it has shown how quick it is. */
const FIRST_PEER_BYTES = 2 * REQUEST_BYTES
/** Answered within this: it may be asked for more at a time. After SLOW_MS: for less. */
const QUICK_MS = 1000
const SLOW_MS = 4000
/** No answer for so long: the entries are asked of others, and this peer of nothing for AVOID_MS, longer each time. Its late answer is still used. */
const OVERDUE_MS = 15_000
const AVOID_MS = 5_000
const MAX_AVOID_MS = 60_000

export interface Request {
  readonly id: number
  readonly peer: Peer
  readonly log: LogGaps
  readonly run: { from: number; to: number }
  readonly limitBytes: number
  /** Entry `from` is held here already; the peer says that its own differs. */
  readonly isEvidence: boolean
  readonly sentMs: number
  /** When it was sent, or a part of the answer came last. */
  progressMs: number
  /** Of an entry that comes in parts. */
  readonly parts: Buffer[]
  partBytes: number
}

interface Asked { bytes: number; limitBytes: number; avoidUntilMs: number; avoidMs: number }

export class Asking {
  readonly #requests = new Map<number, Request>()
  readonly #peers = new Map<Peer, Asked>()
  #next = 1
  bytes = 0

  get count(): number { return this.#requests.size }

  addPeer(peer: Peer): void {
    this.#peers.set(peer, { bytes: 0, limitBytes: FIRST_PEER_BYTES, avoidUntilMs: 0, avoidMs: AVOID_MS })
  }

  dropPeer(peer: Peer): void {
    this.drop((r) => r.peer === peer)
    this.#peers.delete(peer)
  }

  drop(which: (r: Request) => boolean): void {
    for (const r of [...this.#requests.values()]) if (which(r)) this.#remove(r)
  }

  askedOf(peer: Peer): number {
    return this.#peers.get(peer)!.bytes
  }

  /** Whether a request of so many bytes may go to this peer now. A larger one than usual must be its only one. */
  mayAsk(peer: Peer, bytes: number, nowMs: number): boolean {
    const asked = this.#peers.get(peer)!
    return asked.avoidUntilMs <= nowMs && (asked.bytes === 0 || asked.bytes + bytes <= asked.limitBytes)
  }

  open(peer: Peer, log: LogGaps, run: { from: number; to: number }, limitBytes: number, isEvidence: boolean, nowMs: number): Request {
    const r: Request = { id: this.#next++, peer, log, run, limitBytes: Math.min(limitBytes, MAX_ENTRY_BYTES), isEvidence, sentMs: nowMs, progressMs: nowMs, parts: [], partBytes: 0 }
    this.#requests.set(r.id, r)
    if (!isEvidence) log.asked.push(run)
    this.#peers.get(peer)!.bytes += r.limitBytes
    this.bytes += r.limitBytes
    return r
  }

  /** The request that this peer answers; undefined if it was given up, or was never made. */
  find(peer: Peer, id: number): Request | undefined {
    const r = this.#requests.get(id)
    return r?.peer === peer ? r : undefined
  }

  /** It was answered. */
  close(r: Request, nowMs: number): void {
    this.#remove(r)
    const asked = this.#peers.get(r.peer)!
    const tookMs = nowMs - r.sentMs
    if (tookMs <= QUICK_MS) asked.limitBytes = Math.min(MAX_PEER_BYTES, asked.limitBytes + REQUEST_BYTES)
    else if (tookMs > SLOW_MS) asked.limitBytes = Math.max(REQUEST_BYTES, Math.floor(asked.limitBytes / 2))
    asked.avoidMs = AVOID_MS
  }

  /** Gives up what is overdue. */
  tick(nowMs: number): void {
    for (const r of [...this.#requests.values()]) {
      if (nowMs - r.progressMs < OVERDUE_MS) continue
      this.#remove(r)
      const asked = this.#peers.get(r.peer)!
      if (asked.avoidUntilMs > nowMs) continue
      asked.avoidUntilMs = nowMs + asked.avoidMs
      asked.avoidMs = Math.min(MAX_AVOID_MS, asked.avoidMs * 2)
      asked.limitBytes = REQUEST_BYTES
    }
  }

  #remove(r: Request): void {
    this.#requests.delete(r.id)
    const at = r.log.asked.indexOf(r.run)
    if (at >= 0) r.log.asked.splice(at, 1)
    this.#peers.get(r.peer)!.bytes -= r.limitBytes
    this.bytes -= r.limitBytes
  }
}
