/**
 * POSIX over the tree: what mode a new file gets, which bits a chown clears,
 * what a rename waits for, when an unlinked file is gone. By inode; mounts and
 * the path API share it.
 *
 * Results: what was asked for, or a code of errors.ts (never thrown for what a
 * program may run into every day), or a promise of either where the engine or
 * the disk takes its time.
 */
import type { Acknowledged, AckWish } from './acknowledged.js'
import type { Clock, Time } from './clock.js'
import type { DfsErrorCode } from './errors.js'
import { fail } from './errors.js'
import type { OpenFile } from './file/file.js'
import type { Files } from './file/files.js'
import { MAX_CREATE_XATTRS, MAX_FILE_BYTES, MAX_SYMLINK_BYTES } from './limits.js'
import type { Journal } from './log/journal.js'
import type { CreateOp, Op, Piece, SetAttrOp } from './log/ops.js'
import { OpenCopies } from './open-copies.js'
import type { OrderEngine } from './order/engine.js'
import type { ChunkTable } from './store/chunks.js'
import type { Space } from './store/space.js'
import { ACL_ACCESS, ACL_DEFAULT, aclMode, chmodAcl, inherit } from './tree/acl.js'
import { HAS_XATTRS, Inode, NEVER_LINKED, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISGID, S_ISUID, S_IXGRP } from './tree/inode.js'
import { isSame, seen, type ChangeSet } from './tree/changes.js'
import type { Outcome, Tree } from './tree/tree.js'
import type { LocalChunk } from './file/flush.js'
import { wholeContent } from './whole-content.js'

export type Result<T> = T | DfsErrorCode
export type Soon<T> = T | Promise<T>

export interface Owner { uid: number; gid: number }

export interface AttrChange {
  mode?: number
  uid?: number
  gid?: number
  size?: number
  atime?: Time
  mtime?: Time
  /** Clear suid and sgid as a write by somebody without CAP_FSETID does. */
  killSuidGid?: boolean
  /** Asked about a sgid file that the group may not execute: whether the caller is in its group, or root. */
  keepsSgid?: (gid: number) => boolean
}

/** What a rename brings along without waiting for the disk: sealed on the spot, kept in the index. */
const RENAME_INLINE_BYTES = 128 << 10
/** What an fsync takes the short way. */
const FSYNC_INLINE_BYTES = 8 << 10
/** With more than this waiting for the disk, a sync is not expected to be quick. */
const ALONE_BYTES = 1 << 20
const DAY_S = 86_400
/** Extents that one copy_file_range moves. */
const COPY_EXTENTS = 2048

export interface PosixParts {
  tree: Tree
  files: Files
  journal: Journal
  engine: OrderEngine
  chunks: ChunkTable
  clock: Clock
  space: Space
  acknowledged: Acknowledged
  /** Brings a content op to an inode that has no name, outside the log. */
  applyLocal(op: Op, id?: number): Outcome
  readOnly: boolean
}

/** Who changed something and looks at it through a mount waits no longer for that to be told. */
const TOLD_MS = 500

/** Somebody who keeps copies of what it was told: a mount, whose kernel caches names, attributes and pages. */
export interface Watcher {
  /** The name means something else now, or nothing. `moved`: the number of a directory that had it, and has another name now. */
  entryChanged(parent: number, name: Buffer, moved?: number): void
  /** Attributes, and content in [from, from + length); length 0: to the end; from < 0: attributes alone. */
  inodeChanged(ino: number, from: number, length: number, isShorter?: boolean): void
  /** It goes by all that it was told so far. */
  told?(): Promise<void>
}

export class Posix {
  readonly #watchers = new Set<Watcher>()
  readonly #p: PosixParts
  readonly copies: OpenCopies
  /** Asked before an unlinked inode is reaped: whether somebody still knows it. */
  readonly holders = new Set<(ino: number) => boolean>()

  /** Inodes of the last fsyncs. */
  readonly #synced = [0, 0, 0, 0]
  #syncs = 0

