/**
 * Weighted rendezvous hashing by the logarithm method (Schindelhauer and Schomaker 2005): for
 * a group each entrant has its own random number out of a hash of both, and arrives at
 * -ln(u) / weight; the earliest win. A change of one weight moves groups to or from that
 * entrant alone.
 *
 * Entrants in one bucket count once: the earliest of them. As the first of several exponential
 * clocks is one of the sum of their rates, a bucket races as one entrant of all their weights would, and within it the
 * winner is drawn by weight. So a bucket needs no number of its own: naming one moves nothing.
 */

import { exponential } from './exponential.js'

export interface Entrant {
  /** What the caller knows it by: given back by `winners`. */
  id: number
  /** Three words out of a hash of its key. */
  seed: readonly [number, number, number]
  weight: number
  bucket: number
}

const TWO_32 = 2 ** 32
const TWO_20 = 2 ** 20
const TWO_52 = 2 ** 52
/** Odd multipliers of a 32-bit mixer with little bias (C. Wellons, "lowbias32"), and of Fibonacci hashing. */
const MIX_1 = 0x7feb352d
const MIX_2 = 0x846ca68b
const SPREAD = 0x9e3779b1

export class Race {
  readonly #ids: Int32Array
  readonly #seeds: Int32Array
  readonly #buckets: Int32Array
  readonly #meanTimes: Float64Array
  readonly #leastTimes: Float64Array
  // The best so far, earliest first.
  readonly #times: number[] = []
  readonly #best: number[] = []

  /** Those that arrive together win in the order given, which must be the same everywhere. */
  constructor(entrants: readonly Entrant[]) {
    this.#ids = Int32Array.from(entrants, (e) => e.id)
    this.#seeds = Int32Array.from(entrants.flatMap((e) => [...e.seed]))
    this.#buckets = Int32Array.from(entrants, (e) => e.bucket)
    this.#meanTimes = Float64Array.from(entrants, (e) => 1 / e.weight)
    this.#leastTimes = this.#meanTimes.map((t) => t / TWO_32)
  }

  /** Ids of the first `count`, at least 1, for the group: one of each bucket, earliest first; fewer when there are fewer buckets. Good until the next call. */
  winners(group: number, count: number): number[] {
    const times = this.#times
    const best = this.#best
    times.length = best.length = 0
    let limit = Infinity
    const spread = Math.imul(group + 1, SPREAD)
    const n = this.#ids.length
    for (let i = 0; i < n; i++) {
      const high = mix(this.#seeds[3 * i]! ^ spread, this.#seeds[3 * i + 1]!)
      // -ln(1 - v) >= v: of many entrants nearly all are done with here, without a logarithm.
      if (high * this.#leastTimes[i]! >= limit) continue
      const low = mix(this.#seeds[3 * i + 2]! ^ spread, high) >>> 12
      const time = exponential((high * TWO_20 + low + 0.5) / TWO_52) * this.#meanTimes[i]!
      if (time >= limit) continue
      this.#take(i, time, count)
      if (best.length === count) limit = times[count - 1]!
    }
    for (let b = 0; b < best.length; b++) best[b] = this.#ids[best[b]!]!
    return best
  }

  #take(i: number, time: number, count: number): void {
    const times = this.#times
    const best = this.#best
    const bucket = this.#buckets[i]!
    // Where something is to go: the bucket's former best, or the last, or nothing yet.
    let gap = 0
    while (gap < best.length && this.#buckets[best[gap]!] !== bucket) gap++
    if (gap < best.length && times[gap]! <= time) return
    if (gap === count) gap--
    for (; gap > 0 && times[gap - 1]! > time; gap--) {
      times[gap] = times[gap - 1]!
      best[gap] = best[gap - 1]!
    }
    times[gap] = time
    best[gap] = i
  }
}

/** 32 bits of both, from 0. The second word comes in on the way, so that two entrants are alike only if all their words are. */
function mix(a: number, b: number): number {
  let x = Math.imul(a ^ (a >>> 16), MIX_1) + b | 0
  x = Math.imul(x ^ (x >>> 15), MIX_2)
  x = Math.imul(x ^ (x >>> 16), MIX_1)
  return (x ^ (x >>> 15)) >>> 0
}
