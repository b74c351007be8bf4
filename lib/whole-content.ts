/** All that a file holds, as ops that write it to another. */
import type { ChunkRef, ContentOp } from './log/ops.js'
import type { Time } from './clock.js'
import type { Extent } from './tree/rows.js'

/** Pieces of one op: its entry stays far below what one may be. */
const MAX_PIECES = 10_000

/** Each op is made when the one before was done: its `base` is what that came to. */
export function* wholeContent(p: { ino: number; base: () => number; size: number; extents: Extent[]; chunk: (num: number) => ChunkRef; mtime: Time; ctime: Time }): Generator<ContentOp> {
  const { ino, size, extents, mtime, ctime } = p
  for (let at = 0; at === 0 || at < extents.length; at += MAX_PIECES) {
    const numbers = new Map<number, number>()
    const pieces = extents.slice(at, at + MAX_PIECES).map((e) => {
      if (!numbers.has(e.chunk)) numbers.set(e.chunk, numbers.size)
      return { off: e.off, len: e.len, chunk: numbers.get(e.chunk)!, coff: e.coff }
    })
    // The first takes away what was there.
    yield { type: 'content', ino, base: p.base(), cut: at === 0 ? 0 : Infinity, size, chunks: [...numbers.keys()].map(p.chunk), pieces, mtime, ctime }
  }
}
