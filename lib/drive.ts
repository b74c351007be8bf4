/**
 * A drive on this device: opens a store, wires its parts, and is the public API.
 *
 *   keys    who may read; names, contents and the log are sealed under them
 *   index   SQLite: tree, log, chunk table (store/database.ts)
 *   store   segments of sealed chunks
 *   tree    what names and inodes are, and what an op does to them
 *   engine  who decides the order of ops
 *   journal group commit: ops and rows in one transaction, one signed entry each
 *   files   what programs wrote and the tree does not have yet
 *
 * Owns all of them; `close` ends them in the reverse order and may be called
 * twice. A store has one owner: it is locked while open.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, rmSync, statfsSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import type { Conflict, DeviceChange, DeviceStatus, DriveStatus, FsckReport, GcReport, Keep, MendReport, NetworkStatus, OnProgress, Path, PeerStatus, RestoreOptions, RestoreReport, ScrubReport, SettingStatus, SyncOptions, VersionLog } from './api.js'
import { SystemClock, systemTimers, type Clock } from './clock.js'
import { Acknowledged, MAX_ACKS, type AckWish } from './acknowledged.js'
import { finishAnew, mayBeginAnew, TakingAnew } from './anew.js'
import { Cache } from './cache.js'
import { Care } from './care.js'
import { listConflicts, resolveConflict } from './conflicts.js'
import { pathsOfChunks } from './danger.js'
import { listDevices, placedDevices } from './devices.js'
import { fail } from './errors.js'
import { SourceSlot, type ChunkSource } from './file/fetch.js'
import { FlushEngine, type LocalChunk } from './file/flush.js'
import { Files } from './file/files.js'
import { ReadEngine } from './file/read.js'
import { fsck } from './fsck.js'
import { certify } from './keys/certificate.js'
import { DriveKeys } from './keys/derive.js'
import { deadChunks, type DeadChunks } from './dead-chunks.js'
import { createDevice, type Device } from './keys/device.js'
import { createKeyFile, openKeyFile, setIncarnation } from './keys/keyfile.js'
import { encodeZ32 } from './keys/zbase32.js'
import { Inbox } from './inbox.js'
import type { Linked } from './join.js'
import { Metadata } from './metadata.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import type { Op } from './log/ops.js'
import { CausalEngine, type CausalHost } from './order/causal/engine.js'
import type { Members } from './log/members.js'
import { READ_DEADLINE_MS, SEGMENT_BYTES } from './limits.js'
import { PathApi } from './paths.js'
import { Placing, deviceKey } from './placing.js'
import { Posix } from './posix.js'
import { Retention } from './retention.js'
import { ChunkSealer } from './seal/chunk.js'
import { NameSealer } from './seal/name.js'
import { SealPool } from './seal/pool.js'
import { ValueSealer } from './seal/value.js'
import { Arrivals } from './store/arrivals.js'
import { Checkpointer } from './store/checkpoint.js'
import { ChunkTable } from './store/chunks.js'
import { Database } from './store/database.js'
import { Collector } from './gc.js'
import type { SnapshotGift } from './snapshot.js'
import { SETTINGS } from './settings.js'
import { StoreLock } from './store/lock.js'
import { countMissing } from './store/missing.js'
import { replacedIndex } from './store/replaced.js'
import { SegmentStore } from './store/segments.js'
import { Space } from './store/space.js'
import { Unfinished } from './store/unfinished.js'
import { forgetPeer, knownPeers, rememberPeers } from './swarm/known-peers.js'
import { parseAddress } from './swarm/net/address.js'
import { Receipts } from './swarm/receipts.js'
import { ROOT_INO, type Inode } from './tree/inode.js'
import type { Tree, Outcome, TreeSealer } from './tree/tree.js'
import { StorageOnly } from './unreadable.js'

const MIN_SEGMENT_BYTES = 4 << 20
/** A segment takes at most this part of the disk. */
const SEGMENTS_A_DISK = 64

/** What `create --order` takes. */
export const ENGINES: Record<string, (host: CausalHost) => CausalEngine> = {
  causal: (host) => new CausalEngine(host),
}

