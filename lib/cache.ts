/**
 * Which chunks this device keeps: all of them, or as many as fit a cache of a
 * given size, and what is pinned. By a plan (placement/keeping.ts) it holds what
 * it is to hold, and keeps of the rest what fits beside it.
 *
 * A chunk goes only after EVICT_COPIES other devices that keep everything have just shown that
 * they hold it: what nobody else has is kept whatever the cache's size. The one not
 * used for longest goes first. Pinned chunks, those of files that are open without a name, and those that a flush is about to name stay.
 *
 * What undo records name may go: those who showed that they hold a chunk keep it
 * as long as this device's entries, which they have, may be taken back.
 */
import type { EvictReport, OnProgress } from './api.js'
import { SystemClock, systemTimers, type Clock, type Timers } from './clock.js'
import { fail } from './errors.js'
import type { FlushEngine } from './file/flush.js'
import type { ReadEngine } from './file/read.js'
import type { Collector } from './gc.js'
import type { Journal } from './log/journal.js'
import type { Keeping } from './placement/keeping.js'
import { SEGMENT_BYTES } from './limits.js'
import { Pins } from './pins.js'
import { sealedLength } from './seal/chunk.js'
import { ELSEWHERE, type ChunkTable } from './store/chunks.js'
import type { Database } from './store/database.js'
import { RECORD_BYTES } from './store/record.js'
import { Residents } from './store/residents.js'
import type { SegmentStore } from './store/segments.js'
import type { Space } from './store/space.js'
import type { Inode } from './tree/inode.js'
import type { Tree } from './tree/tree.js'
import { extentsOf, filesBelow } from './tree/walk.js'

/** Other devices that keep everything and have just shown that they hold a chunk, before it goes here. */
export const EVICT_COPIES = 1
/** A cache is made smaller from this part of its size on... */
const HIGH_SHARE = 0.9
/** ...down to this. */
const LOW_SHARE = 0.75
/** A smaller one would not hold what one reader is read ahead. */
export const MIN_CACHE_BYTES = 16 << 20
/** Confirmed, and gone, at a time: before each others have to have all that was written here, which takes as long for many as for one. */
const BATCH_CHUNKS = 512
/** Chunks that are looked at in one round without one that may go. */
const MAX_REFUSED = 4096
/** Nobody confirmed enough: tried again after this. */
const RETRY_MS = 5000
/**
 * A device that kept everything until now may have been counted on by one that does the same at this moment: it says so, and waits for
 * longer than a proof counts (FRESH_MS in swarm/confirm.ts).
 */
export const GRACE_MS = 120_000
/** So long nothing is fetched that is to be held, when there was no room for it. */
const FULL_MS = 60_000
/** Uses go into the index so often, and it is looked whether the cache is too large. */
const TICK_MS = 2000
/** A full disk: so much is made free at a time. */
const PRESSURE_BYTES = 256 << 20

/** USAGE if it is too small to be of use. */
export function checkCacheBytes(bytes: number): number {
  if (bytes < MIN_CACHE_BYTES) throw fail('USAGE', `a cache has at least ${MIN_CACHE_BYTES >> 20} MiB`)
  return bytes
}

/** Who else has a chunk. */
export interface Holders {
  /** Whether `copies` others that keep everything have just shown that they hold each of these. Never rejects. */
  confirm(chunks: { num: number; id: Buffer }[], copies: number): Promise<boolean[]>
  /** What this device keeps has changed: others are told. */
  statusChanged(): void
  /** There may be pinned chunks to be fetched. */
  moreMissing(): void
}

/** What a plan makes of this device. */
export interface Share {
  readonly keeping: Keeping
  /** Bytes that it offers; Infinity: that is not known. */
  budget(): number
  /** It is to hold nothing any more: what others have goes. */
  isLeaving(): boolean
}

export interface CacheParts {
  db: Database
  chunks: ChunkTable
  tree: Tree
  store: SegmentStore
  journal: Journal
  flusher: FlushEngine
  reader: ReadEngine
  collector: Collector
  space: Space
  /** Files that are open and have no name any more, of a drive that others share. */
  unlinked(): Iterable<Inode>
  timers?: Timers
  clock?: Pick<Clock, 'nowMs'>
  share?: Share
  /** Default GRACE_MS. */
  graceMs?: number
}

