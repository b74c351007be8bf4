/**
 * Snapshots on a device that cannot read them: the pieces as they came, the
 * newest that is whole, and one that is on its way.
 *
 * Rows are written in the transaction that the caller keeps open. What was not
 * whole when the last session ended is dropped, and so is one that a newer has
 * replaced, a few pieces at a time, when nobody is given it any more.
 */
import type { Database, Statement } from './database.js'

/** Pieces that are dropped in one go: some megabytes. */
const DROPPED_PIECES = 16

export class SealedSnapshots {
  readonly #db: Database
  readonly #insert: Statement
  readonly #get: Statement
  readonly #nextOf: Statement
  readonly #drop: Statement
  #whole: { num: number; head: Buffer } | null
  #coming: { num: number; pieces: number } | null = null
  #next: number
  /** How many are given each of them just now. */
  readonly #given = new Map<number, number>()

  /** Before a transaction is open. */
  constructor(db: Database) {
    this.#db = db
    db.sql.exec(`CREATE TABLE IF NOT EXISTS snapshot(num INTEGER PRIMARY KEY, head BLOB NOT NULL, named INTEGER NOT NULL);
      CREATE TABLE IF NOT EXISTS snapshot_piece(num INTEGER NOT NULL, n INTEGER NOT NULL, kind INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY(num, n))`)
    this.#insert = db.sql.prepare('INSERT INTO snapshot_piece VALUES (?,?,?,?)') as unknown as Statement
    this.#get = db.sql.prepare('SELECT kind, bytes FROM snapshot_piece WHERE num = ? AND n = ?').raw(true) as unknown as Statement
    this.#nextOf = db.sql.prepare('SELECT min(n) FROM snapshot_piece WHERE num = ? AND n >= ? AND kind = ?').raw(true) as unknown as Statement
    this.#drop = db.sql.prepare(`DELETE FROM snapshot_piece WHERE rowid IN (SELECT rowid FROM snapshot_piece WHERE num = ? LIMIT ${DROPPED_PIECES})`) as unknown as Statement
    this.#whole = (db.sql.prepare('SELECT num, head FROM snapshot ORDER BY num DESC LIMIT 1').get() as { num: number; head: Buffer } | undefined) ?? null
    this.#next = ((db.sql.prepare('SELECT max(num) AS n FROM (SELECT num FROM snapshot UNION SELECT num FROM snapshot_piece)').get() as { n: number | null }).n ?? 0) + 1
  }

  /** The head of the one that is here, signed. */
  get head(): Buffer | undefined { return this.#whole?.head }

  /** Pieces of it whose chunks are known. */
  get named(): number {
    return this.#whole ? (this.#db.sql.prepare('SELECT named FROM snapshot WHERE num = ?').get(this.#whole.num) as { named: number }).named : 0
  }

  set named(pieces: number) { this.#db.sql.prepare('UPDATE snapshot SET named = ? WHERE num = ?').run(pieces, this.#whole!.num) }

  /** Pieces so far of the one that comes. */
  get coming(): number { return this.#coming?.pieces ?? 0 }

  /** One comes; what was on its way is not wanted any more. */
  begin(): void { this.#coming = { num: this.#next++, pieces: 0 } }

  add(kind: number, bytes: Buffer): void {
    const coming = this.#coming!
    this.#insert.run(coming.num, coming.pieces++, kind, bytes)
  }

  abandon(): void { this.#coming = null }

  /** There is none any more. */
  forget(): void {
    this.#db.sql.prepare('DELETE FROM snapshot').run()
    this.#whole = null
  }

  /** What came is whole, and takes the place of the one before. */
  complete(head: Buffer): void {
    const { num } = this.#coming!
    this.#coming = null
    this.#db.sql.prepare('DELETE FROM snapshot').run()
    this.#db.sql.prepare('INSERT INTO snapshot VALUES (?,?,0)').run(num, head)
    this.#whole = { num, head }
  }

  /** The first piece of that kind from `n` on, of the one that is here. */
  nextOf(kind: number, n: number): { n: number; bytes: Buffer } | undefined {
    if (!this.#whole) return undefined
    const [at] = this.#nextOf.get(this.#whole.num, n, kind) as [number | null]
    return at === null ? undefined : { n: at, bytes: this.#pieceOf(this.#whole.num, at)!.bytes }
  }

  #pieceOf(num: number, n: number): { kind: number; bytes: Buffer } | undefined {
    const row = this.#get.get(num, n) as [number, Buffer] | undefined
    return row && { kind: row[0], bytes: row[1] }
  }

  /** Reads the one that is here, which stays until `close`; that may be called twice. */
  reader(): { piece(n: number): { kind: number; bytes: Buffer } | undefined; close(): void } | undefined {
    if (!this.#whole) return undefined
    const { num } = this.#whole
    this.#given.set(num, (this.#given.get(num) ?? 0) + 1)
    let isOpen = true
    return {
      piece: (n) => this.#pieceOf(num, n),
      close: () => {
        if (isOpen) this.#given.set(num, this.#given.get(num)! - 1)
        isOpen = false
      },
    }
  }

  /** Drops some of what nobody needs. False: there is nothing more. */
  sweep(): boolean {
    const nums = this.#db.sql.prepare('SELECT DISTINCT num FROM snapshot_piece').raw(true).all() as [number][]
    const old = nums.find(([num]) => num !== this.#whole?.num && num !== this.#coming?.num && !this.#given.get(num))
    if (!old) return false
    this.#drop.run(old[0])
    return true
  }
}
