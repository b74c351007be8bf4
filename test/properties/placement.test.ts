import test from 'brittle'
import fc from 'fast-check'
import { Placement, type PlacedDevice } from '../../lib/placement/placement.js'
import { cappedShares } from '../../lib/placement/shares.js'
import { fitWeights, inclusion } from '../../lib/placement/weights.js'
import { PLACEMENT_GROUPS } from '../../lib/limits.js'
import { GB, held, movement, placed } from '../helpers/placing.js'

/** Groups that are looked at where all would take too long. */
const SOME = 500

/** From a byte to what no disk has, with zones that are shared, and some that take no part. */
const capacity = fc.oneof({ weight: 6, arbitrary: fc.integer({ min: 1, max: 64 }).map((n) => n * 250 * GB) }, { weight: 1, arbitrary: fc.constantFrom(0, 1, 2 ** 53 - 1) })
const devices = fc.array(fc.record({
  number: fc.nat(1_000_000), capacity, zone: fc.constantFrom('', '', 'a', 'b', 'c', 'd'), isDrained: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
}), { maxLength: 14 }).map((all) => [...new Map(all.map((d) => [d.number, placed(d.number, d.capacity, d.zone, d.isDrained)])).values()])
const copies = fc.integer({ min: 1, max: 6 })
/** As they are at home: all take part, sizes differ by up to 16. */
const ordinary = fc.array(fc.record({ number: fc.nat(1_000_000), capacity: fc.constantFrom(250, 500, 1000, 2000, 4000).map((gb) => gb * GB) }), { minLength: 4, maxLength: 12 })
  .map((all) => [...new Map(all.map((d) => [d.number, placed(d.number, d.capacity)])).values()]).filter((all) => all.length >= 4)

const takesPart = (d: PlacedDevice) => d.capacityBytes > 0 && !d.isDrained
const zonesOf = (all: PlacedDevice[]) => new Set(all.map((d) => d.zone === '' ? d.key.toString('hex') : `zone ${d.zone}`)).size

test('holders are different, take part, are as many as there can be, and in as many zones as there can be', (t) => {
  fc.assert(fc.property(devices, copies, (all, wanted) => {
    const placement = new Placement(all, wanted)
    const partakers = all.filter(takesPart)
    const expected = Math.min(wanted, partakers.length)
    const zones = Math.min(expected, zonesOf(partakers))
    for (let g = 0; g < SOME; g++) {
      const holders = placement.holders(g).map((i) => placement.devices[i]!)
      if (holders.length !== expected || new Set(holders).size !== expected || !holders.every(takesPart) || zonesOf(holders) !== zones) return false
    }
    return placement.copies === expected && placement.isMet === (expected === wanted)
  }), { numRuns: 300 })
  t.pass()
})

test('the order in which devices are given says nothing', (t) => {
  fc.assert(fc.property(devices, copies, fc.infiniteStream(fc.nat()), (all, wanted, keys) => {
    const shuffled = all.map((d) => [keys.next().value as number, d] as const).sort((a, b) => a[0] - b[0]).map(([, d]) => d)
    const one = new Placement(all, wanted)
    const other = new Placement(shuffled, wanted)
    for (let g = 0; g < SOME; g++) if (one.holders(g).join() !== other.holders(g).join()) return false
    return one.shares.every((share, i) => share === other.shares[i])
  }), { numRuns: 200 })
  t.pass()
})

test('groups asked for in any order have the same holders', (t) => {
  const all = [1, 2, 3, 4, 5, 6].map((n) => placed(n, n * GB, n < 4 ? 'a' : ''))
  const one = new Placement(all, 3)
  const other = new Placement(all, 3)
  const forwards = Array.from({ length: 2000 }, (_, g) => one.holders(g).join())
  t.alike(Array.from({ length: 2000 }, (_, g) => other.holders(1999 - g).join()).reverse(), forwards)
})

