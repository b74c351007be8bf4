/** A device alone: all others are gone, and it does not have all content. What is here works; what is not ends; nothing hangs. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { appendFile, chmod, constants, mkdir, open, readdir, readFile, rename, rmdir, stat, symlink, truncate, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { freePort } from '../bench/sync-pairs.js'
import { closeMembers, Member, until } from '../helpers/member.js'
import { isMounted } from '../helpers/mount.js'
import { ended } from '../helpers/memmount.js'
import { run } from '../helpers/run.js'
import { scratchDir } from '../helpers/scratch.js'

const LONG = { timeout: 300_000 }
const MIB = 1 << 20

process.env.UV_THREADPOOL_SIZE ??= '16'

/** A has content of which B, with a cache, has only the names, and `/read`. */
async function apart(t: Assert): Promise<{ a: Member; b: Member; contents: Map<string, Buffer> }> {
  // Before the folder's own: after an error they run in the order in which they were given.
  t.teardown(async () => {
    await closeMembers()
    for (const dir of [patientOf(b), b.dir]) if (isMounted(dir)) await run('umount', ['-l', dir])
  }, { force: true, order: 2 })
  const parent = scratchDir(t)
  const [a, b] = [new Member('a', parent, { port: await freePort() }), new Member('b', parent, { port: await freePort() }, { mountArgs: ['-o', 'timeout=2'] })]
  await a.mount()
  await b.join(await a.key(), '--peer', a.address, '--cache', '100M')
  await b.mount()
  const contents = new Map<string, Buffer>()
  for (const name of ['read', 'one', 'two', 'three', 'four', 'five']) {
    contents.set(name, randomBytes(MIB))
    await writeFile(a.at(name), contents.get(name)!)
  }
  await until('b has the names', async () => (await readdir(b.dir)).length === contents.size && (await Promise.all([...contents.keys()].map((n) => stat(b.at(n))))).every((s) => s.size === MIB))
  t.ok((await readFile(b.at('read'))).equals(contents.get('read')!))
  await a.kill()
  await until('b is alone', async () => (await b.status()).peers.length === 0)
  return { a, b, contents }
}

function program(t: Assert, name: string, ...args: string[]): { child: ChildProcess; done: Promise<{ code: number | null; signal: string | null; out: Buffer; err: string }> } {
  const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' }, cwd: '/' })
  t.teardown(() => ended(child, 'SIGKILL'), { force: true, order: 1 })
  const out: Buffer[] = []
  let err = ''
  child.stdout.on('data', (b: Buffer) => out.push(b))
  child.stderr.on('data', (b: Buffer) => { err += String(b) })
  return { child, done: once(child, 'close').then(([code, signal]) => ({ code: code as number | null, signal: signal as string | null, out: Buffer.concat(out), err })) }
}

/** Past the kernel's page cache. */
async function readDirect(path: string): Promise<Buffer> {
  const file = await open(path, constants.O_RDONLY | constants.O_DIRECT)
  try { return await file.readFile() } finally { await file.close() }
}

const patientOf = (b: Member) => `${b.dir}-patient`

/** A second mount of B's, on which reads wait for longer than this test does. */
async function patient(b: Member): Promise<string> {
  const dir = patientOf(b)
  mkdirSync(dir)
  await b.dfs('mount', '-o', 'timeout=3600', dir)
  return dir
}

test('alone: names, attributes and what is here work as before, also while programs wait for what is not; that fails with EIO after the timeout', LONG, async (t) => {
  const { a, b, contents } = await apart(t)
  const dir = await patient(b)
  const waiting = ['one', 'two', 'three'].map((name) => program(t, 'cat', join(dir, name)))
  await until('programs wait for chunks', async () => (await b.status()).network!.wanted.readers > 0)

  const at = (...name: string[]) => b.at(...name)
  t.ok((await readDirect(at('read'))).equals(contents.get('read')!), 'what is here is read')
  await mkdir(at('new'))
  await writeFile(at('new', 'file'), 'written alone')
  await rename(at('five'), at('new', 'moved'))
  await chmod(at('new', 'moved'), 0o600)
  await appendFile(at('new', 'moved'), 'appended to what is not here')
  await truncate(at('four'), 1000)
  await symlink('file', at('new', 'link'))
  const sync = await open(at('new', 'file'), 'r+')
  await sync.sync()
  await sync.close()
  t.is(await readFile(at('new', 'link'), 'utf8'), 'written alone')
  t.alike((await readdir(at('new'))).sort(), ['file', 'link', 'moved'])
  t.is((await stat(at('new', 'moved'))).size, MIB + 'appended to what is not here'.length)
  const tail = await open(at('new', 'moved'))
  const end = Buffer.alloc(8)
  await tail.read(end, 0, 8, MIB + 9)
  await tail.close()
  t.is(end.toString(), 'to what ', 'what was appended is here')
  await unlink(at('new', 'file'))
  await mkdir(at('new', 'empty'))
  await rmdir(at('new', 'empty'))

  const start = performance.now()
  const late = await program(t, 'cat', at('new', 'moved')).done
  t.ok(/Input\/output error/.test(late.err), `EIO: ${late.err}`)
  t.is(late.code, 1)
  t.ok(performance.now() - start >= 1900, 'not before the timeout')
  t.is(await readFile(at('four')).then(() => 'read', (e: NodeJS.ErrnoException) => e.code), 'EIO')

  waiting[0]!.child.kill('SIGINT')
  t.is((await waiting[0]!.done).signal, 'SIGINT', 'ctrl-C ends who waits')

  await a.mount()
  t.ok((await waiting[1]!.done).out.equals(contents.get('two')!), 'who still waits has it when the other is back')
  t.ok((await waiting[2]!.done).out.equals(contents.get('three')!))
  await until('what failed is read', async () => (await readFile(at('new', 'moved')).catch(() => Buffer.alloc(0))).subarray(0, MIB).equals(contents.get('five')!))
  t.ok((await readFile(at('four'))).equals(contents.get('four')!.subarray(0, 1000)))
})

test('unmounting while programs wait for what is not here: it says who, goes lazily, and the daemon can be ended', LONG, async (t) => {
  const { b } = await apart(t)
  const dir = await patient(b)
  const first = program(t, 'cat', join(dir, 'one'))
  await until('it waits', async () => (await b.status()).network!.wanted.readers > 0)
  const busy = await b.tried('unmount', dir)
  t.not(busy.code, 0)
  t.ok(busy.stderr.includes(`cat (process ${first.child.pid})`), busy.stderr)
  await b.dfs('unmount', '--lazy', dir)
  t.absent(isMounted(dir))
  t.is(first.child.exitCode, null, 'who has a file open keeps it')
  first.child.kill('SIGINT')
  t.is((await first.done).signal, 'SIGINT')

  const second = program(t, 'cat', b.at('two'))
  const third = program(t, 'dd', `if=${b.at('three')}`, 'of=/dev/null', 'bs=4k', 'iflag=direct')
  await until('they wait', async () => (await b.status()).network!.wanted.readers > 1)
  const refused = await b.tried('stop')
  t.ok(refused.code !== 0 && refused.stderr.includes('--lazy'), refused.stderr)
  await b.dfs('stop', '--lazy')
  t.ok((await second.done).code === 1 && (await third.done).code === 1, 'who waited gets an error')
  t.absent(isMounted(b.dir))
  await b.mount()
  t.is((await stat(b.at('one'))).size, MIB)
  await b.unmount()
})
