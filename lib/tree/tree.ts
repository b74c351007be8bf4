/**
 * The tree: names and inodes, and what each op does to them. Deterministic: the
 * same ops in the same order give the same tree on every device; it reads no
 * clock, no network and no random source but for the nonces of sealed values.
 *
 * Invariants, checked by lib/tree/check.ts:
 * - a directory has exactly one name and `parent` says where; no cycle;
 * - nlink of a file equals its names; of a directory 2 + its subdirectories;
 * - an inode without a name is in `orphan`;
 * - every extent names a known chunk and lies inside it.
 */
import type { DfsErrorCode } from '../errors.js'
import { fail } from '../errors.js'
import type { AuthorOp, ChunkRef, ContentOp, CreateOp, LinkOp, Op, RenameOp, SetAttrOp, UnlinkOp, XattrOp } from '../log/ops.js'
import type { Time } from '../clock.js'
import { HAS_XATTRS, Inode, INO_HIGH, NEVER_LINKED, ROOT_INO, S_IFDIR, S_IFMT } from './inode.js'
import { Merge, type View } from './merge.js'
import type { Rows } from './rows.js'
import type { Grave } from './undo.js'

/** Applied (''), or refused with a code; a refused op has changed nothing. */
export type Outcome = '' | DfsErrorCode

/** How names and small values are sealed; lib/seal implements it. */
export interface TreeSealer {
  /** Keyed hash of (parent's global id, name), 16 bytes. Valid until the next call. */
  nameKey(parentId: Buffer, name: Uint8Array): Buffer
  sealName(key: Buffer, name: Buffer): Buffer
  openName(key: Buffer, sealed: Buffer): Buffer
  /** `context` is the global id of the inode that it belongs to. */
  xattrKey(context: Buffer, name: Uint8Array): Buffer
  sealValue(purpose: 'symlink' | 'xattr-name' | 'xattr-value', context: Buffer, plain: Buffer): Buffer
  openValue(purpose: 'symlink' | 'xattr-name' | 'xattr-value', context: Buffer, sealed: Buffer): Buffer
}

const ALL: View = { sees: () => true }

/** Linux's own bound. */
const MAX_LINKS = 0x7fffffff

export interface TreeHost {
  readonly rows: Rows
  readonly sealer: TreeSealer
  /** 16-byte id of the incarnation with this local index. */
  incarnationId(index: number): Buffer
}

export class Tree {
  readonly rows: Rows
  readonly #sealer: TreeSealer
  readonly #incarnationId: (index: number) => Buffer
  readonly merge: Merge
  /** Other devices take part: names and removals are marked with their ops, so that concurrent ones can be told. */
  shared = false

  constructor(host: TreeHost) {
    this.rows = host.rows
    this.#sealer = host.sealer
    this.#incarnationId = host.incarnationId
    this.merge = new Merge(this, host.sealer)
  }

  /** The root of a new drive. */
  makeRoot(uid: number, gid: number, time: Time): void {
    const root = this.rows.add(ROOT_INO)
    root.mode = S_IFDIR | 0o755
    root.nlink = 2
    root.uid = uid
    root.gid = gid
    root.parent = ROOT_INO
    stampAll(root, time)
  }

  // --- reading ------------------------------------------------------------

  get(ino: number): Inode | undefined {
    return this.rows.get(ino)
  }

