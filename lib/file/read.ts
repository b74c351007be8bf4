/**
 * The bytes of files on their way out.
 *
 * Small and scattered reads are served here and now: one pread, one or two
 * sealed pieces opened on this thread, which costs less than waking another.
 * Sequential readers are read ahead: whole chunks are read and opened by the
 * workers, several in one go, into a bounded cache of plaintext, so that disk, opening and the
 * kernel's copying overlap. Chunks that are not here come whole, too (loads.ts).
 */
import { fail } from '../errors.js'
import { PAGE_BYTES } from '../memory.js'
import type { Inode } from '../tree/inode.js'
import type { ReadExtent, Rows } from '../tree/rows.js'
import { ELSEWHERE, type ChunkTable } from '../store/chunks.js'
import { RECORD_BYTES } from '../store/record.js'
import type { SegmentStore } from '../store/segments.js'
import type { ChunkSealer } from '../seal/chunk.js'
import { pieceRange, sealedLength } from '../seal/chunk.js'
import type { Files } from './files.js'
import type { OpenFile } from './file.js'
import { Loads, type Load, type LoadHost } from './loads.js'
import { Holding, PlainCache, RUN_BYTES, type Plain } from './plain.js'
import { Reading } from './reading.js'

/** Plaintext of whole chunks kept for readers that go on. */
const CACHE_BYTES = 24 << 20
/** Of it, what was loaded ahead and nobody has read yet: it goes after what was read, or a reader would fetch again what it was ahead of. */
const UNREAD_BYTES = 20 << 20
/** A reader that goes on sequentially is read ahead by this much at most. */
const AHEAD_BYTES = 8 << 20
/**
 * ...and by this much of what is elsewhere: at 200 MB/s a round trip of 80 ms, and beside it the rest of the cache for others. What
 * comes sealed is opened when it is there.
 */
const REMOTE_AHEAD_BYTES = 16 << 20
/** Sequential bytes after which reading ahead starts. */
const AHEAD_AFTER = 64 << 10
/** Reads up to this size are served on this thread when nothing is cached. */
const DIRECT_BYTES = 64 << 10

export interface ReadHost extends LoadHost {
  readonly rows: Rows
  readonly chunks: ChunkTable
  readonly store: SegmentStore
  readonly sealer: ChunkSealer
}

export class ReadEngine {
  readonly #host: ReadHost
  readonly #files: Files
  /** What nobody has read yet, and what somebody has: each the oldest first. */
  readonly #unread = new PlainCache()
  readonly #seen = new PlainCache()
  readonly #loads: Loads
  /** What the read being laid out waits for. */
  #joined: Load[] = []
  /** What it uses. */
  #holding: Holding | undefined
  #scratch = Buffer.allocUnsafe(0)

  constructor(host: ReadHost, files: Files) {
    this.#host = host
    this.#files = files
    this.#loads = new Loads(host, (chunk, plain) => this.#keep(chunk, plain))
  }

  /** At most `size` bytes from `off`, in pieces; fewer only at the end of the file. EIO if a chunk is damaged or gone, or does not come in time. The bytes are good until the event loop turns (plain.ts). */
  read(inode: Inode, off: number, size: number): Buffer[] | Promise<Buffer[]> {
    const read = this.start(inode, off, size)
    return read instanceof Reading ? read.done : read
  }

