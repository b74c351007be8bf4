/** Sealed chunks on the disk of a store, and a disk that spoils them. */
import Sqlite from 'better-sqlite3'
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { sealedLength } from '../../lib/seal/chunk.js'

export interface Spot { num: number; path: string; offset: number; length: number }

/** Live chunks in segments, as the index on the disk says, whether the store is in use or not; `where`: the rest of a query. */
export function spotsOf(store: string, where = ''): Spot[] {
  const db = new Sqlite(join(store, 'index.db'), { readonly: true })
  try {
    const rows = db.prepare(`SELECT num, seg, off, len FROM chunk WHERE seg > 0 AND refs > 0 ${where} ORDER BY num`).all() as { num: number; seg: number; off: number; len: number }[]
    return rows.map(({ num, seg, off, len }) => ({ num, path: join(store, 'segments', `${String(seg).padStart(8, '0')}.seg`), offset: off, length: sealedLength(len) }))
  } finally {
    db.close()
  }
}

/** Flips a bit in the middle of each; done twice, all is as it was. */
export function spoil(spots: Spot[]): void {
  const byte = Buffer.alloc(1)
  for (const { path, offset, length } of spots) {
    const fd = openSync(path, 'r+')
    try {
      readSync(fd, byte, 0, 1, offset + (length >> 1))
      byte[0]! ^= 4
      writeSync(fd, byte, 0, 1, offset + (length >> 1))
    } finally {
      closeSync(fd)
    }
  }
}