  /** Inode number under `name` in `parent`; 0 if none. */
  lookup(parent: Inode, name: Uint8Array): number {
    return this.rows.dentry(parent.ino, this.#sealer.nameKey(this.globalId(parent), name))
  }

  /** The key of a name in the directory of this number; undefined: there is none. Valid until the next call. */
  keyOf(dir: number, name: Uint8Array): Buffer | undefined {
    const inode = this.rows.get(dir)
    return inode && this.#sealer.nameKey(this.globalId(inode), name)
  }

  /**
   * Names of a directory in the order of their keys, from `cookie` on (0 = all).
   * `take` gets each name, inode number and the cookie to go on after it; returns
   * false when it has enough (that name was not taken).
   *
   * A cookie is the first 48 bits of the key, plus one. Should two names share
   * them, the first gets the cookie of the group's start: seen twice rather
   * than never.
   */
  list(dir: Inode, cookie: number, take: (name: Buffer, ino: number, cookie: number) => boolean): void {
    const from = Buffer.alloc(16)
    from.writeUIntBE(cookie, 0, 6)
    if (cookie > 0xffffffffffff) return
    let batch = 64
    for (;;) {
      const rows = this.rows.listDentries(dir.ino, from, batch)
      for (let i = 0; i < rows.length; i++) {
        const [key, sealed, ino] = rows[i]!
        const prefix = key.readUIntBE(0, 6)
        const next = rows[i + 1]
        const shared = next !== undefined && next[0].readUIntBE(0, 6) === prefix
        if (!take(this.#sealer.openName(key, sealed), ino, shared ? prefix : prefix + 1)) return
      }
      if (rows.length < batch) return
      // Goes on right after the last key.
      const last = rows[rows.length - 1]![0]
      last.copy(from)
      increment(from)
      batch = 256
    }
  }

  openName(key: Buffer, sealed: Buffer): Buffer {
    return this.#sealer.openName(key, sealed)
  }

  readlink(inode: Inode): Buffer {
    const sealed = this.rows.target(inode.ino)
    if (!sealed) throw fail('EINVAL', 'not a symlink')
    return this.#sealer.openValue('symlink', this.globalId(inode), sealed)
  }

  getXattr(inode: Inode, name: Uint8Array): Buffer | undefined {
    if (!(inode.flags & HAS_XATTRS)) return undefined
    const context = this.globalId(inode)
    const row = this.rows.xattr(inode.ino, this.#sealer.xattrKey(context, name))
    return row && this.#sealer.openValue('xattr-value', context, row.value)
  }

  /** The key of the row that an attribute of this name has. */
  xattrKey(inode: Inode, name: Uint8Array): Buffer { return this.#sealer.xattrKey(this.globalId(inode), name) }

  xattrNames(inode: Inode): Buffer[] {
    if (!(inode.flags & HAS_XATTRS)) return []
    const context = this.globalId(inode)
    return this.rows.xattrs(inode.ino).map(([, name]) => this.#sealer.openValue('xattr-name', context, name))
  }

  /** 24 bytes that mean the same inode on every device. */
  globalId(inode: Inode): Buffer {
    if (inode.globalId) return inode.globalId
    const id = Buffer.alloc(24)
    this.#incarnationId(Math.floor(inode.ino / INO_HIGH)).copy(id)
    id.writeUIntLE(inode.ino % INO_HIGH, 16, 6)
    return (inode.globalId = id)
  }

  /** The path of a directory from the root; for messages. */
  dirPath(dir: Inode): string {
    const parts: string[] = []
    for (let d: Inode | undefined = dir; d && d.ino !== ROOT_INO;) {
      const parent: Inode | undefined = this.rows.get(d.parent)
      if (!parent) break
      let found = '?'
      this.list(parent, 0, (name, ino) => {
        if (ino !== d!.ino) return true
        found = name.toString()
        return false
      })
      parts.unshift(found)
      d = parent
    }
    return '/' + parts.join('/')
  }

  /** Whether it is a copy that merging made, and that lost its name when it came to equal what it is a copy of. */
  isPutAway(inode: Inode): boolean { return inode.nlink === 0 && this.rows.conflicts.has(inode.ino) }

  // --- applying -----------------------------------------------------------

  /**
   * Applies `op` with the given id. `chunkNumber` finds or makes the row of a
   * chunk that a content op names. With `view`, what the op's device had seen: the
   * op was accepted there, and is merged with what it had not; without, it is a
   * new op of this device, which has seen everything.
   */
  apply(op: Op, opId: number, chunkNumber: (ref: ChunkRef) => number, view?: View): Outcome {
    if (view) {
      switch (op.type) {
        case 'create': return this.merge.create(op, opId)
        case 'link': return this.merge.link(op, opId)
        case 'unlink': return this.merge.unlink(op, opId, view)
        case 'rename': return this.merge.rename(op, opId, view)
        case 'content': return this.merge.content(op, opId, chunkNumber, view)
      }
    }
    switch (op.type) {
      case 'create': return this.#create(op, opId)
      case 'link': {
        // Here as everywhere: it gets its name back.
        const inode = this.rows.get(op.ino)
        return inode && this.isPutAway(inode) ? this.merge.link(op, opId) : this.#link(op, opId)
      }
      case 'unlink': return this.#unlink(op, opId)
      case 'rename': return this.#rename(op, opId)
      case 'setattr': return this.#setattr(op)
      case 'content': {
        const inode = this.shared && !op.unnamed ? this.rows.get(op.ino) : undefined
        // Here as everywhere: a copy that was put away while a program had it open comes back, and one that equals its original goes.
        const isCopied = inode !== undefined && (this.rows.conflicts.has(inode.ino) || this.rows.conflictsOf(inode.ino) !== undefined)
        if (isCopied || (inode?.nlink === 0 && !(inode.flags & NEVER_LINKED))) return this.merge.content(op, opId, chunkNumber, ALL)
        return this.content(op, opId, chunkNumber)
      }
      case 'xattr': return this.#xattr(op)
      case 'author': return this.#author(op, opId)
      // Of devices, not of the tree.
      case 'aside': return ''
    }
  }

  /** Makes an inode without a name (O_TMPFILE); local until it is linked. */
  createUnlinked(op: Omit<CreateOp, 'type' | 'parent' | 'name'>): Inode {
    const inode = this.fresh(op)
    inode.nlink = 0
    inode.flags |= NEVER_LINKED
    this.rows.addOrphan(inode.ino)
    return inode
  }

  /** Forgets an orphan for good. */
  reap(ino: number): void {
    if (!this.rows.isOrphan(ino)) return
    const inode = this.rows.get(ino)
    if (inode && inode.nlink > 0 && !inode.isDir) throw new Error(`invariant: inode ${ino} has names and is reaped`)
    if (inode) this.rows.remove(inode)
    this.rows.removeOrphan(ino)
  }

  #create(op: CreateOp, id: number): Outcome {
    const parent = this.rows.get(op.parent)
    if (!parent || parent.nlink === 0) return 'ENOENT'
    if (!parent.isDir) return 'ENOTDIR'
    const key = this.#sealer.nameKey(this.globalId(parent), op.name)
    if (this.rows.dentry(parent.ino, key) !== 0) return 'EEXIST'
    const dir = (op.mode & S_IFMT) === S_IFDIR
    if (dir && parent.nlink >= MAX_LINKS) return 'EMLINK'
    this.rows.setDentry(parent.ino, key, this.#sealer.sealName(key, op.name), op.ino, this.mark(id))
    const inode = this.fresh(op)
    inode.nlink = dir ? 2 : 1
    inode.parent = parent.ino
    this.rows.touchNames(parent, dir ? 1 : 0)
    stamp(parent, op.time)
    return ''
  }

  /** The inode that a create op makes, without names. */
  fresh(op: Omit<CreateOp, 'type' | 'parent' | 'name'>): Inode {
    const inode = this.rows.add(op.ino)
    inode.mode = op.mode
    inode.uid = op.uid
    inode.gid = op.gid
    inode.rdev = op.rdev
    stampAll(inode, op.time)
    if (op.target) {
      inode.size = op.target.length
      this.rows.setTarget(op.ino, this.#sealer.sealValue('symlink', this.globalId(inode), op.target))
    }
    for (const [name, value] of op.xattrs ?? []) this.putXattr(inode, name, value)
    return inode
  }

  #link(op: LinkOp, id: number): Outcome {
    const inode = this.rows.get(op.ino)
    const parent = this.rows.get(op.parent)
    if (!inode || !parent || parent.nlink === 0) return 'ENOENT'
    if (!parent.isDir) return 'ENOTDIR'
    if (inode.isDir) return 'EPERM'
    if (inode.nlink === 0 && !(inode.flags & NEVER_LINKED)) return 'ENOENT'
    if (inode.nlink >= MAX_LINKS) return 'EMLINK'
    const key = this.#sealer.nameKey(this.globalId(parent), op.name)
    if (this.rows.dentry(parent.ino, key) !== 0) return 'EEXIST'
    this.rows.setDentry(parent.ino, key, this.#sealer.sealName(key, op.name), inode.ino, inode.flags & NEVER_LINKED ? this.mark(id) : -this.mark(id))
    this.rows.touch(inode)
    inode.parent = parent.ino
    if (inode.nlink++ === 0) {
      inode.flags &= ~NEVER_LINKED
      this.rows.removeOrphan(inode.ino)
    }
    changed(inode, op.time)
    this.rows.touchNames(parent, 0)
    stamp(parent, op.time)
    return ''
  }

  #unlink(op: UnlinkOp, id: number): Outcome {
    const parent = this.rows.get(op.parent)
    if (!parent) return 'ENOENT'
    if (!parent.isDir) return 'ENOTDIR'
    const key = this.#sealer.nameKey(this.globalId(parent), op.name)
    const ino = this.rows.dentry(parent.ino, key)
    if (ino === 0 || (op.ino !== 0 && ino !== op.ino)) return 'ENOENT'
    const inode = this.rows.get(ino)
    if (!inode) return 'EIO'
    if (op.dir) {
      if (!inode.isDir) return 'ENOTDIR'
      if (!this.rows.isEmptyDir(ino)) return 'ENOTEMPTY'
    } else if (inode.isDir) return 'EISDIR'
    const grave = this.grave(parent.ino, key, op.name, id)
    this.rows.removeDentry(parent.ino, key)
    this.rows.touchNames(parent, op.dir ? -1 : 0)
    stamp(parent, op.time)
    this.dropName(inode, op.time, grave)
    return ''
  }

  /** A name of `inode` went; the last one makes it an orphan. */
  dropName(inode: Inode, time: Time, grave: Grave | undefined): void {
    this.rows.touch(inode)
    this.rows.setConflict(inode.ino, null)
    inode.nlink = inode.isDir ? 0 : inode.nlink - 1
    changed(inode, time)
    if (inode.nlink === 0) this.rows.addOrphan(inode.ino, grave)
  }

  /** As a name is marked with the op that placed it. */
  mark(id: number): number { return this.shared ? id : 0 }

  /** Where a name was that `id` takes away; nobody asks on a drive with one device, unless it is kept for a while. */
  grave(parent: number, key: Buffer, name: Buffer, id: number): Grave | undefined {
    return this.shared || this.rows.recorder ? { parent, key: Buffer.from(key), name: this.#sealer.sealName(key, name), op: id } : undefined
  }

  #rename(op: RenameOp, id: number): Outcome {
    const from = this.rows.get(op.parent)
    const to = this.rows.get(op.newParent)
    if (!from || !to || to.nlink === 0) return 'ENOENT'
    if (!from.isDir || !to.isDir) return 'ENOTDIR'
    const oldKey = Buffer.from(this.#sealer.nameKey(this.globalId(from), op.name))
    const newKey = Buffer.from(this.#sealer.nameKey(this.globalId(to), op.newName))
    const ino = this.rows.dentry(from.ino, oldKey)
    if (ino === 0 || (op.ino !== 0 && ino !== op.ino)) return 'ENOENT'
    const overIno = this.rows.dentry(to.ino, newKey)
    if (overIno !== op.over) return overIno === 0 ? 'ENOENT' : 'EEXIST'
    const inode = this.rows.get(ino)
    const over = overIno === 0 ? undefined : this.rows.get(overIno)
    if (!inode || (overIno !== 0 && !over)) return 'EIO'
    if (inode === over) return ''
    if (inode.isDir && this.isWithin(to, inode)) return 'EINVAL'
    if (op.exchange) {
      if (!over) return 'ENOENT'
      if (over.isDir && this.isWithin(from, over)) return 'EINVAL'
      this.rows.setDentry(from.ino, oldKey, this.#sealer.sealName(oldKey, op.name), over.ino, -this.mark(id))
      this.rows.setDentry(to.ino, newKey, this.#sealer.sealName(newKey, op.newName), ino, -this.mark(id))
      this.moved(inode, from, to, op.time)
      this.moved(over, to, from, op.time)
    } else {
      if (over) {
        if (over.isDir && !inode.isDir) return 'EISDIR'
        if (!over.isDir && inode.isDir) return 'ENOTDIR'
        if (over.isDir && !this.rows.isEmptyDir(over.ino)) return 'ENOTEMPTY'
      }
      this.rows.removeDentry(from.ino, oldKey)
      const grave = over && this.grave(to.ino, newKey, op.newName, id)
      this.rows.setDentry(to.ino, newKey, this.#sealer.sealName(newKey, op.newName), ino, -this.mark(id))
      this.moved(inode, from, to, op.time)
      this.rows.setConflict(inode.ino, null)
      if (over) {
        if (over.isDir) this.rows.touchNames(to, -1)
        this.dropName(over, op.time, grave)
      }
    }
    stamp(from, op.time)
    stamp(to, op.time)
    return ''
  }

  moved(inode: Inode, from: Inode, to: Inode, time: Time): void {
    const links = inode.isDir && from !== to ? 1 : 0
    this.rows.touch(inode)
    this.rows.touchNames(from, -links)
    this.rows.touchNames(to, links)
    changed(inode, time)
    inode.parent = to.ino
  }

  /** Whether `dir` is `top` or lies below it. */
  isWithin(dir: Inode, top: Inode): boolean {
    for (let d: Inode | undefined = dir; d; d = d.ino === ROOT_INO ? undefined : this.rows.get(d.parent)) {
      if (d === top) return true
    }
    return false
  }

  #setattr(op: SetAttrOp): Outcome {
    const inode = this.rows.get(op.ino)
    if (!inode) return 'ENOENT'
    this.rows.touch(inode)
    if (op.mode !== undefined) inode.mode = (inode.mode & S_IFMT) | (op.mode & 0o7777)
    if (op.uid !== undefined) inode.uid = op.uid
    if (op.gid !== undefined) inode.gid = op.gid
    if (op.atime) { inode.atime = op.atime.sec; inode.atimeNs = op.atime.nsec }
    if (op.mtime) {
      inode.mtime = op.mtime.sec
      inode.mtimeNs = op.mtime.nsec
      if (inode.pending) { inode.pending.mtime = op.mtime.sec; inode.pending.mtimeNs = op.mtime.nsec }
    }
    changed(inode, op.ctime)
    return ''
  }

  content(op: ContentOp, opId: number, chunkNumber: (ref: ChunkRef) => number): Outcome {
    const inode = this.rows.get(op.ino)
    if (!inode) return 'ENOENT'
    if (!inode.isFile) return 'EINVAL'
    // Extents past the size would be missed by the next op's look-up.
    for (const p of op.pieces) if (p.off + p.len > op.size) return 'EINVAL'
    this.rows.touch(inode)
    const view = inode.pending ?? inode
    if (op.cut < view.size) {
      this.rows.dropExtents(inode, op.cut, Infinity)
      view.size = op.cut
    }
    const numbers = op.chunks.map(chunkNumber)
    for (const p of op.pieces) {
      // Extents never reach past the size that the tree has, so that appends need no look-up.
      if (p.off < view.size) this.rows.dropExtents(inode, p.off, p.off + p.len)
      if (p.chunk >= 0) this.rows.addExtent(inode, p.off, p.len, numbers[p.chunk]!, p.coff)
    }
    if (op.size < view.size) this.rows.dropExtents(inode, op.size, Infinity)
    view.size = op.size
    view.mtime = op.mtime.sec; view.mtimeNs = op.mtime.nsec
    view.ctime = op.ctime.sec; view.ctimeNs = op.ctime.nsec
    inode.version = opId
    return ''
  }

  #xattr(op: XattrOp): Outcome {
    const inode = this.rows.get(op.ino)
    if (!inode) return 'ENOENT'
    this.rows.touch(inode)
    if (op.value) this.putXattr(inode, op.name, op.value)
    else this.rows.setXattr(inode.ino, this.xattrKey(inode, op.name), null)
    if (op.mode !== undefined) inode.mode = (inode.mode & S_IFMT) | (op.mode & 0o7777)
    changed(inode, op.ctime)
    return ''
  }

  /** Said once, by the first entry of an incarnation. */
  #author(op: AuthorOp, id: number): Outcome {
    return this.rows.setAuthor(Math.floor(id / INO_HIGH), op.name.toString()) ? '' : 'EEXIST'
  }

  putXattr(inode: Inode, name: Buffer, value: Buffer): void {
    inode.flags |= HAS_XATTRS
    const context = this.globalId(inode)
    this.rows.setXattr(inode.ino, this.#sealer.xattrKey(context, name), {
      name: this.#sealer.sealValue('xattr-name', context, name),
      value: this.#sealer.sealValue('xattr-value', context, value),
    })
  }
}

/** Adds one to a big-endian number. */
function increment(key: Buffer): void {
  for (let i = key.length - 1; i >= 0; i--) {
    if (key[i] !== 255) {
      key[i]!++
      return
    }
    key[i] = 0
  }
}

/** mtime and ctime, both sides of pending writes. */
export function stamp(inode: Inode, t: Time): void {
  inode.mtime = t.sec
  inode.mtimeNs = t.nsec
  changed(inode, t)
}

export function changed(inode: Inode, t: Time): void {
  inode.ctime = t.sec
  inode.ctimeNs = t.nsec
  if (inode.pending) { inode.pending.ctime = t.sec; inode.pending.ctimeNs = t.nsec }
}

function stampAll(inode: Inode, t: Time): void {
  inode.atime = t.sec
  inode.atimeNs = t.nsec
  stamp(inode, t)
}
