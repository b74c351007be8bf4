/**
 * What single changes move, against the least that they must. When a device comes, goes or grows no share of another changes in the same
 * direction as its own, so what it gains or loses itself is the least; counted, not computed from its share, for in large drives chance decides on that more than anything.
 */
import { PLACEMENT_GROUPS } from '../../../lib/limits.js'
import { leastMoved, moves } from '../../../lib/placement/moves.js'
import { Placement } from '../../../lib/placement/placement.js'
import { Fleet, type SimDevice } from './fleet.js'

export const CHANGES = ['add', 'remove', 'double', 'zone', 'copies'] as const
export type Change = typeof CHANGES[number]

export interface Movement {
  devices: number
  copies: number
  change: Change
  trials: number
  /** Over all trials, in copies of everything. */
  moved: number
  least: number
  /** The largest moved / least, and moved - least, of one trial. */
  worst: number
  mostExcess: number
}

/** `trials` fleets of `count`, each changed in each way. */
export function changes(count: number, copies: number, trials: number, random: () => number): Movement[] {
  const results = CHANGES.map((change): Movement => ({ devices: count, copies, change, trials, moved: 0, least: 0, worst: 1, mostExcess: 0 }))
  for (let trial = 0; trial < trials; trial++) {
    const fleet = new Fleet(random)
    // Keys are another fleet's in every trial.
    for (let i = Math.floor(random() * 1000); i > 0; i--) fleet.device()
    const devices = fleet.devices(count)
    const before = new Placement(devices, copies)
    const [first, ...rest] = devices as [SimDevice, ...SimDevice[]]
    for (const result of results) {
      const after = (): Placement<SimDevice> => {
        switch (result.change) {
          case 'add': return new Placement([...devices, fleet.device()], copies)
          case 'remove': return new Placement(rest, copies)
          case 'double': return new Placement([...rest, { ...first, capacityBytes: first.capacityBytes * 2 }], copies)
          // Two that were zones of their own turn out to stand together.
          case 'zone': return new Placement(devices.map((d, i) => i < 2 ? { ...d, zone: 'house' } : d), copies)
          case 'copies': return new Placement(devices, copies + 1)
        }
      }
      const next = after()
      let moved = 0
      let own = 0
      const changed = result.change === 'add' ? next.devices.findIndex((d) => !devices.includes(d)) : (result.change === 'remove' ? before : next).devices.findIndex((d) => d.uid === first.uid)
      for (const { gains, losses } of moves(before, next)) {
        moved += gains.length / PLACEMENT_GROUPS
        if ((result.change === 'remove' ? losses : gains).includes(changed)) own += 1 / PLACEMENT_GROUPS
      }
      const least = result.change === 'zone' ? leastTogether(before, next, devices[0]!, devices[1]!) : result.change === 'copies' ? leastMoved(before, next) : own
      result.moved += moved
      result.least += least
      if (least > 0) result.worst = Math.max(result.worst, moved / least)
      result.mostExcess = Math.max(result.mostExcess, moved - least)
    }
  }
  return results
}

/**
 * The least that must move when two may not hold the same groups any more: in each that both hold another has to take the place of one, and
 * these two gain elsewhere what they lose there and their shares ask for.
 */
function leastTogether(before: Placement<SimDevice>, after: Placement<SimDevice>, a: SimDevice, b: SimDevice): number {
  const [i, j] = [before.devices.indexOf(a), before.devices.indexOf(b)]
  let both = 0
  for (let g = 0; g < PLACEMENT_GROUPS; g++) {
    const holders = before.holders(g)
    if (holders.includes(i) && holders.includes(j)) both++
  }
  const share = (p: Placement<SimDevice>) => p.devices.reduce((sum, d, n) => d.uid === a.uid || d.uid === b.uid ? sum + p.shares[n]! : sum, 0)
  return both / PLACEMENT_GROUPS + Math.max(0, both / PLACEMENT_GROUPS + share(after) - share(before))
}
