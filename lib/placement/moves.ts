/** What a change of the devices, or of the replication factor, moves. */
import { PLACEMENT_GROUPS } from '../limits.js'
import type { PlacedDevice, Placement } from './placement.js'

export interface GroupMove {
  group: number
  /** Those that are to hold the group now and were not; indices into the devices of `after`. */
  gains: number[]
  /** Those that need not hold it any more; indices into the devices of `before`. */
  losses: number[]
}

/** Every group whose holders are not the same, in ascending order. Computes all groups of both. */
export function* moves<T extends PlacedDevice>(before: Placement<T>, after: Placement<T>): Generator<GroupMove> {
  const indices = new Map(before.devices.map((d, i) => [d.key.toString('latin1'), i]))
  const formerly = after.devices.map((d) => indices.get(d.key.toString('latin1')))
  for (let group = 0; group < PLACEMENT_GROUPS; group++) {
    const old = new Set(before.holders(group))
    const gains: number[] = []
    for (const holder of after.holders(group)) {
      const same = formerly[holder]
      if (same === undefined || !old.delete(same)) gains.push(holder)
    }
    if (gains.length > 0 || old.size > 0) yield { group, gains, losses: [...old] }
  }
}

/** The least that has to be copied for the shares of `after`, in copies of everything: what devices gain. */
export function leastMoved(before: Placement, after: Placement): number {
  const shares = new Map(before.devices.map((d, i) => [d.key.toString('latin1'), before.shares[i]!]))
  let gained = 0
  after.devices.forEach((d, i) => { gained += Math.max(0, after.shares[i]! - (shares.get(d.key.toString('latin1')) ?? 0)) })
  return gained
}
