/**
 * Group commit. Ops enter one SQLite transaction that stays open across them;
 * a commit closes the batch into one signed entry, writes it in the same
 * transaction, and starts the next.
 *
 * Durability (DESIGN 5): COMMIT does not sync. `durable()` writes the ops that
 * are new into the redo file (redo.ts) and leaves the commit for later; where
 * that is not possible it commits, and fdatasyncs the WAL off the loop. Calls
 * that arrive meanwhile share the next round. A failed sync or commit is never
 * retried: the journal stops, and every later call fails.
 *
 * Invariant: a record is written to the redo file only while every change since
 * the last durable commit is in it too, so that the two together always give
 * back what was promised. A change that is no op of ours (a chunk moved by
 * gc, a file without a name) is not: after it the next `durable` is a commit.
 */
import { randomBytes } from 'node:crypto'
import { fail } from '../errors.js'
import type { Clock, Timers } from '../clock.js'
import { MAX_REDO_RECORD_BYTES } from '../limits.js'
import type { Database } from '../store/database.js'
import { Pace } from '../pace.js'
import { Reader, Writer } from './codec.js'
import { encodeHeader, entryAad, hashOf } from './entry.js'
import type { EntrySealer, Log } from './log.js'
import { decodeOp, encodeOp, INO_HIGH, type InodeCodec, type Op } from './ops.js'
import { readRedo, RedoFile, SESSION_BYTES, type PlacedChunk } from './redo.js'

/** A commit comes at the latest this long after the first change in it. */
const COMMIT_AFTER_MS = 1000
/** With others listening: so soon after a change that comes alone, and at the latest while changes keep coming. */
const LIVE_COMMIT_MS = 4
const LIVE_COMMIT_LONGEST_MS = 80
/**
 * ...or when this many ops or bytes of them have gathered, so that a commit never
 * holds the loop for long. Not less: names and hashes are random keys, and each
 * commit writes every page that it touched.
 */
const COMMIT_OPS = 12288
const COMMIT_BYTES = 2 << 20
/** Sealed ops kept of a drive whose only device is this one: nobody needs them, but fsck and `dfs log` like some. */
export const KEEP_LOG_BYTES = 16 << 20

/** A commit that nobody waits for is synced this long after: a power cut may take the last seconds, never more. */
const SYNC_AFTER_MS = 2000
/** A disk that syncs in less is waited for on the loop, if nobody else is there. */
const QUICK_SYNC_MS = 1

/** Local index of an incarnation, and a seq of its log. */
export interface EntryPlace { log: number; seq: number }

/** Rows that are written behind: the tree's. */
export interface WrittenBehind {
  readonly dirtyCount: number
  flush(): void
}

export class Journal {
  readonly #db: Database
  readonly #rows: WrittenBehind
  readonly #log: Log
  readonly #sealer: EntrySealer
  readonly #clock: Clock
  readonly #timers: Timers
  readonly #drive: Buffer
  #incarnation: number

  readonly #ops = new Writer(65536)
  #opCount = 0
  #firstOp = 0
  #chunks: Buffer[] = []
  #table: number[] = []
  #codec: InodeCodec

  #nextOp: number
  #nextIno: number
  #changed = false
  #isForced = false
  /** What cancels them. */
  #timer: (() => void) | null = null
  #syncTimer: (() => void) | null = null
  #syncing: Promise<void> | null = null
  #queued: Promise<void> | null = null
  /** As the two above, of those who want an entry. */
  #entering: Promise<EntryPlace> | null = null
  #enteringNext: Promise<EntryPlace> | null = null
  #stopped: Error | null = null
  /** What a sync of the log took lately, milliseconds. */
  #syncMs = 0

  /** Where ops are redone from; null: not wanted, or no room. */
  #redoPath: string | null = null
  #redo: RedoFile | null = null
  /** Of the open batch: ops, and bytes of them, that the redo file has. */
  #redoneOps = 0
  #redoneBytes = 0
  /** Chunks of the ops that it does not have; null: too much for a record. */
  #placed: PlacedChunk[] | null = []
  #placedBytes = 0
  /** The open transaction holds a change that is no op. */
  #opaque = false
  /** Commits so far; the last one with a change that the redo file does not have; the last one that is durable. */
  #commits = 0
  #opaqueCommit = 0
  #durableCommit = -1
  /** A half of the redo file waits for a commit. */
  #due = false

