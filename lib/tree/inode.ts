/**
 * An inode as kept in memory. The tree holds at most one object per inode
 * number, so that every room sees the same one.
 *
 * `size`, `mtime` and `ctime` are what programs see. While the file has writes
 * that are not in the tree yet, `pending` holds what the tree has: rows are
 * written from there, so that a crash never shows a size without its data.
 */
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../log/mode.js'

export { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from '../log/mode.js'
export const S_ISUID = 0o4000, S_ISGID = 0o2000, S_ISVTX = 0o1000, S_IXGRP = 0o0010

/** Inode flags, local to this device. */
export const NEVER_LINKED = 1
/** It has, or once had, extended attributes: others need no look-up. */
export const HAS_XATTRS = 2

export const ROOT_INO = 1
export { INO_HIGH } from '../log/ops.js'

/** What the tree has of a file with unflushed writes. */
export interface Pending { size: number; mtime: number; mtimeNs: number; ctime: number; ctimeNs: number }

export class Inode {
  readonly ino: number
  mode = 0
  nlink = 0
  uid = 0
  gid = 0
  rdev = 0
  /** Bytes. */
  size = 0
  /** Directories: the directory that holds it. Others: the one in which it got its last name, which may be gone; 0: not known. */
  parent = 0
  /** Id of the op that last changed the content. */
  version = 0
  atime = 0
  atimeNs = 0
  mtime = 0
  mtimeNs = 0
  ctime = 0
  ctimeNs = 0
  flags = 0
  /** Bytes under extents in the tree. */
  bytes = 0

  /** Set while unflushed writes exist. */
  pending: Pending | null = null
  /** The row differs from the database. */
  dirty = false
  /** Held by open files, dirty data, a walk: not to be evicted. */
  pins = 0
  /** Global id, (incarnation, counter) in 24 bytes; made when first asked for. */
  globalId: Buffer | null = null

  constructor(ino: number) {
    this.ino = ino
  }

  /** As a new one, to the tree; what is held and unflushed stays. */
  reset(): this {
    const p = this.pending ?? this
    p.size = 0
    this.mode = this.nlink = this.uid = this.gid = this.rdev = this.parent = this.version = this.flags = this.bytes = 0
    return this
  }

  get isDir(): boolean { return (this.mode & S_IFMT) === S_IFDIR }
  get isFile(): boolean { return (this.mode & S_IFMT) === S_IFREG }
  get isLink(): boolean { return (this.mode & S_IFMT) === S_IFLNK }

  /** 512-byte units. Unflushed bytes count by the size, for they will have extents. */
  get blocks(): number {
    if (this.isDir) return 8
    const bytes = this.pending ? Math.max(this.bytes, Math.min(this.size, this.bytes + Math.max(0, this.size - this.pending.size))) : this.bytes
    return Math.ceil(bytes / 4096) * 8
  }
}
