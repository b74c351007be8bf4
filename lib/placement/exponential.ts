/**
 * Logarithm and exponential by + - * / alone. IEEE 754 says the result of each
 * of those to the last bit; of Math.log and Math.exp the language says nothing,
 * and engines differ. All devices must come to the same placement, whatever
 * they run on.
 */

const LN2 = 0.6931471805599453
const SQRT_HALF = 0.7071067811865476
/** Below this 1 - v is above SQRT_HALF. */
const NEAR_ZERO = 1 - SQRT_HALF
/** 1/3, 1/5, ...: with an argument of at most 0.172 the terms after these are below a double's precision. */
const ATANH = Float64Array.from({ length: 10 }, (_, i) => 1 / (2 * i + 3))
/** 1/n! for n up to 14, for arguments of at most ln(2) / 2. */
const EXP = new Float64Array(15)
EXP[0] = 1
for (let n = 1; n < EXP.length; n++) EXP[n] = EXP[n - 1]! / n
/** 2^-n, to where it is zero. */
const HALVES = new Float64Array(1076)
HALVES[0] = 1
for (let n = 1; n < HALVES.length; n++) HALVES[n] = HALVES[n - 1]! / 2

/** -ln(1 - v) for 0 <= v < 1: an exponential variate of mean 1 out of a uniform one, precise also where it is small. */
export function exponential(v: number): number {
  if (v < NEAR_ZERO) return twiceAtanh(v / (2 - v))
  let u = 1 - v
  let doublings = 0
  for (; u < SQRT_HALF; u *= 2) doublings++
  return doublings * LN2 + twiceAtanh((1 - u) / (1 + u))
}

/** e^-x for x >= 0. */
export function decay(x: number): number {
  const halvings = Math.floor(x / LN2 + 0.5)
  if (halvings >= HALVES.length) return 0
  const rest = halvings * LN2 - x
  let sum = 0
  for (let n = EXP.length - 1; n >= 0; n--) sum = sum * rest + EXP[n]!
  return sum * HALVES[halvings]!
}

function twiceAtanh(s: number): number {
  const square = s * s
  let sum = 0
  for (let i = ATANH.length - 1; i >= 0; i--) sum = (sum + ATANH[i]!) * square
  return 2 * s * (1 + sum)
}