export interface CreateOptions {
  name?: string
  /** A name from ENGINES; default 'causal'. Fixed for the life of the drive. */
  order?: string
  passphrase?: Buffer
  /** Owner of the root directory; default: who runs this. */
  uid?: number
  gid?: number
  /** Copies of each chunk, as the setting takes it; default: everything on every device. */
  replication?: string
  /** As OpenOptions.aside. */
  aside?: { afterMs: number; upMs: number }
  /** As OpenOptions.graceMs. */
  graceMs?: number
}

export interface OpenOptions {
  /** Asked for only if the key file needs one. */
  passphrase?: () => Promise<Buffer>
  clock?: Clock
  /** What the key file would give: of a drive that was open just now (`Drive.reopen`). */
  unlocked?: { keys: DriveKeys; device: Device }
  /** Where chunks can be had that are known and not here. Without one, reading them is EIO. */
  source?: ChunkSource
  /** How long a read waits for its content; default READ_DEADLINE_MS. */
  readDeadlineMs?: number
  /** When a silent device is set aside; default ASIDE_AFTER_MS, ASIDE_UP_MS. */
  aside?: { afterMs: number; upMs: number }
  /** How long a chunk stays when it need not any more; default GRACE_MS of lib/cache.ts. */
  graceMs?: number
}

/** What a daemon gives a drive to reach others by (service/network.ts). */
export interface DriveNetwork {
  peers(): PeerStatus[]
  status(): Promise<NetworkStatus | undefined>
  /** Tried from now on, until it is closed. */
  dial(addresses: readonly string[]): void
  /** A device was enrolled here: kept, and told to everybody. */
  announce(certificate: Buffer): void
  close(): Promise<void>
}

interface Parts {
  dir: string
  lock: StoreLock
  keys: DriveKeys
  device: Device
  db: Database
  store: SegmentStore
  clock: Clock
  source?: ChunkSource | undefined
  readDeadlineMs?: number | undefined
}

export class Drive extends PathApi {
  readonly dir: string
  readonly keys: DriveKeys
  readonly device: Device
  readonly db: Database
  readonly store: SegmentStore
  readonly pool: SealPool
  readonly chunks: ChunkTable
  readonly tree: Tree
  readonly log: Log
  readonly journal: Journal
  readonly engine: CausalEngine
  readonly files: Files
  readonly reader: ReadEngine
  readonly posix: Posix
  readonly unfinished: Unfinished
  readonly space: Space
  readonly clock: Clock
  readonly flusher: FlushEngine
  readonly collector: Collector
  readonly cache: Cache
  readonly care: Care
  readonly #checkpointer: Checkpointer
  readonly arrivals: Arrivals
  readonly members: Members
  readonly metadata: Metadata
  readonly placing: Placing
  readonly retention: Retention
  readonly timers = systemTimers
  /** What other devices have made durable. */
  readonly receipts: Receipts
  /** What mounts want of others at a sync; kept by them. */
  readonly wishes = new Set<AckWish>()
  /** Where chunks come from that are not here. */
  readonly source: SourceSlot
  readonly inbox: Inbox
  readonly #lock: StoreLock
  readonly #options: OpenOptions
  /** The second index, while it is filled, and when it is to take the place of the first (anew.ts). */
  #anew: TakingAnew | undefined
  /** Called once when the drive has all metadata anew: it goes on with it when it was closed and opened again. */
  onAnew: () => void = () => {}
  #closing: Promise<void> | null = null
  #clearing: Promise<void> | null = null
  /** Called once if the store has to stop (a failed sync): nothing more is accepted. */
  onStop: (e: Error) => void = () => {}
  /** What a person should know. */
  onNotice: (text: string) => void = () => {}
  /** Set by whoever connects the drive to others; closed with it. */
  network: DriveNetwork | null = null
  /** Where it is mounted; kept by whoever mounts. */
  readonly mountpoints: { dir: string; driver: string }[] = []

  /** Whether a drive was made in `storeDir`, to its end. */
  static exists(storeDir: string): boolean {
    return existsSync(join(storeDir, 'keys'))
  }

