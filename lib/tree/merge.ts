/**
 * The conflict rules (docs/decisions/013-merging.md): what an op of another
 * device, or an own one that is applied anew behind others, does to a tree that
 * its device had not seen. Decided by the order and by what each op saw, alone,
 * hence the same everywhere.
 *
 * An op that comes here was accepted where it was made. So nothing that holds
 * data is turned away: a directory that is gone comes back for what was made in
 * it, a name that is taken gives way or is varied, content that was written to a
 * version that is no longer the last one stands beside it. What is only a wish
 * (a removal, a move) may come to nothing.
 */
import type { DfsErrorCode } from '../errors.js'
import type { Time } from '../clock.js'
import type { ChunkRef, ContentOp, CreateOp, LinkOp, RenameOp, UnlinkOp } from '../log/ops.js'
import { conflictName } from './conflict-name.js'
import { HAS_XATTRS, INO_HIGH, NEVER_LINKED, ROOT_INO, S_IFDIR, S_IFMT, S_IFREG, type Inode } from './inode.js'
import type { Extent, Rows } from './rows.js'
import { changed, stamp, type Outcome, type Tree, type TreeSealer } from './tree.js'
import type { Named, UndoRecord } from './undo.js'

/** What the device that made an op had applied before. */
export interface View {
  /** Whether the op with this id was among it; 0 always is. */
  sees(op: number): boolean
}

/** Ids of inodes that merging makes: the op whose content they hold, above all that a device counts. */
export const COPY_INO = 2 ** 31
/** Directories that are brought back on the way to the root. */
const MAX_RESURRECTED = 4096


/** What a lost wish is refused with: nobody waits for the answer. */
const GONE: DfsErrorCode = 'ENOENT'
const LOST: DfsErrorCode = 'EBUSY'

export class Merge {
  readonly #tree: Tree
  readonly #rows: Rows
  readonly #sealer: TreeSealer
  #lastKey: { dir: number; name: Buffer; key: Buffer } | null = null
  /** The images of an op that is applied and may yet be taken back. */
  history: (op: number) => UndoRecord | undefined = () => undefined
  /** The inode that such an op writes to; 0: it is none of these, or no write. */
  written: (op: number) => number = () => 0

  constructor(tree: Tree, sealer: TreeSealer) {
    this.#tree = tree
    this.#rows = tree.rows
    this.#sealer = sealer
  }

  create(op: CreateOp, id: number): Outcome {
    const parent = this.#dir(op.parent, id, op.time)
    if (!parent) return GONE
    // Made here without a name, and linked: the log says it as a create. It begins anew.
    const own = this.#rows.get(op.ino)
    if (own) {
      if (own.nlink > 0) return 'EEXIST'
      this.#rows.removeOrphan(own.ino)
      this.#rows.remove(own)
    }
    const isDir = (op.mode & S_IFMT) === S_IFDIR
    let { name } = op
    const there = this.#at(parent, name)
    if (there) {
      const other = this.#rows.get(there.ino)!
      if (isDir && other.isDir && there.op >= 0) {
        // Two made the same directory: it is one.
        this.#rows.setAlias(op.ino, other.ino)
        return ''
      }
      if (other.isDir) name = this.#conflictName(parent, name, Math.floor(id / INO_HIGH), op.time)
      else this.#displace(parent, name, other, op.ino, id)
    }
    const inode = this.#tree.fresh(op)
    inode.nlink = isDir ? 2 : 1
    inode.parent = parent.ino
    // Free, or given way.
    this.#put(parent, name, inode.ino, id, null)
    if (name !== op.name) this.#rows.setConflict(inode.ino, { of: there!.ino, op: id })
    this.#rows.touchNames(parent, isDir ? 1 : 0)
    stamp(parent, op.time)
    if (there && !isDir) this.#drop(inode, id, op.time)
    return ''
  }

  link(op: LinkOp, id: number): Outcome {
    const inode = this.#rows.get(op.ino) ?? this.#lateCopy(op.ino, id, op.time, false)
    if (!inode) return GONE
    if (inode.isDir) return 'EPERM'
    const parent = this.#dir(op.parent, id, op.time)
    if (!parent) return GONE
    let { name } = op
    const there = this.#at(parent, name)
    if (there?.ino === inode.ino) return ''
    if (there) {
      const other = this.#rows.get(there.ino)!
      if (other.isDir) name = this.#conflictName(parent, name, Math.floor(id / INO_HIGH), op.time)
      else this.#displace(parent, name, other, inode.ino, id)
    }
    this.#name(inode, parent, name, -id, op.time)
    stamp(parent, op.time)
    if (there) this.#drop(inode, id, op.time)
    return ''
  }

