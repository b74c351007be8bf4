/** Going through what may be many rows, others having their turn in between. */
import { turn } from '../clock.js'
import type { Inode } from './inode.js'
import type { ReadExtent } from './rows.js'
import type { Tree } from './tree.js'

/** In one go of the loop. */
const SLICE_ROWS = 1024

/** A file itself, or all files below a directory. */
export async function* filesBelow(tree: Tree, inode: Inode): AsyncGenerator<Inode> {
  if (inode.isFile) yield inode
  if (!inode.isDir) return
  const dirs = [inode.ino]
  for (let dir = dirs.pop(); dir !== undefined; dir = dirs.pop()) {
    let from = Buffer.alloc(0)
    for (;;) {
      const rows = tree.rows.listDentries(tree.rows.resolve(dir), from, SLICE_ROWS)
      for (const [, , ino] of rows) {
        const child = tree.get(ino)
        if (child?.isFile) yield child
        else if (child?.isDir) dirs.push(child.ino)
      }
      if (rows.length < SLICE_ROWS) break
      from = Buffer.concat([rows[rows.length - 1]![0], Buffer.alloc(1)])
      await turn()
    }
    await turn()
  }
}

/** With each its chunk: where that is, and its length. */
export async function* extentsOf(tree: Tree, file: Inode): AsyncGenerator<ReadExtent> {
  for (let at = 0; at < file.size;) {
    const list = tree.rows.extents(file.ino, at, file.size, SLICE_ROWS)
    yield* list
    if (list.length < SLICE_ROWS) return
    const last = list[list.length - 1]!
    at = last.off + last.len
    await turn()
  }
}
