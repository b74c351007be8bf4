/**
 * Segments that are mostly dead are copied together, and those that are empty
 * go. What is dead is in the index: the bytes that no row of the chunk table names.
 *
 * Segments that are still appended to are closed off first where they hold much
 * that is dead. Order: the index that no longer names a segment is durable before the segment
 * goes. Nothing is touched that is being written and may be about to be named:
 * no segment from its first on is judged.
 */
import { turn } from '../clock.js'
import type { GcReport, OnProgress } from '../api.js'
import type { Journal } from '../log/journal.js'
import { chunkId, sealedLength } from '../seal/chunk.js'
import type { ChunkTable } from './chunks.js'
import type { Database } from './database.js'
import { lowestHead } from './heads.js'
import { HEADER_BYTES, RECORD_BYTES } from './record.js'
import type { SegmentStore } from './segments.js'

/** Rows looked at before the loop gets a turn. */
const BATCH_ROWS = 8000
/** Bytes of a segment copied in one go. */
const BATCH_BYTES = 4 << 20
/** A segment with less of it alive is copied together with others. */
const COMPACT_BELOW = 0.6
/** Dead bytes in a segment that is appended to which make it worth closing off: in a round that was asked for, and in one by the way. */
const SEAL_BYTES = 64 << 10
const IDLE_SEAL_BYTES = 4 << 20
/** One that was closed off with it, though well filled, is copied on if it is smaller: small ones would add up. */
const SMALL_SEGMENT_BYTES = 8 << 20
/** ...and what a cache that has to become smaller pays for its room, or somebody who asks for all that is dead. */
const SHRINK_BELOW = 0.8
const FULL_BELOW = 0.9

export interface CompactorParts {
  db: Database
  chunks: ChunkTable
  store: SegmentStore
  journal: Journal
  /** What is being written, and is named when it is. */
  writing: {
    /** Number of the first segment that it may lie in. */
    firstSegment(): number
    /** Resolves when none of it may lie in segment `last` or one before it. */
    passed(last: number): Promise<void>
  }
  /** A segment has gone. */
  removed?(path: string): void
}

/** 'shrink': chunks went that are elsewhere now. */
export type Round = 'idle' | 'full' | 'shrink'
const BELOW: Record<Round, number> = { idle: COMPACT_BELOW, full: FULL_BELOW, shrink: SHRINK_BELOW }

export class Compactor {
  readonly #p: CompactorParts
  #isStopped = false

  constructor(parts: CompactorParts) {
    this.#p = parts
  }

  /** What runs ends soon. */
  stop(): void { this.#isStopped = true }

  /** Bytes of all segments. */
  get totalBytes(): number {
    let total = 0
    for (const size of this.#p.store.usage().values()) total += size
    return total
  }

  async run(why: Round, report: GcReport, onProgress?: OnProgress): Promise<void> {
    const { db, chunks, store, journal, writing } = this.#p
    const sealed = await this.#sealHeads(why)
    // Before the scan: what is written from here on lies in these or later ones.
    const limit = Math.min(writing.firstSegment(), lowestHead(store))
    const sizes = new Map([...store.usage()].filter(([n]) => n < limit && !store.isHead(n)))
    const live = await this.#live()
    if (!live) return
    const empty: number[] = []
    const thin: number[] = []
    for (const [n, size] of sizes) {
      const alive = live.get(n) ?? 0
      if (alive === 0) empty.push(n)
      else if (alive < (size - HEADER_BYTES) * BELOW[why] || (sealed.has(n) && size < SMALL_SEGMENT_BYTES)) thin.push(n)
    }
    const inSegments = db.sql.prepare('SELECT num, off, len, id FROM chunk WHERE seg = ? AND num > ? ORDER BY num LIMIT 512')
    await this.#removeSegments(empty, report)
    // One after the other, those with the least in them first: on a full disk there is room for little at a time.
    thin.sort((a, b) => live.get(a)! - live.get(b)!)
    let done = 0
    for (const n of thin) {
      let isReadable = true
      for (let from = 0; ;) {
        if (this.#isStopped) return
        const rows = inSegments.all(n, from) as { num: number; off: number; len: number; id: Buffer }[]
        if (rows.length === 0) break
        let bytes = 0
        const batch = rows.filter((r) => (bytes += r.len) <= BATCH_BYTES || r === rows[0])
        from = batch[batch.length - 1]!.num
        const read = await Promise.all(batch.map((r) => store.read(n, r.off, sealedLength(r.len)).catch(() => undefined)))
        const copied = batch.flatMap(({ num, id, len }, i) => (read[i] ? [{ num, id, plainLength: len, sealed: read[i] }] : []))
        const isStillThere = (num: number) => chunks.get(num)?.seg === n
        batch.forEach((r, i) => {
          if (!isStillThere(r.num)) return
          if (!read[i]) isReadable = false
          // What is damaged is copied as it is: some of its pieces may be sound.
          if (!read[i] || !chunkId(read[i]).equals(r.id)) chunks.bad.add(r.num)
        })
        const places = await store.append(copied)
        await store.sync()
        copied.forEach(({ num }, i) => { if (isStillThere(num)) chunks.relocate(num, places[i]!.segment, places[i]!.offset) })
        journal.touched()
      }
      // What could not be read may be another time.
      if (!isReadable) continue
      await this.#removeSegments([n], report)
      report.segmentsRewritten++
      onProgress?.({ phase: 'segments', done: ++done, total: thin.length, unit: 'chunks' })
    }
  }

  /** Bytes of records that the index names, by segment; undefined if there is no more time. */
  async #live(): Promise<Map<number, number> | undefined> {
    const live = new Map<number, number>()
    const scan = this.#p.db.sql.prepare('SELECT num, seg, len FROM chunk WHERE num > ? ORDER BY num LIMIT ?').raw(true)
    for (let from = 0; ;) {
      const rows = scan.all(from, BATCH_ROWS) as [number, number, number][]
      for (const [num, seg, len] of rows) {
        from = num
        if (seg > 0) live.set(seg, (live.get(seg) ?? 0) + sealedLength(len) + RECORD_BYTES)
      }
      if (rows.length < BATCH_ROWS) return live
      await turn()
      if (this.#isStopped) return undefined
    }
  }

  /** Closes the heads off if there is much dead in one. Writers go on in new ones; those that have begun are waited for if it is 'full'. */
  async #sealHeads(why: Round): Promise<Set<number>> {
    const { store, writing } = this.#p
    const full = why !== 'idle'
    // A head that is seldom written to keeps all that came after it from being judged.
    if (why === 'shrink' && [...store.usage().keys()].some((n) => n > lowestHead(store) && !store.isHead(n))) return new Set(await store.sealHeads())
    const live = await this.#live()
    const isThin = [...store.usage()].some(([n, size]) => {
      const dead = size - HEADER_BYTES - (live?.get(n) ?? 0)
      return store.isHead(n) && dead >= (full ? SEAL_BYTES : IDLE_SEAL_BYTES) && dead > (size - HEADER_BYTES) * (1 - BELOW[why])
    })
    if (!live || !isThin) return new Set()
    const sealed = await store.sealHeads()
    if (why === 'full') await writing.passed(Math.max(...sealed))
    return new Set(sealed)
  }

  /** Nothing in the index names them any more; durable first. */
  async #removeSegments(segments: number[], report: GcReport): Promise<void> {
    const { journal, store, removed } = this.#p
    if (segments.length === 0) return
    await journal.durable()
    for (const n of segments) {
      store.remove(n)
      removed?.(store.pathOf(n))
      report.segmentsDropped++
    }
  }
}