  unlink(op: UnlinkOp, id: number, view: View): Outcome {
    const inode = this.#rows.get(op.ino)
    let parent = this.#rows.get(op.parent)
    if (!inode || inode.nlink === 0 || !parent) return GONE
    let { name } = op
    let there = this.#at(parent, name)
    if (there?.ino !== inode.ino) {
      // Its name was given to another meanwhile, and it stands beside that.
      const place = this.#rows.conflicts.has(inode.ino) ? this.#rows.findName(inode.parent, inode.ino) : undefined
      if (!place) return GONE
      parent = this.#rows.get(place.parent)!
      name = this.#sealer.openName(place.key, place.name)
      there = { name: place.name, ino: inode.ino, op: 0 }
    }
    if (inode.isDir) {
      if (!op.dir) return 'EISDIR'
      if (!this.#rows.isEmptyDir(inode.ino)) return 'ENOTEMPTY'
    } else {
      if (op.dir) return 'ENOTDIR'
      // A write that it did not see wins.
      if (inode.nlink === 1 && !view.sees(inode.version)) return LOST
    }
    if (!view.sees(Math.abs(there.op))) return LOST
    this.#unname(parent, name, inode, id, op.time)
    stamp(parent, op.time)
    return ''
  }

  rename(op: RenameOp, id: number, view: View): Outcome {
    const inode = this.#rows.get(op.ino) ?? (op.exchange ? undefined : this.#lateCopy(op.ino, id, op.time, false))
    const goal = this.#rows.get(op.newParent)
    if (!inode || !goal) return GONE
    if (!goal.isDir) return 'ENOTDIR'
    // In the log and without effect, until something older makes it possible.
    if (inode.isDir && this.#tree.isWithin(goal, inode)) return 'EINVAL'
    if (op.exchange) return this.#exchange(op, id, inode, goal)
    const to = this.#dir(op.newParent, id, op.time)
    if (!to) return GONE
    // What was brought back may be one with a directory below this one, or with this one itself.
    if (inode.isDir && this.#tree.isWithin(to, inode)) return 'EINVAL'
    const from = this.#rows.get(op.parent)
    let source = from && this.#at(from, op.name)?.ino === inode.ino ? { dir: from, name: op.name } : undefined
    if (!source && inode.nlink > 0 && (inode.isDir || inode.nlink === 1)) {
      // Moved by another meanwhile: the later move is where it ends.
      const place = this.#rows.findName(inode.parent, inode.ino)
      if (place) source = { dir: this.#rows.get(place.parent)!, name: this.#sealer.openName(place.key, place.name) }
    }
    let name = op.newName
    let isBeside = false
    const there = this.#at(to, name)
    if (there?.ino === inode.ino) return ''
    if (there) {
      const other = this.#rows.get(there.ino)!
      const meant = op.over !== 0 && this.#rows.resolve(op.over) === other.ino && other.isDir === inode.isDir && view.sees(Math.abs(there.op))
      if (meant && (other.isDir ? this.#rows.isEmptyDir(other.ino) : other.nlink > 1 || view.sees(other.version))) {
        this.#unname(to, name, other, id, op.time)
      } else {
        isBeside = true
        if (other.isDir) name = this.#conflictName(to, name, Math.floor(id / INO_HIGH), op.time)
        else this.#displace(to, name, other, inode.ino, id)
      }
    }
    if (source) {
      this.#rows.removeDentry(source.dir.ino, this.#key(source.dir, source.name))
      this.#put(to, name, inode.ino, -id, null)
      this.#tree.moved(inode, source.dir, to, op.time)
      stamp(source.dir, op.time)
    } else {
      this.#name(inode, to, name, -id, op.time)
    }
    this.#rows.setConflict(inode.ino, name === op.newName ? null : { of: there!.ino, op: id })
    stamp(to, op.time)
    // Where it was made, nothing was put beside it, and nothing compared.
    if (isBeside && !inode.isDir) this.#drop(inode, id, op.time)
    return ''
  }

  content(op: ContentOp, id: number, chunkNumber: (ref: ChunkRef) => number, view: View): Outcome {
    for (const p of op.pieces) if (p.off + p.len > op.size) return 'EINVAL'
    const inode = this.#rows.get(op.ino) ?? (op.unnamed ? undefined : this.#lateCopy(op.ino, id, op.ctime, true))
    if (!inode) return GONE
    if (!inode.isFile) return 'EINVAL'
    // Who took its last name had seen what it holds: that need not be kept.
    const wasGone = inode.nlink === 0
    if (wasGone && !op.unnamed) this.#resurrect(inode, id, op.ctime)
    if (op.base !== inode.version) this.#fork(inode, op, id, view, wasGone)
    const outcome = this.#tree.content(op, id, chunkNumber)
    if (outcome === '' && inode.nlink > 0) this.#drop(inode, id, op.ctime)
    return outcome
  }

  /**
   * A copy that this order does not make, for what was done to it: beside the
   * file that it was a copy of, as that was then. What was written to it must not
   * go to the file itself: who removes that, or writes over it, believes this here.
   * Where it is not known what it was, it begins empty. `isNamed`: it gets a name.
   */
  #lateCopy(ino: number, id: number, time: Time, isNamed: boolean): Inode | undefined {
    const version = ino - COPY_INO
    if (ino % INO_HIGH < COPY_INO) return undefined
    const of = this.written(version)
    const original = of === 0 ? undefined : this.#rows.get(of)
    const before = original?.isFile ? this.#versionOf(original, version) : undefined
    const like = before ? original! : this.#rows.get(ROOT_INO)!
    const copy = this.#rows.add(ino)
    copy.mode = before ? like.mode : S_IFREG | 0o600
    copy.uid = like.uid
    copy.gid = like.gid
    copy.atime = copy.mtime = time.sec
    copy.atimeNs = copy.mtimeNs = time.nsec
    if (before) {
      // What it is like, and where, hangs on the original: its row is in the undo record, so that what changes that does not pass this by.
      this.#rows.touch(like)
      copy.size = before.size
      copy.version = version
      for (const e of before.extents) this.#rows.addExtent(copy, e.off, e.len, e.chunk, e.coff)
    }
    const place = before && original!.nlink > 0 ? this.#rows.findName(original!.parent, original!.ino) : undefined
    const dir = place && this.#rows.get(place.parent)
    if (!isNamed || !place || !dir) {
      this.#rows.addOrphan(ino, before ? this.#rows.orphan(of) : undefined)
      return copy
    }
    this.#name(copy, dir, this.#conflictName(dir, this.#sealer.openName(place.key, place.name), authorOf(copy), time), id, time)
    this.#rows.setConflict(ino, { of: original!.ino, op: id })
    return copy
  }

  // --- names --------------------------------------------------------------

  #exchange(op: RenameOp, id: number, inode: Inode, to: Inode): Outcome {
    const from = this.#rows.get(op.parent)
    const over = this.#rows.get(op.over)
    if (!from || !over || from.nlink === 0 || to.nlink === 0) return GONE
    if (this.#at(from, op.name)?.ino !== inode.ino || this.#at(to, op.newName)?.ino !== over.ino || inode === over) return LOST
    if (over.isDir && this.#tree.isWithin(from, over)) return 'EINVAL'
    this.#put(from, op.name, over.ino, -id)
    this.#put(to, op.newName, inode.ino, -id)
    this.#tree.moved(inode, from, to, op.time)
    this.#tree.moved(over, to, from, op.time)
    stamp(from, op.time)
    stamp(to, op.time)
    return ''
  }

  /** An op asks for the same name several times. */
  #key(dir: Inode, name: Buffer): Buffer {
    const last = this.#lastKey
    if (last?.dir === dir.ino && last.name === name) return last.key
    const key = Buffer.from(this.#sealer.nameKey(this.#tree.globalId(dir), name))
    this.#lastKey = { dir: dir.ino, name, key }
    return key
  }

  #at(dir: Inode, name: Buffer): Named | undefined {
    return this.#rows.named(dir.ino, this.#key(dir, name))
  }

  /** `old`: what is there; null: nothing. */
  #put(dir: Inode, name: Buffer, ino: number, mark: number, old?: Named | null): void {
    const key = this.#key(dir, name)
    this.#rows.setDentry(dir.ino, key, this.#sealer.sealName(key, name), ino, mark, old)
  }

  /** The directory of this number, brought back if it is gone. */
  #dir(ino: number, id: number, time: Time): Inode | undefined {
    const dir = this.#rows.get(ino)
    if (!dir?.isDir) return undefined
    if (dir.nlink > 0) return dir
    this.#resurrect(dir, id, time)
    // It may stand for another now.
    return this.#rows.get(ino)
  }

  /** One name more for an inode, which may have none. */
  #name(inode: Inode, dir: Inode, name: Buffer, mark: number, time: Time): void {
    this.#put(dir, name, inode.ino, mark, null)
    this.#rows.touch(inode)
    this.#rows.touchNames(dir, inode.isDir ? 1 : 0)
    inode.parent = dir.ino
    if (inode.isDir) {
      inode.nlink = 2
      this.#rows.removeOrphan(inode.ino)
    } else if (inode.nlink++ === 0) {
      inode.flags &= ~NEVER_LINKED
      this.#rows.removeOrphan(inode.ino)
    }
    changed(inode, time)
  }

  #unname(dir: Inode, name: Buffer, inode: Inode, id: number, time: Time): void {
    const key = this.#key(dir, name)
    this.#rows.removeDentry(dir.ino, key)
    this.#rows.touchNames(dir, inode.isDir ? -1 : 0)
    this.#tree.dropName(inode, time, this.#tree.grave(dir.ino, key, name, id))
  }

