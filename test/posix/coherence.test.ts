/** What changes behind a mount's back is seen on it at once: by the command line, and through a second mount. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { spawn } from 'node:child_process'
import { existsSync, linkSync, readdirSync, readFileSync, renameSync, rmdirSync, statSync, symlinkSync, truncateSync, utimesSync, writeFileSync, appendFileSync, chmodSync, unlinkSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Client } from '../../lib/client.js'
import { sleep } from '../helpers/run.js'
import { makeMount, type TestMount } from '../helpers/mount.js'
import { ended } from '../helpers/memmount.js'
import { scratchDir } from '../helpers/scratch.js'
import { attributes, differences, namesIn, shown } from '../helpers/shown.js'
import { seeded } from '../sim/network.js'

test('the command line changes what a mount has cached', { timeout: 60_000 }, async (t) => {
  const m = await makeMount()
  t.teardown(() => m.close(), { force: true })
  const dfs = async (...args: string[]) => {
    const ran = await m.dfs(...args)
    if (ran.code !== 0) throw new Error(ran.stderr)
  }
  const host = join(scratchDir(t), 'host')
  const at = (name: string) => join(m.dir, name)
  for (const name of ['first', 'second', 'third']) writeFileSync(at(name), `${name} as it was`)
  // In the kernel's caches now: content, attributes, the listing, and names that are not there.
  for (const name of readdirSync(m.dir)) readFileSync(at(name))
  t.absent(existsSync(at('new')))
  t.absent(existsSync(at('moved')))

  await dfs('rm', '/first')
  t.absent(existsSync(at('first')), 'a deleted file is gone')
  writeFileSync(host, 'changed and longer than before')
  await dfs('put', host, '/second')
  t.is(readFileSync(at('second'), 'utf8'), 'changed and longer than before')
  await dfs('put', host, '/new')
  t.is(readFileSync(at('new'), 'utf8'), 'changed and longer than before', 'a name that was known to be missing is there')
  await dfs('mv', '/third', '/moved')
  t.is(readFileSync(at('moved'), 'utf8'), 'third as it was')
  t.absent(existsSync(at('third')))
  await dfs('mkdir', '/dir')
  t.alike(readdirSync(m.dir).sort(), ['dir', 'moved', 'new', 'second'])
})

test('who has changed something through the daemon sees it on the mount at once', { timeout: 60_000 }, async (t) => {
  const m = await makeMount()
  t.teardown(() => m.close(), { force: true })
  writeFileSync(join(m.dir, 'busy'), '')
  const client = (await Client.connect(m.store!))!
  t.teardown(() => client.close(), { force: true })
  let late = 0
  for (let i = 0; i < 300; i++) {
    const path = join(m.dir, `d${i}`)
    if (existsSync(path)) throw new Error('it is not made yet')
    // The threads that tell the kernel have something to do.
    const others = Array.from({ length: 50 }, (_, n) => client.chmod('/busy', 0o600 + (n & 7)))
    await client.mkdir(`/d${i}`)
    if (!existsSync(path)) late++
    await client.rm(`/d${i}`, { recursive: true })
    if (existsSync(path)) late++
    await Promise.all(others)
  }
  t.is(late, 0)
})

async function twoMounts(t: Assert): Promise<{ m: TestMount; other: string }> {
  const m = await makeMount()
  const other = join(m.scratch, 'other')
  t.teardown(async () => {
    await m.dfs('unmount', '--lazy', other)
    await m.close()
  }, { force: true })
  mkdirSync(other)
  const mounted = await m.dfs('mount', other)
  t.is(mounted.code, 0, mounted.stderr)
  return { m, other }
}

test('two mounts of one drive show the same', { timeout: 60_000 }, async (t) => {
  const { m, other } = await twoMounts(t)
  const [a, b] = [m.dir, other]
  writeFileSync(join(a, 'f'), 'one')
  // Told by a thread of its own, right after the reply.
  const soon = async (is: () => boolean, what: string) => {
    for (let n = 0; n < 200 && !is(); n++) await sleep(20)
    t.ok(is(), what)
  }
  t.is(readFileSync(join(b, 'f'), 'utf8'), 'one')
  appendFileSync(join(a, 'f'), ' two')
  await soon(() => readFileSync(join(b, 'f'), 'utf8') === 'one two', 'appended content')
  chmodSync(join(b, 'f'), 0o600)
  await soon(() => (statSync(join(a, 'f')).mode & 0o777) === 0o600, 'a mode')
  t.absent(existsSync(join(b, 'g')))
  renameSync(join(a, 'f'), join(a, 'g'))
  await soon(() => existsSync(join(b, 'g')) && !existsSync(join(b, 'f')), 'a rename')
  t.alike(readdirSync(b), ['g'])
  t.is(statSync(join(b, 'g')).nlink, 1)
  mkdirSync(join(a, 'dir'))
  linkSync(join(a, 'g'), join(a, 'dir/h'))
  await soon(() => statSync(join(b, 'g')).nlink === 2, 'a link count')
  unlinkSync(join(a, 'dir/h'))
  await soon(() => statSync(join(b, 'g')).nlink === 1, 'and again')
  rmdirSync(join(a, 'dir'))
  writeFileSync(join(a, 'g'), '')
  await soon(() => statSync(join(b, 'g')).size === 0, 'truncated as it is opened')
  unlinkSync(join(b, 'g'))
  await soon(() => !existsSync(join(a, 'g')), 'a deletion')
  t.alike(readdirSync(a), [])
})

test('a directory that was moved elsewhere is found by who waits for it, while programs work where it was', { timeout: 60_000 }, async (t) => {
  const { m, other } = await twoMounts(t)
  const python = (script: string, ...args: string[]) => {
    const child = spawn('python3', ['-uc', script, ...args], { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' })
    t.teardown(() => ended(child, 'SIGKILL'), { force: true, order: -1 })
    return child
  }
  for (const dir of ['from', 'to']) mkdirSync(join(m.dir, dir))
  const worker = python(`
import itertools, os, sys
for i in itertools.count():
    name = f'{sys.argv[1]}/file-{i % 50}'
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.unlink(name)`, join(other, 'from'))
  const outcomes = new Set<string>()
  for (const [dir, files] of [...Array.from({ length: 8 }, (_, i) => [`small-${i}`, 3] as const), ['large', 2000] as const]) {
    mkdirSync(join(m.dir, 'from', dir))
    for (let i = 0; i < files; i++) writeFileSync(join(m.dir, 'from', dir, String(i)), '')
    for (let n = 0; n < 200 && (!existsSync(join(other, 'from', dir)) || readdirSync(join(other, 'from', dir)).length < files); n++) await sleep(20)
    for (const name of readdirSync(join(other, 'from', dir))) statSync(join(other, 'from', dir, name))
    const waiting = python(`
import errno, os, sys
print('waits')
while True:
    try:
        os.stat(sys.argv[1])
        print('found')
        break
    except OSError as e:
        if e.errno != errno.ENOENT:
            print(errno.errorcode[e.errno])
            break`, join(other, 'to', dir))
    let said = ''
    waiting.stdout.on('data', (part: Buffer) => { said += part.toString() })
    const over = new Promise((resolve) => waiting.once('close', resolve))
    while (said === '') await sleep(5)
    renameSync(join(m.dir, 'from', dir), join(m.dir, 'to', dir))
    await over
    outcomes.add(said)
    t.absent(existsSync(join(other, 'from', dir)))
    t.is(readdirSync(join(other, 'to', dir)).length, files)
  }
  await ended(worker, 'SIGKILL')
  t.alike([...outcomes], ['waits\nfound\n'])
})

test('two mounts and the command line at random: no kernel keeps what is no longer so', { timeout: 120_000 }, async (t) => {
  const { m, other } = await twoMounts(t)
  const client = (await Client.connect(m.store!))!
  t.teardown(() => client.close(), { force: true, order: -1 })
  const rnd = seeded(4)
  const pick = <T>(all: readonly T[]): T => all[Math.floor(rnd() * all.length)]!
  const dirs = ['.', 'd', 'd/e', 'e']
  mkdirSync(join(m.dir, 'd/e'), { recursive: true })
  const name = () => `${pick(dirs)}/${pick(['p', 'q', 'r', 's', 't'])}`
  const bytes = () => Buffer.alloc(Math.floor(rnd() ** 3 * 20_000), 97 + Math.floor(rnd() * 26))
  const byKernel = (dir: string, roll: number) => {
    const [path, to] = [join(dir, name()), join(dir, name())]
    if (roll < 0.2) writeFileSync(path, bytes())
    else if (roll < 0.3) appendFileSync(path, bytes())
    else if (roll < 0.38) truncateSync(path, Math.floor(rnd() * 1000))
    else if (roll < 0.42) writeFileSync(path, '')
    else if (roll < 0.5) unlinkSync(path)
    else if (roll < 0.62) renameSync(path, to)
    else if (roll < 0.7) linkSync(path, to)
    else if (roll < 0.75) chmodSync(path, pick([0o600, 0o644]))
    else if (roll < 0.8) utimesSync(path, 1000, Math.floor(rnd() * 1e6))
    else if (roll < 0.84) mkdirSync(`${path}-dir`)
    else if (roll < 0.86) rmdirSync(`${path}-dir`)
    else if (roll < 0.87) renameSync(join(dir, pick(['d', 'd/e', 'e'])), join(dir, pick(['d', 'd/e', 'e'])))
    else if (roll < 0.9) symlinkSync(`to ${path.length}`, path)
    else if (roll < 0.95) readdirSync(join(dir, pick(dirs)))
    else readFileSync(path)
  }
  const byCommand = async (roll: number) => {
    const [path, to] = [`/${name()}`, `/${name()}`]
    if (roll < 0.35) {
      const file = await client.open(path, pick(['w', 'a', 'r+']))
      try { await file.write(Math.floor(rnd() * 100), bytes()) } finally { await file.close() }
    } else if (roll < 0.45) await client.rename(path, to)
    else if (roll < 0.5) await client.rename(`/${pick(['d', 'd/e', 'e'])}`, `/${pick(['d', 'd/e', 'e'])}`)
    else if (roll < 0.65) await client.rm(path)
    else if (roll < 0.8) await client.link(path, to)
    else await client.chmod(path, pick([0o600, 0o640]))
  }
  let done = 0
  for (let round = 0; round < 5; round++) {
    for (let i = 0; i < 60; i++) {
      try {
        const who = rnd()
        if (who < 0.2) await byCommand(rnd())
        else byKernel(who < 0.6 ? m.dir : other, rnd())
        done++
      } catch (e) {
        if (!['ENOENT', 'EEXIST', 'ENOTDIR', 'EISDIR', 'ENOTEMPTY', 'EINVAL', 'ELOOP', 'EOPNOTSUPP'].includes((e as { code?: string }).code ?? '')) throw e
      }
    }
    const fresh = join(m.scratch, `fresh-${round}`)
    mkdirSync(fresh)
    await m.dfs('mount', fresh)
    const names = await namesIn(fresh)
    for (const show of [(dir: string) => attributes(dir, names), shown]) {
      const is = await show(fresh)
      for (const dir of [m.dir, other]) {
        // Told by a thread of its own, and once more for replies that were under way.
        let now = ''
        for (let n = 0; n < 60 && (now = await show(dir)) !== is; n++) await sleep(50)
        t.is(now === is, true, `${dir === other ? 'the second' : 'the first'} mount, round ${round}: ${differences(is, now)}`)
      }
    }
    await m.dfs('unmount', fresh)
  }
  t.ok(done > 100, `${done} operations went through`)
})

test('a program that follows a file, and one that has mapped it, see what the other mount writes', { timeout: 60_000 }, async (t) => {
  const { m, other } = await twoMounts(t)
  const path = join(m.dir, 'log')
  writeFileSync(path, 'one\n')
  const said: string[] = []
  const start = (command: string, ...args: string[]) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' })
    t.teardown(() => ended(child, 'SIGKILL'), { force: true, order: -1 })
    child.stdout.on('data', (part: Buffer) => said.push(String(part)))
  }
  const soon = async (what: string, is: () => boolean) => {
    for (let n = 0; n < 400 && !is(); n++) await sleep(25)
    t.ok(is(), `${what}: ${said.join('').slice(-200)}`)
  }
  start('tail', '-n', '+1', '-s', '0.05', '---disable-inotify', '-f', join(other, 'log'))
  await soon('what was there', () => said.join('') === 'one\n')
  for (const line of ['two', 'three', 'four']) {
    appendFileSync(path, `${line}\n`)
    await soon(line, () => said.join('').endsWith(`${line}\n`))
  }
  t.is(said.join(''), 'one\ntwo\nthree\nfour\n')

  said.length = 0
  writeFileSync(join(m.dir, 'map'), Buffer.alloc(10_000, 97))
  start('python3', '-uc', `
import mmap, sys, time
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
last = None
while True:
    now = (m[0], m[5000], m[9999])
    if now != last: print(bytes(now).decode(), flush=True)
    last = now
    time.sleep(0.01)`, join(other, 'map'))
  await soon('as it was', () => said.join('') === 'aaa\n')
  await m.dfs('status')
  const client = (await Client.connect(m.store!))!
  const file = await client.open('/map', 'r+')
  await file.write(5000, Buffer.from('b'))
  await file.write(9999, Buffer.from('c'))
  await file.close()
  await client.close()
  await soon('as it is', () => said.join('').endsWith('abc\n'))
})
