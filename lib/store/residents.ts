/**
 * When each chunk was last used here, and which are pinned: what a device that
 * does not keep everything decides by. Kept in the index, so that it survives.
 *
 * `used` is a counter that goes on with each batch of uses, which is as exact as
 * it need be; a chunk that is to be held here has HELD, a pinned chunk has PINNED and the number of the scan that found
 * it. Uses are gathered in memory first, at most MAX_PENDING of them.
 *
 * Invariant, but for what a crash loses: with a cache every chunk in a segment has a row, and of the
 * chunks that are elsewhere only pinned ones have.
 */
import { ELSEWHERE } from './chunks.js'
import type { Database, Statement } from './database.js'

/** Larger than any count of uses. */
export const PINNED = 2 ** 50
/** As large as none: of a chunk that this device is to hold by the plan. */
const HELD = 2 ** 49
/** A use is 60 bytes here and some microseconds in the index. */
const MAX_PENDING = 4096

export interface Resident { num: number; id: Buffer; /** Plaintext bytes. */ len: number; used: number }

export class Residents {
  readonly #db: Database
  readonly #pending = new Set<number>()
  #clock: number
  #scan: number
  readonly #use: Statement
  readonly #pin: Statement
  readonly #coldest: Statement
  readonly #pinned: Statement
  readonly #isPinned: Statement
  readonly #drop: Statement
  readonly #remove: Statement
  readonly #hold: Statement
  readonly #letGo: Statement
  /** Told when there is something to commit. */
  onChange: () => void = () => {}

