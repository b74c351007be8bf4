/** Giving space back and keeping files in good shape, on a real store. */
import test from 'brittle'
import { createHash, randomFillSync } from 'node:crypto'
import { Drive } from '../../lib/drive.js'
import { compactFile } from '../../lib/file/compact.js'
import type { FileHandle } from '../../lib/api.js'
import { random } from '../helpers/tree.js'
import { scratchDir } from '../helpers/scratch.js'

const MIB = 1 << 20

async function openDrive(t: Parameters<typeof scratchDir>[0]): Promise<Drive> {
  const drive = await Drive.create(scratchDir(t))
  t.teardown(() => drive.close())
  return drive
}

async function fill(f: FileHandle, mib: number): Promise<void> {
  const block = Buffer.alloc(MIB)
  for (let i = 0; i < mib; i++) {
    randomFillSync(block)
    await f.write(i * MIB, block)
  }
}

async function digest(drive: Drive, path: string): Promise<string> {
  const f = await drive.open(path)
  const hash = createHash('sha256')
  const { size } = await f.stat()
  for (let at = 0; at < size; at += MIB) hash.update(await f.read(at, MIB))
  await f.close()
  return hash.digest('hex')
}

const clean = async (t: { alike(a: unknown, b: unknown, why: string): void }, drive: Drive) =>
  t.alike((await drive.fsck({ data: true })).problems, [], 'fsck finds nothing')

test('chunks of deleted files go, and so do their segments', async (t) => {
  const drive = await openDrive(t)
  for (const name of ['/keep', '/drop']) {
    const f = await drive.open(name, 'w')
    await fill(f, 24)
    await f.close()
  }
  await drive.sync()
  const kept = await digest(drive, '/keep')
  const before = (await drive.status()).disk.segments
  await drive.rm('/drop')
  const report = await drive.gc()
  t.ok(report.chunksDropped > 50, 'chunks were dropped')
  t.ok(before >= 48 * MIB, 'both files were there')
  const after = (await drive.status()).disk.segments
  t.ok(after < 26 * MIB, `also out of the segments that are being appended to: ${before} bytes became ${after}`)
  t.is(await digest(drive, '/keep'), kept)
  await clean(t, drive)
})

test('who asks for it gets nearly all back, also of segments that are mostly alive', async (t) => {
  const drive = await openDrive(t)
  for (let i = 0; i < 20; i++) {
    const f = await drive.open(`/${i}`, 'w')
    await fill(f, 1)
    await f.close()
  }
  await drive.sync()
  for (let i = 0; i < 20; i += 4) await drive.rm(`/${i}`)
  await drive.gc()
  const { segments } = (await drive.status()).disk
  t.ok(segments < 15 * MIB * 1.12, `${segments} bytes for 15 files of 1 MiB`)
  await clean(t, drive)
})

