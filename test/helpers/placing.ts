/** Devices for placement, by number: the same key for the same number. */
import blake from '@napi-rs/blake-hash'
import { Placement, type PlacedDevice } from '../../lib/placement/placement.js'
import { leastMoved, moves } from '../../lib/placement/moves.js'
import { PLACEMENT_GROUPS } from '../../lib/limits.js'

export const GB = 1e9

export function placed(number: number, capacityBytes: number, zone = '', isDrained = false): PlacedDevice {
  return { key: blake.blake3(`device ${number}`), capacityBytes, zone, isDrained }
}

/** Of each device, the groups that it holds, as a part of all. */
export function held(placement: Placement): number[] {
  const counts = placement.devices.map(() => 0)
  for (let g = 0; g < PLACEMENT_GROUPS; g++) for (const holder of placement.holders(g)) counts[holder]!++
  return counts.map((n) => n / PLACEMENT_GROUPS)
}

/** What a change moves, and the least that it must, in copies of everything. */
export function movement(before: Placement, after: Placement): { moved: number; least: number } {
  let gains = 0
  for (const move of moves(before, after)) gains += move.gains.length
  return { moved: gains / PLACEMENT_GROUPS, least: leastMoved(before, after) }
}