  /** Makes a new drive in `storeDir`. STORE_EXISTS, STORE_LOCKED, USAGE (unknown order). */
  static async create(storeDir: string, options: CreateOptions = {}): Promise<Drive> {
    const order = options.order ?? 'causal'
    if (!ENGINES[order]) throw fail('USAGE', `unknown order "${order}"; there is: ${Object.keys(ENGINES).join(', ')}`)
    if (options.replication !== undefined) SETTINGS.replication.normal(options.replication)
    const dir = resolve(storeDir)
    if (Drive.exists(dir)) throw fail('STORE_EXISTS', `there is already a drive in ${dir}; use another --store`)
    const made = mkdirSync(dir, { recursive: true, mode: 0o700 })
    syncPath(dir, made ?? dir)
    const lock = StoreLock.acquire(dir)
    try {
      clearUnfinished(dir)
      const keys = DriveKeys.create()
      const device = createDevice()
      const db = Database.create(join(dir, 'index.db'))
      const clock = new SystemClock()
      db.setMeta('drive', keys.driveId)
      db.setMeta('order', order)
      const uid = options.uid ?? process.getuid?.() ?? 0
      const gid = options.gid ?? process.getgid?.() ?? 0
      db.setMeta('creator_uid', uid)
      db.setMeta('creator_gid', gid)
      db.setMeta('name', options.name ?? '')
      db.setMeta('device_name', process.env['NODE_ID'] ?? hostname())
      const sql = db.sql.prepare('INSERT INTO incarnation VALUES (?,?,?)')
      sql.run(0, Buffer.alloc(16), Buffer.alloc(32))
      sql.run(1, device.incarnation, device.publicKey)
      db.setMeta('incarnation', 1)
      const store = openSegments(dir, keys.driveId)
      const drive = new Drive({ dir, lock, keys, device, db, store, clock }, { ...(options.aside && { aside: options.aside }), ...(options.graceMs !== undefined && { graceMs: options.graceMs }) })
      await drive.space.refill()
      drive.tree.makeRoot(uid, gid, clock.now())
      drive.tree.rows.setAuthor(1, drive.deviceName)
      if (options.replication !== undefined) drive.placing.settings.set('replication', options.replication)
      drive.journal.touched()
      await drive.journal.durable()
      // A store without its key file was never finished, and `create` may be run again; one that was and has lost it is left alone.
      await createKeyFile(join(dir, 'keys'), { keys, device, ...(options.passphrase ? { passphrase: options.passphrase } : {}) })
      db.setMeta('finished', 1)
      drive.journal.touched()
      await drive.journal.durable()
      return drive
    } catch (e) {
      lock.release()
      throw e
    }
  }

  /** Opens the drive in `storeDir`. STORE_MISSING, STORE_LOCKED, STORE_NEWER, STORE_DAMAGED, PASSPHRASE_NEEDED, PASSPHRASE_WRONG; KEY_KIND for a storage peer's (openStore). */
  static async open(storeDir: string, options: OpenOptions = {}): Promise<Drive> {
    const dir = resolve(storeDir)
    if (!Drive.exists(dir)) throw fail('STORE_MISSING', `there is no drive in ${dir}; run dfs create, or dfs mount to make one`)
    Space.rescue(dir)
    const lock = StoreLock.acquire(dir)
    let db: Database | undefined
    try {
      const opened = options.unlocked ?? await openKeyFile(join(dir, 'keys'), options.passphrase ? { passphrase: options.passphrase } : {})
      if (!opened.keys.canRead) throw new StorageOnly(opened)
      db = Database.open(join(dir, 'index.db'))
      const drive = db.getMeta('drive') as Buffer | undefined
      if (!drive?.equals(opened.keys.driveId)) throw fail('STORE_DAMAGED', 'the key file and the index belong to different drives')
      if (db.getMeta('joining') === 1) throw fail('STORE_JOINING', 'this store has joined a drive and has not met another of its devices yet; run dfs mount, or dfs serve, where one can be reached')
      const store = openSegments(dir, opened.keys.driveId)
      const made = new Drive({ dir, lock, keys: opened.keys, device: opened.device, db, store, clock: options.clock ?? new SystemClock(), source: options.source, readDeadlineMs: options.readDeadlineMs }, options)
      await made.space.refill()
      return made
    } catch (e) {
      db?.close()
      lock.release()
      throw e
    }
  }

