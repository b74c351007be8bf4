/** What nobody needs any more goes from a device that cannot read the drive; nothing else does. */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import type { Drive } from '../../lib/drive.js'
import { isDfsError } from '../../lib/errors.js'
import { sealedLength } from '../../lib/seal/chunk.js'
import type { StoragePeer } from '../../lib/storage-peer.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { RECORD_BYTES } from '../../lib/store/record.js'
import { until } from '../helpers/devices.js'
import { first, joined, keepsAll, read, storing, write, type Device } from '../helpers/storing.js'

const LONG = { timeout: 240_000 }
/** What was shown a moment ago need not be waited for so long in a test. */
const SOON = { graceMs: 300 }

interface Counted { chunks: number; bytes: number }

/** Chunks that are needed, and what they take in segments. */
function live(drive: Drive): Counted {
  drive.tree.rows.flush()
  const rows = drive.db.sql.prepare('SELECT len FROM chunk WHERE refs > 0').all() as { len: number }[]
  return { chunks: rows.length, bytes: rows.reduce((n, r) => n + sealedLength(r.len) + RECORD_BYTES, 0) }
}

const segmentBytes = async (d: Device<Drive | StoragePeer>) => (await d.drive.status()).disk.segments
const knownTo = (s: Device<StoragePeer>) => (s.drive.db.sql.prepare('SELECT count(*) AS n FROM chunk').get() as { n: number }).n

/** What is removed cannot be taken back any more: all say what they have, until as many chunks are left. */
async function final(devices: Device[], chunks: number): Promise<void> {
  await until('what was removed is final', async () => {
    for (const { drive } of devices) {
      drive.journal.commit()
      if (drive.engine.owesStatement(1, 0)) drive.journal.state()
      await drive.gc()
    }
    return devices.every(({ drive }) => live(drive).chunks === chunks)
  })
}

/** The storage peer has heard all that the others have. */
async function heard(s: Device<StoragePeer>, devices: Device[]): Promise<void> {
  for (const { drive } of devices) drive.journal.commit()
  await until('the storage peer has all entries', () => devices.every(({ drive: { log } }) => [...log.heads()].every(([inc, seq]) => {
    const there = s.drive.log.find(log.incarnationId(inc))
    return seq === 0 || (there >= 0 && s.drive.log.head(there).seq >= seq)
  })))
}

async function sees(d: Device, path: string, bytes: number): Promise<void> {
  await until(`${path} is there`, async () => (await d.drive.stat(path).catch(() => undefined))?.size === bytes)
}

/** Two that read the drive and one that does not, all connected. */
async function three(t: Assert): Promise<[Device, Device, Device<StoragePeer>]> {
  const a = await first(t)
  const b = await joined(t, a)
  const s = await storing(t, await a.drive.key('storage'), [a.address, b.address], SOON)
  await until('all are connected', () => s.drive.network === null && a.swarm.peers().length >= 2 && b.swarm.peers().length >= 2)
  return [a, b, s]
}

test('after half of everything is removed its segments shrink; who then joins from it alone has every byte that is left', LONG, async (t) => {
  const [a, b, s] = await three(t)
  const kept = new Map<string, Buffer>()
  for (let i = 0; i < 40; i++) {
    const content = randomBytes(150_000 + i * 7000)
    const by = i % 4 < 2 ? a : b
    await write(by.drive, `/${i}`, content)
    if (i % 2 === 0) kept.set(`/${i}`, content)
  }
  await sees(b, '/37', 150_000 + 37 * 7000)
  await sees(a, '/39', 150_000 + 39 * 7000)
  await keepsAll(s, a)
  await keepsAll(s, b)
  const before = await segmentBytes(s)
  const all = live(a.drive).chunks
  for (let i = 1; i < 40; i += 2) await (i % 4 < 2 ? b : a).drive.rm(`/${i}`)
  const wanted = [...kept.values()].length
  t.is(wanted, 20)
  await until('both have heard of it', async () => (await names(a)).length === 20 && (await names(b)).length === 20)
  const left = await chunksOf(a)
  await final([a, b], left)
  await heard(s, [a, b])
  const phases = new Set<string>()
  const report = await s.drive.gc((p) => phases.add(p.phase))
  t.ok(report.chunksDropped >= all - left, `${report.chunksDropped} chunks went, of ${all}`)
  t.ok(phases.has('asking') && phases.has('dead chunks'))
  const now = live(a.drive)
  t.is(knownTo(s), now.chunks, 'what is left is what is needed')
  const after = await segmentBytes(s)
  t.ok(after < now.bytes * 1.15, `${before} bytes became ${after}, of which ${now.bytes} are needed`)
  t.ok(before > now.bytes * 1.8)
  t.alike((await s.drive.fsck({ data: true })).problems, [])
  t.is((await s.drive.gc()).chunksDropped, 0, 'and once more changes nothing')

  const full = await a.drive.key('full')
  await a.stop()
  await b.stop()
  await s.stop()
  await s.start()
  for (const name of ['c', 'd']) {
    const c = await joined(t, s, full)
    await until(`${name} has all that is needed`, async () => (await names(c)).length === 20 && [...c.drive.db.sql.prepare(`SELECT c.seg FROM chunk c WHERE seg = ${ELSEWHERE} AND EXISTS (SELECT 1 FROM extent e WHERE e.chunk = c.num)`).all()].length === 0)
    for (const [path, content] of kept) if (!(await read(c.drive, path)).equals(content)) t.fail(path)
    await until('nothing more is waited for', async () => {
      await c.drive.gc()
      return (await c.drive.status()).chunks.owed === 0
    })
    t.alike((await c.drive.fsck({ data: true })).problems, [])
  }
  t.alike(s.notices, [])
})

