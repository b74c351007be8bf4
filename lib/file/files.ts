/**
 * The bytes of files on their way in: write, truncate, punch, and when to flush.
 *
 * A write copies the bytes into a slab and returns; memory is bounded,
 * and writers wait beyond that. Flushing (file/flush.ts) turns ranges
 * into sealed chunks and one content op a file.
 */
import { DfsError, fail, isDfsError } from '../errors.js'
import { systemTimers, type Clock, type Timers } from '../clock.js'
import { MAX_FILE_BYTES } from '../limits.js'
import { Pace } from '../pace.js'
import type { Inode } from '../tree/inode.js'
import type { Space } from '../store/space.js'
import { OpenFile, type FileFlush } from './file.js'
import { SLAB_BYTES, SlabPool, type Slab } from './slab.js'

/** Writers that wait go on when unflushed bytes are down to this share of what Space allows. */
const DIRTY_LOW_SHARE = 0.75
/** Fresh ranges of one file after which it is flushed: bounds the cost of keeping them sorted. */
const MAX_RANGES = 4096
/** A file that has this much fresh is flushed at once. */
const FLUSH_BYTES = SLAB_BYTES
/** Files that stream at the same time with a slab of their own. */
const MAX_STREAMS = 3
/** A write of this size that goes on where the last ended makes a stream... */
const STREAM_WRITE_BYTES = 64 << 10
/** ...once the file is this long: small files share slabs. */
const STREAM_FROM = 1 << 20
/** Fresh data is flushed when it has rested or aged this long. */
const REST_MS = 150
const AGE_MS = 1000
const TICK_MS = 100
/** With others listening, closed files are gathered for so long; at the longest while more and more are closed. */
const CLOSED_MS = 4
const CLOSED_LONGEST_MS = 100
/** So many of them, of so many bytes, go into the index with the commit; more are worth a segment. */
const FEW_CLOSED = 16
const SMALL_CLOSED_BYTES = 8 << 10

export interface Flusher {
  /** Takes the fresh state of these files and starts to bring it into the store. */
  start(files: OpenFile[]): FileFlush[]
  /** Brings a small fresh state into the tree at once, sealed on this thread. False: too much, or not possible now. */
  inline(file: OpenFile, limitBytes: number): boolean
}

export class Files {
  readonly pool = new SlabPool()
  readonly #clock: Clock
  readonly #space: Space
  readonly #timers: Timers
  #flusher!: Flusher
  readonly #open = new Map<number, OpenFile>()
  readonly #fresh = new Set<OpenFile>()
  #slab: Slab
  #streams = 0
  /** Unflushed bytes, all files together, beyond which writers wait. */
  readonly #limit: number
  #dirtyBytes = 0
  #waiters: { file: OpenFile; go: () => void; fail: (e: Error) => void }[] = []
  /** What ends it. */
  #ticker: (() => void) | null = null
  readonly #closedPace = new Pace(CLOSED_MS, CLOSED_LONGEST_MS)
  /** Closed files wait to be flushed... */
  #closedTimer: (() => void) | null = null
  /** ...or are. */
  #isFlushingClosed = false
  /** The disk is full. Undefined: nothing can be done; false: nothing could be done. */
  makeRoom: (bytes: number) => Promise<boolean> | undefined = () => undefined
  /** Other devices wait for what changes: files are flushed when they are closed. */
  isLive = false
  #isClosed = false

  constructor(o: { clock: Clock; space: Space; timers?: Timers }) {
    this.#clock = o.clock
    this.#timers = o.timers ?? systemTimers
    this.#space = o.space
    this.#limit = o.space.dirtyLimit
    this.#slab = this.pool.take()
  }

