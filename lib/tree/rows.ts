/**
 * The tree's rows: inodes (through a cache, written behind), names, extents,
 * xattrs, symlinks, orphans. The only code that reads or writes these tables.
 *
 * Invariants:
 * - at most one Inode object per number exists while anybody holds it;
 * - an inode object with `dirty` differs from its row; `flush` (before every
 *   commit, and before any query that scans rows) writes them all;
 * - with a recorder set, every change first hands over its before-image, so
 *   that undoing the images in reverse gives back exactly the old rows.
 */
import type { Database, Statement } from '../store/database.js'
import type { ChunkTable } from '../store/chunks.js'
import { HAS_XATTRS, Inode } from './inode.js'
import type { UndoRecorder } from './undo.js'

export interface Extent { off: number; len: number; chunk: number; coff: number }
/** An extent with what reading needs of its chunk. */
export interface ReadExtent extends Extent { clen: number; seg: number; soff: number; h: Buffer }

/** Inodes in memory besides those that are pinned or dirty: about 300 bytes each. */
const CACHE_INODES = 32768

/** Ranges up to this size are tried as one extent first. */
const SINGLE_BYTES = 64 << 10
/** Extents fetched ahead for a reader that goes on, and how many files are remembered. */
const WINDOW_EXTENTS = 256
const WINDOWS = 64

export class Rows {
  recorder: UndoRecorder | null = null
  readonly chunks: ChunkTable
  #young = new Map<number, Inode>()
  #old = new Map<number, Inode>()
  #rotateAt = CACHE_INODES / 2
  readonly #dirty = new Set<Inode>()
  /** Extents read lately, complete within [from, to). */
  readonly #windows = new Map<number, { from: number; to: number; list: ReadExtent[] }>()
  /** Unnamed inodes: whether the orphan table has the row. */
  readonly #orphans = new Map<number, boolean>()

  readonly #getInode: Statement
  readonly #putInode: Statement
  readonly #delInode: Statement
  readonly #getDentry: Statement
  readonly #putDentry: Statement
  readonly #delDentry: Statement
  readonly #anyDentry: Statement
  readonly #listDentries: Statement
  readonly #overlap: Statement
  readonly #readExtents: Statement
  readonly #oneExtent: Statement
  readonly #putExtent: Statement
  readonly #delExtent: Statement
  readonly #getXattr: Statement
  readonly #putXattr: Statement
  readonly #delXattr: Statement
  readonly #listXattrs: Statement
  readonly #getLink: Statement
  readonly #putLink: Statement
  readonly #delLink: Statement
  readonly #putOrphan: Statement
  readonly #delOrphan: Statement

  constructor(db: Database, chunks: ChunkTable) {
    this.chunks = chunks
    chunks.onMove = () => this.#windows.clear()
    const p = (text: string) => db.sql.prepare(text) as unknown as Statement
    const q = (text: string) => db.sql.prepare(text).raw(true) as unknown as Statement
    this.#getInode = q('SELECT mode,nlink,uid,gid,rdev,size,parent,version,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,flags,bytes FROM inode WHERE ino=?')
    this.#putInode = p('INSERT OR REPLACE INTO inode(ino,mode,nlink,uid,gid,rdev,size,parent,version,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,flags,bytes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)')
    this.#delInode = p('DELETE FROM inode WHERE ino=?')
    this.#getDentry = q('SELECT ino FROM dentry WHERE parent=? AND key=?')
    this.#putDentry = p('INSERT OR REPLACE INTO dentry VALUES (?,?,?,?)')
    this.#delDentry = p('DELETE FROM dentry WHERE parent=? AND key=?')
    this.#anyDentry = q('SELECT 1 FROM dentry WHERE parent=? LIMIT 1')
    this.#listDentries = q('SELECT key,name,ino FROM dentry WHERE parent=? AND key>=? ORDER BY key LIMIT ?')
    const range = 'e.ino=? AND e.off>=ifnull((SELECT max(off) FROM extent WHERE ino=? AND off<=?),?) AND e.off<?'
    this.#overlap = q(`SELECT e.off,e.len,e.chunk,e.coff FROM extent e WHERE ${range} ORDER BY e.off`)
    this.#readExtents = q(`SELECT e.off,e.len,e.chunk,e.coff,c.len,c.seg,c.off,c.h FROM extent e LEFT JOIN chunk c ON c.num=e.chunk WHERE ${range} ORDER BY e.off LIMIT ?`)
    this.#oneExtent = q('SELECT e.off,e.len,e.chunk,e.coff,c.len,c.seg,c.off,c.h FROM extent e LEFT JOIN chunk c ON c.num=e.chunk WHERE e.ino=? AND e.off<=? ORDER BY e.off DESC LIMIT 1')
    this.#putExtent = p('INSERT OR REPLACE INTO extent VALUES (?,?,?,?,?)')
    this.#delExtent = p('DELETE FROM extent WHERE ino=? AND off=?')
    this.#getXattr = q('SELECT name,value FROM xattr WHERE ino=? AND key=?')
    this.#putXattr = p('INSERT OR REPLACE INTO xattr VALUES (?,?,?,?)')
    this.#delXattr = p('DELETE FROM xattr WHERE ino=? AND key=?')
    this.#listXattrs = q('SELECT key,name,value FROM xattr WHERE ino=?')
    this.#getLink = q('SELECT target FROM symlink WHERE ino=?')
    this.#putLink = p('INSERT OR REPLACE INTO symlink VALUES (?,?)')
    this.#delLink = p('DELETE FROM symlink WHERE ino=?')
    this.#putOrphan = p('INSERT OR IGNORE INTO orphan VALUES (?)')
    this.#delOrphan = p('DELETE FROM orphan WHERE ino=?')
    for (const row of q('SELECT ino FROM orphan').all() as [number][]) this.#orphans.set(row[0], true)
  }

