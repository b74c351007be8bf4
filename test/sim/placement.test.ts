import test from 'brittle'
import { PLACEMENT_GROUPS } from '../../lib/limits.js'
import { balance } from './placement/balance.js'
import { changes } from './placement/changes.js'
import { chunksPerGroup } from './placement/chunks.js'
import { Churn, type Model } from './placement/churn.js'
import { Fleet } from './placement/fleet.js'
import { seeded } from './network.js'

const TOTAL = 10_000_000
const MODEL: Model = { copies: 2, failures: 0.1, planned: 0, zoneFailures: 0, graceHours: 24, replaceHours: 168, bytesPerHour: 3.6e10, chunkBytes: 131_072, knowsZones: true }

function live(model: Partial<Model>, devices: number, perZone: number, failures: number, seed = 1) {
  const random = seeded(seed)
  const fleet = new Fleet(random)
  return new Churn({ ...MODEL, ...model }, fleet.devices(devices, perZone), fleet, chunksPerGroup(TOTAL, random), random).run(failures)
}

test('chunks fall on groups as their ids would', (t) => {
  const counts = chunksPerGroup(TOTAL, seeded(3))
  const mean = TOTAL / PLACEMENT_GROUPS
  t.is(counts.reduce((a, b) => a + b, 0), TOTAL)
  const variance = counts.reduce((sum, n) => sum + (n - mean) ** 2, 0) / PLACEMENT_GROUPS
  t.ok(Math.abs(variance / mean - 1) < 0.03, `variance / mean ${variance / mean}`)
})

test('a seed replays exactly', (t) => {
  const [first, again, another] = [1, 1, 2].map((seed) => live({ planned: 0.1 }, 6, 0, 2, seed))
  t.alike(again, first)
  t.unlike(another, first)
})

test('a failure is repaired after the grace period; what moves is near what must', (t) => {
  const o = live({ planned: 0.1 }, 10, 0, 2)
  t.ok(o.meanRepairHours > 24 && o.longestRepairHours < 48, `${o.meanRepairHours} h, ${o.longestRepairHours} h`)
  t.ok(o.moved > o.least * 0.98 && o.moved < o.least * 1.2, `moved ${o.moved}, least ${o.least}`)
  t.ok(o.underReplicated > 0 && o.underReplicated < 0.01)
  t.is(o.lostChunks, 0)
})

test('where devices fail faster than they are repaired, chunks are lost, in the order of what is expected, and fewer with three copies', (t) => {
  const two = live({ failures: 4 }, 8, 0, 10)
  const ratio = two.lostChunks / two.years / two.expectedLostChunks
  t.ok(ratio > 0.25 && ratio < 4, `${ratio} of what is expected`)
  const three = live({ failures: 4, copies: 3 }, 8, 0, 3)
  t.ok(three.expectedLostChunks < two.expectedLostChunks / 5)
})

test('a zone that burns down takes no chunk with it, if the placement knows it', (t) => {
  const fire = { failures: 0, zoneFailures: 0.1 }
  t.is(live(fire, 12, 4, 1).lostChunks, 0)
  t.ok(live({ ...fire, knowsZones: false }, 12, 4, 1).lostChunks > 0)
})

test('balance and movement of the real placement', (t) => {
  const chunks = chunksPerGroup(TOTAL, seeded(4))
  const even = balance(30, 3, chunks, seeded(5))
  t.ok(even.most < 1.06 && even.least > 0.94 && even.mostUnfitted > even.most, JSON.stringify(even))
  for (const m of changes(12, 3, 2, seeded(6))) t.ok(m.moved > m.least * 0.97 && m.moved < m.least * 1.2, JSON.stringify(m))
})
