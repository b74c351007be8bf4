/**
 * A complete simple file system in memory: what a mount driver is tested and
 * measured with. It counts the lookups it gave, so that tests can see that
 * the driver forgets each of them.
 */
import { EEXIST, EINVAL, EISDIR, ENODATA, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO, EPERM } from '../../mount/errno.js'
import type { Attr, Caller, Created, DirSink, Interrupt, Notifier, Opened, Operations, Reply, SetAttr, StatFs } from '../../mount/operations.js'

const S_IFMT = 0o170000, S_IFDIR = 0o040000, S_IFREG = 0o100000, S_IFLNK = 0o120000
const O_TRUNC = 0o1000, XATTR_CREATE = 1, XATTR_REPLACE = 2, KEEP_SIZE = 1, PUNCH_HOLE = 2, ZERO_RANGE = 16

type Writable<T> = { -readonly [K in keyof T]: T[K] }

interface Node {
  attr: Writable<Attr>
  parent: number
  data: Buffer
  /** Of a directory: name (latin1) to inode; insertion order, and cookies that never come back. */
  entries?: Map<string, { ino: number; cookie: number }>
  order: { name: string; cookie: number }[]
  nextCookie: number
  xattrs?: Map<string, Buffer>
  target?: Buffer
  lookups: number
  opens: number
}

const key = (name: Buffer): string => name.toString('latin1')

export class MemFs implements Operations {
  readonly nodes = new Map<number, Node>()
  notifier: Notifier | undefined
  /** Calls by operation name, where a test counts them. */
  readonly calls = new Map<string, number>()
  destroyed = false
  keepCache = true
  /** Replaces `read` of one inode: for tests of waiting reads. */
  readHook: ((ino: number, offset: number, size: number, signal: Interrupt) => Reply<Buffer | Buffer[]> | undefined) | undefined
  #next = 2

  constructor() {
    this.#make(S_IFDIR | 0o755, 0, { uid: process.getuid!(), gid: process.getgid!(), pid: 0 }, 1).attr.nlink = 2
  }

  init(notifier: Notifier | undefined): void {
    this.notifier = notifier
  }

  async destroy(): Promise<void> {
    this.destroyed = true
  }

  lookup(parent: number, name: Buffer): Reply<Attr> {
    this.#count('lookup')
    const found = this.#dir(parent)?.entries!.get(key(name))
    return found ? this.#given(this.nodes.get(found.ino)!) : ENOENT
  }

  forget(ino: number, nlookup: number): void {
    const node = this.nodes.get(ino)
    if (node === undefined || ino === 1) return
    node.lookups -= nlookup
    this.#drop(node)
  }

  getattr(ino: number): Reply<Attr> {
    this.#count('getattr')
    return this.nodes.get(ino)?.attr ?? ENOENT
  }

  setattr(ino: number, set: SetAttr): Reply<Attr> {
    const node = this.nodes.get(ino)
    if (!node) return ENOENT
    const attr = node.attr
    const now = clock()
    if (set.size !== undefined) {
      this.#resize(node, set.size)
      setTime(attr, 'mtime', now)
    }
    if (set.mode !== undefined) attr.mode = attr.mode & S_IFMT | set.mode & 0o7777
    if (set.uid !== undefined) attr.uid = set.uid
    if (set.gid !== undefined) attr.gid = set.gid
    if (set.killSuidGid) killSuidGid(attr)
    if (set.atime) setTime(attr, 'atime', set.atime === 'now' ? now : set.atime)
    if (set.mtime) setTime(attr, 'mtime', set.mtime === 'now' ? now : set.mtime)
    setTime(attr, 'ctime', set.ctime ?? now)
    return attr
  }

  readlink(ino: number): Reply<Buffer> {
    return this.nodes.get(ino)?.target ?? EINVAL
  }

  mknod(parent: number, name: Buffer, mode: number, rdev: number, umask: number, caller: Caller): Reply<Attr> {
    return this.#add(parent, name, mode & ~umask, caller, node => (node.attr.rdev = rdev))
  }

  mkdir(parent: number, name: Buffer, mode: number, umask: number, caller: Caller): Reply<Attr> {
    return this.#add(parent, name, S_IFDIR | mode & ~umask & 0o7777, caller)
  }

