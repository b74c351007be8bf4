/**
 * Every operation of a mount, by inode, over a drive. Translates codes to errno
 * and knows what the kernel holds; what the operations mean is in lib/posix.ts.
 */
import type { AckWish } from '../lib/acknowledged.js'
import type { Drive } from '../lib/drive.js'
import type { DfsErrorCode } from '../lib/errors.js'
import { fail } from '../lib/errors.js'
import type { OpenFile } from '../lib/file/file.js'
import { Reading } from '../lib/file/reading.js'
import { isReservedXattr } from '../lib/settings.js'
import { MAX_FILE_BYTES, READ_DEADLINE_MS } from '../lib/limits.js'
import { LOCAL_XATTR, isVirtualXattr, localXattr } from '../lib/locality.js'
import { isXattrName } from '../lib/paths.js'
import type { Result, Soon, Watcher } from '../lib/posix.js'
import { Inode, ROOT_INO, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../lib/tree/inode.js'
import * as E from './errno.js'
import { GrownFiles } from './grown.js'
import { isInGroup, isRoot } from './groups.js'
import { HeldInodes } from './held.js'
import { MovedDirs } from './moved.js'
import { PendingReads } from './reads.js'
import type {
  Attr, Caller, Created, DirSink, Errno, Interrupt, Notifier, Opened, Operations, Reply, SetAttr, StatFs,
} from './operations.js'

const O_TRUNC = 0o1000, O_ACCMODE = 3
const FALLOC_KEEP_SIZE = 1, FALLOC_PUNCH_HOLE = 2, FALLOC_ZERO_RANGE = 16
const SEEK_DATA = 3
const RENAME_EXCHANGE = 2
const DOT = Buffer.from('.'), DOTDOT = Buffer.from('..')
/** Cookies of a directory: 1 after '.', 2 after '..', then the tree's own + 2. */
const COOKIE_BASE = 2
const STATFS_BLOCK = 4096

export class Filesystem implements Operations {
  readonly #drive: Drive
  #watcher: Watcher | null = null
  #unwatch = (): void => {}
  readonly #noAtime: boolean
  readonly #waitMs: number | undefined
  /** What a sync waits for on other devices. */
  readonly #wish: AckWish | undefined
  /** Syncs that wait for them. */
  readonly #syncs = new Set<AbortController>()
  /** What the kernel knows: lookups not yet forgotten. */
  readonly #held = new HeldInodes()
  readonly #handles = new Map<number, OpenFile>()
  readonly #handlesFree: number[] = []
  /** Those of them that may be written to. */
  readonly #writing = new Set<number>()
  #handleNext = 1
  readonly #reads = new PendingReads()
  readonly #grown = new GrownFiles()
  readonly #moved = new MovedDirs()
  readonly #holder = (ino: number) => this.#held.has(ino)

  /** `noAtime`: reading leaves access times alone; else as relatime. `timeout`: how long a read waits, seconds; else as the drive's. `acks`: as -o acks. */
  constructor(drive: Drive, options: { noAtime?: boolean; timeout?: number; acks?: number } = {}) {
    this.#drive = drive
    this.#noAtime = options.noAtime ?? false
    this.#waitMs = options.timeout === undefined ? undefined : options.timeout * 1000
    if (options.acks) this.#wish = { acks: options.acks, waitMs: this.#waitMs ?? READ_DEADLINE_MS }
  }

  init(notifier: Notifier | undefined): void {
    const { posix } = this.#drive
    posix.holders.add(this.#holder)
    if (this.#wish) this.#drive.wishes.add(this.#wish)
    if (!notifier) return
    // What changes by anything but this mount's own requests: the command line, another mount.
    this.#unwatch = posix.watch(this.#watcher = {
      entryChanged: (parent, name, moved = 0) => {
        if (!this.#knows(parent)) return
        const isFree = () => typeof posix.lookup(parent, name) === 'string'
        notifier.invalEntry(parent, name, moved === 0 ? undefined : isFree)
        if (moved === 0 || this.#drive.tree.get(moved)?.parent === parent) return
        this.#moved.note(moved, () => {
          notifier.invalEntry(parent, name, isFree() ? undefined : isFree)
          return notifier.drained()
        })
        // '..' is in its listing.
        notifier.invalInode(moved, 0, 0)
      },
      inodeChanged: (ino, from, length) => {
        this.#reads.changed(ino, from, length)
        if (!this.#knows(ino)) return
        notifier.invalInode(ino, from, length)
        if (from >= 0) this.#grown.changed(ino, this.#drive.tree.get(ino)?.size ?? 0, () => notifier.drained())
      },
      told: () => notifier.drained(),
    })
  }

  #knows(ino: number): boolean {
    return ino === ROOT_INO || this.#held.has(ino)
  }

  /** Tells the other mounts of this drive. */
  #named(parent: number, name: Buffer, moved = 0): void {
    if (!this.#drive.posix.isWatched(this.#watcher)) return
    const copy = Buffer.from(name)
    this.#drive.posix.tell(this.#watcher, (w) => w.entryChanged(parent, copy, moved))
  }

  #changed(ino: number, from = -1, length = 0, isShorter = false): void {
    if (ino === 0 || !this.#drive.posix.isWatched(this.#watcher)) return
    this.#drive.posix.tell(this.#watcher, (w) => w.inodeChanged(ino, from, length, isShorter))
  }

  /** What a name stands for that is about to change, if another mount has to hear of its link count and times; else 0. */
  #behind(parent: number, name: Buffer): number {
    if (!this.#drive.posix.isWatched(this.#watcher)) return 0
    const found = this.#drive.posix.lookup(parent, name)
    return typeof found === 'string' ? 0 : found.ino
  }

  async destroy(): Promise<void> {
    this.#drive.posix.holders.delete(this.#holder)
    if (this.#wish) this.#drive.wishes.delete(this.#wish)
    for (const sync of this.#syncs) sync.abort()
    this.#unwatch()
    for (const fh of [...this.#handles.keys()]) this.release(0, fh)
    await this.#drive.sync()
    for (const ino of this.#drive.tree.rows.orphans()) this.#drive.posix.forget(ino)
  }

  // --- names --------------------------------------------------------------

  lookup(parent: number, name: Buffer, _caller: Caller): Reply<Attr> {
    if (name.length <= 2 && name[0] === 46) {
      if (name.length === 1) return this.#attr(parent)
      if (name[1] === 46) {
        const dir = this.#drive.tree.get(parent)
        return dir ? this.#attr(dir.parent) : E.ENOENT
      }
    }
    const found = this.#drive.posix.lookup(parent, name)
    const dropped = typeof found === 'string' ? undefined : this.#moved.asked(found.ino)
    if (!dropped) return this.#entry(found)
    const copy = Buffer.from(name)
    return dropped.then(() => this.#entry(this.#drive.posix.lookup(parent, copy)))
  }

  forget(ino: number, nlookup: number): void {
    if (!this.#held.drop(ino, nlookup)) return
    this.#grown.forget(ino)
    this.#moved.forget(ino)
    this.#drive.posix.forget(ino)
  }

  mknod(parent: number, name: Buffer, mode: number, rdev: number, umask: number, caller: Caller): Reply<Attr> {
    if ((mode & S_IFMT) === 0) mode |= S_IFREG
    return this.#made(parent, name, this.#drive.posix.make(parent, name, mode, umask, caller, { rdev }))
  }

  mkdir(parent: number, name: Buffer, mode: number, umask: number, caller: Caller): Reply<Attr> {
    return this.#made(parent, name, this.#drive.posix.make(parent, name, S_IFDIR | (mode & 0o7777), umask, caller))
  }

  symlink(parent: number, name: Buffer, target: Buffer, caller: Caller): Reply<Attr> {
    return this.#made(parent, name, this.#drive.posix.make(parent, name, S_IFLNK | 0o777, 0, caller, { target }))
  }

  link(ino: number, parent: number, name: Buffer, _caller: Caller): Reply<Attr> {
    return this.#made(parent, name, this.#drive.posix.link(ino, parent, name), () => this.#changed(ino))
  }

  unlink(parent: number, name: Buffer, _caller: Caller): Reply<0> {
    const ino = this.#behind(parent, name)
    return this.#unnamed(parent, name, this.#drive.posix.unlink(parent, name, false), () => this.#changed(ino))
  }

  rmdir(parent: number, name: Buffer, _caller: Caller): Reply<0> {
    return this.#unnamed(parent, name, this.#drive.posix.unlink(parent, name, true))
  }

  rename(parent: number, name: Buffer, newParent: number, newName: Buffer, flags: number, _caller: Caller): Reply<0> {
    const inos = [this.#behind(parent, name), this.#behind(newParent, newName)]
    const outcome = this.#drive.posix.rename(parent, name, newParent, newName, flags)
    if (outcome instanceof Promise) [name, newName] = [Buffer.from(name), Buffer.from(newName)]
    return errno(outcome, () => {
      const [moved, other] = inos.map((ino) => (ino !== 0 && this.#drive.tree.get(ino)?.isDir ? ino : 0))
      this.#named(parent, name, moved)
      this.#named(newParent, newName, flags & RENAME_EXCHANGE ? other : 0)
      for (const ino of inos) this.#changed(ino)
    })
  }

  // --- attributes ---------------------------------------------------------

  getattr(ino: number, _fh: number | undefined, _caller: Caller): Reply<Attr> {
    return this.#attr(ino)
  }

  setattr(ino: number, set: SetAttr, caller: Caller): Reply<Attr> {
    const time = (t: SetAttr['atime']) => (t === 'now' ? this.#drive.clock.now() : t)
    const { mode, uid, gid, size } = set
    let { killSuidGid } = set
    const keepsSgid = keeps(caller)
    if (mode === undefined && uid === undefined && gid === undefined && size === undefined && !set.atime && !set.mtime) {
      // chown(-1, -1), which clears suid like any chown; or the kernel before a write, which comes with a flag of its own and
      // looks the same. So a stranger, who may do the second and not the first, changes nothing.
      const inode = this.#drive.tree.get(ino)
      if (inode && !inode.isDir && (isRoot(caller) || caller.uid === inode.uid)) killSuidGid = true
    }
    const atime = time(set.atime)
    const mtime = time(set.mtime)
    const sized = size === undefined ? undefined : this.#drive.tree.get(ino)
    // As open does.
    if (sized && this.#drive.tree.isPutAway(sized)) return E.ESTALE
    const before = sized?.size ?? 0
    return mapped(this.#drive.posix.setattr(ino, {
      ...(mode !== undefined ? { mode } : {}), ...(uid !== undefined ? { uid } : {}), ...(gid !== undefined ? { gid } : {}),
      ...(size !== undefined ? { size } : {}), ...(atime ? { atime } : {}), ...(mtime ? { mtime } : {}), ...(killSuidGid ? { killSuidGid } : {}), keepsSgid,
    }), (inode) => {
      if (size !== undefined) this.#grown.wrote(ino, size)
      this.#changed(ino, size === undefined ? -1 : Math.min(size, before), 0, size !== undefined && size < before)
      return inode
    })
  }

  readlink(ino: number): Reply<Buffer> {
    const inode = this.#drive.tree.get(ino)
    if (!inode) return E.ENOENT
    return inode.isLink ? this.#drive.tree.readlink(inode) : E.EINVAL
  }

  setxattr(ino: number, name: Buffer, value: Buffer, flags: number, killSgid: boolean, _caller: Caller): Reply<0> {
    if (!isXattrName(name)) return unknownName(name)
    if (isVirtualXattr(name)) return E.EPERM
    return errno(this.#drive.posix.setXattr(ino, name, value, flags, killSgid), () => this.#changed(ino))
  }

  getxattr(ino: number, name: Buffer, _caller: Caller): Reply<Buffer> {
    const inode = this.#drive.tree.get(ino)
    if (!inode) return E.ENOENT
    if (isVirtualXattr(name)) return inode.isFile && name.equals(LOCAL_XATTR) ? localXattr(this.#drive.tree, inode) : E.ENODATA
    return isXattrName(name) ? this.#drive.tree.getXattr(inode, name) ?? E.ENODATA : unknownName(name)
  }

  listxattr(ino: number, caller: Caller): Reply<Buffer> {
    const inode = this.#drive.tree.get(ino)
    if (!inode) return E.ENOENT
    const shown = this.#drive.tree.xattrNames(inode).filter((n) => !isReservedXattr(n) && (isRoot(caller) || !n.subarray(0, TRUSTED.length).equals(TRUSTED)))
    return Buffer.concat(shown.flatMap((n) => [n, NUL]))
  }

  removexattr(ino: number, name: Buffer, _caller: Caller): Reply<0> {
    if (!isXattrName(name)) return unknownName(name)
    if (isVirtualXattr(name)) return E.EPERM
    return errno(this.#drive.posix.setXattr(ino, name, null, 0, false), () => this.#changed(ino))
  }

  // --- open files ---------------------------------------------------------

  open(ino: number, flags: number, killSuidGid: boolean, caller: Caller): Reply<Opened> {
    const inode = this.#drive.tree.get(ino)
    if (!inode) return E.ENOENT
    if (inode.isDir && (flags & O_ACCMODE) !== 0) return E.EISDIR
    // By a name that the kernel still has, and merging has put away: it looks it up again.
    if ((flags & O_ACCMODE) !== 0 && this.#drive.tree.isPutAway(inode)) return E.ESTALE
    // Invalidation is explicit: what the kernel still has is true.
    const opened = () => ({ fh: this.#handle(inode, flags), keepCache: true })
    if (!(flags & O_TRUNC)) return opened()
    const isShorter = inode.size > 0
    return mapped(this.#drive.posix.setattr(ino, { size: 0, ...(killSuidGid ? { killSuidGid, keepsSgid: keeps(caller) } : {}) }), () => {
      this.#changed(ino, 0, 0, isShorter)
      return opened()
    })
  }

  create(parent: number, name: Buffer, mode: number, flags: number, umask: number, caller: Caller): Reply<Created> {
    const result = this.#drive.posix.make(parent, name, S_IFREG | (mode & 0o7777), umask, caller)
    const made = result instanceof Promise ? Buffer.from(name) : name
    return mapped(result, (i) => {
      this.#named(parent, made)
      return this.#created(i, flags)
    })
  }

  tmpfile(parent: number, mode: number, flags: number, umask: number, caller: Caller): Reply<Created> {
    return mapped(this.#drive.posix.makeUnlinked(parent, mode, umask, caller), (i) => this.#created(i, flags))
  }

  release(_ino: number, fh: number): Reply<0> {
    const file = this.#handles.get(fh)
    if (!file) return 0
    this.#handles.delete(fh)
    this.#handlesFree.push(fh)
    this.#drive.posix.release(file, this.#writing.delete(fh))
    return 0
  }

  read(ino: number, _fh: number, offset: number, size: number, signal: Interrupt): Reply<Buffer | Buffer[]> {
    const { tree, posix, reader } = this.#drive
    const inode = tree.get(ino)
    if (!inode) return E.ENOENT
    if (!this.#noAtime) posix.accessed(inode)
    this.#grown.read(ino, offset + size, inode.size)
    const read = reader.start(inode, offset, size, { waitMs: this.#waitMs })
    if (!(read instanceof Reading)) return read
    return this.#reads.wait({
      ino, offset, size, read, signal,
      again: (deadline) => {
        const now = tree.get(ino)
        return now ? reader.start(now, offset, size, { deadline }) : []
      },
    })
  }

  write(ino: number, fh: number, offset: number, data: Buffer, killFor: Caller | undefined, _cached: boolean): Reply<0> {
    const inode = this.#handles.get(fh)?.inode ?? this.#drive.tree.get(ino)
    if (!inode) return E.ENOENT
    if (this.#drive.journal.stopped) this.#drive.journal.check()
    if (killFor) {
      const killed = this.#drive.posix.killSuid(inode, keeps(killFor))
      if (killed !== '') {
        if (typeof killed === 'string') return toErrno(killed)
        const copy = Buffer.from(data)
        return killed.then(async (o) => {
          if (o !== '') return toErrno(o)
          await this.#drive.files.write(inode, offset, copy)
          this.#changed(inode.ino, offset, copy.length)
          return 0
        })
      }
    }
    const wait = this.#drive.files.write(inode, offset, data)
    const { length } = data
    this.#grown.wrote(inode.ino, inode.size)
    this.#changed(inode.ino, offset, length)
    // It may have waited for room, and be there only now.
    return wait === undefined ? 0 : wait.then(() => (this.#changed(inode.ino, offset, length), 0))
  }

  /** Sent with -o flush alone. */
  flush(_ino: number, fh: number): Reply<0> {
    const file = this.#handles.get(fh)
    return file?.isDirty ? this.#drive.files.flush(file).then(() => 0) : 0
  }

  fsync(ino: number, fh: number, _dataOnly: boolean, signal: Interrupt): Reply<0> {
    const inode = this.#handles.get(fh)?.inode ?? this.#drive.tree.get(ino)
    if (!inode) return E.ENOENT
    return this.#synced(signal, (wish) => this.#drive.posix.fsync(inode, wish))
  }

  fsyncdir(_ino: number, signal: Interrupt): Reply<0> {
    return this.#synced(signal, (wish) => this.#drive.posix.sync(wish))
  }

  /** What waits for this device alone is seen through. */
  #synced(signal: Interrupt, sync: (wish?: AckWish) => Promise<void>): Promise<0> {
    if (!this.#wish) return sync().then(() => 0)
    const waits = new AbortController()
    this.#syncs.add(waits)
    signal.onInterrupt(() => waits.abort())
    return sync({ ...this.#wish, signal: waits.signal }).then(() => 0 as const).finally(() => this.#syncs.delete(waits))
  }

  fallocate(ino: number, _fh: number, offset: number, length: number, mode: number, caller: Caller): Reply<0> {
    const { files, tree, space } = this.#drive
    const inode = tree.get(ino)
    if (!inode) return E.ENOENT
    if (!inode.isFile) return E.ENODEV
    const end = offset + length
    const keep = (mode & FALLOC_KEEP_SIZE) !== 0
    if (end > MAX_FILE_BYTES) return E.EFBIG
    const what = mode & ~FALLOC_KEEP_SIZE
    if (what !== 0 && what !== FALLOC_ZERO_RANGE && (what !== FALLOC_PUNCH_HOLE || !keep)) return E.ENOTSUP
    // Nothing is set aside ahead: content is stored where it is sealed, not where it was. The room is checked.
    if (what === 0) space.take(length, files.dirtyBytes)
    else files.punch(inode, offset, end)
    if (!keep && end > inode.size) files.truncate(inode, end)
    else files.touch(inode)
    this.#changed(ino, offset, 0)
    return this.#killed(inode, caller)
  }

  lseek(ino: number, _fh: number, offset: number, whence: number): Reply<{ offset: number }> {
    const inode = this.#drive.tree.get(ino)
    if (!inode) return E.ENOENT
    return this.#drive.posix.seek(inode, offset, whence === SEEK_DATA).then((o) => ({ offset: o }))
  }

  copyFileRange(inoIn: number, _fhIn: number, offsetIn: number, inoOut: number, _fhOut: number, offsetOut: number, length: number, caller: Caller): Reply<{ bytes: number }> {
    const from = this.#drive.tree.get(inoIn)
    const to = this.#drive.tree.get(inoOut)
    if (!from || !to) return E.ENOENT
    return this.#drive.posix.copy(from, offsetIn, to, offsetOut, length).then(async (bytes) => {
      this.#changed(inoOut, offsetOut, bytes)
      const errno = await this.#killed(to, caller)
      return errno === 0 ? { bytes } : errno
    })
  }

  // --- directories and the whole ------------------------------------------

  readdir(ino: number, cookie: number, sink: DirSink): Reply<0> {
    const { tree } = this.#drive
    const dir = tree.get(ino)
    if (!dir) return E.ENOENT
    if (!dir.isDir) return E.ENOTDIR
    if (cookie < 1 && !sink.add(DOT, ino, dir.mode, 1, dir)) return 0
    if (cookie < 2 && !sink.add(DOTDOT, dir.parent, S_IFDIR, 2, tree.get(dir.parent))) return 0
    tree.list(dir, Math.max(0, cookie - COOKIE_BASE), (name, child, next) => {
      const inode = tree.get(child)
      if (!inode) throw fail('EIO', `inode ${child} is missing; run dfs fsck`)
      if (!sink.add(name, child, inode.mode, next + COOKIE_BASE, this.#grown.attr(inode))) return false
      if (sink.plus) this.#held.add(child)
      return true
    })
    return 0
  }

  statfs(): Reply<StatFs> {
    const { space, files, journal } = this.#drive
    const total = Math.floor(space.totalBytes() / STATFS_BLOCK)
    const free = Math.min(total, Math.floor(space.freeBytes(files.dirtyBytes) / STATFS_BLOCK))
    const made = journal.inodesMade
    return { blocks: total, bfree: free, bavail: free, files: 2 ** 32, ffree: 2 ** 32 - made, bsize: STATFS_BLOCK, namelen: 255, frsize: STATFS_BLOCK }
  }

  // --- inside -------------------------------------------------------------

  #attr(ino: number): Attr | Errno {
    const inode = this.#drive.tree.get(ino)
    return inode ? this.#grown.attr(inode) : E.ENOENT
  }

  /** An answer that makes the kernel know the inode. */
  #entry(result: Soon<Result<Inode>>): Reply<Attr> {
    return mapped(result, (inode) => {
      this.#held.add(inode.ino)
      return this.#grown.attr(inode)
    })
  }

  #made(parent: number, name: Buffer, result: Soon<Result<Inode>>, also: () => void = () => {}): Reply<Attr> {
    if (result instanceof Promise) name = Buffer.from(name)
    return mapped(result, (inode) => {
      this.#held.add(inode.ino)
      this.#named(parent, name)
      also()
      return inode
    })
  }

  #unnamed(parent: number, name: Buffer, outcome: Soon<'' | DfsErrorCode>, also: () => void = () => {}): Reply<0> {
    if (outcome instanceof Promise) name = Buffer.from(name)
    return errno(outcome, () => {
      this.#named(parent, name)
      also()
    })
  }

  #created(inode: Inode, flags: number): Created {
    this.#held.add(inode.ino)
    return { attr: inode, fh: this.#handle(inode, flags), keepCache: true }
  }

  /** Requests that change content but carry no flag for suid and sgid: root keeps them, as with CAP_FSETID. */
  #killed(inode: Inode, caller: Caller): Reply<0> {
    return isRoot(caller) ? 0 : errno(this.#drive.posix.killSuid(inode, keeps(caller)))
  }

  #handle(inode: Inode, flags: number): number {
    const fh = this.#handlesFree.pop() ?? this.#handleNext++
    const mayWrite = (flags & O_ACCMODE) !== 0
    this.#handles.set(fh, this.#drive.files.open(inode, mayWrite))
    if (mayWrite) this.#writing.add(fh)
    return fh
  }
}

/** Whether a caller may leave sgid on a file of this group. */
const keeps = (caller: Caller) => (gid: number): boolean => isRoot(caller) || isInGroup(caller, gid)

const TRUSTED = Buffer.from('trusted.')
const NUL = Buffer.from([0])

function toErrno(code: DfsErrorCode): Errno {
  return E.errnoOfCode(code)
}

/** `done`: what to do where it went well. */
function errno(outcome: Soon<'' | DfsErrorCode>, done: () => void = () => {}): Reply<0> {
  if (typeof outcome !== 'string') return outcome.then((o) => errno(o, done))
  if (outcome !== '') return toErrno(outcome)
  done()
  return 0
}

function mapped<T, R>(result: Soon<Result<T>>, then: (value: T) => R): Reply<R> {
  if (result instanceof Promise) return result.then((r) => (typeof r === 'string' ? toErrno(r as DfsErrorCode) : then(r)))
  return typeof result === 'string' ? toErrno(result as DfsErrorCode) : then(result)
}

/** A prefix with nothing behind it is EINVAL (fs/xattr.c, xattr_resolve_name). */
function unknownName(name: Buffer): Errno {
  return /^(user|trusted|security)\.$/.test(name.toString('latin1')) ? E.EINVAL : E.ENOTSUP
}