  constructor(parts: PosixParts) {
    this.#p = parts
    this.copies = new OpenCopies({ ...parts, entryChanged: (parent, name) => this.tell(null, (w) => w.entryChanged(parent, name, 0)) })
  }

  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher)
    return () => { this.#watchers.delete(watcher) }
  }

  /** Whether there is a watcher besides `by`. */
  isWatched(by: Watcher | null): boolean {
    return this.#watchers.size > (by && this.#watchers.has(by) ? 1 : 0)
  }

  /** Tells all watchers but `by`, through whom the change came: its kernel knows. After the change is made. */
  tell(by: Watcher | null, what: (w: Watcher) => void): void {
    for (const w of this.#watchers) if (w !== by) what(w)
  }

  /** All watchers go by what they were told so far; or TOLD_MS later, for there may be more all the time. */
  async told(): Promise<void> {
    if (this.#watchers.size === 0) return
    const all = Promise.all([...this.#watchers].map((w) => w.told?.()))
    let timer: NodeJS.Timeout | undefined
    await Promise.race([all, new Promise<void>((go) => { timer = setTimeout(go, TOLD_MS) })]).finally(() => clearTimeout(timer))
  }

  /** Tells all watchers what ops of other devices have changed. */
  tellChanges(changes: ChangeSet): void {
    this.#p.acknowledged.changed(changes)
    if (this.#watchers.size === 0) return
    const { tree } = this.#p
    const { rows } = tree
    for (const [parent, names] of changes.dentries) {
      for (const [k, old] of names) {
        const key = Buffer.from(k, 'latin1')
        const now = rows.named(parent, key)
        if ((now?.ino ?? 0) === (old?.ino ?? 0)) continue
        const name = tree.openName(key, (now ?? old)!.name)
        const before = old && changes.inodes.get(old.ino)
        const dir = before && (before.mode & S_IFMT) === S_IFDIR ? tree.get(old.ino) : undefined
        const moved = dir && dir.nlink > 0 ? dir.ino : 0
        this.tell(null, (w) => w.entryChanged(parent, name, moved))
        for (const alias of rows.aliases.keys()) if (rows.resolve(alias) === parent) this.tell(null, (w) => w.entryChanged(alias, name, moved))
      }
    }
    for (const [ino, old] of changes.inodes) {
      const now = old && tree.get(ino)
      if (!now) continue
      const range = changes.ranges.get(ino)
      if (old.size !== now.size) this.tell(null, (w) => w.inodeChanged(ino, Math.min(range?.from ?? Infinity, old.size, now.size), 0, now.size < old.size))
      else if (old.version !== now.version && range) this.tell(null, (w) => w.inodeChanged(ino, range.from, range.to - range.from))
      else if (!isSame(old, seen(now))) this.tell(null, (w) => w.inodeChanged(ino, -1, 0))
    }
  }

  // --- names --------------------------------------------------------------

  lookup(parentIno: number, name: Buffer): Result<Inode> {
    const parent = this.#p.tree.get(parentIno)
    if (!parent) return 'ENOENT'
    if (!parent.isDir) return 'ENOTDIR'
    const ino = this.#p.tree.lookup(parent, name)
    if (ino === 0) return 'ENOENT'
    return this.#p.tree.get(ino) ?? 'EIO'
  }

  /** Makes a node of any type. `umask` counts unless the directory has a default ACL. */
  make(parentIno: number, name: Buffer, mode: number, umask: number, owner: Owner, extra: { rdev?: number; target?: Buffer } = {}): Soon<Result<Inode>> {
    const { tree, journal } = this.#p
    const parent = tree.get(parentIno)
    if (!parent) return 'ENOENT'
    if (!parent.isDir) return 'ENOTDIR'
    if (parent.nlink === 0) return 'ENOENT'
    this.#writable()
    this.#p.space.takeMeta()
    if (extra.target && extra.target.length > MAX_SYMLINK_BYTES) return 'ENAMETOOLONG'
    const op: CreateOp = { type: 'create', parent: parentIno, name: Buffer.from(name), ino: journal.newIno(), ...this.#fresh(parent, mode, umask, owner), ...extra, rdev: extra.rdev ?? 0 }
    if (extra.target) op.target = Buffer.from(extra.target)
    const outcome = this.#p.engine.submit(op)
    return after(outcome, () => tree.get(op.ino) ?? 'EIO')
  }

  /** An unnamed file (O_TMPFILE), local until it is linked. */
  makeUnlinked(parentIno: number, mode: number, umask: number, owner: Owner): Result<Inode> {
    const { tree, journal } = this.#p
    const parent = tree.get(parentIno)
    if (!parent) return 'ENOENT'
    if (!parent.isDir) return 'ENOTDIR'
    this.#writable()
    this.#p.space.takeMeta()
    const inode = tree.createUnlinked({ ino: journal.newIno(), ...this.#fresh(parent, S_IFREG | (mode & 0o7777), umask, owner), rdev: 0 })
    journal.touched()
    return inode
  }

  link(ino: number, parentIno: number, name: Buffer): Soon<Result<Inode>> {
    const { tree, files } = this.#p
    const inode = tree.get(ino)
    if (!inode) return 'ENOENT'
    if (inode.isDir) return 'EPERM'
    this.#writable()
    this.#p.space.takeMeta()
    const op: Op = { type: 'link', ino, parent: parentIno, name: Buffer.from(name), time: this.#p.clock.now() }
    const go = (): Soon<Result<Inode>> => {
      if (inode.nlink > 0) return after(this.#p.engine.submit(op), () => inode)
      // The others have never heard of it: what is linked is logged as made now, with its content.
      const made = this.#p.engine.introduce((id) => this.#p.applyLocal(op, id), () => this.#introduce(inode, parentIno, op.name))
      return after(made, () => inode)
    }
    const file = files.find(ino)
    const wait = file && files.flushSmall(file, RENAME_INLINE_BYTES)
    return wait ? wait.then(go) : go()
  }

  unlink(parentIno: number, name: Buffer, dir: boolean): Soon<Outcome> {
    const found = this.lookup(parentIno, name)
    if (typeof found === 'string') return found
    if (dir && !found.isDir) return 'ENOTDIR'
    if (!dir && found.isDir) return 'EISDIR'
    this.#writable()
    const outcome = this.#p.engine.submit({ type: 'unlink', parent: parentIno, name: Buffer.from(name), ino: found.ino, dir, time: this.#p.clock.now() })
    return after(outcome, () => {
      if (found.nlink === 0) this.forget(found.ino)
      return '' as const
    })
  }

  /** flags: 1 no replace, 2 exchange. */
  rename(parentIno: number, name: Buffer, newParentIno: number, newName: Buffer, flags: number): Soon<Outcome> {
    const { files } = this.#p
    const noReplace = (flags & 1) !== 0
    const exchange = (flags & 2) !== 0
    if (flags & ~3 || (noReplace && exchange)) return 'EINVAL'
    const inode = this.lookup(parentIno, name)
    if (typeof inode === 'string') return inode
    const there = this.lookup(newParentIno, newName)
    if (typeof there === 'string' && there !== 'ENOENT') return there
    const over = typeof there === 'string' ? undefined : there
    if (noReplace && over) return 'EEXIST'
    if (exchange && !over) return 'ENOENT'
    if (over === inode) return ''
    this.#writable()
    const op: Op = {
      type: 'rename', parent: parentIno, name: Buffer.from(name), ino: inode.ino, newParent: newParentIno, newName: Buffer.from(newName),
      over: over?.ino ?? 0, exchange, time: this.#p.clock.now(),
    }
    const go = (): Soon<Outcome> => after(this.#p.engine.submit(op), () => {
      if (over && over.nlink === 0) this.forget(over.ino)
      return '' as const
    })
    // A new name is never there without the data that the file had (DESIGN 5, promise 2).
    const waits: Promise<void>[] = []
    for (const i of exchange ? [inode, over!] : [inode]) {
      const file = files.find(i.ino)
      const wait = file && files.flushSmall(file, RENAME_INLINE_BYTES)
      if (wait) waits.push(wait)
    }
    return waits.length ? Promise.all(waits).then(go) : go()
  }

  /** A handle or the kernel let go of an inode: without a name and unknown to all, it goes for good. */
  forget(ino: number): void {
    const { tree, files, journal, engine } = this.#p
    // One whose removal may yet be taken back stays until it may not.
    if (!engine.mayReap(ino)) return
    if ((files.find(ino)?.opens ?? 0) > 0) return
    for (const holds of this.holders) if (holds(ino)) return
    files.discard(ino)
    tree.reap(ino)
    journal.touched('derived')
  }

  // --- attributes ---------------------------------------------------------

  setattr(ino: number, change: AttrChange): Soon<Result<Inode>> {
    const { tree, files, clock } = this.#p
    const inode = tree.get(ino)
    if (!inode) return 'ENOENT'
    this.#writable()
    if (change.size !== undefined) {
      if (inode.isDir) return 'EISDIR'
      if (!inode.isFile) return 'EINVAL'
      if (change.size > MAX_FILE_BYTES) return 'EFBIG'
      if (change.size > inode.size) this.#p.space.takeMeta()
      files.truncate(inode, change.size)
    }
    const op: SetAttrOp = { type: 'setattr', ino, ctime: clock.now() }
    if (change.mode !== undefined) op.mode = change.mode & 0o7777
    if (change.uid !== undefined) op.uid = change.uid
    if (change.gid !== undefined) op.gid = change.gid
    if (change.atime) op.atime = change.atime
    if (change.mtime) op.mtime = change.mtime
    const kills = change.killSuidGid || ((change.uid !== undefined || change.gid !== undefined) && !inode.isDir)
    if (kills) {
      const mode = op.mode ?? inode.mode & 0o7777
      const kept = withoutSuid(mode, inode.gid, change.keepsSgid)
      if (kept !== mode) op.mode = kept
    }
    if (op.mode === undefined && op.uid === undefined && op.gid === undefined && !op.atime && !op.mtime) {
      // The size alone, or nothing (chown -1 -1): a content op carries the size.
      if (change.size !== undefined) return inode
    }
    return after(this.#p.engine.submit(op), () => {
      if (change.mode === undefined || !(inode.flags & HAS_XATTRS)) return inode
      const acl = tree.getXattr(inode, ACL_ACCESS)
      if (!acl) return inode
      return after(this.#p.engine.submit({ type: 'xattr', ino, name: ACL_ACCESS, value: chmodAcl(acl, change.mode), ctime: op.ctime }), () => inode)
    })
  }

  /** The content was read: the access time moves if it is not newer than the last change, or a day old (relatime, mount(8)). Local to this device. */
  accessed(inode: Inode): void {
    const changed = Math.max(inode.mtime + inode.mtimeNs / 1e9, inode.ctime + inode.ctimeNs / 1e9)
    const atime = inode.atime + inode.atimeNs / 1e9
    if (atime > changed && inode.atime > this.#p.clock.nowMs() / 1000 - DAY_S) return
    const t = this.#p.clock.now()
    this.#p.tree.rows.touch(inode)
    inode.atime = t.sec
    inode.atimeNs = t.nsec
    this.#p.journal.touched('derived')
  }

  /** Before a write or truncation by somebody without CAP_FSETID. */
  killSuid(inode: Inode, keepsSgid: (gid: number) => boolean): Soon<Outcome> {
    const mode = inode.mode & 0o7777
    const kept = withoutSuid(mode, inode.gid, keepsSgid)
    if (kept === mode) return ''
    return this.#p.engine.submit({ type: 'setattr', ino: inode.ino, mode: kept, ctime: this.#p.clock.now() })
  }

  /** flags: 1 create, 2 replace. value null: remove. */
  setXattr(ino: number, name: Buffer, value: Buffer | null, flags: number, killSgid: boolean): Soon<Outcome> {
    const { tree, clock, engine } = this.#p
    const inode = tree.get(ino)
    if (!inode) return 'ENOENT'
    const known = tree.getXattr(inode, name) !== undefined
    if (value === null && !known) return name.equals(ACL_ACCESS) || name.equals(ACL_DEFAULT) ? '' : 'ENODATA'
    if (value !== null && flags & 1 && known) return 'EEXIST'
    if (value !== null && flags & 2 && !known) return 'ENODATA'
    this.#writable()
    if (value !== null) this.#p.space.takeMeta()
    const op: Op = { type: 'xattr', ino, name: Buffer.from(name), value: value && Buffer.from(value), ctime: clock.now() }
    if (name.equals(ACL_ACCESS) && value !== null) {
      const acl = aclMode(value)
      if (!acl) return 'EINVAL'
      let mode = (inode.mode & 0o7000) | acl.bits
      if (killSgid) mode &= ~S_ISGID
      op.mode = mode
      if (acl.minimal) {
        op.value = null
        if (!known) return engine.submit({ type: 'setattr', ino, mode, ctime: op.ctime })
      }
    } else if (name.equals(ACL_DEFAULT) && !inode.isDir) {
      return 'EACCES'
    }
    return engine.submit(op)
  }

  // --- content ------------------------------------------------------------

  /** Everything written to `inode` so far survives power loss when it resolves; with `wish`, on other devices too. */
  fsync(inode: Inode, wish?: AckWish): Promise<void> {
    const { files, journal, acknowledged } = this.#p
    const file = files.find(inode.ino)
    if (wish) return acknowledged.file(inode, wish, async () => {
      await (file && files.flushSmall(file, FSYNC_INLINE_BYTES))
      throwOnce(file)
    })
    if (!file) return journal.durable()
    const wait = files.flushSmall(file, FSYNC_INLINE_BYTES)
    const done = wait ? wait.then(() => journal.durable()) : journal.durable(this.#isAlone(inode.ino))
    return done.then(() => throwOnce(file))
  }

  /** Whether the last few fsyncs were all of this file and nothing bulky is under way: several who sync share a round instead. */
  #isAlone(ino: number): boolean {
    this.#synced[this.#syncs++ % this.#synced.length] = ino
    return this.#p.files.dirtyBytes < ALONE_BYTES && this.#synced.every((i) => i === ino)
  }

  /** The whole drive. */
  async sync(wish?: AckWish): Promise<void> {
    const { files, journal, acknowledged } = this.#p
    if (wish) return acknowledged.drive(wish, () => files.flushAll())
    await files.flushAll()
    await journal.durable()
  }

  /** Copies extents, not bytes. At most what one op should hold; gives the bytes copied. */
  async copy(from: Inode, offIn: number, to: Inode, offOut: number, length: number): Promise<number> {
    const { files, tree, chunks, clock } = this.#p
    this.#writable()
    if (!from.isFile || !to.isFile) throw fail('EINVAL', 'not a regular file')
    let n = Math.max(0, Math.min(length, from.size - offIn))
    if (n === 0) return 0
    if (offOut + n > MAX_FILE_BYTES) throw fail('EFBIG', `a file may have ${MAX_FILE_BYTES} bytes`)
    this.#p.space.takeMeta()
    for (const i of from === to ? [from] : [from, to]) {
      const file = files.find(i.ino)
      if (file?.isDirty) await files.flush(file)
    }
    // Between the flush and here nothing has run: the tree has all of both files.
    const extents = tree.rows.extents(from.ino, offIn, offIn + n, COPY_EXTENTS)
    if (extents.length === COPY_EXTENTS) {
      const last = extents[extents.length - 1]!
      n = Math.min(n, last.off + last.len - offIn)
    }
    const refs = new Map<number, number>()
    const list: LocalChunk[] = []
    const pieces: Piece[] = []
    let at = offIn
    for (const e of extents) {
      const a = Math.max(e.off, offIn)
      const b = Math.min(e.off + e.len, offIn + n)
      if (a >= b) continue
      if (a > at) pieces.push({ off: offOut + at - offIn, len: a - at, chunk: -1, coff: 0 })
      let index = refs.get(e.chunk)
      if (index === undefined) {
        const known = chunks.identity(e.chunk)
        if (!known) throw fail('EIO', `chunk ${e.chunk} is not in the index; run dfs fsck`)
        index = list.push({ ...known, num: e.chunk, seg: 0, off: 0 }) - 1
        refs.set(e.chunk, index)
      }
      pieces.push({ off: offOut + a - offIn, len: b - a, chunk: index, coff: e.coff + a - e.off })
      at = b
    }
    if (at < offIn + n) pieces.push({ off: offOut + at - offIn, len: offIn + n - at, chunk: -1, coff: 0 })
    const t = clock.now()
    const outcome = await this.content({
      type: 'content', ino: to.ino, base: to.version, cut: Infinity, size: Math.max(to.size, offOut + n), chunks: list, pieces, mtime: t, ctime: t,
    })
    if (outcome !== '') throw fail(outcome, 'copy_file_range')
    return n
  }

  /** A content op, through the engine or, for an inode without a name, past it. */
  content(op: Op & { type: 'content' }): Soon<Outcome> {
    const inode = this.#p.tree.get(op.ino)
    if (!inode) return 'ENOENT'
    this.#p.acknowledged.wrote(op)
    if (inode.nlink > 0) return this.copies.flushed(inode, () => this.#p.engine.submit(op))
    // Of one that may come back all must have the same. A copy that merging put away comes back with this.
    if (this.#p.engine.revises && !(inode.flags & NEVER_LINKED)) {
      return this.#p.engine.submit(this.#p.tree.isPutAway(inode) ? op : { ...op, unnamed: true })
    }
    return this.#p.applyLocal(op)
  }

  /** A handle is closed, which was opened to write or not. */
  release(file: OpenFile, mayWrite: boolean): void {
    const { files, journal } = this.#p
    if (file.opens === 1) files.closed(file)
    files.release(file, mayWrite)
    if (mayWrite && file.writers === 0 && !journal.stopped) this.copies.closed(file)
    if (file.inode.nlink === 0) this.forget(file.inode.ino)
  }

  /** Offset of the next data (or hole) at or behind `offset`; ENXIO at the end. */
  async seek(inode: Inode, offset: number, data: boolean): Promise<number> {
    if (offset >= inode.size) throw fail('ENXIO', 'behind the end of the file')
    if (!inode.isFile) return data ? offset : inode.size
    const file = this.#p.files.find(inode.ino)
    if (file?.isDirty) await this.#p.files.flush(file)
    let at = offset
    for (;;) {
      const extents = this.#p.tree.rows.extents(inode.ino, at, inode.size, 512)
      if (extents.length === 0) {
        if (data) throw fail('ENXIO', 'no data behind the offset')
        return Math.min(at, inode.size)
      }
      for (const e of extents) {
        if (e.off > at) return data ? e.off : at
        if (data) return at
        at = e.off + e.len
      }
      if (at >= inode.size) return inode.size
    }
  }

  // --- inside -------------------------------------------------------------

  #writable(): void {
    if (this.#p.readOnly) throw fail('EROFS', 'this store holds a key that cannot write')
    this.#p.journal.check()
  }

  #fresh(parent: Inode, mode: number, umask: number, owner: Owner): Pick<CreateOp, 'mode' | 'uid' | 'gid' | 'time'> & { xattrs?: [Buffer, Buffer][] } {
    const { tree, clock } = this.#p
    const dir = (mode & S_IFMT) === S_IFDIR
    const xattrs: [Buffer, Buffer][] = []
    const inherited = (mode & S_IFMT) !== S_IFLNK ? tree.getXattr(parent, ACL_DEFAULT) : undefined
    if (inherited) {
      const acl = inherit(inherited, mode)
      mode = acl.mode
      if (acl.access) xattrs.push([ACL_ACCESS, acl.access])
      if (dir) xattrs.push([ACL_DEFAULT, inherited])
    } else {
      mode &= ~umask
    }
    let { gid } = owner
    if (parent.mode & S_ISGID) {
      gid = parent.gid
      if (dir) mode |= S_ISGID
    }
    return { mode, uid: owner.uid, gid, time: clock.now(), ...(xattrs.length ? { xattrs } : {}) }
  }

  /** The ops that make a formerly unnamed inode known to other devices. */
  *#introduce(inode: Inode, parent: number, name: Buffer): Generator<Op> {
    const { tree, chunks, journal } = this.#p
    const xattrs = tree.xattrNames(inode).map((n): [Buffer, Buffer] => [n, tree.getXattr(inode, n)!])
    const ctime = { sec: inode.ctime, nsec: inode.ctimeNs }
    const mtime = { sec: inode.mtime, nsec: inode.mtimeNs }
    const { ino } = inode
    let id = journal.newOpId()
    const made = xattrs.splice(0, MAX_CREATE_XATTRS)
    yield { type: 'create', parent, name, ino, mode: inode.mode, uid: inode.uid, gid: inode.gid, rdev: inode.rdev, time: ctime, ...(made.length ? { xattrs: made } : {}) }
    for (const [name, value] of xattrs) {
      id++
      yield { type: 'xattr', ino, name, value, ctime }
    }
    const size = inode.pending?.size ?? inode.size
    // What was written so far gets the id of the op that tells of it.
    tree.rows.touch(inode)
    inode.version = 0
    if (size === 0) {
      if (mtime.sec !== ctime.sec || mtime.nsec !== ctime.nsec) yield { type: 'setattr', ino, mtime, ctime }
      return
    }
    const chunk = (num: number): LocalChunk => ({ ...chunks.identity(num)!, num, seg: 0, off: 0 })
    for (const op of wholeContent({ ino, base: () => inode.version, size, extents: tree.rows.allExtents(ino), chunk, mtime, ctime })) {
      inode.version = ++id
      yield op
    }
  }
}

/** What a flush failed with is told to whoever syncs the file next. */
function throwOnce(file: OpenFile | undefined): void {
  if (!file?.error) return
  const { error } = file
  file.error = null
  throw error
}

/** suid goes; sgid goes where the group may execute, and elsewhere unless the caller is in it (setattr_should_drop_sgid in fs/attr.c). */
export function withoutSuid(mode: number, gid: number, keepsSgid: (gid: number) => boolean = () => true): number {
  const kept = mode & ~S_ISUID
  if (!(kept & S_ISGID)) return kept
  return kept & S_IXGRP || !keepsSgid(gid) ? kept & ~S_ISGID : kept
}

/** Goes on when the outcome is known, if it is good. */
export function after<T>(outcome: Soon<Outcome>, then: () => Soon<Result<T>>): Soon<Result<T>> {
  if (typeof outcome === 'string') return outcome === '' ? then() : outcome
  return outcome.then((o) => (o === '' ? then() : o))
}
