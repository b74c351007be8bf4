/**
 * Chunks whose sealed bytes here were found damaged, or could not be read. Kept in
 * the index: a finding outlives the session, until other bytes have come in their
 * place, the same were found sound after all (a read that failed once), or the
 * chunk is gone. The row of a marked chunk keeps its place: of its pieces most may
 * be sound, and nothing is given up on the word of one read.
 *
 * In memory, 20 bytes each: a disk that has lost a million chunks (128 GB) costs 20 MB.
 */
import type { Database } from './database.js'

export class BadChunks {
  readonly #db: Database
  readonly #marked = new Set<number>()
  /** Not in the index yet: whether it is marked. */
  readonly #unwritten = new Map<number, boolean>()
  /** Told of those that were not known to be bad. */
  onFound: (num: number) => void = () => {}
  /** Told when other bytes came in place of the bad ones. */
  onMended: (num: number) => void = () => {}
  /** Told when there is something to commit. */
  onChange: () => void = () => {}

  constructor(db: Database) {
    this.#db = db
    db.sql.exec('CREATE TABLE IF NOT EXISTS chunk_bad(num INTEGER PRIMARY KEY)')
    for (const num of db.sql.prepare('SELECT num FROM chunk_bad').pluck().iterate() as Iterable<number>) this.#marked.add(num)
  }

  get size(): number { return this.#marked.size }
  has(num: number): boolean { return this.#marked.has(num) }
  [Symbol.iterator](): IterableIterator<number> { return this.#marked.values() }

  add(num: number): void {
    if (this.#marked.has(num)) return
    this.#mark(num, true)
    this.onFound(num)
  }

  /** Its bytes are sound after all, or it is not here any more. False: it was not marked. */
  delete(num: number): boolean {
    if (!this.#marked.has(num)) return false
    this.#mark(num, false)
    return true
  }

  /** Other bytes have come. */
  mended(num: number): void {
    if (this.delete(num)) this.onMended(num)
  }

  #mark(num: number, isBad: boolean): void {
    if (isBad) this.#marked.add(num)
    else this.#marked.delete(num)
    this.#unwritten.set(num, isBad)
    this.onChange()
  }

  /** Before each commit. Gives those that were marked, or are not any more. */
  flush(): number[] {
    if (this.#unwritten.size === 0) return []
    const put = this.#db.sql.prepare('INSERT OR IGNORE INTO chunk_bad VALUES (?)')
    const drop = this.#db.sql.prepare('DELETE FROM chunk_bad WHERE num = ?')
    for (const [num, isBad] of this.#unwritten) (isBad ? put : drop).run(num)
    const changed = [...this.#unwritten.keys()]
    this.#unwritten.clear()
    return changed
  }
}
