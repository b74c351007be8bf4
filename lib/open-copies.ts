/**
 * Copies that merging puts away, since they equal what they are copies of, while a program here may yet write to them
 * (docs/decisions/013-merging.md). Such a copy gets its name back by an op of this device, in an entry that comes no later
 * than the first one which says that it was seen to go: after that it is gone for good from others, and what is written to it
 * would be of nothing. It is put away when it is closed, if it still equals.
 */
import type { Clock } from './clock.js'
import type { OpenFile } from './file/file.js'
import type { Files } from './file/files.js'
import type { Journal } from './log/journal.js'
import type { OrderEngine } from './order/engine.js'
import type { ChangeSet } from './tree/changes.js'
import type { Inode } from './tree/inode.js'
import type { Outcome, Tree } from './tree/tree.js'

export interface OpenCopiesParts {
  tree: Tree
  files: Files
  engine: OrderEngine
  journal: Journal
  clock: Clock
  readOnly: boolean
  /** A name means something else now, or nothing. */
  entryChanged(parent: number, name: Buffer): void
}

export class OpenCopies {
  readonly #p: OpenCopiesParts

  constructor(parts: OpenCopiesParts) {
    this.#p = parts
  }

  /** After ops of others were applied, and before anything else. */
  received(changes: ChangeSet): void {
    if (this.#p.readOnly || this.#p.tree.rows.conflicts.size === 0) return
    this.#nameAgain([...changes.inodes.keys()].filter((ino) => this.#mayChange(ino, 0)))
  }

  /** `submit` brings a flush of the file into the tree, by which it may come to equal what it is a copy of, or copies of it. */
  flushed(inode: Inode, submit: () => Outcome | Promise<Outcome>): Outcome | Promise<Outcome> {
    const { tree: { rows }, journal } = this.#p
    // The flush itself is not over yet.
    const open = rows.conflicts.size === 0 ? [] : [inode.ino, ...(rows.conflictsOf(inode.ino) ?? [])].filter((ino) => this.#mayChange(ino, ino === inode.ino ? 1 : 0))
    if (open.length === 0) return submit()
    // In one entry with what gives them their names back.
    journal.commit()
    const end = (outcome: Outcome) => {
      this.#nameAgain(open)
      return outcome
    }
    const outcome = submit()
    return typeof outcome === 'string' ? end(outcome) : outcome.then(end)
  }

  /** The last program that could write to it has closed it. */
  closed(file: OpenFile): void {
    const { tree, engine, clock, readOnly, entryChanged } = this.#p
    const { inode } = file
    // What is flushed later is compared then.
    if (readOnly || inode.nlink !== 1 || mayChange(file, 0) || !tree.merge.equalsOriginal(inode)) return
    const place = tree.rows.findName(inode.parent, inode.ino)
    if (!place) return
    const name = tree.openName(place.key, place.name)
    void engine.submit({ type: 'unlink', parent: place.parent, name, ino: inode.ino, dir: false, time: clock.now() })
    entryChanged(place.parent, name)
  }

  #mayChange(ino: number, flushes: number): boolean {
    const file = this.#p.tree.rows.conflicts.has(ino) ? this.#p.files.find(ino) : undefined
    return file !== undefined && mayChange(file, flushes)
  }

  #nameAgain(inos: readonly number[]): void {
    const { tree, engine, clock, entryChanged } = this.#p
    for (const ino of inos) {
      const inode = tree.get(ino)
      const grave = inode && tree.isPutAway(inode) ? tree.rows.orphan(ino) : undefined
      if (!grave || grave.name.length === 0) continue
      const name = tree.openName(grave.key, grave.name)
      void engine.submit({ type: 'link', ino, parent: grave.parent, name, time: clock.now() })
      entryChanged(grave.parent, name)
    }
  }
}

/** Whether a program may write to it, or has written what the tree does not have; but for so many flushes under way. */
function mayChange(file: OpenFile, flushes: number): boolean { return file.writers > 0 || file.isFresh || file.flushes.length > flushes }