  /**
   * The same store anew, after this one has stopped. What is durable is there; closing has given up the rest. Throws
   * as `open`.
   */
  async reopen(): Promise<Drive> {
    await this.close().catch(() => { /* it had stopped: why is known */ })
    Database.settle(join(this.dir, 'index.db'))
    return Drive.open(this.dir, { ...this.#options, unlocked: { keys: this.keys, device: this.device } })
  }

  private constructor(p: Parts, options: OpenOptions = {}) {
    super()
    this.#options = options
    this.dir = p.dir
    this.#lock = p.lock
    this.keys = p.keys
    this.device = p.device
    this.db = p.db
    this.store = p.store
    this.clock = p.clock
    const { keys } = p
    const replaced = replacedIndex(p.db)
    const sealer = new ChunkSealer(keys.contentKey(), keys.contentHashKey(), keys.driveId, keys.epoch)
    this.pool = new SealPool(keys.forWorkers())
    this.space = new Space(p.dir, { logRoom: () => p.db.logRoom(), isWritten: true })
    p.store.keptBlocks = this.space
    this.chunks = new ChunkTable(p.db)
    const order = p.db.getMeta('order') as string
    const maker = ENGINES[order]
    if (!maker) throw fail('STORE_NEWER', `the drive is ordered by "${order}", which this dfs does not know; update dfs`)
    this.metadata = new Metadata({
      db: p.db, keys, device: p.device, clock: p.clock, timers: this.timers, chunks: this.chunks, sealer: treeSealer(keys), makeEngine: maker, store: p.store,
      gone: (ino) => this.posix.forget(ino), ...(options.aside && { aside: options.aside }),
    })
    ;({ log: this.log, tree: this.tree, journal: this.journal, engine: this.engine, members: this.members } = this.metadata)
    const { rows } = this.tree
    this.placing = new Placing({
      db: p.db, keys, device: p.device, clock: p.clock, timers: this.timers, chunks: this.chunks, metadata: this.metadata, cache: () => this.cache,
      diskBytes: () => this.cache.usedBytes + this.space.freeBytes(this.files.dirtyBytes), isClosing: () => this.#closing !== null, onNotice: (text) => this.onNotice(text), sync: () => this.sync(),
      changed: (ino) => this.posix.tell(null, (w) => w.inodeChanged(ino, -1, 0)),
    })
    this.journal.beforeCommit = () => this.space.beforeCommit()
    this.journal.onStop = (e) => this.onStop(e)
    p.store.onStop = (e) => this.journal.stop(e)
    this.#checkpointer = new Checkpointer(p.db, this.journal)

    this.files = new Files({ clock: p.clock, space: this.space, timers: this.timers })
    this.receipts = new Receipts({ timers: this.timers, members: this.members, chunks: this.chunks, ownLog: () => this.journal.incarnation })
    const acknowledged = new Acknowledged({ tree: this.tree, chunks: this.chunks, log: this.log, journal: this.journal, source: this.receipts })
    const host = { rows, chunks: this.chunks, store: p.store, pool: this.pool, sealer }
    this.posix = new Posix({
      tree: this.tree, files: this.files, journal: this.journal, engine: this.engine, chunks: this.chunks, clock: p.clock, space: this.space, acknowledged,
      applyLocal: (op: Op, id = this.journal.newOpId()): Outcome => {
        const outcome = op.type === 'content' ? this.engine.local(op, id) : this.tree.apply(op, id, (ref) => this.metadata.chunkNumber(ref))
        this.journal.touched()
        return outcome
      },
      readOnly: !keys.canWrite,
    })
    this.flusher = new FlushEngine({ ...host, makeRoom: () => this.space.makeRoom(), content: (op) => this.posix.content(op) }, this.files)
    this.files.flusher = this.flusher
    this.source = new SourceSlot(p.source ?? null)
    this.reader = new ReadEngine({
      ...host, source: this.source, deadlineMs: p.readDeadlineMs ?? READ_DEADLINE_MS, arrived: (chunk, sealed) => void this.arrivals.keep(chunk, sealed), used: (chunk) => this.cache.used(chunk),
    }, this.files)
    this.arrivals = new Arrivals({
      chunks: this.chunks, store: p.store, journal: this.journal, timers: this.timers, guard: () => this.flusher.guard(),
      take: (bytes) => this.space.take(bytes, this.files.dirtyBytes), mayKeep: (num, bytes) => this.cache.mayKeep(num, bytes),
    })
    this.collector = new Collector({
      db: p.db, tree: this.tree, chunks: this.chunks, store: p.store, space: this.space, journal: this.journal, flusher: this.flusher, reader: this.reader,
      files: this.files, pool: this.pool, posix: this.posix, timers: this.timers, isShared: () => this.engine.revises, isKept: () => this.metadata.history.isOn(),
    })
    this.journal.recover(join(p.dir, 'redo'), (op, id) => this.#redo(op, id))
    this.inbox = new Inbox({
      driveId: keys.driveId, tree: this.tree, log: this.log, journal: this.journal, engine: this.engine, files: this.files, posix: this.posix, timers: this.timers,
      isForked: (inc) => this.metadata.isForked(inc), takes: (inc, device, context) => this.metadata.takes(inc, device, context), named: (inc) => this.metadata.newcomers.name(inc),
      mayWrite: (device) => this.members.get(device)?.role === 'full', asides: this.metadata.asides,
    })
    this.cache = new Cache({
      db: p.db, chunks: this.chunks, tree: this.tree, store: p.store, journal: this.journal, flusher: this.flusher, reader: this.reader,
      collector: this.collector, space: this.space, timers: this.timers, clock: p.clock, unlinked: () => (this.isShared ? this.files.unlinked() : []), ...(options.graceMs !== undefined && { graceMs: options.graceMs }),
      share: { keeping: this.keeping, budget: () => this.fleet.budgetBytes, isLeaving: () => this.fleet.isLeaving },
    })
    this.arrivals.onFull = () => this.cache.full()
    this.metadata.statesLater = () => this.cache.pins.open.isAwaiting
    this.care = new Care({
      db: p.db, chunks: this.chunks, store: p.store, journal: this.journal, timers: this.timers, clock: p.clock,
      isBusy: () => this.pool.pending > 0, onNotice: (text) => this.onNotice(text), flush: () => rows.flush(),
      owed: () => (this.keeping.plan ? 'planned or pinned' : this.cache.keepsEverything ? 'everything' : 'pinned'),
      hasOthers: () => this.members.all().some((m) => !m.device.equals(p.device.publicKey)), paths: (nums) => pathsOfChunks(this, nums),
    })
    this.files.makeRoom = (bytes) => (this.cache.keepsEverything ? undefined : this.cache.makeRoom(bytes))
    // Who opens the store goes by the index; the key file says it to people and other tools.
    this.metadata.own.onRenew = (id) => {
      this.journal.settle().then(() => setIncarnation(join(this.dir, 'keys'), id)).catch((e: Error) => { if (!this.journal.stopped) process.emitWarning(`the key file: ${e.message}`) })
    }
    this.metadata.start(replaced && (() => {
      replaced()
      this.journal.touched('derived')
    }))
    finishAnew({ dir: p.dir, db: p.db, metadata: this.metadata, keys, device: this.device, sealer: treeSealer(keys) })
    this.placing.start()
    this.unfinished = new Unfinished(p.db, () => this.journal.touched())
    // What had no name when the last session ended, nobody can reach any more.
    for (const ino of rows.orphans()) this.posix.forget(ino)
    this.collector.start()
    this.retention = new Retention({
      api: this, metadata: this.metadata, posix: this.posix, files: this.files, chunks: this.chunks, collector: this.collector, clock: p.clock, timers: this.timers, device: p.device, canWrite: keys.canWrite,
    })
    void this.#clear().catch((e: Error) => { if (!this.journal.stopped) process.emitWarning(`clearing what a copy left: ${e.message}`) })
  }

  /** What was being built when the last session was killed. */
  #clear(): Promise<void> {
    if (!this.keys.canWrite) return Promise.resolve()
    return (this.#clearing ??= this.clearUnfinished(() => this.#closing === null && !this.journal.stopped).finally(() => { this.#clearing = null }))
  }

  /** As SwarmHost has it. */
  deadChunks(ids: Buffer[]): DeadChunks | undefined {
    return deadChunks({ metadata: this.metadata, chunks: this.chunks, flusher: this.flusher, canWrite: this.keys.canWrite }, ids)
  }

  // --- other devices ------------------------------------------------------

  // For the swarm.
  get keeping() { return this.placing.keeping }
  get fleet() { return this.placing.fleet }
  get reports() { return this.placing.reports }
  get factors() { return this.placing.factors }

  /** Whether others take part. */
  get isShared(): boolean { return this.metadata.isShared }

  /** As Metadata.share. */
  share(): void { this.metadata.share() }

  /** As Metadata.snapshot. */
  snapshot(withChunks: boolean): Promise<SnapshotGift> { return this.metadata.snapshot(withChunks) }

  get mayBeginAnew(): boolean { return mayBeginAnew(this.db, this.clock.nowMs()) }

  /** Takes all metadata anew from one of `links`, while this drive goes on; then calls `onAnew`. */
  beginAnew(links: Linked, onNotice: (text: string) => void): void {
    if (this.#anew || this.#closing) return
    const { dir, keys, device, clock, timers } = this
    this.#anew = TakingAnew.begin({
      dir, keys, device, clock, timers, links, onNotice, incarnation: this.log.incarnationId(this.journal.incarnation), onReady: () => { if (!this.#closing) this.onAnew() },
    })
  }

  /** An op of our own that the index has lost. */
  #redo(op: Op, id: number): Outcome {
    for (const c of op.type === 'content' ? op.chunks as LocalChunk[] : []) {
      c.num = 0
      if (c.seg === 0 && !c.data && this.chunks.findByHash(c.h) === 0) return 'EIO'
    }
    return this.engine.redo(op, id)
  }

  // --- whole drive --------------------------------------------------------

  get deviceName(): string { return this.metadata.deviceName }

  /** Who made the drive, by the numbers of the device that it was made on. Older stores: who owns its root. */
  get creator(): { uid: number; gid: number } {
    const root = this.tree.get(ROOT_INO)
    return {
      uid: (this.db.getMeta('creator_uid') as number | undefined) ?? root?.uid ?? 0,
      gid: (this.db.getMeta('creator_gid') as number | undefined) ?? root?.gid ?? 0,
    }
  }

  async sync(options: SyncOptions = {}): Promise<void> {
    return this.posix.sync(this.wish(options))
  }

  /** What `options` ask of others. */
  wish({ acks = 0, timeoutMs = READ_DEADLINE_MS, signal }: SyncOptions): AckWish | undefined {
    const wish = acks === 'mounts' ? [...this.wishes].sort((a, b) => b.acks - a.acks)[0] : acks > 0 ? { acks, waitMs: timeoutMs } : undefined
    if (!wish) return undefined
    if (wish.acks > MAX_ACKS) throw fail('USAGE', `a sync waits for ${MAX_ACKS} other devices at most`)
    if (!this.network) throw fail('EIO', 'other devices cannot be reached: no daemon runs; start one with `dfs mount` or `dfs serve`')
    return { ...wish, signal }
  }

  async status(): Promise<DriveStatus> {
    this.journal.check()
    this.tree.rows.flush()
    this.journal.touched('derived')
    const one = (text: string) => this.db.sql.prepare(text).raw(true).get() as number[]
    const [files, logical] = one('SELECT count(*), ifnull(sum(size),0) FROM inode WHERE mode & 0xf000 = 0x8000 AND nlink > 0') as [number, number]
    const [here, hereBytes] = one('SELECT count(*), ifnull(sum(len),0) FROM chunk WHERE seg >= 0') as [number, number]
    const [inline, inlineBytes] = one('SELECT count(*), ifnull(sum(len),0) FROM chunk WHERE seg = 0') as [number, number]
    const { chunks: owed, bytes: owedBytes } = countMissing(this.db, 'everything')
    const head = this.log.head(this.journal.incarnation)
    const size = (name: string) => { try { return statSync(join(this.dir, name)).size } catch { return 0 } }
    let segments = 0
    for (const bytes of this.store.usage().values()) segments += bytes
    return {
      pid: process.pid,
      drive: this.keys.driveName,
      name: (this.db.getMeta('name') as string | undefined) ?? '',
      device: encodeZ32(this.device.publicKey),
      deviceName: (this.db.getMeta('device_name') as string | undefined) ?? '',
      store: this.dir,
      order: this.engine.name,
      keyKind: this.keys.kind,
      mountpoints: this.mountpoints.map((m) => ({ ...m })),
      peers: this.network?.peers() ?? [],
      knownPeers: knownPeers(this.db),
      network: (await this.network?.status()) ?? null,
      files,
      logicalBytes: logical,
      chunks: { here, hereBytes, owed, owedBytes, inline, inlineBytes },
      cache: { limitBytes: this.cache.limitBytes, usedBytes: segments, pins: this.cache.pins.count },
      ...this.care.status,
      disk: { segments, index: size('index.db'), wal: size('index.db-wal'), freeBytes: this.space.freeBytes(this.files.dirtyBytes) },
      dirtyBytes: this.files.dirtyBytes,
      placement: await this.placing.status(),
      log: { entries: head.seq - head.first + 1, bytes: head.bytes, seq: head.seq },
      rssBytes: process.memoryUsage.rss(),
    }
  }

  async peers(): Promise<PeerStatus[]> { return this.network?.peers() ?? [] }

  async addPeers(addresses: string[]): Promise<void> {
    for (const address of addresses) parseAddress(address)
    if (rememberPeers(this.db, addresses).length > 0) this.journal.touched()
    this.network?.dial(addresses)
  }

  async forgetPeer(address: string): Promise<boolean> {
    const known = forgetPeer(this.db, address)
    if (known) this.journal.touched()
    return known
  }

  async devices(): Promise<DeviceStatus[]> { return placedDevices(this, listDevices(this, await this.peers())) }

  configAt(dir: Inode | undefined): SettingStatus[] { return this.placing.config(dir) }

  setConfigAt(name: string, value: string | null, dir: Inode | undefined): Promise<void> { return this.placing.setConfig(name, value, dir) }

  setDevice(device: string, change: DeviceChange): Promise<void> { return this.placing.setDevice(device, change) }

  waitPlaced(onProgress?: OnProgress): Promise<void> { return this.placing.wait(onProgress) }

  async addDevice(device: string, role: 'read-only' | 'storage', name: string): Promise<void> {
    const key = deviceKey(device)
    if (this.members.get(key)) throw fail('EEXIST', `the device ${this.members.get(key)!.name} is enrolled already`)
    const certificate = certify(this.keys, { device: key, role, name })
    this.share()
    if (this.network) this.network.announce(certificate)
    else this.members.add(certificate)
    await this.sync()
  }

  async conflicts(): Promise<Conflict[]> { return listConflicts(this) }

  async versions(path: Path, options: { limit?: number } = {}): Promise<VersionLog> { return this.retention.versions(Buffer.from(path), options.limit) }

  restore(path: Path, options: RestoreOptions, onProgress?: OnProgress): Promise<RestoreReport> { return this.retention.restore(Buffer.from(path), options, onProgress) }

  resolveConflict(path: Path, keep: Keep): Promise<Buffer[]> {
    return resolveConflict(this, this, Buffer.from(path), keep)
  }

  fsck(options: { data?: boolean; repair?: boolean } = {}, onProgress?: OnProgress): Promise<FsckReport> {
    return fsck(this, options, onProgress)
  }

  scrub(options: { restart?: boolean } = {}, onProgress?: OnProgress): Promise<ScrubReport> { return this.care.scrub(options, onProgress) }

  setScrubRate(bytesPerS: number): Promise<void> { return this.care.scrubber.setRate(bytesPerS) }

  mend(onProgress?: OnProgress): Promise<MendReport> { return this.care.mend(onProgress) }

  setCache(bytes: number | null): Promise<void> { return this.cache.setLimit(bytes) }

  async gc(onProgress?: OnProgress): Promise<GcReport> {
    await this.#clear()
    await this.retention.sweep()
    return this.collector.run(onProgress)
  }

  async key(kind: 'full' | 'read-only' | 'storage'): Promise<string> {
    return this.keys.capability(kind)
  }

  /** Flushes, and gives the store back. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    let error: unknown
    const step = async (f: () => unknown) => { try { await f() } catch (e) { error ??= e } }
    this.retention.close()
    await this.#clearing?.catch(() => {})
    await this.placing.close()
    if (!this.journal.stopped) await step(() => this.metadata.own.end(this.files.dirtyBytes > 0))
    await this.#anew?.end()
    // It must not be numbered as what others have already.
    if (this.#anew?.isReady && this.journal.isHeld && !this.journal.stopped) await step(() => this.metadata.own.renew())
    // While others can still be told of it.
    if (this.network && !this.journal.stopped) await step(() => this.posix.sync())
    await step(() => this.network?.close())
    this.receipts.close()
    this.metadata.stop()
    await step(() => this.care.close())
    await step(() => this.cache.close())
    await step(() => this.collector.stop())
    this.reader.close()
    await step(() => this.arrivals.close())
    if (!this.journal.stopped) await step(() => this.posix.sync())
    this.files.close()
    await step(() => this.engine.close())
    await step(() => this.#checkpointer.close())
    await step(() => this.journal.close())
    await step(() => this.pool.close())
    await step(() => this.store.close())
    await step(() => this.db.close())
    await step(() => this.space.close())
    await step(() => this.#anew?.close(error === undefined))
    this.#lock.release()
    if (error) throw error
  }

  get rootIno(): number { return ROOT_INO }
}

/** On a small disk segments are small too: compacting one needs room for what lives in it. */
export function openSegments(dir: string, driveId: Buffer): SegmentStore {
  const fs = statfsSync(dir)
  const segmentBytes = Math.min(SEGMENT_BYTES, Math.max(MIN_SEGMENT_BYTES, Math.floor(fs.blocks * fs.bsize / SEGMENTS_A_DISK)))
  return SegmentStore.open(join(dir, 'segments'), { driveId, segmentBytes })
}

/** Makes the names of directories that were just made durable, from `first` down to `dir`. */
function syncPath(dir: string, first: string): void {
  for (let at = dir; ; at = dirname(at)) {
    const parent = openSync(dirname(at), 'r')
    try { fsyncSync(parent) } finally { closeSync(parent) }
    if (at === first || at === dirname(at)) return
  }
}

/** What a `create` that was killed has left behind. STORE_EXISTS if it was no such thing. */
export function clearUnfinished(dir: string): void {
  const path = join(dir, 'index.db')
  if (!existsSync(path)) return
  if (isFinished(dir, path)) throw fail('STORE_EXISTS', `${dir} holds a drive whose file "keys" is missing; put it back, or use another --store`)
  for (const name of ['index.db', 'index.db-wal', 'index.db-shm', 'redo', 'segments']) rmSync(join(dir, name), { recursive: true, force: true })
}

function isFinished(dir: string, index: string): boolean {
  // Its tables come before anything else: beside segments it is damaged.
  if (!existsSync(join(dir, 'segments')) && Database.isBlank(index)) return false
  const db = Database.open(index)
  try { return db.getMeta('finished') === 1 } finally { db.close() }
}

/** Names and small values under the keys of a drive. */
export function treeSealer(keys: DriveKeys): TreeSealer {
  const names = new NameSealer(keys)
  const values = new ValueSealer(keys)
  const scratch = Buffer.alloc(16)
  return {
    nameKey: (parentId, name) => names.hash(parentId, name, scratch),
    sealName: (key, name) => names.seal(key, name),
    openName: (key, sealed) => names.open(key, sealed),
    xattrKey: (context, name) => values.hashValueName(context, name),
    sealValue: (purpose, context, plain) => values.sealValue(purpose, context, plain),
    openValue: (purpose, context, sealed) => values.openValue(purpose, context, sealed),
  }
}
