/**
 * From dirty ranges to chunks in the store and ops in the tree.
 *
 *   take     the fresh ranges of some files, as they are now
 *   plan     long runs are cut by content; short ones of a file that lie together
 *            in memory are packed into one chunk
 *   cut      boundaries and keyed hashes (worker)
 *   look up  equal content that is known, or on its way, is not sealed again
 *   seal     (worker)
 *   append   to a segment, then fdatasync
 *   apply    one content op a file, in the order in which the file's flushes were taken
 *
 * Order (DESIGN 5): an extent enters the transaction only when its chunk is
 * durable, so that a commit never waits for bulk data. Small content that a
 * program waits for takes `inline` instead: sealed here, kept in the index,
 * durable with the commit itself.
 */
import { fail, isDfsError } from '../errors.js'
import type { ContentOp, ChunkRef, Piece } from '../log/ops.js'
import type { ChunkTable } from '../store/chunks.js'
import type { ChunkSealer } from '../seal/chunk.js'
import { chunkId, sealedLength } from '../seal/chunk.js'
import { averageFor } from '../seal/chunker.js'
import type { SealPool } from '../seal/pool.js'
import type { SegmentStore } from '../store/segments.js'
import type { Outcome } from '../tree/tree.js'
import type { DirtyRange } from './dirty.js'
import { lowestHead } from '../store/heads.js'
import { RECORD_BYTES } from '../store/record.js'
import type { Inode } from '../tree/inode.js'
import { OpenFile, type FileFlush } from './file.js'
import { asError, type Files, type Flusher } from './files.js'
import type { Slab } from './slab.js'

/** Runs at least this long are cut by content; shorter ones of a scattered flush are packed. */
const CUT_FROM_BYTES = 64 << 10
/** A packed chunk holds at most this much. */
const PACK_BYTES = 256 << 10
/** Largest piece of an inline flush that is one chunk. */
const INLINE_CHUNK_BYTES = 256 << 10

/** A flush with more pieces scatters its file. */
const SCATTERED_PIECES = 16
/** Files remembered for compaction; beyond, the list is not worth its memory. */
const MAX_SCATTERED = 10_000

/** Jobs that hold sealed bytes at a time, up to a slab each: enough for the workers and the disk to be busy. */
const SEALING_JOBS = 4

/** A chunk of ours on its way: gets its number when the first op that names it is applied. */
export interface LocalChunk extends ChunkRef {
  num: number
  seg: number
  off: number
  data?: Buffer
}

export interface FlushHost {
  readonly chunks: ChunkTable
  readonly store: SegmentStore
  readonly pool: SealPool
  readonly sealer: ChunkSealer
  /** The disk is full: whether room was made, so that it is worth trying again. */
  makeRoom(): boolean
  /** Applies and logs a content op. */
  content(op: ContentOp): Outcome | Promise<Outcome>
}

/** A run of memory that becomes chunks, and where its bytes belong in files. */
interface Run {
  slab: Slab
  pos: number
  len: number
  cut: number
  /** Sorted by pos. */
  parts: { flush: FileFlush; off: number; pos: number; len: number }[]
}

/** What is written in one go. */
interface Job {
  /** The first segment that it may write to. */
  readonly segment: number
  /** Programs were told that it fits: a full disk has blocks for it, and gives back the rest of what is kept should they not suffice. */
  readonly isPromised: boolean
  /** In `underway`: equal content waits for it until it can be found in the table. */
  readonly keys: string[]
}

interface Out { chunks: LocalChunk[]; pieces: Piece[] }

export class FlushEngine implements Flusher {
  readonly #host: FlushHost
  readonly #files: Files
  /** Chunks being sealed, by hash, so that equal content under way is sealed once. */
  readonly #underway = new Map<string, Promise<LocalChunk>>()
  /** Numbers of chunks that a flush is about to name: gc leaves them alone. */
  readonly pinned = new Map<number, number>()
  /**
   * Chunks that flushes are about to name, by how many; a flush may name what another has sealed, and that one may have ended,
   * and its file be gone. Invariant: one with a number is pinned as often.
   */
  readonly #held = new Map<LocalChunk, { flushes: number; num: number }>()
  /** Files that a flush left in many small extents: for idle compaction. */
  readonly scattered = new Set<number>()
  readonly #gate = new Gate(SEALING_JOBS)
  readonly #jobs = new Set<Job>()
  /** Told when one of them has ended. */
  readonly #waiting: (() => void)[] = []

