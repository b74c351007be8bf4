/** Notifications reach the kernel's caches, and waiting reads can be interrupted. */
import test from 'brittle'
import { spawn } from 'node:child_process'
import { promises as fs } from 'node:fs'
import { join } from 'node:path'
import { knowsExpiry } from '../helpers/kernel.js'
import { ended, shell, withMemMount } from '../helpers/memmount.js'

const sleep = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

test('cached data, sizes, names, missing names and listings are believed until they are invalidated', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  const file = join(dir, 'f')
  const ino = memfs.put(1, 'f', Buffer.from('old'))
  t.is(await fs.readFile(file, 'utf8'), 'old')
  const handle = await fs.open(file)
  t.teardown(() => handle.close(), { force: true })
  memfs.put(1, 'f', Buffer.from('new')) // of the same size: after a read the kernel asks for attributes, as atime may have changed
  t.is(await fs.readFile(file, 'utf8'), 'old', 'no notification, no change')
  memfs.put(1, 'f', Buffer.from('newer'))
  mount.notifier.invalInode(ino, 0, 0)
  await mount.notifier.drained()
  t.is(await fs.readFile(file, 'utf8'), 'newer')
  const bytes = Buffer.alloc(5)
  await handle.read(bytes, 0, 5, 0)
  t.is(bytes.toString(), 'newer', 'also through a file that was open')

  await t.exception(fs.stat(join(dir, 'later')), /ENOENT/)
  t.alike(await fs.readdir(dir), ['f'])
  t.alike(await fs.readdir(dir), ['f'])
  const lookups = memfs.count('lookup')
  memfs.put(1, 'later', Buffer.from('x'))
  await t.exception(fs.stat(join(dir, 'later')), /ENOENT/)
  t.is(memfs.count('lookup'), lookups, 'a missing name is remembered')
  mount.notifier.invalEntry(1, Buffer.from('later'))
  await mount.notifier.drained()
  t.is((await fs.stat(join(dir, 'later'))).size, 1)
  t.alike((await fs.readdir(dir)).sort(), ['f', 'later'])

  memfs.put(1, 'unheard-of', Buffer.from('x'))
  mount.notifier.invalEntry(1, Buffer.from('unheard-of'))
  await mount.notifier.drained()
  t.alike((await fs.readdir(dir)).sort(), ['f', 'later', 'unheard-of'], 'a name the kernel did not know changes the listing')

  memfs.unlink(1, Buffer.from('later'))
  mount.notifier.deleted(1, (await fs.stat(join(dir, 'later'))).ino, Buffer.from('later'))
  await mount.notifier.drained()
  await t.exception(fs.stat(join(dir, 'later')), /ENOENT/)
})

test('an invalidation that overtakes the reply to a look-up, or to a change of attributes, is not lost', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  const names = Array.from({ length: 300 }, (_, i) => `f${i}`)
  const inos = names.map((name) => memfs.put(1, name, Buffer.from('a')))
  // Changed as soon as the reply is written, while the program that asked wakes up.
  const later = (name: string, content: string) => setImmediate(() => mount.notifier.invalInode(memfs.put(1, name, Buffer.from(content)), 0, 0))
  const { lookup, setattr } = memfs
  memfs.lookup = (parent, name) => {
    const found = lookup.call(memfs, parent, name)
    if (typeof found !== 'object' || found instanceof Promise) return found
    later(name.toString(), 'aa')
    return { ...found }
  }
  memfs.setattr = (ino, set) => {
    const changed = setattr.call(memfs, ino, set)
    if (typeof changed !== 'object' || changed instanceof Promise) return changed
    later(names[inos.indexOf(ino)]!, 'aaa')
    return { ...changed }
  }
  const isSoon = async (size: number) => {
    let wrong = names
    for (let n = 0; n < 100 && wrong.length > 0; n++) {
      await sleep(50)
      const sizes = await Promise.all(wrong.map(async (name) => (await fs.stat(join(dir, name))).size))
      wrong = wrong.filter((_, i) => sizes[i] !== size)
    }
    return wrong.length
  }
  await shell('cd "$1"; seq -f f%.0f 0 299 | xargs stat -c %s > /dev/null', dir)
  t.is(await isSoon(2), 0, 'a look-up')
  memfs.lookup = lookup
  await shell('cd "$1"; seq -f f%.0f 0 299 | xargs chmod 600', dir)
  t.is(await isSoon(3), 0, 'a change of attributes')
})

const isFree = () => true

/** The tree under `dir/old`, all of it in the kernel's caches. */
async function cachedTree(dir: string): Promise<void> {
  await shell('cd "$1"; mkdir -p old/sub other; for i in 1 2 3; do echo "$i" > old/$i; echo "sub $i" > old/sub/$i; done; ls -lR . > /dev/null; cat old/? old/sub/? > /dev/null', dir)
  await exists(join(dir, 'new'))
  await exists(join(dir, 'other/new'))
}

async function exists(path: string): Promise<boolean> {
  return fs.stat(path).then(() => true, (e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return false
    throw e
  })
}

