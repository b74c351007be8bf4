import test, { type Assert } from 'brittle'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chmodSync, existsSync, linkSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, truncateSync, utimesSync, writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { Drive } from '../../lib/drive.js'
import { Copier, dataRanges, type CopyOptions } from '../../lib/transfer/copy.js'
import { HostFiles } from '../../lib/transfer/host.js'
import { isDead, ourselves, temporaryName } from '../../lib/transfer/temporary.js'
import { native } from '../../mount/native/index.js'
import { must, need } from '../helpers/run.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

async function setUp(t: Assert): Promise<{ drive: Drive; dir: string; put: (o?: Partial<CopyOptions>) => Copier; get: (o?: Partial<CopyOptions>) => Copier }> {
  const dir = scratchDir(t)
  const drive = await Drive.create(join(dir, 'store'))
  t.teardown(() => drive.close(), { force: true })
  const options = (o: Partial<CopyOptions> = {}): CopyOptions =>
    ({ isRecursive: true, keepOwners: false, modeMask: 0o7777, signal: new AbortController().signal, onProgress() {}, onSkip() {}, keepsXattr: () => true, onXattrsLost() {}, ...o })
  const host = new HostFiles(native())
  return { drive, dir, put: (o) => new Copier(host, drive, options(o)), get: (o) => new Copier(drive, host, options(o)) }
}

async function names(drive: Drive, path: string): Promise<string[]> {
  const found: string[] = []
  for await (const entry of drive.opendir(path)) found.push(entry.name.toString())
  return found.sort()
}

/** Every kind of thing that can be copied. */
function makeTree(root: string): void {
  mkdirSync(join(root, 'sub/empty'), { recursive: true })
  writeFileSync(join(root, 'small'), 'small')
  writeFileSync(join(root, 'sub/large'), randomBytes(3_000_001))
  writeFileSync(join(root, 'none'), '')
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]), 'odd name')
  linkSync(join(root, 'sub/large'), join(root, 'again'))
  symlinkSync('sub/large', join(root, 'link'))
  symlinkSync('/nowhere/at/all', join(root, 'dangling'))
  writeFileSync(join(root, 'sparse'), 'x')
  truncateSync(join(root, 'sparse'), 5_000_000)
  chmodSync(join(root, 'small'), 0o751)
  chmodSync(join(root, 'sub/empty'), 0o500)
  utimesSync(join(root, 'small'), 1_000_000, 1_234_567.891)
  utimesSync(join(root, 'sub'), 1_000_000, 2_345_678.5)
}

test('a tree goes into the drive and comes back the same', async (t) => {
  const { drive, dir, put, get } = await setUp(t)
  const from = join(dir, 'from'), to = join(dir, 'to')
  makeTree(from)
  const report = await put().copy([from], '/tree')
  t.alike([report.files, report.directories, report.symlinks, report.skipped], [6, 3, 2, 0])
  await get().copy(['/tree'], to)
  // Names, types, modes, links, times and contents, as rsync judges them.
  t.is(await must('rsync', ['-naHic', '--delete', `${from}/`, `${to}/`]), '')
  t.is((await drive.stat('/tree/again')).nlink, 2)
  t.is(lstatSync(join(to, 'again')).ino, lstatSync(join(to, 'sub/large')).ino)
  t.ok(lstatSync(join(to, 'sparse')).blocks < 1000, 'a hole stays a hole')
})

