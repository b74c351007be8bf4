/**
 * Which entries of the tail touch what: so that an entry that comes late, and has
 * nothing to do with those after it, is applied where the tree is now.
 *
 * Why that is the same as taking the later ones back first. What an op reads and
 * writes hangs on inodes, extents and attributes on their own, names on their
 * directory. Its footprint is every inode that it names and every one of which it
 * changed a row; a directory in which it only looked up, put or took names counts
 * with these names alone. Two ops with footprints apart read and write rows
 * apart, and change places freely: the tree is the same, and so are the rows
 * that each found, hence its undo record and what it decided.
 *
 * What two ops on names of one directory share is its link count, of which
 * records hold the difference, and its times, which no op looks at: the last one
 * sets them. So the times of the late entry go where the next one found those
 * from before (`nextIn`; the engine writes that into its record).
 *
 * Beyond its footprint an op looks in three cases only: up the chain of parents
 * (moving a directory, bringing one back), at the copies beside a file, and at
 * what else is in a directory when it needs a name for one. Of these a directory
 * alone is moved in place, when no later entry has moved one or done any of the
 * rest. Later ones that did are not disturbed by what is done to names elsewhere,
 * which changes no chain; in the directories that they touched nothing is applied
 * below them.
 *
 * Invariant: of every entry of the tail after `floor`, each inode of its
 * footprint is in `whole`, each directory of which it has to do with names in
 * `within`, and each of these names in `names`, with that entry or one that comes
 * later in the order; and each directory that it changed names of in `lists`.
 */
import type { Op } from '../../log/ops.js'
import type { PlacedEntry } from '../../log/placed.js'
import type { UndoRecord } from '../../tree/undo.js'
import { compare } from './timeline.js'

/** In all maps together; 60 to 100 bytes each. */
const MAX_NOTED = 600_000

/** What an op has to do with. */
export interface Visitor {
  inode(ino: number): void
  /** The directory, with names of it alone. */
  within(dir: number): void
  name(key: Buffer): void
}

/** The tree, as far as it takes to tell names. */
export interface Names {
  resolve(ino: number): number
  /** Undefined: there is no such directory. */
  keyOf(dir: number, name: Buffer): Buffer | undefined
  /** Whether the op may move a directory. */
  movesDirectory(op: Op): boolean
}

export class Footprints {
  readonly #whole = new Map<number, PlacedEntry>()
  readonly #within = new Map<number, PlacedEntry>()
  /** By 48 bits of their key: should two names share them, they count as one. */
  readonly #names = new Map<number, PlacedEntry>()
  /** Entries that changed names of a directory, in order. */
  readonly #lists = new Map<number, PlacedEntry[]>()
  #listed = 0
  readonly #tree: Names
  /** The last that looked up a chain of parents, or changed one. */
  #chains: PlacedEntry | undefined
  /** Of it and what comes before nothing is known. */
  #floor: PlacedEntry | null = null

  constructor(tree: Names) {
    this.#tree = tree
  }

