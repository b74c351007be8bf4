/**
 * Which entries of the tail touch which inodes: so that an entry that comes late,
 * and has nothing to do with those after it, is applied where the tree is now.
 *
 * Why that is the same as taking the later ones back first. What an op reads and
 * writes hangs on inodes: names on their directory, extents and attributes on
 * their own. Its footprint is every inode that it names and every one of which
 * it changed a row, so two ops with footprints apart read and write rows apart,
 * and change places freely: the tree is the same, and so are the rows that each
 * found, hence its undo record and what it decided. Beyond its footprint an op
 * looks in three cases only: up the chain of parents (moving a directory,
 * bringing one back), and at the copies beside a file. The engine does not apply
 * ops in place that do so; later ones that did are not disturbed, for ops
 * applied in place neither move a directory nor touch a copy.
 *
 * Invariant: of every entry of the tail after `floor`, each inode of its
 * footprint is in `last` with that entry or one that comes later in the order.
 */
import type { Op } from '../../log/ops.js'
import type { Place } from '../../log/placed.js'
import type { UndoRecord } from '../../tree/undo.js'
import { compare } from './timeline.js'

/** About 60 bytes each. */
const MAX_INODES = 300_000

export class Footprints {
  readonly #last = new Map<number, Place>()
  /** Of it and what comes before nothing is known. */
  #floor: Place | null = null

  /** Nothing is known of the tail, which ends with `last`. */
  reset(last: Place | null): void {
    this.#last.clear()
    this.#floor = last
  }

  /** All entries after `floor` were noted anew. */
  lower(floor: Place | null): void {
    if (this.#floor && (!floor || compare(floor, this.#floor) < 0)) this.#floor = floor
  }

  /** Whether what comes after `e` is known. */
  reaches(e: Place): boolean { return this.#floor === null || compare(e, this.#floor) > 0 }

  /** Whether no entry after `e` has to do with the inode. */
  isClear(e: Place, ino: number): boolean {
    const last = this.#last.get(ino)
    return last === undefined || compare(last, e) <= 0
  }

  /** `tailEnd`: the last entry of the tail. */
  note(e: Place, ops: readonly Op[], records: readonly UndoRecord[], resolve: (ino: number) => number, tailEnd: Place): void {
    for (const op of ops) {
      for (const ino of inodesOf(op)) {
        this.#note(e, ino)
        const stands = resolve(ino)
        if (stands !== ino) this.#note(e, stands)
      }
    }
    for (const record of records) forEachInode(record, (ino) => this.#note(e, ino))
    if (this.#last.size > MAX_INODES) this.reset(tailEnd)
  }

  #note(e: Place, ino: number): void {
    const last = this.#last.get(ino)
    if (last === e || (last !== undefined && compare(last, e) >= 0)) return
    this.#last.set(ino, e)
  }

  /** What is final can not come after anything. */
  forget(final: ReadonlySet<Place>): void {
    for (const [ino, e] of this.#last) if (final.has(e)) this.#last.delete(ino)
  }
}

/** The inodes that an op names; 0 stands for none. */
export function inodesOf(op: Op): number[] {
  switch (op.type) {
    case 'create': return [op.parent, op.ino]
    case 'link': return [op.ino, op.parent]
    case 'unlink': return [op.parent, op.ino]
    case 'rename': return [op.parent, op.ino, op.newParent, op.over]
    case 'setattr': case 'content': case 'xattr': return [op.ino]
    case 'author': return []
  }
}

/** The inodes of which an op has changed rows. */
export function forEachInode(record: UndoRecord, visit: (ino: number) => void): void {
  let last = 0
  for (const im of record) {
    const ino = im.t === 'dentry' ? im.parent : im.ino
    if (ino !== last) visit(ino)
    last = ino
    if (im.t === 'dentry' && im.old) visit(im.old.ino)
    if (im.t === 'conflict' && im.old) visit(im.old.of)
    if (im.t === 'alias' && im.old) visit(im.old)
  }
}
