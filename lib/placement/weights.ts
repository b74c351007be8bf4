/**
 * Weights for a race of exponential clocks that give each entrant the chance to
 * be among the first that its share says.
 *
 * Entrant i arrives at T_i ~ Exp(w_i). With one winner, P(i wins) = w_i / sum: the
 * share is the weight. With more it is not: the large ones, once they have won, leave
 * the rest to the others. The exact chance is
 *
 *     F_i = integral of w_i e^(-w_i t) P(fewer than `count` others arrive before t) dt
 *
 * in which the number of arrivals is a sum of independent trials, counted by
 * polynomials cut off at `count`. Were the last winner always to arrive at time 1, F_i would be
 * 1 - e^(-w_i), so weights are compared and corrected on that scale; mostly four to ten
 * corrections are enough.
 *
 * Weights are a function of the shares alone and of no former weights, so that all devices have
 * the same, and of the shares continuously, so that small changes move little.
 */
import { decay, exponential } from './exponential.js'

/** Relative error of F_i at which the fit ends: far below what 2^16 groups can show. */
const TOLERANCE = 1e-7
const MAX_CORRECTIONS = 100
/** The step in y for t = exp(y - exp(-y)), which goes to 0 and to infinity as fast as the integrand allows (Takahasi and Mori 1974). */
const STEP = 0.2
const MIN_Y = -3.2
const NODES = 37
const TIMES = new Float64Array(NODES)
const SPANS = new Float64Array(NODES)
for (let n = 0; n < NODES; n++) {
  const y = MIN_Y + n * STEP
  const inverse = exp(-y)
  TIMES[n] = exp(y - inverse)
  SPANS[n] = STEP * TIMES[n]! * (1 + inverse)
}
/** Closest that a computed chance comes to certainty. */
const ALMOST = 1 - 1e-12

/**
 * `shares`: each above 0 and below 1; together `count` + `extra`. `extra`, from 0 to below 1: the chance that there is one winner more.
 * Gives a weight above 0 for each.
 */
export function fitWeights(shares: Float64Array, count: number, extra: number): Float64Array {
  // One winner at most: the weight is the share, exactly.
  if (count + extra <= 1) return shares
  const wanted = shares.map(exponential)
  const weights = wanted.slice()
  for (let round = 0; round < MAX_CORRECTIONS; round++) {
    const chances = inclusion(weights, count, extra)
    let error = 0
    for (let i = 0; i < shares.length; i++) {
      error = Math.max(error, Math.abs(chances[i]! / shares[i]! - 1))
      weights[i]! *= wanted[i]! / exponential(Math.min(chances[i]!, ALMOST))
    }
    if (error < TOLERANCE) break
  }
  return weights
}

/** F of each weight, for `count` winners and, with the chance `extra`, one more. Weights are on the scale on which the last wins at about 1. */
export function inclusion(weights: Float64Array, count: number, extra: number): Float64Array {
  const n = weights.length
  const width = count + (extra > 0 ? 1 : 0)
  const chances = new Float64Array(n)
  const survival = new Float64Array(n)
  // Row i: chances of 0, 1, ... arrivals among the first i.
  const before = new Float64Array((n + 1) * width)
  const after = new Float64Array(width)
  for (let node = 0; node < NODES; node++) {
    before[0] = 1
    for (let i = 0; i < n; i++) {
      const stays = decay(weights[i]! * TIMES[node]!)
      survival[i] = stays
      const from = i * width
      const to = from + width
      before[to] = before[from]! * stays
      for (let a = 1; a < width; a++) before[to + a] = before[from + a]! * stays + before[from + a - 1]! * (1 - stays)
    }
    after.fill(0)
    after[0] = 1
    for (let i = n - 1; i >= 0; i--) {
      const stays = survival[i]!
      const row = i * width
      // At most count - 1 others, and the part of those with exactly `count`.
      let few = 0
      let atMost = 0
      for (let a = 0; a < count; a++) {
        atMost += after[a]!
        few += before[row + count - 1 - a]! * atMost
      }
      if (extra > 0) {
        let exactly = 0
        for (let a = 0; a <= count; a++) exactly += after[a]! * before[row + count - a]!
        few += extra * exactly
      }
      chances[i]! += SPANS[node]! * weights[i]! * stays * few
      for (let a = width - 1; a > 0; a--) after[a] = after[a]! * stays + after[a - 1]! * (1 - stays)
      after[0]! *= stays
    }
  }
  return chances
}

function exp(x: number): number { return x > 0 ? 1 / decay(x) : decay(-x) }