  constructor(db: Database) {
    this.#db = db
    const { sql } = db
    sql.exec(`CREATE TABLE IF NOT EXISTS chunk_use(num INTEGER PRIMARY KEY, used INTEGER NOT NULL);
      CREATE INDEX IF NOT EXISTS chunk_use_order ON chunk_use(used, num);
      CREATE TABLE IF NOT EXISTS pin(ino INTEGER PRIMARY KEY)`)
    const max = (where: string) => (sql.prepare(`SELECT max(used) AS n FROM chunk_use WHERE ${where}`).get() as { n: number | null }).n
    this.#clock = (max(`used < ${HELD}`) ?? 0) + 1
    this.#scan = (max(`used >= ${PINNED}`) ?? PINNED) - PINNED + 1
    this.#use = sql.prepare(`INSERT INTO chunk_use VALUES (?,?) ON CONFLICT(num) DO UPDATE SET used = excluded.used WHERE used < ${HELD}`)
    this.#pin = sql.prepare('INSERT INTO chunk_use VALUES (?,?) ON CONFLICT(num) DO UPDATE SET used = excluded.used')
    this.#coldest = sql.prepare(`SELECT u.num, c.id, c.len, u.used FROM chunk_use u JOIN chunk c ON c.num = u.num
      WHERE (u.used, u.num) > (?,?) AND u.used < ${HELD} AND c.seg > 0 ORDER BY u.used, u.num LIMIT ?`).raw(true) as Statement
    this.#pinned = sql.prepare(`SELECT u.num, u.used, c.id, c.len, c.seg, c.refs FROM chunk_use u JOIN chunk c ON c.num = u.num
      WHERE (u.used, u.num) > (?,?) AND u.used >= ${PINNED} ORDER BY u.used, u.num LIMIT ?`).raw(true) as Statement
    this.#isPinned = sql.prepare(`SELECT 1 FROM chunk_use WHERE num = ? AND used >= ${PINNED}`)
    this.#hold = sql.prepare(`INSERT INTO chunk_use VALUES (?,${HELD}) ON CONFLICT(num) DO UPDATE SET used = excluded.used WHERE used < ${PINNED}`)
    this.#letGo = sql.prepare(`UPDATE chunk_use SET used = ? WHERE num = ? AND used = ${HELD}`)
    this.#remove = sql.prepare('DELETE FROM chunk_use WHERE num = ?')
    this.#drop = sql.prepare(`DELETE FROM chunk_use WHERE num = ? AND used < ${PINNED}`)
  }

  /** From now on uses count: what is here and has no row goes first. */
  begin(): void {
    this.#db.sql.exec(`DELETE FROM chunk_use WHERE num NOT IN (SELECT num FROM chunk);
      INSERT OR IGNORE INTO chunk_use SELECT num, 0 FROM chunk WHERE seg > 0`)
    this.onChange()
  }

  /** Everything is kept: uses are of no interest. */
  end(): void {
    this.#pending.clear()
    this.#db.sql.exec(`DELETE FROM chunk_use WHERE used < ${PINNED}`)
    this.onChange()
  }

  /** To be held here by the plan, or not any more; for who is pinned that says nothing. */
  held(num: number, isMine: boolean): void {
    if (!isMine) {
      // A use that waits stays: it may be all that is known of the chunk.
      this.#letGo.run(this.#clock, num)
      return
    }
    this.#pending.delete(num)
    this.#hold.run(num)
  }

  // --- uses ---

  used(num: number): void {
    if (this.#pending.has(num)) return
    this.#pending.add(num)
    if (this.#pending.size >= MAX_PENDING) this.flush()
  }

  flush(): void {
    if (this.#pending.size === 0) return
    this.#clock++
    for (const num of this.#pending) this.#use.run(num, this.#clock)
    this.#pending.clear()
    this.onChange()
  }

  /** Chunks in segments that were not used for longest, behind `after`. */
  coldest(after: { used: number; num: number }, limit: number): Resident[] {
    return (this.#coldest.all(after.used, after.num, limit) as [number, Buffer, number, number][]).map(([num, id, len, used]) => ({ num, id, len, used }))
  }

  /** Nothing is left that could go. */
  get isEmpty(): boolean { return this.#pending.size === 0 && this.coldest({ used: -1, num: 0 }, 1).length === 0 }

  /** It is not here any more. */
  gone(num: number): void {
    this.#pending.delete(num)
    this.#drop.run(num)
  }

  /** There is no such chunk any more. */
  removed(num: number): void {
    this.#pending.delete(num)
    this.#remove.run(num)
  }

  // --- pins ---

  pins(): number[] {
    return this.#db.sql.prepare('SELECT ino FROM pin ORDER BY ino').pluck().all() as number[]
  }

  /** False: it was already (or was not). */
  setPin(ino: number, isPinned: boolean): boolean {
    const { changes } = this.#db.sql.prepare(isPinned ? 'INSERT OR IGNORE INTO pin VALUES (?)' : 'DELETE FROM pin WHERE ino = ?').run(ino)
    if (changes > 0) this.onChange()
    return changes > 0
  }

  /** A new look at which chunks are pinned: all are named with `pinned`, then `endScan`. */
  beginScan(): void { this.#scan++ }

  pinned(num: number): void { this.#pin.run(num, PINNED + this.#scan) }

  /** What was not named is not pinned any more. */
  endScan(): void {
    const { sql } = this.#db
    const before = PINNED + this.#scan
    sql.prepare(`DELETE FROM chunk_use WHERE used >= ${PINNED} AND used < ? AND num NOT IN (SELECT num FROM chunk WHERE seg > 0)`).run(before)
    sql.prepare(`UPDATE chunk_use SET used = ? WHERE used >= ${PINNED} AND used < ?`).run(++this.#clock, before)
    this.onChange()
  }

  isPinned(num: number): boolean { return this.#isPinned.get(num) !== undefined }

  /** Pinned chunks behind `after`, wherever they are. */
  pinnedFrom(after: { used: number; num: number }, limit: number): (Resident & { isElsewhere: boolean; refs: number })[] {
    return (this.#pinned.all(after.used, after.num, limit) as [number, number, Buffer, number, number, number][])
      .map(([num, used, id, len, seg, refs]) => ({ num, used, id, len, isElsewhere: seg === ELSEWHERE, refs }))
  }
}