  /** Nothing is known of the tail, which ends with `last`. */
  reset(last: PlacedEntry | null): void {
    for (const map of [this.#whole, this.#within, this.#names, this.#lists]) map.clear()
    this.#listed = 0
    this.#chains = undefined
    this.#floor = last
  }

  /** All entries after `floor` were noted anew. */
  lower(floor: PlacedEntry | null): void {
    if (this.#floor && (!floor || compare(floor, this.#floor) < 0)) this.#floor = floor
  }

  /** Whether what comes after `e` is known. */
  reaches(e: PlacedEntry): boolean { return this.#floor === null || compare(e, this.#floor) > 0 }

  /** Whether an op of `e` has nothing to do with any entry after it, as far as the inodes tell that it names. */
  mayBeApart(e: PlacedEntry, op: Op): boolean {
    const v = new Clear(this, e)
    for (const ino of subjectsOf(op)) {
      v.inode(ino)
      v.inode(this.#tree.resolve(ino))
    }
    for (const dir of directoriesOf(op)) {
      v.within(dir)
      v.within(this.#tree.resolve(dir))
    }
    return v.isClear
  }

  /** The same when it is applied. False too when it looked beyond its footprint. */
  isApart(e: PlacedEntry, op: Op, record: UndoRecord): boolean {
    if (!isPlain(op, record, this.#tree)) return false
    const v = new Clear(this, e)
    visit(op, record, this.#tree, v)
    return v.isClear
  }

  /** Whether no later entry has to do with chains of parents. */
  mayMoveDirectory(e: PlacedEntry): boolean { return isClear(e, this.#chains) }

  isClear(e: PlacedEntry, of: 'whole' | 'within', ino: number): boolean { return isClear(e, (of === 'whole' ? this.#whole : this.#within).get(ino)) }
  isNameClear(e: PlacedEntry, key: Buffer): boolean { return isClear(e, this.#names.get(key.readUIntLE(0, 6))) }

  /** `tailEnd`: the last entry of the tail. */
  note(e: PlacedEntry, ops: readonly Op[], records: readonly UndoRecord[], tailEnd: PlacedEntry): void {
    const v: Visitor = {
      inode: (ino) => note(this.#whole, e, ino),
      within: (dir) => note(this.#within, e, dir),
      name: (key) => note(this.#names, e, key.readUIntLE(0, 6)),
    }
    for (let i = 0; i < ops.length; i++) {
      visit(ops[i]!, records[i]!, this.#tree, v)
      const isLast = this.#chains === undefined || compare(this.#chains, e) < 0
      if (isLast && (this.#tree.movesDirectory(ops[i]!) || !isPlain(ops[i]!, records[i]!, this.#tree))) this.#chains = e
      for (const im of records[i]!) if (im.t === 'names') this.#list(e, im.ino)
    }
    if (this.#whole.size + this.#within.size + this.#names.size + this.#listed > MAX_NOTED) this.reset(tailEnd)
  }

  #list(e: PlacedEntry, dir: number): void {
    const list = this.#lists.get(dir)
    if (!list) this.#lists.set(dir, [e])
    else {
      const i = firstAfter(list, e)
      if (i > 0 && compare(list[i - 1]!, e) === 0) return
      list.splice(i, 0, e)
    }
    this.#listed++
  }

  /** Those after `e`, in order, that have changed names of `dir`; it may be that one does so no more. */
  *nextIn(dir: number, e: PlacedEntry): Generator<PlacedEntry> {
    const list = this.#lists.get(dir) ?? []
    for (let i = firstAfter(list, e); i < list.length; i++) yield list[i]!
  }

  /** What is final can not come after anything. */
  forget(final: ReadonlySet<PlacedEntry>): void {
    if (this.#chains && final.has(this.#chains)) this.#chains = undefined
    for (const map of [this.#whole, this.#within, this.#names] as Map<unknown, PlacedEntry>[]) for (const [k, e] of map) if (final.has(e)) map.delete(k)
    for (const [dir, list] of this.#lists) {
      const left = list.filter((e) => !final.has(e))
      this.#listed -= list.length - left.length
      if (left.length > 0) this.#lists.set(dir, left)
      else this.#lists.delete(dir)
    }
  }
}

/** Whether no entry after `e` has to do with what is visited. */
class Clear implements Visitor {
  isClear = true
  readonly #of: Footprints
  readonly #e: PlacedEntry

  constructor(of: Footprints, e: PlacedEntry) {
    this.#of = of
    this.#e = e
  }

  inode(ino: number): void { this.isClear &&= this.#of.isClear(this.#e, 'whole', ino) && this.#of.isClear(this.#e, 'within', ino) }
  within(dir: number): void { this.isClear &&= this.#of.isClear(this.#e, 'whole', dir) }
  name(key: Buffer): void { this.isClear &&= this.#of.isNameClear(this.#e, key) }
}

function isClear(e: PlacedEntry, last: PlacedEntry | undefined): boolean {
  return last === undefined || compare(last, e) <= 0
}

function note<K>(map: Map<K, PlacedEntry>, e: PlacedEntry, k: K): void {
  const last = map.get(k)
  if (last === e || (last !== undefined && compare(last, e) >= 0)) return
  map.set(k, e)
}

/** Index of the first that comes after `e`. */
function firstAfter(list: readonly PlacedEntry[], e: PlacedEntry): number {
  let lo = 0
  let hi = list.length
  while (lo < hi) {
    const mid = (lo + hi) >>> 1
    if (compare(list[mid]!, e) > 0) hi = mid
    else lo = mid + 1
  }
  return lo
}

/** The inodes that an op is about. */
function subjectsOf(op: Op): number[] {
  switch (op.type) {
    case 'create': case 'link': case 'unlink': case 'setattr': case 'content': case 'xattr': return [op.ino]
    case 'rename': return op.over === 0 ? [op.ino] : [op.ino, op.over]
    case 'author': case 'aside': return []
  }
}

/** The inodes that an op names. */
export function inodesOf(op: Op): number[] { return [...subjectsOf(op), ...directoriesOf(op)] }

/** The directories in which an op names something. */
function directoriesOf(op: Op): number[] {
  switch (op.type) {
    case 'create': case 'link': case 'unlink': return [op.parent]
    case 'rename': return op.parent === op.newParent ? [op.parent] : [op.parent, op.newParent]
    default: return []
  }
}

/** Whether an op that did this looked at nothing but its footprint. */
function isPlain(op: Op, record: UndoRecord, tree: Names): boolean {
  for (const im of record) {
    if (im.t === 'alias' || im.t === 'conflict' || (im.t === 'orphan' && im.old)) return false
    // A link whose name was taken by a directory.
    if (op.type === 'link' && im.t === 'dentry' && !tree.keyOf(op.parent, op.name)?.equals(im.key)) return false
  }
  return true
}

/** What an op has to do with; of what looked further, directories as a whole. */
function visit(op: Op, record: UndoRecord, tree: Names, v: Visitor): void {
  for (const ino of subjectsOf(op)) {
    v.inode(ino)
    const stands = tree.resolve(ino)
    if (stands !== ino) v.inode(stands)
  }
  const plain = isPlain(op, record, tree)
  const dirs = directoriesOf(op)
  for (const dir of dirs) {
    v.within(dir)
    const stands = tree.resolve(dir)
    if (stands !== dir) v.within(stands)
    if (!plain) v.inode(stands)
  }
  let names = 0
  for (const im of record) {
    if (im.t === 'dentry' || im.t === 'names') {
      const dir = im.t === 'dentry' ? im.parent : im.ino
      if (plain) v.within(dir)
      else v.inode(dir)
      if (im.t === 'names') continue
      names++
      v.name(im.key)
      if (im.old) v.inode(im.old.ino)
    } else {
      v.inode(im.ino)
      if (im.t === 'conflict' && im.old) v.inode(im.old.of)
      if (im.t === 'alias' && im.old) v.inode(im.old)
    }
  }
  // What changed one name, and is plain, changed the one that it says. Others may have looked there and done something else, or nothing.
  if (op.type === 'rename') {
    nameIn(op.parent, op.name, tree, v)
    nameIn(op.newParent, op.newName, tree, v)
  } else if ('parent' in op && !(plain && names === 1)) {
    nameIn(op.parent, op.name, tree, v)
  }
}

function nameIn(dir: number, name: Buffer, tree: Names, v: Visitor): void {
  const key = tree.keyOf(dir, name)
  if (key) v.name(key)
}