for (const to of ['new', 'other/new']) {
  test(`a directory that others moved to ${to} is there at once, with all that the kernel had of it, and its old name is gone`, async t => {
    const { dir, memfs, mount } = await withMemMount(t)
    await cachedTree(dir)
    const ino = (await fs.stat(join(dir, 'old'))).ino
    const parent = to === 'new' ? 1 : (await fs.stat(join(dir, 'other'))).ino
    // A process that is in it, and one that has nothing but an open file there.
    const inside = spawn('sh', ['-ec', 'cd "$1"; echo; read a; pwd -P; cat 1', 'sh', join(dir, 'old/sub')], { stdio: ['pipe', 'pipe', 'inherit'], cwd: '/' })
    t.teardown(() => ended(inside, 'SIGKILL'), { order: 1, force: true })
    await new Promise(resolve => inside.stdout.once('data', resolve))
    memfs.rename(1, Buffer.from('old'), parent, Buffer.from('new'), 0)
    mount.notifier.invalEntry(1, Buffer.from('old'), isFree)
    mount.notifier.invalEntry(parent, Buffer.from('new'))
    await mount.notifier.drained()
    const [lookups, reads] = [memfs.count('lookup'), memfs.count('read')]
    t.is((await fs.stat(join(dir, to))).ino, ino)
    t.is(await shell('cat "$1"/? "$1"/sub/?', join(dir, to)), '1\n2\n3\nsub 1\nsub 2\nsub 3\n')
    if (knowsExpiry()) t.alike([memfs.count('lookup') - lookups, memfs.count('read') - reads], [1, 0], 'asked for the new name alone')
    t.absent(await exists(join(dir, 'old')))
    t.absent(await exists(join(dir, 'old/1')))
    t.alike((await fs.readdir(join(dir))).sort(), to === 'new' ? ['new', 'other'] : ['other'])
    let said = ''
    inside.stdout.on('data', (part: Buffer) => { said += part.toString() })
    const over = new Promise(resolve => inside.once('close', resolve))
    inside.stdin.end('\n')
    await over
    t.is(said, `${join(dir, to)}/sub\nsub 1\n`, 'who was in it still is')

    // What changes in it from here on, also before anybody has looked at its next name.
    memfs.rename(parent, Buffer.from('new'), 1, Buffer.from('third'), 0)
    mount.notifier.invalEntry(parent, Buffer.from('new'), isFree)
    mount.notifier.invalEntry(1, Buffer.from('third'))
    mount.notifier.invalInode(memfs.put(ino, '1', Buffer.from('changed')), 0, 0)
    memfs.unlink(ino, Buffer.from('2'))
    mount.notifier.invalEntry(ino, Buffer.from('2'))
    memfs.put(ino, '4', Buffer.from('more'))
    mount.notifier.invalEntry(ino, Buffer.from('4'))
    await mount.notifier.drained()
    t.alike((await fs.readdir(join(dir, 'third'))).sort(), ['1', '3', '4', 'sub'])
    t.is(await shell('cat "$1"/?', join(dir, 'third')), 'changed3\nmore')
    t.absent(await exists(join(dir, to)))
  })
}

test('a directory that others moved, and nobody looks for, is dropped after a while', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  await cachedTree(dir)
  const before = memfs.lookups
  memfs.rename(1, Buffer.from('old'), 1, Buffer.from('new'), 0)
  mount.notifier.invalEntry(1, Buffer.from('old'), isFree)
  mount.notifier.invalEntry(1, Buffer.from('new'))
  for (let n = 0; n < 100 && memfs.lookups > before - 8; n++) await sleep(50)
  t.ok(memfs.lookups <= before - 8, 'it and the seven below it are forgotten')
  t.ok(await exists(join(dir, 'new/sub/3')))
})

test('who makes a directory under a name that others took away by moving stays in it', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  await cachedTree(dir)
  memfs.rename(1, Buffer.from('old'), 1, Buffer.from('new'), 0)
  let isAsked = false
  mount.notifier.invalEntry(1, Buffer.from('old'), () => {
    isAsked = true
    return false
  })
  mount.notifier.invalEntry(1, Buffer.from('new'))
  await mount.notifier.drained()
  const inside = spawn('sh', ['-ec', 'mkdir "$1/old"; cd "$1/old"; echo; read a; readlink /proc/self/cwd', 'sh', dir], { stdio: ['pipe', 'pipe', 'inherit'], cwd: '/' })
  t.teardown(() => ended(inside, 'SIGKILL'), { order: 1, force: true })
  let said = ''
  inside.stdout.on('data', (part: Buffer) => { said += part.toString() })
  while (!isAsked) await sleep(50)
  await mount.notifier.drained()
  const over = new Promise(resolve => inside.once('close', resolve))
  inside.stdin.end('\n')
  await over
  t.is(said, `\n${join(dir, 'old')}\n`)
})

