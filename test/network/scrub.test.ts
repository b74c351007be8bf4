/** Disks that spoil what they hold: what a device has lost it gets back from another, and who reads meanwhile never sees a wrong byte. */
import test from 'brittle'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { MendReport, ScrubReport } from '../../lib/api.js'
import { joinDrive, TestDevice, twoDevices, until } from '../helpers/devices.js'
import { spoil, spotsOf } from '../helpers/spoil.js'
import { first, joined, keepsAll, storing, write } from '../helpers/storing.js'

const LONG = { timeout: 240_000 }
const MANY = 1000
const FILES = 2 * MANY
/** Too much to be kept in the index. */
const FILE_BYTES = 10_000

const sha = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

test('a thousand chunks that the disk of one of two daemons has spoilt: found, mended, and never read', LONG, async (t) => {
  const [a, b] = await twoDevices(t)
  const sums = new Map<string, string>()
  for (let d = 0; d < 20; d++) mkdirSync(a.path(`d${d}`))
  for (let i = 0; i < FILES; i++) {
    const name = join(`d${i % 20}`, `f${i}`)
    const content = randomBytes(FILE_BYTES)
    writeFileSync(a.path(name), content)
    sums.set(name, sha(content))
  }
  await a.ok('sync')
  const hasAll = async () => {
    const { chunks } = await b.status()
    return chunks.owed === 0 && spotsOf(b.store).length >= FILES
  }
  await until('all of it is on the second', hasAll)
  const whole = async (why: string) => {
    t.alike((await b.json<{ problems: unknown[] }>('fsck', '--data')).problems, [], why)
    t.is((await b.status()).damaged, 0)
  }

  // While it is off.
  await b.unmount()
  spoil(spotsOf(b.store).slice(0, MANY))
  await b.mount()
  const report = await b.json<ScrubReport>('scrub')
  t.is(report.found, MANY)
  t.is(report.mended, MANY)
  t.alike(report.left, { damaged: 0, missing: 0, bytes: 0, paths: [], unnamed: [], isAll: true })
  await whole('after what happened while it was off')

  // While it runs, and is read. What the kernel has read already is no test.
  await b.unmount()
  await b.mount()
  spoil(spotsOf(b.store).slice(-MANY))
  const wrong: string[] = []
  const names = [...sums.keys()]
  const reader = async (from: number) => {
    for (let i = from; i < names.length; i += 2) {
      const name = names[i]!
      if (sha(await readLater(b.path(name))) !== sums.get(name)) wrong.push(name)
    }
  }
  const [found] = await Promise.all([b.json<ScrubReport>('scrub'), reader(0), reader(1)])
  t.alike(wrong, [])
  t.is(found.left.damaged, 0)
  await whole('after what happened while it was read')
  t.is((await b.status()).scrub.running, null)
  t.ok(/^scrub: +ended /m.test(await b.ok('status')))
  const log = (d: TestDevice) => readFileSync(join(d.store, 'daemon.log'), 'utf8')
  await b.unmount()
  t.ok(/ chunks here were found damaged, and others asked for them; all is sound again/.test(log(b)), 'it is in the log')
  for (const d of [a, b]) t.absent(/hash|lying/i.test(log(d)), 'nobody is taken for a liar')
})

/** Off this process's loop: the daemon that answers may wait for the other, and this test for neither. */
async function readLater(path: string): Promise<Buffer> {
  const { readFile } = await import('node:fs/promises')
  return readFile(path)
}

test('nobody else has it: the files in danger are named, by scrub, repair, fsck and status, also after a restart; nothing waits', LONG, async (t) => {
  const a = new TestDevice(t, 'anna')
  await a.mount()
  mkdirSync(a.path('dir'))
  const content = randomBytes(300_000)
  writeFileSync(a.path('dir', 'spoilt'), content)
  writeFileSync(a.path('whole'), randomBytes(300_000))
  await a.ok('sync')
  const ino = Number((await a.json<{ ino: number }[] | { ino: number }>('status', '/dir/spoilt') as { ino: number }).ino)
  spoil(spotsOf(a.store, `AND num IN (SELECT chunk FROM extent WHERE ino = ${ino})`).slice(0, 1))
  const scrub = await a.dfs(['scrub'])
  t.is(scrub.code, 5)
  t.ok(/^in danger: \/dir\/spoilt$/m.test(scrub.stdout), scrub.stdout)
  t.ok(/^dfs: 1 chunk damaged, .*no device/m.test(scrub.stderr), scrub.stderr)
  await a.unmount()
  await a.mount()
  t.ok(/^damaged: +1 chunk /m.test(await a.ok('status')))
  const repair = await a.dfs(['repair', '--json'])
  t.is(repair.code, 5)
  const { left, damaged, mended } = JSON.parse(repair.stdout) as MendReport
  t.alike([damaged, mended, left.paths], [1, 0, ['/dir/spoilt']])
  const fsck = await a.dfs(['fsck', '--json'])
  t.is(fsck.code, 5)
  t.alike((JSON.parse(fsck.stdout) as { problems: { kind: string; path: string }[] }).problems.map((p) => [p.kind, p.path]), [['chunk-damaged', '/dir/spoilt']])

  // A device joins that cannot help either; then the file is written anew.
  const b = new TestDevice(t, 'bert')
  await joinDrive(a, b)
  await b.mount()
  await until('they are connected', async () => (await a.status()).peers.length === 1)
  t.is((await a.dfs(['repair'])).code, 5)
  t.is((await b.dfs(['repair'])).code, 5, 'what the other cannot give is missing there')
  writeFileSync(a.path('dir', 'spoilt'), content)
  await until('written anew it is whole', async () => (await a.status()).damaged === 0)
  t.is(await a.ok('repair'), 'Nothing is damaged or missing.\n')
  await until('and there too', async () => (await b.status()).chunks.owed === 0)
  t.ok(readFileSync(b.path('dir', 'spoilt')).equals(content))
  t.is((await b.dfs(['scrub'])).code, 0)
})