  /** What lost its last name gets it back, or one like it. */
  #resurrect(inode: Inode, id: number, time: Time, depth = 0): void {
    const grave = this.#rows.orphan(inode.ino)
    let dir = grave && grave.name.length > 0 && depth < MAX_RESURRECTED ? this.#rows.get(grave.parent) : undefined
    let name = dir ? this.#sealer.openName(grave!.key, grave!.name) : Buffer.from('recovered')
    if (!dir?.isDir || (inode.isDir && this.#tree.isWithin(dir, inode))) dir = this.#rows.get(ROOT_INO)!
    if (dir.nlink === 0) {
      this.#resurrect(dir, id, time, depth + 1)
      dir = this.#rows.get(dir.ino)!
    }
    const there = this.#at(dir, name)
    let beside = false
    if (there) {
      const other = this.#rows.get(there.ino)!
      if (inode.isDir && other.isDir) {
        // Made again meanwhile: what comes goes there.
        this.#rows.removeOrphan(inode.ino)
        this.#rows.remove(inode)
        this.#rows.setAlias(inode.ino, other.ino)
        return
      }
      if (other.isDir) {
        name = this.#conflictName(dir, name, authorOf(inode), time)
        beside = true
      } else {
        this.#displace(dir, name, other, inode.ino, id)
      }
    }
    this.#name(inode, dir, name, -id, time)
    if (beside) this.#rows.setConflict(inode.ino, { of: there!.ino, op: id })
  }

  /** The file under `name` makes room and stands beside it. */
  #displace(dir: Inode, name: Buffer, other: Inode, winner: number, id: number): void {
    const aside = this.#conflictName(dir, name, authorOf(other), { sec: other.mtime, nsec: 0 })
    this.#rows.removeDentry(dir.ino, this.#key(dir, name))
    this.#put(dir, aside, other.ino, -id, null)
    this.#rows.touchNames(dir, 0)
    this.#rows.touch(other)
    other.parent = dir.ino
    this.#rows.setConflict(other.ino, { of: winner, op: id })
  }

