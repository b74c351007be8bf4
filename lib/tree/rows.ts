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
import { HAS_XATTRS, Inode, ROOT_INO } from './inode.js'
import type { ChangeSet } from './changes.js'
import type { Conflict, Grave, Named, Stamp, UndoRecorder } from './undo.js'

export interface Extent { off: number; len: number; chunk: number; coff: number }
/** A name and where it stands. */
export interface Place { parent: number; key: Buffer; name: Buffer; op: number }
/** An extent with what reading needs of its chunk. */
export interface ReadExtent extends Extent { clen: number; seg: number; soff: number; h: Buffer }

/** Inodes in memory besides those that are pinned or dirty: about 300 bytes each. */
const CACHE_INODES = 32768

/** Ranges up to this size are tried as one extent first. */
const SINGLE_BYTES = 64 << 10
/** Extents fetched ahead for a reader that goes on, and how many files are remembered. */
const WINDOW_EXTENTS = 256
const WINDOWS = 64

/** Orphans remembered besides those whose rows are not written yet. */
const CACHE_ORPHANS = 65536
const NOWHERE: Grave = { parent: 0, key: Buffer.alloc(0), name: Buffer.alloc(0), op: 0 }

/** Who follows what directories are above which chunks (factors.ts). */
export interface Follower {
  /** A name is about to stand for something else. */
  dentry(): void
  /** A file has another extent with a chunk. */
  extent(ino: number, chunk: number): void
  /** An attribute was set, or has gone. */
  xattr(ino: number, key: Buffer): void
}

export class Rows {
  recorder: UndoRecorder | null = null
  follower: Follower | null = null
  /** Told of extended attributes of the root directory, before they change. */
  onRootXattr: () => void = () => {}
  /** Set while ops of others are brought in: notes what was touched, and how it was. */
  changes: ChangeSet | null = null
  readonly chunks: ChunkTable
  #young = new Map<number, Inode>()
  #old = new Map<number, Inode>()
  #rotateAt = CACHE_INODES / 2
  readonly #dirty = new Set<Inode>()
  /** Extents read lately, complete within [from, to). */
  readonly #windows = new Map<number, { from: number; to: number; list: ReadExtent[] }>()
  /** Unnamed inodes, and whether the orphan table has the row. */
  readonly #orphans = new Map<number, { grave: Grave; stored: boolean }>()
  /** Some orphans are in their table alone. */
  #moreOrphans = false
  /** Directories that merged into another: their number, and what it stands for. Few, so all are here. */
  readonly #aliases = new Map<number, number>()
  readonly #conflicts = new Map<number, Conflict>()
  readonly #conflictsOf = new Map<number, Set<number>>()
  /** Objects of inodes that were undone while somebody held them: an op that makes the inode again goes on with the same. */
  readonly #limbo = new Map<number, Inode>()

  readonly #db: Database
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
  readonly #getOrphan: Statement
  readonly #getDentryRow: Statement
  readonly #putAlias: Statement
  readonly #delAlias: Statement
  readonly #putConflict: Statement
  readonly #delConflict: Statement
  readonly #findName: Statement
  readonly #findAnyName: Statement

  constructor(db: Database, chunks: ChunkTable) {
    this.#db = db
    this.chunks = chunks
    chunks.onMove = () => this.#windows.clear()
    const p = (text: string) => db.sql.prepare(text) as unknown as Statement
    const q = (text: string) => db.sql.prepare(text).raw(true) as unknown as Statement
    this.#getInode = q('SELECT mode,nlink,uid,gid,rdev,size,parent,version,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,flags,bytes FROM inode WHERE ino=?')
    this.#putInode = p('INSERT OR REPLACE INTO inode(ino,mode,nlink,uid,gid,rdev,size,parent,version,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,flags,bytes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)')
    this.#delInode = p('DELETE FROM inode WHERE ino=?')
    this.#getDentry = q('SELECT ino FROM dentry WHERE parent=? AND key=?')
    this.#putDentry = p('INSERT OR REPLACE INTO dentry VALUES (?,?,?,?,?)')
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
    this.#putOrphan = p('INSERT OR REPLACE INTO orphan VALUES (?,?,?,?,?)')
    this.#delOrphan = p('DELETE FROM orphan WHERE ino=?')
    this.#getOrphan = q('SELECT parent,key,name,op FROM orphan WHERE ino=?')
    this.#getDentryRow = q('SELECT name,ino,op FROM dentry WHERE parent=? AND key=?')
    this.#putAlias = p('INSERT OR REPLACE INTO alias VALUES (?,?)')
    this.#delAlias = p('DELETE FROM alias WHERE ino=?')
    this.#putConflict = p('INSERT OR REPLACE INTO conflict VALUES (?,?,?)')
    this.#delConflict = p('DELETE FROM conflict WHERE ino=?')
    this.#findName = q('SELECT parent,key,name,op FROM dentry WHERE parent=? AND ino=? ORDER BY key LIMIT 1')
    this.#findAnyName = q('SELECT parent,key,name,op FROM dentry WHERE ino=? ORDER BY key LIMIT 1')
    this.reload()
  }