  // --- inodes -------------------------------------------------------------

  get(ino: number): Inode | undefined {
    let inode = this.#young.get(ino)
    if (inode !== undefined) return inode
    inode = this.#old.get(ino)
    if (inode === undefined) {
      const r = this.#getInode.get(ino) as number[] | undefined
      if (r === undefined) return undefined
      inode = new Inode(ino)
      inode.mode = r[0]!; inode.nlink = r[1]!; inode.uid = r[2]!; inode.gid = r[3]!; inode.rdev = r[4]!; inode.size = r[5]!
      inode.parent = r[6]!; inode.version = r[7]!
      inode.atime = r[8]!; inode.atimeNs = r[9]!; inode.mtime = r[10]!; inode.mtimeNs = r[11]!; inode.ctime = r[12]!; inode.ctimeNs = r[13]!
      inode.flags = r[14]!; inode.bytes = r[15]!
    }
    this.#remember(inode)
    return inode
  }

  /** A new inode, to be filled in by the caller. */
  add(ino: number): Inode {
    this.recorder?.inode(ino, null)
    const inode = new Inode(ino)
    inode.dirty = true
    this.#dirty.add(inode)
    this.#remember(inode)
    return inode
  }

  /** To be called BEFORE fields of `inode` that the tree keeps are changed. */
  touch(inode: Inode): void {
    this.recorder?.inode(inode.ino, rowOf(inode))
    if (inode.dirty) return
    inode.dirty = true
    this.#dirty.add(inode)
  }

  /** Removes the inode and everything that hangs on it but its names. */
  remove(inode: Inode): void {
    this.recorder?.inode(inode.ino, rowOf(inode))
    if (inode.isFile && inode.bytes > 0) this.dropExtents(inode, 0, Infinity)
    if (inode.isLink) this.setTarget(inode.ino, null)
    if (inode.flags & HAS_XATTRS) for (const [key] of this.xattrs(inode.ino)) this.setXattr(inode.ino, key, null)
    inode.dirty = false
    this.#dirty.delete(inode)
    this.#delInode.run(inode.ino)
    this.#young.delete(inode.ino)
    this.#old.delete(inode.ino)
  }

  /** Puts a before-image back (undo). */
  restoreInode(ino: number, row: number[] | null): void {
    const inode = this.get(ino)
    if (row === null) {
      if (inode) {
        inode.dirty = false
        this.#dirty.delete(inode)
        this.#young.delete(ino)
        this.#old.delete(ino)
      }
      this.#delInode.run(ino)
      return
    }
    const target = inode ?? this.add(ino)
    fill(target, row)
    if (!target.dirty) {
      target.dirty = true
      this.#dirty.add(target)
    }
  }

  /** Writes what was changed behind the cache. Before each commit and each scan. */
  flush(): void {
    for (const inode of this.#dirty) {
      inode.dirty = false
      this.#putInode.run(...rowOf(inode))
    }
    this.#dirty.clear()
    for (const [ino, stored] of this.#orphans) {
      if (stored) continue
      this.#putOrphan.run(ino)
      this.#orphans.set(ino, true)
    }
    this.chunks.flush()
  }