test('gc while programs write takes what is dead and nothing else', async (t) => {
  const drive = await openDrive(t)
  const dead = await drive.open('/dead', 'w')
  await fill(dead, 20)
  await dead.close()
  await drive.sync()
  let isOver = false
  const contents = new Map<string, Buffer>()
  const writer = async (name: string) => {
    for (let i = 0; !isOver; i++) {
      const path = `/${name}${i % 20}`
      const content = randomFillSync(Buffer.alloc(300_000 + i))
      const f = await drive.open(path, 'w')
      await f.write(0, content)
      if (i % 3 === 0) await f.sync()
      await f.close()
      contents.set(path, content)
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  const writers = ['a', 'b'].map(writer)
  await drive.rm('/dead')
  for (let i = 0; i < 6; i++) await drive.gc()
  isOver = true
  await Promise.all(writers)
  await drive.sync()
  for (const [path, content] of contents) {
    const f = await drive.open(path)
    if (!(await f.read(0, content.length + 1)).equals(content)) t.fail(path)
    await f.close()
  }
  await drive.gc()
  const { segments } = (await drive.status()).disk
  const live = [...contents.values()].reduce((n, c) => n + c.length, 0)
  t.ok(segments < live * 1.12 + MIB, `${live} bytes live in ${segments}`)
  await clean(t, drive)
})

test('rounds of gc do not leave ever more segments', async (t) => {
  const dir = scratchDir(t)
  const drive = await Drive.create(dir)
  t.teardown(() => drive.close(), { force: true })
  const keep = await drive.open('/keep', 'w')
  await fill(keep, 3)
  for (let i = 0; i < 8; i++) {
    await keep.write(i * 1000, Buffer.alloc(500, i))
    await keep.sync()
    const f = await drive.open('/drop', 'w')
    await fill(f, 6)
    await f.close()
    await drive.sync()
    await drive.rm('/drop')
    await drive.gc()
  }
  await keep.close()
  const kept = await digest(drive, '/keep')
  t.ok(drive.store.usage().size <= 3, `${drive.store.usage().size} segments`)
  t.ok((await drive.status()).disk.segments < 6 * MIB)
  await drive.close()
  const again = await Drive.open(dir)
  t.teardown(() => again.close(), { force: true })
  t.is(await digest(again, '/keep'), kept)
  await clean(t, again)
})

test('segments that are mostly dead are copied together', async (t) => {
  const drive = await openDrive(t)
  const names: string[] = []
  for (let i = 0; i < 24; i++) {
    const f = await drive.open(`/f${i}`, 'w')
    await fill(f, 6)
    await f.close()
    await drive.sync()
    names.push(`/f${i}`)
  }
  const before = (await drive.status()).disk.segments
  t.ok(before > 2 * 64 * MIB, 'more than two segments')
  for (let i = 0; i < 24; i++) if (i % 4 !== 0) await drive.rm(names[i]!)
  const kept = await digest(drive, '/f0')
  const report = await drive.gc()
  t.ok(report.segmentsRewritten >= 1 && report.segmentsDropped >= 1, 'segments were rewritten')
  const after = (await drive.status()).disk.segments
  t.ok(after < before * 0.6, `${before} bytes became ${after}`)
  t.is(await digest(drive, '/f0'), kept)
  await clean(t, drive)
})

test('content that fsync left in the index goes into segments', async (t) => {
  const drive = await openDrive(t)
  const f = await drive.open('/log', 'w')
  for (let i = 0; i < 200; i++) {
    await f.write(i * 1000, randomFillSync(Buffer.alloc(1000)))
    await f.sync()
  }
  await f.close()
  const before = await digest(drive, '/log')
  t.is((await drive.status()).chunks.inline, 200)
  await drive.gc()
  t.is((await drive.status()).chunks.inline, 0)
  t.is(await digest(drive, '/log'), before)
  await clean(t, drive)
})

test('a file in many small extents is cut anew, with its times as they were', async (t) => {
  const drive = await openDrive(t)
  const rand = random(1)
  const f = await drive.open('/db', 'w')
  await fill(f, 8)
  await f.sync()
  for (let i = 0; i < 1500; i++) await f.write(Math.floor(rand() * 2000) * 4096, randomFillSync(Buffer.alloc(4096)))
  await f.sync()
  const stat = await f.stat()
  const inode = drive.tree.get(stat.ino)!
  const count = () => drive.tree.rows.extents(stat.ino, 0, Infinity, 1e6).length
  const scattered = count()
  const before = await digest(drive, '/db')
  await compactFile(drive, inode)
  t.ok(count() < scattered / 10, `${scattered} extents became ${count()}`)
  t.is(await digest(drive, '/db'), before)
  t.is((await f.stat()).mtimeMs, stat.mtimeMs)
  await f.close()
  await clean(t, drive)
})

test('a write during compaction wins', async (t) => {
  const drive = await openDrive(t)
  const f = await drive.open('/db', 'w')
  await fill(f, 4)
  await f.sync()
  for (let i = 0; i < 300; i++) await f.write(i * 8192, randomFillSync(Buffer.alloc(4096)))
  await f.sync()
  const { ino } = await f.stat()
  const compacting = compactFile(drive, drive.tree.get(ino)!)
  const mine = Buffer.alloc(5000, 'mine')
  await f.write(100_000, mine)
  await compacting
  t.alike(await f.read(100_000, 5000), mine)
  await f.sync()
  t.alike(await f.read(100_000, 5000), mine)
  await f.close()
  await clean(t, drive)
})

test('equal content is stored once', async (t) => {
  const drive = await openDrive(t)
  const data = randomFillSync(Buffer.alloc(8 * MIB))
  for (const name of ['/a', '/b', '/c']) {
    const f = await drive.open(name, 'w')
    for (let at = 0; at < data.length; at += MIB) await f.write(at, data.subarray(at, at + MIB))
    await f.close()
  }
  await drive.sync()
  const { disk, logicalBytes } = await drive.status()
  t.is(logicalBytes, 24 * MIB)
  t.ok(disk.segments < 9 * MIB, `${logicalBytes} bytes take ${disk.segments}`)
  await clean(t, drive)
})

test('what a flush has found being sealed by another stays until it is named, though the other has ended and its file is gone', async (t) => {
  const drive = await openDrive(t)
  const same = Buffer.alloc(20_000, 'same')
  const { pool } = drive
  const gate = () => {
    let open!: () => void
    return { passed: new Promise<void>((resolve) => { open = resolve }), open }
  }
  const [firstCut, bothCut, dropped] = [gate(), gate(), gate()]
  const [cut, seal] = [pool.cut.bind(pool), pool.seal.bind(pool)]
  let cuts = 0
  let seals = 0
  pool.cut = async (request) => {
    const found = await cut(request)
    if (++cuts === 1) firstCut.open()
    if (cuts === 2) setImmediate(bothCut.open)
    return found
  }
  pool.seal = async (request) => {
    await (++seals === 1 ? bothCut : dropped).passed
    return seal(request)
  }
  const write = async (path: string, content: Buffer) => {
    const f = await drive.open(path, 'w')
    t.teardown(() => f.close(), { order: -1 })
    await f.write(0, content)
    return f
  }
  const first = await write('/first', same)
  const flushed = first.sync()
  // Else one flush might take all of them.
  await firstCut.passed
  await write('/second', same)
  await write('/other', Buffer.alloc(20_000, 'other'))
  const all = drive.sync()
  await flushed
  await first.close()
  await drive.rm('/first')
  await drive.collector.shrink()
  t.is(drive.chunks.last, 1, 'the chunk was named once')
  t.ok(drive.chunks.identity(1), 'and is there')
  dropped.open()
  await all
  t.is(seals, 2)
  const second = await drive.open('/second')
  t.ok((await second.read(0, same.length)).equals(same))
  await second.close()
  t.is(drive.flusher.pinned.size, 0, 'nothing stays pinned')
  await clean(t, drive)
})