test('the rate of the background is remembered; what is no rate is refused; a scrub without a daemon finds, and the daemon mends', LONG, async (t) => {
  const [a, b] = await twoDevices(t)
  const content = randomBytes(700_000)
  writeFileSync(a.path('f'), content)
  await a.ok('sync')
  await until('it is there', async () => (await b.status()).chunks.owed === 0 && readdirSync(b.dir).includes('f') && spotsOf(b.store).length > 0)
  t.is(await b.ok('scrub', '--rate', '20M'), 'The scrub in the background reads 20 MiB/s.\n')
  t.alike(await b.json('scrub', '--rate', '0'), { rate: 0 })
  for (const bad of ['-1', 'fast', '', '1e400']) t.is((await b.dfs(['scrub', `--rate=${bad}`])).code, 2, bad)
  await b.unmount()
  spoil(spotsOf(b.store))
  const alone = await b.dfs(['scrub'])
  t.is(alone.code, 5)
  t.ok(/no daemon runs/.test(alone.stderr), alone.stderr)
  await b.mount()
  t.is((await b.status()).scrub.rate, 0)
  await until('mended without a word', async () => (await b.status()).damaged === 0)
  t.ok(readFileSync(b.path('f')).equals(content))
  t.is((await b.dfs(['repair'])).code, 0)
})

test('a storage peer verifies and mends what it cannot read, and names it by its id', LONG, async (t) => {
  const a = await first(t)
  const s = await storing(t, await a.drive.key('storage'), [a.address])
  await write(a.drive, '/file', randomBytes(3_000_000))
  await a.drive.sync()
  await keepsAll(s, a)
  s.drive.journal.commit()
  const spots = spotsOf(s.dir)
  t.ok(spots.length > 5)
  spoil(spots)
  const report = await s.drive.scrub()
  t.alike([report.found, report.mended, report.left.damaged], [spots.length, spots.length, 0])
  t.alike((await s.drive.fsck({ data: true })).problems, [])

  await a.stop()
  s.drive.journal.commit()
  const [one] = spotsOf(s.dir)
  spoil([one!])
  const id = s.drive.chunks.identity(one!.num)!.id.toString('hex')
  const { left } = await s.drive.scrub()
  t.alike(left, { damaged: 1, missing: 0, bytes: s.drive.chunks.identity(one!.num)!.len, paths: [], unnamed: [id], isAll: true })
  t.ok((await s.drive.fsck()).problems[0]!.detail.includes(id))
  // It says that it has it no more.
  t.absent(s.drive.chunks.isThere(one!.num, s.drive.store))
  await s.stop()
  await s.start()
  t.is((await s.drive.status()).damaged, 1)
  a.peers = [s.address]
  await a.start()
  await until('it is mended when the other is back', async () => (await s.drive.status()).damaged === 0)
})

test('a cache that is full mends what it has, and counts as missing only what is pinned', LONG, async (t) => {
  const a = await first(t)
  await write(a.drive, '/f', randomBytes(2_000_000))
  const b = await joined(t, a)
  await until('it has the file', async () => (await b.drive.stat('/f').catch(() => undefined))?.size === 2_000_000)
  await until('with its content', async () => (await b.drive.status()).chunks.owed === 0)
  await b.drive.setCache(16 << 20)
  b.drive.journal.commit()
  const spots = spotsOf(b.dir)
  spoil(spots)
  const report = await b.drive.scrub()
  t.alike([report.found, report.mended, report.left.damaged], [spots.length, spots.length, 0])
  await b.stop()
  await a.stop()
})
