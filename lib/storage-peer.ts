/**
 * A device with the storage key: keeps the sealed entries, chunks and snapshot of
 * a drive (sealed.ts), verifies them, gives them to the other devices, and can
 * read none of them. A drive whose other devices are all gone comes back from it.
 *
 * Owns its store as a Drive does; `close` may be called twice.
 */
import { statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { DeviceStatus, DriveApi, DriveStatus, FsckProblem, FsckReport, GcReport, OnProgress, PeerStatus, MendReport, ScrubReport, SyncOptions } from './api.js'
import { Care } from './care.js'
import { GRACE_MS } from './cache.js'
import { SystemClock, systemTimers, type Clock } from './clock.js'
import { listDevices } from './devices.js'
import { Drive, openSegments, type DriveNetwork, type OpenOptions } from './drive.js'
import { fail, isDfsError } from './errors.js'
import { SourceSlot } from './file/fetch.js'
import type { DriveKeys } from './keys/derive.js'
import type { Device } from './keys/device.js'
import { openKeyFile } from './keys/keyfile.js'
import { encodeZ32 } from './keys/zbase32.js'
import { entryHash } from './log/entry.js'
import type { Forks } from './log/forks.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import type { Members } from './log/members.js'
import { Keeping } from './placement/keeping.js'
import { Plan } from './placement/plan.js'
import { Reports } from './placement/reports.js'
import { Surplus } from './placement/surplus.js'
import { Releases } from './releases.js'
import { chunkId, sealedLength } from './seal/chunk.js'
import { Sealed } from './sealed.js'
import type { SealedInbox } from './sealed-inbox.js'
import type { SnapshotGift } from './snapshot.js'
import { Arrivals } from './store/arrivals.js'
import { Checkpointer } from './store/checkpoint.js'
import { ChunkTable, ELSEWHERE } from './store/chunks.js'
import { Compactor, type Round } from './store/compactor.js'
import { Database } from './store/database.js'
import { InUse } from './store/in-use.js'
import { FactorTable } from './store/factor-table.js'
import { Lacking } from './store/lacking.js'
import { StoreLock } from './store/lock.js'
import { countMissing } from './store/missing.js'
import { ReportTable } from './store/report-table.js'
import type { SegmentStore } from './store/segments.js'
import { Space } from './store/space.js'
import type { SwarmHost } from './swarm/host.js'
import { forgetPeer, knownPeers, rememberPeers } from './swarm/known-peers.js'
import { parseAddress } from './swarm/net/address.js'
import { StorageOnly, Unreadable, unreadable } from './unreadable.js'

/** As in lib/cache.ts. */
const FULL_MS = 60_000

interface Parts { dir: string; lock: StoreLock; keys: DriveKeys; device: Device; db: Database; store: SegmentStore; graceMs: number | undefined }

/** Opens what is in `storeDir`, whichever it is. As Drive.open. */
export async function openStore(storeDir: string, options: OpenOptions = {}): Promise<Drive | StoragePeer> {
  try {
    return await Drive.open(storeDir, options)
  } catch (e) {
    if (!(e instanceof StorageOnly)) throw e
    return StoragePeer.open(storeDir, { ...options, unlocked: e.unlocked })
  }
}

/** Learns a chunk's length from its verified bytes before it is kept. */
export class SealedArrivals extends Arrivals {
  learn: (num: number, sealedBytes: number) => boolean = () => false

  override keep(num: number, sealed: Buffer): Promise<boolean> {
    return this.learn(num, sealed.length) ? super.keep(num, sealed) : Promise.resolve(false)
  }
}

export class StoragePeer extends Unreadable implements DriveApi, SwarmHost {
  readonly dir: string
  readonly keys: DriveKeys
  readonly device: Device
  readonly db: Database
  readonly store: SegmentStore
  readonly clock: Clock = new SystemClock()
  readonly timers = systemTimers
  readonly space: Space
  readonly chunks: ChunkTable
  readonly log: Log
  readonly journal: Journal
  readonly members: Members
  readonly inbox: SealedInbox
  readonly kept: Sealed
  readonly arrivals: Arrivals
  readonly care: Care
  /** Nobody reads here. */
  readonly source = new SourceSlot(null)
  readonly metadata: { readonly forks: Forks }
  readonly files = { dirtyBytes: 0, isLive: false }
  readonly keeping: Keeping
  readonly reports: Reports
  readonly factors: FactorTable
  /** What nobody needs any more goes. */
  readonly releases: Releases
  readonly #surplus: Surplus
  readonly #compactor: Compactor
  #compacting: Promise<unknown> = Promise.resolve()
  readonly #graceMs: number | undefined
  /** There was no room a moment ago; until then nothing is fetched. */
  #fullUntilMs = 0
  readonly cache: NonNullable<SwarmHost['cache']>
  /** What a person should know. */
  onNotice: (text: string) => void = () => {}
  readonly #checkpointer: Checkpointer
  readonly #lock: StoreLock
  #closing: Promise<void> | null = null
  /** Called once if the store has to stop (a failed sync): nothing more is accepted. */
  onStop: (e: Error) => void = () => {}
  /** Set by whoever connects it to others; closed with it. */
  network: DriveNetwork | null = null

  /** Opens the store in `storeDir`, which joined with a storage key. As Drive.open; KEY_KIND if it holds another key. */
  static async open(storeDir: string, options: Pick<OpenOptions, 'passphrase' | 'unlocked' | 'graceMs'> = {}): Promise<StoragePeer> {
    const dir = resolve(storeDir)
    if (!Drive.exists(dir)) throw fail('STORE_MISSING', `there is no drive in ${dir}; join one with dfs join KEY`)
    Space.rescue(dir)
    const lock = StoreLock.acquire(dir)
    let db: Database | undefined
    try {
      const { keys, device } = options.unlocked ?? await openKeyFile(join(dir, 'keys'), options.passphrase ? { passphrase: options.passphrase } : {})
      if (keys.canRead) throw fail('KEY_KIND', 'this store holds a key that reads the drive: it is no storage peer')
      db = Database.open(join(dir, 'index.db'))
      const drive = db.getMeta('drive') as Buffer | undefined
      if (!drive?.equals(keys.driveId)) throw fail('STORE_DAMAGED', 'the key file and the index belong to different drives')
      const peer = new StoragePeer({ dir, lock, keys, device, db, store: openSegments(dir, keys.driveId), graceMs: options.graceMs })
      await peer.space.refill()
      return peer
    } catch (e) {
      db?.close()
      lock.release()
      throw e
    }
  }

  /** As Drive.reopen. */
  async reopen(): Promise<StoragePeer> {
    await this.close().catch(() => { /* it had stopped: why is known */ })
    Database.settle(join(this.dir, 'index.db'))
    return StoragePeer.open(this.dir, { unlocked: { keys: this.keys, device: this.device }, ...(this.#graceMs !== undefined && { graceMs: this.#graceMs }) })
  }

  private constructor(p: Parts) {
    super()
    this.dir = p.dir
    this.keys = p.keys
    this.device = p.device
    this.db = p.db
    this.store = p.store
    this.#lock = p.lock
    this.#graceMs = p.graceMs
    this.space = new Space(p.dir, { logRoom: () => p.db.logRoom(), isWritten: false })
    const chunks = this.chunks = new ChunkTable(p.db)
    const take = (bytes: number) => this.space.take(bytes, 0)
    const sealed = this.kept = new Sealed({ db: p.db, driveId: p.keys.driveId, clock: this.clock, timers: this.timers, chunks, take })
    ;({ log: this.log, journal: this.journal, members: this.members, inbox: this.inbox } = sealed)
    this.metadata = { forks: sealed.forks }
    const { journal } = this
    journal.beforeCommit = () => this.space.beforeCommit()
    journal.onStop = (e) => this.onStop(e)
    p.store.onStop = (e) => journal.stop(e)
    this.#checkpointer = new Checkpointer(p.db, journal)
    const writing = new InUse(p.store)
    this.#compactor = new Compactor({ db: p.db, chunks, store: p.store, journal, writing })
    const arrivals = this.arrivals = new SealedArrivals({ chunks, store: p.store, journal, timers: this.timers, guard: () => writing.begin(), take })
    arrivals.learn = (num, sealedBytes) => sealed.learn(num, sealedBytes)
    arrivals.onFull = () => { this.#fullUntilMs = this.timers.nowMs() + FULL_MS }
    const isFull = () => this.timers.nowMs() < this.#fullUntilMs
    const keeps = () => this.keepsEverything
    this.cache = { get keepsEverything() { return keeps() }, get isFull() { return isFull() }, holders: null }
    const touched = () => journal.touched('derived')
    this.keeping = new Keeping({ lacking: new Lacking(p.db), chunks, timers: this.timers, touched })
    this.factors = new FactorTable(p.db)
    this.factors.onChange = (id) => this.keeping.refactored(id)
    this.reports = new Reports({
      table: new ReportTable(p.db), driveId: p.keys.driveId, device: p.device, clock: this.clock, timers: this.timers, keeping: this.keeping, isMember: (device) => this.members.get(device) !== undefined,
      logs: () => this.log.headsById(),
      chunks, keepsEverything: () => this.kept.knowsAllChunks, isFull, usedBytes: () => this.#usedBytes, settle: () => journal.settle(), touched,
    })
    this.keeping.copiesElsewhere = (group) => this.reports.copiesElsewhere(group, this.keeping.plan!)
    const plan = p.db.getMeta('plan') as Buffer | undefined
    if (plan && plan.length > 0) this.keeping.set(Plan.decode(plan, p.device.publicKey, this.factors))
    if (p.db.getMeta('finished') !== 1) {
      p.db.setMeta('finished', 1)
      journal.touched()
    }
    this.#forgetLost()
    this.care = new Care({
      db: p.db, chunks, store: p.store, journal, timers: this.timers, clock: this.clock, onNotice: (text) => this.onNotice(text), flush: () => chunks.flush(), owed: () => (this.keeping.plan ? 'planned' : 'everything'),
      hasOthers: () => this.members.all().some((m) => !m.device.equals(p.device.publicKey)),
    })
    this.releases = new Releases({
      chunks, log: this.log, journal, timers: this.timers, head: () => sealed.head, knowsAllChunks: () => sealed.knowsAllChunks,
      lacked: (limit) => this.keeping.lacked(limit) ?? chunks.lacking(limit).map(({ id }) => ({ num: chunks.findById(id), id })), marked: () => this.reports.changed(),
      compact: (isAsked, report, onProgress) => this.#compact(isAsked ? 'full' : 'idle', report, onProgress), ...(p.graceMs !== undefined && { afterMs: p.graceMs }),
    })
    this.#surplus = new Surplus({
      chunks, keeping: this.keeping, journal, timers: this.timers, holders: () => this.cache.holders, sinceMs: () => (p.db.getMeta('plan_since') as number | undefined) ?? 0,
      graceMs: p.graceMs ?? GRACE_MS, compact: () => this.#compact('shrink', { chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 }),
    })
    sealed.start()
  }

  // --- for the swarm --------------------------------------------------------

  get deviceName(): string { return (this.db.getMeta('device_name') as string | undefined) ?? '' }

  get keepsEverything(): boolean { return this.kept.knowsAllChunks && !this.#takesPart }

  /** By the plan it holds a part; one to which nobody has given a capacity keeps everything, beside what the others are to hold. */
  get #takesPart(): boolean { return this.keeping.plan !== null }

  get #usedBytes(): number {
    let used = 0
    for (const bytes of this.store.usage().values()) used += bytes
    return used
  }

  takePlan(bytes: Buffer): void {
    if (this.journal.stopped) return
    let plan: Plan | null = null
    try {
      if (bytes.length > 0) plan = Plan.decode(bytes, this.device.publicKey, this.factors)
    } catch (e) {
      if (!isDfsError(e, 'EIO') && !isDfsError(e, 'EINVAL')) throw e
      return
    }
    if (plan && (plan.self < 0 || plan.placement.devices[plan.self]!.capacityBytes === 0)) plan = null
    if (plan ? this.keeping.plan?.digest.equals(plan.digest) : !this.keeping.plan) return
    this.db.setMeta('plan', plan?.bytes ?? Buffer.alloc(0))
    this.db.setMeta('plan_since', Date.now())
    this.journal.touched()
    this.keeping.set(plan)
  }

  share(): void { /* it has no writes of its own */ }

  snapshot(): Promise<SnapshotGift> { return this.kept.snapshot() }

  /** One at a time. */
  #compact(why: Round, report: GcReport, onProgress?: OnProgress): Promise<void> {
    const run = this.#compacting.then(async () => {
      const before = this.#compactor.totalBytes
      await this.#compactor.run(why, report, onProgress)
      report.bytesFreed += Math.max(0, before - this.#compactor.totalBytes)
    })
    this.#compacting = run.catch(() => {})
    return run
  }

  /** What the disk has lost (a cut tail, a segment that is gone) is fetched again. */
  #forgetLost(): void {
    const sizes = this.store.usage()
    const ends = this.db.sql.prepare('SELECT seg, max(off + len) AS end FROM chunk WHERE seg > 0 GROUP BY seg').all() as { seg: number; end: number }[]
    const lost = this.db.sql.prepare(`UPDATE chunk SET seg = ${ELSEWHERE}, off = 0 WHERE seg = ? AND off + len > ?`)
    for (const { seg, end } of ends) {
      const size = sizes.get(seg) ?? 0
      if (end <= size) continue
      lost.run(seg, size)
      this.journal.touched()
    }
  }

  // --- the API ----------------------------------------------------------------

  /** It writes nothing that others could have for it. */
  async sync({ acks = 0 }: SyncOptions = {}): Promise<void> {
    if (typeof acks === 'number' && acks > 0) throw unreadable()
    await this.journal.durable()
  }

  async status(): Promise<DriveStatus> {
    this.journal.check()
    const one = (text: string) => this.db.sql.prepare(text).raw(true).get() as number[]
    const [here, hereBytes] = one('SELECT count(*), ifnull(sum(len),0) FROM chunk WHERE seg >= 0') as [number, number]
    const { chunks: owed, bytes: owedBytes } = countMissing(this.db, 'everything')
    const size = (name: string) => { try { return statSync(join(this.dir, name)).size } catch { return 0 } }
    const segments = this.#usedBytes
    const { head } = this.kept
    const log = { entries: 0, bytes: 0, seq: 0 }
    for (const inc of this.log.heads().keys()) {
      const { seq, first, bytes } = this.log.head(inc)
      log.entries += seq - first + 1
      log.bytes += bytes
    }
    return {
      pid: process.pid,
      drive: this.keys.driveName,
      name: '',
      device: encodeZ32(this.device.publicKey),
      deviceName: this.deviceName,
      store: this.dir,
      order: '',
      keyKind: this.keys.kind,
      mountpoints: [],
      peers: this.network?.peers() ?? [],
      knownPeers: knownPeers(this.db),
      network: (await this.network?.status()) ?? null,
      files: 0,
      logicalBytes: 0,
      chunks: { here, hereBytes, owed, owedBytes, inline: 0, inlineBytes: 0 },
      cache: { limitBytes: null, usedBytes: segments, pins: 0 },
      ...this.care.status,
      disk: { segments, index: size('index.db'), wal: size('index.db-wal'), freeBytes: this.space.freeBytes(0) },
      dirtyBytes: 0,
      log,
      snapshot: head ? { device: encodeZ32(head.by.device), name: head.by.name, madeMs: head.clockMs, bytes: head.totalBytes } : null,
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

  async devices(): Promise<DeviceStatus[]> { return listDevices(this, await this.peers()) }

  async setCache(bytes: number | null): Promise<void> {
    if (bytes !== null) throw fail('USAGE', 'a device with a storage key keeps everything it can: it has no cache')
  }

  scrub(options: { restart?: boolean } = {}, onProgress?: OnProgress): Promise<ScrubReport> { return this.care.scrub(options, onProgress) }

  setScrubRate(bytesPerS: number): Promise<void> { return this.care.scrubber.setRate(bytesPerS) }

  mend(onProgress?: OnProgress): Promise<MendReport> { return this.care.mend(onProgress) }

  async key(kind: 'full' | 'read-only' | 'storage'): Promise<string> { return this.keys.capability(kind) }

  /** Entries: chain and signatures. Chunks: that their bytes are there, with `data` that they are what the id names, and the snapshot what was signed; `repair` has fetched again what is not. */
  async fsck({ data = false, repair = false }: { data?: boolean; repair?: boolean } = {}, onProgress?: OnProgress): Promise<FsckReport> {
    const report: FsckReport = { inodes: 0, dentries: 0, extents: 0, chunks: 0, entries: 0, bytesRead: 0, problems: [] }
    for (const inc of this.log.heads().keys()) await this.#checkLog(inc, report)
    if (data && !await this.kept.isSnapshotSound()) {
      report.problems.push({ kind: 'snapshot-damaged', detail: 'the snapshot that devices which join begin with', mended: repair })
      if (repair) this.kept.forgetSnapshot()
    }
    const total = (this.db.sql.prepare('SELECT count(*) AS n FROM chunk WHERE seg > 0').get() as { n: number }).n
    const next = this.db.sql.prepare('SELECT num, seg, off, len, id FROM chunk WHERE seg > 0 AND num > ? ORDER BY num LIMIT 64')
    type Row = { num: number; seg: number; off: number; len: number; id: Buffer }
    for (let rows = next.all(0) as Row[]; rows.length > 0; rows = next.all(rows[rows.length - 1]!.num) as Row[]) {
      for (const row of rows) {
        report.chunks++
        const problem = await this.#checkChunk(row, data, report)
        if (!problem) continue
        if (repair) {
          this.chunks.move(row.num, ELSEWHERE, 0)
          this.journal.touched()
          problem.mended = true
        } else this.chunks.bad.add(row.num)
        report.problems.push(problem)
      }
      onProgress?.({ phase: 'chunks', done: report.chunks, total, unit: 'chunks' })
      // Others have their turn.
      await new Promise<void>((go) => this.timers.soon(go))
    }
    if (repair) await this.sync()
    return report
  }

  /** Asks which chunks nobody needs any more, and gives their space back. EBUSY: nobody is there who could say. */
  async gc(onProgress?: OnProgress): Promise<GcReport> {
    this.journal.check()
    const report: GcReport = { chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 }
    await this.releases.run(report, onProgress)
    return report
  }

  async #checkLog(inc: number, report: FsckReport): Promise<void> {
    const head = this.log.head(inc)
    const device = this.log.deviceOf(inc)
    for (let seq = head.first; seq <= head.seq;) {
      const entries = this.log.stored(inc, seq, 1 << 20)
      const isWrong = entries.some(({ signed }, i) => !this.log.isSignedBy(signed, device) || !this.log.hashAt(inc, seq + i)?.equals(entryHash(signed)))
      if (entries.length === 0 || isWrong) {
        report.problems.push({ kind: 'log-chain', detail: `the log of ${encodeZ32(device)} is damaged from entry ${seq} on`, mended: false })
        return
      }
      seq += entries.length
      report.entries += entries.length
      await new Promise<void>((go) => this.timers.soon(go))
    }
  }

  async #checkChunk({ num, seg, off, len, id }: { num: number; seg: number; off: number; len: number; id: Buffer }, data: boolean, report: FsckReport): Promise<FsckProblem | undefined> {
    const length = sealedLength(len)
    // Of which file it is, it cannot know.
    const detail = `chunk ${id.toString('hex')} in segment ${seg}`
    if (!this.store.holds(seg, off, length)) return { kind: 'chunk-missing', detail, mended: false }
    if (!data) return this.chunks.bad.has(num) ? { kind: 'chunk-damaged', detail: `${detail}, found before`, mended: false } : undefined
    report.bytesRead += length
    const read = () => this.store.read(seg, off, length)
    const sealed = await read().catch(read).catch(() => undefined)
    if (!sealed || !chunkId(sealed).equals(id)) return { kind: 'chunk-damaged', detail, mended: false }
    this.chunks.bad.delete(num)
    return undefined
  }

  /** Makes everything durable, and gives the store back. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    let error: unknown
    const step = async (f: () => unknown) => { try { await f() } catch (e) { error ??= e } }
    await step(() => this.network?.close())
    this.#compactor.stop()
    await step(() => this.releases.close())
    await step(() => this.#surplus.close())
    await this.#compacting
    if (!this.journal.stopped) this.reports.flush()
    this.keeping.close()
    this.kept.close()
    await step(() => this.care.close())
    await step(() => this.arrivals.close())
    if (!this.journal.stopped) await step(() => this.journal.durable())
    await step(() => this.#checkpointer.close())
    await step(() => this.journal.close())
    await step(() => this.store.close())
    await step(() => this.db.close())
    await step(() => this.space.close())
    this.#lock.release()
    if (error) throw error
  }
}