async function names(d: Device): Promise<string[]> {
  const out: string[] = []
  for await (const e of d.drive.opendir('/')) out.push(e.name.toString())
  return out
}

/** Chunks of files that have a name. */
async function chunksOf(d: Device): Promise<number> {
  await d.drive.sync()
  return (d.drive.db.sql.prepare('SELECT count(DISTINCT e.chunk) AS n FROM extent e JOIN dentry d ON d.ino = e.ino WHERE e.chunk > 0').get() as { n: number }).n
}

test('content that was removed, and is written again while what nobody needs goes, is not lost: by who was there, and who was away', LONG, async (t) => {
  const [a, b, s] = await three(t)
  const contents = Array.from({ length: 12 }, () => randomBytes(400_000))
  for (const [i, content] of contents.entries()) await write(a.drive, `/old ${i}`, content)
  await sees(b, '/old 11', 400_000)
  await until('it is on B', async () => (await b.drive.status()).chunks.owed === 0)
  await keepsAll(s, a)
  const address = b.address
  await b.stop()
  // Away, it writes the same again; its copies of what was removed are still there.
  b.peers = []
  await b.start()
  for (const [i, content] of contents.slice(0, 4).entries()) await write(b.drive, `/by b ${i}`, content)
  await b.drive.sync()
  for (let i = 0; i < 12; i++) await a.drive.rm(`/old ${i}`)
  await a.drive.sync()
  a.drive.journal.commit()
  await heard(s, [a])
  // Nothing is final without B, so nothing goes.
  await a.drive.gc()
  t.is((await s.drive.gc()).chunksDropped, 0)
  await b.stop()
  b.peers = [a.address, s.address]
  await b.start()
  t.not(b.address, address)
  await sees(a, '/by b 3', 400_000)
  await until('B has heard of it', async () => (await names(b)).every((n) => n.startsWith('by b')))
  // And while chunks go, the rest is written again, on both.
  let isOver = false
  const going = (async () => {
    while (!isOver) {
      for (const { drive } of [a, b]) {
        if (drive.engine.owesStatement(1, 0)) drive.journal.state()
        await drive.gc()
      }
      await s.drive.gc().catch((e: unknown) => { if (!isDfsError(e, 'EBUSY')) throw e })
    }
  })()
  for (let round = 0; round < 3; round++) {
    for (const [i, content] of contents.entries()) {
      const by = (i + round) % 2 === 0 ? a : b
      await write(by.drive, `/again ${i}`, content)
      if (round < 2) await new Promise((go) => setTimeout(go, 30))
      if (round < 2 && i % 3 === 0) await by.drive.rm(`/again ${i}`)
    }
  }
  isOver = true
  await going
  for (let i = 0; i < 12; i++) await sees(a, `/again ${i}`, 400_000)
  for (let i = 0; i < 12; i++) await sees(b, `/again ${i}`, 400_000)
  await heard(s, [a, b])
  await keepsAll(s, a)
  await keepsAll(s, b)
  const full = await a.drive.key('full')
  await a.stop()
  await b.stop()
  const c = await joined(t, s, full)
  await sees(c, '/again 11', 400_000)
  for (const [i, content] of contents.entries()) t.ok((await read(c.drive, `/again ${i}`)).equals(content), `again ${i}`)
  for (let i = 0; i < 4; i++) t.ok((await read(c.drive, `/by b ${i}`)).equals(contents[i]!), `by b ${i}`)
  t.alike((await s.drive.fsck({ data: true })).problems, [])
})