  /** Rows were changed behind the cache (fsck): what is clean is read again; objects that are held are refreshed. */
  forget(): void {
    this.flush()
    this.#windows.clear()
    for (const map of [this.#young, this.#old]) {
      for (const [ino, inode] of map) {
        if (inode.pins === 0) map.delete(ino)
        else {
          const row = this.#getInode.get(ino) as number[] | undefined
          if (row) { inode.nlink = row[1]!; inode.bytes = row[15]! }
        }
      }
    }
  }

  get dirtyCount(): number { return this.#dirty.size }

  #remember(inode: Inode): void {
    this.#young.set(inode.ino, inode)
    if (this.#young.size < this.#rotateAt) return
    const dropped = this.#old
    this.#old = this.#young
    this.#young = new Map()
    for (const [ino, kept] of dropped) {
      if ((kept.pins > 0 || kept.dirty) && !this.#old.has(ino)) this.#young.set(ino, kept)
    }
    this.#rotateAt = this.#young.size + CACHE_INODES / 2
  }

  // --- orphans ------------------------------------------------------------

  addOrphan(ino: number): void {
    this.recorder?.orphan(ino, false)
    if (!this.#orphans.has(ino)) this.#orphans.set(ino, false)
  }

  removeOrphan(ino: number): void {
    const stored = this.#orphans.get(ino)
    if (stored === undefined) return
    this.recorder?.orphan(ino, true)
    if (stored) this.#delOrphan.run(ino)
    this.#orphans.delete(ino)
  }

  isOrphan(ino: number): boolean { return this.#orphans.has(ino) }
  orphans(): number[] { return [...this.#orphans.keys()] }

  // --- names --------------------------------------------------------------

  /** The inode number under a name's key; 0 if none. */
  dentry(parent: number, key: Buffer): number {
    const r = this.#getDentry.get(parent, key) as [number] | undefined
    return r === undefined ? 0 : r[0]
  }

  /** `old` is what the key holds now (0: nothing), which every caller has looked up. */
  setDentry(parent: number, key: Buffer, name: Buffer, ino: number): void {
    this.recorder?.dentry(parent, key, this.#before(parent, key))
    this.#putDentry.run(parent, key, name, ino)
  }

  removeDentry(parent: number, key: Buffer): void {
    this.recorder?.dentry(parent, key, this.#before(parent, key))
    this.#delDentry.run(parent, key)
  }

  isEmptyDir(ino: number): boolean {
    return this.#anyDentry.get(ino) === undefined
  }

  /** At most `limit` names from `key` on, in key order. */
  listDentries(parent: number, key: Buffer, limit: number): [key: Buffer, name: Buffer, ino: number][] {
    return this.#listDentries.all(parent, key, limit) as [Buffer, Buffer, number][]
  }

  #before(parent: number, key: Buffer): { name: Buffer; ino: number } | null {
    const rows = this.listDentries(parent, key, 1)
    return rows.length && rows[0]![0].equals(key) ? { name: rows[0]![1], ino: rows[0]![2] } : null
  }

  // --- extents ------------------------------------------------------------

  /** Extents that overlap [from, to), with their chunks; at most `limit`. */
  extents(ino: number, from: number, to: number, limit = 4096): ReadExtent[] {
    const window = this.#windows.get(ino)
    if (window && window.from <= from && to <= window.to) return slice(window.list, from, to, limit)
    // Most small reads lie within one extent.
    if (to - from <= SINGLE_BYTES) {
      const r = this.#oneExtent.get(ino, from) as ExtentRow | undefined
      if (r && r[0] + r[1] >= to) return [readExtent(r)]
    }
    // A reader that goes on where the window ended gets the next one.
    if (window && from >= window.from && from <= window.to && to > window.to && limit > 1) {
      const next = this.#query(ino, from, Infinity, WINDOW_EXTENTS)
      const end = next.length < WINDOW_EXTENTS ? Infinity : next[next.length - 1]!.off + next[next.length - 1]!.len
      this.#windows.set(ino, { from, to: end, list: next })
      if (to <= end) return slice(next, from, to, limit)
    }
    const list = this.#query(ino, from, to, limit)
    if (list.length < limit) {
      if (this.#windows.size >= WINDOWS) this.#windows.clear()
      this.#windows.set(ino, { from, to, list })
    }
    return list.slice()
  }

  #query(ino: number, from: number, to: number, limit: number): ReadExtent[] {
    const out: ReadExtent[] = []
    for (const r of this.#readExtents.all(ino, ino, from, from, bound(to), limit) as ExtentRow[]) {
      if (r[0] + r[1] > from) out.push(readExtent(r))
    }
    return out
  }

  addExtent(inode: Inode, off: number, len: number, chunk: number, coff: number): void {
    this.recorder?.extent(inode.ino, off, null)
    this.#windows.delete(inode.ino)
    this.#putExtent.run(inode.ino, off, len, chunk, coff)
    this.chunks.ref(chunk, 1)
    inode.bytes += len
  }

  /** Cuts [from, to) out of the file's extents. The caller has touched the inode. */
  dropExtents(inode: Inode, from: number, to: number): void {
    this.#windows.delete(inode.ino)
    const rows = this.#overlap.all(inode.ino, inode.ino, from, from, bound(to)) as [number, number, number, number][]
    for (const [off, len, chunk, coff] of rows) {
      const end = off + len
      if (end <= from) continue
      this.recorder?.extent(inode.ino, off, { len, chunk, coff })
      let refs = -1
      if (off < from) {
        this.#putExtent.run(inode.ino, off, from - off, chunk, coff)
        refs++
      } else {
        this.#delExtent.run(inode.ino, off)
      }
      if (end > to) {
        this.recorder?.extent(inode.ino, to, null)
        this.#putExtent.run(inode.ino, to, end - to, chunk, coff + (to - off))
        refs++
      }
      if (refs !== 0) this.chunks.ref(chunk, refs)
      inode.bytes -= Math.min(end, to) - Math.max(off, from)
    }
  }

  /** Undo: puts one extent row back as it was; refs follow, inode.bytes comes with the inode's own image. */
  restoreExtent(ino: number, off: number, old: { len: number; chunk: number; coff: number } | null): void {
    this.#windows.delete(ino)
    const now = (this.#overlap.all(ino, ino, off, off, off + 1) as [number, number, number, number][]).find((r) => r[0] === off)
    if (now) {
      this.chunks.ref(now[2], -1)
      this.#delExtent.run(ino, off)
    }
    if (old) {
      this.#putExtent.run(ino, off, old.len, old.chunk, old.coff)
      this.chunks.ref(old.chunk, 1)
    }
  }

  // --- xattrs and symlinks ------------------------------------------------

  xattr(ino: number, key: Buffer): { name: Buffer; value: Buffer } | undefined {
    const r = this.#getXattr.get(ino, key) as [Buffer, Buffer] | undefined
    return r && { name: r[0], value: r[1] }
  }

  xattrs(ino: number): [key: Buffer, name: Buffer, value: Buffer][] {
    return this.#listXattrs.all(ino) as [Buffer, Buffer, Buffer][]
  }

  setXattr(ino: number, key: Buffer, to: { name: Buffer; value: Buffer } | null): void {
    this.recorder?.xattr(ino, key, this.xattr(ino, key) ?? null)
    if (to) this.#putXattr.run(ino, key, to.name, to.value)
    else this.#delXattr.run(ino, key)
  }

  target(ino: number): Buffer | undefined {
    return (this.#getLink.get(ino) as [Buffer] | undefined)?.[0]
  }

  setTarget(ino: number, sealed: Buffer | null): void {
    this.recorder?.target(ino, this.target(ino) ?? null)
    if (sealed) this.#putLink.run(ino, sealed)
    else this.#delLink.run(ino)
  }
}

type ExtentRow = [off: number, len: number, chunk: number, coff: number, clen: number | null, seg: number, soff: number, h: Buffer]

function readExtent(r: ExtentRow): ReadExtent {
  return { off: r[0], len: r[1], chunk: r[2], coff: r[3], clen: r[4] ?? -1, seg: r[5], soff: r[6], h: r[7] }
}

/** Members of a sorted list that overlap [from, to). */
function slice(list: ReadExtent[], from: number, to: number, limit: number): ReadExtent[] {
  let lo = 0
  let hi = list.length
  while (lo < hi) {
    const mid = (lo + hi) >>> 1
    if (list[mid]!.off + list[mid]!.len > from) hi = mid
    else lo = mid + 1
  }
  let end = lo
  while (end < list.length && end - lo < limit && list[end]!.off < to) end++
  return list.slice(lo, end)
}

/** SQLite has no infinity among integers. */
function bound(to: number): number {
  return to === Infinity ? Number.MAX_SAFE_INTEGER : to
}

/** As the inode table has it: the committed side of a file with pending writes. */
function rowOf(i: Inode): number[] {
  const p = i.pending ?? i
  return [i.ino, i.mode, i.nlink, i.uid, i.gid, i.rdev, p.size, i.parent, i.version, i.atime, i.atimeNs, p.mtime, p.mtimeNs, p.ctime, p.ctimeNs, i.flags, i.bytes]
}

function fill(i: Inode, r: number[]): void {
  i.mode = r[1]!; i.nlink = r[2]!; i.uid = r[3]!; i.gid = r[4]!; i.rdev = r[5]!; i.parent = r[7]!; i.version = r[8]!
  i.atime = r[9]!; i.atimeNs = r[10]!; i.flags = r[15]!; i.bytes = r[16]!
  const p = i.pending ?? i
  p.size = r[6]!; p.mtime = r[11]!; p.mtimeNs = r[12]!; p.ctime = r[13]!; p.ctimeNs = r[14]!
}
