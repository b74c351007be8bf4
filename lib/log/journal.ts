/**
 * Group commit. Ops enter one SQLite transaction that stays open across them;
 * a commit closes the batch into one signed entry, writes it in the same
 * transaction, and starts the next.
 *
 * Durability (DESIGN 5): COMMIT does not sync. `durable()` commits and then
 * fdatasyncs the WAL off the loop; calls that arrive meanwhile share the next
 * round. A failed sync or commit is never retried: the journal stops, and every
 * later call fails.
 */
import { fail } from '../errors.js'
import type { Clock } from '../clock.js'
import type { Database } from '../store/database.js'
import { Writer } from './codec.js'
import { encodeHeader, entryAad, hashOf } from './entry.js'
import type { EntrySealer, Log } from './log.js'
import { encodeOp, INO_HIGH, type InodeCodec, type Op } from './ops.js'

/** A commit comes at the latest this long after the first change in it. */
const COMMIT_AFTER_MS = 1000
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
  readonly #drive: Buffer
  /** Local index of our own incarnation. */
  readonly incarnation: number

  readonly #ops = new Writer(65536)
  #opCount = 0
  #firstOp = 0
  #chunks: Buffer[] = []
  #table: number[] = []
  #codec: InodeCodec

  #nextOp: number
  #nextIno: number
  #changed = false
  #timer: NodeJS.Timeout | null = null
  #syncTimer: NodeJS.Timeout | null = null
  #syncing: Promise<void> | null = null
  #queued: Promise<void> | null = null
  #stopped: Error | null = null
  /** What a sync of the log took lately, milliseconds. */
  #syncMs = 0

  readonly #begin
  readonly #commit
  readonly #setCounters
  /** Called after each commit, with its entry's seq (0: none). */
  onCommit: (seq: number) => void = () => {}
  onStop: (e: Error) => void = () => {}
  beforeCommit: () => void = () => {}

  constructor(o: { db: Database; rows: WrittenBehind; log: Log; sealer: EntrySealer; clock: Clock; drive: Buffer; incarnation: number }) {
    this.#db = o.db
    this.#rows = o.rows
    this.#log = o.log
    this.#sealer = o.sealer
    this.#clock = o.clock
    this.#drive = o.drive
    this.incarnation = o.incarnation
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
    if (this.#opCount === 0) this.#firstOp = this.#nextOp
    encodeOp(this.#ops, op, this.#codec)
    this.#opCount++
    this.#nextOp++
    if (op.type === 'content') for (const c of op.chunks) this.#chunks.push(c.id)
    this.touched()
    if (this.#opCount >= COMMIT_OPS || this.#ops.length >= COMMIT_BYTES) this.commit()
  }

  /** Something in the transaction changed, be it without an op. */
  touched(): void {
    this.#changed = true
    if (this.#timer !== null) return
    this.#timer = setTimeout(() => {
      this.#timer = null
      try { this.commit() } catch { /* stopped; every caller learns from check() */ }
    }, COMMIT_AFTER_MS)
  }

  check(): void {
    if (this.#stopped) throw fail('STORE_STOPPED', `the store has stopped: ${this.#stopped.message}`, this.#stopped)
  }

  /** Ends the batch and commits; does not sync. */
  commit(): void {
    this.check()
    if (this.#timer !== null) {
      clearTimeout(this.#timer)
      this.#timer = null
    }
    if (!this.#changed && this.#rows.dirtyCount === 0) return
    this.beforeCommit()
    try {
      this.#rows.flush()
      const seq = this.#opCount > 0 ? this.#writeEntry() : 0
      this.#setCounters.run(this.incarnation, this.#nextOp, this.#nextIno)
      this.#commit.run()
      this.#begin.run()
      this.#changed = false
      this.#syncTimer ??= setTimeout(() => {
        this.#syncTimer = null
        this.durable().catch(() => { /* stopped; every caller learns from check() */ })
      }, SYNC_AFTER_MS)
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
    if (this.#syncing === null) return alone && this.#syncMs < QUICK_SYNC_MS ? this.#now() : this.#round()
    // A sync is under way and may have started before our commit: share the round after it.
    return (this.#queued ??= this.#syncing.catch(() => {}).then(() => {
      this.#queued = null
      return this.#round()
    }))
  }

  async #now(): Promise<void> {
    this.commit()
    const start = performance.now()
    this.#synced()
    try { this.#db.syncWalNow() } catch (e) {
      this.stop(e as Error)
      throw e
    }
    this.#took(performance.now() - start)
  }

  #round(): Promise<void> {
    try { this.commit() } catch (e) { return Promise.reject(e) }
    this.#synced()
    const start = performance.now()
    const round = this.#db.syncWal().then(() => this.#took(performance.now() - start), (e: Error) => {
      this.stop(e)
      throw e
    })
    this.#syncing = round
    const done = () => { if (this.#syncing === round) this.#syncing = null }
    round.then(done, done)
    return round
  }

  /** A sync begins that covers every commit so far. */
  #synced(): void {
    if (this.#syncTimer) clearTimeout(this.#syncTimer)
    this.#syncTimer = null
  }

  /** Slow ones count at once, quick ones bit by bit. */
  #took(ms: number): void {
    this.#syncMs = ms > this.#syncMs ? ms : this.#syncMs * 0.8 + ms * 0.2
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
    if (this.#timer) clearTimeout(this.#timer)
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
    this.#synced()
    if (this.#timer) clearTimeout(this.#timer)
    this.#timer = null
  }

  #writeEntry(): number {
    const head = this.#log.head(this.incarnation)
    const own = this.#log.incarnationId(this.incarnation)
    const sealed = this.#sealer.sealOps(this.#ops.take(), entryAad(this.#drive, own, head.seq + 1))
    const header = encodeHeader({
      drive: this.#drive,
      incarnation: own,
      seq: head.seq + 1,
      previous: head.hash,
      clockMs: Math.floor(this.#clock.nowMs()),
      firstOp: this.#firstOp,
      opCount: this.#opCount,
      incarnations: this.#table.map((i) => this.#log.incarnationId(i)),
      context: [],
      chunks: this.#chunks,
      opsHash: hashOf(sealed),
    })
    this.#log.append(this.incarnation, head.seq + 1, header, this.#sealer.sign(header), sealed)
    this.#ops.reset()
    this.#opCount = 0
    this.#chunks = []
    this.#table = [this.incarnation]
    // Half as hysteresis: truncation scans the sizes.
    if (this.#log.head(this.incarnation).bytes > KEEP_LOG_BYTES * 1.5) this.#log.truncate(this.incarnation, KEEP_LOG_BYTES)
    return head.seq + 1
  }
}
