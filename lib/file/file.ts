/**
 * One file with unflushed writes or open handles.
 *
 * What a reader sees, from the top: dirty ranges; then the tree's extents, but
 * only below `base`, since a truncation that has not reached the tree yet hides
 * what lies behind it.
 *
 * Flushes of one file are applied in the order in which they were taken, so that
 * after a crash the file holds a prefix of its writes.
 */
import type { Inode } from '../tree/inode.js'
import { DirtyMap, type DirtyRange } from './dirty.js'
import type { Slab, SlabPool } from './slab.js'

/** One file's share of a flush: its bytes as they were when it was taken. */
export interface FileFlush {
  readonly file: OpenFile
  ranges: DirtyRange<FileFlush>[]
  readonly cut: number
  readonly size: number
  /** Settles when the ops are in the tree, or when it failed. Never rejects. */
  done: Promise<Error | null>
}

export class OpenFile {
  readonly inode: Inode
  readonly dirty: DirtyMap<FileFlush>
  /** Open handles, and those of them that may be written to. */
  opens = 0
  writers = 0
  /** Smallest size since the last flush was taken; Infinity: it never shrank. */
  cut = Infinity
  /** Size, cut or times changed since the last flush was taken. */
  resized = false
  /** Taken and not applied yet, oldest first. */
  readonly flushes: FileFlush[] = []
  /** Where a reader or writer that goes on sequentially would go on. */
  nextRead = 0
  nextWrite = 0
  /** Of a writer that streams: a slab of its own, aligned with the file. */
  stream: Slab | null = null
  /** A failed flush, told to the next fsync. */
  error: Error | null = null
  /** Milliseconds (monotonic) of the first and the last unflushed write. */
  dirtySince = 0
  lastWrite = 0
  /** Bytes read ahead so far in this run of sequential reads. */
  ahead = 0
  /** Where reading ahead has got to. */
  aheadTo = 0
  /** What was read ahead last lies elsewhere. */
  isRemote = false

  constructor(inode: Inode, pool: SlabPool) {
    this.inode = inode
    this.dirty = new DirtyMap(pool)
  }

  /** Extents at or behind this offset are hidden. */
  get base(): number {
    let base = this.cut
    for (const f of this.flushes) if (f.cut < base) base = f.cut
    return base
  }

  /** Something that no flush has taken yet. */
  get isFresh(): boolean { return this.dirty.fresh > 0 || this.resized }
  /** Something that the tree does not have yet. */
  get isDirty(): boolean { return this.isFresh || this.flushes.length > 0 }
}