test('extended attributes and ACLs go into the drive and come back', async (t) => {
  const { drive, dir, put, get } = await setUp(t)
  const from = join(dir, 'from'), to = join(dir, 'to')
  makeTree(from)
  need(['setfattr', 'attr'], ['setfacl', 'acl'])
  const many = 'v'.repeat(900)
  await must('setfattr', ['-n', 'user.origin', '-v', 'somewhere', join(from, 'small')])
  await must('setfattr', ['-n', 'user.many', '-v', many, join(from, 'small')])
  await must('setfattr', ['-n', 'user.empty', join(from, 'sub')])
  await must('setfacl', ['-m', 'u:1234:rw,g:2345:r,m:rw', join(from, 'sub/large')])
  await must('setfacl', ['-d', '-m', 'u:1234:rwx', join(from, 'sub')])
  await must('setfacl', ['-m', 'u:1234:r', join(from, 'none')])
  chmodSync(join(from, 'none'), 0o444)
  await put().copy([from], '/tree')
  t.alike((await drive.listXattrs('/tree/small')).map(String).sort(), ['user.many', 'user.origin'])
  t.is((await drive.getXattr('/tree/small', Buffer.from('user.many'))).toString(), many)
  t.is((await drive.stat('/tree/none')).mode & 0o777, statSync(join(from, 'none')).mode & 0o777)
  await get().copy(['/tree'], to)
  t.is(await must('rsync', ['-naHAXic', '--delete', `${from}/`, `${to}/`]), '')
  t.is((await drive.stat('/tree/sparse')).hasXattrs, false)

  // The other side gets what it asks for, no more.
  await get({ keepsXattr: (name) => name === 'user.origin' }).copy(['/tree/small'], join(dir, 'less'))
  t.is(await must('getfattr', ['-d', '--only-values', join(dir, 'less')]), 'somewhere')
})

test('where extended attributes cannot be kept, that is told once, and all else is copied', async (t) => {
  const { drive, dir } = await setUp(t)
  for (const name of ['/a', '/b']) {
    await (await drive.open(name, 'w')).close()
    await drive.setXattr(name, Buffer.from('user.x'), Buffer.from('1'))
  }
  const refuse = { ...native(), setXattr: () => -95 }
  for (const xattrs of [refuse, undefined]) {
    const told: string[] = []
    const out = join(dir, xattrs ? 'refused' : 'none')
    mkdirSync(out)
    const copier = new Copier(drive, new HostFiles(xattrs), {
      isRecursive: true, keepOwners: false, modeMask: 0o7777, signal: new AbortController().signal, onProgress() {}, onSkip() {},
      keepsXattr: () => true, onXattrsLost: (why) => told.push(why),
    })
    await copier.copy(['/a', '/b'], out)
    t.is(told.length, 1, told.join())
    t.alike(readdirSync(out).sort(), ['a', 'b'])
  }
  const broken = { ...native(), setXattr: () => -5 }
  t.is(await codeOf(() => new Copier(drive, new HostFiles(broken), {
    isRecursive: true, keepOwners: false, modeMask: 0o7777, signal: new AbortController().signal, onProgress() {}, onSkip() {},
    keepsXattr: () => true, onXattrsLost() {},
  }).copy(['/a'], join(dir, 'x'))), 'EIO', 'a disk that fails is no refusal')
})

test('names of a drive\'s attributes are those that a mount knows', async (t) => {
  const { drive } = await setUp(t)
  await (await drive.open('/f', 'w')).close()
  const value = Buffer.from('1')
  for (const name of ['system.other', 'user.', 'nothing', '']) t.is(await codeOf(() => drive.setXattr('/f', Buffer.from(name), value)), 'EOPNOTSUPP', name)
  t.is(await codeOf(() => drive.setXattr('/f', Buffer.from(`user.${'n'.repeat(251)}`), value)), 'ERANGE')
  t.is(await codeOf(() => drive.setXattr('/f', Buffer.from('user.n'), Buffer.alloc(65_537))), 'E2BIG')
  t.is(await codeOf(() => drive.getXattr('/f', Buffer.from('user.none'))), 'ENODATA')
})

test('who builds under a temporary name on this machine is known to be dead, or is left alone', (t) => {
  const us = ourselves()!
  const name = (o: object) => temporaryName({ ...us, ...o })
  const dead = spawnSync('true').pid
  t.absent(isDead(name({}), us, true), 'ourselves')
  t.ok(isDead(name({ pid: dead }), us, false))
  t.ok(isDead(name({ start: '1' }), us, false), 'our pid had another process before')
  t.absent(isDead(name({ pid: 1, start: readFileSync('/proc/1/stat', 'latin1').replace(/.*\) /s, '').split(' ')[19] }), us, true))
  t.ok(isDead(name({ boot: '00000000' }), us, true), 'before this boot')
  t.absent(isDead(name({ boot: '00000000' }), us, false), 'on a disk that others may use')
  t.absent(isDead(name({ machine: '00000000', pid: dead }), us, true))
  t.absent(isDead(name({ namespace: '1', pid: dead }), us, true))
  t.absent(isDead('.dfs-copy-0123456789abcdef', us, true))
  t.absent(isDead('.dfs-copy-mine', us, true))
})

