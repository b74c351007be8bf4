/**
 * The disk of the store is full: the writer is told at write(2), what was accepted is kept, the drive stays sound and
 * readable, and deleting makes room. On a small file system of its own.
 */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statfsSync, statSync } from 'node:fs'
import { mkdir, open, readdir, rm, truncate, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { clearedDir } from '../helpers/cleared.js'
import { isMounted, makeMount, type TestMount } from '../helpers/mount.js'
import { errnoOf } from '../helpers/refused.js'
import { must, run, sleep } from '../helpers/run.js'

const LONG = { timeout: 240_000 }
const DISK_MIB = 128
const PIECE_BYTES = 1 << 20

const DISKS: Record<string, (dir: string, scratch: string) => Promise<unknown>> = {
  tmpfs: (dir) => must('mount', ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m`, 'tmpfs', dir]),
  async ext4(dir, scratch) {
    const image = join(scratch, 'image')
    await writeFile(image, '')
    await truncate(image, DISK_MIB << 20)
    await must('mkfs.ext4', ['-q', '-m', '0', image])
    await must('mount', ['-o', 'loop', image, dir])
  },
}

/** A drive whose store is on a disk of DISK_MIB. */
async function small(t: Assert, disk: string): Promise<TestMount & { disk: string }> {
  let m: TestMount | undefined
  const scratch = clearedDir(t, async (made) => {
    await m?.close()
    // Whoever was killed may still have files open for a moment.
    for (let n = 0; n < 50 && (await run('umount', [join(made, 'disk')])).code !== 0 && isMounted(join(made, 'disk')); n++) await sleep(100)
  })
  const dir = join(scratch, 'disk')
  mkdirSync(dir)
  await DISKS[disk]!(dir, scratch)
  m = await makeMount({ parent: dir })
  return Object.assign(m, { disk: dir })
}

/** Writes pieces to new files until one fails; gives the errno, which call it came from, and what was accepted. */
async function fill(m: TestMount, name: string): Promise<{ errno: string; at: string; accepted: Map<string, Buffer[]> }> {
  const accepted = new Map<string, Buffer[]>()
  for (let i = 0; ; i++) {
    const file = `${name}${i}`
    const pieces: Buffer[] = []
    let at = 'open'
    try {
      const handle = await open(join(m.dir, file), 'wx')
      accepted.set(file, pieces)
      try {
        for (let n = 0; n < 8; n++) {
          at = 'write'
          const piece = randomBytes(PIECE_BYTES)
          const { bytesWritten } = await handle.write(piece)
          pieces.push(piece.subarray(0, bytesWritten))
          if (bytesWritten < piece.length) n--
        }
        at = 'fsync'
        await handle.sync()
        at = 'close'
      } finally {
        await handle.close()
      }
    } catch (error) {
      return { errno: (error as NodeJS.ErrnoException).code ?? String(error), at, accepted }
    }
  }
}

async function fillBehind(disk: string, ...prefix: string[]): Promise<void> {
  const filler = join(disk, 'filler')
  for (const [of, bs] of [[filler, '1M'], [`${filler}.small`, '4k']]) {
    const [program, ...args] = [...prefix, 'dd', 'if=/dev/zero', `of=${of}`, `bs=${bs}`]
    await run(program!, args)
  }
}

/** How others fill a disk while a program writes: until it is full once; and taking whatever is given back, at once. */
const OTHERS: Record<string, (disk: string) => Promise<unknown>> = {
  once: (disk) => fillBehind(disk, 'timeout', '5'),
  greedily: (disk) => run('timeout', ['5', 'sh', '-c', `while :; do ${[['64k', 'filler'], ['4k', 'filler.small']]
    .map(([bs, name]) => `dd if=/dev/zero oflag=append conv=notrunc bs=${bs} of='${join(disk, name!)}' 2>/dev/null`).join('; ')}; done`]),
}

/** The files that are not as they were written. */
function damaged(m: TestMount, accepted: Map<string, Buffer[]>): string[] {
  return [...accepted].filter(([name, pieces]) => !readFileSync(join(m.dir, name)).equals(Buffer.concat(pieces))).map(([name]) => name)
}

async function isSound(m: TestMount): Promise<string> {
  const { code, stdout, stderr } = await m.dfs('fsck', '--data')
  return code === 0 ? '' : stdout + stderr
}

for (const disk of Object.keys(DISKS)) {
  test(`a full disk (${disk}): ENOSPC at write, nothing accepted is lost, deleting makes room`, LONG, async (t) => {
    const m = await small(t, disk)
    const { errno, at, accepted } = await fill(m, 'f')
    t.alike([errno, at], ['ENOSPC', 'write'])
    t.ok(accepted.size * 8 > DISK_MIB * 0.6, `most of the disk was used: ${accepted.size} files of 8 MiB`)
    t.is(await errnoOf(writeFile(join(m.dir, 'more'), randomBytes(24 * PIECE_BYTES))), 'ENOSPC', 'and again')
    await rm(join(m.dir, 'more'), { force: true })
    const root = await open(m.dir, 'r')
    t.is(await errnoOf(root.sync()), 'none', 'what was accepted can be made safe')
    await root.close()
    t.alike(damaged(m, accepted), [], 'reading works')
    t.is(await isSound(m), '')

    await m.remount()
    t.alike(damaged(m, accepted), [], 'after mounting anew too')
    for (const name of accepted.keys()) await unlink(join(m.dir, name))
    const gc = await m.dfs('gc')
    t.is(gc.code, 0, gc.stderr + gc.stdout)
    // Workers close what they had open of removed segments a moment later.
    const freeMiB = () => Math.floor(statfsSync(m.disk).bavail * statfsSync(m.disk).bsize / 2 ** 20)
    for (let i = 0; i < 100 && freeMiB() < DISK_MIB / 2; i++) await sleep(50)
    t.ok(freeMiB() >= DISK_MIB / 2, `${freeMiB()} MiB are free`)
    const again = await fill(m, 'g')
    t.alike([again.errno, again.at], ['ENOSPC', 'write'])
    t.ok(again.accepted.size >= 4, `there was room for ${again.accepted.size} more`)
    t.alike(damaged(m, again.accepted), [])
    t.is(await isSound(m), '')
  })

  // gc copies what lives in all thin segments before it removes the first, fails for lack of room, and leaves less of it.
  test(`a full disk (${disk}) of which every second file goes has room again`, LONG, async (t) => {
    const m = await small(t, disk)
    const { accepted } = await fill(m, 'f')
    for (const name of [...accepted.keys()].filter((_, i) => i % 2 === 0)) {
      await unlink(join(m.dir, name))
      accepted.delete(name)
    }
    const gc = await m.dfs('gc')
    t.is(gc.code, 0, gc.stderr)
    const again = await fill(m, 'g')
    t.alike([again.errno, again.at], ['ENOSPC', 'write'])
    t.ok(again.accepted.size >= accepted.size / 2, `there was room for ${again.accepted.size} more`)
    t.alike(damaged(m, new Map([...accepted, ...again.accepted])), [])
    t.is(await isSound(m), '')
  })

  test(`others fill the disk (${disk}) behind our back`, LONG, async (t) => {
    const m = await small(t, disk)
    const before = randomBytes(3 * PIECE_BYTES)
    await writeFile(join(m.dir, 'before'), before)
    await mkdir(join(m.dir, 'sub'))
    const late = await open(join(m.dir, 'late'), 'wx')
    const accepted = randomBytes(4 * PIECE_BYTES)
    await late.write(accepted)
    await late.sync()
    await late.close()
    await fillBehind(m.disk)
    t.ok(statfsSync(m.disk).bavail * statfsSync(m.disk).bsize < PIECE_BYTES, 'nothing is left')
    t.is(await errnoOf(writeFile(join(m.dir, 'no'), randomBytes(PIECE_BYTES))), 'ENOSPC')
    t.ok(readFileSync(join(m.dir, 'before')).equals(before), 'reading works')
    t.ok(readFileSync(join(m.dir, 'late')).equals(accepted))
    t.is(await errnoOf(rm(join(m.dir, 'no'), { force: true })), 'none')
    t.is(await errnoOf(unlink(join(m.dir, 'before'))), 'none', 'deleting works')
    const root = await open(m.dir, 'r')
    t.is(await errnoOf(root.sync()), 'none')
    await root.close()

    for (const name of ['filler', 'filler.small']) await rm(join(m.disk, name), { force: true })
    await sleep(300)
    t.is(await errnoOf(writeFile(join(m.dir, 'after'), before)), 'none', 'with room again, writing works again')
    t.is(await isSound(m), '')
    await m.remount()
    t.alike((await readdir(m.dir)).sort(), ['after', 'late', 'sub'])
    t.ok(readFileSync(join(m.dir, 'after')).equals(before) && readFileSync(join(m.dir, 'late')).equals(accepted))
  })

  for (const [others, fill] of Object.entries(OTHERS)) {
    test(`what was accepted fits although others fill the disk (${disk}) ${others} before it is synced`, LONG, async (t) => {
      const m = await small(t, disk)
      const late = await open(join(m.dir, 'late'), 'wx')
      const filling = fill(m.disk)
      const accepted: Buffer[] = []
      const files = new Map<string, Buffer[]>()
      for (let errno = 'none'; errno === 'none';) {
        const piece = randomBytes(PIECE_BYTES / 4)
        errno = await errnoOf(late.write(piece))
        if (errno === 'none') accepted.push(piece)
        else t.is(errno, 'ENOSPC')
        const name = `f${accepted.length}`
        if (errno === 'none' && await errnoOf(writeFile(join(m.dir, name), piece.subarray(0, 5000))) === 'none') files.set(name, [piece.subarray(0, 5000)])
      }
      files.set('late', accepted)
      t.is(await errnoOf(late.sync()), 'none')
      await late.close()
      t.is((await m.dfs('sync')).code, 0, 'all of it: a sync of the whole mount is not passed on by the kernel')
      await filling
      t.alike(damaged(m, files), [])
      process.kill(await m.pid(), 'SIGKILL')
      await m.unmount()
      await m.mount()
      t.alike(damaged(m, files), [], 'after a crash')
      t.is(await isSound(m), '')
      for (const name of files.keys()) await unlink(join(m.dir, name))
      for (const name of ['filler', 'filler.small']) await rm(join(m.disk, name), { force: true })
      const isKept = () => existsSync(join(m.store!, 'reserve.content')) && statSync(join(m.store!, 'reserve.content')).size > PIECE_BYTES
      for (let i = 0; i < 300 && !isKept(); i++) await sleep(100)
      t.ok(isKept(), 'where there is room again, some is kept again')
      t.is(await errnoOf(writeFile(join(m.dir, 'new'), randomBytes(PIECE_BYTES))), 'none')
    })
  }

  // lock.db cannot be locked, and the reserve is given back later than that.
  test(`a store on a full disk (${disk}) can be mounted, read and emptied`, LONG, async (t) => {
    const m = await small(t, disk)
    const { accepted } = await fill(m, 'f')
    await m.unmount()
    await fillBehind(m.disk)
    await m.mount()
    t.alike(damaged(m, accepted), [])
    for (const name of readdirSync(m.dir)) await unlink(join(m.dir, name))
    const gc = await m.dfs('gc')
    t.is(gc.code, 0, gc.stderr)
    t.is(await isSound(m), '')
    t.is(await errnoOf(writeFile(join(m.dir, 'new'), randomBytes(PIECE_BYTES))), 'none', 'there is room again')
  })
}