  readonly #begin
  readonly #commit
  readonly #setCounters
  /** Called after each commit, with its entry's seq (0: none). */
  onCommit: (seq: number) => void = () => {}
  onStop: (e: Error) => void = () => {}
  beforeCommit: () => void = () => {}
  /** What the entry that is about to be closed has seen, as a difference to the one before: (local index, seq). */
  contextOf: () => [inc: number, seq: number][] = () => []
  /** Called within the transaction when an entry was closed. */
  onEntry: (entry: { seq: number; clockMs: number; first: number; count: number }) => void = () => {}
  /** Called when commits became durable, with the last seq of each log in them. */
  onDurable: (heads: ReadonlyMap<number, number>) => void = () => {}
  #isLive = false
  /** Ops in an entry, at most. */
  maxOps = COMMIT_OPS
  readonly #livePace = new Pace(LIVE_COMMIT_MS, LIVE_COMMIT_LONGEST_MS)
  /** Ops were taken back and wait to be put in again: until then nothing is durable. */
  #held: { over: Promise<void>; end: () => void } | null = null
  /** Sealed bytes of our own log that are kept; more than one device needs may be asked for. */
  canTruncate = true

  constructor(o: { db: Database; rows: WrittenBehind; log: Log; sealer: EntrySealer; clock: Clock; timers: Timers; drive: Buffer; incarnation: number }) {
    this.#db = o.db
    this.#rows = o.rows
    this.#log = o.log
    this.#sealer = o.sealer
    this.#clock = o.clock
    this.#timers = o.timers
    this.#drive = o.drive
    this.#incarnation = o.incarnation
    const row = o.db.sql.prepare('SELECT next_op, next_ino FROM counter WHERE inc = ?').get(o.incarnation) as { next_op: number; next_ino: number } | undefined
    this.#nextOp = row?.next_op ?? 1
    this.#nextIno = row?.next_ino ?? 1
    this.#begin = o.db.sql.prepare('BEGIN')
    this.#commit = o.db.sql.prepare('COMMIT')
    this.#setCounters = o.db.sql.prepare('INSERT OR REPLACE INTO counter VALUES (?, ?, ?)')
    this.#table = [this.incarnation]
    this.#codec = {
      outgoing: (inc) => {
        let i = this.#table.indexOf(inc)
        if (i < 0) i = this.#table.push(inc) - 1
        return i
      },
      incoming: () => { throw new Error('writing') },
    }
    this.#begin.run()
  }

  get stopped(): Error | null { return this.#stopped }
  /** Local index of our own incarnation. */
  get incarnation(): number { return this.#incarnation }
  get nextOpCounter(): number { return this.#nextOp }
  /** Inodes that this incarnation has numbered so far. */
  get inodesMade(): number { return this.#nextIno - 1 }

  /** A new inode number of our own. */
  newIno(): number {
    const counter = this.#nextIno++
    if (counter >= INO_HIGH) throw fail('ENOSPC', 'this incarnation has no inode numbers left')
    return this.incarnation * INO_HIGH + counter
  }

  /** The id of the op that comes next; `append` it right after it was applied. */
  newOpId(): number {
    this.check()
    return this.incarnation * INO_HIGH + this.#nextOp
  }

  /** Puts an applied op into the batch. */
  append(op: Op): void {
    if (this.#held) throw new Error('invariant: an op while the journal is held')
    if (this.#opCount === 0) this.#firstOp = this.#nextOp
    encodeOp(this.#ops, op, this.#codec)
    this.#opCount++
    this.#nextOp++
    if (op.type === 'content') {
      for (const c of op.chunks) {
        this.#chunks.push(c.id)
        this.#place(c as PlacedChunk)
      }
    }
    this.#change()
    if (this.#opCount >= this.maxOps || this.#ops.length >= COMMIT_BYTES) this.commit()
  }

  #place(chunk: PlacedChunk): void {
    if (this.#placed === null) return
    this.#placed.push(chunk)
    this.#placedBytes += chunk.data?.length ?? 0
    if (this.#placedBytes > MAX_REDO_RECORD_BYTES) this.#placed = null
  }

  /**
   * Something in the transaction changed that is no op of ours. `derived`: it comes again by itself, or need not (access times,
   * unnamed inodes that are gone), should a crash lose it.
   */
  touched(what: 'local' | 'derived' = 'local'): void {
    if (what === 'local') this.#opaque = true
    this.#change()
  }

  #change(): void {
    this.#changed = true
    if (this.#timer !== null) return
    this.#timer = this.#timers.after(this.#isLive ? this.#livePace.next(this.#timers.nowMs()) : COMMIT_AFTER_MS, () => {
      this.#timer = null
      try { this.commit() } catch { /* stopped; every caller learns from check() */ }
    })
  }

  /** Before each change. STORE_STOPPED, also when SQLite has rolled the open transaction back: what is in memory is no longer what the index has. */
  check(): void {
    if (!this.#stopped && !this.#db.sql.inTransaction) this.stop(new Error('the index has rolled back its transaction'))
    if (this.#stopped) throw fail('STORE_STOPPED', `the store has stopped: ${this.#stopped.message}`, this.#stopped)
  }

  /** Whether others wait for what changes here: then commits come soon, and are made durable at once. */
  set isLive(isLive: boolean) { this.#isLive = isLive }

  /** An entry without ops: it says what we have seen. */
  state(): void {
    this.#isForced = true
    this.#changed = true
    this.commit()
  }

  /** Ends the batch and commits; does not sync. */
  commit(): void {
    this.check()
    this.#timer?.()
    this.#timer = null
    if (!this.#changed && this.#rows.dirtyCount === 0) return
    this.beforeCommit()
    const isRedone = this.#redoneOps === this.#opCount
    try {
      this.#rows.flush()
      const seq = this.#opCount > 0 || this.#isForced ? this.#writeEntry() : 0
      this.#setCounters.run(this.incarnation, this.#nextOp, this.#nextIno)
      this.#commit.run()
      this.#begin.run()
      this.#changed = false
      this.#commits++
      if (this.#opaque || !isRedone) this.#opaqueCommit = this.#commits
      this.#opaque = false
      this.#due = false
      this.#redoneOps = this.#redoneBytes = 0
      this.#syncTimer ??= this.#isLive ? this.#soon(() => this.#settleLater()) : this.#timers.after(SYNC_AFTER_MS, () => this.#settleLater())
      this.onCommit(seq)
    } catch (e) {
      this.stop(e as Error)
      throw e
    }
  }

  /**
   * Resolves when everything appended so far survives power loss. `alone`: the
   * caller knows of nobody else who would wait for this thread; then, on a disk
   * that answers quickly, it is synced right here, which saves two wake-ups.
   */
  durable(alone = false): Promise<void> {
    if (this.#held) return this.#held.over.then(() => this.durable(alone))
    if (this.#syncing === null) return alone && this.#syncMs < QUICK_SYNC_MS ? this.#now() : this.#round()
    // A sync is under way and may have started before our commit: share the round after it.
    return (this.#queued ??= this.#syncing.catch(() => {}).then(() => {
      this.#queued = null
      return this.#round()
    }))
  }

  async #now(): Promise<void> {
    const way = this.#prepare()
    if (way === 'nothing') return
    const start = this.#timers.nowMs()
    try {
      if (way === 'redo') this.#redo!.writeNow()
      else {
        this.#synced()
        const heads = this.#log.heads()
        this.#db.syncWalNow()
        this.#durableCommit = this.#commits
        this.onDurable(heads)
      }
    } catch (e) {
      this.stop(e as Error)
      throw e
    }
    this.#took(this.#timers.nowMs() - start)
  }

  #round(): Promise<void> {
    let way: 'nothing' | 'redo' | 'commit'
    try { way = this.#prepare() } catch (e) { return Promise.reject(e) }
    if (way === 'nothing') return Promise.resolve()
    const start = this.#timers.nowMs()
    const round = (way === 'redo' ? this.#redo!.write() : this.#syncWal()).then(() => this.#took(this.#timers.nowMs() - start), (e: Error) => {
      this.stop(e)
      throw e
    })
    this.#syncing = round
    const done = () => { if (this.#syncing === round) this.#syncing = null }
    round.then(done, done)
    return round
  }

  /** What makes everything so far durable: nothing, writing the record that is prepared now, or a sync of the commit made now. */
  #prepare(): 'nothing' | 'redo' | 'commit' {
    this.check()
    if (!this.#opaque && this.#opaqueCommit <= this.#durableCommit) {
      if (this.#redoneOps === this.#opCount) return 'nothing'
      if (this.#record()) return 'redo'
    }
    if (this.#redo === null && this.#redoPath !== null) this.#openRedo(this.#redoPath)
    this.commit()
    return 'commit'
  }

  /** Whether what the redo file lacks fits into it, and is prepared. */
  #record(): boolean {
    if (this.#redo === null || this.#placed === null) return false
    const room = this.#redo.prepare({
      firstOp: this.#firstOp + this.#redoneOps, opCount: this.#opCount - this.#redoneOps, ops: this.#ops.since(this.#redoneBytes),
      table: this.#table, chunks: this.#placed,
    }, this.#commits + 1, this.#durableCommit)
    if (room === 'none') return false
    this.#redoneOps = this.#opCount
    this.#redoneBytes = this.#ops.length
    this.#placed = []
    this.#placedBytes = 0
    if (room === 'turned') this.#due = true
    // After the reply; and only when it would not take along what the redo file lacks.
    if (this.#due) this.#timers.soon(() => { if (this.#due && !this.#stopped && !this.#opaque && this.#redoneOps === this.#opCount) this.settle().catch(() => {}) })
    return true
  }

  /** Commits, and makes that durable off the loop, whatever the redo file has. */
  settle(): Promise<void> {
    try { this.commit() } catch (e) { return Promise.reject(e) }
    return this.#syncWal().catch((e: Error) => {
      this.stop(e)
      throw e
    })
  }

  /**
   * As `durable`, but in entries, as others get them: gives the last one of our log. Calls that come while the log is
   * synced share the next round.
   */
  entered(): Promise<EntryPlace> {
    if (this.#held) return this.#held.over.then(() => this.entered())
    if (this.#entering === null) return this.#enter()
    return (this.#enteringNext ??= this.#entering.catch(() => {}).then(() => {
      this.#enteringNext = null
      return this.entered()
    }))
  }

  #enter(): Promise<EntryPlace> {
    try { this.commit() } catch (e) { return Promise.reject(e) }
    const place = { log: this.#incarnation, seq: this.#log.head(this.#incarnation).seq }
    if (this.#commits <= this.#durableCommit) return Promise.resolve(place)
    const round = this.settle().then(() => place)
    this.#entering = round
    const done = () => { if (this.#entering === round) this.#entering = null }
    round.then(done, done)
    return round
  }

  #settleLater(): void {
    this.#syncTimer = null
    this.settle().catch(() => { /* stopped; every caller learns from check() */ })
  }

  /** With what waits on the loop done first; no timer is as soon. Gives what cancels it. */
  #soon(run: () => void): () => void {
    let isDue = true
    this.#timers.soon(() => { if (isDue) run() })
    return () => { isDue = false }
  }

  #syncWal(): Promise<void> {
    this.#synced()
    const commit = this.#commits
    const heads = this.#log.heads()
    return this.#db.syncWal().then(() => {
      if (commit < this.#durableCommit) return
      this.#durableCommit = commit
      this.onDurable(heads)
    })
  }

  /** A sync begins that covers every commit so far. */
  #synced(): void {
    this.#syncTimer?.()
    this.#syncTimer = null
  }

  /** Slow ones count at once, quick ones bit by bit. */
  #took(ms: number): void {
    this.#syncMs = ms > this.#syncMs ? ms : this.#syncMs * 0.8 + ms * 0.2
  }

  // --- another incarnation ------------------------------------------------

  /**
   * No entry is made from here on, until `release`. Gives the ops of the open batch, which the caller takes back;
   * the first one's counter is `first`.
   */
  hold(): { ops: Op[]; first: number } {
    this.check()
    if (this.#held) throw new Error('invariant: the journal is held already')
    let end!: () => void
    this.#held = { over: new Promise((resolve) => { end = resolve }), end }
    const first = this.#opCount > 0 ? this.#firstOp : this.#nextOp
    const r = new Reader(this.#ops.take())
    const codec: InodeCodec = { outgoing: () => { throw new Error('reading') }, incoming: (i) => this.#table[i]! }
    const ops: Op[] = []
    while (ops.length < this.#opCount) ops.push(decodeOp(r, codec))
    this.#ops.reset()
    this.#opCount = 0
    this.#nextOp = first
    this.#chunks = []
    this.#placed = []
    this.#placedBytes = this.#redoneOps = this.#redoneBytes = 0
    this.#table = [this.#incarnation]
    // What it has of them is not what will be.
    this.#redo?.close()
    this.#redo = null
    this.#opaque = true
    this.#change()
    return { ops, first }
  }

  get isHeld(): boolean { return this.#held !== null }

  /** Entries are made again, by `incarnation` (a local index; a new one's log is empty). */
  release(incarnation: number): void {
    if (incarnation !== this.#incarnation) {
      this.#incarnation = incarnation
      this.#nextOp = this.#nextIno = 1
      this.#table = [incarnation]
      this.#opaque = true
      this.#change()
    }
    const held = this.#held
    this.#held = null
    // When what was taken back is in again.
    if (held) this.#timers.soon(held.end)
  }

  // --- redo -----------------------------------------------------------------

  #redoOwner() {
    return { sealer: this.#sealer, drive: this.#drive, incarnation: this.#log.incarnationId(this.incarnation) }
  }

  /**
   * Once, before anything else: applies what the redo file at `path` has and the index has not, and uses the file from
   * then on. `apply` applies an op of our own with its id. STORE_DAMAGED if one is refused that was not.
   */
  recover(path: string, apply: (op: Op, id: number) => string): void {
    this.#redoPath = path
    const session = this.#db.getMeta('redo_session') as Buffer | undefined
    if (!session) return
    let redone = 0
    for (const record of readRedo(path, session, this.#redoOwner())) {
      if (record.firstOp < this.#nextOp) continue
      if (record.firstOp > this.#nextOp) {
        process.emitWarning(`${path}: ops ${this.#nextOp} to ${record.firstOp - 1} are damaged; what followed the last good commit is lost`)
        break
      }
      for (const op of record.ops) {
        const outcome = apply(op, this.newOpId())
        if (outcome !== '') throw fail('STORE_DAMAGED', `the redo file ${path} does not fit the index (${op.type}: ${outcome}); restore the store from a copy`)
        if (op.type === 'create' && Math.floor(op.ino / INO_HIGH) === this.incarnation) this.#nextIno = Math.max(this.#nextIno, op.ino % INO_HIGH + 1)
        this.append(op)
        redone++
      }
    }
    if (redone === 0) return
    this.commit()
    this.#synced()
    this.#db.syncWalNow()
  }

  /** The records of this session bear its number, which the commit to come makes known. */
  #openRedo(path: string): void {
    const session = randomBytes(SESSION_BYTES)
    this.#redoPath = null
    try {
      this.#redo = RedoFile.open(path, session, this.#redoOwner()) ?? null
    } catch (e) {
      // Without it every fsync is a commit, as sound and slower.
      process.emitWarning(`${path}: ${(e as Error).message}`)
    }
    if (this.#redo === null) return
    this.#db.setMeta('redo_session', session)
    this.touched()
  }

  /** Commits, lets `work` run with no transaction open (a checkpoint), and starts the next. */
  between(work: () => void): void {
    this.commit()
    this.#commit.run()
    try { work() } finally { this.#begin.run() }
  }

  stop(e: Error): void {
    if (this.#stopped) return
    this.#stopped = e
    this.#synced()
    this.#timer?.()
    this.#timer = null
    this.onStop(e)
  }

  /** The last commit; the connection is left without a transaction. */
  close(): void {
    if (!this.#stopped) {
      this.commit()
      this.#commit.run()
      this.#stopped = new Error('closed')
    }
    this.#redo?.close()
    this.#synced()
    this.#timer?.()
    this.#timer = null
  }

  #writeEntry(): number {
    const head = this.#log.head(this.incarnation)
    const clockMs = Math.floor(this.#clock.nowMs())
    const first = this.#opCount > 0 ? this.#firstOp : this.#nextOp
    const context = this.contextOf().map(([inc, seq]): [number, number] => [this.#codec.outgoing(inc), seq])
    const own = this.#log.incarnationId(this.incarnation)
    const sealed = this.#sealer.sealOps(this.#ops.take(), entryAad(this.#drive, own, head.seq + 1))
    const header = encodeHeader({
      drive: this.#drive,
      incarnation: own,
      seq: head.seq + 1,
      previous: head.hash,
      clockMs,
      firstOp: first,
      opCount: this.#opCount,
      incarnations: this.#table.map((i) => this.#log.incarnationId(i)),
      context,
      chunks: this.#chunks,
      opsHash: hashOf(sealed),
    })
    this.#log.append(this.incarnation, head.seq + 1, header, this.#sealer.sign(header), sealed)
    const count = this.#opCount
    this.#isForced = false
    this.#ops.reset()
    this.#opCount = 0
    this.#chunks = []
    this.#placed = []
    this.#placedBytes = 0
    this.#table = [this.incarnation]
    // Half as hysteresis: truncation scans the sizes.
    this.onEntry({ seq: head.seq + 1, clockMs, first, count })
    if (this.canTruncate && this.#log.head(this.incarnation).bytes > KEEP_LOG_BYTES * 1.5) this.#log.truncate(this.incarnation, KEEP_LOG_BYTES)
    return head.seq + 1
  }
}