test('what was being built when its process died goes when the store is opened again, and nothing else', async (t) => {
  const dir = scratchDir(t)
  const store = join(dir, 'store'), crashed = join(dir, 'crashed')
  const drive = await Drive.create(store)
  t.teardown(() => drive.close(), { force: true })
  const half = await drive.temporary('/half')
  await drive.mkdir(half)
  for (let i = 0; i < 3; i++) await (await drive.open(Buffer.concat([Buffer.from(half), Buffer.from(`/f${i}`)]), 'w')).close()
  const whole = await drive.temporary('/whole')
  await (await drive.open(whole, 'w')).close()
  await drive.rename(whole, '/whole')
  const kept = await drive.temporary('/kept')
  await (await drive.open(kept, 'w')).close()
  await drive.posix.rename(1, Buffer.from(kept).subarray(1), 1, Buffer.from('kept'), 0) // as on a mount
  await (await drive.open('/.dfs-copy-of-mine', 'w')).close()
  await drive.sync()
  await must('cp', ['-a', store, crashed])
  rmSync(join(crashed, 'lock.db'))
  const after = await Drive.open(crashed)
  t.teardown(() => after.close(), { force: true })
  await after.gc()
  t.alike(await names(after, '/'), ['.dfs-copy-of-mine', 'kept', 'whole'])
  t.alike(after.unfinished.left(), [])
  t.alike((await after.fsck({ data: true })).problems, [])
  t.is((await names(drive, '/')).length, 4, 'a living one is not touched')
  await drive.gc()
  t.is((await names(drive, '/')).length, 4)
})

test('where things go: into a folder, or to a name', async (t) => {
  const { drive, dir, put } = await setUp(t)
  writeFileSync(join(dir, 'a'), 'a')
  writeFileSync(join(dir, 'b'), 'b')
  await drive.mkdir('/d')
  await put().copy([join(dir, 'a')], '/d')
  await put().copy([join(dir, 'a')], '/new')
  await put().copy([join(dir, 'a'), join(dir, 'b')], '/d/')
  await put().copy([join(dir, 'b')], '/new')
  t.alike(await names(drive, '/d'), ['a', 'b'])
  t.is((await (await drive.open('/new')).read(0, 9)).toString(), 'b')
  t.is(await codeOf(() => put().copy([join(dir, 'a'), join(dir, 'b')], '/new')), 'ENOTDIR')
  t.is(await codeOf(() => put().copy([join(dir, 'a')], '/none/')), 'ENOENT')
  t.is(await codeOf(() => put().copy([join(dir, 'none')], '/x')), 'ENOENT')
  t.is(await codeOf(() => put({ isRecursive: false }).copy([dir], '/x')), 'EISDIR')
  t.is(await codeOf(() => put().copy([`${dir}/..`], '/d')), 'EINVAL')
  mkdirSync(join(dir, 'p/a'), { recursive: true })
  t.is(await codeOf(() => put().copy([join(dir, 'p/a')], '/d')), 'ENOTDIR', 'a folder does not replace a file')
  t.alike(await names(drive, '/'), ['d', 'new'], 'nothing is left of what failed')
})

test('a tree merges into the one that is there', async (t) => {
  const { drive, dir, put } = await setUp(t)
  mkdirSync(join(dir, 'tree/sub'), { recursive: true })
  writeFileSync(join(dir, 'tree/sub/x'), 'new')
  await drive.mkdir('/tree/sub', { recursive: true })
  for (const name of ['/tree/kept', '/tree/sub/x']) await (await drive.open(name, 'w')).close()
  await put().copy([join(dir, 'tree')], '/')
  t.alike(await names(drive, '/tree'), ['kept', 'sub'])
  t.is((await (await drive.open('/tree/sub/x')).read(0, 9)).toString(), 'new')
})

