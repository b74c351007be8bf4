/** How many chunks are in each placement group. */
import { PLACEMENT_GROUPS } from '../../../lib/limits.js'

/**
 * `total` chunks whose ids are uniform, drawn exactly: a multinomial with 65,536 equal cells. Each bit of
 * an id halves its set, and the size of a half is the count of ones among as many random bits.
 */
export function chunksPerGroup(total: number, random: () => number): Uint32Array {
  let counts = Uint32Array.of(total)
  while (counts.length < PLACEMENT_GROUPS) {
    const halves = new Uint32Array(counts.length * 2)
    counts.forEach((n, i) => {
      const ones = heads(n, random)
      halves[2 * i] = n - ones
      halves[2 * i + 1] = ones
    })
    counts = halves
  }
  return counts
}

/** Of `n` fair coins. */
function heads(n: number, random: () => number): number {
  let ones = 0
  for (; n >= 32; n -= 32) ones += bits(random() * 2 ** 32)
  return n === 0 ? ones : ones + bits((random() * 2 ** 32) >>> (32 - n))
}

function bits(word: number): number {
  let x = word | 0
  x -= (x >>> 1) & 0x55555555
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333)
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}