test('what the history of the others needs stays, until that has passed', LONG, async (t) => {
  const [a, b, s] = await three(t)
  await a.drive.setConfig('retention', '1d')
  const content = randomBytes(600_000)
  await write(a.drive, '/kept', randomBytes(200_000))
  await write(a.drive, '/file', content)
  await sees(b, '/file', 600_000)
  await until('B has it', async () => (await b.drive.status()).chunks.owed === 0)
  await keepsAll(s, a)
  const all = knownTo(s)
  const atMs = Date.now()
  await new Promise((go) => setTimeout(go, 20))
  await b.drive.rm('/file')
  await until('A has heard', async () => (await names(a)).length === 1)
  const isHistory = ({ drive }: Device) => one(drive, 'SELECT count(*) FROM history WHERE was > 0 AND gone = 1') === 1
  await until('it is final, and kept', async () => {
    for (const { drive } of [a, b]) {
      drive.journal.commit()
      if (drive.engine.owesStatement(1, 0)) drive.journal.state()
      await drive.gc()
    }
    return isHistory(a) && isHistory(b)
  })
  await heard(s, [a, b])
  t.is((await s.drive.gc()).chunksDropped, 0)
  t.is(knownTo(s), all)
  await a.drive.restore('/file', { atMs })
  await sees(b, '/file', 600_000)
  t.ok((await read(b.drive, '/file')).equals(content), 'it is back')
  await b.drive.rm('/file')
  await until('A has heard', async () => (await names(a)).length === 1)
  await a.drive.setConfig('retention', '0')
  await final([a, b], await chunksOf(a))
  await heard(s, [a, b])
  await s.drive.gc()
  t.is(knownTo(s), live(a.drive).chunks, 'past the retention it goes')
  t.ok(knownTo(s) < all)
})

test('nobody who could say: nothing goes, and it says why', LONG, async (t) => {
  const a = await first(t)
  const s = await storing(t, await a.drive.key('storage'), [a.address], SOON)
  await write(a.drive, '/file', randomBytes(300_000))
  await keepsAll(s, a)
  const known = knownTo(s)
  await a.stop()
  try {
    await s.drive.gc()
    t.fail('it has asked nobody')
  } catch (e) {
    t.ok(isDfsError(e, 'EBUSY'), String(e))
  }
  t.is(knownTo(s), known)
})

test('one that only stores and has a capacity holds its share and no more; drained, it ends empty, and the copies are elsewhere', LONG, async (t) => {
  const a = await first(t)
  const full = await a.drive.key('full')
  const b = await joined(t, a)
  const c = await joined(t, b, full)
  const s = await storing(t, await a.drive.key('storage'), [a.address, b.address, c.address], SOON)
  const id = (await s.drive.status()).device
  await a.drive.addDevice(id, 'storage', 'shed')
  for (let i = 0; i < 10; i++) await write(a.drive, `/${i}`, randomBytes(300_000))
  await keepsAll(s, a)
  const all = (await s.drive.status()).chunks.here
  const here = () => one(s.drive, `SELECT count(*) FROM chunk WHERE seg > 0`)
  const copies = () => [a, b, c].map(({ drive }) => one(drive, 'SELECT count(*) FROM chunk WHERE seg >= 0 AND refs > 0')).reduce((x, y) => x + y, 0)
  await a.drive.setConfig('replication', '2')
  for (const { drive } of [a, b, c]) await a.drive.setDevice(await idOf(drive), { capacity: '1G' })
  await a.drive.setDevice(id, { capacity: '1G' })
  await until('it has its share, and what is not its share has gone', () => {
    const { plan } = s.drive.keeping
    if (!plan || !s.drive.keeping.isLaid || s.drive.keeping.size > 0) return false
    const rows = s.drive.db.sql.prepare('SELECT id, seg FROM chunk').all() as { id: Buffer; seg: number }[]
    return rows.every((r) => plan.isMine(r.id) === (r.seg > 0))
  })
  t.ok(here() > 0 && here() < all, `${here()} of ${all} chunks`)
  await a.drive.setDevice(id, { isDrained: true })
  await until('it is empty', () => here() === 0)
  t.ok(copies() >= all * 2, `${copies()} copies of ${all} chunks elsewhere`)
  await until('its segments too', async () => await segmentBytes(s) < 100_000)
  t.alike((await s.drive.fsck({ data: true })).problems, [])
})

const one = (drive: Drive | StoragePeer, text: string): number => drive.db.sql.prepare(text).pluck().get() as number
const idOf = async (drive: Drive) => (await drive.status()).device

test('what a storage peer lacks and knows to be dead is not owed to it', LONG, async (t) => {
  const [, , s] = await three(t)
  const { chunks } = s.drive
  const owed = async () => {
    chunks.flush()
    return (await s.drive.status()).chunks.owed
  }
  await until('it has all there is', async () => await owed() === 0)
  const id = randomBytes(32)
  const num = chunks.add({ id, h: id, len: 10, seg: ELSEWHERE, off: 0 })
  chunks.ref(num, 1)
  t.is(await owed(), 1)
  t.ok(chunks.mark(num, true))
  t.is(await owed(), 0)
})