  /** As `read`, for who may lose interest, or waits longer or shorter (`waitMs`). `deadline`: of the read that this one replaces, since the file has changed. */
  start(inode: Inode, off: number, size: number, { deadline, waitMs = this.#host.deadlineMs }: { deadline?: number; waitMs?: number | undefined } = {}): Buffer[] | Reading {
    const end = Math.min(off + size, inode.size)
    if (off >= end) return []
    const file = this.#files.find(inode.ino)
    let ahead = false
    if (file && deadline === undefined) {
      if (off === file.nextRead) file.ahead += end - off
      else {
        file.ahead = 0
        file.aheadTo = 0
      }
      file.nextRead = end
      ahead = file.ahead >= AHEAD_AFTER
    }
    const dirty = file?.dirty.ranges.length ? file : undefined
    const base = file ? file.base : Infinity
    const jobs: (Buffer | Promise<Buffer>)[] = []
    try {
      if (dirty) this.#overlay(dirty, inode, off, end, base, jobs)
      else this.#stored(inode, off, end, base, jobs)
    } catch (error) {
      for (const load of this.#joined.splice(0)) load.leave()
      this.#held()?.end()
      throw error
    }
    if (ahead) this.#readAhead(inode, end, base)
    const holding = this.#held()
    if (this.#joined.length === 0) {
      holding?.end()
      return jobs as Buffer[]
    }
    const loads = this.#joined
    this.#joined = []
    return new Reading(jobs, loads, holding!, deadline ?? performance.now() + waitMs)
  }

  /** Forgets plaintext (the chunk was found damaged, or dropped). */
  forget(chunk: number): void {
    ;(this.#unread.take(chunk) ?? this.#seen.take(chunk))?.release()
  }

  /** What is being fetched is given up. */
  close(): void {
    this.#loads.close()
  }

  /** Dirty ranges where there are any, the store between them. */
  #overlay(file: OpenFile, inode: Inode, off: number, end: number, base: number, out: (Buffer | Promise<Buffer>)[]): void {
    const { ranges } = file.dirty
    let at = off
    for (let i = file.dirty.at(off); at < end; i++) {
      const r = ranges[i]
      const stop = r ? Math.min(r.off, end) : end
      if (at < stop) this.#stored(inode, at, stop, base, out)
      if (!r || r.off >= end) return
      const from = Math.max(r.off, at)
      const to = Math.min(r.off + r.len, end)
      // A copy: the slab may be written or recycled before the reply is out.
      if (r.slab) out.push(Buffer.from(r.slab.bytes.subarray(r.pos + from - r.off, r.pos + to - r.off)))
      else out.push(zeros(to - from))
      at = to
    }
  }

  /** What the tree has of [off, end), holes as zeros. */
  #stored(inode: Inode, off: number, end: number, base: number, out: (Buffer | Promise<Buffer>)[]): void {
    let at = off
    const stop = Math.min(end, base)
    if (at < stop && inode.bytes > 0) {
      for (const e of this.#host.rows.extents(inode.ino, off, stop)) {
        const from = Math.max(e.off, off)
        const to = Math.min(e.off + e.len, stop)
        if (from > at) out.push(zeros(from - at))
        out.push(this.#chunkRange(e, e.coff + from - e.off, e.coff + to - e.off))
        at = to
      }
    }
    if (at < end) out.push(zeros(end - at))
  }

  /** Plaintext bytes [from, to) of an extent's chunk. */
  #chunkRange(e: ReadExtent, from: number, to: number): Buffer | Promise<Buffer> {
    if (e.clen < 0) throw fail('EIO', `chunk ${e.chunk} is not in the index; run dfs fsck`)
    this.#host.used?.(e.chunk)
    const whole = this.#unread.take(e.chunk) ?? this.#seen.take(e.chunk)
    if (whole) {
      this.#seen.put(e.chunk, whole)
      ;(this.#holding ??= new Holding()).add(whole)
      return whole.bytes.subarray(from, to)
    }
    const isLoading = this.#loads.find(e.chunk) !== undefined
    if (isLoading || e.seg === ELSEWHERE || (to - from > DIRECT_BYTES && e.seg !== 0)) return this.#partOf(e, from, to)
    try { return this.#direct(e, from, to) } catch (error) {
      if (!this.#host.source) throw error
      return this.#partOf(e, from, to)
    }
  }

  #partOf(e: ReadExtent, from: number, to: number): Promise<Buffer> {
    const load = this.#loads.start(e, 'reader')
    this.#joined.push(load)
    const holding = (this.#holding ??= new Holding())
    const part = load.bytes.then((plain) => {
      holding.add(plain)
      return plain.bytes.subarray(from, to)
    })
    // Where nobody waits, since another extent of the same read failed at once, it is no fault of the program.
    part.catch(() => {})
    return part
  }

  /** Reads and opens just the sealed pieces that hold [from, to), here. */
  #direct(e: ReadExtent, from: number, to: number): Buffer {
    const { sealer, store, chunks } = this.#host
    const p = pieceRange(e.clen, from, to)
    let sealed: Buffer
    if (e.seg === 0) {
      const data = chunks.inlineData(e.chunk)
      if (!data || data.length !== sealedLength(e.clen)) {
        chunks.bad.add(e.chunk)
        throw fail('EIO', `chunk ${e.chunk} is damaged; run dfs fsck`)
      }
      sealed = data.subarray(p.sealedOffset, p.sealedOffset + p.sealedLength)
    } else {
      if (this.#scratch.length < p.sealedLength) this.#scratch = Buffer.allocUnsafe(Math.max(p.sealedLength, 128 << 10))
      sealed = this.#scratch.subarray(0, p.sealedLength)
      store.readSync(e.seg, e.soff + p.sealedOffset, p.sealedLength, sealed)
    }
    const out = Buffer.allocUnsafe(p.plainBytes)
    try { sealer.openRange(e.h, e.clen, sealed, p.firstPiece, out) } catch (error) {
      chunks.bad.add(e.chunk)
      throw error
    }
    return out.subarray(from - p.plainOffset, to - p.plainOffset)
  }

  /** What the read that was laid out uses; the next one begins anew. */
  #held(): Holding | undefined {
    const holding = this.#holding
    this.#holding = undefined
    return holding
  }

  /** The cache releases it when it goes. */
  #keep(chunk: number, plain: Plain): void {
    this.forget(chunk)
    this.#unread.put(chunk, plain)
    while (this.#unread.bytes > UNREAD_BYTES) this.#unread.oldest()!.release()
    while (this.#unread.bytes + this.#seen.bytes > CACHE_BYTES) (this.#seen.oldest() ?? this.#unread.oldest())!.release()
  }

  /** Starts loading what comes after `from`, up to a window that grows with the run. */
  #readAhead(inode: Inode, from: number, base: number): void {
    const file = this.#files.find(inode.ino)!
    const window = Math.min(file.isRemote ? REMOTE_AHEAD_BYTES : AHEAD_BYTES, file.ahead * 4)
    const to = Math.min(from + window, inode.size, base)
    // Asked for in steps, not at each read.
    if (file.aheadTo >= to || (file.aheadTo > from && file.aheadTo < inode.size && to - file.aheadTo < window / 4)) return
    const start = file.aheadTo > from && file.aheadTo <= to ? file.aheadTo : from
    file.aheadTo = to
    file.isRemote = false
    let run: ReadExtent[] = []
    let runBytes = 0
    for (const e of this.#host.rows.extents(inode.ino, start, to, 256)) {
      if (e.seg === 0 || e.clen < 0 || this.#unread.has(e.chunk) || this.#seen.has(e.chunk) || this.#loads.find(e.chunk)) continue
      if (e.seg === ELSEWHERE || this.#host.chunks.bad.has(e.chunk)) {
        file.isRemote = true
        this.#loads.start(e, 'ahead')
        continue
      }
      const last = run[run.length - 1]
      if (last?.chunk === e.chunk) continue
      if (last && (runBytes + e.clen > RUN_BYTES || !follows(e, last))) {
        this.#loads.ahead(run)
        run = []
        runBytes = 0
        if (this.#loads.find(e.chunk)) continue
      }
      run.push(e)
      runBytes += e.clen
    }
    if (run.length > 0) this.#loads.ahead(run)
  }
}

/** Whether a chunk lies right behind another: a record's header between them, and perhaps the rest of a page. */
function follows(e: ReadExtent, last: ReadExtent): boolean {
  const gap = e.soff - (last.soff + sealedLength(last.clen))
  return e.seg === last.seg && gap >= 0 && gap < PAGE_BYTES + RECORD_BYTES
}

const ZEROS = Buffer.alloc(1 << 20)

function zeros(n: number): Buffer {
  return n <= ZEROS.length ? ZEROS.subarray(0, n) : Buffer.alloc(n)
}
