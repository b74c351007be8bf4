import test from 'brittle'
import blake from '@napi-rs/blake-hash'
import { Placement, groupOf } from '../../lib/placement/placement.js'
import { moves } from '../../lib/placement/moves.js'
import { decay, exponential } from '../../lib/placement/exponential.js'
import { fitWeights, inclusion } from '../../lib/placement/weights.js'
import { MAX_COPIES, PLACEMENT_GROUPS } from '../../lib/limits.js'
import { GB, held, movement, placed } from '../helpers/placing.js'

const MIXED = [4000, 2000, 1000, 500, 500].map((gb, i) => placed(i, gb * GB))

test('bytes on five devices of mixed capacities are within 10 % of the capped ideal, with 100,000 chunks', (t) => {
  for (const [copies, ideal] of [[2, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 8]], [3, [1, 1, 1 / 2, 1 / 4, 1 / 4]]] as const) {
    const placement = new Placement(MIXED, copies)
    const bytes = new Map(MIXED.map((d) => [d.key.toString('hex'), 0]))
    let total = 0
    for (let i = 0; i < 100_000; i++) {
      const id = blake.blake3(`chunk ${i}`)
      const length = 4096 + id.readUInt32LE(8) % 500_000
      total += length
      for (const d of placement.holdersOf(id)) bytes.set(d.key.toString('hex'), bytes.get(d.key.toString('hex'))! + length)
    }
    MIXED.forEach((d, i) => {
      const part = bytes.get(d.key.toString('hex'))! / total
      t.ok(Math.abs(part / ideal[i]! - 1) < 0.1, `${copies} copies, ${d.capacityBytes / GB} GB: ${part.toFixed(4)}, ideal ${ideal[i]}`)
    })
  }
})

test('weights that are just the capacities would not do', (t) => {
  // Three copies on 2, 1, 1, 1, 1: 1/2 is the ideal of the small ones and 1 of the large one, which a race by capacity leaves out at times.
  const shares = Float64Array.of(0.9, 0.6, 0.5)
  const plain = inclusion(shares, 2, 0)
  t.ok(plain[0]! < 0.83, `${plain[0]} in place of 0.9`)
  const fitted = inclusion(fitWeights(shares, 2, 0), 2, 0)
  shares.forEach((share, i) => t.ok(Math.abs(fitted[i]! - share) < 1e-6))
})

test('chances to be among the first are those that counting all orders gives', (t) => {
  const weights = Float64Array.of(3, 1.5, 1, 0.4, 0.05)
  for (const [count, extra] of [[1, 0], [2, 0], [2, 0.3], [3, 0], [3, 0.9], [4, 0]] as const) {
    const computed = inclusion(weights, count, extra)
    const few = orders(weights, count)
    const more = extra > 0 ? orders(weights, count + 1) : few
    weights.forEach((_, i) => {
      const exact = (1 - extra) * few[i]! + extra * more[i]!
      t.ok(Math.abs(computed[i]! / exact - 1) < 1e-6, `${count} + ${extra}, weight ${weights[i]}: ${computed[i]}, exactly ${exact}`)
    })
  }
})

test('logarithm and exponential are precise', (t) => {
  let worst = 0
  for (let i = 1; i < 20_000; i++) {
    const v = i / 20_000
    worst = Math.max(worst, Math.abs(exponential(v) / -Math.log1p(-v) - 1), Math.abs(exponential(v * 1e-9) / -Math.log1p(-v * 1e-9) - 1), Math.abs(decay(60 * v) / Math.exp(-60 * v) - 1))
  }
  t.ok(worst < 2e-14, `error ${worst}`)
  t.alike([exponential(0), decay(0), decay(1e6)], [0, 1, 0])
})

test('the holders of these groups never change: other versions of dfs compute the same', (t) => {
  const digest = (p: Placement) => {
    const hash = new blake.Blake3Hasher()
    for (let g = 0; g < PLACEMENT_GROUPS; g++) hash.update(Buffer.from(Uint16Array.from(p.holders(g)).buffer))
    return hash.digestBuffer().toString('hex', 0, 16)
  }
  const alike = (zones: string) => [...zones].map((zone, i) => placed(10 + i, (3 + i % 3) * GB, zone))
  const found = [new Placement(MIXED, 2), new Placement(MIXED, 3), new Placement(alike('aabbccdd'), 3), new Placement(alike('aaabbb'), 4), new Placement(alike('aaaabb'), 3)].map(digest)
  t.alike(found, GOLDEN)
})

test('a group is the first 16 bits of a chunk id', (t) => {
  const id = Buffer.alloc(32)
  id[0] = 0x12
  id[1] = 0x34
  t.is(groupOf(id), 0x1234)
  t.exception(() => groupOf(Buffer.alloc(31)), /a chunk id has 32 bytes, not 31/)
})

test('with fewer devices than copies all hold everything, and it is said', (t) => {
  const placement = new Placement(MIXED.slice(0, 2), 3)
  t.alike([placement.isMet, placement.copies, placement.wanted], [false, 2, 3])
  t.alike(placement.holders(7), [0, 1])
  t.is(placement.usableBytes, 2000 * GB)
  const none = new Placement([], 2)
  t.alike([none.isMet, none.copies, none.holders(0), none.usableBytes], [false, 0, [], 0])
  t.alike(none.holdersOf(Buffer.alloc(32)), [])
})

