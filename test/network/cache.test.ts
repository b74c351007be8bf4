/** Files on demand: devices with a cache, pins, and who is counted on before something is evicted. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, writeSync } from 'node:fs'
import { Drive } from '../../lib/drive.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { Swarm } from '../../lib/swarm/swarm.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const MIB = 1 << 20
const HOST = '127.0.0.1'
const LONG = { timeout: 120_000 }
const LOCAL = { host: HOST, dht: false, mdns: false }

class Device {
  drive!: Drive
  swarm!: Swarm
  readonly notices: string[] = []

  private constructor(readonly dir: string, readonly peers: string[]) {}

  static async first(t: Assert): Promise<Device> {
    const device = new Device(scratchDir(t), [])
    await (await Drive.create(device.dir, { name: 'shared' })).close()
    await device.start()
    t.teardown(() => device.stop(), { force: true })
    return device
  }

  static async joined(t: Assert, others: Device[], cacheBytes?: number): Promise<Device> {
    const device = new Device(scratchDir(t), others.map((o) => o.address))
    await prepareJoin(device.dir, await others[0]!.drive.key('full'), cacheBytes === undefined ? {} : { cacheBytes })
    await finishJoin(device.dir, { network: { ...LOCAL, peers: device.peers } })
    await device.start()
    t.teardown(() => device.stop(), { force: true })
    await device.until(() => device.swarm.peers().length === others.length)
    return device
  }

  get address(): string { return `${HOST}:${this.swarm.net.port}` }

  async start(): Promise<void> {
    this.drive = await Drive.open(this.dir, { readDeadlineMs: 5000 })
    this.drive.share()
    this.swarm = new Swarm(this.drive, { ...LOCAL, peers: this.peers })
    this.swarm.onNotice = (text) => this.notices.push(text)
    await this.swarm.ready()
  }

  async stop(): Promise<void> {
    await this.swarm.close()
    await this.drive.close()
  }

  async write(path: string, content: Buffer): Promise<void> {
    const f = await this.drive.open(path, 'w')
    for (let at = 0; at < content.length; at += MIB) await f.write(at, content.subarray(at, at + MIB))
    await f.sync()
    await f.close()
  }

  async read(path: string): Promise<Buffer> {
    const f = await this.drive.open(path)
    try {
      const { size } = await f.stat()
      const parts: Buffer[] = []
      for (let at = 0; at < size; at += 128 << 10) parts.push(await f.read(at, 128 << 10))
      return Buffer.concat(parts)
    } finally {
      await f.close()
    }
  }

  async has(path: string, size: number): Promise<void> {
    await this.until(async () => (await this.drive.stat(path).catch(() => undefined))?.size === size)
  }

  async elsewhere(path = '/'): Promise<number> { return (await this.drive.locality(path)).bytesElsewhere }
  async here(path = '/'): Promise<number> { return (await this.drive.locality(path)).bytesHere }

  async until(condition: () => boolean | Promise<boolean>): Promise<void> {
    while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

test('a cache stays under its size while five times as much is read', LONG, async (t) => {
  const a = await Device.first(t)
  const content = randomBytes(80 * MIB)
  await a.write('/f', content)
  const b = await Device.joined(t, [a], 16 * MIB)
  await b.has('/f', content.length)
  t.is(await b.here('/f'), 0, 'nothing is fetched ahead of a reader')
  let most = 0
  const timer = setInterval(() => { most = Math.max(most, b.drive.cache.usedBytes) }, 5)
  t.ok((await b.read('/f')).equals(content))
  clearInterval(timer)
  t.ok(most <= 16 * MIB, `at most ${most} bytes`)
  t.ok(await b.here('/f') > 0, 'some of it is kept')
  t.ok((await b.read('/f')).equals(content), 'and again')
  t.alike((await b.drive.fsck({ data: true })).problems, [])
  t.alike(b.notices, [])
})

test('what is evicted is fetched again when it is read; what nobody else has stays', LONG, async (t) => {
  const a = await Device.first(t)
  const content = randomBytes(3 * MIB)
  await a.write('/f', content)
  const b = await Device.joined(t, [a], 64 * MIB)
  await b.has('/f', content.length)
  t.ok((await b.read('/f')).equals(content))
  await b.until(async () => (await b.elsewhere('/f')) === 0)
  const report = await b.drive.evict('/f')
  t.is(report.bytesUnconfirmed, 0)
  t.is(report.bytesEvicted, content.length)
  t.is(await b.here('/f'), 0)
  t.ok((await b.read('/f')).equals(content))

  // Its own, while nobody is there.
  await b.until(async () => (await b.elsewhere('/f')) === 0)
  await a.stop()
  await b.write('/own', content.subarray(0, MIB))
  const own = randomBytes(MIB)
  await b.write('/new', own)
  const alone = await b.drive.evict('/')
  t.is(alone.bytesEvicted, 0)
  t.ok(alone.bytesUnconfirmed >= 4 * MIB)
  t.ok((await b.read('/new')).equals(own))
})

test('a file that is open on a cache and removed everywhere can be read to the end, also what was elsewhere', LONG, async (t) => {
  const a = await Device.first(t)
  // More than the cache holds; and one that the cache itself removes.
  const content = randomBytes(24 * MIB)
  const own = randomBytes(3 * MIB)
  await a.write('/f', content)
  await a.write('/own', own)
  const b = await Device.joined(t, [a], 16 * MIB)
  await b.has('/f', content.length)
  await b.has('/own', own.length)
  const opened = [await b.drive.open('/f'), await b.drive.open('/own')]
  const inos = await Promise.all(opened.map(async (h) => (await h.stat()).ino))
  const lacking = () => b.drive.db.sql.prepare(`SELECT count(*) FROM extent e JOIN chunk c ON c.num = e.chunk WHERE e.ino IN (${inos}) AND c.seg = ${ELSEWHERE}`).pluck().get() as number
  b.drive.tree.rows.flush()
  t.ok(lacking() > 20, `${lacking()} ranges are elsewhere`)
  await b.drive.rm('/own')
  await a.drive.rm('/f')
  await b.until(async () => await codeOf(() => b.drive.stat('/f')) === 'ENOENT')
  t.ok(b.drive.metadata.statesLater(), 'it keeps to itself that it has heard')
  await b.until(() => lacking() === 0)
  await b.until(() => !b.drive.metadata.statesLater())
  const chunks = () => a.drive.db.sql.prepare('SELECT count(*) FROM chunk').pluck().get() as number
  await b.until(async () => {
    for (const { drive } of [a, b]) {
      drive.journal.commit()
      if (drive.engine.owesStatement(1, 0)) drive.journal.state()
      await drive.gc()
    }
    return chunks() === 0
  })
  // It is larger than the cache, and must not go all the same.
  await b.drive.cache.makeRoom(16 * MIB)
  for (const [i, whole] of [content, own].entries()) {
    const parts: Buffer[] = []
    for (let at = 0; at < whole.length; at += MIB) parts.push(await opened[i]!.read(at, MIB))
    t.ok(Buffer.concat(parts).equals(whole), 'every byte')
    await opened[i]!.close()
  }
  await b.until(async () => {
    await b.drive.gc()
    return b.drive.cache.usedBytes < MIB
  })
  t.pass('and once it is closed it goes')
  t.alike(b.notices, [])
})

test('a device that keeps everything evicts nothing', async (t) => {
  const a = await Device.first(t)
  await a.write('/f', randomBytes(MIB))
  t.is(await codeOf(() => a.drive.evict('/f')), 'USAGE')
})

test('two caches do not count on each other', LONG, async (t) => {
  const a = await Device.first(t)
  const content = randomBytes(2 * MIB)
  await a.write('/f', content)
  const b = await Device.joined(t, [a], 64 * MIB)
  const c = await Device.joined(t, [a, b], 64 * MIB)
  for (const d of [b, c]) {
    await d.has('/f', content.length)
    t.ok((await d.read('/f')).equals(content))
    await d.until(async () => (await d.elsewhere('/f')) === 0)
  }
  await a.stop()
  for (const d of [b, c]) await d.until(() => d.swarm.peers().length === 1)
  t.is((await b.drive.evict('/f')).bytesEvicted, 0)
  t.is((await c.drive.evict('/f')).bytesEvicted, 0)
})

test('who claims to keep everything and cannot show it is not believed', LONG, async (t) => {
  const a = await Device.first(t)
  const content = randomBytes(2 * MIB)
  const b = await Device.joined(t, [a], 64 * MIB)
  await b.write('/f', content)
  await a.has('/f', content.length)
  await a.until(async () => (await a.elsewhere('/f')) === 0)
  // Its disk has lost them, and its index does not know.
  for (const r of a.drive.db.sql.prepare('SELECT seg, off FROM chunk WHERE seg > 0').all() as { seg: number; off: number }[]) {
    const fd = openSync(a.drive.store.pathOf(r.seg), 'r+')
    writeSync(fd, randomBytes(64), 0, 64, r.off + 100)
    closeSync(fd)
  }
  const report = await b.drive.evict('/f')
  t.is(report.bytesEvicted, 0)
  t.is(report.bytesUnconfirmed, content.length)
  t.ok((await b.read('/f')).equals(content))
  // And it was found by the question: it fetches them again.
  await a.until(() => a.drive.chunks.bad.size === 0)
  t.is((await b.drive.evict('/f')).bytesEvicted, content.length)
  t.ok((await b.read('/f')).equals(content))
})

test('what is pinned is fetched and stays, what is made below it too, over a restart', LONG, async (t) => {
  const a = await Device.first(t)
  await a.drive.mkdir('/dir')
  const content = randomBytes(3 * MIB)
  await a.write('/dir/one', content)
  await a.write('/other', content.subarray(0, MIB).reverse())
  const b = await Device.joined(t, [a], 64 * MIB)
  await b.has('/other', MIB)
  const before = await b.drive.pin('/dir')
  t.is(before.pinned, 'itself')
  t.is(before.bytesElsewhere, content.length)
  await b.until(async () => (await b.elsewhere('/dir')) === 0)
  t.is(await b.here('/other'), 0)

  const later = randomBytes(2 * MIB)
  await a.write('/dir/two', later)
  await b.has('/dir/two', later.length)
  await b.until(async () => (await b.elsewhere('/dir')) === 0)
  t.is((await b.drive.locality('/dir/two')).pinned, 'below')
  const report = await b.drive.evict('/')
  t.is(report.bytesEvicted, 0)
  t.is(report.bytesPinned, content.length + later.length)

  await b.stop()
  await b.start()
  await b.until(() => b.swarm.peers().length === 1)
  t.is(b.drive.cache.limitBytes, 64 * MIB)
  t.is((await b.drive.locality('/dir/one')).pinned, 'below')
  t.is((await b.drive.evict('/dir')).bytesEvicted, 0)
  t.is(await codeOf(() => b.drive.unpin('/dir/two')), 'EINVAL')
  await b.drive.unpin('/dir')
  t.is((await b.drive.locality('/dir/two')).pinned, 'no')
  t.is((await b.drive.evict('/dir')).bytesEvicted, content.length + later.length)
  t.is(await b.here('/dir'), 0)
})

test('with a device between them, a chunk is found where it was said to be', LONG, async (t) => {
  const a = await Device.first(t)
  const b = await Device.joined(t, [a])
  const content = randomBytes(2 * MIB)
  await a.write('/f', content)
  await b.has('/f', content.length)
  await b.until(async () => (await b.elsewhere('/f')) === 0)
  await a.stop()
  const c = await Device.joined(t, [b], 64 * MIB)
  await c.has('/f', content.length)
  t.ok((await c.read('/f')).equals(content))
})

test('a device that takes up a cache waits, and keeps everything again when told so', LONG, async (t) => {
  const a = await Device.first(t)
  const b = await Device.joined(t, [a])
  const content = randomBytes(2 * MIB)
  await a.write('/f', content)
  await b.has('/f', content.length)
  await b.until(async () => (await b.elsewhere('/f')) === 0)
  t.is(await codeOf(() => b.drive.setCache(1)), 'USAGE')
  await b.drive.setCache(16 * MIB)
  t.is(await codeOf(() => b.drive.evict('/f')), 'EBUSY', 'others may count on it')
  await b.drive.setCache(null)
  await a.write('/g', content.subarray(0, MIB))
  await b.has('/g', MIB)
  await b.until(async () => (await b.elsewhere()) === 0)
  t.is((b.drive.db.sql.prepare('SELECT count(*) AS n FROM chunk WHERE seg = ?').get(ELSEWHERE) as { n: number }).n, 0)
})
