/**
 * What a batch of other devices' ops has changed for those who watch: names,
 * attributes, ranges of content. Ops may be taken back and applied again on the
 * way; only the difference between before and after counts.
 */
import type { Inode } from './inode.js'
import type { Named } from './undo.js'

/** What a watcher can see of an inode. */
interface Seen { mode: number; nlink: number; uid: number; gid: number; size: number; mtime: number; mtimeNs: number; ctime: number; ctimeNs: number; version: number }

export class ChangeSet {
  /** As they were when first touched; null: there was none. */
  readonly inodes = new Map<number, Seen | null>()
  readonly dentries = new Map<number, Map<string, Named | null>>()
  /** Where extents of a file were touched. */
  readonly ranges = new Map<number, { from: number; to: number }>()

  inode(ino: number, inode: Inode | null): void {
    if (this.inodes.has(ino)) return
    this.inodes.set(ino, inode && seen(inode))
  }

  dentry(parent: number, key: Buffer, old: Named | null): void {
    let names = this.dentries.get(parent)
    if (!names) this.dentries.set(parent, (names = new Map()))
    const k = key.toString('latin1')
    if (!names.has(k)) names.set(k, old)
  }

  hasDentry(parent: number, key: Buffer): boolean {
    return this.dentries.get(parent)?.has(key.toString('latin1')) ?? false
  }

  extents(ino: number, from: number, to: number): void {
    const known = this.ranges.get(ino)
    if (!known) this.ranges.set(ino, { from, to })
    else {
      known.from = Math.min(known.from, from)
      known.to = Math.max(known.to, to)
    }
  }
}

export function seen(i: Inode): Seen {
  return { mode: i.mode, nlink: i.nlink, uid: i.uid, gid: i.gid, size: i.size, mtime: i.mtime, mtimeNs: i.mtimeNs, ctime: i.ctime, ctimeNs: i.ctimeNs, version: i.version }
}

export function isSame(a: Seen, b: Seen): boolean {
  return a.mode === b.mode && a.nlink === b.nlink && a.uid === b.uid && a.gid === b.gid && a.size === b.size && a.mtime === b.mtime &&
    a.mtimeNs === b.mtimeNs && a.ctime === b.ctime && a.ctimeNs === b.ctimeNs && a.version === b.version
}
