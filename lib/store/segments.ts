/**
 * Sealed chunks on a disk: append-only segment files. docs/format.md, "Segment file".
 *
 * Two heads: small batches go to one segment through the page cache, bulk to
 * another past it (O_DIRECT): copying into the page cache and writing it back
 * costs more than all sealing. Neither waits for the other, and the sync of a
 * small write does not wait for a bulk stream's segment to be written first. A
 * segment has one way of being written while it is a head; where the file system
 * refuses direct I/O, both go through the page cache. A third head is made of
 * blocks kept back (space.ts), for what was promised and finds the disk full.
 *
 * Owns: one descriptor for each segment with unsynced bytes, the heads', and up to
 * OPEN_SEGMENTS for reading. The directory belongs to one process (lock.ts).
 *
 * Invariants
 * - `size` of a segment is the end of its last complete record, and of the zeros
 *   that fill up its page; the file is longer only while a batch is being written,
 *   and that of the third head, which has its full length from the start.
 * - What append gave a place for is durable once a sync() that was called after
 *   it has resolved.
 * - After a failed sync nothing is written any more: the kernel may have dropped
 *   the dirty pages, and a second fdatasync would report success (fsyncgate).
 */
import { closeSync, constants, fdatasync, fsync, fsyncSync, ftruncateSync, mkdirSync, openSync, readdirSync, unlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { DfsError, fail, isDfsError } from '../errors.js'
import { BULK_BATCH_BYTES, MAX_BATCH_BYTES, SEGMENT_BYTES, WRITEBACK_BYTES } from '../limits.js'
import { BlockPool, pageEnd } from '../memory.js'
import { bytesOf, checkRecord, gather, type RecordRun, type SegmentRecord } from './batch.js'
import { readMark, writeMark } from './mark.js'
import { SegmentReaders } from './readers.js'
import { HEADER_BYTES, RECORD_BYTES, recordHeader, segmentHeader } from './record.js'
import { checkHeader, scanSegment, trueEnd, type ScannedRecord } from './scan.js'
import { asFull, codeOf, writeAll, writeAllSync } from './write.js'

const HEADS = ['small', 'bulk', 'kept'] as const
const fdatasyncAsync = promisify(fdatasync)
const fsyncAsync = promisify(fsync)

/** Where sealed bytes lie: the segment's number (from 1) and the offset of the sealed bytes in its file. */
export interface Place { segment: number; offset: number }

export interface SegmentOptions {
  /** 32 bytes. A segment of another drive is refused. */
  driveId: Buffer
  /** Starts writeback of a range without waiting (sync_file_range); default: an early fdatasync in the thread pool. */
  startWriteback?: (fd: number, offset: number, length: number) => void
  /** Bytes after which a segment is full; less on a small disk. */
  segmentBytes?: number
  /** False: everything through the page cache. For tests. */
  isDirect?: boolean
}

/** Blocks kept back: makes a file `path` of them, open for writing, as long as it says. Undefined: there are none left. */
export interface KeptBlocks { handOver(path: string): { fd: number; bytes: number } | undefined }

/** What open() cut off the end of a segment: a torn write. */
export interface CutTail { segment: number; size: number; cutBytes: number }

interface Segment {
  number: number
  size: number
  /** Up to here everything is durable. */
  synced: number
  /** Open for writing; -1 = not. */
  fd: number
  /** `fd` is for whole pages from whole pages, at whole pages. */
  isDirect: boolean
  /** Bytes of blocks that it has had from the start; 0: none. */
  kept: number
}
type Head = 'small' | 'bulk' | 'kept'
interface Undo { segment: Segment; size: number }

export class SegmentStore {
  readonly dir: string
  /** Tails that open() cut. Bytes that no index row names, unless the disk lost what it had promised. */
  readonly cut: CutTail[] = []
  /** Segments whose header is damaged while records in it are intact: they are read, and not appended to. */
  readonly damaged: number[] = []
  readonly #driveId: Buffer
  readonly #standardBytes: number
  #limit: number
  readonly #startWriteback: SegmentOptions['startWriteback']
  readonly #segments = new Map<number, Segment>()
  readonly #heads: Partial<Record<Head, Segment>> = {}
  readonly #readers = new SegmentReaders((segment) => this.pathOf(segment))
  #nextNumber = 1
  #dirFd: number
  #dirDirty = false
  #isDirect: boolean
  /** Where batches that lie scattered are gathered for a direct write. */
  readonly #staging = new BlockPool(MAX_BATCH_BYTES, 1)
  /** The appends to each head, one after another. */
  readonly #chains: Record<Head, Promise<unknown>> = { small: Promise.resolve(), bulk: Promise.resolve(), kept: Promise.resolve() }
  /** Segments that a batch is being written to. */
  readonly #inFlight = new Set<Segment>()
  #writebackFrom = 0
  /** The early fdatasync of bulk, where one runs. */
  #writingBack: Promise<void> | undefined
  /** Descriptors that a sync may still be using; closed when none runs. */
  readonly #retired: Segment[] = []
  #syncing: Promise<void> | undefined
  #syncNext: Promise<void> | undefined
  #stopped: DfsError | undefined
  #closed = false

  private constructor(dir: string, options: SegmentOptions) {
    this.dir = dir
    this.#driveId = options.driveId
    this.#limit = this.#standardBytes = options.segmentBytes ?? SEGMENT_BYTES
    this.#startWriteback = options.startWriteback
    this.#isDirect = options.isDirect ?? true
    this.#dirFd = openSync(dir, constants.O_RDONLY | constants.O_DIRECTORY)
  }

  /**
   * Opens (or makes) the segments in `dir`, cutting torn tails (see `cut`).
   * STORE_NEWER for segments of a later format, STORE_DAMAGED for a foreign one.
   */
  static open(dir: string, options: SegmentOptions): SegmentStore {
    if (mkdirSync(dir, { recursive: true, mode: 0o700 }) !== undefined) syncDirectory(dirname(dir))
    const store = new SegmentStore(dir, options)
    try {
      store.#load()
      return store
    } catch (e) {
      store.#closeAll()
      throw e
    }
  }

  /** Bytes after which a segment is full, of those that are made from here on: no more than the disk allows. Infinity: that. */
  set segmentBytes(bytes: number) { this.#limit = Math.min(bytes, this.#standardBytes) }

  /** For what was promised. */
  keptBlocks: KeptBlocks | null = null

  /** Called once, when the store stops. */
  onStop: (why: DfsError) => void = () => {}

  /** Set after a failed write or sync: the reason. Reading still works. */
  get stopped(): DfsError | undefined { return this.#stopped }

  pathOf(segment: number): string {
    return join(this.dir, `${String(segment).padStart(8, '0')}.seg`)
  }

  /** Bytes of each segment file, headers included. */
  usage(): Map<number, number> {
    const sizes = new Map<number, number>()
    for (const s of this.#segments.values()) sizes.set(s.number, s.size)
    return sizes
  }

  /** Whether `length` bytes at `offset` lie within a segment that is there. */
  holds(segment: number, offset: number, length: number): boolean {
    const s = this.#segments.get(segment)
    return s !== undefined && offset + length <= s.size
  }

  /** Whether appends still go there: such a segment is not for compaction. */
  isHead(segment: number): boolean {
    return HEADS.some((head) => this.#heads[head]?.number === segment)
  }

  /** Whether there are bytes that no sync has covered yet. */
  get isDirty(): boolean {
    if (this.#dirDirty) return true
    for (const s of this.#segments.values()) if (s.synced < s.size) return true
    return false
  }

  /**
   * Writes a batch through the thread pool, and gives the place of each record's sealed bytes; a run without a copy where it
   * is bulk. Not durable before sync(). Bulk batches, and small ones, land in the order of the calls. The buffers must not
   * change until it resolves. `isPromised`: there is `keptBlocks` for it where there is no room else.
   * ENOSPC leaves nothing of the batch behind; STORE_STOPPED after an earlier failure.
   */
  async append(batch: SegmentRecord[] | RecordRun, isPromised = false): Promise<Place[]> {
    this.#mustRun()
    const records = Array.isArray(batch) ? batch : batch.records
    records.forEach(checkRecord)
    try {
      return await (this.#isBulk(bytesOf(records)) ? this.#appendBulk(batch) : this.#queue('small', () => this.#appendRecords('small', records)))
    } catch (e) {
      if (!isPromised || !isDfsError(e, 'ENOSPC') || !this.keptBlocks || this.#closed) throw e
      return this.#queue('kept', () => this.#appendRecords('kept', records))
    }
  }

  #appendBulk(batch: SegmentRecord[] | RecordRun): Promise<Place[]> {
    return this.#queue('bulk', async () => {
      if (!Array.isArray(batch)) return this.#isDirect ? this.#appendDirect(batch) : this.#appendRecords('bulk', batch.records)
      const block = this.#isDirect ? this.#staging.take() : undefined
      if (!block) return this.#appendRecords('bulk', batch)
      try {
        return await this.#appendDirect(gather(block.bytes, batch))
      } finally {
        this.#staging.release(block)
      }
    })
  }

  /** No more is appended to the segments that are written to now; gives their numbers. What is on its way there gets there first, and all is durable. */
  async sealHeads(): Promise<number[]> {
    this.#mustRun()
    const sealed: number[] = []
    // All at one moment, when nothing is being written: so that all that comes has higher numbers.
    let go!: (none: Place[]) => void
    const all = new Promise<Place[]>((resolve) => (go = resolve))
    let ready = 0
    const turn = (): Promise<Place[]> => {
      if (++ready === HEADS.length) {
        for (const head of HEADS) {
          const segment = this.#heads[head]
          if (!segment) continue
          sealed.push(segment.number)
          this.#cutKept(segment)
          delete this.#heads[head]
        }
        go([])
      }
      return all
    }
    await Promise.all(HEADS.map((head) => this.#queue(head, turn)))
    await this.sync()
    return sealed
  }

  /** There is room again: what the third head has not used of its blocks goes back to the disk. */
  async endKept(): Promise<void> {
    if (!this.#heads.kept) return
    await this.#queue('kept', async () => {
      if (this.#heads.kept) this.#cutKept(this.#heads.kept)
      delete this.#heads.kept
      return []
    })
    this.#closeIdle()
  }

  /** Fills `out[0..length)` from a segment. EIO if the segment is gone or ends before. */
  readSync(segment: number, offset: number, length: number, out: Buffer): void {
    this.#readers.readSync(segment, offset, length, out)
  }

  /** As readSync, off the loop; gives `out`. */
  read(segment: number, offset: number, length: number, out: Buffer = Buffer.allocUnsafeSlow(length)): Promise<Buffer> {
    return this.#readers.read(segment, offset, length, out)
  }

  /**
   * Makes everything durable whose append has returned or resolved before this call. Off the loop; concurrent callers share
   * syncs. STORE_STOPPED when the disk refuses, now and for ever after.
   */
  sync(): Promise<void> {
    if (this.#stopped) return Promise.reject(this.#stopped)
    if (!this.#syncing) {
      this.#syncing = this.#syncOnce().finally(() => {
        this.#syncing = undefined
        this.#closeIdle()
      })
      return this.#syncing
    }
    // The running sync may have begun before the caller's append: it is covered by the next one.
    this.#syncNext ??= this.#syncing.catch(() => undefined).then(() => {
      this.#syncNext = undefined
      return this.sync()
    })
    return this.#syncNext
  }

  /**
   * The records of a segment in order. `verify`: also compare each id with BLAKE3 of its bytes. A record that
   * cannot be trusted comes with ok = false. Reads as it goes: the caller may pause between records.
   */
  scan(segment: number, options: { verify?: boolean } = {}): Generator<ScannedRecord> {
    return scanSegment(this.pathOf(segment), segment, options.verify ?? false, this.#segments.get(segment)?.size)
  }

  /** Deletes a segment file. A head is closed first. The caller has made sure that no index row needs it. */
  remove(segment: number): void {
    const s = this.#segments.get(segment)
    if (!s) return
    if (this.#inFlight.has(s)) throw fail('EBUSY', `segment ${segment} is being written`)
    for (const head of HEADS) if (this.#heads[head] === s) delete this.#heads[head]
    this.#segments.delete(segment)
    this.#readers.forget(segment)
    this.#retired.push(s)
    this.#closeIdle()
    try {
      unlinkSync(this.pathOf(segment))
    } catch (e) {
      if (codeOf(e) !== 'ENOENT') throw fail('EIO', `segment ${segment} cannot be removed (${codeOf(e)})`, e)
    }
  }

  /** Waits for what runs, syncs, closes. May be called twice. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.all(Object.values(this.#chains))
    try {
      if (!this.#stopped) {
        if (this.#heads.kept) this.#cutKept(this.#heads.kept)
        await this.sync()
        writeMark(this.dir, this.usage())
      }
    } finally {
      await this.#writingBack
      this.#closeAll()
    }
  }

  // --- opening ---

  #load(): void {
    const numbers = readdirSync(this.dir).map((f) => /^(\d{8})\.seg$/.exec(f)?.[1]).filter((n) => n !== undefined).map(Number).sort((a, b) => a - b)
    const mark = readMark(this.dir)
    // Appends end in the last two segments at most that are not full (two heads); those before were synced, or nothing refers to their tail.
    const recent = new Set(numbers.slice(-4))
    const old = new Set<number>()
    for (const number of numbers) {
      const path = this.pathOf(number)
      const { size, state, endsInZeros } = checkHeader(path, number, this.#driveId)
      if (state === 'empty') {
        // Made just before a crash: its header never reached the disk, so nothing in it was ever synced.
        this.cut.push({ segment: number, size: 0, cutBytes: size })
        unlinkSync(path)
        this.#nextNumber = number + 1
        continue
      }
      if (state === 'damaged') this.damaged.push(number)
      if (state === 'old') old.add(number)
      const end = (recent.has(number) && mark?.get(number) !== size) || endsInZeros ? trueEnd(path, number, size) : size
      if (end < size) this.#cutTail(number, end, size)
      this.#segments.set(number, { number, size: end, synced: end, fd: -1, isDirect: false, kept: 0 })
      this.#nextNumber = number + 1
    }
    const open = [...this.#segments.values()].slice(-2).filter((s) => s.size < this.#limit / 2 && !this.damaged.includes(s.number) && !old.has(s.number))
    for (const [i, head] of (['small', 'bulk'] as const).entries()) {
      const segment = open[i]
      if (!segment) continue
      segment.fd = openSync(this.pathOf(segment.number), 'r+')
      if (head === 'bulk') this.#makeDirect(segment)
      this.#heads[head] = segment
    }
  }

  #cutTail(number: number, end: number, size: number): void {
    const fd = openSync(this.pathOf(number), 'r+')
    try {
      ftruncateSync(fd, end)
    } finally {
      closeSync(fd)
    }
    this.cut.push({ segment: number, size: end, cutBytes: size - end })
  }

  // --- appending ---

  /** Whether a batch goes to the bulk head. One that is large for a segment (on a small disk) must be split, which a direct write cannot. */
  #isBulk(bytes: number): boolean {
    return bytes >= BULK_BATCH_BYTES && !(this.#isDirect && bytes > Math.min(this.#limit / 2, MAX_BATCH_BYTES))
  }

  #queue(head: Head, work: () => Promise<Place[]>): Promise<Place[]> {
    const done = this.#chains[head].then(work)
    this.#chains[head] = done.catch(() => undefined)
    return done
  }

  /** Through the page cache. */
  async #appendRecords(head: Head, records: SegmentRecord[]): Promise<Place[]> {
    this.#mustRun(true)
    const places: Place[] = []
    const undo: Undo[] = []
    try {
      for (let i = 0; i < records.length;) {
        const segment = this.#headFor(head, RECORD_BYTES + records[i]!.sealed.length)
        if (segment.isDirect) this.#makeBuffered(segment)
        this.#inFlight.add(segment)
        const batch = this.#plan(segment, records, i, places)
        undo.push({ segment, size: segment.size })
        await writeAll(segment.fd, batch.buffers, segment.size)
        segment.size = batch.end
        i = batch.next
        if (head === 'bulk') this.#pushOut(segment)
      }
      return places
    } catch (e) {
      throw this.#undo(undo, e)
    } finally {
      for (const { segment } of undo) this.#inFlight.delete(segment)
    }
  }

  /** Past the page cache, from a page on, in whole pages. */
  async #appendDirect(run: RecordRun): Promise<Place[]> {
    this.#mustRun(true)
    const used = bytesOf(run.records)
    const length = pageEnd(used)
    const undo: Undo[] = []
    try {
      const segment = this.#headFor('bulk', length)
      if (!segment.isDirect) return await this.#appendRecords('bulk', run.records)
      undo.push({ segment, size: segment.size })
      this.#inFlight.add(segment)
      const start = pageEnd(segment.size)
      const places = run.records.map((r) => {
        const at = r.sealed.byteOffset - run.bytes.byteOffset
        recordHeader(segment.number, start + at - RECORD_BYTES, r, run.bytes.subarray(at - RECORD_BYTES, at))
        return { segment: segment.number, offset: start + at }
      })
      run.bytes.fill(0, used, length)
      await this.#writeDirect(segment, run.bytes.subarray(0, length), start)
      segment.size = start + length
      return places
    } catch (e) {
      throw this.#undo(undo, e)
    } finally {
      for (const { segment } of undo) this.#inFlight.delete(segment)
    }
  }

  async #writeDirect(segment: Segment, bytes: Buffer, at: number): Promise<void> {
    try {
      await writeAll(segment.fd, [bytes], at)
    } catch (e) {
      if (codeOf(e) !== 'EINVAL') throw e
      // A file system that takes the flag and then not the write.
      this.#makeBuffered(segment)
      await writeAll(segment.fd, [bytes], at)
    }
  }

  /** The segment of this head, a new one if `bytes` do not fit. */
  #headFor(head: Head, bytes: number): Segment {
    const segment = this.#heads[head]
    if (segment && (segment.isDirect ? pageEnd(segment.size) : segment.size) + bytes <= this.#limitOf(segment)) return segment
    const made = head === 'kept' ? this.#adopt() : this.#create()
    if (segment) this.#cutKept(segment)
    if (head === 'bulk') this.#makeDirect(made)
    delete this.#heads[head]
    this.#heads[head] = made
    if (made.size + bytes > this.#limitOf(made) && made.kept > 0) throw fail('ENOSPC', 'the disk of the store is full, and what was kept back does not suffice')
    this.#closeIdle()
    if (head === 'bulk') this.#writebackFrom = HEADER_BYTES
    return made
  }

  /** From here on it is written past the page cache, where the file system has that. */
  #makeDirect(segment: Segment): void {
    if (!this.#isDirect || constants.O_DIRECT === undefined) return
    try {
      const fd = openSync(this.pathOf(segment.number), constants.O_RDWR | constants.O_DIRECT)
      closeSync(segment.fd)
      segment.fd = fd
      segment.isDirect = true
    } catch (e) {
      if (codeOf(e) === 'EINVAL') this.#isDirect = false
    }
  }

  /** Direct I/O is of no use here. */
  #makeBuffered(segment: Segment): void {
    this.#isDirect = false
    const fd = openSync(this.pathOf(segment.number), 'r+')
    // A sync may be using the other one.
    this.#retired.push({ ...segment })
    segment.fd = fd
    segment.isDirect = false
  }

  #create(): Segment {
    const number = this.#nextNumber
    const path = this.pathOf(number)
    let fd: number
    try {
      fd = openSync(path, 'wx+', 0o600)
    } catch (e) {
      // Too many descriptors, say: nothing is written, the store can go on.
      throw asFull(e) ?? fail('EIO', `segment ${number} cannot be made (${codeOf(e)})`, e)
    }
    try {
      writeAllSync(fd, [segmentHeader(number, this.#driveId)], 0)
    } catch (e) {
      closeSync(fd)
      unlinkSync(path)
      throw e
    }
    this.#nextNumber++
    const segment: Segment = { number, size: HEADER_BYTES, synced: 0, fd, isDirect: false, kept: 0 }
    this.#segments.set(number, segment)
    this.#dirDirty = true
    return segment
  }

  /** A segment of blocks that were kept back. ENOSPC if there are none. */
  #adopt(): Segment {
    const number = this.#nextNumber
    let kept: ReturnType<KeptBlocks['handOver']>
    try {
      kept = this.keptBlocks?.handOver(this.pathOf(number))
    } catch (e) {
      throw asFull(e) ?? fail('EIO', `segment ${number} cannot be made (${codeOf(e)})`, e)
    }
    if (!kept) throw fail('ENOSPC', 'the disk of the store is full, and what was kept back is used up')
    this.#nextNumber++
    const segment: Segment = { number, size: HEADER_BYTES, synced: 0, fd: kept.fd, isDirect: false, kept: kept.bytes }
    this.#segments.set(number, segment)
    this.#dirDirty = true
    writeAllSync(kept.fd, [segmentHeader(number, this.#driveId)], 0)
    return segment
  }

  /** What it has not used goes back to the disk. */
  #cutKept(segment: Segment): void {
    if (segment.kept > 0 && segment.fd >= 0) ftruncateSync(segment.fd, segment.size)
    segment.kept = 0
  }

  #limitOf(segment: Segment): number { return segment.kept || this.#limit }

  /** As many records from `from` on as fit into the segment. */
  #plan(segment: Segment, records: SegmentRecord[], from: number, places: Place[]): { buffers: Buffer[]; end: number; next: number } {
    const buffers: Buffer[] = []
    let end = segment.size
    let next = from
    for (; next < records.length; next++) {
      const record = records[next]!
      const bytes = RECORD_BYTES + record.sealed.length
      if (end + bytes > this.#limitOf(segment) && end > HEADER_BYTES) break
      buffers.push(recordHeader(segment.number, end, record), record.sealed)
      places.push({ segment: segment.number, offset: end + RECORD_BYTES })
      end += bytes
    }
    return { buffers, end, next }
  }

  /** Cuts off what a failed batch left, and gives the error for the caller. */
  #undo(undo: Undo[], cause: unknown): unknown {
    // From the last: a batch that rolled over leaves a segment that is empty, which is fine.
    for (const { segment, size } of undo.reverse()) {
      const written = segment.size - size
      segment.size = size
      segment.synced = Math.min(segment.synced, size)
      try {
        if (segment.kept === 0) ftruncateSync(segment.fd, size)
        else writeAllSync(segment.fd, [Buffer.alloc(written)], size)
      } catch (e) {
        return this.#stop(`segment ${segment.number} has a torn tail that cannot be cut (${codeOf(e)})`, e)
      }
    }
    if (isDfsError(cause)) return cause
    return asFull(cause) ?? this.#stop(`the store cannot be written (${codeOf(cause)})`, cause)
  }

  // --- syncing ---

  /** Bulk bytes go to the disk while more are being sealed. */
  #pushOut(segment: Segment): void {
    const from = this.#writebackFrom
    if (segment.size - from < WRITEBACK_BYTES) return
    if (this.#startWriteback) {
      this.#writebackFrom = segment.size
      this.#startWriteback(segment.fd, from, segment.size - from)
    } else if (!this.#writingBack && !this.#syncing) {
      this.#writebackFrom = segment.size
      // Its failure stops the store, which the next append or sync reports.
      this.#writingBack = this.#syncSegments([segment]).catch(() => undefined).finally(() => {
        this.#writingBack = undefined
        this.#closeIdle()
      })
    }
  }

  async #syncOnce(): Promise<void> {
    // First, as a file made while this waits marks the directory again.
    const isDirDirty = this.#dirDirty
    this.#dirDirty = false
    const dirty = [...this.#segments.values()].filter((s) => s.fd >= 0 && s.synced < s.size)
    await Promise.all([
      this.#syncSegments(dirty),
      // The kernel reports a lost page to one of two concurrent syncs: wait for both.
      this.#writingBack,
      isDirDirty ? fsyncAsync(this.#dirFd).catch((e: unknown) => { throw this.#stop(`the store's directory cannot be synced (${codeOf(e)})`, e) }) : undefined
    ])
    if (this.#stopped) throw this.#stopped
  }

  async #syncSegments(segments: Segment[]): Promise<void> {
    await Promise.all(segments.map(async (s) => {
      // Taken before the call: what is appended meanwhile is not covered.
      const size = s.size
      try {
        await fdatasyncAsync(s.fd)
      } catch (e) {
        throw this.#stop(`segment ${s.number} cannot be synced (${codeOf(e)})`, e)
      }
      s.synced = Math.max(s.synced, Math.min(size, s.size))
    }))
  }

  // --- descriptors and state ---

  /** Full and synced segments need no descriptor for writing any more, deleted ones none at all. */
  #closeIdle(): void {
    if (this.#syncing || this.#writingBack) return
    for (const s of this.#retired.splice(0)) closeFd(s)
    for (const s of this.#segments.values()) if (s.fd >= 0 && s.synced === s.size && !this.isHead(s.number)) closeFd(s)
  }

  #closeAll(): void {
    for (const s of this.#retired.splice(0)) closeFd(s)
    for (const s of this.#segments.values()) closeFd(s)
    this.#readers.close()
    if (this.#dirFd >= 0) closeSync(this.#dirFd)
    this.#dirFd = -1
  }

  #mustRun(isQueued = false): void {
    if (this.#stopped) throw this.#stopped
    // close() waits for bulk that was queued before it.
    if (this.#closed && !isQueued) throw fail('STORE_STOPPED', 'the store is closed')
  }

  #stop(why: string, cause: unknown): DfsError {
    if (!this.#stopped) this.onStop(this.#stopped = fail('STORE_STOPPED', `${why}; the store has stopped`, cause))
    return this.#stopped
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

function closeFd(s: Segment): void {
  if (s.fd >= 0) closeSync(s.fd)
  s.fd = -1
}
