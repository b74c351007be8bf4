/** What a person says of devices that come and go: that one is gone, and what one that joins offers. */
import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { until } from '../helpers/devices.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'
import { Device, first, joined, LOCAL, read, write } from '../helpers/storing.js'

const LONG = { timeout: 120_000 }
const OF_C = Buffer.from('said before it went')

test('what was removed is given back once a device that is gone was set aside; it can come back', LONG, async (t) => {
  const a = await first(t)
  const b = await joined(t, a)
  const c = await joined(t, a)
  const gone = (await c.drive.status()).device
  await write(a.drive, '/large', randomBytes(4_000_000))
  await until('all have it', async () => (await Promise.all([b, c].map(({ drive }) => drive.stat('/large').then(() => true, () => false)))).every(Boolean))
  t.is(await codeOf(() => a.drive.setDevice(gone, { isAside: true })), 'EBUSY', 'it is there')
  t.is(await codeOf(async () => a.drive.setDevice((await a.drive.status()).device, { isAside: true })), 'EINVAL', 'itself')
  await write(c.drive, '/of c', OF_C)
  await c.drive.sync()
  await until('it is seen', () => a.drive.stat('/of c').then(() => true, () => false))
  await c.stop()
  await a.drive.rm('/large')
  // That of /of c may have come, or not.
  const chunks = () => a.drive.db.sql.prepare('SELECT count(*) FROM chunk WHERE seg > 0 AND len > ?').pluck().get(OF_C.length) as number
  const collected = async () => {
    for (const { drive } of [a, b]) {
      drive.journal.commit()
      if (drive.engine.owesStatement(1, 0)) drive.journal.state()
    }
    await a.drive.gc()
    return chunks() === 0
  }
  for (let i = 0; i < 3; i++) t.absent(await collected(), 'one is waited for')
  await until('it was not heard of for a while', () => a.drive.setDevice(gone, { isAside: true }).then(() => true))
  await a.drive.setDevice(gone, { isAside: true })
  await until('what was removed is gone', collected)
  t.ok((await b.drive.devices()).find((d) => d.device === gone)?.isAway)
  await c.start()
  await write(a.drive, '/later', Buffer.from('since'))
  await until('it is one of them again', async () => (await read(c.drive, '/later').catch(() => Buffer.alloc(0))).toString() === 'since')
  t.is((await read(c.drive, '/of c')).toString(), OF_C.toString())
})

test('what a device offers can be said when it joins', LONG, async (t) => {
  const a = await first(t)
  const dir = scratchDir(t)
  t.is(await codeOf(async () => prepareJoin(dir, await a.drive.key('full'), { capacity: 'much' })), 'USAGE')
  t.is(await codeOf(async () => prepareJoin(dir, await a.drive.key('storage'), { capacity: '1G' })), 'USAGE')
  await prepareJoin(dir, await a.drive.key('full'), { capacity: '50M', zone: 'attic' })
  await finishJoin(dir, { network: { ...LOCAL, peers: [a.address] } })
  await a.drive.setConfig('replication', '2')
  const b = await new Device(t, dir, [a.address]).start()
  const id = (await b.drive.status()).device
  const offered: unknown[] = []
  await until('it has offered that', async () => {
    const p = (await a.drive.devices()).find((d) => d.device === id)?.placement
    if (p?.capacityBytes != null) offered.push(p.capacityBytes)
    return p?.capacityBytes === 50 * 2 ** 20 && p.zone === 'attic'
  })
  t.ok(offered.every((bytes) => bytes === 50 * 2 ** 20), 'and never its whole disk')
  // What is said later stays.
  await a.drive.setDevice(id, { capacity: '70M' })
  await b.stop()
  await b.start()
  await until('it goes on', async () => (await b.drive.devices()).find((d) => d.device === id)?.placement?.capacityBytes === 70 * 2 ** 20)
})