test('shares are the capped ideal: at most 1, together the copies, and by capacity among those that nothing holds back', (t) => {
  fc.assert(fc.property(devices, copies, (all, wanted) => {
    const placement = new Placement(all, wanted)
    const sum = placement.shares.reduce((a, b) => a + b, 0)
    if (Math.abs(sum - placement.copies) > 1e-9 || placement.shares.some((s, i) => s < 0 || s > 1 || (s > 0) !== takesPart(placement.devices[i]!))) return false
    if (placement.zones < placement.copies) return true
    const zones = new Map<string, { capacity: number; share: number }>()
    placement.devices.forEach((d, i) => {
      if (!takesPart(d)) return
      const name = d.zone === '' ? d.key.toString('hex') : `zone ${d.zone}`
      const zone = zones.get(name) ?? { capacity: 0, share: 0 }
      zones.set(name, { capacity: zone.capacity + d.capacityBytes, share: zone.share + placement.shares[i]! })
    })
    const free = [...zones.values()].filter((z) => z.share < 1 - 1e-6).map((z) => z.share / z.capacity)
    const capped = [...zones.values()].filter((z) => z.share > 1 + 1e-9)
    return capped.length === 0 && (free.length === 0 || Math.max(...free) / Math.min(...free) < 1 + 1e-9)
  }), { numRuns: 500 })
  t.pass()
})

test('what devices hold is their share, as far as 65,536 draws show it', (t) => {
  fc.assert(fc.property(devices, copies, (all, wanted) => {
    const placement = new Placement(all, wanted)
    return held(placement).every((part, i) => {
      const share = placement.shares[i]!
      return Math.abs(part - share) <= 6 * Math.sqrt(share * (1 - share) / PLACEMENT_GROUPS) + 5 / PLACEMENT_GROUPS
    })
  }), { numRuns: 30 })
  t.pass()
})

test('fitted weights give the shares, however uneven', (t) => {
  const capacities = fc.array(fc.oneof(fc.double({ min: 1, max: 20, noNaN: true }), fc.double({ min: 1e-6, max: 1e6, noNaN: true })), { minLength: 3, maxLength: 60 })
  let fitted = 0
  fc.assert(fc.property(capacities, fc.integer({ min: 2, max: 12 }), (all, wanted) => {
    if (wanted >= all.length) return true
    const shares = cappedShares(all.map((c) => [c]), wanted).zones
    const open = shares.filter((s) => s < 1)
    const winners = wanted - (all.length - open.length)
    if (winners < 2) return true
    fitted++
    const chances = inclusion(fitWeights(open, winners, 0), winners, 0)
    return open.every((s, i) => Math.abs(chances[i]! / s - 1) < 1e-5)
  }), { numRuns: 500 })
  t.ok(fitted > 50, `${fitted} of 500 had something to fit`)
})

test('a device that comes, goes, is drained or grows moves little more than it must', (t) => {
  const total = { moved: 0, least: 0 }
  fc.assert(fc.property(ordinary, fc.integer({ min: 2, max: 3 }), fc.nat(1000), (all, wanted, which) => {
    const before = new Placement(all, wanted)
    const victim = all[which % all.length]!
    const rest = all.filter((d) => d !== victim)
    const without = new Placement(rest, wanted)
    const drained = new Placement([...rest, { ...victim, isDrained: true }], wanted)
    const grown = new Placement([...rest, { ...victim, capacityBytes: victim.capacityBytes * 2 }], wanted)
    if (movement(without, drained).moved !== 0) return false
    for (const { moved, least } of [movement(without, before), movement(before, without), movement(before, grown)]) {
      total.moved += moved
      total.least += least
      if (moved < least - 0.02 || moved > least * 1.2 + 0.06) return false
    }
    return true
  }), { numRuns: 12 })
  t.ok(total.moved < total.least * 1.2, `moved ${(total.moved / total.least).toFixed(3)} of what must`)
})
