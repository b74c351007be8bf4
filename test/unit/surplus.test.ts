/** When a device that only stores lets go of what it need not hold by the plan. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { prepareJoin } from '../../lib/join.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import type { PlacedDevice } from '../../lib/placement/devices.js'
import { Plan } from '../../lib/placement/plan.js'
import { Surplus } from '../../lib/placement/surplus.js'
import { StoragePeer } from '../../lib/storage-peer.js'
import { scratchDir } from '../helpers/scratch.js'

const device = (key: Buffer, isDrained = false): PlacedDevice => ({ key, capacityBytes: 1e9, zone: '', isDrained })

async function storing(t: Assert) {
  const dir = scratchDir(t)
  await prepareJoin(dir, DriveKeys.create().capability('storage'))
  const s = await StoragePeer.open(dir)
  const self = s.device.publicKey
  const others = [randomBytes(32), randomBytes(32)]
  const parts = {
    plan: new Plan({ devices: [device(self, true), ...others.map((key) => device(key))], wanted: 2, self: self }) as Plan | null, isLaid: true, sinceMs: 0, compacted: 0,
    confirm: async (list: { id: Buffer }[]): Promise<boolean[]> => list.map(() => true), isThere: true,
  }
  const surplus = new Surplus({
    chunks: s.chunks, journal: s.journal, timers: s.timers, keeping: { get plan() { return parts.plan }, get isLaid() { return parts.isLaid }, moves: 0 },
    holders: () => (parts.isThere ? { confirm: (list) => parts.confirm(list) } : null), sinceMs: () => parts.sinceMs, graceMs: 60_000, compact: async () => { parts.compacted++ },
  })
  t.teardown(async () => {
    await surplus.close()
    await s.close()
  }, { force: true })
  const sealed = Array.from({ length: 300 }, () => randomBytes(1016))
  const ids = sealed.map(() => randomBytes(32))
  const places = await s.store.append(sealed.map((bytes, i) => ({ id: ids[i]!, plainLength: 1000, sealed: bytes })))
  const nums = ids.map((id, i) => {
    const num = s.chunks.add({ id, h: id, len: 1000, seg: places[i]!.segment, off: places[i]!.offset })
    s.chunks.ref(num, 1)
    return num
  })
  s.chunks.flush()
  return { s, parts, surplus, ids, self, others, here: () => nums.filter((num) => s.chunks.get(num)!.seg > 0).length }
}

test('what is confirmed goes; the rest stays, and is tried again', async (t) => {
  const { parts, surplus, ids, here } = await storing(t)
  parts.confirm = async (list) => list.map(({ id }) => id.equals(ids[7]!) === false)
  t.is(await surplus.run(), true)
  t.is(here(), 1)
  t.is(parts.compacted, 1)
  parts.confirm = async (list) => list.map(() => true)
  t.is(await surplus.run(), false)
  t.is(here(), 0, 'drained, it holds nothing')
  t.is(await surplus.run(), false)
  t.is(parts.compacted, 2, 'and there is nothing more to compact')
})

test('nothing goes a moment after a change of plan, without a plan, before it is laid over all chunks, or with nobody there', async (t) => {
  const { parts, surplus, here } = await storing(t)
  const { plan } = parts
  parts.sinceMs = Date.now() - 1000
  await surplus.run()
  parts.sinceMs = 0
  parts.plan = null
  await surplus.run()
  parts.plan = plan
  parts.isLaid = false
  await surplus.run()
  parts.isLaid = true
  parts.isThere = false
  await surplus.run()
  t.is(here(), 300)
  t.is(parts.compacted, 0)
})

test('what it is to hold stays, and so does all that was being asked about when the plan changed', async (t) => {
  const { s, parts, surplus, ids, self, others, here } = await storing(t)
  const drained = parts.plan
  const plan = parts.plan = new Plan({ devices: [device(self), ...others.map((key) => device(key))], wanted: 2, self: self })
  const mine = ids.filter((id) => plan.isMine(id)).length
  t.ok(mine > 100 && mine < 300)
  parts.confirm = async (list) => {
    parts.plan = drained
    return list.map(() => true)
  }
  t.is(await surplus.run(), true)
  t.is(here(), 300)
  parts.plan = plan
  parts.confirm = async (list) => list.map(() => true)
  t.is(await surplus.run(), false)
  t.is(here(), mine)
  t.ok(ids.every((id) => (s.chunks.get(s.chunks.findById(id))!.seg > 0) === plan.isMine(id)))
})