test('the name of a directory that moved while it was looked up again is not believed', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  const names = Array.from({ length: 300 }, (_, i) => `d${i}`)
  await shell('cd "$1"; seq -f d%.0f 0 299 | xargs mkdir; ls -l > /dev/null', dir)
  const { lookup } = memfs
  // mkdir(2) has the kernel ask again for what it has (LOOKUP_EXCL).
  memfs.lookup = (parent, name) => {
    const found = lookup.call(memfs, parent, name)
    const is = name.toString()
    if (typeof found !== 'object' || found instanceof Promise || !is.startsWith('d')) return found
    setImmediate(() => {
      memfs.rename(1, Buffer.from(is), 1, Buffer.from(`to-${is}`), 0)
      mount.notifier.invalEntry(1, Buffer.from(is), isFree)
      mount.notifier.invalEntry(1, Buffer.from(`to-${is}`))
    })
    return { ...found }
  }
  await shell('cd "$1"; seq -f d%.0f 0 299 | xargs mkdir 2> /dev/null || true', dir)
  memfs.lookup = lookup
  const start = performance.now()
  let wrong = names
  while (performance.now() - start < 1000 && wrong.length > 0) {
    await sleep(20)
    const found = await Promise.all(wrong.map((name) => exists(join(dir, name))))
    wrong = wrong.filter((_, i) => found[i])
  }
  t.alike(wrong, [])
  t.alike(new Set(await fs.readdir(dir)), new Set(names.map((name) => `to-${name}`)))
})

test('an invalidation that waits for a read holds up neither the read nor other inodes', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  const ino = memfs.put(1, 'waits', Buffer.alloc(8192, 1))
  const other = memfs.put(1, 'other', Buffer.from('old'))
  t.is(await fs.readFile(join(dir, 'other'), 'utf8'), 'old')
  let answer!: (data: Buffer) => void
  memfs.readHook = which => (which === ino ? new Promise<Buffer>(resolve => (answer = resolve)) : undefined)
  const reading = fs.readFile(join(dir, 'waits'))
  while (answer === undefined) await sleep(5)
  mount.notifier.invalInode(ino, 0, 0)
  for (let i = 0; i < 8; i++) mount.notifier.invalInode(ino + 100 + i, 0, 0)
  memfs.put(1, 'other', Buffer.from('new'))
  mount.notifier.invalInode(other, 0, 0)
  await sleep(50)
  t.is(await fs.readFile(join(dir, 'other'), 'utf8'), 'new')
  memfs.readHook = undefined
  answer(Buffer.alloc(8192, 2))
  await reading // either: the reader may find the pages gone before it sees them, and read again
  await mount.notifier.drained()
  t.is((await fs.readFile(join(dir, 'waits')))[0], 1, 'what was read before the invalidation is not kept')
})

test('more notifications than the queue holds are all delivered', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  for (let i = 0; i < 2000; i++) memfs.put(1, `f${i}`, Buffer.from('a'))
  await shell('cat "$1"/* > /dev/null', dir)
  for (let i = 0; i < 2000; i++) memfs.put(1, `f${i}`, Buffer.from('b'))
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i < 2000; i++) mount.notifier.invalInode(2 + i, 0, 0)
  }
  await mount.notifier.drained()
  t.is(await shell('cat "$1"/* | tr -d b | wc -c', dir), '0\n')
})

for (const [signal, how] of [['SIGKILL', 'killed'], ['SIGINT', 'interrupted']] as const) {
  test(`a reader of what never comes can be ${how}`, async t => {
    const { dir, memfs } = await withMemMount(t)
    memfs.put(1, 'never', Buffer.alloc(100))
    let told = 0
    let asked = 0
    memfs.readHook = (_ino, _offset, _size, interrupt) => {
      asked++
      interrupt.onInterrupt(() => told++)
      return new Promise<Buffer>(() => {})
    }
    const file = join(dir, 'never')
    // O_DIRECT: one request in the reader's own name, which we must answer; a buffered read waits for pages, where a deadly signal ends it
    for (const [program, ...args] of [['dd', `if=${file}`, 'bs=4096', 'iflag=direct'], ['cat', file]] as const) {
      const before = asked
      const reader = spawn(program, args, { stdio: 'ignore' })
      t.teardown(() => ended(reader, 'SIGKILL'), { order: 1, force: true })
      while (asked === before) await sleep(5)
      await sleep(50)
      const start = Date.now()
      await ended(reader, signal)
      t.ok(Date.now() - start < 1000, program)
    }
    t.ok(told >= 1, 'the operation was told')
  })
}

test('a signal that the program goes on after does not fail its read', async t => {
  const { dir, memfs } = await withMemMount(t)
  memfs.put(1, 'slow', Buffer.from('slow'))
  memfs.readHook = () => new Promise<Buffer>(resolve => setTimeout(() => resolve(Buffer.from('slow')), 600))
  const script = `
import os, signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
f = os.open(sys.argv[1] + '/slow', os.O_RDONLY | os.O_DIRECT)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
b = ctypes.create_string_buffer(4096 * 2)
address = (ctypes.addressof(b) + 4095) & ~4095
n = libc.read(f, ctypes.c_void_p(address), 4096)
signal.setitimer(signal.ITIMER_REAL, 0)
print(n, ctypes.get_errno() if n < 0 else 0)`
  t.is((await shell('python3 -c "$2" "$1"', dir, script)).trim(), '4 0')
})