  /** `name (conflict, DEVICE, DATE).ext`, free in `dir`. */
  #conflictName(dir: Inode, name: Buffer, author: number, time: Time): Buffer {
    return conflictName(name, this.#rows.author(author), time.sec, (free) => this.#at(dir, free) !== undefined)
  }

  // --- content ------------------------------------------------------------

  /**
   * `op` was written to another version than the one that is there. The later
   * keeps the name: what is there goes into a copy, and the file becomes what the
   * op was written to.
   */
  #fork(inode: Inode, op: ContentOp, id: number, by: View, wasGone: boolean): void {
    const held = this.#rows.conflicts.get(copyOf(op.base))
    const copy = held?.of === inode.ino ? this.#rows.get(copyOf(op.base)) : undefined
    const goesOn = copy !== undefined && copy.nlink > 0 && copy.version === op.base ? copy : undefined
    const before = goesOn ? { size: goesOn.size, extents: this.#rows.allExtents(goesOn.ino) } : this.#versionOf(inode, op.base)
    if (!wasGone && (before || !by.sees(inode.version))) this.#copy(inode, id)
    // The version is beyond what is remembered: it was changed in place ever since.
    if (!before) return
    this.#rows.touch(inode)
    this.#rows.dropExtents(inode, 0, Infinity)
    for (const e of before.extents) this.#rows.addExtent(inode, e.off, e.len, e.chunk, e.coff)
    const view = inode.pending ?? inode
    view.size = before.size
    if (goesOn) this.#discard(goesOn, id, op.ctime)
  }

