/**
 * One peer as a source of chunks: how quick it is, how much it was asked for,
 * whether it can be trusted. Part of ChunkExchange.
 */
import type { Rank } from './wants.js'

/** Before it has shown how quick it is: slow enough that nothing important waits for the first answer only. */
const FIRST_BYTES_PER_MS = 5_000
/** Asked of one peer at a time, of one urgency and those above it: what it sends in WINDOW_MS, within these. Below, a link idles between answers; above, nothing is gained. */
const WINDOW_MS = 1000
const MIN_WINDOW_BYTES = 1024 * 1024
export const MAX_WINDOW_BYTES = 8 * 1024 * 1024
/** Of the window, for what nobody waits for. */
const IDLE_SHARE = 0.5
/** Shorter times say more of the jitter than of the speed. */
const SAMPLE_MS = 20
/**
 * Cancelled chunks that may still arrive: as many as may be wanted at a time (MAX_WANTS, MAX_BACKGROUND), for a peer that rested may have been
 * asked for all of them. Past this the oldest is forgotten, and would count as unasked.
 */
const MAX_CANCELLED = 16_384
/** Chunks a minute that nobody asked for: some may be late answers; more are a flood. */
const MAX_UNASKED = 64

export class Holder {
  /** What its answers are likely to take; and of each rank. */
  askedBytes = 0
  readonly askedByRank = [0, 0, 0, 0]
  asks = 0
  keepsEverything = false
  /** Since the last chunk came or, if it had nothing to do, since it was asked. */
  waitingSinceMs = 0
  avoidUntilMs = 0
  bytesPerMs = FIRST_BYTES_PER_MS
  #sampleFromMs = 0
  #sampleBytes = 0
  #unasked = 0
  #unaskedSinceMs = 0
  readonly #cancelled = new Set<string>()

  asked(bytes: number, rank: Rank, nowMs: number): void {
    if (this.asks++ === 0) {
      this.waitingSinceMs = nowMs
      this.#sampleFromMs = nowMs
      this.#sampleBytes = 0
    }
    this.askedBytes += bytes
    this.askedByRank[rank]! += bytes
  }

  answered(bytes: number, rank: Rank): void {
    this.asks--
    this.askedBytes -= bytes
    this.askedByRank[rank]! -= bytes
  }

  reranked(bytes: number, from: Rank, to: Rank): void {
    this.askedByRank[from]! -= bytes
    this.askedByRank[to]! += bytes
  }

  arrived(bytes: number, nowMs: number): void {
    this.waitingSinceMs = nowMs
    this.#sampleBytes += bytes
    const tookMs = nowMs - this.#sampleFromMs
    if (tookMs < SAMPLE_MS) return
    this.bytesPerMs = this.bytesPerMs * 0.7 + this.#sampleBytes / tookMs * 0.3
    this.#sampleFromMs = nowMs
    this.#sampleBytes = 0
  }

  /** Until so many more bytes are here: it serves what is more urgent first. */
  expectedMs(bytes: number, rank: Rank): number {
    return (this.#before(rank) + bytes) / Math.max(1, this.bytesPerMs)
  }

  /** What is less urgent takes no room from what is more: a reader is not kept waiting by a window full of read-ahead. */
  hasRoom(bytes: number, rank: Rank): boolean {
    const window = Math.min(MAX_WINDOW_BYTES, Math.max(MIN_WINDOW_BYTES, this.bytesPerMs * WINDOW_MS))
    const before = this.#before(rank)
    return before === 0 || before + bytes <= (rank >= 2 ? window * IDLE_SHARE : window)
  }

  #before(rank: Rank): number {
    let before = 0
    for (let r = 0; r <= rank; r++) before += this.askedByRank[r]!
    return before
  }

  cancelled(key: string): void {
    this.#cancelled.add(key)
    if (this.#cancelled.size > MAX_CANCELLED) this.#cancelled.delete(this.#cancelled.keys().next().value!)
  }

  /** It was asked for, once. */
  wasCancelled(key: string): boolean {
    return this.#cancelled.delete(key)
  }

  /** False: too many by now. */
  sentUnasked(nowMs: number): boolean {
    if (nowMs - this.#unaskedSinceMs > 60_000) {
      this.#unaskedSinceMs = nowMs
      this.#unasked = 0
    }
    return ++this.#unasked <= MAX_UNASKED
  }
}
