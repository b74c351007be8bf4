/**
 * What a Drive has beside its metadata, over the simulated disk: open files and
 * their flushes, reading, POSIX, the API by path, cache, placement, collector and
 * compactor, restoring; wired as in lib/drive.ts.
 */
import type { RestoreOptions, RestoreReport } from '../../../lib/api.js'
import { Acknowledged } from '../../../lib/acknowledged.js'
import { Cache } from '../../../lib/cache.js'
import type { Timers } from '../../../lib/clock.js'
import { deadChunks, type DeadChunks } from '../../../lib/dead-chunks.js'
import { SourceSlot } from '../../../lib/file/fetch.js'
import { Files } from '../../../lib/file/files.js'
import { FlushEngine } from '../../../lib/file/flush.js'
import { ReadEngine } from '../../../lib/file/read.js'
import { Collector } from '../../../lib/gc.js'
import { READ_DEADLINE_MS } from '../../../lib/limits.js'
import type { Metadata } from '../../../lib/metadata.js'
import { PathApi } from '../../../lib/paths.js'
import { Placing } from '../../../lib/placing.js'
import { Posix } from '../../../lib/posix.js'
import { Retention } from '../../../lib/retention.js'
import { ChunkSealer } from '../../../lib/seal/chunk.js'
import { Arrivals } from '../../../lib/store/arrivals.js'
import type { ChunkTable } from '../../../lib/store/chunks.js'
import type { Space } from '../../../lib/store/space.js'
import { Unfinished } from '../../../lib/store/unfinished.js'
import { Receipts } from '../../../lib/swarm/receipts.js'
import type { Inode } from '../../../lib/tree/inode.js'
import type { SimDatabase } from './disk.js'
import type { SimDevice } from './device.js'
import { SimPool, type SimSegments } from './segments.js'

/** There is always room. */
const SPACE = { dirtyLimit: 1e9, isTight: false, take: () => {}, takeMeta: () => {}, makeRoom: () => false, refill: () => Promise.resolve(false), freeBytes: () => 1e12 } as unknown as Space

/** What a race makes short: a chunk stays so long when it need not any more, and a proof of having one counts so long; how soon what is seen is stated and final. What the workers take, at most. */
export interface Graces { graceMs: number; freshMs: number; stating: { settleMs: number; afterMs: number }; jobMs: number }

interface Parts { device: SimDevice; db: SimDatabase; timers: Timers; chunks: ChunkTable; segments: SimSegments; metadata: Metadata; graces: Graces }

/** Abstract, for all that has to do with the network, people and services is left out: nobody calls it. */
export abstract class SimDrive extends PathApi {
  override readonly tree
  override readonly posix: Posix
  override readonly files: Files
  override readonly reader: ReadEngine
  override readonly cache: Cache
  override readonly unfinished: Unfinished
  override readonly creator = { uid: 0, gid: 0 }
  readonly sealer: ChunkSealer
  readonly source = new SourceSlot(null)
  readonly flusher: FlushEngine
  readonly collector: Collector
  readonly placing: Placing
  readonly retention: Retention
  readonly arrivals: Arrivals
  readonly receipts: Receipts
  readonly #p: Parts
  #isOver = false
  #unlinkedMs = new Map<number, number>()

  static make(p: Parts): SimDrive { return new (SimDrive as unknown as new (p: Parts) => SimDrive)(p) }