  constructor(host: FlushHost, files: Files) {
    this.#host = host
    this.#files = files
  }

  start(files: OpenFile[]): FileFlush[] {
    const flushes: FileFlush[] = []
    for (const file of files) {
      if (!file.isFresh) continue
      flushes.push(this.#take(file))
    }
    if (flushes.length === 0) return flushes
    const job = this.#begin(true)
    const outs = this.#write(flushes, job)
    for (const flush of flushes) {
      const before = flush.file.flushes[flush.file.flushes.indexOf(flush) - 1]?.done
      flush.done = this.#finish(flush, outs, before)
    }
    void Promise.all(flushes.map((f) => f.done)).then(() => this.#end(job))
    return flushes
  }

  inline(file: OpenFile, limitBytes: number): boolean {
    if (file.flushes.length > 0 || file.dirty.freshBytes > limitBytes) return false
    const flush = this.#take(file)
    const out: Out = { chunks: [], pieces: [] }
    try {
      for (const range of joined(flush.ranges)) {
        if (range.parts === null) {
          out.pieces.push({ off: range.off, len: range.len, chunk: -1, coff: 0 })
          continue
        }
        for (let at = 0; at < range.len; at += INLINE_CHUNK_BYTES) {
          const len = Math.min(INLINE_CHUNK_BYTES, range.len - at)
          const plain = gather(range.parts, at, len)
          out.pieces.push({ off: range.off + at, len, chunk: out.chunks.length, coff: 0 })
          out.chunks.push(this.#sealInline(plain))
        }
      }
      const outcome = this.#apply(flush, out)
      if (typeof outcome !== 'string') throw new Error('invariant: inline content with an engine that takes its time')
      if (outcome !== '' && outcome !== 'ENOENT') throw fail(outcome, 'the content was refused')
      this.#files.ended(flush, null)
    } catch (e) {
      this.#files.ended(flush, asError(e))
      throw e
    }
    return true
  }

  /** Chunks `ranges` of a clean file anew; applied only if nothing changed until the chunks are durable. */
  async rewrite(inode: Inode, ranges: DirtyRange<FileFlush>[], unchanged: () => boolean): Promise<void> {
    const flush: FileFlush = { file: new OpenFile(inode, this.#files.pool), ranges, cut: Infinity, size: inode.size, done: Promise.resolve(null) }
    const job = this.#begin(false)
    try {
      const out = (await this.#write([flush], job)).get(flush)!
      try {
        if (unchanged()) await this.#apply(flush, out)
      } finally {
        for (const c of out.chunks) this.#letGo(c)
      }
    } finally {
      this.#end(job)
    }
  }

  /** Until the function given is called, gc leaves segments alone that are written to from now on. */
  guard(): () => void {
    const job = this.#begin(false)
    return () => this.#end(job)
  }

  /** Resolves when nothing under way may have written to segment `last` or one before it. */
  async passed(last: number): Promise<void> {
    while (this.firstSegment() <= last) await new Promise<void>((resolve) => { this.#waiting.push(resolve) })
  }

  /** Number of the first segment that a flush under way may have written to. */
  firstSegment(): number {
    let first = Infinity
    for (const job of this.#jobs) first = Math.min(first, job.segment)
    return first
  }

  // --- steps --------------------------------------------------------------

  #begin(isPromised: boolean): Job {
    const job = { segment: lowestHead(this.#host.store), isPromised, keys: [] }
    this.#jobs.add(job)
    return job
  }

  #end(job: Job): void {
    this.#jobs.delete(job)
    this.#forget(job)
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  /** Nobody waits for what it seals. */
  #forget(job: Job): void {
    for (const k of job.keys.splice(0)) this.#underway.delete(k)
  }

  #take(file: OpenFile): FileFlush {
    const flush: FileFlush = { file, ranges: [], cut: file.cut, size: file.inode.size, done: Promise.resolve(null) }
    flush.ranges = file.dirty.claim(flush)
    file.flushes.push(flush)
    this.#files.taken(file)
    return flush
  }

  async #finish(flush: FileFlush, outs: Promise<Map<FileFlush, Out>>, before: Promise<Error | null> | undefined): Promise<Error | null> {
    let error: Error | null = null
    try {
      const out = (await outs).get(flush)!
      // A flush whose predecessor failed fails too: its ops would build on what is not there.
      const failed = await before
      if (failed) throw failed
      const outcome = await this.#apply(flush, out)
      for (const c of out.chunks) this.#numbered(c)
      if (outcome !== '' && outcome !== 'ENOENT') throw fail(outcome, 'the content was refused')
    } catch (e) {
      error = asError(e)
    }
    outs.then((m) => { for (const c of m.get(flush)!.chunks) this.#letGo(c) }, () => {})
    this.#files.ended(flush, error)
    return error
  }

  /** ENOENT where the file is gone meanwhile: then nobody misses its bytes. */
  #apply(flush: FileFlush, out: Out): Outcome | Promise<Outcome> {
    const { inode } = flush.file
    out.pieces.sort((a, b) => a.off - b.off)
    if (out.pieces.length > SCATTERED_PIECES || (out.chunks[0]?.data && flush.size > out.chunks[0].len)) this.scattered.add(inode.ino)
    if (this.scattered.size > MAX_SCATTERED) this.scattered.clear()
    return this.#host.content({
      type: 'content',
      ino: inode.ino,
      base: inode.version,
      cut: flush.cut,
      size: flush.size,
      chunks: out.chunks,
      pieces: out.pieces,
      // As they are now: a utimens that came after the write must not be undone by its flush.
      mtime: { sec: inode.mtime, nsec: inode.mtimeNs },
      ctime: { sec: inode.ctime, nsec: inode.ctimeNs },
    })
  }

  /** Makes chunks of all ranges and brings them to the disk. */
  async #write(flushes: FileFlush[], job: Job): Promise<Map<FileFlush, Out>> {
    for (;;) {
      try {
        return await this.#attempt(flushes, job)
      } catch (e) {
        if (!job.isPromised || !isDfsError(e, 'ENOSPC') || !this.#host.makeRoom()) throw e
        this.#forget(job)
      }
    }
  }

  async #attempt(flushes: FileFlush[], job: Job): Promise<Map<FileFlush, Out>> {
    const outs = new Map<FileFlush, Out>(flushes.map((f) => [f, { chunks: [], pieces: [] }]))
    const runs = plan(flushes, outs)
    if (runs.length === 0) return outs
    const groups = new Map<string, Run[]>()
    const slabs = new Map<Slab, number>()
    for (const run of runs) {
      if (!slabs.has(run.slab)) slabs.set(run.slab, slabs.size)
      const key = `${slabs.get(run.slab)}/${run.cut}`
      const group = groups.get(key)
      if (group) group.push(run)
      else groups.set(key, [run])
    }
    // All of them end before a failure is told: a second attempt must not meet the first.
    try {
      for (const r of await Promise.allSettled([...groups.values()].map((g) => this.#group(g, outs, job)))) if (r.status === 'rejected') throw r.reason
      await this.#host.store.sync()
    } catch (e) {
      for (const { chunks } of outs.values()) for (const c of chunks) this.#letGo(c)
      throw e
    }
    return outs
  }

  /** Runs of one slab that are cut alike. */
  async #group(runs: Run[], outs: Map<FileFlush, Out>, job: Job): Promise<void> {
    // Until those in `outs` are.
    const held: LocalChunk[] = []
    let isOver = false
    const hold = (c: LocalChunk) => {
      if (isOver) return
      this.#hold(c)
      held.push(c)
    }
    try {
      await this.#chunks(runs, outs, job, hold)
    } finally {
      isOver = true
      for (const c of held) this.#letGo(c)
    }
  }

  /** `hold`: what is found, or sealed, stays until the group is over. */
  async #chunks(runs: Run[], outs: Map<FileFlush, Out>, job: Job, hold: (c: LocalChunk) => void): Promise<void> {
    const arena = runs[0]!.slab.memory
    const { chunks: table, pool, store } = this.#host
    const cuts = await pool.cut({ arena, runs: runs.map((r) => ({ start: r.pos, length: r.len })), average: runs[0]!.cut })
    const found: (LocalChunk | Promise<LocalChunk>)[] = []
    const fresh: { start: number; length: number; h: Buffer; settle: (c: LocalChunk) => void; fail: (e: Error) => void }[] = []
    for (const c of cuts) {
      const num = table.findByHash(c.h)
      if (num > 0 && table.isThere(num, store)) {
        const known = table.identity(num)!
        const chunk: LocalChunk = { id: known.id, h: known.h, len: known.len, num, seg: 0, off: 0 }
        hold(chunk)
        found.push(chunk)
        continue
      }
      const key = c.h.toString('latin1')
      let chunk = this.#underway.get(key)
      if (!chunk) {
        chunk = new Promise<LocalChunk>((settle, fail) => { fresh.push({ ...c, settle, fail }) })
        chunk.catch(() => {})
        this.#underway.set(key, chunk)
        job.keys.push(key)
      }
      // Whoever seals it may be done with it before we are.
      chunk.then(hold, () => {})
      found.push(chunk)
    }
    if (fresh.length) {
      await this.#gate.enter()
      let release = () => {}
      try {
        const sealing = await pool.seal({ arena, chunks: fresh, gap: RECORD_BYTES })
        const { sealed, block, chunks } = sealing
        release = sealing.release
        const records = chunks.map((c, i) => ({
          id: c.id, plainLength: fresh[i]!.length, sealed: sealed.subarray(c.offset, c.offset + c.length),
        }))
        const places = await store.append(block ? { bytes: block, records } : records, job.isPromised)
        for (let i = 0; i < fresh.length; i++) {
          const f = fresh[i]!
          f.settle({ id: chunks[i]!.id, h: f.h, len: f.length, num: 0, seg: places[i]!.segment, off: places[i]!.offset })
        }
      } catch (e) {
        for (const f of fresh) f.fail(asError(e))
        throw e
      } finally {
        release()
        this.#gate.leave()
      }
    }
    const done = await Promise.all(found)
    let i = 0
    for (const run of runs) {
      let part = 0
      for (let at = run.pos; at < run.pos + run.len; i++) {
        const length = cuts[i]!.length
        while (run.parts[part]!.pos + run.parts[part]!.len <= at) part++
        for (let p = part; p < run.parts.length && run.parts[p]!.pos < at + length; p++) {
          const { flush, off, pos, len } = run.parts[p]!
          const from = Math.max(pos, at)
          const to = Math.min(pos + len, at + length)
          const out = outs.get(flush)!
          const chunk = done[i]!
          let index = out.chunks.length - 1
          if (index < 0 || out.chunks[index] !== chunk) {
            index = out.chunks.push(chunk) - 1
            this.#hold(chunk)
          }
          out.pieces.push({ off: off + (from - pos), len: to - from, chunk: index, coff: from - at })
        }
        at += length
      }
    }
  }

  #sealInline(plain: Buffer): LocalChunk {
    const { sealer, chunks } = this.#host
    const h = sealer.contentHash(plain)
    const num = chunks.findByHash(h)
    if (num > 0 && chunks.isThere(num, this.#host.store)) return { ...chunks.identity(num)!, num, seg: 0, off: 0 }
    const data = Buffer.allocUnsafe(sealedLength(plain.length))
    sealer.seal(plain, h, data)
    return { id: chunkId(data), h, len: plain.length, num: 0, seg: 0, off: 0, data }
  }

  /** One more flush is about to name it. */
  #hold(chunk: LocalChunk): void {
    const held = this.#held.get(chunk)
    if (!held) {
      this.#held.set(chunk, { flushes: 1, num: chunk.num })
      if (chunk.num > 0) this.#pin(chunk.num, 1)
      return
    }
    this.#numbered(chunk)
    held.flushes++
    if (held.num > 0) this.#pin(held.num, 1)
  }

  /** An op has named it: it has a number now. */
  #numbered(chunk: LocalChunk): void {
    const held = this.#held.get(chunk)
    if (!held || held.num > 0 || chunk.num === 0) return
    held.num = chunk.num
    this.#pin(held.num, held.flushes)
  }

  /** One of them has named it, or will not. */
  #letGo(chunk: LocalChunk): void {
    const held = this.#held.get(chunk)
    if (!held) return
    if (held.num > 0) this.#pin(held.num, -1)
    if (--held.flushes === 0) this.#held.delete(chunk)
  }

  #pin(num: number, n: number): void {
    const pins = (this.pinned.get(num) ?? 0) + n
    if (pins === 0) this.pinned.delete(num)
    else this.pinned.set(num, pins)
  }
}

/** Lays out what is cut and what is packed; holes go to `outs` at once. */
function plan(flushes: FileFlush[], outs: Map<FileFlush, Out>): Run[] {
  const runs: Run[] = []
  for (const flush of flushes) {
    const small: Run[] = []
    let last: Run | null = null
    for (const r of flush.ranges) {
      if (!r.slab) {
        outs.get(flush)!.pieces.push({ off: r.off, len: r.len, chunk: -1, coff: 0 })
        last = null
        continue
      }
      const part = { flush, off: r.off, pos: r.pos, len: r.len }
      const tail = last?.parts[last.parts.length - 1]
      if (last && tail && last.slab === r.slab && last.pos + last.len === r.pos && tail.off + tail.len === r.off) {
        last.len += r.len
        last.parts.push(part)
        continue
      }
      last = { slab: r.slab, pos: r.pos, len: r.len, cut: averageFor(flush.size), parts: [part] }
      small.push(last)
    }
    if (small.length === 1) {
      runs.push(small[0]!)
      continue
    }
    runs.push(...small.filter((r) => r.len >= CUT_FROM_BYTES))
    const scattered = small.filter((r) => r.len < CUT_FROM_BYTES)
    scattered.sort((a, b) => (a.slab === b.slab ? a.pos - b.pos : slabOrder(a.slab) - slabOrder(b.slab)))
    let pack: Run | null = null
    for (const r of scattered) {
      if (pack && pack.slab === r.slab && pack.pos + pack.len === r.pos && pack.len + r.len <= PACK_BYTES) {
        pack.len += r.len
        pack.parts.push(...r.parts)
        continue
      }
      pack = { ...r, cut: 0 }
      runs.push(pack)
    }
  }
  return runs
}

const slabNumbers = new WeakMap<Slab, number>()
let slabCount = 0

function slabOrder(slab: Slab): number {
  let n = slabNumbers.get(slab)
  if (n === undefined) slabNumbers.set(slab, (n = slabCount++))
  return n
}

/** Ranges that follow each other in the file as one; `parts` null: a hole. */
function joined(ranges: DirtyRange<FileFlush>[]): { off: number; len: number; parts: DirtyRange<FileFlush>[] | null }[] {
  const out: { off: number; len: number; parts: DirtyRange<FileFlush>[] | null }[] = []
  for (const r of ranges) {
    const last = out[out.length - 1]
    if (r.slab && last?.parts && last.off + last.len === r.off) {
      last.parts.push(r)
      last.len += r.len
    } else {
      out.push({ off: r.off, len: r.len, parts: r.slab ? [r] : null })
    }
  }
  return out
}

/** The bytes [at, at + len) of joined ranges; a view where they lie in one piece. */
function gather(parts: DirtyRange<FileFlush>[], at: number, len: number): Buffer {
  if (parts.length === 1) return parts[0]!.slab!.bytes.subarray(parts[0]!.pos + at, parts[0]!.pos + at + len)
  const out = Buffer.allocUnsafe(len)
  const base = parts[0]!.off
  for (const r of parts) {
    const from = Math.max(r.off - base, at)
    const to = Math.min(r.off - base + r.len, at + len)
    if (from < to) out.set(r.slab!.bytes.subarray(r.pos + from - (r.off - base), r.pos + to - (r.off - base)), from - at)
  }
  return out
}

/** Lets so many in at a time; the others wait in line. */
class Gate {
  #free: number
  readonly #line: (() => void)[] = []

  constructor(places: number) {
    this.#free = places
  }

  async enter(): Promise<void> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((go) => { this.#line.push(go) })
  }

  leave(): void {
    const next = this.#line.shift()
    if (next) next()
    else this.#free++
  }
}
