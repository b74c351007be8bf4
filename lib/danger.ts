/**
 * Which paths need a chunk that is damaged or missing. The index knows the chunks of a
 * file, not the files of a chunk: it is gone through once for all chunks that are asked
 * about, in slices, since nothing but trouble asks.
 */
import { turn } from './clock.js'
import type { Database } from './store/database.js'
import { ROOT_INO } from './tree/inode.js'
import type { Tree } from './tree/tree.js'

/** Rows in one go of the loop. */
const SLICE_ROWS = 4096

export interface NamedParts {
  readonly db: Database
  readonly tree: Tree
}

/** The paths of files with content in each of these chunks: up to `limit` in all, or more where one file has several names. */
export async function pathsOfChunks({ db, tree }: NamedParts, nums: ReadonlySet<number>, limit = Infinity): Promise<Map<number, string[]>> {
  const chunksOf = new Map<number, Set<number>>()
  if (nums.size === 0) return new Map()
  const extents = db.sql.prepare('SELECT ino, off, chunk FROM extent WHERE (ino, off) > (?, ?) ORDER BY ino, off LIMIT ?').raw(true)
  for (let at: [number, number] = [-1, -1]; chunksOf.size < limit;) {
    const rows = extents.all(...at, SLICE_ROWS) as [number, number, number][]
    for (const [ino, , chunk] of rows) {
      if (!nums.has(chunk)) continue
      const known = chunksOf.get(ino)
      if (known) known.add(chunk)
      else chunksOf.set(ino, new Set([chunk]))
    }
    if (rows.length < SLICE_ROWS) break
    at = [rows[rows.length - 1]![0], rows[rows.length - 1]![1]]
    await turn()
  }
  const out = new Map<number, string[]>()
  for (const [ino, path] of await pathsOfInodes({ db, tree }, chunksOf)) {
    for (const num of chunksOf.get(ino)!) {
      const known = out.get(num)
      if (known) known.push(path)
      else out.set(num, [path])
    }
  }
  return out
}

/** Each name of these inodes. */
async function pathsOfInodes({ db, tree }: NamedParts, inos: { has(ino: number): boolean; readonly size: number }): Promise<[ino: number, path: string][]> {
  if (inos.size === 0) return []
  const found: [ino: number, path: string][] = []
  const folders = new Map<number, string>()
  const dentries = db.sql.prepare('SELECT parent, key, name, ino FROM dentry WHERE (parent, key) > (?, ?) ORDER BY parent, key LIMIT ?').raw(true)
  for (let at: [number, Buffer] = [-1, Buffer.alloc(0)]; ;) {
    const rows = dentries.all(...at, SLICE_ROWS) as [number, Buffer, Buffer, number][]
    for (const [parent, key, name, ino] of rows) {
      if (!inos.has(ino)) continue
      const dir = tree.get(parent)
      if (!dir) continue
      let folder = folders.get(dir.ino)
      if (folder === undefined) folders.set(dir.ino, folder = dir.ino === ROOT_INO ? '' : tree.dirPath(dir))
      found.push([ino, `${folder}/${tree.openName(key, name).toString()}`])
    }
    if (rows.length < SLICE_ROWS) return found
    at = [rows[rows.length - 1]![0], rows[rows.length - 1]![1]]
    await turn()
  }
}
