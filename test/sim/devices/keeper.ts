/** A storage-only device of the simulation: the real inbox, log and snapshots of one over a fake disk, clock and network. */
import blake from '@napi-rs/blake-hash'
import type { GcReport } from '../../../lib/api.js'
import type { Timers } from '../../../lib/clock.js'
import { prepareStorage } from '../../../lib/join.js'
import { deviceFromSeed, newIncarnation, type Device } from '../../../lib/keys/device.js'
import { DriveKeys } from '../../../lib/keys/derive.js'
import { Releases } from '../../../lib/releases.js'
import { Sealed } from '../../../lib/sealed.js'
import { SealedArrivals } from '../../../lib/storage-peer.js'
import { ChunkTable } from '../../../lib/store/chunks.js'
import { Compactor } from '../../../lib/store/compactor.js'
import { InUse } from '../../../lib/store/in-use.js'
import { writeHello } from '../../../lib/swarm/hello.js'
import type { SwarmHost } from '../../../lib/swarm/host.js'
import { Peers } from '../../../lib/swarm/peers.js'
import { KEEP_LOG_BYTES, SimLink, type SimNode } from './device.js'
import { SimDatabase, SimDisk, SimStore } from './disk.js'
import { SimSegments } from './segments.js'
import type { World } from './world.js'

/** Little, so that snapshots are renewed. */
const RENEW_BYTES = 4096

interface Session { timers: Timers & { stop(): void }; db: SimDatabase; store: SimStore | SimSegments; chunks: ChunkTable; sealed: Sealed; peers: Peers; releases: Releases | undefined }

export class SimKeeper implements SimNode {
  readonly name: string
  readonly world: World
  readonly disk = new SimDisk()
  readonly keys: DriveKeys
  readonly device: Device
  readonly links = new Map<string, SimLink>()
  /** As soon as it is on it can be asked. */
  readonly isMember = true
  live: Session | undefined

  constructor(world: World, name: string) {
    this.world = world
    this.name = name
    this.keys = DriveKeys.fromCapability(world.keys.capability('storage'))
    this.device = deviceFromSeed(blake.blake3(`device ${name}`), newIncarnation())
  }

  get publicKey(): Buffer { return this.device.publicKey }

  hello(): Buffer { return Buffer.from(this.live?.peers.hello() ?? writeHello({ kind: 'storage', name: this.name, certificate: undefined })) }

  boot(): void {
    const { world } = this
    this.disk.syncMs = () => world.between(1, 30)
    const timers = world.timers()
    const isNew = this.disk.image === undefined
    const db = new SimDatabase(this.disk, timers)
    if (isNew) {
      db.setMeta('drive', this.keys.driveId)
      prepareStorage(db, this.device)
      db.syncWalNow()
    }
    const chunks = new ChunkTable(db)
    const segments = world.graces && new SimSegments(this.disk, timers)
    const store = segments ?? new SimStore(this.disk, timers)
    const clock = { nowMs: () => world.wallMs, now: () => ({ sec: Math.floor(world.wallMs / 1000), nsec: 0 }) }
    const sealed = new Sealed({ db, driveId: this.keys.driveId, clock, timers, chunks, take: () => {}, keepLogBytes: KEEP_LOG_BYTES, renewBytes: RENEW_BYTES })
    const { log, journal, members, inbox, forks } = sealed
    journal.onStop = (e) => { if (db.sql.open) world.broken(this, e) }
    const writing = segments && new InUse(segments.asStore)
    const arrivals = new SealedArrivals({ chunks, store, journal, timers, guard: () => writing?.begin() ?? (() => {}), take: () => {} })
    const compactor = writing && new Compactor({ db, chunks, store: segments.asStore, journal, writing })
    const releases = compactor && new Releases({
      chunks, log, journal, timers, head: () => sealed.head, knowsAllChunks: () => sealed.knowsAllChunks, afterMs: world.graces!.graceMs,
      lacked: (limit) => chunks.lacking(limit).map(({ id }) => ({ num: chunks.findById(id), id })), marked: () => {},
      compact: (isAsked, report) => compactor.run(isAsked ? 'full' : 'idle', report),
    })
    arrivals.learn = (num, bytes) => sealed.learn(num, bytes)
    const host: SwarmHost = {
      keys: this.keys, device: this.device, deviceName: this.name, timers, log, journal, members, inbox, chunks, arrivals, store, source: { provider: null },
      files: { dirtyBytes: 0, isLive: false }, space: { freeBytes: () => 1e9 }, share: () => {}, snapshot: () => sealed.snapshot(), metadata: { forks }, kept: sealed,
      get keepsEverything() { return sealed.knowsAllChunks },
      ...(releases && { releases, freshMs: world.graces!.freshMs }),
    }
    const peers = new Peers(host)
    peers.onNotice = (text) => world.noticed(this, text)
    this.live = { timers, db, store, chunks, sealed, peers, releases }
    world.onKeeperBoot(this)
    sealed.start()
    world.trace(`${this.name} boots`)
    world.net.add(this.name, {
      onUp: (peer) => this.#linkUp(peer),
      onDown: (peer) => this.#linkDown(peer),
      onMessage: (peer, bytes) => void this.links.get(peer)?.onMessage(bytes),
      onDrain: (peer) => this.links.get(peer)?.onDrain(),
    })
  }

  /** As `dfs gc` there: what nobody needs any more goes, after asking twice. */
  async gc(): Promise<GcReport> {
    const report: GcReport = { chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 }
    await this.live?.releases?.run(report)
    return report
  }

  #linkUp(peer: string): void {
    const link = new SimLink(this, this.world.node(peer))
    this.links.set(peer, link)
    this.live?.peers.up(link)
  }

  #linkDown(peer: string): void {
    const link = this.links.get(peer)
    this.links.delete(peer)
    link?.onClose('lost')
  }

  /** Power is cut, as for SimDevice. */
  crash(keep: number): void {
    const { live } = this
    if (!live) return
    live.releases?.close().catch(() => {})
    live.timers.stop()
    this.live = undefined
    this.links.clear()
    this.world.net.remove(this.name)
    this.disk.cut(keep)
    live.db.close()
    this.world.trace(`${this.name} has crashed`)
    this.world.count('keeper crash')
  }

  /** The disk as it was at an earlier time: it has less than it said. */
  restore(backup: ReturnType<SimDisk['copy']>): void {
    this.disk.image = backup.image
    this.disk.chunks = backup.chunks
    this.world.trace(`${this.name} is restored from a backup`)
    this.world.count('keeper restored')
  }
}