  symlink(parent: number, name: Buffer, target: Buffer, caller: Caller): Reply<Attr> {
    const copy = Buffer.from(target)
    return this.#add(parent, name, S_IFLNK | 0o777, caller, node => {
      node.target = copy
      node.attr.size = copy.length
    })
  }

  link(ino: number, parent: number, name: Buffer): Reply<Attr> {
    const node = this.nodes.get(ino)
    const dir = this.#dir(parent)
    if (!node || !dir) return ENOENT
    if (node.entries) return EPERM
    if (dir.entries!.has(key(name))) return EEXIST
    this.#enter(dir, key(name), ino)
    node.attr.nlink++
    setTime(node.attr, 'ctime', clock())
    return this.#given(node)
  }

  unlink(parent: number, name: Buffer): Reply<0> {
    const dir = this.#dir(parent)
    const entry = dir?.entries!.get(key(name))
    if (!dir || !entry) return ENOENT
    const node = this.nodes.get(entry.ino)!
    if (node.entries) return EISDIR
    this.#leave(dir, key(name))
    node.attr.nlink--
    setTime(node.attr, 'ctime', clock())
    this.#drop(node)
    return 0
  }

  rmdir(parent: number, name: Buffer): Reply<0> {
    const dir = this.#dir(parent)
    const entry = dir?.entries!.get(key(name))
    if (!dir || !entry) return ENOENT
    const node = this.nodes.get(entry.ino)!
    if (!node.entries) return ENOTDIR
    if (node.entries.size > 0) return ENOTEMPTY
    this.#leave(dir, key(name))
    dir.attr.nlink--
    node.attr.nlink = 0
    this.#drop(node)
    return 0
  }

  rename(parent: number, name: Buffer, newParent: number, newName: Buffer, flags: number): Reply<0> {
    const from = this.#dir(parent)
    const to = this.#dir(newParent)
    const entry = from?.entries!.get(key(name))
    if (!from || !to || !entry) return ENOENT
    const other = to.entries!.get(key(newName))
    const node = this.nodes.get(entry.ino)!
    if (flags & 1 && other) return EEXIST
    if (flags & 2) {
      if (!other) return ENOENT
      const otherNode = this.nodes.get(other.ino)!
      entry.ino = otherNode.attr.ino
      other.ino = node.attr.ino
      this.#moved(node, from, to)
      this.#moved(otherNode, to, from)
      return 0
    }
    if (other) {
      if (other.ino === entry.ino) return 0
      const otherNode = this.nodes.get(other.ino)!
      if (otherNode.entries && !node.entries) return EISDIR
      if (!otherNode.entries && node.entries) return ENOTDIR
      if (otherNode.entries?.size) return ENOTEMPTY
      if (otherNode.entries) {
        to.attr.nlink--
        otherNode.attr.nlink = 0
      } else otherNode.attr.nlink--
      this.#leave(to, key(newName))
      setTime(otherNode.attr, 'ctime', clock())
      this.#drop(otherNode)
    }
    this.#leave(from, key(name))
    this.#enter(to, key(newName), node.attr.ino)
    this.#moved(node, from, to)
    return 0
  }

  open(ino: number, flags: number, kill: boolean): Reply<Opened> {
    this.#count('open')
    const node = this.nodes.get(ino)
    if (!node) return ENOENT
    if (flags & O_TRUNC) {
      this.#resize(node, 0)
      if (kill) killSuidGid(node.attr)
    }
    node.opens++
    return { fh: ino, keepCache: this.keepCache }
  }

  create(parent: number, name: Buffer, mode: number, _flags: number, umask: number, caller: Caller): Reply<Created> {
    this.#count('create')
    const attr = this.#add(parent, name, S_IFREG | mode & ~umask & 0o7777, caller)
    if (typeof attr === 'number') return attr
    this.nodes.get(attr.ino)!.opens++
    return { attr, fh: attr.ino, keepCache: true }
  }

  tmpfile(_parent: number, mode: number, _flags: number, umask: number, caller: Caller): Reply<Created> {
    const node = this.#make(S_IFREG | mode & ~umask & 0o7777, 0, caller)
    node.attr.nlink = 0
    node.opens++
    return { attr: this.#given(node), fh: node.attr.ino, keepCache: true }
  }

  read(ino: number, _fh: number, offset: number, size: number, signal: Interrupt): Reply<Buffer | Buffer[]> {
    this.#count('read')
    const hooked = this.readHook?.(ino, offset, size, signal)
    if (hooked !== undefined) return hooked
    const node = this.nodes.get(ino)
    if (!node) return ENOENT
    return node.data.subarray(Math.min(offset, node.attr.size), Math.min(offset + size, node.attr.size))
  }

  write(ino: number, _fh: number, offset: number, data: Buffer, kill: Caller | undefined): Reply<0> {
    this.#count('write')
    const node = this.nodes.get(ino)
    if (!node) return ENOENT
    const end = offset + data.length
    if (end > node.attr.size) this.#resize(node, end)
    node.data.set(data, offset)
    if (kill) killSuidGid(node.attr)
    const now = clock()
    setTime(node.attr, 'mtime', now)
    setTime(node.attr, 'ctime', now)
    return 0
  }

  flush(): Reply<0> {
    this.#count('flush')
    return 0
  }

  release(ino: number): Reply<0> {
    this.#count('release')
    const node = this.nodes.get(ino)
    if (node) {
      node.opens--
      this.#drop(node)
    }
    return 0
  }

  fsync(): Reply<0> {
    this.#count('fsync')
    return 0
  }

  fsyncdir(): Reply<0> {
    this.#count('fsyncdir')
    return 0
  }

  fallocate(ino: number, _fh: number, offset: number, length: number, mode: number): Reply<0> {
    const node = this.nodes.get(ino)
    if (!node) return ENOENT
    if (!(mode & KEEP_SIZE) && offset + length > node.attr.size) this.#resize(node, offset + length)
    if (mode & (PUNCH_HOLE | ZERO_RANGE)) node.data.fill(0, offset, Math.min(offset + length, node.attr.size))
    return 0
  }

  lseek(ino: number, _fh: number, offset: number, whence: number): Reply<{ offset: number }> {
    const size = this.nodes.get(ino)!.attr.size
    if (offset >= size) return ENXIO
    return { offset: whence === 3 ? offset : size }
  }

  copyFileRange(inoIn: number, _fhIn: number, offsetIn: number, inoOut: number, fhOut: number, offsetOut: number, length: number): Reply<{ bytes: number }> {
    this.#count('copyFileRange')
    const node = this.nodes.get(inoIn)!
    const piece = Buffer.from(node.data.subarray(Math.min(offsetIn, node.attr.size), Math.min(offsetIn + length, node.attr.size)))
    this.write(inoOut, fhOut, offsetOut, piece, undefined)
    return { bytes: piece.length }
  }

  readdir(ino: number, cookie: number, sink: DirSink): Reply<0> {
    this.#count(sink.plus ? 'readdirplus' : 'readdir')
    const dir = this.#dir(ino)
    if (!dir) return ENOTDIR
    if (cookie < 1 && !sink.add(Buffer.from('.'), ino, S_IFDIR, 1)) return 0
    if (cookie < 2 && !sink.add(Buffer.from('..'), dir.parent, S_IFDIR, 2)) return 0
    let low = 0
    for (let high = dir.order.length; low < high;) {
      const middle = low + high >>> 1
      if (dir.order[middle]!.cookie > cookie) high = middle
      else low = middle + 1
    }
    for (; low < dir.order.length; low++) {
      const { name, cookie: at } = dir.order[low]!
      const entry = dir.entries!.get(name)
      if (entry?.cookie !== at) continue
      const node = this.nodes.get(entry.ino)!
      if (!sink.add(Buffer.from(name, 'latin1'), entry.ino, node.attr.mode, at, sink.plus ? node.attr : undefined)) return 0
      if (sink.plus) node.lookups++
    }
    return 0
  }

  statfs(): Reply<StatFs> {
    return { blocks: 1 << 20, bfree: 1 << 19, bavail: 1 << 19, files: 1 << 20, ffree: 1 << 19, bsize: 4096, namelen: 255, frsize: 4096 }
  }

  setxattr(ino: number, name: Buffer, value: Buffer, flags: number): Reply<0> {
    const xattrs = (this.nodes.get(ino)!.xattrs ??= new Map())
    if (flags & XATTR_CREATE && xattrs.has(key(name))) return EEXIST
    if (flags & XATTR_REPLACE && !xattrs.has(key(name))) return ENODATA
    xattrs.set(key(name), Buffer.from(value))
    return 0
  }

  getxattr(ino: number, name: Buffer): Reply<Buffer> {
    this.#count('getxattr')
    return this.nodes.get(ino)?.xattrs?.get(key(name)) ?? ENODATA
  }

  listxattr(ino: number): Reply<Buffer> {
    return Buffer.from([...(this.nodes.get(ino)?.xattrs?.keys() ?? [])].map(name => `${name}\0`).join(''), 'latin1')
  }

  removexattr(ino: number, name: Buffer): Reply<0> {
    return this.nodes.get(ino)?.xattrs?.delete(key(name)) ? 0 : ENODATA
  }

  /** As another device would: changes the tree without the kernel's knowledge. */
  put(parent: number, name: string, content: Buffer): number {
    const found = this.#dir(parent)!.entries!.get(name)
    const node = found ? this.nodes.get(found.ino)! : this.#make(S_IFREG | 0o644, parent, { uid: 0, gid: 0, pid: 0 })
    if (!found) this.#enter(this.#dir(parent)!, name, node.attr.ino)
    this.#resize(node, content.length)
    node.data.set(content)
    setTime(node.attr, 'mtime', clock())
    return node.attr.ino
  }

  /** Given and not forgotten: how often the kernel knows something. */
  get lookups(): number {
    let sum = 0
    for (const node of this.nodes.values()) sum += node.lookups
    return sum
  }

  count(name: string): number {
    return this.calls.get(name) ?? 0
  }

  #count(name: string): void {
    this.calls.set(name, this.count(name) + 1)
  }

  #dir(ino: number): Node | undefined {
    const node = this.nodes.get(ino)
    return node?.entries ? node : undefined
  }

  #make(mode: number, parent: number, caller: Caller, ino = this.#next++): Node {
    const { sec, nsec } = clock()
    const isDir = (mode & S_IFMT) === S_IFDIR
    const node: Node = {
      attr: {
        ino, mode, nlink: isDir ? 2 : 1, uid: caller.uid, gid: caller.gid, rdev: 0, size: 0, blocks: 0,
        atime: sec, atimeNs: nsec, mtime: sec, mtimeNs: nsec, ctime: sec, ctimeNs: nsec,
      },
      parent: parent || 1, data: Buffer.alloc(0), order: [], nextCookie: 3, lookups: 0, opens: 0,
    }
    if (isDir) node.entries = new Map()
    this.nodes.set(ino, node)
    return node
  }

  #add(parent: number, name: Buffer, mode: number, caller: Caller, finish?: (node: Node) => void): Attr | number {
    const dir = this.#dir(parent)
    if (!dir || dir.attr.nlink === 0) return ENOENT
    const nameKey = key(name)
    if (dir.entries!.has(nameKey)) return EEXIST
    const node = this.#make(mode, parent, caller)
    if (dir.attr.mode & 0o2000) {
      node.attr.gid = dir.attr.gid
      if (node.entries) node.attr.mode |= 0o2000
    }
    finish?.(node)
    if (node.entries) dir.attr.nlink++
    this.#enter(dir, nameKey, node.attr.ino)
    return this.#given(node)
  }

  #given(node: Node): Attr {
    node.lookups++
    return node.attr
  }

  #enter(dir: Node, name: string, ino: number): void {
    const cookie = dir.nextCookie++
    dir.entries!.set(name, { ino, cookie })
    dir.order.push({ name, cookie })
    touch(dir.attr)
  }

  #leave(dir: Node, name: string): void {
    dir.entries!.delete(name)
    if (dir.order.length > 64 && dir.order.length > 2 * dir.entries!.size) {
      dir.order = dir.order.filter(({ name: n, cookie }) => dir.entries!.get(n)?.cookie === cookie)
    }
    touch(dir.attr)
  }

  #moved(node: Node, from: Node, to: Node): void {
    setTime(node.attr, 'ctime', clock())
    touch(from.attr)
    touch(to.attr)
    if (!node.entries) return
    node.parent = to.attr.ino
    from.attr.nlink--
    to.attr.nlink++
  }

  #resize(node: Node, size: number): void {
    if (size > node.data.length) {
      const grown = Buffer.alloc(Math.max(size, node.data.length * 2))
      node.data.copy(grown, 0, 0, node.attr.size)
      node.data = grown
    } else if (size < node.attr.size) node.data.fill(0, size, node.attr.size)
    node.attr.size = size
    node.attr.blocks = Math.ceil(size / 512)
  }

  #drop(node: Node): void {
    if (node.attr.nlink === 0 && node.opens === 0 && node.lookups === 0) this.nodes.delete(node.attr.ino)
  }
}

function clock(): { sec: number; nsec: number } {
  const ms = Date.now()
  return { sec: Math.floor(ms / 1000), nsec: ms % 1000 * 1_000_000 }
}

function setTime(attr: Writable<Attr>, which: 'atime' | 'mtime' | 'ctime', time: { sec: number; nsec: number }): void {
  attr[which] = time.sec
  attr[`${which}Ns`] = time.nsec
}

function touch(attr: Writable<Attr>): void {
  const now = clock()
  setTime(attr, 'mtime', now)
  setTime(attr, 'ctime', now)
}

function killSuidGid(attr: Writable<Attr>): void {
  attr.mode &= attr.mode & 0o010 ? ~0o6000 : ~0o4000
}

