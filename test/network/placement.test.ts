/** Chunks that are on some devices and not on all: five daemons, three copies; killed and wiped, joined, drained; and what is wrong input. */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { promises as fs, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { DriveStatus } from '../../lib/api.js'
import { joinDrive, sameTree, TestDevice, until } from '../helpers/devices.js'
import { must, sleep } from '../helpers/run.js'

const LONG = { timeout: 400_000 }
/** What went a moment ago need not be waited for so long in a test. */
const ENV = { DFS_EVICT_AFTER_MS: '3000' }

async function join1(t: Assert, from: TestDevice[], name: string): Promise<TestDevice> {
  const device = new TestDevice(t, name, ENV)
  await joinDrive(from[0]!, device)
  await device.mount(...(await Promise.all(from.map((d) => d.address()))).flatMap((address) => ['--peer', address]))
  await until(`${name} is connected to all`, async () => (await device.status()).peers.length >= from.length)
  return device
}

async function fleet(t: Assert, names: string[], replication: string): Promise<TestDevice[]> {
  const first = new TestDevice(t, names[0]!, { ...ENV, REPLICATION_FACTOR: replication })
  await first.mount()
  const all = [first]
  for (const name of names.slice(1)) all.push(await join1(t, all, name))
  return all
}

const placement = async (d: TestDevice) => (await d.status()).placement!
const devices = (d: TestDevice) => d.devices()
const idOf = async (d: TestDevice) => (await d.status()).device
/** Content in segments and index. */
const hereBytes = async (d: TestDevice) => (await d.status()).chunks.hereBytes

async function write(d: TestDevice, dir: string, files: number, bytes: number): Promise<void> {
  await fs.mkdir(d.path(dir))
  for (let i = 0; i < files; i++) await fs.writeFile(d.path(dir, `${i}`), randomBytes(Math.ceil(bytes * (0.5 + (i % 7) / 7))))
}

/** How many devices have each chunk: at least. */
async function settled(all: TestDevice[], wanted: number): Promise<void> {
  await all[0]!.ok('sync', '--wait')
  await until('every device knows that nothing is owed', async () => (await Promise.all(all.map(placement))).every((p) => p.copiesOwed === 0 && p.possible === wanted && p.lacking === 0))
}

test('three copies on five devices; two die and are wiped: no read fails, all copies come back; a sixth comes, one leaves', LONG, async (t) => {
  const [a, b, c, d, e] = await fleet(t, ['a', 'b', 'c', 'd', 'e'], '3') as [TestDevice, TestDevice, TestDevice, TestDevice, TestDevice]
  await until('all five offer what they have', async () => (await devices(a)).filter((x) => (x.placement?.share ?? 0) > 0).length === 5)
  await a.ok('config', 'set', 'lost-after', '4s')
  await write(a, 'from a', 60, 300_000)
  await write(b, 'from b', 200, 3000)
  await fs.writeFile(c.path('large'), randomBytes(20_000_000))
  await settled([a, b, c, d, e], 3)
  const { logicalBytes } = await a.status()
  const shares = (await devices(a)).map((x) => x.placement!.share!)
  t.ok(Math.abs(shares.reduce((x, y) => x + y, 0) - 3) < 1e-6, 'three copies of everything')
  for (const one of [d, e]) t.ok(await hereBytes(one) < logicalBytes * 0.85, 'who has written and read nothing has its share')
  const tree = await sameTree(a, b, c, d, e)

  // Writers go on.
  let isOver = false
  const writing = (async () => {
    for (let i = 0; !isOver; i++) {
      await fs.writeFile(a.path(`while-${i % 50}`), randomBytes(20_000))
      await sleep(20)
    }
  })()
  for (const victim of [d, e]) {
    await victim.crash()
    rmSync(victim.store, { recursive: true })
  }
  for (const reader of [b, c]) {
    const sums = await must('sh', ['-c', "find 'from a' 'from b' large -type f -print0 | sort -z | xargs -0r sha256sum"], { cwd: reader.dir })
    for (const line of sums.trim().split('\n')) if (!tree.includes(line.replace('  ', '  ./'))) t.fail(`${reader.name}: ${line}`)
  }
  t.pass('all was read with two of five gone')
  await until('the two count as lost', async () => (await devices(a)).filter((x) => x.placement?.isLost).length === 2)
  isOver = true
  await writing
  await settled([a, b, c], 3)
  for (const one of [a, b, c]) t.is((await one.dfs(['fsck', '--data'])).code, 0, `${one.name} is sound`)

  const f = await join1(t, [a, b, c], 'f')
  const g = await join1(t, [a, b, c, f], 'g')
  await until('they take part', async () => (await devices(a)).filter((x) => (x.placement?.share ?? 0) > 0).length === 5)
  await settled([a, b, c, f, g], 3)
  const whole = (await a.status()).chunks
  t.ok(await hereBytes(g) > 0.4 * (whole.hereBytes + whole.owedBytes), 'the new one has its share')

  t.ok((await a.ok('devices', 'drain', 'c')).includes('c is drained'), 'by its name')
  await settled([a, b, f, g], 3)
  await until('it is empty', async () => (await hereBytes(c)) === 0)
  await sameTree(a, b, c, f, g)
  t.pass('and reads what it has no more')
})

test('more copies than devices, a capacity of 0, zones, a size that is none, a device that is none', LONG, async (t) => {
  const [a, b, c] = await fleet(t, ['a', 'b', 'c'], '5') as [TestDevice, TestDevice, TestDevice]
  await until('all offer', async () => (await placement(a)).possible === 3)
  t.is((await placement(a)).wanted, 5)
  t.ok((await a.ok('status')).includes('only 3 can be'), 'it says that it is not met')
  await write(a, 'files', 40, 100_000)
  await a.ok('sync', '--wait')
  await sameTree(a, b, c)
  t.is((await b.status()).placement!.lacking, 0)

  const ids = await Promise.all([a, b, c].map(idOf))
  for (const [args, word] of [
    [['config', 'set', 'replication', '0'], 'replication'], [['config', 'set', 'replication', 'many'], 'replication'], [['config', 'set', 'nothing', '1'], 'no setting'],
    [['config', 'set', 'lost-after', '3'], 'lost-after'], [['devices', 'set', ids[1]!, '--capacity', 'lots'], 'capacity'], [['devices', 'set', ids[1]!], 'wants'],
    [['devices', 'set', ids[1]!, '--zone', 'x'.repeat(65)], 'zone'], [['devices', 'drain'], 'wants'], [['devices', 'leave', ids[1]!], 'there is'],
  ] as [string[], string][]) {
    const { code, stderr } = await a.dfs(args)
    t.ok(code === 2 && stderr.includes(word) && !stderr.includes('    at '), `${args.join(' ')}: ${stderr.trim()}`)
  }
  t.is((await a.dfs(['devices', 'set', 'yyyyyyyyyyyy', '--capacity', '1G'])).code, 3)

  await a.ok('config', 'set', 'replication', '2')
  await a.ok('devices', 'set', ids[0]!, '--zone', 'attic')
  await a.ok('devices', 'set', ids[1]!, '--zone', 'attic')
  await until('all know of it', async () => (await devices(c)).filter((x) => x.placement?.zone === 'attic').length === 2)
  const shares = Object.fromEntries((await devices(c)).map((x) => [x.name, x.placement!.share!]))
  t.ok(Math.abs(shares['c']! - 1) < 1e-9 && Math.abs(shares['a']! + shares['b']! - 1) < 1e-9, 'copies never share a zone where there are two')
  t.is((await a.ok('config', 'get', 'replication')).trim(), '2')

  await b.ok('devices', 'set', ids[1]!, '--capacity', '0')
  await until('it is to hold nothing', async () => (await devices(a)).find((x) => x.name === 'b')!.placement!.share === 0)
  await a.ok('sync', '--wait')
  await sameTree(a, b, c)
  await a.ok('config', 'unset', 'replication')
  await until('everything is everywhere again', async () => {
    const statuses: DriveStatus[] = await Promise.all([a, b, c].map((x) => x.status()))
    return statuses.every((s) => s.placement === null && s.chunks.owed === 0)
  })
  await a.ok('sync', '--wait')
})

test('a setting that is made while a device is away is known to it when it comes back', LONG, async (t) => {
  const [a, b] = await fleet(t, ['a', 'b'], 'all') as [TestDevice, TestDevice]
  await b.unmount()
  await a.ok('config', 'set', 'replication', '2')
  await a.ok('config', 'set', 'replication', '1')
  await b.mount('--peer', await a.address())
  await until('it is known', async () => (await b.ok('config', 'get', 'replication')).trim() === '1')
  t.alike((await must('getfattr', ['-d', '-m', '-', b.dir])).trim(), '', 'programs see nothing of it')
  t.is((await must('sh', ['-c', `setfattr -n dfs.replication -v 3 '${b.dir}' 2>&1 || true`])).includes('not supported'), true)
  t.is((await fs.readdir(join(b.dir))).length, 0)
})
