/**
 * Giving space back, and keeping the store in good shape when nobody is looking:
 *
 *   drop      chunks that no extent names
 *   spill     content that an fsync left in the index goes into segments
 *   compact   segments that are mostly dead are copied together (store/compactor.ts)
 *   refill    what a full disk took of the reserve is taken again
 *   rewrite   files in many small extents are cut anew (file/compact.ts)
 *
 * Nothing is touched that a flush under way may be about to name: chunks it has
 * found are pinned, and no segment from its first on is judged.
 */
import { turn } from './clock.js'
import type { GcReport, OnProgress } from './api.js'
import { systemTimers, type Timers } from './clock.js'
import type { FlushEngine } from './file/flush.js'
import type { Files } from './file/files.js'
import type { ReadEngine } from './file/read.js'
import { compactFile } from './file/compact.js'
import type { Journal } from './log/journal.js'
import type { Posix } from './posix.js'
import { chunkId } from './seal/chunk.js'
import type { SealPool } from './seal/pool.js'
import type { Tree } from './tree/tree.js'
import type { ChunkTable } from './store/chunks.js'
import { Compactor, type Round } from './store/compactor.js'
import type { Database } from './store/database.js'
import type { SegmentStore } from './store/segments.js'
import type { Space } from './store/space.js'

/** Rows looked at before the loop gets a turn. */
const BATCH_ROWS = 2000
/** Bytes of inline content spilled in one go. */
const BATCH_BYTES = 4 << 20
/** Looked whether there is something to do, when nothing was written since the last look. */
const IDLE_MS = 3000
/** Without writes for this long, a round is made. */
const QUIET_MS = 5000

export interface CollectorParts {
  db: Database
  tree: Tree
  chunks: ChunkTable
  store: SegmentStore
  space: Space
  journal: Journal
  flusher: FlushEngine
  reader: ReadEngine
  files: Files
  pool: SealPool
  posix: Posix
  timers?: Timers
  /** Other devices take part. */
  isShared(): boolean
  /** What was is kept: of a file that is cut anew its former chunks would stay, too. */
  isKept(): boolean
}

export class Collector {
  readonly #p: CollectorParts
  readonly #timers: Timers
  #stopLooking: () => void = () => {}
  #running: Promise<GcReport> | null = null
  readonly #compactor: Compactor
  #stopped = false
  #seenOp = 0
  #quietSince = 0
  #roundAt = 0

  constructor(parts: CollectorParts) {
    this.#p = parts
    this.#timers = parts.timers ?? systemTimers
    const { db, chunks, store, journal, flusher, pool } = parts
    this.#compactor = new Compactor({ db, chunks, store, journal, writing: flusher, removed: (path) => pool.forget(path) })
  }

  start(): void {
    this.#seenOp = this.#roundAt = this.#p.journal.nextOpCounter
    this.#quietSince = this.#timers.nowMs()
    this.#stopLooking = this.#timers.every(IDLE_MS, () => this.#look())
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#compactor.stop()
    this.#stopLooking()
    await this.#running?.catch(() => {})
  }