test('a device of one byte beside the largest there can be has a share', (t) => {
  const placement = new Placement([placed(1, 2 ** 53 - 1, 'a'), placed(2, 1), placed(3, 250 * GB, 'a')], 1)
  t.ok(placement.shares.every((share) => share > 0 && share < 1), placement.shares.join(' '))
})

test('what is drained or has no capacity holds nothing', (t) => {
  const placement = new Placement([...MIXED.slice(0, 3), placed(8, 0), placed(9, 4000 * GB, '', true)], 3)
  t.alike(held(placement).filter((_, i) => placement.shares[i] === 0), [0, 0])
  t.ok(placement.isMet)
  t.absent(new Placement([...MIXED.slice(0, 2), placed(8, 0)], 3).isMet)
})

test('with fewer zones than copies each zone has one at least, and the rest goes by capacity', (t) => {
  const devices = [placed(0, 1000 * GB, 'attic'), placed(1, 1000 * GB, 'attic'), placed(2, 2000 * GB, 'office'), placed(3, 4000 * GB, 'office'), placed(4, 4000 * GB, 'office')]
  const placement = new Placement(devices, 4)
  t.is(placement.zones, 2)
  const zones = new Map<number, number>()
  for (let g = 0; g < PLACEMENT_GROUPS; g++) {
    const inAttic = placement.holders(g).filter((i) => placement.devices[i]!.zone === 'attic').length
    zones.set(inAttic, (zones.get(inAttic) ?? 0) + 1)
  }
  t.alike([...zones.keys()], [1], 'the attic has a sixth of what can be held, and a quarter of the copies')
  t.alike(held(placement).map((part) => Math.round(part * 100)).sort((a, b) => a - b), [50, 50, 100, 100, 100])
})

test('naming the zone of a device that stays alone in it moves nothing, nor does one name for all', (t) => {
  const before = new Placement(MIXED, 3)
  t.is(movement(before, new Placement(MIXED.map((d, i) => ({ ...d, zone: `room ${i}` })), 3)).moved, 0)
  t.is(movement(before, new Placement(MIXED.map((d) => ({ ...d, zone: 'house' })), 3)).moved, 0)
})

test('usable bytes are those after which the first device is full', (t) => {
  t.is(new Placement(MIXED, 2).usableBytes, 4000 * GB)
  t.is(new Placement(MIXED, 3).usableBytes, 2000 * GB, 'the first can hold one copy of everything only')
})

test('moves name who gains and who loses', (t) => {
  const before = new Placement(MIXED, 3)
  const drained = new Placement(MIXED.map((d, i) => ({ ...d, isDrained: i === 2 })), 3)
  const leaving = before.devices.findIndex((d) => d.capacityBytes === 1000 * GB)
  for (const move of moves(before, drained)) {
    t.ok(move.gains.every((i) => !before.holders(move.group).includes(i) && drained.holders(move.group).includes(i)) && move.losses.length === move.gains.length)
    if (move.group > 1000) break
  }
  t.ok(before.holders(0).includes(leaving) || [...moves(before, drained)].length > 0)
  t.alike([...moves(before, new Placement([...MIXED].reverse(), 3))], [])
})

test('bad input is refused with what is wrong', (t) => {
  const device = placed(1, GB)
  for (const copies of [0, -1, 1.5, NaN, Infinity, MAX_COPIES + 1]) t.exception(() => new Placement([device], copies), /the replication factor is a whole number from 1 to 16, not /)
  for (const capacityBytes of [-1, 0.5, NaN, Infinity, 2 ** 53]) t.exception(() => new Placement([{ ...device, capacityBytes }], 1), /the capacity of device [a-z0-9]{8} is a whole number of bytes/)
  t.exception(() => new Placement([{ ...device, zone: 'z'.repeat(65) }], 1), /the zone of device [a-z0-9]{8} is a name of at most 64 bytes/)
  t.exception(() => new Placement([{ ...device, zone: undefined as unknown as string }], 1), /the zone of device/)
  t.exception(() => new Placement([{ ...device, isDrained: undefined as unknown as boolean }], 1), /is either drained or not/)
  t.exception(() => new Placement([{ ...device, key: Buffer.alloc(31) }], 1), /the key of a device has 32 bytes/)
  t.exception(() => new Placement([device, device], 1), /device [a-z0-9]{8} is there twice/)
  for (const group of [-1, 0.5, PLACEMENT_GROUPS]) t.exception(() => new Placement([device], 1).holders(group), /a placement group is a whole number below 65536/)
})

/** Chance of each to be among the first `count` of successive draws by weight without replacement, by all orders. */
function orders(weights: Float64Array, count: number): number[] {
  const chances = [...weights].map(() => 0)
  const draw = (taken: number[], chance: number) => {
    if (taken.length === count) return taken.forEach((i) => { chances[i]! += chance })
    const left = weights.reduce((sum, w, i) => taken.includes(i) ? sum : sum + w, 0)
    weights.forEach((w, i) => { if (!taken.includes(i)) draw([...taken, i], chance * w / left) })
  }
  draw([], 1)
  return chances
}

const GOLDEN = [
  'f167054f321e90557ac68a64509424e4', '61bdcb37072a76d24d1eb73635ba8557', '4ff90f636dd8fc302f93802f3736e64b', 'eac068d45d808d2020a82cdefd01759e', '6e202986af17a84ad5975fa7023e9860',
]
