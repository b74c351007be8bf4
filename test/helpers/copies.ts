/** How many devices have each chunk, by a look into their indexes on the disk, past the daemons that run on them. */
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { ELSEWHERE } from '../../lib/store/chunks.js'

/** By id (latin1): plaintext bytes. */
export type Chunks = Map<string, number>

export interface Holdings {
  /** Chunks that files of the drive name. */
  live: Chunks
  /** Those of them that lie in this store, by what is committed. */
  here: Chunks
}

export function holdingsOf(store: string): Holdings {
  const db = new Sqlite(join(store, 'index.db'), { readonly: true, fileMustExist: true, timeout: 30_000 })
  try {
    const out: Holdings = { live: new Map(), here: new Map() }
    for (const [id, len, seg] of db.prepare('SELECT id, len, seg FROM chunk WHERE refs > 0').raw(true).iterate() as Iterable<[Buffer, number, number]>) {
      const key = id.toString('latin1')
      out.live.set(key, len)
      if (seg !== ELSEWHERE) out.here.set(key, len)
    }
    return out
  } finally {
    db.close()
  }
}

/**
 * The copies of each of `chunks` that all `stores` still name. Every store is looked at twice, there and back, and a copy counts
 * that was seen once: one that moves meanwhile is not missed on both devices.
 */
export function copiesOf(stores: readonly string[], chunks: Iterable<string>): Map<string, number> {
  const looks = [...stores, ...[...stores].reverse()].map((store) => ({ store, ...holdingsOf(store) }))
  const copies = new Map<string, number>()
  for (const id of chunks) {
    if (!looks.every((look) => look.live.has(id))) continue
    copies.set(id, new Set(looks.filter((look) => look.here.has(id)).map((look) => look.store)).size)
  }
  return copies
}

export function bytesOf(chunks: Chunks): number {
  let bytes = 0
  for (const len of chunks.values()) bytes += len
  return bytes
}
