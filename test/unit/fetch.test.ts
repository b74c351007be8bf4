/** Chunks that are known and not here: fetched, checked, kept; and a source that is slow, fails or lies. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, writeSync } from 'node:fs'
import { Drive, type OpenOptions } from '../../lib/drive.js'
import { Reading } from '../../lib/file/reading.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { driveElsewhere, type Elsewhere } from '../helpers/elsewhere.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const MIB = 1 << 20
const turn = () => new Promise((resolve) => setImmediate(resolve))

async function setUp(t: Assert, content: Buffer, options: OpenOptions = {}): Promise<{ dir: string; drive: Drive; source: Elsewhere }> {
  const dir = scratchDir(t)
  const made = await driveElsewhere(dir, { '/f': content }, options)
  t.teardown(() => made.drive.close(), { force: true })
  return { dir, ...made }
}

async function readAll(drive: Drive, path = '/f'): Promise<Buffer> {
  const f = await drive.open(path)
  try {
    const { size } = await f.stat()
    return await f.read(0, size)
  } finally {
    await f.close()
  }
}

const inode = async (drive: Drive) => drive.tree.get((await drive.stat('/f')).ino)!
const begin = async (drive: Drive, offset = 0, length = 4096): Promise<Reading> => {
  const read = drive.reader.start(await inode(drive), offset, length)
  if (!(read instanceof Reading)) throw new Error('it did not have to wait')
  return read
}
const elsewhere = (drive: Drive) => (drive.db.sql.prepare('SELECT count(*) AS n FROM chunk WHERE seg = ?').get(ELSEWHERE) as { n: number }).n

test('what is elsewhere is fetched once, and kept', async (t) => {
  const content = randomBytes(3 * MIB)
  const { dir, drive, source } = await setUp(t, content)
  const { chunks } = await drive.status()
  t.is(chunks.here, 0)
  t.alike((await drive.fsck({ data: true })).problems, [], 'not being here is no damage')
  t.alike(await readAll(drive), content)
  t.alike(await readAll(drive), content)
  t.is(new Set(source.wanted.map((w) => w.id)).size, source.wanted.length, 'no chunk was asked for twice')
  await drive.close()

  const alone = await Drive.open(dir)
  t.teardown(() => alone.close(), { force: true })
  t.is(elsewhere(alone), 0)
  t.alike(await readAll(alone), content, 'it is here now')
  t.alike((await alone.fsck({ data: true })).problems, [])
})

test('without a source, reading is EIO and all else works', async (t) => {
  const { dir, drive } = await setUp(t, randomBytes(100_000))
  await drive.close()
  const alone = await Drive.open(dir)
  t.teardown(() => alone.close(), { force: true })
  t.is(await codeOf(() => readAll(alone)), 'EIO')
  t.is((await alone.stat('/f')).size, 100_000)
  await alone.gc()
  t.alike((await alone.fsck({ data: true })).problems, [])
})

test('readers of one chunk share its fetch; one that goes takes nothing from the others', async (t) => {
  const content = randomBytes(50_000)
  const { drive, source } = await setUp(t, content)
  source.isSlow = true
  const [a, b] = [await begin(drive, 0), await begin(drive, 4096)]
  await source.asked(1)
  await turn()
  t.is(source.wanted.length, 1)
  a.cancel()
  t.is(await codeOf(() => a.done), 'EINTR')
  t.absent(source.wanted[0]!.signal.aborted, 'somebody still waits')
  source.wanted[0]!.answer()
  t.alike(Buffer.concat(await b.done), content.subarray(4096, 8192))
})

test('a fetch that nobody waits for any more is given up, and the next reader asks again', async (t) => {
  const content = randomBytes(50_000)
  const { drive, source } = await setUp(t, content)
  source.isSlow = true
  const a = await begin(drive)
  await source.asked(1)
  a.cancel()
  t.ok(source.wanted[0]!.signal.aborted)
  const b = await begin(drive)
  await source.asked(2)
  source.wanted[1]!.answer()
  t.alike(Buffer.concat(await b.done), content.subarray(0, 4096))
})

test('a source that has nothing is EIO at once, and is asked again by the next read', async (t) => {
  const content = randomBytes(50_000)
  const { drive, source } = await setUp(t, content)
  const kept = new Map(source.sealed)
  source.sealed.clear()
  t.is(await codeOf(() => readAll(drive)), 'EIO')
  for (const [id, bytes] of kept) source.sealed.set(id, bytes)
  t.alike(await readAll(drive), content)
})

test('what is not the chunk is EIO, and never kept', async (t) => {
  const content = randomBytes(50_000)
  const { drive, source } = await setUp(t, content)
  const flipped = (sealed: Buffer) => {
    const copy = Buffer.from(sealed)
    copy[copy.length >> 1]! ^= 1
    return copy
  }
  for (const lie of [flipped, (s: Buffer) => s.subarray(1), (s: Buffer) => Buffer.concat([s, Buffer.alloc(1)]), () => Buffer.alloc(0)]) {
    source.lie = lie
    t.is(await codeOf(() => readAll(drive)), 'EIO')
  }
  t.ok(elsewhere(drive) > 0)
  source.lie = null
  t.alike(await readAll(drive), content)
})

test('a source that never answers is EIO after the deadline', async (t) => {
  const { drive, source } = await setUp(t, randomBytes(50_000), { readDeadlineMs: 50 })
  source.isSlow = true
  t.is(await codeOf(() => readAll(drive)), 'EIO')
  t.ok(source.wanted.every((w) => w.signal.aborted), 'and it is told')
})

test('a sequential reader is read ahead, what it comes to wait for becomes urgent, and what nobody comes for is given up', async (t) => {
  const content = randomBytes(6 * MIB)
  const { drive, source } = await setUp(t, content, { readDeadlineMs: 2000 })
  source.isSlow = true
  const f = await drive.open('/f')
  const first = f.read(0, 256 << 10)
  await source.asked(1)
  await turn()
  const ahead = () => source.wanted.filter((w) => w.urgency === 'ahead')
  t.ok(ahead().length > 0, 'it is read ahead')
  const next = f.read(256 << 10, 256 << 10)
  await turn()
  const again = source.wanted.filter((w) => w.urgency === 'reader' && ahead().some((a) => a.id === w.id))
  t.ok(again.length > 0, 'now somebody waits for it')
  for (const w of source.wanted.filter((x) => x.urgency === 'reader')) w.answer()
  t.alike(Buffer.concat([await first, await next]), content.subarray(0, 512 << 10))
  const left = ahead().find((a) => !source.wanted.some((w) => w.urgency === 'reader' && w.id === a.id))!
  if (!left.signal.aborted) await new Promise((resolve) => left.signal.addEventListener('abort', resolve))
  t.pass('given up')
  await f.close()
})

test('a chunk that is damaged here is fetched, and mended', async (t) => {
  const content = randomBytes(300_000)
  const { drive } = await setUp(t, content)
  await readAll(drive)
  while (elsewhere(drive) > 0) await turn()
  const rows = drive.db.sql.prepare('SELECT num, seg, off FROM chunk').all() as { num: number; seg: number; off: number }[]
  for (const r of rows) {
    const fd = openSync(drive.store.pathOf(r.seg), 'r+')
    writeSync(fd, Buffer.alloc(64), 0, 64, r.off + 100)
    closeSync(fd)
    drive.reader.forget(r.num)
  }
  const f = await drive.open('/f')
  t.alike(await f.read(10, 1000), content.subarray(10, 1010), 'a small read')
  t.alike(await f.read(0, 300_000), content, 'a large one')
  await f.close()
  while (drive.chunks.bad.size > 0) await turn()
  t.alike((await drive.fsck({ data: true })).problems, [])
})

test('content that is written here equal to a chunk that is elsewhere is here then', async (t) => {
  for (const size of [5000, 200_000]) {
    const content = randomBytes(size)
    const { dir, drive, source } = await setUp(t, content)
    const f = await drive.open('/g', 'w')
    await f.write(0, content)
    await f.sync()
    await f.close()
    await drive.close()
    t.is(source.wanted.length, 0)
    const alone = await Drive.open(dir)
    t.teardown(() => alone.close(), { force: true })
    t.alike(await readAll(alone, '/g'), content)
    t.alike((await alone.fsck({ data: true })).problems, [])
    await alone.close()
  }
})
