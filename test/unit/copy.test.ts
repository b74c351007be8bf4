import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import {
  chmodSync, existsSync, linkSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, truncateSync, utimesSync, writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { Drive } from '../../lib/drive.js'
import { Copier, dataRanges, type CopyOptions } from '../../lib/transfer/copy.js'
import { HostFiles } from '../../lib/transfer/host.js'
import { must } from '../helpers/run.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

async function setUp(t: Assert): Promise<{ drive: Drive; dir: string; put: (o?: Partial<CopyOptions>) => Copier; get: (o?: Partial<CopyOptions>) => Copier }> {
  const dir = scratchDir(t)
  const drive = await Drive.create(join(dir, 'store'))
  t.teardown(() => drive.close(), { force: true })
  const options = (o: Partial<CopyOptions> = {}): CopyOptions =>
    ({ isRecursive: true, keepOwners: false, modeMask: 0o7777, signal: new AbortController().signal, onProgress() {}, onSkip() {}, ...o })
  const host = new HostFiles()
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
