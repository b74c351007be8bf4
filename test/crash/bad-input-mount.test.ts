/** What can be wrong with the machine, the mount point or the daemon: one line that says what to do, and nothing left behind. */
import test, { type Assert } from 'brittle'
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { chown, mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Drive } from '../../lib/drive.js'
import { DFS, dfs, isMounted, kill, LET_GO, makeMount, processesOf, withMount, type TestMount } from '../helpers/mount.js'
import { clearAway, clearedDir } from '../helpers/cleared.js'
import { asNobody, ended } from '../helpers/memmount.js'
import { refused } from '../helpers/refused.js'
import { must, run, shell, sleep } from '../helpers/run.js'

const LONG = { timeout: 120_000 }

/** A store and a mount point, not mounted; nothing of it is left when the test is over. */
function place(t: Assert): { scratch: string; store: string; dir: string; mount(...args: string[]): ReturnType<typeof dfs> } {
  const scratch = clearedDir(t, (made) => clearAway(join(made, 'store'), join(made, 'mnt')))
  const [store, dir] = [join(scratch, 'store'), join(scratch, 'mnt')]
  mkdirSync(dir)
  return { scratch, store, dir, mount: (...args) => dfs(['--store', store, 'mount', ...args], { cwd: scratch }) }
}

async function gone(pid: number): Promise<void> {
  for (let i = 0; i < 400 && existsSync(`/proc/${pid}`) && !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z '); i++) await sleep(10)
}

/** A daemon that could not mount says so, and then ends. */
async function noneLeft(t: Assert, store: string): Promise<void> {
  for (let i = 0; i < 400 && processesOf(store).length > 0; i++) await sleep(25)
  t.alike(processesOf(store), [], 'no daemon is left')
}

async function killDaemon(m: TestMount): Promise<void> {
  const pid = await m.pid()
  kill(pid)
  await gone(pid)
}

test('no /dev/fuse', LONG, async (t) => {
  const { scratch, store, dir } = place(t)
  // A /dev with all that programs need, but that: seen by the command and its daemon alone.
  const dev = join(scratch, 'dev')
  mkdirSync(dev)
  await shell(`for d in null zero random urandom; do cp -a /dev/$d ${dev}/; done`)
  const hidden = ['--mount', 'sh', '-c', `${LET_GO}; mount --bind "$1" /dev; shift; exec "$@"`, 'sh', dev]
  const [code, message] = refused(await run('unshare', [...hidden, process.execPath, DFS, '--store', store, 'mount', dir], { cwd: scratch }))
  t.is(code, 1)
  t.is(message, 'cannot open /dev/fuse; load the kernel module with "modprobe fuse"')
  await noneLeft(t, store)
})

test('root without the right to mount', LONG, async (t) => {
  const { scratch, store, dir } = place(t)
  const [code, message] = refused(await run('setpriv', ['--bounding-set=-sys_admin', process.execPath, DFS, '--store', store, 'mount', dir], { cwd: scratch }))
  t.is(code, 1)
  t.is(message, `not allowed to mount on ${dir}; a container needs CAP_SYS_ADMIN`)
  await noneLeft(t, store)
})

test('an ordinary user: without fusermount3, and where the folder is not his', LONG, async (t) => {
  const { scratch, store, dir } = place(t)
  await chown(scratch, 65534, 65534)
  const nobody = await asNobody(t)
  const mount = (path: string) => run(nobody[0]!, [...nobody.slice(1), 'env', `PATH=${path}`, `HOME=${scratch}`, process.execPath, DFS, '--store', store, 'mount', dir], { cwd: scratch })
  const lacking = refused(await mount('/nonexistent'))
  t.alike(lacking, [1, 'fusermount3 not found; install the package fuse3, or mount as root'])
  const [code, message] = refused(await mount(process.env.PATH!))
  t.is(code, 1)
  t.ok(/write access.*; choose a directory of your own$/.test(message), message)
  await noneLeft(t, store)
})

test('a store of another user', LONG, async (t) => {
  const { scratch, store } = place(t)
  await must(process.execPath, [DFS, '--store', store, 'create'])
  await chown(scratch, 65534, 65534)
  const nobody = await asNobody(t)
  for (const args of [['ls'], ['mount', join(scratch, 'mnt')], ['create']]) {
    const [code, message] = refused(await run(nobody[0]!, [...nobody.slice(1), process.execPath, DFS, '--store', store, ...args], { cwd: scratch }))
    t.not(code, 0)
    t.ok(message.includes(store), message)
  }
})

test('a mount point that is missing, a file, or below a file', LONG, async (t) => {
  const { scratch, store, mount } = place(t)
  writeFileSync(join(scratch, 'file'), 'mine')
  const cases: [dir: string, code: number, message: RegExp][] = [
    ['no/such/folder', 3, /no\/such\/folder does not exist; make it with "mkdir -p/],
    ['file', 4, /file is not a directory; /],
    ['file/below', 3, /does not exist; make it/],
  ]
  for (const [dir, wanted, pattern] of cases) {
    const [code, message] = refused(await mount(dir))
    t.is(code, wanted, dir)
    t.ok(pattern.test(message) && !message.includes('--lazy'), message)
  }
  t.is(readFileSync(join(scratch, 'file'), 'utf8'), 'mine')
  await noneLeft(t, store)
})

test('a folder is made for the mount, and taken away if the mount fails', LONG, async (t) => {
  const { scratch, dir, store, mount } = place(t)
  refused(await mount('-o', 'nonsense', join(scratch, 'new')))
  t.absent(existsSync(join(scratch, 'new')))
  rmSync(dir, { recursive: true })
  symlinkSync(join(scratch, 'elsewhere'), dir)
  t.is(refused(await mount(dir))[0], 3, 'a symlink to nothing')
  await noneLeft(t, store)
})

test('a mount point where another drive is mounted; its own is no error', LONG, async (t) => {
  const first = await withMount(t)
  const { store, mount } = place(t)
  const [code, message] = refused(await mount(first.dir))
  t.is(code, 4)
  t.is(message, `${first.dir} is a dfs mount already; unmount it with "dfs unmount ${first.dir}"`)
  await noneLeft(t, store)
  const again = await first.dfs('mount', first.dir)
  t.is(again.code, 0, again.stderr)
  t.ok(again.stdout.includes('already'))
  await writeFile(join(first.dir, 'f'), 'x')
})

test('a store that another program has open', LONG, async (t) => {
  const { store, dir, mount } = place(t)
  const drive = await Drive.create(store)
  t.teardown(() => drive.close(), { force: true, order: -1 })
  for (const ran of [await mount(dir), await dfs(['--store', store, 'fsck'])]) {
    const [code, message] = refused(ran)
    t.is(code, 4)
    t.ok(message.includes(`the store ${store} is in use by process ${process.pid}; `), message)
  }
  t.absent(isMounted(dir))
})

test('mount with a wrong passphrase, or without one', LONG, async (t) => {
  const { scratch, store, dir } = place(t)
  for (const [name, text] of [['right', 'open sesame\n'], ['wrong', 'open barley\n']] as const) writeFileSync(join(scratch, name), text)
  const as = (file: string, ...args: string[]) => dfs(['--store', store, '--passphrase-file', join(scratch, file), ...args], { cwd: scratch })
  t.is((await as('right', 'create')).code, 0)
  const [code, message] = refused(await as('wrong', 'mount', dir))
  t.is(code, 6)
  t.ok(/passphrase/.test(message) && message.includes('; '), message)
  t.is(refused(await as('none', 'mount', dir))[0], 6)
  t.is(refused(await dfs(['--store', store, 'mount', dir], { cwd: scratch }))[0], 6)
  t.absent(isMounted(dir))
  await noneLeft(t, store)
  t.is((await as('right', 'mount', dir)).code, 0)
})

test('create, twice', LONG, async (t) => {
  const { store } = place(t)
  t.is((await dfs(['--store', store, 'create'])).code, 0)
  const before = readdirSync(store).sort()
  const key = (await dfs(['--store', store, 'key'])).stdout
  const [code, message] = refused(await dfs(['--store', store, 'create']))
  t.alike([code, message], [1, `there is already a drive in ${store}; use another --store`])
  t.alike(readdirSync(store).sort(), before)
  t.is((await dfs(['--store', store, 'key'])).stdout, key)
})

test('a daemon that died: commands see it, mount and unmount clear the dead mount', LONG, async (t) => {
  const m = await withMount(t)
  await writeFile(join(m.dir, 'f'), 'kept')
  await must('sync', [m.dir])
  // So that the kernel could answer stat for itself, for ever.
  await stat(m.dir)
  await killDaemon(m)
  const status = JSON.parse((await m.dfs('status', '--json')).stdout) as { daemon: boolean; mountpoints: unknown[] }
  t.alike([status.daemon, status.mountpoints], [false, []])
  t.is((await m.dfs('cat', '/f')).stdout, 'kept', 'the store is free')
  await m.mount()
  t.alike(await readdir(m.dir), ['f'])
  t.is((await run('grep', ['-c', ` ${m.dir} `, '/proc/self/mountinfo'])).stdout, '1\n', 'one mount, not two on each other')

  await stat(m.dir)
  await killDaemon(m)
  const cleared = await m.dfs('unmount', m.dir)
  t.is(cleared.code, 0, cleared.stderr)
  t.absent(isMounted(m.dir))
  t.is(refused(await m.dfs('unmount', m.dir))[0], 3)
})

test('a dead mount of one store is cleared by the mount of another', LONG, async (t) => {
  const m = await withMount(t)
  await stat(m.dir)
  await killDaemon(m)
  const { mount } = place(t)
  const ran = await mount(m.dir)
  t.is(ran.code, 0, ran.stderr)
  await must('umount', [m.dir])
})

test('a daemon that dies under a command', LONG, async (t) => {
  const m = await makeMount()
  t.teardown(() => m.close(), { force: true })
  const child = spawn(process.execPath, [DFS, '--store', m.store!, 'put', '-', '/half'], { stdio: ['pipe', 'pipe', 'pipe'], cwd: '/' })
  t.teardown(() => ended(child, 'SIGKILL'), { force: true, order: -1 })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (b: Buffer) => (stdout += b.toString()))
  child.stderr.on('data', (b: Buffer) => (stderr += b.toString()))
  child.stdin.on('error', () => {})
  child.stdin.write(Buffer.alloc(300_000, 1))
  await sleep(700)
  const over = new Promise<number>((resolve) => child.on('close', (code) => resolve(code ?? -1)))
  await killDaemon(m)
  child.stdin.end(Buffer.alloc(300_000, 1))
  const [code, message] = refused({ code: await over, signal: null, stdout, stderr })
  t.is(code, 1)
  t.ok(/daemon/.test(message) && message.includes('; '), message)
  t.is((await m.dfs('ls', '/')).stdout, '', 'nothing half is there')
})

test('unmount of a mount in use names who holds it, and how to go on', LONG, async (t) => {
  const m = await withMount(t)
  await mkdir(join(m.dir, 'sub'))
  const holder = spawn('sleep', ['60'], { cwd: join(m.dir, 'sub'), stdio: 'ignore' })
  t.teardown(() => ended(holder, 'SIGKILL'), { force: true, order: 0 })
  await sleep(100)
  const [code, message] = refused(await m.dfs('unmount', m.dir))
  t.is(code, 4)
  t.ok(message.startsWith(`${m.dir} is in use by sleep (process ${holder.pid}); `), message)
  t.is(refused(await m.dfs('stop'))[0], 4)
  await writeFile(join(m.dir, 'f'), 'goes on')
  await ended(holder, 'SIGKILL')
  await m.unmount()
})
