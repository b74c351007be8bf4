/**
 * Whether something else than dfs has put the index where it is: a backup that
 * was restored, a copy. What a device wrote after that backup is gone here, and
 * others may have it. A machine that was put back as a whole is not recognized.
 */
import { statSync } from 'node:fs'
import type { Database } from './database.js'

/** Gives what notes that it is known; undefined: it was not replaced. Before a transaction is open. */
export function replacedIndex(db: Database): (() => void) | undefined {
  // Each way of copying makes another file.
  const { ino, birthtimeMs } = statSync(db.path)
  const at = `${ino} ${Math.round(birthtimeMs)}`
  const before = db.getMeta('index_at')
  if (before === at) return undefined
  if (before !== undefined) return () => db.setMeta('index_at', at)
  db.setMeta('index_at', at)
  return undefined
}