  /** Reads what is kept whole in memory; again after the tables were filled from outside (a snapshot). */
  reload(): void {
    this.#young.clear()
    this.#old.clear()
    this.#windows.clear()
    this.#orphans.clear()
    this.#aliases.clear()
    this.#conflicts.clear()
    this.#conflictsOf.clear()
    this.#moreOrphans = this.#db.sql.prepare('SELECT 1 FROM orphan LIMIT 1').get() !== undefined
    for (const [ino, target] of this.#db.sql.prepare('SELECT ino,target FROM alias').raw(true).all() as [number, number][]) this.#aliases.set(ino, target)
    for (const [ino, of, op] of this.#db.sql.prepare('SELECT ino,of,op FROM conflict').raw(true).all() as [number, number, number][]) this.#noteConflict(ino, { of, op })
  }

  // --- inodes -------------------------------------------------------------

  /** An alias gives the inode that it stands for. */
  get(ino: number): Inode | undefined {
    if (this.#aliases.size > 0) ino = this.resolve(ino)
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

  /** The inode of this very number. */
  #exact(ino: number): Inode | undefined {
    const target = this.#aliases.get(ino)
    if (target === undefined) return this.get(ino)
    this.#aliases.delete(ino)
    const inode = this.get(ino)
    this.#aliases.set(ino, target)
    return inode
  }

  /** Lets go of objects kept for ops that did not come again. */
  clearLimbo(): void { this.#limbo.clear() }

  /** A new inode, to be filled in by the caller. */
  add(ino: number): Inode {
    this.recorder?.inode(ino, null)
    this.changes?.inode(ino, null)
    const inode = this.#limbo.get(ino)?.reset() ?? new Inode(ino)
    this.#limbo.delete(ino)
    inode.dirty = true
    this.#dirty.add(inode)
    this.#remember(inode)
    return inode
  }

  /** To be called BEFORE fields of `inode` that the tree keeps are changed. */
  touch(inode: Inode): void {
    this.recorder?.inode(inode.ino, rowOf(inode))
    this.changes?.inode(inode.ino, inode)
    this.#soil(inode)
  }

  /** As `touch`, for what goes with a change of a directory's names: so many links more, and its times, which the caller sets after this. */
  touchNames(dir: Inode, links: number): void {
    this.recorder?.names(dir.ino, links, dir)
    this.changes?.inode(dir.ino, dir)
    dir.nlink += links
    this.#soil(dir)
  }

  /** Undo of that. */
  restoreNames(ino: number, links: number, old: Stamp): void {
    const dir = this.#exact(ino)!
    this.changes?.inode(ino, dir)
    dir.nlink -= links
    this.setStamp(dir, old)
  }

  /** The times of a directory alone, unrecorded. */
  setStamp(dir: Inode, to: Stamp): void {
    dir.mtime = to.mtime; dir.mtimeNs = to.mtimeNs; dir.ctime = to.ctime; dir.ctimeNs = to.ctimeNs
    this.#soil(dir)
  }

  #soil(inode: Inode): void {
    if (inode.dirty) return
    inode.dirty = true
    this.#dirty.add(inode)
  }

  /** Removes the inode and everything that hangs on it but its names. */
  remove(inode: Inode): void {
    this.recorder?.inode(inode.ino, rowOf(inode))
    this.changes?.inode(inode.ino, inode)
    if (inode.isFile && inode.bytes > 0) this.dropExtents(inode, 0, Infinity)
    if (inode.isLink) this.setTarget(inode.ino, null)
    if (inode.flags & HAS_XATTRS) for (const [key] of this.xattrs(inode.ino)) this.setXattr(inode.ino, key, null)
    this.setConflict(inode.ino, null)
    this.#drop(inode)
  }

  #drop(inode: Inode): void {
    inode.dirty = false
    this.#dirty.delete(inode)
    this.#delInode.run(inode.ino)
    this.#young.delete(inode.ino)
    this.#old.delete(inode.ino)
    if (inode.pins > 0) this.#limbo.set(inode.ino, inode)
  }

  /** Puts a before-image back (undo). */
  restoreInode(ino: number, row: number[] | null): void {
    const inode = this.#exact(ino)
    if (row === null) {
      if (inode) {
        this.changes?.inode(ino, inode)
        this.#drop(inode)
      } else {
        this.#delInode.run(ino)
      }
      return
    }
    if (inode) this.changes?.inode(ino, inode)
    const target = inode ?? this.add(ino)
    fill(target, row)
    this.#soil(target)
  }

  /** Writes what was changed behind the cache. Before each commit and each scan. */
  flush(): void {
    for (const inode of this.#dirty) {
      inode.dirty = false
      this.#putInode.run(...rowOf(inode))
    }
    this.#dirty.clear()
    for (const [ino, o] of this.#orphans) {
      if (o.stored) continue
      this.#putOrphan.run(ino, o.grave.parent, o.grave.key, o.grave.name, o.grave.op)
      o.stored = true
    }
    if (this.#orphans.size > CACHE_ORPHANS) {
      this.#orphans.clear()
      this.#moreOrphans = true
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

  /** `grave`: where it was last, for those whose removal may yet be taken back. */
  addOrphan(ino: number, grave: Grave = NOWHERE): void {
    const old = this.orphan(ino)
    this.recorder?.orphan(ino, old ?? null)
    if (!old || grave !== NOWHERE) this.#orphans.set(ino, { grave, stored: false })
  }

  removeOrphan(ino: number): void {
    const old = this.orphan(ino)
    if (!old) return
    this.recorder?.orphan(ino, old)
    if (this.#moreOrphans || this.#orphans.get(ino)!.stored) this.#delOrphan.run(ino)
    this.#orphans.delete(ino)
  }

  orphan(ino: number): Grave | undefined {
    const o = this.#orphans.get(ino)
    if (o !== undefined || !this.#moreOrphans) return o?.grave
    const r = this.#getOrphan.get(ino) as [number, Buffer, Buffer, number] | undefined
    return r && { parent: r[0], key: r[1], name: r[2], op: r[3] }
  }

  isOrphan(ino: number): boolean { return this.orphan(ino) !== undefined }

  /** Those that no history keeps. */
  orphans(): number[] {
    this.flush()
    return (this.#db.sql.prepare('SELECT ino FROM orphan o WHERE NOT EXISTS (SELECT 1 FROM history h WHERE h.was = o.ino AND h.gone = 1)').raw(true).all() as [number][]).map((r) => r[0])
  }

  /** The name of the device behind an incarnation. False: it has one. */
  setAuthor(inc: number, name: string): boolean {
    return this.#db.sql.prepare('INSERT OR IGNORE INTO author VALUES (?,?)').run(inc, name).changes > 0
  }

  /** What it said of itself was taken back. */
  removeAuthor(inc: number): void { this.#db.sql.prepare('DELETE FROM author WHERE inc=?').run(inc) }

  author(inc: number): string {
    return (this.#db.sql.prepare('SELECT name FROM author WHERE inc=?').get(inc) as { name: string } | undefined)?.name ?? ''
  }

  // --- what merging leaves ------------------------------------------------

  /** What an inode number stands for. */
  resolve(ino: number): number {
    let at = ino
    for (let target = this.#aliases.get(at); target !== undefined; target = this.#aliases.get(at)) at = target
    return at
  }

  get aliases(): ReadonlyMap<number, number> { return this.#aliases }

  /** 0: none any more. */
  setAlias(ino: number, target: number): void {
    this.recorder?.alias(ino, this.#aliases.get(ino) ?? 0)
    if (target !== 0) {
      this.#aliases.set(ino, target)
      this.#putAlias.run(ino, target)
    } else if (this.#aliases.delete(ino)) this.#delAlias.run(ino)
  }

  /** Copies that were put aside, by their inode. */
  get conflicts(): ReadonlyMap<number, Conflict> { return this.#conflicts }

  setConflict(ino: number, to: Conflict | null): void {
    const old = this.#conflicts.get(ino) ?? null
    if (!old && !to) return
    this.recorder?.conflict(ino, old)
    if (old) {
      const set = this.#conflictsOf.get(old.of)!
      set.delete(ino)
      if (set.size === 0) this.#conflictsOf.delete(old.of)
    }
    if (to) {
      this.#noteConflict(ino, to)
      this.#putConflict.run(ino, to.of, to.op)
    } else {
      this.#conflicts.delete(ino)
      this.#delConflict.run(ino)
    }
  }

  #noteConflict(ino: number, to: Conflict): void {
    this.#conflicts.set(ino, to)
    const set = this.#conflictsOf.get(to.of)
    if (set) set.add(ino)
    else this.#conflictsOf.set(to.of, new Set([ino]))
  }

  /** Copies that stand beside `ino`. */
  conflictsOf(ino: number): ReadonlySet<number> | undefined { return this.#conflictsOf.get(ino) }

  // --- names --------------------------------------------------------------

  /** The inode number under a name's key; 0 if none. */
  dentry(parent: number, key: Buffer): number {
    const r = this.#getDentry.get(parent, key) as [number] | undefined
    return r === undefined ? 0 : r[0]
  }

  /** A name with what it holds and who placed it. */
  named(parent: number, key: Buffer): Named | undefined {
    const r = this.#getDentryRow.get(parent, key) as [Buffer, number, number] | undefined
    return r && { name: r[0], ino: r[1], op: r[2] }
  }

  /** Some name of `ino`, in the directory `parent` if it has one there. Looks at all names of one, at worst: for the rare cases of merging. */
  findName(parent: number, ino: number): Place | undefined {
    const r = (this.#findName.get(parent, ino) ?? this.#findAnyName.get(ino)) as [number, Buffer, Buffer, number] | undefined
    return r && { parent: r[0], key: r[1], name: r[2], op: r[3] }
  }

  /**
   * `op`: id of the op that placed the name, negative if it was moved here; 0 on a drive with one device.
   * `old`: what is there, null for nothing, from whoever knows.
   */
  setDentry(parent: number, key: Buffer, name: Buffer, ino: number, op = 0, old?: Named | null): void {
    if (this.recorder || this.changes) this.#note(parent, key, old)
    this.follower?.dentry()
    this.#putDentry.run(parent, key, name, ino, op)
  }

  removeDentry(parent: number, key: Buffer, old?: Named): void {
    if (this.recorder || this.changes) this.#note(parent, key, old)
    this.follower?.dentry()
    this.#delDentry.run(parent, key)
  }

  #note(parent: number, key: Buffer, known: Named | null | undefined): void {
    // Whoever takes back and applies again comes to the same name several times.
    if (!this.recorder && this.changes!.hasDentry(parent, key)) return
    const old = known !== undefined ? known : this.named(parent, key) ?? null
    this.recorder?.dentry(parent, key, old)
    this.changes?.dentry(parent, key, old)
  }

  isEmptyDir(ino: number): boolean {
    return this.#anyDentry.get(ino) === undefined
  }

  /** At most `limit` names from `key` on, in key order. */
  listDentries(parent: number, key: Buffer, limit: number): [key: Buffer, name: Buffer, ino: number][] {
    return this.#listDentries.all(parent, key, limit) as [Buffer, Buffer, number][]
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

  /** Fewer than `limit`: those are all. */
  #query(ino: number, from: number, to: number, limit: number): ReadExtent[] {
    const out: ReadExtent[] = []
    // The first row may end before `from`, and then counts for nothing.
    for (const r of this.#readExtents.all(ino, ino, from, from, bound(to), limit + 1) as ExtentRow[]) {
      if (r[0] + r[1] > from && out.length < limit) out.push(readExtent(r))
    }
    return out
  }

  /** All extents of a file. */
  allExtents(ino: number): Extent[] {
    return (this.#overlap.all(ino, ino, 0, 0, Number.MAX_SAFE_INTEGER) as [number, number, number, number][]).map(([off, len, chunk, coff]) => ({ off, len, chunk, coff }))
  }

  addExtent(inode: Inode, off: number, len: number, chunk: number, coff: number): void {
    this.recorder?.extent(inode.ino, off, null)
    this.changes?.extents(inode.ino, off, off + len)
    this.#windows.delete(inode.ino)
    this.#putExtent.run(inode.ino, off, len, chunk, coff)
    this.chunks.ref(chunk, 1)
    inode.bytes += len
    this.follower?.extent(inode.ino, chunk)
  }

  /** Cuts [from, to) out of the file's extents. The caller has touched the inode. */
  dropExtents(inode: Inode, from: number, to: number): void {
    this.#windows.delete(inode.ino)
    const rows = this.#overlap.all(inode.ino, inode.ino, from, from, bound(to)) as [number, number, number, number][]
    for (const [off, len, chunk, coff] of rows) {
      const end = off + len
      if (end <= from) continue
      this.changes?.extents(inode.ino, Math.max(off, from), Math.min(end, to))
      this.recorder?.extent(inode.ino, off, { len, chunk, coff })
      // What an undo record names must stay.
      let refs = this.recorder ? 0 : -1
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
    this.changes?.extents(ino, off, off + Math.max(now?.[1] ?? 0, old?.len ?? 0))
    if (now) {
      this.chunks.ref(now[2], -1)
      this.#delExtent.run(ino, off)
    }
    // The record's own hold on the chunk goes over to the extent.
    if (!old) return
    this.#putExtent.run(ino, off, old.len, old.chunk, old.coff)
    this.follower?.extent(ino, old.chunk)
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
    if (ino === ROOT_INO) this.onRootXattr()
    if (to) this.#putXattr.run(ino, key, to.name, to.value)
    else this.#delXattr.run(ino, key)
    this.follower?.xattr(ino, key)
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
