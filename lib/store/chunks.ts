/**
 * The chunk table: which chunks are known, where their sealed bytes lie, and how
 * many extents refer to each.
 *
 * Invariant: a row says of a chunk that its sealed bytes are durable in a
 * segment, or inline in the same transaction, or not here (ELSEWHERE). `refs` equals the number of
 * extents that name the chunk once `flush` ran (before each commit); between
 * commits the differences are gathered here, since a run of random writes
 * changes one chunk's count many times.
 */
import { sealedLength } from '../seal/chunk.js'
import { BadChunks } from './bad.js'
import type { Database, Statement } from './database.js'

/** In place of a segment: the chunk is known, and its bytes must be fetched (file/fetch.ts). */
export const ELSEWHERE = -1

export interface ChunkRow {
  num: number
  /** Plaintext bytes. */
  len: number
  /** Segment number; 0 = inline; ELSEWHERE. */
  seg: number
  /** Of the sealed bytes in the segment. */
  off: number
  h: Buffer
}

export interface NewChunk {
  id: Buffer
  h: Buffer
  len: number
  /** In a segment... */
  seg: number
  off: number
  /** ...or inline: the sealed bytes. */
  data?: Buffer
}

export class ChunkTable {
  /** Chunks that were found damaged: not to be deduplicated against, nor said to be here. */
  readonly bad: BadChunks
  readonly #db: Database
  #byId: Statement | undefined
  #elsewhere: Statement | undefined
  #countElsewhere: Statement | undefined
  #scan: Statement | undefined
  #mark: Statement | undefined
  #next: number
  readonly #deltas = new Map<number, number>()
  readonly #watches = new Set<Set<number>>()
  readonly #byH: Statement
  readonly #byNum: Statement
  readonly #insert: Statement
  readonly #insertInline: Statement
  readonly #inline: Statement
  readonly #idOf: Statement
  readonly #addRefs: Statement
  readonly #remove: Statement
  readonly #removeInline: Statement
  readonly #move: Statement

  constructor(db: Database) {
    const sql = db.sql
    this.#db = db
    this.bad = new BadChunks(db)
    this.#next = ((sql.prepare('SELECT max(num) AS n FROM chunk').get() as { n: number | null }).n ?? 0) + 1
    this.#byH = sql.prepare('SELECT num, h FROM chunk WHERE h48 = ?').raw(true) as Statement
    this.#byNum = sql.prepare('SELECT len, seg, off, h FROM chunk WHERE num = ?').raw(true) as Statement
    this.#insert = sql.prepare('INSERT INTO chunk(num, h48, len, refs, seg, off, id, h) VALUES (?,?,?,1,?,?,?,?)')
    this.#insertInline = sql.prepare('INSERT INTO chunk_inline VALUES (?,?)')
    this.#inline = sql.prepare('SELECT data FROM chunk_inline WHERE num = ?').raw(true) as Statement
    this.#idOf = sql.prepare('SELECT id, h, len, refs FROM chunk WHERE num = ?').raw(true) as Statement
    this.#addRefs = sql.prepare('UPDATE chunk SET refs = refs + ? WHERE num = ?')
    this.#remove = sql.prepare('DELETE FROM chunk WHERE num = ?')
    this.#removeInline = sql.prepare('DELETE FROM chunk_inline WHERE num = ?')
    this.#move = sql.prepare('UPDATE chunk SET seg = ?, off = ? WHERE num = ?')
  }

