/**
 * Entries whose place in the order may yet change: the end of the order, with
 * what each entry's device had seen and how to take the entry back.
 *
 * Rows are written in the transaction of the changes that they describe.
 */
import type { Database, Statement } from '../store/database.js'

/** A place in the order: by key, then by the incarnation's id. */
export interface Place { key: number; id: Buffer }

export interface PlacedEntry extends Place {
  /** Local index of the incarnation. */
  inc: number
  seq: number
  /** Counter of the first op's id, and how many there are. */
  first: number
  count: number
}

export class PlacedTable {
  readonly #insert: Statement
  readonly #setUndo: Statement
  readonly #remove: Statement
  readonly #undo: Statement
  readonly #context: Statement
  readonly #all: Statement
  readonly #setSeen: Statement
  readonly #allSeen: Statement

  constructor(db: Database) {
    const p = (text: string) => db.sql.prepare(text).raw(/^SELECT/.test(text)) as Statement
    const w = (text: string) => db.sql.prepare(text) as Statement
    this.#insert = w('INSERT OR REPLACE INTO placed VALUES (?,?,?,?,?,?,?,?)')
    this.#setUndo = w('UPDATE placed SET undo=? WHERE key=? AND id=?')
    this.#remove = w('DELETE FROM placed WHERE key=? AND id=?')
    this.#undo = p('SELECT undo FROM placed WHERE key=? AND id=?')
    this.#context = p('SELECT context FROM placed WHERE key=? AND id=?')
    this.#all = p('SELECT key,id,inc,seq,first,count FROM placed ORDER BY key,id')
    this.#setSeen = w('INSERT OR REPLACE INTO seen VALUES (?,?,?)')
    this.#allSeen = p('SELECT inc,final_op,context FROM seen')
  }

  /** `context`: encoded have vector; `undo`: encodeUndo. */
  put(e: PlacedEntry, context: Buffer, undo: Buffer): void {
    this.#insert.run(e.key, e.id, e.inc, e.seq, e.first, e.count, context, undo)
  }

  setUndo(e: Place, undo: Buffer): void { this.#setUndo.run(undo, e.key, e.id) }

  remove(e: Place): void { this.#remove.run(e.key, e.id) }

  undo(e: Place): Buffer { return (this.#undo.get(e.key, e.id) as [Buffer])[0] }
  context(e: Place): Buffer { return (this.#context.get(e.key, e.id) as [Buffer])[0] }

  /** All, in order. */
  all(): PlacedEntry[] {
    return (this.#all.all() as [number, Buffer, number, number, number, number][]).map(([key, id, inc, seq, first, count]) => ({ key, id, inc, seq, first, count }))
  }

  /** Of an incarnation: the op counter below which all is final, and the have vector of its last entry. */
  setSeen(inc: number, finalOp: number, context: Buffer): void { this.#setSeen.run(inc, finalOp, context) }

  allSeen(): { inc: number; finalOp: number; context: Buffer }[] {
    return (this.#allSeen.all() as [number, number, Buffer][]).map(([inc, finalOp, context]) => ({ inc, finalOp, context }))
  }
}