  set flusher(f: Flusher) { this.#flusher = f }

  /** Bytes written by programs that the tree does not have. */
  get dirtyBytes(): number { return this.#dirtyBytes }

  /** The state of a file, if it is open or dirty. */
  find(ino: number): OpenFile | undefined { return this.#open.get(ino) }

  /** What is open and has no name any more. */
  *unlinked(): Generator<Inode> {
    for (const f of this.#open.values()) if (f.opens > 0 && f.inode.nlink === 0) yield f.inode
  }

  /** One more handle. */
  open(inode: Inode, mayWrite: boolean): OpenFile {
    const file = this.#state(inode)
    file.opens++
    if (mayWrite) file.writers++
    return file
  }

  /** One handle fewer, as it was opened. */
  release(file: OpenFile, mayWrite: boolean): void {
    file.opens--
    if (mayWrite) file.writers--
    this.#drop(file)
  }

  /** All that has unflushed writes. */
  *dirtyFiles(): Generator<OpenFile> {
    for (const f of this.#open.values()) if (f.isDirty) yield f
  }

  // --- changing -----------------------------------------------------------

  /**
   * Takes all of `data` (copied before it returns). A promise means: taken, but
   * answer the writer only when it settles, since too much waits for the disk.
   * Throws EFBIG, ENOSPC.
   */
  write(inode: Inode, off: number, data: Uint8Array): void | Promise<void> {
    if (data.length === 0) return
    const end = off + data.length
    if (end > MAX_FILE_BYTES) throw fail('EFBIG', `a file may have ${MAX_FILE_BYTES} bytes`)
    try { this.#space.take(data.length, this.#dirtyBytes) } catch (error) {
      const room = isDfsError(error, 'ENOSPC') ? this.makeRoom(data.length) : undefined
      if (!room) throw error
      const copy = Uint8Array.from(data)
      return room.then((isMade) => {
        if (!isMade) throw error
        return this.write(inode, off, copy)
      })
    }
    const file = this.#state(inode)
    this.#begin(file)
    this.#put(file, off, data)
    this.#stamp(file)
    file.nextWrite = end
    const dirty = file.dirty
    if (dirty.freshBytes >= FLUSH_BYTES || dirty.fresh >= MAX_RANGES || (file.stream && file.stream.used === SLAB_BYTES)) {
      this.flushSoon([file])
    }
    if (this.#dirtyBytes > this.#limit) return this.#throttle(file)
  }

  /** Sets the size; what is new reads as zeros. EFBIG. */
  truncate(inode: Inode, size: number): void {
    if (size > MAX_FILE_BYTES) throw fail('EFBIG', `a file may have ${MAX_FILE_BYTES} bytes`)
    const file = this.#state(inode)
    this.#begin(file)
    if (size < inode.size) {
      this.#carve(file, size, Infinity)
      if (size < file.cut) file.cut = size
    }
    inode.size = size
    file.resized = true
    this.#stamp(file)
  }

  /** Makes [from, to) a hole, within the size. */
  punch(inode: Inode, from: number, to: number): void {
    const file = this.#state(inode)
    this.#begin(file)
    const end = Math.min(to, inode.size)
    if (from < end) {
      this.#carve(file, from, end)
      file.dirty.insert({ off: from, len: end - from, slab: null, pos: 0, flush: null })
    }
    file.resized = true
    this.#stamp(file)
  }

  /** The content counts as changed: mtime and ctime move. */
  touch(inode: Inode): void {
    const file = this.#state(inode)
    this.#begin(file)
    file.resized = true
    this.#stamp(file)
  }

  // --- flushing -----------------------------------------------------------

  /** Everything of this file so far is in the tree (not yet durable) when it resolves. */
  async flush(file: OpenFile): Promise<void> {
    if (file.isFresh) this.#flusher.start([file])
    await this.settled(file)
  }

  /** As `flush`, at once where the fresh state is at most `limitBytes`. Undefined: done. */
  flushSmall(file: OpenFile, limitBytes: number): Promise<void> | undefined {
    if (!file.isDirty) return undefined
    if (file.flushes.length === 0 && file.dirty.freshBytes <= limitBytes && this.#flusher.inline(file, limitBytes)) return undefined
    return this.flush(file)
  }

  /** The flushes under way of this file have ended; throws the first one's error. */
  async settled(file: OpenFile): Promise<void> {
    for (const f of [...file.flushes]) {
      const e = await f.done
      if (e) throw e
    }
  }

  /** Everything of all files so far. */
  async flushAll(): Promise<void> {
    const fresh = [...this.#fresh]
    if (fresh.length) this.#flusher.start(fresh)
    const under: Promise<Error | null>[] = []
    for (const f of this.#open.values()) for (const x of f.flushes) under.push(x.done)
    for (const e of await Promise.all(under)) if (e) throw e
  }

  flushSoon(files: OpenFile[]): void {
    this.#flusher.start(files)
  }

  /** The last handle went: its data is not likely to change soon. */
  closed(file: OpenFile): void {
    if (!file.isFresh) return
    file.lastWrite = 0
    if (!this.isLive || this.#closedTimer !== null || this.#isFlushingClosed) return
    this.#closedTimer = this.#timers.after(this.#closedPace.next(this.#timers.nowMs()), () => this.#flushClosed())
  }

  /** What was closed goes to others at once: a few small ones the short way, more in one flush, and that after the one under way. */
  #flushClosed(): void {
    this.#closedTimer = null
    this.#isFlushingClosed = false
    if (this.#isClosed) return
    const due: OpenFile[] = []
    for (const f of this.#fresh) if (f.opens === 0 && !f.error) due.push(f)
    if (due.length === 0) return
    try {
      if (due.length <= FEW_CLOSED) for (const f of due.splice(0)) if (!this.#flusher.inline(f, SMALL_CLOSED_BYTES)) due.push(f)
    } catch { /* told to whoever syncs the file; the ticker tries again */ }
    const under = due.length === 0 ? [] : this.#flusher.start(due)
    if (under.length === 0) return
    this.#isFlushingClosed = true
    void Promise.all(under.map((f) => f.done)).then(() => this.#flushClosed())
  }

  /** A flush is taking the fresh state of `file`. */
  taken(file: OpenFile): void {
    file.cut = Infinity
    file.resized = false
    this.#fresh.delete(file)
    if (file.stream) {
      this.pool.release(file.stream)
      file.stream = null
      this.#streams--
    }
  }

  /** A flush of `file` has ended, well or not. */
  ended(flush: FileFlush, error: Error | null): void {
    const { file } = flush
    const before = file.dirty.bytes
    file.flushes.splice(file.flushes.indexOf(flush), 1)
    if (error) {
      file.dirty.unclaim(flush)
      file.cut = Math.min(file.cut, flush.cut)
      file.resized = true
      file.error ??= error
      this.#markFresh(file)
    } else {
      file.dirty.settle(flush)
    }
    for (const r of flush.ranges) if (r.slab) this.pool.release(r.slab)
    this.#dirtyBytes += file.dirty.bytes - before
    this.#clean(file)
    this.#drop(file)
    this.#wake(file, error)
  }

  /** A flush of `file` has ended: who waits goes on once little is left; and who wrote to this file when waiting makes it no less. */
  #wake(file: OpenFile, error: Error | null): void {
    if (this.#waiters.length === 0) return
    const isLittle = this.#dirtyBytes <= this.#limit * DIRTY_LOW_SHARE
    const waiters = this.#waiters
    this.#waiters = []
    // A full disk refuses the next write, and a sync tells of this one.
    const refused = isDfsError(error, 'ENOSPC') ? null : error
    for (const w of waiters) {
      if (w.file === file && refused) w.fail(refused)
      else if (isLittle || (w.file === file && (error || !file.isDirty))) w.go()
      else this.#waiters.push(w)
    }
  }

  /** The file's inode is gone for good: forget what was to be written. */
  discard(ino: number): void {
    const file = this.#open.get(ino)
    if (!file) return
    this.#carve(file, 0, Infinity)
    this.taken(file)
    file.inode.pending = null
    this.#drop(file)
  }

  /** Writers that wait are refused: nothing is flushed any more. */
  close(): void {
    this.#isClosed = true
    this.#closedTimer?.()
    this.#rest()
    for (const w of this.#waiters.splice(0)) w.fail(fail('EIO', 'the store was closed before the data could be kept'))
  }

  #rest(): void {
    this.#ticker?.()
    this.#ticker = null
  }

  // --- inside -------------------------------------------------------------

  #state(inode: Inode): OpenFile {
    let file = this.#open.get(inode.ino)
    if (file === undefined) {
      file = new OpenFile(inode, this.pool)
      this.#open.set(inode.ino, file)
      inode.pins++
    }
    return file
  }

  #drop(file: OpenFile): void {
    if (file.opens > 0 || file.isDirty || this.#open.get(file.inode.ino) !== file) return
    this.#open.delete(file.inode.ino)
    file.inode.pins--
  }

  /** The view of the file is about to leave the tree behind. */
  #begin(file: OpenFile): void {
    const i = file.inode
    i.pending ??= { size: i.size, mtime: i.mtime, mtimeNs: i.mtimeNs, ctime: i.ctime, ctimeNs: i.ctimeNs }
  }

  #markFresh(file: OpenFile): void {
    const now = this.#timers.nowMs()
    if (!this.#fresh.has(file)) {
      this.#fresh.add(file)
      file.dirtySince = now
      if (this.#ticker === null && !this.#isClosed) this.#ticker = this.#timers.after(TICK_MS, () => this.#tick())
    }
    file.lastWrite = now
  }

  /** The tree has caught up. */
  #clean(file: OpenFile): void {
    if (!file.isDirty) file.inode.pending = null
  }

  /** The change is made: the times, and the file is due for a flush (one may have been taken half-way). */
  #stamp(file: OpenFile): void {
    this.#markFresh(file)
    const t = this.#clock.now()
    const i = file.inode
    i.mtime = t.sec
    i.mtimeNs = t.nsec
    i.ctime = t.sec
    i.ctimeNs = t.nsec
  }

  #tick(): void {
    this.#ticker = null
    if (this.#fresh.size === 0 || this.#isClosed) return
    this.#ticker = this.#timers.after(TICK_MS, () => this.#tick())
    const now = this.#timers.nowMs()
    const due: OpenFile[] = []
    for (const f of this.#fresh) {
      if (f.error && now - f.lastWrite < AGE_MS) continue
      if (now - f.lastWrite >= REST_MS || now - f.dirtySince >= AGE_MS) due.push(f)
    }
    if (due.length) this.#flusher.start(due)
  }

  #throttle(file: OpenFile): Promise<void> {
    if (this.#fresh.size > 0 && this.#waiters.length === 0) this.#flusher.start([...this.#fresh])
    return new Promise((go, fail) => { this.#waiters.push({ file, go, fail }) })
  }

  #carve(file: OpenFile, from: number, to: number): void {
    const before = file.dirty.bytes
    file.dirty.carve(from, to)
    this.#dirtyBytes += file.dirty.bytes - before
  }

  /** Copies `data` into slabs and maps it. */
  #put(file: OpenFile, off: number, data: Uint8Array): void {
    const { dirty } = file
    const streams = off === file.nextWrite && data.length >= STREAM_WRITE_BYTES
    let from = 0
    while (from < data.length) {
      const at = off + from
      let n = data.length - from
      const i = dirty.at(at)
      const r = dirty.ranges[i]
      // Over bytes that no flush has taken yet: in place.
      if (r !== undefined && r.off <= at && r.flush === null && r.slab !== null) {
        n = Math.min(n, r.off + r.len - at)
        r.slab.bytes.set(n === data.length ? data : data.subarray(from, from + n), r.pos + (at - r.off))
        from += n
        continue
      }
      const slab = this.#slabFor(file, at, streams)
      n = Math.min(n, SLAB_BYTES - slab.used)
      if (r !== undefined && r.off < at + n) this.#carve(file, at, at + n)
      const pos = slab.used
      slab.bytes.set(n === data.length ? data : data.subarray(from, from + n), pos)
      slab.used += n
      const before = dirty.ranges[dirty.at(at) - 1]
      if (before !== undefined && before.flush === null && before.slab === slab && before.off + before.len === at && before.pos + before.len === pos) {
        dirty.grown(before, n)
      } else {
        slab.refs++
        dirty.insert({ off: at, len: n, slab, pos, flush: null })
      }
      this.#dirtyBytes += n
      from += n
      // Part by part: a flush that the next part sets off takes the size along.
      if (at + n > file.inode.size) file.inode.size = at + n
    }
  }

  /** A slab with room, for bytes that belong at `off`. */
  #slabFor(file: OpenFile, off: number, streams: boolean): Slab {
    if (file.stream !== null && streams) {
      if (file.stream.used < SLAB_BYTES) return file.stream
      this.#flusher.start([file])
    }
    if (streams && file.stream === null && off >= STREAM_FROM && this.#streams < MAX_STREAMS) {
      this.#streams++
      file.stream = this.pool.take()
      // Slabs end where the file's offset is a multiple of their size, so that equal files are cut alike.
      file.stream.used = off % SLAB_BYTES
      return file.stream
    }
    if (this.#slab.used === SLAB_BYTES) {
      const full = this.#slab
      this.#slab = this.pool.take()
      const inside: OpenFile[] = []
      for (const f of this.#fresh) if (f.stream === null && f.dirty.fresh > 0) inside.push(f)
      if (inside.length) this.#flusher.start(inside)
      this.pool.release(full)
    }
    return this.#slab
  }
}

export function asError(e: unknown): Error {
  return e instanceof Error ? e : new DfsError('EIO', String(e))
}
