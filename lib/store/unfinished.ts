/**
 * What is being built under a temporary name (lib/transfer/copy.ts). Each name is noted in the index before anything is
 * made under it, and the note goes when the name does. So whatever is noted when a store is opened belongs to a process
 * that is dead: a store has one owner. Local to this device; others do not touch what a living copy of ours has made.
 */
import { randomBytes } from 'node:crypto'
import type { Database, Statement } from './database.js'

/** Nothing in it is worth hiding. */
export const TEMPORARY = '.dfs-copy-'
const KEY = 'building:'

export interface Building { parent: number; name: Buffer }

export class Unfinished {
  /** Of former sessions. */
  readonly #left = new Map<string, number>()
  readonly #touched: () => void
  readonly #put: Statement
  readonly #drop: Statement

  constructor(db: Database, touched: () => void) {
    this.#touched = touched
    this.#put = db.sql.prepare('INSERT OR REPLACE INTO meta VALUES (?, ?)')
    this.#drop = db.sql.prepare('DELETE FROM meta WHERE key = ?')
    const noted = db.sql.prepare(`SELECT key, value FROM meta WHERE key >= '${KEY}' AND key < '${KEY.slice(0, -1)};'`).raw(true)
    for (const [key, parent] of noted.all() as [string, number][]) this.#left.set(key.slice(KEY.length), parent)
  }

  /** A name that nothing has, for something in the directory `parent`. */
  begin(parent: number): Buffer {
    const name = `${TEMPORARY}${randomBytes(8).toString('hex')}`
    this.#put.run(KEY + name, parent)
    this.#touched()
    return Buffer.from(name)
  }

  /** Nothing is under the name any more. */
  ended(name: Buffer): void {
    const text = name.toString('latin1')
    if (!text.startsWith(TEMPORARY)) return
    this.#left.delete(text)
    this.#drop.run(KEY + text)
    this.#touched()
  }

  /** What former sessions have not finished. */
  left(): Building[] {
    return [...this.#left].map(([name, parent]) => ({ parent, name: Buffer.from(name) }))
  }
}
