/**
 * The capped ideal: how much of everything each device is to hold. A share of 1
 * is one copy of everything, which is the most that a device can have; all
 * shares together are the number of copies.
 *
 * With at least as many zones as copies no two copies share a zone, so a zone's
 * share is at most 1 as well. With fewer, each zone has at least one copy, and
 * capacity decides on the others.
 */

export interface Shares {
  /** Whether copies have to share zones. */
  isCrowded: boolean
  /** Of each zone: the expected number of copies of a chunk in it. */
  zones: Float64Array
  /** Of each zone's devices, in the order given. */
  devices: Float64Array[]
}

/** Halvings of an interval between two doubles until nothing is left of it, 2^-53 to 2^53 included. */
const BISECTIONS = 200

/** `zones`: capacities above 0 of the devices of each zone. `copies`: at most as many as devices. */
export function cappedShares(zones: readonly (readonly number[])[], copies: number): Shares {
  return copies <= zones.length ? apart(zones, copies) : crowded(zones, copies)
}

function apart(zones: readonly (readonly number[])[], copies: number): Shares {
  const totals = zones.map(sum)
  const shares = new Float64Array(zones.length)
  // Largest first: each that is too large for its part of what is left is capped, and leaves the others less.
  const order = [...totals.keys()].sort((a, b) => totals[b]! - totals[a]! || a - b)
  // Sums of what follows, from the smallest on: subtracting would leave rounding errors of the large in the small.
  const following = new Float64Array(order.length + 1)
  for (let i = order.length - 1; i >= 0; i--) following[i] = following[i + 1]! + totals[order[i]!]!
  let capped = 0
  // Without itself on the other side: beside one of 2^53 bytes a device of one would not be seen.
  while (capped < copies && totals[order[capped]!]! * (copies - capped - 1) >= following[capped + 1]!) shares[order[capped++]!] = 1
  for (let i = capped; i < order.length; i++) shares[order[i]!] = totals[order[i]!]! * (copies - capped) / following[capped]!
  return { isCrowded: false, zones: shares, devices: zones.map((devices, z) => Float64Array.from(devices, (c) => shares[z]! * (c / totals[z]!))) }
}

function crowded(zones: readonly (readonly number[])[], copies: number): Shares {
  const at = (scale: number): Shares => {
    const devices = zones.map((capacities) => {
      const free = Float64Array.from(capacities, (c) => Math.min(1, c * scale))
      if (sum(free) >= 1) return free
      const total = sum(capacities)
      return Float64Array.from(capacities, (c) => c / total)
    })
    return { isCrowded: true, zones: Float64Array.from(devices, (d) => Math.max(1, sum(d))), devices }
  }
  let low = 0
  let high = 0
  for (const capacities of zones) for (const c of capacities) high = Math.max(high, 1 / c)
  for (let i = 0; i < BISECTIONS; i++) {
    const middle = (low + high) / 2
    if (sum(at(middle).zones) < copies) low = middle
    else high = middle
  }
  return at(high)
}

function sum(numbers: Iterable<number>): number {
  let total = 0
  for (const n of numbers) total += n
  return total
}
