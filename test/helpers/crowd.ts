/**
 * What programs do where devices get in each other's way most: two names, saving
 * by rename, copies that are written to, moved, linked and removed, directories
 * moved into and onto each other, names that are exchanged.
 */
import type { Time } from '../../lib/clock.js'
import type { Op } from '../../lib/log/ops.js'
import { S_IFDIR, S_IFREG } from '../../lib/tree/inode.js'
import type { Outcome, Tree } from '../../lib/tree/tree.js'

export interface Chance { below(n: number): number }

export interface Actor {
  readonly tree: Tree
  /** Inodes with names, in an order that means the same in every run. */
  readonly known: { ino: number; type: number }[]
  now(): Time
  newIno(): number
  submit(op: Op): Outcome
  /** Some content, `isCommon`: which others write too. */
  write(ino: number, isCommon: boolean): void
}

const NAMES = ['a', 'b'].map((n) => Buffer.from(n))
/** Nothing is made beyond so many. */
const MAX_INODES = 50

/** One step. */
export function crowd(c: Chance, d: Actor): void {
  const pick = <T>(list: readonly T[]): T => list[c.below(list.length)]!
  const { tree } = d
  const dirs = d.known.filter((i) => i.type === S_IFDIR).map((i) => i.ino)
  const files = d.known.filter((i) => i.type === S_IFREG).map((i) => i.ino)
  const copies = files.filter((ino) => tree.rows.conflicts.has(ino))
  const time = d.now()
  const at = (dir: number, name: Buffer) => tree.lookup(tree.get(dir)!, name)
  const namesIn = (dir: number) => {
    const out: Buffer[] = []
    tree.list(tree.get(dir)!, 0, (name) => {
      out.push(Buffer.from(name))
      return true
    })
    return out.sort(Buffer.compare)
  }
  const nameOf = (ino: number): { parent: number; name: Buffer } | undefined => {
    const place = tree.rows.findName(tree.get(ino)!.parent, ino)
    return place && { parent: place.parent, name: tree.openName(place.key, place.name) }
  }
  const make = (parent: number, name: Buffer, mode: number) => {
    const ino = d.newIno()
    return d.submit({ type: 'create', parent, name, ino, mode, uid: 1, gid: 1, rdev: 0, time }) === '' ? ino : 0
  }
  const move = (from: { parent: number; name: Buffer }, newParent: number, newName: Buffer, exchange = false) => {
    const over = at(newParent, newName)
    if (exchange && over === 0) return
    d.submit({ type: 'rename', ...from, ino: at(from.parent, from.name), newParent, newName, over, exchange, time })
  }
  const remove = (parent: number, name: Buffer) => {
    const ino = at(parent, name)
    d.submit({ type: 'unlink', parent, name, ino, dir: tree.get(ino)?.isDir ?? false, time })
  }

  const parent = pick(dirs)
  const name = pick(NAMES)
  const isFull = d.known.length > MAX_INODES
  switch (c.below(10)) {
    case 0: { // an editor saves
      const temporary = Buffer.from(`.${name.toString()}~`)
      if (isFull || at(parent, temporary) !== 0 || tree.get(at(parent, name))?.isDir) return
      const ino = make(parent, temporary, S_IFREG | 0o644)
      if (ino === 0) return
      d.write(ino, c.below(4) === 0)
      move({ parent, name: temporary }, parent, name)
      return
    }
    case 1: case 2: case 3: { // a copy
      if (copies.length === 0) break
      const copy = pick(copies)
      const place = nameOf(copy)
      if (!place) return
      const kind = c.below(8)
      if (kind < 3) d.write(copy, c.below(5) === 0)
      else if (kind === 3) remove(place.parent, place.name)
      else if (kind === 4) move(place, pick(dirs), name)
      else if (kind === 5) move(place, place.parent, Buffer.from(place.name.toString('latin1').replace(/ \(conflict, [^()]*\)/, ''), 'latin1'), c.below(3) === 0)
      else if (kind === 6) { if (at(parent, name) === 0) d.submit({ type: 'link', ino: copy, parent, name, time }) }
      else d.submit({ type: 'setattr', ino: copy, mode: c.below(0o1000), ctime: time })
      return
    }
    case 4: { // a directory moves
      const dir = pick(dirs)
      const place = nameOf(dir)
      if (place) move(place, parent, name, c.below(4) === 0)
      return
    }
    case 5: {
      const names = namesIn(parent)
      const goal = pick(dirs)
      if (names.length > 0 && namesIn(goal).length > 0) move({ parent, name: pick(names) }, goal, pick(namesIn(goal)), true)
      return
    }
    case 6:
      if (!isFull && at(parent, name) === 0) make(parent, name, c.below(3) > 0 ? S_IFDIR | 0o755 : S_IFREG | 0o644)
      return
    case 7: {
      const names = namesIn(parent)
      if (names.length > 0) remove(parent, pick(names))
      return
    }
    case 8:
      if (files.length > 0 && at(parent, name) === 0) d.submit({ type: 'link', ino: pick(files), parent, name, time })
      return
  }
  if (files.length > 0) d.write(pick(files), c.below(4) === 0)
}
