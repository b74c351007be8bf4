/** What programs may ask for in vain, and signals at the worst moment: what was answered is kept, and nothing half is left. */
import test, { type Assert } from 'brittle'
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, readSync, writeFileSync } from 'node:fs'
import { link, mkdir, open, readdir, rename, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DFS, dfs, isAlive, isMounted, processesOf, withMount, type TestMount } from '../helpers/mount.js'
import { clearAway, clearedDir } from '../helpers/cleared.js'
import { ended } from '../helpers/memmount.js'
import { errnoOf, refused } from '../helpers/refused.js'
import { sleep } from '../helpers/run.js'

const LONG = { timeout: 120_000 }
const LIMIT_BYTES = 2 ** 47

test('names of 256 bytes, by every call that makes one', LONG, async (t) => {
  const m = await withMount(t)
  const long = join(m.dir, 'n'.repeat(256))
  const umlauts = join(m.dir, 'ü'.repeat(128))
  await writeFile(join(m.dir, 'f'), 'x')
  for (const path of [long, umlauts]) {
    t.is(await errnoOf(writeFile(path, 'x')), 'ENAMETOOLONG')
    t.is(await errnoOf(mkdir(path)), 'ENAMETOOLONG')
    t.is(await errnoOf(symlink('f', path)), 'ENAMETOOLONG')
    t.is(await errnoOf(link(join(m.dir, 'f'), path)), 'ENAMETOOLONG')
    t.is(await errnoOf(rename(join(m.dir, 'f'), path)), 'ENAMETOOLONG')
    t.is(await errnoOf(stat(path)), 'ENAMETOOLONG')
  }
  t.is(await errnoOf(writeFile(long.slice(0, -1), 'x')), 'none', '255 bytes are fine')
  t.is(await errnoOf(symlink('t'.repeat(4096), join(m.dir, 'l'))), 'ENAMETOOLONG', 'a target of 4096')
  t.is(await errnoOf(symlink('t'.repeat(4095), join(m.dir, 'l'))), 'none')
  for (const args of [['mkdir', `/${'n'.repeat(256)}`], ['mv', '/f', `/${'n'.repeat(256)}`], ['put', join(m.dir, 'f'), `/${'n'.repeat(256)}`]]) {
    const [code, message] = refused(await m.dfs(...args))
    t.is(code, 1)
    t.ok(/too long|255/.test(message), message)
  }
  t.alike((await readdir(m.dir)).sort(), ['f', 'l', 'n'.repeat(255)])
})

test('files past the size limit', LONG, async (t) => {
  const m = await withMount(t)
  const path = join(m.dir, 'f')
  await writeFile(path, 'x')
  const handle = await open(path, 'r+')
  t.is(await errnoOf(truncate(path, LIMIT_BYTES + 1)), 'EFBIG')
  t.is(await errnoOf(handle.write(Buffer.from('y'), 0, 1, LIMIT_BYTES)), 'EFBIG')
  t.is((await handle.stat()).size, 1, 'it is as it was')
  t.is(await errnoOf(truncate(path, LIMIT_BYTES)), 'none', 'to the last byte')
  t.is(await errnoOf(handle.write(Buffer.from('y'), 0, 1, LIMIT_BYTES - 1)), 'none')
  await handle.sync()
  await handle.close()
  await m.remount()
  t.is((await stat(path)).size, LIMIT_BYTES)
  const fd = openSync(path, 'r')
  const last = Buffer.alloc(2)
  t.alike([readSync(fd, last, 0, 2, LIMIT_BYTES - 2), last.toString('latin1')], [2, '\0y'])
  closeSync(fd)
  t.is((await m.dfs('fsck', '--data')).code, 0)
})

/** Programs that append to files of their own until they are refused, and count what was answered. */
function writers(dir: string, count: number): { answered: number[]; digests: () => string[]; ends: Promise<string[]> } {
  const answered = new Array<number>(count).fill(0)
  const hashes = answered.map(() => createHash('sha256'))
  const ends = Promise.all(answered.map(async (_, i) => {
    const handle = await open(join(dir, `w${i}`), 'wx')
    try {
      for (;;) {
        const piece = randomBytes(i === 0 ? 1 << 20 : 5000)
        const { bytesWritten } = await handle.write(piece)
        hashes[i]!.update(piece.subarray(0, bytesWritten))
        answered[i]! += bytesWritten
        // Heavy, and no more than a slow disk takes in the seconds until the daemon has ended.
        if (i === 0) await sleep(20)
      }
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? String(error)
    } finally {
      await handle.close().catch(() => {})
    }
  }))
  return { answered, digests: () => hashes.map((h) => h.copy().digest('hex')), ends }
}

