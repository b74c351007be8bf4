/** Drives and storage peers in this process, on real sockets, each given the addresses of those it is to meet. */
import type { Assert } from 'brittle'
import { Drive, type OpenOptions } from '../../lib/drive.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { openStore, type StoragePeer } from '../../lib/storage-peer.js'
import { Swarm } from '../../lib/swarm/swarm.js'
import { until } from './devices.js'
import { scratchDir } from './scratch.js'

export const HOST = '127.0.0.1'
export const LOCAL = { host: HOST, dht: false, mdns: false }

export class Device<D extends Drive | StoragePeer = Drive> {
  drive!: D
  swarm!: Swarm
  peers: string[]
  readonly notices: string[] = []

  constructor(t: Assert, readonly dir: string, peers: string[] = [], readonly options: OpenOptions = {}) {
    this.peers = peers
    t.teardown(() => this.stop(), { force: true })
  }

  get address(): string { return `${HOST}:${this.swarm.net.port}` }

  async start(): Promise<this> {
    this.drive = await openStore(this.dir, { readDeadlineMs: 10_000, ...this.options }) as D
    this.swarm = new Swarm(this.drive, { ...LOCAL, peers: this.peers })
    this.swarm.onNotice = (text) => this.notices.push(text)
    await this.swarm.ready()
    return this
  }

  /** May be called twice. */
  async stop(): Promise<void> {
    await this.swarm?.close()
    await this.drive?.close()
  }
}

export async function first(t: Assert): Promise<Device> {
  const dir = scratchDir(t)
  await (await Drive.create(dir)).close()
  return new Device(t, dir).start()
}

export async function joined(t: Assert, other: Device<Drive | StoragePeer>, key?: string, options?: OpenOptions): Promise<Device> {
  const dir = scratchDir(t)
  await prepareJoin(dir, key ?? await other.drive.key('full'))
  await finishJoin(dir, { network: { ...LOCAL, peers: [other.address] } })
  return new Device(t, dir, [other.address], options).start()
}

export async function storing(t: Assert, key: string, peers: string[], options?: OpenOptions): Promise<Device<StoragePeer>> {
  const dir = scratchDir(t)
  t.is((await prepareJoin(dir, key)).kind, 'storage')
  return new Device<StoragePeer>(t, dir, peers, options).start()
}

export async function write(drive: Drive, path: string, content: Buffer): Promise<void> {
  const f = await drive.open(path, 'w')
  await f.write(0, content)
  await f.sync()
  await f.close()
}

export async function read(drive: Drive, path: string): Promise<Buffer> {
  const f = await drive.open(path)
  try { return await f.read(0, (await f.stat()).size) } finally { await f.close() }
}

/** All that the one has of the other's log, a snapshot, and all chunks that these name. */
export async function keepsAll(s: Device<StoragePeer>, a: Device): Promise<void> {
  // What is safe in the redo file is no entry yet.
  a.drive.journal.commit()
  await until('the storage peer has all', async () => {
    const { log, journal } = a.drive
    const inc = s.drive.log.find(log.incarnationId(journal.incarnation))
    const status = await s.drive.status()
    return inc > 0 && s.drive.keepsEverything && s.drive.log.head(inc).seq === log.head(journal.incarnation).seq && status.chunks.owed === 0 && status.chunks.here > 0
  })
}