  /** Something has become useless without an op: a round is made when it is quiet. */
  rouse(): void { this.#roundAt = -1 }

  /** One full round; a second call while one runs shares it. */
  run(onProgress?: OnProgress): Promise<GcReport> {
    return (this.#running ??= this.#round(true, onProgress).finally(() => { this.#running = null }))
  }

  /** Gives the disk back what chunks took that are elsewhere now. Runs after what runs. */
  async shrink(): Promise<void> {
    while (this.#running) await this.#running.catch(() => {})
    if (this.#stopped || this.#p.journal.stopped) return
    this.#running = this.#shrink().finally(() => { this.#running = null })
    await this.#running
  }

  /** Small content is in the index. */
  get hasInline(): boolean { return this.#p.db.sql.prepare('SELECT 1 FROM chunk_inline LIMIT 1').get() !== undefined }

  /** Small content goes from the index into segments. Runs after what runs. */
  async spill(): Promise<void> {
    while (this.#running) await this.#running.catch(() => {})
    if (this.#stopped || this.#p.journal.stopped) return
    this.#running = this.#spill(true).then(() => ({ chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 })).finally(() => { this.#running = null })
    await this.#running
  }

  async #shrink(): Promise<GcReport> {
    const report: GcReport = { chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 }
    await this.#drop(report)
    await this.#segments('shrink', report)
    return report
  }

  #look(): void {
    const { journal, files } = this.#p
    this.#refill().catch((e: Error) => process.emitWarning(`taking the reserve again: ${e.message}`))
    const now = this.#timers.nowMs()
    const op = journal.nextOpCounter
    if (op !== this.#seenOp || files.dirtyBytes > 0) {
      this.#seenOp = op
      this.#quietSince = now
      return
    }
    if (this.#running || now - this.#quietSince < QUIET_MS || op === this.#roundAt || journal.stopped) return
    this.#roundAt = op
    this.#running = this.#round(false).finally(() => {
      this.#running = null
      // What the round itself changed is no reason for the next.
      this.#roundAt = this.#seenOp = journal.nextOpCounter
    })
    this.#running.catch((e: Error) => process.emitWarning(`gc: ${e.message}`))
  }

  async #refill(): Promise<void> {
    if (await this.#p.space.refill()) await this.#p.store.endKept()
  }

  async #round(full: boolean, onProgress?: OnProgress): Promise<GcReport> {
    const report: GcReport = { chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 }
    const before = this.#compactor.totalBytes
    if (full) await this.#p.posix.sync()
    await this.#drop(report, onProgress)
    await this.#spill(full, onProgress)
    for (const ino of [...this.#p.flusher.scattered]) {
      // To others it would be a write like any other, and a conflict with theirs.
      if (this.#p.isShared() || this.#p.isKept()) break
      if (this.#stopped) return report
      this.#p.flusher.scattered.delete(ino)
      const inode = this.#p.tree.get(ino)
      if (inode) await compactFile(this.#p, inode)
    }
    await this.#drop(report, onProgress)
    await this.#segments(full ? 'full' : 'idle', report, onProgress)
    report.bytesFreed = Math.max(0, before - this.#compactor.totalBytes)
    return report
  }

  /** Chunks that nothing names. */
  async #drop(report: GcReport, onProgress?: OnProgress): Promise<void> {
    const { db, tree, chunks, journal, flusher, reader } = this.#p
    const dead = db.sql.prepare('SELECT num FROM chunk WHERE refs = 0 AND num > ? ORDER BY num LIMIT ?').raw(true)
    for (let from = 0; !this.#stopped;) {
      tree.rows.flush()
      const rows = dead.all(from, BATCH_ROWS) as [number][]
      for (const [num] of rows) {
        from = num
        if (flusher.pinned.has(num)) continue
        chunks.remove(num)
        reader.forget(num)
        report.chunksDropped++
      }
      if (rows.length > 0) journal.touched()
      onProgress?.({ phase: 'dead chunks', done: report.chunksDropped, total: 0, unit: 'chunks' })
      if (rows.length < BATCH_ROWS) return
      await turn()
    }
  }

  /** From the index into segments. */
  async #spill(full: boolean, onProgress?: OnProgress): Promise<void> {
    const { db, chunks, store, journal } = this.#p
    if (!full) {
      const { n } = db.sql.prepare('SELECT ifnull(sum(length(data)),0) AS n FROM chunk_inline').get() as { n: number }
      if (n < 1 << 20) return
    }
    const list = db.sql.prepare('SELECT i.num, c.id, c.len, i.data FROM chunk_inline i JOIN chunk c ON c.num = i.num WHERE i.num > ? ORDER BY i.num LIMIT 256')
    let from = 0
    let done = 0
    while (!this.#stopped) {
      const rows = list.all(from) as { num: number; id: Buffer; len: number; data: Buffer }[]
      if (rows.length === 0) return
      let bytes = 0
      const batch = rows.filter((r) => (bytes += r.data.length) <= BATCH_BYTES || r === rows[0])
      from = batch[batch.length - 1]!.num
      for (const r of batch) if (!chunkId(r.data).equals(r.id)) chunks.bad.add(r.num)
      const places = await store.append(batch.map((r) => ({ id: r.id, plainLength: r.len, sealed: r.data })))
      await store.sync()
      batch.forEach((r, i) => {
        if (chunks.get(r.num)?.seg !== 0) return
        chunks.relocate(r.num, places[i]!.segment, places[i]!.offset)
        chunks.onHere(r.num)
      })
      journal.touched()
      done += batch.length
      onProgress?.({ phase: 'small content', done, total: 0, unit: 'chunks' })
    }
  }

  async #segments(why: Round, report: GcReport, onProgress?: OnProgress): Promise<void> {
    if (!this.#p.tree.rows.dirtyCount) await turn()
    await this.#compactor.run(why, report, onProgress)
  }
}