/** Each file holds all that was answered, and no more than one write beyond. */
function checkWritten(t: Assert, m: TestMount, { answered, digests }: ReturnType<typeof writers>): void {
  answered.forEach((bytes, i) => {
    const content = readFileSync(join(m.dir, `w${i}`))
    t.ok(content.length >= bytes, `w${i}: ${content.length} bytes, ${bytes} were answered`)
    t.is(createHash('sha256').update(content.subarray(0, bytes)).digest('hex'), digests()[i], `w${i} byte for byte`)
  })
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`${signal} to the daemon during heavy writing: all that was answered is kept, the mount is gone`, LONG, async (t) => {
    const m = await withMount(t)
    const pid = await m.pid()
    const work = writers(m.dir, 3)
    await sleep(500)
    process.kill(pid, signal)
    const errnos = await work.ends
    t.ok(errnos.every((e) => ['ENOTCONN', 'EIO', 'ENODEV', 'EACCES', 'ECONNABORTED'].includes(e)), `programs are told: ${errnos.join(', ')}`)
    for (let i = 0; i < 1000 && isAlive(pid); i++) await sleep(10)
    t.absent(isAlive(pid), 'it has ended')
    t.absent(isMounted(m.dir), 'unmounted')
    t.absent(existsSync(join(m.store!, 'control.sock')))
    await m.mount()
    checkWritten(t, m, work)
    t.is((await m.dfs('fsck', '--data')).code, 0)
  })
}

/** `dfs mount -f` on a new store, ready. Gone with the test. */
async function foreground(t: Assert): Promise<{ scratch: string; store: string; dir: string; child: ChildProcess; output: () => string; over: Promise<[number | null, NodeJS.Signals | null]> }> {
  let started: ChildProcess | undefined
  const scratch = clearedDir(t, async (made) => {
    if (started) await ended(started, 'SIGKILL')
    await clearAway(join(made, 'store'), join(made, 'mnt'))
  })
  const [store, dir] = [join(scratch, 'store'), join(scratch, 'mnt')]
  mkdirSync(dir)
  const child = started = spawn(process.execPath, [DFS, '--store', store, 'mount', '-f', dir], { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' })
  let output = ''
  const over = new Promise<[number | null, NodeJS.Signals | null]>((resolve) => child.on('close', (code, signal) => resolve([code, signal])))
  for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (b: Buffer) => (output += b.toString()))
  for (let i = 0; i < 600 && !output.includes('Mounted on'); i++) await sleep(25)
  return { scratch, store, dir, child, output: () => output, over }
}

for (const [signal, wanted] of [['SIGINT', 130], ['SIGTERM', 143]] as const) {
  test(`${signal} to dfs mount -f during writing: flushed, unmounted, exit code ${wanted}`, LONG, async (t) => {
    const { scratch, store, dir, child, output, over } = await foreground(t)
    const content = randomBytes(30 << 20)
    await writeFile(join(dir, 'f'), content)
    child.kill(signal)
    t.alike(await over, [wanted, null])
    t.absent(/\bat .*:\d+:\d+/.test(output()), output())
    t.absent(isMounted(dir))
    t.is(processesOf(store).length, 0)
    t.is((await dfs(['--store', store, 'get', '/f', join(scratch, 'back')])).code, 0)
    t.ok(readFileSync(join(scratch, 'back')).equals(content))
  })
}

test('dfs mount -f that is killed takes its daemon along in good order', LONG, async (t) => {
  const { store, dir, child } = await foreground(t)
  await writeFile(join(dir, 'f'), 'kept')
  child.kill('SIGKILL')
  for (let i = 0; i < 1000 && (isMounted(dir) || processesOf(store).length > 0); i++) await sleep(10)
  t.absent(isMounted(dir))
  t.is((await dfs(['--store', store, 'cat', '/f'])).stdout, 'kept')
})

for (const signal of ['SIGINT', 'SIGTERM', 'SIGKILL'] as const) {
  test(`dfs put -r that ends by ${signal} leaves nothing half`, LONG, async (t) => {
    const m = await withMount(t)
    const tree = join(m.scratch, 'tree')
    mkdirSync(join(tree, 'sub'), { recursive: true })
    for (let i = 0; i < 300; i++) writeFileSync(join(tree, i % 2 ? 'sub' : '.', `f${i}`), randomBytes(200_000))
    await mkdir(join(m.dir, 'old'))
    const child = spawn(process.execPath, [DFS, '--store', m.store!, 'put', '-r', tree, '/old'], { stdio: 'ignore', cwd: '/' })
    t.teardown(() => ended(child, 'SIGKILL'), { force: true, order: 0 })
    const over = new Promise((resolve) => child.on('exit', resolve))
    while (child.exitCode === null && dirtyOf(m) === 0) await sleep(5)
    child.kill(signal)
    t.is(await over, { SIGINT: 130, SIGTERM: 143, SIGKILL: null }[signal])
    if (signal === 'SIGKILL') await sleep(500)
    await m.remount()
    // Who is killed cannot clear up: what it was making keeps its temporary name.
    const left = readdirSync(join(m.dir, 'old'))
    t.alike(signal === 'SIGKILL' ? left.filter((name) => !name.startsWith('.dfs-copy-')) : left, [], 'not under its name')
    t.is((await m.dfs('fsck', '--data')).code, 0)
  })
}

/** Bytes in segments: a copy is under way. */
function dirtyOf(m: TestMount): number {
  return readdirSync(join(m.store!, 'segments')).filter((name) => name.endsWith('.seg')).length
}