  /** Puts the file's content as it is into a file of its own beside it. */
  #copy(inode: Inode, id: number): void {
    const view = inode.pending ?? inode
    const ino = copyOf(inode.version)
    const place = this.#rows.findName(inode.parent, inode.ino)
    const dir = place && this.#rows.get(place.parent)
    if (!place || !dir || this.#rows.get(ino) || view.size === 0) return
    const name = this.#conflictName(dir, this.#sealer.openName(place.key, place.name), authorOf(inode), { sec: view.mtime, nsec: 0 })
    const copy = this.#rows.add(ino)
    copy.mode = inode.mode
    copy.uid = inode.uid
    copy.gid = inode.gid
    copy.size = view.size
    copy.version = inode.version
    copy.atime = copy.mtime = view.mtime
    copy.atimeNs = copy.mtimeNs = view.mtimeNs
    copy.ctime = view.ctime
    copy.ctimeNs = view.ctimeNs
    copy.nlink = 1
    copy.parent = dir.ino
    for (const e of this.#rows.allExtents(inode.ino)) this.#rows.addExtent(copy, e.off, e.len, e.chunk, e.coff)
    if (inode.flags & HAS_XATTRS) for (const n of this.#tree.xattrNames(inode)) this.#tree.putXattr(copy, n, this.#tree.getXattr(inode, n)!)
    this.#put(dir, name, ino, id, null)
    this.#rows.touchNames(dir, 0)
    this.#rows.setConflict(ino, { of: inode.ino, op: id })
  }

  /**
   * A copy that is no longer needed loses its name. It stays known as a copy: where a
   * program may yet write to it, it gets the name back at once (lib/open-copies.ts).
   */
  #discard(copy: Inode, id: number, time: Time): void {
    const place = this.#rows.findName(copy.parent, copy.ino)
    const dir = place && this.#rows.get(place.parent)
    if (!place || !dir || copy.nlink !== 1) return
    const known = this.#rows.conflicts.get(copy.ino)
    this.#unname(dir, this.#sealer.openName(place.key, place.name), copy, id, time)
    if (known) this.#rows.setConflict(copy.ino, known)
  }

  /** Equal content makes no copy: neither of this file nor this file itself. */
  #drop(inode: Inode, id: number, time: Time): void {
    for (const ino of [...(this.#rows.conflictsOf(inode.ino) ?? [])]) {
      const copy = this.#rows.get(ino)
      if (copy && copy.nlink > 0 && this.#isSame(copy, inode)) this.#discard(copy, id, time)
    }
    if (this.equalsOriginal(inode)) this.#discard(inode, id, time)
  }

  /** Whether it is a copy beside a file that holds the same. */
  equalsOriginal(inode: Inode): boolean {
    const of = this.#rows.conflicts.get(inode.ino)?.of
    const original = of === undefined ? undefined : this.#rows.get(of)
    return original !== undefined && original.nlink > 0 && this.#isSame(inode, original)
  }

  #isSame(a: Inode, b: Inode): boolean {
    if (a === b || (a.mode & S_IFMT) !== (b.mode & S_IFMT)) return false
    if (a.isLink) return this.#tree.readlink(a).equals(this.#tree.readlink(b))
    return a.isFile && (a.pending ?? a).size === (b.pending ?? b).size && a.bytes === b.bytes && isEqual(this.#rows.allExtents(a.ino), this.#rows.allExtents(b.ino))
  }

  /** The file as an earlier version had it, from the undo records; undefined: they do not reach back so far. */
  #versionOf(inode: Inode, version: number): { size: number; extents: Extent[] } | undefined {
    const extents = new Map<number, Extent>()
    for (const e of this.#rows.allExtents(inode.ino)) extents.set(e.off, e)
    let size = (inode.pending ?? inode).size
    for (let at = inode.version; at !== version;) {
      const record = at === 0 ? undefined : this.history(at)
      if (!record) return undefined
      const from = at
      for (let i = record.length - 1; i >= 0; i--) {
        const im = record[i]!
        if (im.t === 'extent' && im.ino === inode.ino) {
          if (im.old) extents.set(im.off, { off: im.off, ...im.old })
          else extents.delete(im.off)
        } else if (im.t === 'inode' && im.ino === inode.ino && im.row) {
          size = im.row[6]!
          at = im.row[8]!
        }
      }
      if (at === from) return undefined
    }
    return { size, extents: [...extents.values()].sort((a, b) => a.off - b.off) }
  }
}

/** The inode that holds the content of `version` when it stands aside. */
export function copyOf(version: number): number {
  return version + COPY_INO
}

/** Local index of the incarnation that wrote what the inode holds. */
function authorOf(inode: Inode): number {
  return Math.floor((inode.version || inode.ino) / INO_HIGH)
}

function isEqual(a: Extent[], b: Extent[]): boolean {
  return a.length === b.length && a.every((e, i) => e.off === b[i]!.off && e.len === b[i]!.len && e.chunk === b[i]!.chunk && e.coff === b[i]!.coff)
}
