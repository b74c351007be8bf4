/** Chunks that this device is to hold and that are elsewhere, by their placement group: a queue that survives. */
import type { Database, Statement } from './database.js'

export interface LackedChunk { num: number; id: Buffer; /** Plaintext bytes. */ len: number }

export class Lacking {
  readonly #db: Database
  #size: number
  readonly #add: Statement
  readonly #drop: Statement
  readonly #inGroup: Statement
  readonly #one: Statement

  constructor(db: Database) {
    this.#db = db
    const { sql } = db
    sql.exec(`CREATE TABLE IF NOT EXISTS lacking(num INTEGER PRIMARY KEY, grp INTEGER NOT NULL);
      CREATE INDEX IF NOT EXISTS lacking_grp ON lacking(grp, num)`)
    this.#add = sql.prepare('INSERT OR IGNORE INTO lacking VALUES (?,?)')
    this.#drop = sql.prepare('DELETE FROM lacking WHERE num = ?')
    this.#inGroup = sql.prepare('SELECT c.num, c.id, c.len FROM lacking l JOIN chunk c ON c.num = l.num WHERE l.grp = ? AND l.num > ? AND c.refs > 0 ORDER BY l.num LIMIT ?').raw(true) as Statement
    this.#one = sql.prepare('SELECT c.num, c.id, c.len FROM lacking l JOIN chunk c ON c.num = l.num WHERE l.num = ? AND c.refs > 0').raw(true) as Statement
    this.#size = (sql.prepare('SELECT count(*) AS n FROM lacking').get() as { n: number }).n
  }

  /** Dead chunks that are still to be dropped among them. */
  get size(): number { return this.#size }

  /** Those that are not dead. */
  get live(): number {
    return this.#size === 0 ? 0 : this.#size - (this.#db.sql.prepare('SELECT count(*) FROM chunk c JOIN lacking l ON l.num = c.num WHERE c.refs = 0').pluck().get() as number)
  }

  /** False: it was there. */
  add(num: number, group: number): boolean {
    const { changes } = this.#add.run(num, group)
    this.#size += changes
    return changes > 0
  }

  drop(num: number): void {
    if (this.#size > 0) this.#size -= this.#drop.run(num).changes
  }

  clear(): void {
    if (this.#size > 0) this.#db.sql.exec('DELETE FROM lacking')
    this.#size = 0
  }

  /** undefined: it is not lacked any more, or dead. */
  get(num: number): LackedChunk | undefined {
    const row = this.#one.get(num) as Row | undefined
    return row && chunkOf(row)
  }

  /** Live ones behind `num`, in the order of their numbers. */
  inGroup(group: number, num: number, limit: number): LackedChunk[] {
    return (this.#inGroup.all(group, num, limit) as Row[]).map(chunkOf)
  }

  /** Live ones, whichever. */
  some(limit: number): LackedChunk[] {
    if (this.#size === 0) return []
    return (this.#db.sql.prepare('SELECT c.num, c.id, c.len FROM lacking l JOIN chunk c ON c.num = l.num WHERE c.refs > 0 LIMIT ?').raw(true).all(limit) as Row[]).map(chunkOf)
  }

  groups(): number[] {
    return this.#size === 0 ? [] : this.#db.sql.prepare('SELECT DISTINCT grp FROM lacking').pluck().all() as number[]
  }

  /** Live ones, by group. */
  sums(): Map<number, { chunks: number; bytes: number }> {
    if (this.#size === 0) return new Map()
    const rows = this.#db.sql.prepare('SELECT l.grp, count(*), sum(c.len) FROM lacking l JOIN chunk c ON c.num = l.num WHERE c.refs > 0 GROUP BY l.grp').raw(true).all() as Row[]
    return new Map((rows as unknown as [number, number, number][]).map(([group, chunks, bytes]) => [group, { chunks, bytes }]))
  }

  /** Digest of the plan that it was made by; undefined: it was not made to its end. */
  get plan(): Buffer | undefined {
    const kept = this.#db.getMeta('lacking_plan') as Buffer | undefined
    return kept && kept.length > 0 ? kept : undefined
  }

  set plan(digest: Buffer | undefined) { this.#db.setMeta('lacking_plan', digest ?? Buffer.alloc(0)) }
}

type Row = [num: number, id: Buffer, len: number]

function chunkOf([num, id, len]: Row): LackedChunk { return { num, id, len } }
