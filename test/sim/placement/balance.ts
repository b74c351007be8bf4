/** What devices hold against the capped ideal. */
import { PLACEMENT_GROUPS } from '../../../lib/limits.js'
import { Placement } from '../../../lib/placement/placement.js'
import { Race } from '../../../lib/placement/race.js'
import { Fleet, loads, type SimDevice } from './fleet.js'

export interface Balance {
  devices: number
  copies: number
  /** Of held / ideal over the devices. */
  deviation: number
  least: number
  p01: number
  p99: number
  most: number
  /** The same largest value, were capacities the weights of the race. */
  mostUnfitted: number
  /** Milliseconds for the weights, and for all groups. */
  weightsMs: number
  groupsMs: number
}

export function balance(count: number, copies: number, chunks: Uint32Array, random: () => number): Balance {
  const devices = new Fleet(random).devices(count)
  const started = performance.now()
  const placement = new Placement(devices, copies)
  const weighted = performance.now()
  for (let g = 0; g < PLACEMENT_GROUPS; g++) placement.holders(g)
  const done = performance.now()
  const total = chunks.reduce((a, b) => a + b, 0)
  const ideal = (i: number) => placement.shares[i]! * total
  const ratios = [...loads(placement, chunks)].map((n, i) => n / ideal(i)).sort((a, b) => a - b)
  const at = (part: number) => ratios[Math.min(ratios.length - 1, Math.floor(part * ratios.length))]!
  const plain = unfitted(placement.devices, copies, chunks).map((n, i) => n / ideal(i))
  return {
    devices: count, copies, deviation: Math.sqrt(ratios.reduce((sum, r) => sum + (r - 1) ** 2, 0) / count),
    least: ratios[0]!, p01: at(0.01), p99: at(0.99), most: ratios.at(-1)!, mostUnfitted: Math.max(...plain), weightsMs: weighted - started, groupsMs: done - weighted,
  }
}

function unfitted(devices: readonly SimDevice[], copies: number, chunks: Uint32Array): number[] {
  const race = new Race(devices.map((d, i) => ({ id: i, seed: [d.key.readInt32LE(0), d.key.readInt32LE(4), d.key.readInt32LE(8)], weight: d.capacityBytes, bucket: i })))
  const held = devices.map(() => 0)
  for (let g = 0; g < PLACEMENT_GROUPS; g++) for (const winner of race.winners(g, copies)) held[winner]! += chunks[g]!
  return held
}
