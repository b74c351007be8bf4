/**
 * The bytes of files against a plain buffer: writes, truncations, holes, copies,
 * syncs, reopening, in any order, with flushes running in between.
 */
import test from 'brittle'
import { Drive } from '../../lib/drive.js'
import type { Inode } from '../../lib/tree/inode.js'
import { random } from '../helpers/tree.js'
import { scratchDir } from '../helpers/scratch.js'

const MAX = 6 << 20

function makeData(rand: () => number, n: number): Buffer {
  const out = Buffer.allocUnsafe(n)
  const word = Math.floor(rand() * 0xffffffff)
  // Repetitive now and then, so that deduplication has something to find.
  const period = rand() < 0.3 ? 4096 : 1 << 30
  for (let i = 0; i < n; i++) out[i] = (word + Math.imul((i % period) + 1, 2654435761)) >>> 13
  return out
}

async function run(t: Parameters<typeof scratchDir>[0], seed: number, steps: number): Promise<void> {
  const rand = random(seed)
  const dir = scratchDir(t)
  let drive = await Drive.create(dir)
  try {
    const names = ['/a', '/b', '/c']
    const model = new Map<string, Buffer>()
    for (const n of names) {
      await (await drive.open(n, 'w')).close()
      model.set(n, Buffer.alloc(0))
    }
    const inode = async (n: string): Promise<Inode> => drive.tree.get((await drive.stat(n)).ino)!
    const grow = (b: Buffer, size: number) => (size <= b.length ? b : Buffer.concat([b, Buffer.alloc(size - b.length)]))
    for (let i = 0; i < steps; i++) {
      const name = names[Math.floor(rand() * names.length)]!
      const node = await inode(name)
      let want = model.get(name)!
      const at = Math.floor(rand() * Math.min(MAX, want.length + (rand() < 0.5 ? 0 : 200_000)))
      const kind = rand()
      if (kind < 0.45) {
        const n = rand() < 0.7 ? 1 + Math.floor(rand() * 9000) : 1 + Math.floor(rand() * 900_000)
        const data = makeData(rand, n)
        const off = rand() < 0.4 ? want.length : at
        if (off + n > MAX) continue
        await drive.files.write(node, off, data)
        want = Buffer.from(grow(want, off + n))
        data.copy(want, off)
        model.set(name, want)
      } else if (kind < 0.53) {
        const size = Math.floor(rand() * (want.length + 10_000))
        await drive.posix.setattr(node.ino, { size })
        model.set(name, Buffer.from(grow(want, size).subarray(0, size)))
      } else if (kind < 0.58) {
        const end = Math.min(want.length, at + Math.floor(rand() * 300_000))
        drive.files.punch(node, at, end)
        want = Buffer.from(want)
        want.fill(0, Math.min(at, want.length), end)
        model.set(name, want)
      } else if (kind < 0.63) {
        const other = names[Math.floor(rand() * names.length)]!
        if (other === name) continue
        const to = Math.floor(rand() * 100_000)
        const n = await drive.posix.copy(node, at, await inode(other), to, 500_000)
        const bytes = want.subarray(at, at + n)
        const target = Buffer.from(grow(model.get(other)!, n ? to + n : 0))
        bytes.copy(target, to)
        model.set(other, target)
      } else if (kind < 0.7) {
        await drive.posix.fsync(node)
      } else if (kind < 0.73) {
        await new Promise((r) => setTimeout(r, Math.floor(rand() * 250)))
      } else if (kind < 0.74) {
        await drive.gc()
      } else if (kind < 0.76) {
        await drive.close()
        drive = await Drive.open(dir)
      } else {
        const n = 1 + Math.floor(rand() * 300_000)
        const got = Buffer.concat(await drive.reader.read(node, at, n))
        const expected = want.subarray(at, at + n)
        if (!got.equals(expected)) throw new Error(`seed ${seed} step ${i}: ${name} differs at ${at + firstDifference(got, expected)} (read ${got.length} at ${at}, size ${want.length})`)
      }
      if (node.size !== model.get(name)!.length && (await inode(name)) === node) throw new Error(`seed ${seed} step ${i}: size ${node.size}, not ${model.get(name)!.length}`)
    }
    for (const pass of ['as it is', 'reopened']) {
      for (const n of names) {
        const want = model.get(n)!
        const got = Buffer.concat(await drive.reader.read(await inode(n), 0, MAX * 2))
        if (!got.equals(want)) throw new Error(`seed ${seed}, ${pass}: ${n} differs at ${firstDifference(got, want)} of ${want.length}`)
      }
      const report = await drive.fsck({ data: true })
      if (report.problems.length) throw new Error(`seed ${seed}, ${pass}: ${JSON.stringify(report.problems[0])}`)
      await drive.close()
      drive = await Drive.open(dir)
    }
  } finally {
    await drive.close()
  }
}

function firstDifference(a: Buffer, b: Buffer): number {
  const n = Math.min(a.length, b.length)
  for (let i = 0; i < n; i++) if (a[i] !== b[i]) return i
  return n
}

const seeds = process.env['DFS_SEEDS'] ? process.env['DFS_SEEDS'].split(',').map(Number) : [1, 2, 3, 101, 129]
for (const seed of seeds) {
  test(`files hold what was written (seed ${seed})`, async (t) => {
    await run(t, seed, 220)
    t.pass()
  })
}