test('an interrupted copy leaves what was there and nothing else', async (t) => {
  const { drive, dir, put, get } = await setUp(t)
  makeTree(join(dir, 'tree'))
  writeFileSync(join(dir, 'file'), randomBytes(4_000_000))
  await (await drive.open('/file', 'w')).close()
  for (const [source, target] of [['tree', '/copy'], ['file', '/file']] as const) {
    const interrupt = new AbortController()
    const onProgress = () => interrupt.abort()
    t.is(await codeOf(() => put({ signal: interrupt.signal, onProgress }).copy([join(dir, source)], target)), 'EINTR')
  }
  t.alike(await names(drive, '/'), ['file'])
  t.is((await drive.stat('/file')).size, 0)
  await put().copy([join(dir, 'tree')], '/tree')
  const interrupt = new AbortController()
  let files = 0
  mkdirSync(join(dir, 'out'))
  t.is(await codeOf(() => get({ signal: interrupt.signal, onProgress: () => { if (++files === 3) interrupt.abort() } }).copy(['/tree'], join(dir, 'out'))), 'EINTR')
  t.alike(readdirSync(join(dir, 'out')), [])
})

test('a stream becomes a file, and replaces one when it is complete', async (t) => {
  const { drive, put } = await setUp(t)
  const content = randomBytes(2_500_000)
  await put().fromStream(Readable.from([content.subarray(0, 7), content.subarray(7, 2_000_000), content.subarray(2_000_000)]), '/s')
  t.ok((await (await drive.open('/s')).read(0, 3_000_000)).equals(content))
  async function* broken() {
    yield Buffer.from('half')
    throw new Error('the pipe broke')
  }
  await t.exception(() => put().fromStream(broken(), '/s'))
  t.is((await drive.stat('/s')).size, content.length)
  t.alike(await names(drive, '/'), ['s'])
})

test('what cannot be copied is named and left out', async (t) => {
  const { drive, dir, put } = await setUp(t)
  mkdirSync(join(dir, 'tree'))
  writeFileSync(join(dir, 'tree/file'), '1')
  await must('mkfifo', [join(dir, 'tree/fifo')])
  const skipped: string[] = []
  const report = await put({ onSkip: (path) => skipped.push(path.toString()) }).copy([join(dir, 'tree')], '/tree')
  t.is(report.skipped, 1)
  t.alike(skipped, [join(dir, 'tree/fifo')])
  t.alike(await names(drive, '/tree'), ['file'])
})

test('a drive cannot place files outside the target, nor programs that run as root', async (t) => {
  const { drive, dir, get } = await setUp(t)
  const outside = join(dir, 'outside'), target = join(dir, 'target')
  mkdirSync(outside)
  mkdirSync(target)
  await drive.mkdir('/t')
  await drive.symlink(outside, '/t/trap')
  await get().copy(['/t'], target)
  t.is(readlinkSync(join(target, 't/trap')), outside)
  // Later the drive has a folder of that name, and the target still the symlink.
  await drive.rm('/t/trap')
  await drive.mkdir('/t/trap')
  await (await drive.open('/t/trap/planted', 'w')).close()
  t.is(await codeOf(() => get().copy(['/t'], target)), 'ENOTDIR')
  t.absent(existsSync(join(outside, 'planted')))

  await (await drive.open('/root-shell', 'w')).close()
  await drive.chmod('/root-shell', 0o6755)
  await get({ modeMask: 0o1777 }).copy(['/root-shell'], target)
  t.is(lstatSync(join(target, 'root-shell')).mode & 0o7777, 0o755)
})

test('long runs of zeros are holes', (t) => {
  const K = 1024
  const ranges = (...pieces: [bytes: number, fill: number][]) => [...dataRanges(Buffer.concat(pieces.map(([n, fill]) => Buffer.alloc(n, fill))))]
  t.alike(ranges([64 * K, 0]), [])
  t.alike(ranges([64 * K, 1]), [[0, 64 * K]])
  t.alike(ranges([64 * K, 0], [64 * K, 1], [128 * K, 0], [5, 1]), [[64 * K, 128 * K], [256 * K, 256 * K + 5]])
  t.alike(ranges([10, 0]), [[0, 10]], 'a short end is written')
  t.alike(ranges([0, 0]), [])
})

test('reading a folder whose own files come and go', async (t) => {
  const dir = scratchDir(t)
  writeFileSync(join(dir, 'x'), 'x')
  const found: string[] = []
  for await (const { name } of new HostFiles().opendir(dir)) found.push(name.toString())
  t.alike(found, ['x'])
  t.is(await codeOf(async () => { for await (const _ of new HostFiles().opendir(join(dir, 'none'))) t.fail() }), 'ENOENT')
  t.is(readFileSync(join(dir, 'x'), 'utf8'), 'x')
})
