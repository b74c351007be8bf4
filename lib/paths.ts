/**
 * The path half of the public API: finds inodes by path, checks nothing about
 * permissions (whoever holds the store may do everything), and calls lib/posix.
 */
import type { Conflict, DeviceChange, DeviceStatus, Dirent, DriveApi, DriveStatus, EvictReport, FileHandle, FileType, FsckReport, GcReport, Keep, Locality, MendReport, OnProgress, Path, PeerStatus, RestoreOptions, RestoreReport, ScrubReport, SettingStatus, Stats, SyncOptions, VersionLog } from './api.js'
import type { AckWish } from './acknowledged.js'
import type { Cache } from './cache.js'
import { fromMs, toMs, turn } from './clock.js'
import { fail, isDfsError, type DfsErrorCode } from './errors.js'
import type { OpenFile } from './file/file.js'
import type { Files } from './file/files.js'
import type { ReadEngine } from './file/read.js'
import { MAX_NAME_BYTES, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES } from './limits.js'
import { isVirtualXattr, localityOf } from './locality.js'
import type { Posix, Result, Soon } from './posix.js'
import { isReservedXattr } from './settings.js'
import type { Unfinished } from './store/unfinished.js'
import { HAS_XATTRS, Inode, ROOT_INO, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from './tree/inode.js'
import type { Tree } from './tree/tree.js'

/** As Linux. */
const MAX_SYMLINKS = 40
/** Names of a directory fetched at a time. */
const LIST_BATCH = 512

const TYPES: Record<number, FileType> = {
  0o100000: 'file', 0o040000: 'directory', 0o120000: 'symlink', 0o010000: 'fifo', 0o140000: 'socket', 0o020000: 'chardev', 0o060000: 'blockdev',
}

export function typeOf(mode: number): FileType {
  return TYPES[mode & S_IFMT] ?? 'file'
}

export function statsOf(i: Inode): Stats {
  return {
    ino: i.ino, type: typeOf(i.mode), mode: i.mode, nlink: i.nlink, uid: i.uid, gid: i.gid, rdev: i.rdev, size: i.size,
    atimeMs: toMs(i.atime, i.atimeNs), mtimeMs: toMs(i.mtime, i.mtimeNs), ctimeMs: toMs(i.ctime, i.ctimeNs),
    hasXattrs: (i.flags & HAS_XATTRS) !== 0,
  }
}

interface Found { parent: Inode; name: Buffer; inode: Inode | undefined }

export abstract class PathApi implements DriveApi {
  abstract readonly tree: Tree
  abstract readonly posix: Posix
  abstract readonly files: Files
  abstract readonly reader: ReadEngine
  abstract readonly unfinished: Unfinished
  abstract readonly creator: { uid: number; gid: number }
  abstract readonly cache: Cache
  abstract setCache(bytes: number | null): Promise<void>
  abstract sync(options?: SyncOptions): Promise<void>
  abstract wish(options: SyncOptions): AckWish | undefined
  abstract status(): Promise<DriveStatus>
  abstract peers(): Promise<PeerStatus[]>
  abstract addPeers(addresses: string[]): Promise<void>
  abstract forgetPeer(address: string): Promise<boolean>
  abstract devices(): Promise<DeviceStatus[]>
  abstract setDevice(device: string, change: DeviceChange): Promise<void>
  /** As config. */
  abstract configAt(dir: Inode | undefined): SettingStatus[]
  /** As setConfig. */
  abstract setConfigAt(name: string, value: string | null, dir: Inode | undefined): Promise<void>
  abstract waitPlaced(onProgress?: OnProgress): Promise<void>
  abstract addDevice(device: string, role: 'read-only' | 'storage', name: string): Promise<void>
  abstract conflicts(): Promise<Conflict[]>
  abstract versions(path: Path, options?: { limit?: number }): Promise<VersionLog>
  abstract restore(path: Path, options: RestoreOptions, onProgress?: OnProgress): Promise<RestoreReport>
  abstract resolveConflict(path: Path, keep: Keep): Promise<Buffer[]>
  abstract fsck(options: { data?: boolean; repair?: boolean }, onProgress?: OnProgress): Promise<FsckReport>
  abstract scrub(options: { restart?: boolean }, onProgress?: OnProgress): Promise<ScrubReport>
  abstract setScrubRate(bytesPerS: number): Promise<void>
  abstract mend(onProgress?: OnProgress): Promise<MendReport>
  abstract gc(onProgress?: OnProgress): Promise<GcReport>
  abstract key(kind: 'full' | 'read-only' | 'storage'): Promise<string>
  abstract close(): Promise<void>

  async stat(path: Path): Promise<Stats> { return statsOf(this.#inode(path, true)) }
  async lstat(path: Path): Promise<Stats> { return statsOf(this.#inode(path, false)) }

  async *opendir(path: Path): AsyncIterable<Dirent> {
    const dir = this.#inode(path, true)
    if (!dir.isDir) throw error('ENOTDIR', path)
    let cookie = 0
    for (;;) {
      const batch: Dirent[] = []
      this.tree.list(dir, cookie, (name, ino, next) => {
        if (batch.length >= LIST_BATCH) return false
        const inode = this.tree.get(ino)
        if (inode) batch.push({ name, ino, type: typeOf(inode.mode), stats: statsOf(inode) })
        cookie = next
        return true
      })
      yield* batch
      if (batch.length < LIST_BATCH) return
    }
  }

  async open(path: Path, flags = 'r', mode = 0o644): Promise<FileHandle> {
    const spec = FLAGS[flags]
    if (!spec) throw fail('EINVAL', `unknown flags "${flags}"`)
    const found = this.#find(path, true)
    let { inode } = found
    if (inode && spec.exclusive) throw error('EEXIST', path)
    if (!inode) {
      if (!spec.create) throw error('ENOENT', path)
      inode = await this.#want(this.posix.make(found.parent.ino, found.name, S_IFREG | (mode & 0o7777), 0, this.#owner()), path)
      this.#named(found)
    }
    if (inode.isDir) throw error('EISDIR', path)
    if (!inode.isFile) throw fail('EOPNOTSUPP', `${text(path)} is not a regular file`)
    if (spec.truncate && inode.size > 0) {
      await this.#want(this.posix.setattr(inode.ino, { size: 0 }), path)
      this.changed(inode, 0, 0, true)
    }
    return new Handle(this, this.files.open(inode, spec.write), path, spec.write)
  }

  async mkdir(path: Path, options: { recursive?: boolean; mode?: number } = {}): Promise<void> {
    const mode = S_IFDIR | ((options.mode ?? 0o755) & 0o7777)
    if (!options.recursive) {
      const found = this.#find(path, false)
      if (found.inode) throw error('EEXIST', path)
      await this.#want(this.posix.make(found.parent.ino, found.name, mode, 0, this.#owner()), path)
      this.#named(found)
      return
    }
    let at = '/'
    for (const part of split(path)) {
      const next = Buffer.concat([Buffer.from(at === '/' ? '/' : at + '/', 'latin1'), part])
      const found = this.#find(next, true)
      if (found.inode && !found.inode.isDir) throw error('ENOTDIR', next)
      if (!found.inode) {
        await this.#want(this.posix.make(found.parent.ino, found.name, mode, 0, this.#owner()), next)
        this.#named(found)
      }
      at = next.toString('latin1')
    }
  }

  async rm(path: Path, options: { recursive?: boolean; force?: boolean } = {}): Promise<void> {
    let found: Found
    try { found = this.#find(path, false) } catch (e) {
      if (options.force && (e as { code?: string }).code === 'ENOENT') return
      throw e
    }
    if (!found.inode) {
      this.unfinished.ended(found.name)
      if (options.force) return
      throw error('ENOENT', path)
    }
    if (found.inode.ino === ROOT_INO) throw fail('EBUSY', 'the root of a drive cannot be removed')
    if (found.inode.isDir && !options.recursive) throw error('EISDIR', path)
    await this.#remove(found.parent, found.name, found.inode, path)
    this.unfinished.ended(found.name)
  }

  async rename(from: Path, to: Path): Promise<void> {
    const a = this.#find(from, false)
    if (!a.inode) throw error('ENOENT', from)
    const b = this.#find(to, false)
    if (a.inode.ino === ROOT_INO || b.inode?.ino === ROOT_INO) throw fail('EBUSY', 'the root of a drive cannot be renamed')
    await this.#ok(this.posix.rename(a.parent.ino, a.name, b.parent.ino, b.name, 0), to)
    this.unfinished.ended(a.name)
    this.#named(a, a.inode.isDir ? a.inode.ino : 0)
    this.#named(b)
    this.changed(a.inode)
    if (b.inode) this.changed(b.inode)
  }

  async link(existing: Path, path: Path): Promise<void> {
    const inode = this.#inode(existing, false)
    const found = this.#find(path, false)
    if (found.inode) throw error('EEXIST', path)
    await this.#want(this.posix.link(inode.ino, found.parent.ino, found.name), path)
    this.#named(found)
    this.changed(inode)
  }

  async symlink(target: Path, path: Path): Promise<void> {
    const found = this.#find(path, false)
    if (found.inode) throw error('EEXIST', path)
    await this.#want(this.posix.make(found.parent.ino, found.name, S_IFLNK | 0o777, 0, this.#owner(), { target: bytes(target) }), path)
    this.#named(found)
  }

  async readlink(path: Path): Promise<Buffer> {
    const inode = this.#inode(path, false)
    if (!inode.isLink) throw error('EINVAL', path)
    return this.tree.readlink(inode)
  }

  async chmod(path: Path, mode: number): Promise<void> {
    this.changed(await this.#want(this.posix.setattr(this.#inode(path, true).ino, { mode: mode & 0o7777 }), path))
  }

  async chown(path: Path, uid: number, gid: number): Promise<void> {
    this.changed(await this.#want(this.posix.setattr(this.#inode(path, false).ino, { uid, gid }), path))
  }

  async utimes(path: Path, atimeMs: number, mtimeMs: number): Promise<void> {
    this.changed(await this.#want(this.posix.setattr(this.#inode(path, false).ino, { atime: fromMs(atimeMs), mtime: fromMs(mtimeMs) }), path))
  }

  told(): Promise<void> { return this.posix.told() }

  async config(dir?: Path): Promise<SettingStatus[]> {
    const inode = dir === undefined ? undefined : this.#inode(dir, true)
    if (inode && !inode.isDir) throw fail('ENOTDIR', `${text(dir!)} is not a directory`)
    return this.configAt(inode)
  }

  async setConfig(name: string, value: string | null, dir?: Path): Promise<void> {
    await this.setConfigAt(name, value, dir === undefined ? undefined : this.#inode(dir, true))
  }

  async pin(path: Path): Promise<Locality> {
    const inode = this.#inode(path, true)
    await this.cache.pins.pin(inode)
    return this.#locality(inode)
  }

  async unpin(path: Path): Promise<void> {
    const inode = this.#inode(path, true)
    if (await this.cache.pins.unpin(inode)) return
    const pinned = this.cache.pins.of(inode)
    throw fail('EINVAL', pinned === 'below' ? `${text(path)} is pinned by way of a directory above it` : `${text(path)} is not pinned`)
  }

  async evict(path: Path, onProgress?: OnProgress): Promise<EvictReport> {
    return this.cache.evict(this.#inode(path, true), onProgress)
  }

  async locality(path: Path): Promise<Locality> {
    return this.#locality(this.#inode(path, true))
  }

  #locality(inode: Inode): Promise<Locality> { return localityOf({ tree: this.tree, pins: this.cache.pins }, inode) }

  async listXattrs(path: Path): Promise<Buffer[]> {
    return this.tree.xattrNames(this.#inode(path, true)).filter((name) => !isReservedXattr(name))
  }

  async getXattr(path: Path, name: Buffer): Promise<Buffer> {
    const inode = this.#inode(path, true)
    const value = isReservedXattr(name) ? undefined : this.tree.getXattr(inode, name)
    if (!value) throw error('ENODATA', path)
    return value
  }

  async setXattr(path: Path, name: Buffer, value: Buffer): Promise<void> {
    if (!isXattrName(name)) throw error('EOPNOTSUPP', path)
    if (isVirtualXattr(name)) throw error('EPERM', path)
    if (name.length > MAX_XATTR_NAME_BYTES) throw error('ERANGE', path)
    if (value.length > MAX_XATTR_VALUE_BYTES) throw error('E2BIG', path)
    const inode = this.#inode(path, false)
    await this.#ok(this.posix.setXattr(inode.ino, name, value, 0, false), path)
    this.changed(inode)
  }

  async temporary(path: Path): Promise<Path> {
    const { parent } = this.#find(path, false)
    return beside(path, this.unfinished.begin(parent.ino))
  }

  /** Removes what former sessions were building, as long as `goesOn`. */
  async clearUnfinished(goesOn: () => boolean): Promise<void> {
    for (const { parent, name } of this.unfinished.left()) {
      const dir = this.tree.get(parent)
      const ino = dir?.isDir ? this.tree.lookup(dir, name) : 0
      const inode = ino === 0 ? undefined : this.tree.get(ino)
      if (inode && !(await this.#remove(dir!, name, inode, name, goesOn))) return
      this.unfinished.ended(name)
    }
  }

  // --- inside -------------------------------------------------------------

  /** Mounts keep copies: `inode` has changed, its attributes alone or content from `from` on. */
  changed(inode: Inode, from = -1, length = 0, isShorter = false): void {
    this.posix.tell(null, (w) => w.inodeChanged(inode.ino, from, length, isShorter))
  }

  /** Of what is made. An ordinary user counts as the drive's creator, as on a mount (mount/idmap.ts). */
  #owner(): { uid: number; gid: number } {
    const uid = process.getuid?.() ?? 0
    return uid === 0 ? { uid, gid: process.getgid?.() ?? 0 } : this.creator
  }

  #named({ parent, name }: { parent: Inode; name: Buffer }, moved = 0): void {
    this.posix.tell(null, (w) => w.entryChanged(parent.ino, name, moved))
  }

  /** False if `goesOn` said no before the end. */
  async #remove(parent: Inode, name: Buffer, inode: Inode, path: Path, goesOn: () => boolean = () => true): Promise<boolean> {
    if (inode.isDir) {
      for (;;) {
        const batch: [Buffer, number][] = []
        this.tree.list(inode, 0, (n, ino) => batch.length < LIST_BATCH && batch.push([n, ino]) > 0)
        if (batch.length === 0) break
        for (const [n, ino] of batch) {
          const child = this.tree.get(ino)
          if (child && !(await this.#remove(inode, n, child, path, goesOn))) return false
        }
        // Others want the loop, too.
        await turn()
        if (!goesOn()) return false
      }
    }
    await this.#ok(this.posix.unlink(parent.ino, name, inode.isDir), path)
    this.#named({ parent, name })
    this.changed(inode)
    return true
  }

  #inode(path: Path, follow: boolean): Inode {
    const { inode } = this.#find(path, follow)
    if (!inode) throw error('ENOENT', path)
    return inode
  }

  /** `inode` undefined: all but the last name is there. */
  #find(path: Path, follow: boolean): Found {
    let links = 0
    const root = this.tree.get(ROOT_INO)!
    let todo = split(path)
    let dir = root
    let found: Found = { parent: root, name: Buffer.from('.'), inode: root }
    while (todo.length > 0) {
      const name = todo.shift()!
      const last = todo.length === 0
      if (!dir.isDir) throw error('ENOTDIR', path)
      if (name.length > MAX_NAME_BYTES) throw error('ENAMETOOLONG', path)
      if (name.equals(DOTDOT)) {
        dir = this.tree.get(dir.parent) ?? root
        found = { parent: dir, name: Buffer.from('.'), inode: dir }
        continue
      }
      const ino = this.tree.lookup(dir, name)
      const inode = ino === 0 ? undefined : this.tree.get(ino)
      if (!inode) {
        if (!last) throw error('ENOENT', path)
        return { parent: dir, name, inode: undefined }
      }
      if (inode.isLink && (follow || !last)) {
        if (++links > MAX_SYMLINKS) throw error('ELOOP', path)
        const target = this.tree.readlink(inode)
        if (target[0] === 47) dir = root
        todo = [...split(target), ...todo]
        found = { parent: dir, name: Buffer.from('.'), inode: dir }
        continue
      }
      found = { parent: dir, name, inode }
      dir = inode
    }
    return found
  }

  async #want(result: Soon<Result<Inode>>, path: Path): Promise<Inode> {
    const r = await result
    if (typeof r === 'string') throw error(r, path)
    return r
  }

  async #ok(outcome: Soon<'' | DfsErrorCode>, path: Path): Promise<void> {
    const o = await outcome
    if (o !== '') throw error(o, path)
  }
}

class Handle implements FileHandle {
  readonly #api: PathApi
  readonly #file: OpenFile
  readonly #path: Path
  readonly #writes: boolean
  #closed = false

  constructor(api: PathApi, file: OpenFile, path: Path, writes: boolean) {
    this.#api = api
    this.#file = file
    this.#path = path
    this.#writes = writes
  }

  async stat(): Promise<Stats> { return statsOf(this.#file.inode) }

  async read(offset: number, length: number): Promise<Buffer> {
    let parts: Buffer[]
    try { parts = await this.#api.reader.read(this.#file.inode, offset, length) } catch (e) {
      if (!isDfsError(e, 'EIO')) throw e
      throw fail('EIO', `${text(this.#path)}: ${e.message.split(';')[0]}; dfs fsck --data names all files that are damaged`, e)
    }
    return parts.length === 1 ? Buffer.from(parts[0]!) : Buffer.concat(parts)
  }

  async write(offset: number, data: Buffer): Promise<void> {
    if (!this.#writes) throw fail('EBADF', `${text(this.#path)} is open for reading`)
    await this.#api.files.write(this.#file.inode, offset, data)
    this.#api.changed(this.#file.inode, offset, data.length)
  }

  async truncate(size: number): Promise<void> {
    const before = this.#file.inode.size
    const r = await this.#api.posix.setattr(this.#file.inode.ino, { size })
    if (typeof r === 'string') throw error(r, this.#path)
    this.#api.changed(this.#file.inode, Math.min(size, before), 0, size < before)
  }

  async sync(options: SyncOptions = {}): Promise<void> { await this.#api.posix.fsync(this.#file.inode, this.#api.wish(options)) }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#api.posix.release(this.#file, this.#writes)
  }
}

const FLAGS: Record<string, { write: boolean; create: boolean; truncate: boolean; exclusive: boolean }> = {
  'r': { write: false, create: false, truncate: false, exclusive: false },
  'r+': { write: true, create: false, truncate: false, exclusive: false },
  'w': { write: true, create: true, truncate: true, exclusive: false },
  'wx': { write: true, create: true, truncate: true, exclusive: true },
  'a': { write: true, create: true, truncate: false, exclusive: false },
}

const DOTDOT = Buffer.from('..')
const DOT = Buffer.from('.')

function bytes(path: Path): Buffer {
  return typeof path === 'string' ? Buffer.from(path) : path
}

export function text(path: Path): string {
  return typeof path === 'string' ? path : path.toString()
}

/** The kernel knows no others (fs/xattr.c), nor do mounts of a drive. */
export function isXattrName(name: Buffer): boolean {
  const text = name.toString('latin1')
  return /^(user|trusted|security)\../.test(text) || text === 'system.posix_acl_access' || text === 'system.posix_acl_default'
}

/** `name` in place of the last one of `path`. */
export function beside(path: Path, name: Buffer): Buffer {
  const all = bytes(path)
  let end = all.length
  while (end > 1 && all[end - 1] === 47) end--
  return Buffer.concat([all.subarray(0, all.subarray(0, end).lastIndexOf(47) + 1), name])
}

/** Names of a path, without empty ones and '.'. */
export function split(path: Path): Buffer[] {
  const b = bytes(path)
  if (b.includes(0)) throw fail('EINVAL', 'a path cannot contain a NUL byte')
  const out: Buffer[] = []
  for (let at = 0; at < b.length;) {
    let end = b.indexOf(47, at)
    if (end < 0) end = b.length
    if (end > at && !DOT.equals(b.subarray(at, end))) out.push(b.subarray(at, end))
    at = end + 1
  }
  return out
}


const WORDS: Partial<Record<DfsErrorCode, string>> = {
  ENOENT: 'no such file or directory', EEXIST: 'it exists already', ENOTDIR: 'not a directory', EISDIR: 'it is a directory',
  ENOTEMPTY: 'the directory is not empty', EINVAL: 'invalid', ELOOP: 'too many symlinks', ENAMETOOLONG: 'a name is longer than 255 bytes',
  EFBIG: 'the file would be too large', EPERM: 'not permitted', EROFS: 'the drive is read-only here',
}

function error(code: DfsErrorCode, path: Path) {
  return fail(code, `${text(path)}: ${WORDS[code] ?? code}`)
}
