/** Long reads: chunks that are read in one go, and memory that is used again while many readers are at it. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, writeSync } from 'node:fs'
import { Drive, type OpenOptions } from '../../lib/drive.js'
import { Reading } from '../../lib/file/reading.js'
import { sealedLength } from '../../lib/seal/chunk.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { Elsewhere } from '../helpers/elsewhere.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const MIB = 1 << 20
const READ = 128 << 10

async function driveWith(t: Assert, files: Record<string, Buffer>, options: OpenOptions = {}): Promise<Drive> {
  const dir = scratchDir(t)
  await (await Drive.create(dir)).close()
  const drive = await Drive.open(dir, options)
  t.teardown(() => drive.close(), { force: true, order: -1 })
  for (const [path, content] of Object.entries(files)) {
    const f = await drive.open(path, 'w')
    for (let at = 0; at < content.length; at += MIB) await f.write(at, content.subarray(at, at + MIB))
    await f.close()
  }
  await drive.sync()
  return drive
}

/** Front to back, as a READ of the kernel does: the answer is used in the turn in which it comes. Gives what differed. */
async function streamed(drive: Drive, path: string, content: Buffer, inFlight: number, end = content.length): Promise<number> {
  const file = await drive.open(path)
  const inode = drive.tree.get((await drive.stat(path)).ino)!
  let wrong = 0
  let next = 0
  const one = async () => {
    while (next < end) {
      const at = next
      next += READ
      const check = (parts: Buffer[]) => { if (!Buffer.concat(parts).equals(content.subarray(at, at + READ))) wrong++ }
      const read = drive.reader.start(inode, at, READ)
      if (!(read instanceof Reading)) check(read)
      else await read.done.then(check)
      if (Math.random() < 0.1) await new Promise((resolve) => setTimeout(resolve, Math.random() * 5))
    }
  }
  await Promise.all(Array.from({ length: inFlight }, one))
  await file.close()
  return wrong
}

test('many readers of more than the cache holds all get their bytes', { timeout: 120_000 }, async (t) => {
  const files = Object.fromEntries(['/a', '/b', '/c'].map((path) => [path, randomBytes(40 * MIB + 12_345)]))
  const drive = await driveWith(t, files)
  for (let round = 0; round < 2; round++) {
    const wrong = await Promise.all(Object.entries(files).map(([path, content], i) => streamed(drive, path, content, 1 + i * 3)))
    t.alike(wrong, [0, 0, 0])
  }
})

test('reads that are cancelled give nothing to others that is not theirs', { timeout: 120_000 }, async (t) => {
  const content = randomBytes(48 * MIB)
  const drive = await driveWith(t, { '/f': content })
  const inode = drive.tree.get((await drive.stat('/f')).ino)!
  const stray = async () => {
    for (let i = 0; i < 300; i++) {
      const read = drive.reader.start(inode, Math.floor(Math.random() * (content.length - MIB)), MIB)
      if (!(read instanceof Reading)) continue
      const done = codeOf(() => read.done)
      if (i % 2) read.cancel()
      await done
    }
  }
  const [wrong] = await Promise.all([streamed(drive, '/f', content, 4), stray()])
  t.is(wrong, 0)
})

test('a read that waits keeps what it has while others use all memory', { timeout: 120_000 }, async (t) => {
  const files = { '/a': randomBytes(12 * MIB), '/b': randomBytes(64 * MIB) }
  const source = new Elsewhere()
  source.isSlow = true
  const drive = await driveWith(t, files, { source })
  const inode = drive.tree.get((await drive.stat('/a')).ino)!
  const far = chunkAfter(drive, inode.ino, 8 * MIB)
  source.sealed.set(far.id.toString('hex'), await drive.store.read(far.seg, far.off, sealedLength(far.len)))
  drive.chunks.move(far.num, ELSEWHERE, 0)
  drive.journal.touched()
  t.is(await streamed(drive, '/a', files['/a'], 1, 7 * MIB), 0)
  const from = far.at - MIB
  const read = drive.reader.start(inode, from, 2 * MIB) as Reading
  await source.asked(1)
  t.is(await streamed(drive, '/b', files['/b'], 2), 0)
  let isSame = false
  const checked = read.done.then((parts) => { isSame = Buffer.concat(parts).equals(files['/a'].subarray(from, from + 2 * MIB)) })
  for (const w of source.wanted) w.answer()
  await checked
  t.ok(isSame)
})

function chunkAfter(drive: Drive, ino: number, at: number) {
  return drive.db.sql.prepare('SELECT c.num, c.seg, c.off, c.len, c.id, e.off AS at FROM extent e JOIN chunk c ON c.num = e.chunk WHERE e.ino = ? AND e.off > ? ORDER BY e.off LIMIT 1').get(ino, at) as { num: number; seg: number; off: number; len: number; id: Buffer; at: number }
}

test('a damaged chunk is EIO for its own bytes, not for those that are read along with it', async (t) => {
  const content = randomBytes(8 * MIB)
  const drive = await driveWith(t, { '/f': content })
  const ino = (await drive.stat('/f')).ino
  const hurt = chunkAfter(drive, ino, 3 * MIB)
  const fd = openSync(drive.store.pathOf(hurt.seg), 'r+')
  writeSync(fd, Buffer.from('damage'), 0, 6, hurt.off + 100)
  closeSync(fd)
  const f = await drive.open('/f')
  for (let at = 0; at < content.length; at += READ) {
    const isHurt = at < hurt.at + hurt.len && at + READ > hurt.at
    // Pieces are checked one by one: a read beside the damaged one may still be good.
    const code = await codeOf(async () => { if (!(await f.read(at, READ)).equals(content.subarray(at, at + READ))) throw new Error('other bytes') })
    if (!isHurt) t.is(code, 'none', `at ${at}`)
    else if (hurt.at >= at && hurt.at + 100 < at + READ) t.is(code, 'EIO')
  }
  await f.close()
})