  /** Number of the chunk whose plaintext has the keyed hash `h`; 0 if there is none. */
  findByHash(h: Buffer): number {
    for (const row of this.#byH.all(h.readUIntBE(0, 6)) as [number, Buffer][]) if (row[1].equals(h)) return row[0]
    return 0
  }

  /** Makes chunks findable by their id, and those that are elsewhere countable: what a drive of several devices needs. */
  indexIds(): void {
    this.#db.sql.exec(`CREATE INDEX IF NOT EXISTS chunk_id ON chunk(substr(id,1,8)); CREATE INDEX IF NOT EXISTS chunk_elsewhere ON chunk(num) WHERE seg = ${ELSEWHERE}`)
    this.#byId ??= this.#db.sql.prepare('SELECT num, id FROM chunk WHERE substr(id,1,8) = ?').raw(true) as Statement
    this.#elsewhere ??= this.#db.sql.prepare(`SELECT num, id, len, refs FROM chunk WHERE seg = ${ELSEWHERE} AND num > ? ORDER BY num LIMIT ?`).raw(true) as Statement
  }

  /** Number of the chunk with this id; 0 if it is not known. After indexIds. */
  findById(id: Buffer): number {
    for (const row of (this.#byId?.all(id.subarray(0, 8)) ?? []) as [number, Buffer][]) if (row[1].equals(id)) return row[0]
    return 0
  }

  /** Whether nothing refers to the chunk with this id, or it is not known. After indexIds; before, of none can it be said. */
  isUnused(id: Buffer): boolean {
    if (!this.#byId) return false
    const num = this.findById(id)
    return num === 0 || this.identity(num)!.refs <= 0
  }

  /** Chunks from `num` on that are not here. */
  elsewhere(num: number, limit: number): { num: number; id: Buffer; len: number; refs: number }[] {
    return ((this.#elsewhere?.all(num, limit) ?? []) as [number, Buffer, number, number][]).map((r) => ({ num: r[0], id: r[1], len: r[2], refs: r[3] }))
  }

  /** Chunks behind `num`, in the order of their numbers, dead ones too. */
  scan(num: number, limit: number): { num: number; id: Buffer; len: number; seg: number; refs: number }[] {
    this.#scan ??= this.#db.sql.prepare('SELECT num, id, len, seg, refs FROM chunk WHERE num > ? ORDER BY num LIMIT ?').raw(true) as Statement
    return (this.#scan.all(num, limit) as [number, Buffer, number, number, number][]).map((r) => ({ num: r[0], id: r[1], len: r[2], seg: r[3], refs: r[4] }))
  }

  /** Where nothing is counted, since nothing can be read: marks that nobody needs a chunk, or takes that back. False: it was so. */
  mark(num: number, isDead: boolean): boolean {
    this.#mark ??= this.#db.sql.prepare('UPDATE chunk SET refs = ? WHERE num = ? AND refs <> ?')
    const refs = isDead ? 0 : 1
    return this.#mark.run(refs, num, refs).changes > 0
  }

  /** Those behind `num` that nobody needs, in the order of their numbers. */
  dead(num: number, limit: number): { num: number; id: Buffer }[] {
    return this.#db.sql.prepare('SELECT num, id FROM chunk WHERE refs = 0 AND num > ? ORDER BY num LIMIT ?').all(num, limit) as { num: number; id: Buffer }[]
  }

  get deadCount(): number { return this.#db.sql.prepare('SELECT count(*) FROM chunk WHERE refs = 0').pluck().get() as number }

  /** The greatest number; 0: there is none. */
  get last(): number { return this.#next - 1 }

  /** Damaged ones that are not dead. */
  damaged(): number[] {
    return [...this.bad].filter((num) => (this.identity(num)?.refs ?? 0) > 0)
  }

  /** How many are not here, or damaged; dead ones that are still to be dropped among them. Cheap: counts an index. */
  get lackedCount(): number {
    this.#countElsewhere ??= this.#db.sql.prepare(`SELECT count(*) FROM chunk WHERE seg = ${ELSEWHERE}`).pluck()
    return (this.#countElsewhere.get() as number) + this.bad.size
  }

  /** Some that are not here, or damaged, and not dead. */
  lacking(limit: number): { id: Buffer; len: number }[] {
    const rows = this.#db.sql.prepare(`SELECT id, len FROM chunk WHERE seg = ${ELSEWHERE} AND refs > 0 LIMIT ?`).all(limit) as { id: Buffer; len: number }[]
    return [...rows, ...this.damaged().slice(0, limit - rows.length).map((num) => this.identity(num)!)]
  }

  get(num: number): ChunkRow | undefined {
    const row = this.#byNum.get(num) as [number, number, number, Buffer] | undefined
    return row && { num, len: row[0], seg: row[1], off: row[2], h: row[3] }
  }

  /** Whether the sealed bytes of a chunk can be expected where the row says. */
  isThere(num: number, store: { holds(segment: number, offset: number, length: number): boolean }): boolean {
    const row = this.get(num)
    if (!row || this.bad.has(num)) return false
    return row.seg === 0 || store.holds(row.seg, row.off, sealedLength(row.len))
  }

  identity(num: number): { id: Buffer; h: Buffer; len: number; refs: number } | undefined {
    const row = this.#idOf.get(num) as [Buffer, Buffer, number, number] | undefined
    return row && { id: row[0], h: row[1], len: row[2], refs: row[3] + (this.#deltas.get(num) ?? 0) }
  }

  /** The sealed bytes of an inline chunk. */
  inlineData(num: number): Buffer | undefined {
    return (this.#inline.get(num) as [Buffer] | undefined)?.[0]
  }

  /** Adds a chunk; its refs follow from the extents. */
  add(chunk: NewChunk): number {
    const num = this.#next++
    this.#insert.run(num, chunk.h.readUIntBE(0, 6), chunk.len, chunk.seg, chunk.off, chunk.id, chunk.h)
    if (chunk.data) this.#insertInline.run(num, chunk.data)
    else if (chunk.seg > 0) this.onHere(num)
    else if (chunk.seg === ELSEWHERE) this.keeping?.named(num, chunk.id)
    // The row counts one, which the extent to come makes true: no second write, nor a visit to the index of the dead.
    this.#deltas.set(num, -1)
    return num
  }

  /** Notes the chunks that something comes to name from now on, until `stop`. */
  watch(): { named: ReadonlySet<number>; stop(): void } {
    const named = new Set<number>()
    this.#watches.add(named)
    return { named, stop: () => void this.#watches.delete(named) }
  }

  /** An extent that names `num` came (+1) or went (-1). */
  ref(num: number, delta: number): void {
    if (delta > 0) for (const named of this.#watches) named.add(num)
    this.#deltas.set(num, (this.#deltas.get(num) ?? 0) + delta)
  }

  /** Before each commit. */
  flush(): void {
    for (const num of this.bad.flush()) this.#follow(num)
    if (this.#deltas.size === 0) return
    for (const [num, delta] of this.#deltas) if (delta !== 0) this.#addRefs.run(delta, num)
    this.#deltas.clear()
  }

  /** A chunk that is damaged is lacked like one that is elsewhere. */
  #follow(num: number): void {
    if (!this.keeping) return
    const row = this.get(num)
    if (!row) return
    if (this.bad.has(num)) this.keeping.named(num, this.identity(num)!.id)
    else if (row.seg !== ELSEWHERE) this.keeping.came(num)
  }

  /** Follows which chunks are elsewhere or damaged that are to be here (placement/keeping.ts). */
  keeping: { named(num: number, id: Buffer): void; came(num: number): void } | null = null

  /** Told of chunks that lie in a segment now. */
  onHere: (num: number) => void = () => {}

  /** Told of chunks that are no more. */
  onRemoved: (num: number) => void = () => {}

  /** Told when sealed bytes have moved. */
  onMove: () => void = () => {}

  /** Other sealed bytes came (seg > 0), or they went (ELSEWHERE). */
  move(num: number, seg: number, off: number): void {
    this.bad.mended(num)
    this.relocate(num, seg, off)
  }

  /** The same sealed bytes lie elsewhere in the store now (compaction, from inline into a segment), damaged or not. */
  relocate(num: number, seg: number, off: number): void {
    this.onMove()
    this.#move.run(seg, off, num)
    this.#removeInline.run(num)
    if (this.bad.has(num)) return
    if (seg !== ELSEWHERE) this.keeping?.came(num)
    else if (this.keeping) {
      const known = this.identity(num)
      if (known) this.keeping.named(num, known.id)
    }
  }

  /** The sealed bytes, which were lost or not here, came as small content. */
  moveInline(num: number, data: Buffer): void {
    this.move(num, 0, 0)
    this.#insertInline.run(num, data)
  }

  /** Its plaintext bytes, where they were not known (0): on a device that cannot read. */
  setLength(num: number, len: number): void {
    this.#db.sql.prepare('UPDATE chunk SET len = ? WHERE num = ?').run(len, num)
  }

  remove(num: number): void {
    this.keeping?.came(num)
    this.bad.delete(num)
    this.#remove.run(num)
    this.#removeInline.run(num)
    this.onRemoved(num)
  }
}
