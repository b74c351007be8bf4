/** -o acks: what fsync(2) promises of other devices. Real daemons and mounts, on loopback. */
import test from 'brittle'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { constants, promises as fs, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { joinDrive, TestDevice, until } from '../helpers/devices.js'
import { isAlive, kill, processesOf } from '../helpers/mount.js'
import { errnoOf, refused } from '../helpers/refused.js'
import { run, sleep } from '../helpers/run.js'

const LONG = { timeout: 300_000 }
/** Whole test runs are to be quick: more by ACKS_ROUNDS. */
const ROUNDS = Number(process.env['ACKS_ROUNDS'] ?? 2)
const SIZES = [3_000_000, 1, 4096, 12_000_000, 90_000]

async function synced(path: string, content: Buffer, flags = 'w'): Promise<void> {
  const file = await fs.open(path, flags)
  try {
    await file.write(content, 0, content.length, 0)
    await file.sync()
  } finally {
    await file.close()
  }
}

const syncs = (path: string): Promise<string> => errnoOf(fs.open(path, 'r+').then(async (file) => file.sync().finally(() => file.close())))
const logOf = (d: TestDevice) => readFileSync(join(d.store, 'daemon.log'), 'utf8')
const linked = (d: TestDevice, n: number) => until(`${d.name} has ${n} peers`, async () => (await d.status()).peers.length === n)

test('what was synced with acks=1 is whole on the other device, though both die at once and the writer\'s store is lost', LONG, async (t) => {
  const first = new TestDevice(t, 'first')
  await first.mount()
  const { port } = (await first.status()).network!
  for (let round = 0; round < ROUNDS; round++) {
    const writer = new TestDevice(t, `writer${round}`)
    await joinDrive(first, writer)
    await writer.mount('-o', 'acks=1')
    await linked(writer, 1)
    const [mine, theirs] = [writer.status(), first.status()]
    const pids = [(await mine).pid, (await theirs).pid]
    await fs.mkdir(writer.path(`dir ${round}`))
    // Another one is the last before the end each time.
    const files = SIZES.map((_, i) => randomBytes(SIZES[(i + round) % SIZES.length]!))
    for (const [i, content] of files.entries()) await synced(writer.path(`dir ${round}/${i}`), content)
    for (const pid of pids) kill(pid)
    await until('both are dead', () => !pids.some(isAlive))
    rmSync(writer.store, { recursive: true })
    await first.ok('mount', '--port', String(port), first.dir)
    for (const [i, content] of files.entries()) t.ok((await fs.readFile(first.path(`dir ${round}/${i}`))).equals(content), `${content.length} bytes`)
    t.is((await first.status()).peers.length, 0, 'nobody else could have given it')
  }
})

test('with nobody there a sync fails in time and in one line, and nothing else does; a program that waits can be ended', LONG, async (t) => {
  const a = new TestDevice(t, 'anna')
  const second = join(a.scratch, 'second')
  const { code, stderr } = await a.dfs(['mount', '-o', 'acks=1,timeout=1', a.dir])
  t.is(code, 0)
  t.alike(stderr.trim().split('\n'), ['dfs: with acks=1 a sync waits for 1 other devices, and the drive has 0: until there are enough it fails after 1 s'])
  await a.ok('mount', second)
  t.teardown(() => a.dfs(['unmount', '--lazy', second]), { force: true })
  const start = performance.now()
  t.is(await errnoOf(synced(a.path('file'), Buffer.from('one'))), 'EIO')
  t.ok(performance.now() - start >= 1000)
  t.is(await errnoOf(fs.open(a.path('dsync'), constants.O_WRONLY | constants.O_CREAT | constants.O_DSYNC).then((f) => f.write('two').finally(() => f.close()))), 'EIO', 'O_DSYNC')
  t.is(await syncs(a.path('file')), 'EIO', 'and again')
  t.is((await run('sync', [a.dir])).code, 1, 'fsync of the folder')
  const slow = fs.open(a.path('file'), 'r+')
  const waiting = slow.then((f) => errnoOf(f.sync().finally(() => f.close())))
  t.is(await syncs(join(second, 'file')), 'none', 'a mount without acks of the same drive')
  t.is(await fs.readFile(a.path('file'), 'utf8'), 'one')
  await fs.writeFile(a.path('other'), 'written')
  t.is(await waiting, 'EIO')
  const [exit, why] = refused(await a.dfs(['sync']))
  t.ok(exit !== 0 && why.includes('0 of 1 other devices'), why)
  await a.ok('sync', '--acks', '0')
  t.ok(refused(await a.dfs(['sync', '--acks', '17']))[1].includes('from 0 to 16'))
  t.ok(refused(await a.dfs(['mount', '-o', 'acks=17', join(a.scratch, 'third')]))[1].includes('from 0 to 16'))
  t.is(logOf(a).split('\n').filter((line) => line.includes('acks=1')).length, 1, 'told once, for all of them')
  await a.crash()
  await a.ok('mount', '-o', 'acks=1,timeout=600', a.dir)
  t.is(await fs.readFile(a.path('file'), 'utf8'), 'one', 'it was durable here')

  for (const signal of ['SIGINT', 'SIGKILL'] as const) {
    const child = spawn(process.execPath, ['-e', `const fs = require('fs'); const f = fs.openSync(${JSON.stringify(a.path('file'))}, 'r+'); console.log('open'); fs.fsyncSync(f)`], { stdio: ['ignore', 'pipe', 'ignore'] })
    t.teardown(() => child.kill('SIGKILL'), { force: true })
    const ended = new Promise((resolve) => child.once('close', () => resolve(true)))
    await new Promise((resolve) => child.stdout.once('data', resolve))
    await sleep(100)
    child.kill(signal)
    t.ok(await ended, signal)
  }
  // What still waits does not hold up the end.
  const last = fs.open(a.path('file'), 'r+').then((f) => errnoOf(f.sync().finally(() => f.close())))
  await sleep(100)
  await a.ok('stop', '--lazy')
  await until('the daemon ends', () => processesOf(a.store).length === 0)
  t.ok((await last) !== 'none')
})

test('each device counts once, guests and caches do not; what was placed long ago is asked for', LONG, async (t) => {
  const a = new TestDevice(t, 'anna'), b = new TestDevice(t, 'bert'), c = new TestDevice(t, 'carl'), d = new TestDevice(t, 'dora')
  await a.mount()
  const content = randomBytes(1_500_000)
  await fs.writeFile(a.path('old'), content)
  await joinDrive(a, b)
  await b.mount()
  await until('it is on both', async () => (await b.status()).chunks.owed === 0 && (await fs.readFile(b.path('old'))).equals(content))
  // Begins anew, and knows nothing of who has what.
  const { port } = (await a.status()).network!
  await a.unmount()
  await a.ok('mount', '--port', String(port), '-o', 'acks=1,timeout=15', a.dir)
  await linked(a, 1)
  t.is(await syncs(a.path('old')), 'none', 'a file of before')
  await fs.copyFile(a.path('old'), a.path('copy'))
  t.is(await syncs(a.path('copy')), 'none', 'the same chunks under another name')
  t.is((await run('sync', [a.dir])).code, 0, 'fsync of the folder')
  t.is(await errnoOf(synced(a.path('new'), randomBytes(200_000))), 'none')
  await a.ok('sync')

  await joinDrive(a, c, 'read-only')
  await c.mount()
  await linked(a, 2)
  await a.ok('sync', '--acks', '1')
  t.ok(refused(await a.dfs(['sync', '--acks', '2', '--timeout', '3']))[1].includes('1 of 2 other devices'), 'a guest does not count')
  const guest = (await a.json<{ devices: { device: string; role: string }[] }>('devices')).devices.find((x) => x.role === 'guest')!
  await a.ok('devices', 'add', guest.device, '--role', 'read-only', '--name', 'carl')
  await fs.writeFile(a.path('third'), randomBytes(300_000))
  await a.ok('sync', '--acks', '2')
  t.ok((await fs.readFile(a.path('third'))).length === 300_000)

  await joinDrive(a, d)
  await d.ok('mount', '--cache', '64M', d.dir)
  await linked(a, 3)
  await fs.writeFile(a.path('fourth'), randomBytes(300_000))
  await a.ok('sync', '--acks', '2')
  t.ok(refused(await a.dfs(['sync', '--acks', '3', '--timeout', '3']))[1].includes('2 of 3 other devices'), 'a cache has the entries and does not count for chunks')
  await b.crash()
  await fs.writeFile(a.path('fifth'), 'five')
  await a.ok('sync', '--acks', '1')
  t.ok(refused(await a.dfs(['sync', '--acks', '2', '--timeout', '3']))[1].includes('1 of 2 other devices'), 'one of two has gone')
  await b.mount()
  await a.ok('sync', '--acks', '2')
})

test('many who sync at once, and one who overwrites what is waited for, all get there', LONG, async (t) => {
  const a = new TestDevice(t, 'anna'), b = new TestDevice(t, 'bert')
  await a.mount('-o', 'acks=1,timeout=20').catch((e: Error) => { if (!e.message.includes('acks=1')) throw e })
  await joinDrive(a, b)
  await b.mount()
  await linked(a, 1)
  const big = randomBytes(6_000_000)
  const content = new Map<string, Buffer>()
  const writers = Array.from({ length: 24 }, async (_, i) => {
    for (let n = 0; n < 4; n++) {
      const bytes = randomBytes(1 + ((i * 37 + n * 11) % 5) * 9000)
      await synced(a.path(`many${i}`), bytes, 'w')
      content.set(`many${i}`, bytes)
    }
  })
  const file = await fs.open(a.path('same'), 'w+')
  let isOver = false
  const over = (async () => { for (let n = 0; !isOver; n++) await file.write(big, (n * 1000) % 1_000_000, 2_000_000, (n % 3) * 1_000_000) })()
  for (let i = 0; i < 5; i++) await file.sync()
  await Promise.all(writers)
  isOver = true
  await over
  await file.sync()
  const last = await fs.readFile(a.path('same'))
  await file.close()
  const temporary = a.path('gone')
  await synced(temporary, big)
  await fs.unlink(temporary)
  await a.ok('sync')
  // An unnamed file has nobody to wait for but this device.
  const unnamed = await fs.open(a.path('unnamed'), 'w+')
  await fs.unlink(a.path('unnamed'))
  await unnamed.write(big)
  await unnamed.sync()
  await unnamed.close()
  await a.crash()
  for (const [name, bytes] of content) t.ok((await fs.readFile(b.path(name))).equals(bytes), name)
  t.ok((await fs.readFile(b.path('same'))).equals(last))
})
