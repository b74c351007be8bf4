/**
 * Of how many copies there are to be of each chunk for which a directory wants other than
 * the drive does (docs/decisions/028-factor-per-directory.md). By the chunk's id, so that a
 * device which cannot read the tree can keep it too, of chunks it has not heard of yet.
 */
import type { Database, Statement } from './database.js'

/** What directories want of a chunk. */
export interface ChunkFactor {
  /** The most that a directory wants of a file that it is in. */
  copies: number
  /** It is in files of no such directory too: no fewer copies than the drive wants. */
  isPlain: boolean
}

/** By the first byte of the id: two tables are compared by their buckets. */
export const FACTOR_BUCKETS = 256
const HASH_BYTES = 8
const PLAIN = 0x80

export class FactorTable {
  readonly #db: Database
  #size: number
  /** Of each bucket, whatever the order in which it was filled; once somebody has compared, for that looks at all of it. */
  #hashes: Buffer | undefined
  readonly #get: Statement
  readonly #put: Statement
  readonly #delete: Statement
  readonly #from: Statement
  readonly #watching = new Set<Set<string>>()
  /** Told after a chunk's factor has changed. */
  onChange: (id: Buffer) => void = () => {}

  constructor(db: Database) {
    this.#db = db
    const { sql } = db
    sql.exec('CREATE TABLE IF NOT EXISTS chunk_factor(id BLOB PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID')
    this.#get = sql.prepare('SELECT value FROM chunk_factor WHERE id = ?').pluck() as unknown as Statement
    this.#put = sql.prepare('INSERT OR REPLACE INTO chunk_factor VALUES (?,?)') as unknown as Statement
    this.#delete = sql.prepare('DELETE FROM chunk_factor WHERE id = ?') as unknown as Statement
    this.#from = sql.prepare('SELECT id, value FROM chunk_factor WHERE id > ? ORDER BY id LIMIT ?').raw(true) as unknown as Statement
    this.#size = sql.prepare('SELECT count(*) FROM chunk_factor').pluck().get() as number
  }

  get size(): number { return this.#size }

  /** undefined: as many as the drive wants. */
  of(id: Buffer): ChunkFactor | undefined {
    const value = this.#value(id)
    return value === undefined ? undefined : factorOf(value)
  }

  #value(id: Buffer): number | undefined { return this.#size === 0 ? undefined : this.#get.get(id) as unknown as number | undefined }

  /** False: it was so. */
  set(id: Buffer, factor: ChunkFactor | undefined): boolean {
    const was = this.#value(id)
    const value = factor && valueOf(factor)
    if (was === value) return false
    if (was !== undefined) this.#mix(id, was)
    if (value === undefined) this.#delete.run(id)
    else {
      this.#put.run(id, value)
      this.#mix(id, value)
    }
    this.#size += Number(value !== undefined) - Number(was !== undefined)
    for (const changed of this.#watching) changed.add(id.toString('latin1'))
    this.onChange(id)
    return true
  }

  /** Notes those that change from now on, by their ids as latin1. */
  watch(): { changed: ReadonlySet<string>; stop(): void } {
    const changed = new Set<string>()
    this.#watching.add(changed)
    return { changed, stop: () => this.#watching.delete(changed) }
  }

  /** Those behind `id`, by their ids. */
  from(id: Buffer, limit: number): { id: Buffer; factor: ChunkFactor }[] {
    return (this.#from.all(id, limit) as unknown as [Buffer, number][]).map(([of, value]) => ({ id: of, factor: factorOf(value) }))
  }

  // --- compared with another's ------------------------------------------------

  /** FACTOR_BUCKETS times 8 bytes. */
  hashes(): Buffer { return Buffer.from(this.#known()) }

  #known(): Buffer {
    if (this.#hashes) return this.#hashes
    this.#hashes = Buffer.alloc(FACTOR_BUCKETS * HASH_BYTES)
    for (const [id, value] of this.#db.sql.prepare('SELECT id, value FROM chunk_factor').raw(true).iterate() as Iterable<[Buffer, number]>) this.#mix(id, value)
    return this.#hashes
  }

  /** Buckets of which another, with these hashes, has something else. */
  differing(hashes: Buffer): number[] {
    const out: number[] = []
    const known = this.#known()
    for (let b = 0; b < FACTOR_BUCKETS; b++) if (known.compare(hashes, b * HASH_BYTES, (b + 1) * HASH_BYTES, b * HASH_BYTES, (b + 1) * HASH_BYTES) !== 0) out.push(b)
    return out
  }

  bucket(b: number, limit: number): { id: Buffer; value: number }[] {
    const rows = this.#db.sql.prepare('SELECT id, value FROM chunk_factor WHERE id >= ? AND id < ? ORDER BY id LIMIT ?').raw(true).all(Buffer.from([b]), b === 255 ? Buffer.alloc(33, 255) : Buffer.from([b + 1]), limit) as [Buffer, number][]
    return rows.map(([id, value]) => ({ id, value }))
  }

  /** The bucket is this, and nothing else. */
  setBucket(b: number, all: { id: Buffer; value: number }[]): void {
    const named = new Set(all.map(({ id }) => id.toString('latin1')))
    for (const { id } of this.bucket(b, Number.MAX_SAFE_INTEGER)) if (!named.has(id.toString('latin1'))) this.set(id, undefined)
    for (const { id, value } of all) this.set(id, factorOf(value))
  }

  /** In or out: it is the same. Ids are hashes: some bytes of one are as good as a hash of it. */
  #mix(id: Buffer, value: number): void {
    const hashes = this.#hashes
    if (!hashes) return
    const at = id[0]! * HASH_BYTES
    for (let i = 0; i < HASH_BYTES; i += 4) {
      let x = (id.readUInt32LE(8 + i) ^ Math.imul(value + 1, 0x9e3779b1)) >>> 0
      x = Math.imul(x ^ (x >>> 16), 0x85ebca6b) >>> 0
      hashes.writeUInt32LE((hashes.readUInt32LE(at + i) ^ x ^ (x >>> 13)) >>> 0, at + i)
    }
  }
}

export function valueOf({ copies, isPlain }: ChunkFactor): number { return copies | (isPlain ? PLAIN : 0) }

function factorOf(value: number): ChunkFactor { return { copies: value & ~PLAIN, isPlain: (value & PLAIN) !== 0 } }