export class Cache {
  readonly #p: CacheParts
  readonly #timers: Timers
  readonly #clock: Pick<Clock, 'nowMs'>
  readonly residents: Residents
  readonly pins: Pins
  /** Set by whoever connects this device to others. */
  holders: Holders | null = null
  /** The size that was given. */
  #own: number | null
  /** That, or what the plan makes of it. */
  #limit: number | null = null
  /** Until then nothing more is taken: there was no room for what is to be held. */
  #fullUntilMs = 0
  #sinceMs: number
  #stopTicking: () => void
  #working: Promise<void> | null = null
  #retryAtMs = 0
  #isClosed = false
  /** Bytes that a full disk asks for, beside what the limit does. */
  #pressure = 0

  constructor(parts: CacheParts) {
    this.#p = parts
    this.#timers = parts.timers ?? systemTimers
    this.#clock = parts.clock ?? new SystemClock()
    this.residents = new Residents(parts.db)
    this.residents.onChange = () => parts.journal.touched('derived')
    parts.chunks.onRemoved = (num) => this.residents.removed(num)
    this.pins = new Pins({ tree: parts.tree, journal: parts.journal, residents: this.residents, timers: this.#timers, moreMissing: () => this.holders?.moreMissing(), unlinked: parts.unlinked, mayEvict: () => this.#limit !== null })
    const limit = parts.db.getMeta('cache_bytes') as number | undefined
    this.#own = limit === undefined || limit === 0 ? null : limit
    this.#sinceMs = parts.db.getMeta('cache_since') as number | undefined ?? 0
    if (parts.share) parts.share.keeping.onHeld = (num, isMine) => this.residents.held(num, isMine)
    this.#setLimit()
    this.#stopTicking = this.#timers.every(TICK_MS, () => this.#tick())
  }

  /** Bytes of the cache; null: everything is kept. */
  get limitBytes(): number | null { return this.#limit === Infinity ? null : this.#limit }
  get keepsEverything(): boolean { return this.#limit === null }
  /** The size that was given, with --cache; null: none. */
  get givenBytes(): number | null { return this.#own }

  /** There was no room for what is to be held, a moment ago. */
  get isFull(): boolean { return this.#timers.nowMs() < this.#fullUntilMs }

  /** A full disk: as if the size had been reached. */
  full(): void { this.#fullUntilMs = this.#timers.nowMs() + FULL_MS }

  get #graceMs(): number { return this.#p.graceMs ?? GRACE_MS }
  get #plan() { return this.#p.share?.keeping.plan ?? null }

  /** The plan is another, or what this device offers by it. */
  planChanged(isOther: boolean): void {
    if (isOther) {
      // Others may have counted on this device a moment ago.
      this.#sinceMs = Math.floor(this.#clock.nowMs())
      this.#p.db.setMeta('cache_since', this.#sinceMs)
      this.#p.journal.touched('derived')
    }
    this.#setLimit()
    this.holders?.statusChanged()
    this.#work()
  }

  #setLimit(): void {
    const { share } = this.#p
    const before = this.#limit
    this.#limit = !this.#plan ? this.#own : share!.isLeaving() ? 0 : this.#own ?? share!.budget()
    if (this.#limit !== null) {
      if (before === null) this.#begin()
      else this.#p.store.segmentBytes = this.#segmentBytes
    } else if (before !== null) {
      this.#p.chunks.onHere = () => {}
      this.#p.store.segmentBytes = Infinity
      this.residents.end()
    }
  }

  /** Bytes that chunks take on the disk, what is dead among them too. */
  get usedBytes(): number {
    let used = 0
    for (const bytes of this.#p.store.usage().values()) used += bytes
    return used
  }

  /** null: everything. Survives. USAGE if it is too small to be of use. */
  async setLimit(bytes: number | null): Promise<void> {
    if (bytes !== null) checkCacheBytes(bytes)
    const { db, journal } = this.#p
    if (this.#limit === null && bytes !== null) this.#sinceMs = Math.floor(this.#clock.nowMs())
    this.#own = bytes
    db.setMeta('cache_bytes', bytes ?? 0)
    db.setMeta('cache_since', this.#sinceMs)
    this.#setLimit()
    journal.touched()
    await journal.durable()
    this.holders?.statusChanged()
    this.holders?.moreMissing()
    this.#work()
  }

  /** What compaction copies before it removes: small beside the cache. */
  get #segmentBytes(): number { return Math.max(1 << 20, Math.min(SEGMENT_BYTES, Math.floor(this.#limit! / 32))) }

  #begin(): void {
    this.residents.begin()
    this.#p.chunks.onHere = (num) => {
      if (this.#isMine(num)) this.residents.held(num, true)
      else this.residents.used(num)
    }
    this.#p.store.segmentBytes = this.#segmentBytes
  }

  /** A reader used a chunk. */
  used(num: number): void {
    if (this.#limit !== null) this.residents.used(num)
  }

  /** Whether what came may be kept: a cache that is full is made smaller first. */
  mayKeep(num: number, bytes: number): boolean {
    if (this.#limit === null) return true
    const used = this.usedBytes + this.#segmentBytes + bytes
    if (used > this.#limit * HIGH_SHARE) this.#work()
    // What mends a chunk takes the place of what is there.
    if (used <= this.#limit || this.residents.isPinned(num) || this.#p.chunks.bad.has(num)) return true
    if (this.#isMine(num)) this.full()
    return false
  }

  /** Whether it is to be held here by the plan. */
  #isMine(num: number): boolean {
    const plan = this.#plan
    const known = plan && this.#p.chunks.identity(num)
    return known ? plan.isMine(known.id) : false
  }

  // --- eviction -----------------------------------------------------------------

  /** Takes the content of a file, or of all below a directory, off this device, as far as others have it. USAGE if this device keeps everything. */
  async evict(inode: Inode, onProgress?: OnProgress): Promise<EvictReport> {
    if (this.#limit === null) throw fail('USAGE', 'this device keeps everything; give it a cache first: dfs mount --cache SIZE, or dfs serve')
    const waitMs = this.#sinceMs + this.#graceMs - this.#clock.nowMs()
    if (waitMs > 0) throw fail('EBUSY', `this device kept everything until a moment ago, and others may count on it; try again in ${Math.ceil(waitMs / 1000)} s`)
    const { tree } = this.#p
    const report: EvictReport = { bytesEvicted: 0, bytesPinned: 0, bytesUnconfirmed: 0 }
    await this.pins.settle()
    let batch = new Map<number, number>()
    const go = async () => {
      const list = [...batch]
      batch = new Map()
      const chunks = list.flatMap(([num, len]) => {
        const known = this.#p.chunks.identity(num)
        return known ? [{ num, id: known.id, len }] : []
      })
      const gone = await this.#evict(chunks)
      for (const c of chunks) {
        if (gone.has(c.num)) report.bytesEvicted += c.len
        else report.bytesUnconfirmed += c.len
      }
      onProgress?.({ phase: 'evicting', done: report.bytesEvicted, total: 0, unit: 'bytes' })
    }
    for await (const file of filesBelow(tree, inode)) {
      for await (const e of extentsOf(tree, file)) {
        if (e.seg <= 0 || batch.has(e.chunk)) continue
        if (this.residents.isPinned(e.chunk)) {
          report.bytesPinned += e.clen
          continue
        }
        batch.set(e.chunk, e.clen)
        if (batch.size >= BATCH_CHUNKS) await go()
      }
    }
    await go()
    await this.#p.collector.shrink()
    return report
  }

  #tick(): void {
    const { journal, space } = this.#p
    if (this.#isClosed || journal.stopped) return
    this.residents.flush()
    this.pins.tick()
    if (this.#limit === null) return
    if (space.isTight) this.#pressure = Math.max(this.#pressure, PRESSURE_BYTES)
    if (this.#pressure > 0 || this.usedBytes > this.#limit * HIGH_SHARE) this.#work()
  }

  /** The disk is full: makes room, if anything may go. Resolves when it was tried. */
  async makeRoom(bytes: number): Promise<boolean> {
    if (this.#limit === null || this.#isClosed) return false
    const before = this.usedBytes
    this.#pressure = Math.max(this.#pressure, bytes, PRESSURE_BYTES)
    this.#retryAtMs = 0
    this.#work()
    await this.#working
    return this.usedBytes < before
  }

  #work(): void {
    if (this.#isClosed || this.#limit === null || this.#timers.nowMs() < this.#retryAtMs || (this.#limit === 0 && this.residents.isEmpty && !this.#p.collector.hasInline)) return
    this.#working ??= this.#shrink().catch((e: Error) => {
      if (!this.#isClosed && !this.#p.journal.stopped) process.emitWarning(`making the cache smaller: ${e.message}`)
    }).finally(() => { this.#working = null })
  }

  async #shrink(): Promise<void> {
    while (!this.#isClosed && this.#limit !== null) {
      const used = this.usedBytes
      const needed = Math.max(used > this.#limit * HIGH_SHARE ? used - this.#limit * LOW_SHARE : 0, this.#pressure)
      if (needed <= 0) return
      this.#pressure = 0
      this.residents.flush()
      // Small content goes from the index too.
      if (this.#limit === 0) await this.#p.collector.spill()
      await this.pins.settle()
      const freed = await this.#evictColdest(needed)
      await this.#p.collector.shrink()
      if (freed === 0 && this.usedBytes >= used) {
        this.#retryAtMs = this.#timers.nowMs() + RETRY_MS
        return
      }
    }
  }

  async #evictColdest(bytes: number): Promise<number> {
    let freed = 0
    let refused = 0
    let after = { used: -1, num: 0 }
    while (freed < bytes && refused < MAX_REFUSED && !this.#isClosed) {
      const batch = this.residents.coldest(after, BATCH_CHUNKS)
      if (batch.length === 0) break
      let enough = 0
      let planned = 0
      while (enough < batch.length && freed + planned < bytes) planned += sealedLength(batch[enough++]!.len) + RECORD_BYTES
      after = batch[enough - 1]!
      const gone = await this.#evict(batch.slice(0, enough))
      for (const c of batch.slice(0, enough)) {
        if (gone.has(c.num)) freed += sealedLength(c.len) + RECORD_BYTES
        // To be held here, since a pin on it went.
        else if (this.#isMine(c.num)) this.residents.held(c.num, true)
        else refused++
      }
    }
    return freed
  }

  /** Those of `list` that went: others have them. */
  async #evict(list: { num: number; id: Buffer }[]): Promise<Set<number>> {
    const { chunks, flusher, reader, journal } = this.#p
    const gone = new Set<number>()
    const may = (num: number) => !flusher.pinned.has(num) && !this.residents.isPinned(num) && (chunks.get(num)?.seg ?? 0) > 0 && !this.#isMine(num)
    const asked = list.filter((c) => may(c.num))
    if (asked.length === 0 || !this.holders || this.#clock.nowMs() < this.#sinceMs + this.#graceMs) return gone
    // What is named again meanwhile others may have dropped, for they do not know of that.
    const watch = chunks.watch()
    const confirmed = await this.holders.confirm(asked, EVICT_COPIES).finally(() => watch.stop())
    if (this.#isClosed || journal.stopped || this.#limit === null) return gone
    asked.forEach((c, i) => {
      if (!confirmed[i] || !may(c.num) || watch.named.has(c.num)) return
      chunks.move(c.num, ELSEWHERE, 0)
      reader.forget(c.num)
      this.residents.gone(c.num)
      gone.add(c.num)
    })
    if (gone.size > 0) journal.touched()
    return gone
  }

  /** What is under way ends; uses are kept. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#stopTicking()
    await Promise.all([this.#working, this.pins.close()])
    if (!this.#p.journal.stopped) this.residents.flush()
  }
}
