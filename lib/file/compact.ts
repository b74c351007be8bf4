/**
 * Re-chunks a file whose extents have become small: many random writes, or
 * appends that were each made durable by themselves. Reads windows of it,
 * cuts them by content and lays the new extents over the old in one op each.
 * Times stay as they are; a write that comes meanwhile wins, and the window is
 * left for another day.
 */
import type { Inode } from '../tree/inode.js'
import type { Tree } from '../tree/tree.js'
import type { Posix } from '../posix.js'
import { ELSEWHERE } from '../store/chunks.js'
import type { Files } from './files.js'
import type { FlushEngine } from './flush.js'
import type { ReadEngine } from './read.js'
import { SLAB_BYTES } from './slab.js'

/** A window is rewritten if its extents are smaller than this on average... */
const SMALL_EXTENT_BYTES = 32 << 10
/** ...and there are at least so many. */
const MIN_EXTENTS = 8

export interface CompactParts { tree: Tree; files: Files; flusher: FlushEngine; reader: ReadEngine; posix: Posix }

export async function compactFile(p: CompactParts, inode: Inode): Promise<void> {
  inode.pins++
  try {
    for (let from = 0; from < inode.size; from += SLAB_BYTES) await compactWindow(p, inode, from)
  } finally {
    inode.pins--
  }
}

async function compactWindow(p: CompactParts, inode: Inode, from: number): Promise<void> {
  const extents = p.tree.rows.extents(inode.ino, from, from + SLAB_BYTES)
  if (extents.length < MIN_EXTENTS || inode.nlink === 0 || extents.some((e) => e.seg === ELSEWHERE)) return
  const end = Math.min(from + SLAB_BYTES, inode.size)
  const runs: { off: number; len: number }[] = []
  let bytes = 0
  for (const e of extents) {
    const a = Math.max(e.off, from)
    const b = Math.min(e.off + e.len, end)
    bytes += b - a
    const last = runs[runs.length - 1]
    if (last && last.off + last.len === a) last.len += b - a
    else runs.push({ off: a, len: b - a })
  }
  if (bytes / extents.length >= SMALL_EXTENT_BYTES || runs.length * 2 > extents.length) return
  if (p.files.find(inode.ino)?.isDirty) return
  const { version } = inode
  const slab = p.files.pool.take()
  try {
    const ranges = []
    for (const run of runs) {
      const parts = await p.reader.read(inode, run.off, run.len)
      const pos = slab.used
      for (const part of parts) {
        slab.bytes.set(part, slab.used)
        slab.used += part.length
      }
      ranges.push({ off: run.off, len: run.len, slab, pos, flush: null })
    }
    if (inode.version !== version || p.files.find(inode.ino)?.isDirty) return
    const unchanged = () => inode.version === version && !p.files.find(inode.ino)?.isDirty && inode.nlink > 0
    await p.flusher.rewrite(inode, ranges, unchanged)
  } finally {
    p.files.pool.release(slab)
  }
}