  constructor(p: Parts) {
    super()
    this.#p = p
    const { device, db, timers, chunks, segments, metadata, graces } = p
    const { tree, journal, engine, log, members } = metadata
    const { keys, clock, world } = device
    const store = segments.asStore
    this.tree = tree
    segments.onStop = (e) => journal.stop(e)
    const sealer = this.sealer = new ChunkSealer(keys.contentKey(), keys.contentHashKey(), keys.driveId, keys.epoch)
    const pool = new SimPool(sealer, timers, () => world.below(graces.jobMs)).asPool
    this.placing = new Placing({
      db, keys, device: device.device, clock, timers, chunks, metadata, cache: () => this.cache, diskBytes: () => device.diskBytes, isClosing: () => this.#isOver, sync: () => this.posix.sync(), changed: () => {},
      onNotice: (text) => {
        world.trace(`${device.name} notices: ${text}`)
        if (text.includes('does not have')) world.broken(device, new Error(text))
      },
    })
    this.files = new Files({ clock, space: SPACE, timers })
    this.receipts = new Receipts({ timers, members, chunks, ownLog: () => journal.incarnation })
    const acknowledged = new Acknowledged({ tree, chunks, log, journal, source: this.receipts })
    const host = { rows: tree.rows, chunks, store, pool, sealer }
    this.posix = new Posix({
      tree, files: this.files, journal, engine, chunks, clock, space: SPACE, acknowledged, readOnly: !keys.canWrite,
      applyLocal: (op, id = journal.newOpId()) => {
        const outcome = op.type === 'content' ? engine.local(op, id) : tree.apply(op, id, (ref) => metadata.chunkNumber(ref))
        journal.touched()
        return outcome
      },
    })
    this.flusher = new FlushEngine({ ...host, makeRoom: () => false, content: (op) => this.posix.content(op) }, this.files)
    this.files.flusher = this.flusher
    this.reader = new ReadEngine({ ...host, source: this.source, deadlineMs: READ_DEADLINE_MS, arrived: (num, sealed) => void this.arrivals.keep(num, sealed), used: (num) => this.cache.used(num) }, this.files)
    this.arrivals = new Arrivals({ chunks, store, journal, timers, guard: () => this.flusher.guard(), take: () => {}, mayKeep: (num, bytes) => this.cache.mayKeep(num, bytes) })
    this.collector = new Collector({
      db, tree, chunks, store, space: SPACE, journal, flusher: this.flusher, reader: this.reader, files: this.files, pool, posix: this.posix, timers,
      isShared: () => engine.revises, isKept: () => metadata.history.isOn(),
    })
    this.cache = new Cache({
      db, chunks, tree, store, journal, flusher: this.flusher, reader: this.reader, collector: this.collector, space: SPACE, timers, clock, graceMs: graces.graceMs, unlinked: () => (metadata.isShared ? this.#unlinked() : []),
      share: { keeping: this.placing.keeping, budget: () => this.placing.fleet.budgetBytes, isLeaving: () => this.placing.fleet.isLeaving },
    })
    this.arrivals.onFull = () => this.cache.full()
    metadata.statesLater = () => this.cache.pins.open.isAwaiting
    this.retention = new Retention({ api: this, metadata, posix: this.posix, files: this.files, chunks, collector: this.collector, clock, timers, device: device.device, canWrite: keys.canWrite })
    this.unfinished = new Unfinished(db, () => journal.touched())
  }

  /** When it was seen first that a file that is open has no name any more. */
  unlinkedMs(ino: number): number { return this.#unlinkedMs.get(ino) ?? Infinity }

  #unlinked(): Inode[] {
    const inodes = [...this.files.unlinked()]
    this.#unlinkedMs = new Map(inodes.map(({ ino }) => [ino, this.#unlinkedMs.get(ino) ?? this.#p.device.world.net.nowMs]))
    return inodes
  }

  /** When the metadata is there. */
  start(): void {
    this.placing.start()
    this.collector.start()
  }

  deadChunks(ids: Buffer[]): DeadChunks | undefined {
    const { metadata, chunks, device } = this.#p
    return deadChunks({ metadata, chunks, flusher: this.flusher, canWrite: device.keys.canWrite }, ids)
  }

  override restore(path: string, options: RestoreOptions): Promise<RestoreReport> { return this.retention.restore(Buffer.from(path), options) }

  /** Whether it is known, and no file has it. */
  isDying(content: Buffer): boolean {
    const { chunks, db } = this.#p
    const num = chunks.findByHash(this.sealer.contentHash(content))
    return num > 0 && db.sql.prepare('SELECT 1 FROM extent e JOIN inode i ON i.ino = e.ino WHERE e.chunk = ? AND i.nlink > 0').get(num) === undefined
  }

  /** What is past the retention goes, and what nothing names: as `dfs gc`, or (`isFull` false) as room is made in a cache. */
  async collect(isFull: boolean): Promise<void> {
    await this.retention.sweep()
    if (isFull) await this.collector.run()
    else await this.collector.shrink()
  }

  override async sync(): Promise<void> { await this.posix.sync() }
  override wish(): undefined { return undefined }

  /** Power is cut: nothing of it goes on. */
  halt(): void {
    this.#isOver = true
    this.placing.close()
    this.receipts.close()
    this.retention.close()
    this.files.close()
    this.reader.close()
    this.collector.stop().catch(() => {})
    this.cache.close().catch(() => {})
  }
}
