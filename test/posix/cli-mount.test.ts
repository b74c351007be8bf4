import test, { type Assert } from 'brittle'
import { spawn, type ChildProcess } from 'node:child_process'
import { chmodSync, chownSync, createWriteStream, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DFS, makeCli, type Cli } from '../helpers/cli.js'
import { asNobody } from '../helpers/memmount.js'
import { need, run, sleep } from '../helpers/run.js'

const LONG = { timeout: 120_000 }
const WAIT_MS = 20_000
/** As asNobody. */
const NOBODY = 65534

/** A CLI whose mounts are gone after the test, whatever happened. */
function setUp(t: Assert): Cli & { mnt: string; isMounted(dir?: string): boolean; pid(): Promise<number> } {
  const cli = makeCli(t)
  const mnt = join(cli.dir, 'mnt')
  const isMounted = (dir = mnt) => readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${dir} `)
  t.teardown(async () => {
    await cli.dfs(['stop', '--lazy'])
    while (isMounted(`${mnt}`)) if ((await run('umount', ['-l', mnt])).code !== 0) break
  }, { force: true, order: 1 })
  mkdirSync(mnt)
  return { ...cli, mnt, isMounted, pid: async () => (JSON.parse(await cli.ok('status', '--json')) as { pid: number }).pid }
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const start = performance.now(); !(await condition()); await sleep(20)) if (performance.now() - start > WAIT_MS) throw new Error('waited in vain')
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Runs until it is killed; its exit code comes from `ended`. */
function start(cli: Cli, args: string[]): { child: ChildProcess; ended: Promise<number | null>; output: () => string } {
  const child = spawn(process.execPath, [DFS, ...args], { env: { PATH: process.env.PATH, HOME: cli.dir, DFS_STORE: cli.store }, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (b: Buffer) => (output += b.toString()))
  return { child, ended: new Promise((resolve) => child.once('exit', resolve)), output: () => output }
}

test('mount makes the drive, says where it is and how to share it; again is no error', LONG, async (t) => {
  const { ok, mnt, store, isMounted, pid } = setUp(t)
  const said = await ok('mount', mnt)
  for (const word of [mnt, store, 'dfs key', `dfs unmount ${mnt}`]) t.ok(said.includes(word), word)
  t.ok(isMounted())
  t.alike(JSON.parse(await ok('mount', '--json', mnt)), { dir: mnt, driver: 'kernel', store, created: false, already: true })
  const status = JSON.parse(await ok('status', '--json')) as Record<string, unknown>
  t.alike([status.daemon, status.mountpoints], [true, [{ dir: mnt, driver: 'kernel' }]])
  t.ok(readFileSync(`/proc/${await pid()}/environ`, 'latin1').includes('UV_THREADPOOL_SIZE=8'))
  writeFileSync(join(mnt, 'f'), 'through the mount')
  t.is(await ok('cat', '/f'), 'through the mount')
  await ok('mkdir', '/d')
  t.ok(statSync(join(mnt, 'd')).isDirectory(), 'the command line and the mount see one drive')
  const daemon = await pid()
  await ok('unmount', mnt)
  t.absent(isMounted())
  await until(() => !isAlive(daemon))
  t.is(await ok('cat', '/f'), 'through the mount')
})

test('a missing folder is made; one whose parent is missing is not', LONG, async (t) => {
  const { ok, fails, dir } = setUp(t)
  const made = join(dir, 'made')
  await ok('mount', made)
  await ok('unmount', made)
  const [code, message] = await fails('mount', join(dir, 'no/such'))
  t.is(code, 3)
  t.ok(message.includes('mkdir -p'), message)
  t.is((await fails('status', '/none'))[0], 3)
})

test('what cannot be mounted is one line, ends the daemon, and leaves no folder', LONG, async (t) => {
  const { fails, ok, dir, mnt, store } = setUp(t)
  writeFileSync(join(dir, 'file'), '')
  t.is((await fails('mount', join(dir, 'file')))[0], 4)
  t.is((await fails('mount', '-o', 'nonsense', join(dir, 'new')))[0], 2)
  t.absent(existsSync(join(dir, 'new')))
  t.is((await fails('mount', '-o', 'spin=x', mnt))[0], 2)
  t.is((JSON.parse(await ok('status', '--json')) as { daemon: boolean }).daemon, false)
  await ok('mount', mnt)
  const [code, message] = await fails('--store', `${store}2`, 'mount', mnt)
  t.is(code, 4)
  t.ok(message.includes('mount already'), message)
  t.is((await fails('--store', `${store}2`, 'unmount', mnt))[0], 3)
  await ok('unmount', mnt)
})

test('a passphrase is taken before the daemon starts; a wrong one is told', LONG, async (t) => {
  const { ok, fails, dfs, dir, mnt, isMounted } = setUp(t)
  writeFileSync(join(dir, 'right'), 'right')
  writeFileSync(join(dir, 'wrong'), 'wrong')
  await ok('--passphrase-file', join(dir, 'right'), 'mount', mnt)
  await ok('unmount', mnt)
  t.is((await fails('--passphrase-file', join(dir, 'wrong'), 'mount', mnt))[0], 6)
  t.absent(isMounted())
  t.is((await dfs(['--passphrase-file', '-', 'mount', mnt], { input: 'right\n' })).code, 0)
  t.ok(isMounted())
  await ok('unmount', mnt)
})

test('several mounts of one drive, also started at once, are one daemon', LONG, async (t) => {
  const { ok, dir, mnt, pid } = setUp(t)
  const second = join(dir, 'second')
  await Promise.all([ok('mount', mnt), ok('mount', second)])
  writeFileSync(join(mnt, 'f'), 'x')
  t.is(readFileSync(join(second, 'f'), 'utf8'), 'x')
  const daemon = await pid()
  await ok('unmount', mnt)
  t.ok(isAlive(daemon))
  await ok('unmount', second)
  await until(() => !isAlive(daemon))
})

test('unmount says who holds the folder; lazily it goes', LONG, async (t) => {
  const { ok, fails, mnt, isMounted, pid } = setUp(t)
  await ok('mount', mnt)
  const daemon = await pid()
  const holder = spawn('sleep', ['60'], { cwd: mnt })
  t.teardown(() => holder.kill(), { force: true })
  await sleep(100)
  const [code, message] = await fails('unmount', mnt)
  t.is(code, 4)
  t.ok(message.includes(`sleep (process ${holder.pid})`), message)
  t.is((await fails('stop'))[0], 4)
  await ok('unmount', '--lazy', mnt)
  t.absent(isMounted())
  holder.kill()
  await until(() => !isAlive(daemon))
})

test('a mount whose daemon was killed is cleared away, by mount and by unmount', LONG, async (t) => {
  const { ok, mnt, isMounted, pid } = setUp(t)
  await ok('mount', mnt)
  writeFileSync(join(mnt, 'f'), 'kept')
  await ok('sync')
  for (const how of ['mount', 'unmount']) {
    const daemon = await pid()
    process.kill(daemon, 'SIGKILL')
    await until(() => !isAlive(daemon))
    await ok(how, mnt)
    t.is(isMounted(), how === 'mount', how)
    t.is(await ok('cat', '/f'), 'kept')
    if (how === 'mount') t.is(readFileSync(join(mnt, 'f'), 'utf8'), 'kept')
  }
})

test('umount(8) ends the daemon as well', LONG, async (t) => {
  const { ok, mnt, pid } = setUp(t)
  await ok('mount', mnt)
  const daemon = await pid()
  writeFileSync(join(mnt, 'f'), 'x')
  t.is((await run('umount', [mnt])).code, 0)
  await until(() => !isAlive(daemon))
  t.is(await ok('cat', '/f'), 'x')
})

for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]] as const) {
  test(`in the foreground, ${signal} unmounts`, LONG, async (t) => {
    const cli = setUp(t)
    const { child, ended, output } = start(cli, ['mount', '-f', cli.mnt])
    await until(() => cli.isMounted() && output().includes('Mounted'))
    const daemon = await cli.pid()
    writeFileSync(join(cli.mnt, 'f'), 'x')
    child.kill(signal)
    t.is(await ended, code)
    t.absent(cli.isMounted())
    t.absent(isAlive(daemon))
    t.is(await cli.ok('cat', '/f'), 'x')
  })
}

test('in the foreground with a daemon that runs: ctrl-C takes this mount alone', LONG, async (t) => {
  const cli = setUp(t)
  const other = join(cli.dir, 'other')
  await cli.ok('mount', other)
  const { child, ended } = start(cli, ['mount', '-f', cli.mnt])
  await until(() => cli.isMounted())
  await sleep(300)
  child.kill('SIGINT')
  t.is(await ended, 130)
  t.absent(cli.isMounted())
  t.ok(cli.isMounted(other))
  const again = start(cli, ['mount', '-f', cli.mnt])
  await until(() => cli.isMounted())
  await cli.ok('unmount', cli.mnt)
  t.is(await again.ended, 0, 'an unmount by another command ends it')
  await cli.ok('unmount', other)
})

test('in the foreground, the daemon does not outlive its command', LONG, async (t) => {
  const cli = setUp(t)
  const { child, ended } = start(cli, ['mount', '-f', cli.mnt])
  await until(() => cli.isMounted())
  const daemon = await cli.pid()
  child.kill('SIGKILL')
  await ended
  await until(() => !isAlive(daemon))
  t.absent(cli.isMounted())
})

test('SIGTERM during heavy writing: all that was written is there, and the drive is sound', LONG, async (t) => {
  const cli = setUp(t)
  await cli.ok('mount', cli.mnt)
  const daemon = await cli.pid()
  const block = Buffer.alloc(256 * 1024, 'abcdefg')
  const out = createWriteStream(join(cli.mnt, 'f'))
  let written = 0
  let isOver = false
  out.on('error', () => (isOver = true))
  const writer = (async () => {
    while (!isOver) {
      await new Promise<void>((resolve) => out.write(block, (error) => {
        if (error) isOver = true
        else written += block.length
        resolve()
      }))
    }
  })()
  await sleep(700)
  process.kill(daemon, 'SIGTERM')
  await writer
  out.destroy()
  await until(() => !isAlive(daemon) && !cli.isMounted())
  const { size } = JSON.parse(await cli.ok('status', '--json', '/f')) as { size: number }
  t.ok(written > 0 && size >= written, `${written} acknowledged, ${size} there`)
  t.alike((JSON.parse(await cli.ok('fsck', '--data', '--json')) as { problems: unknown[] }).problems, [])
  const { stdout } = await run('/bin/sh', ['-c', `"${process.execPath}" "${DFS}" cat /f | tr -d a-g | wc -c`], { env: { ...process.env, DFS_STORE: cli.store } })
  t.is(stdout.trim(), '0', 'no zeros')
})

test('dfs serve keeps its daemon when a mount goes', LONG, async (t) => {
  const cli = setUp(t)
  await cli.ok('create')
  await cli.serve()
  await cli.ok('mount', cli.mnt)
  await cli.ok('unmount', cli.mnt)
  t.is((JSON.parse(await cli.ok('status', '--json')) as { daemon: boolean }).daemon, true)
  await cli.ok('mount', cli.mnt)
  await cli.ok('stop')
  t.absent(cli.isMounted())
})

test('an ordinary user mounts with fusermount3, and has the folder alone', LONG, async (t) => {
  if (process.geteuid!() !== 0) return t.pass('the other tests ran as one')
  need(['fusermount3', 'fuse3'], ['unshare', 'util-linux'])
  const cli = setUp(t)
  const prefix = await asNobody(t)
  chmodSync(cli.dir, 0o755)
  const home = join(cli.dir, 'home'), mnt = join(home, 'mnt'), store = join(home, 'store')
  mkdirSync(home)
  chownSync(home, NOBODY, NOBODY)
  const asUser = (...command: string[]) => run(prefix[0]!, [...prefix.slice(1), ...command], { cwd: '/', env: { PATH: process.env.PATH, DFS_STORE: store, HOME: home } })
  const dfs = async (...args: string[]) => {
    const { code, stdout, stderr } = await asUser(process.execPath, DFS, ...args)
    if (code !== 0) throw new Error(`dfs ${args.join(' ')}: ${stderr}`)
    return stdout
  }
  t.teardown(() => asUser(process.execPath, DFS, 'stop', '--lazy'), { force: true })
  await dfs('mount', mnt)
  t.is((await asUser('sh', '-c', `echo theirs > ${mnt}/f && stat -c %u:%g ${mnt}/f`)).stdout, `${NOBODY}:${NOBODY}\n`)
  t.is(statSync(store).mode & 0o777, 0o700)
  await dfs('unmount', mnt)
  t.is((await asUser('ls', mnt)).stdout, '')
  t.is(await dfs('cat', '/f'), 'theirs\n')
})
