/**
 * A disk that forgets: a file system in memory that keeps what was written and
 * what was made durable apart, so that a power cut can be played (as LazyFS,
 * dsrhaslab/lazyfs, does below a real one).
 *
 * What survives for certain is as little as POSIX promises, less than ext4 gives:
 * - fsync and fdatasync of a file make its data and its size durable as they were
 *   when the call began. They do NOT make its name durable.
 * - fsync of a directory makes durable which names it has, and nothing of the files.
 *   A rename inside one directory is one change; across two it is one in each.
 * - mode, owner and times are durable at once: nothing depends on them.
 *
 * Of the rest any may survive, by `Survival`: in the order of the calls, or without
 * one, page by page, so that a write may be torn, one may overtake another, and
 * a size may be there without its data (then zeros are read).
 */
import { EEXIST, EIO, EISDIR, ENODATA, ENOENT, ENOSYS, ENOTDIR, ENOTEMPTY, ENOTSUP, ENXIO } from '../../mount/errno.js'
import type { Attr, Caller, Created, DirSink, Errno, Interrupt, Notifier, Opened, Operations, Reply, SetAttr, StatFs } from '../../mount/operations.js'

const S_IFMT = 0o170000, S_IFDIR = 0o040000, S_IFREG = 0o100000, O_TRUNC = 0o1000
const PAGE_BYTES = 4096

/**
 * Of what was not synced: nothing, everything, all up to some moment, or each page, size and (in order, of each
 * directory) name by itself with the chance `share`.
 */
export type Survival = { mode: 'none' | 'all' | 'prefix' } | { mode: 'subset'; share: number }
export interface Survived { pending: number; survived: number }

interface Content { pages: Map<number, Buffer>; size: number }
type Change = { seq: number } & (
  | { kind: 'page'; page: number; bytes: Buffer }
  | { kind: 'size'; size: number }
  | { kind: 'names'; set: [name: string, node: Node | undefined][] }
)
type Writable<T> = { -readonly [K in keyof T]: T[K] }

interface Node {
  attr: Writable<Attr>
  parent: number
  /** As programs see it, and as the disk has it. Pages are never changed, only replaced. */
  now: Content
  disk: Content
  names?: Map<string, Node>
  diskNames?: Map<string, Node>
  /** What the disk may not have, in order. */
  pending: Change[]
  lookups: number
  opens: number
}

export interface LossyOptions {
  seed: number
  /** Free space that statfs tells of. */
  freeBytes?: number
  /** A sync takes up to this long, during which others go on. */
  syncMs?: number
}

export class LossyFs implements Operations {
  readonly #nodes = new Map<number, Node>()
  readonly #root: Node
  readonly #random: () => number
  readonly #freeBytes: number
  readonly #syncMs: number
  #nextIno = 2
  #seq = 0
  #isCut = false

  constructor({ seed, freeBytes = 64 * 2 ** 30, syncMs = 3 }: LossyOptions) {
    this.#random = randomOf(seed)
    this.#freeBytes = freeBytes
    this.#syncMs = syncMs
    this.#root = this.#make(S_IFDIR | 0o755, 0, 0, 1)
  }

  /** From here on nothing changes any more, and every call fails with EIO. */
  cut(): void {
    this.#isCut = true
  }

  /** The power comes back; to be mounted anew, for the kernel remembers what was. */
  restore(survival: Survival): Survived {
    const all = new Set<Node>()
    const visit = (node: Node) => {
      if (all.has(node)) return
      all.add(node)
      for (const child of node.names?.values() ?? []) visit(child)
      for (const child of node.diskNames?.values() ?? []) visit(child)
      for (const change of node.pending) if (change.kind === 'names') for (const [, child] of change.set) if (child) visit(child)
    }
    visit(this.#root)
    const pending = [...all].flatMap(node => node.pending.map(change => ({ node, change }))).sort((a, b) => a.change.seq - b.change.seq)
    const survived = pending.filter(this.#survives(survival, pending))
    for (const { node, change } of survived) applyToDisk(node, change)
    this.#nodes.clear()
    this.#reach(this.#root, 1)
    this.#isCut = false
    return { pending: pending.length, survived: survived.length }
  }

  #survives(survival: Survival, pending: { node: Node; change: Change }[]): (one: { node: Node; change: Change }, index: number) => boolean {
    if (survival.mode !== 'subset') {
      const length = { none: 0, all: pending.length, prefix: Math.floor(this.#random() * (pending.length + 1)) }[survival.mode]
      return (_, index) => index < length
    }
    const { share } = survival
    // A directory's changes go through a journal on every file system that has one: never a later without an earlier.
    const closed = new Set<Node>()
    return ({ node, change }) => {
      if (change.kind !== 'names') return this.#random() < share
      if (this.#random() >= share) closed.add(node)
      return !closed.has(node)
    }
  }

  /** What can be reached from the root on the disk is there after the cut. */
  #reach(node: Node, parent: number): void {
    node.pending = []
    node.opens = node.lookups = 0
    if (this.#nodes.has(node.attr.ino)) {
      node.attr.nlink++
      return
    }
    this.#nodes.set(node.attr.ino, node)
    node.parent = parent
    if (node.diskNames) {
      node.names = new Map(node.diskNames)
      node.attr.nlink = 2
      for (const child of node.names.values()) {
        this.#reach(child, node.attr.ino)
        if (child.names) node.attr.nlink++
      }
      return
    }
    node.attr.nlink = 1
    trim(node.disk)
    node.now = { pages: new Map(node.disk.pages), size: node.disk.size }
    node.attr.size = node.disk.size
  }

  // --- operations ---

  init(_notifier: Notifier | undefined): void {}
  async destroy(): Promise<void> {}

  lookup(parent: number, name: Buffer): Reply<Attr> {
    const dir = this.#dir(parent)
    if (typeof dir === 'number') return dir
    const node = dir.names.get(key(name))
    return node ? this.#given(node) : ENOENT
  }

  forget(ino: number, nlookup: number): void {
    const node = this.#nodes.get(ino)
    if (!node) return
    node.lookups = Math.max(0, node.lookups - nlookup)
    this.#drop(node)
  }

  getattr(ino: number): Reply<Attr> {
    const node = this.#node(ino)
    return typeof node === 'number' ? node : node.attr
  }

  setattr(ino: number, set: SetAttr): Reply<Attr> {
    const node = this.#node(ino)
    if (typeof node === 'number') return node
    const { attr } = node
    if (set.size !== undefined && set.size !== attr.size) this.#change(node, { kind: 'size', size: set.size })
    if (set.mode !== undefined) attr.mode = (attr.mode & S_IFMT) | (set.mode & 0o7777)
    if (set.uid !== undefined) attr.uid = set.uid
    if (set.gid !== undefined) attr.gid = set.gid
    touch(attr)
    return attr
  }

  mknod(parent: number, name: Buffer, mode: number, _rdev: number, umask: number, caller: Caller): Reply<Attr> {
    return this.#add(parent, name, mode & ~umask, caller)
  }

  mkdir(parent: number, name: Buffer, mode: number, umask: number, caller: Caller): Reply<Attr> {
    return this.#add(parent, name, S_IFDIR | (mode & ~umask & 0o7777), caller)
  }

  create(parent: number, name: Buffer, mode: number, _flags: number, umask: number, caller: Caller): Reply<Created> {
    const attr = this.#add(parent, name, S_IFREG | (mode & ~umask & 0o7777), caller)
    if (typeof attr === 'number') return attr
    this.#nodes.get(attr.ino)!.opens++
    return { attr, fh: attr.ino, keepCache: true }
  }

  unlink(parent: number, name: Buffer): Reply<0> {
    return this.#remove(parent, name, false)
  }

  rmdir(parent: number, name: Buffer): Reply<0> {
    return this.#remove(parent, name, true)
  }

  rename(parent: number, name: Buffer, newParent: number, newName: Buffer, flags: number): Reply<0> {
    const from = this.#dir(parent)
    const to = this.#dir(newParent)
    if (typeof from === 'number') return from
    if (typeof to === 'number') return to
    if (flags !== 0) return ENOSYS
    const node = from.names.get(key(name))
    if (!node) return ENOENT
    const over = to.names.get(key(newName))
    if (over === node) return 0
    if (over?.names?.size) return ENOTEMPTY
    if (from === to) {
      this.#change(from, { kind: 'names', set: [[key(name), undefined], [key(newName), node]] })
    } else {
      this.#change(to, { kind: 'names', set: [[key(newName), node]] })
      this.#change(from, { kind: 'names', set: [[key(name), undefined]] })
      node.parent = newParent
    }
    if (over) {
      over.attr.nlink = 0
      this.#drop(over)
    }
    return 0
  }

  open(ino: number, flags: number): Reply<Opened> {
    const node = this.#node(ino)
    if (typeof node === 'number') return node
    if (flags & O_TRUNC && node.attr.size > 0) this.#change(node, { kind: 'size', size: 0 })
    node.opens++
    return { fh: ino, keepCache: true }
  }

  release(ino: number): Reply<0> {
    const node = this.#nodes.get(ino)
    if (node) {
      node.opens = Math.max(0, node.opens - 1)
      this.#drop(node)
    }
    return 0
  }

  read(ino: number, _fh: number, offset: number, size: number, _signal: Interrupt): Reply<Buffer | Buffer[]> {
    const node = this.#node(ino)
    if (typeof node === 'number') return node
    const { pages } = node.now
    const end = Math.min(offset + size, node.now.size)
    const pieces: Buffer[] = []
    for (let at = offset; at < end;) {
      const inPage = at % PAGE_BYTES
      const n = Math.min(PAGE_BYTES - inPage, end - at)
      pieces.push((pages.get((at - inPage) / PAGE_BYTES) ?? ZEROS).subarray(inPage, inPage + n))
      at += n
    }
    return pieces
  }

  write(ino: number, _fh: number, offset: number, data: Buffer): Reply<0> {
    const node = this.#node(ino)
    if (typeof node === 'number') return node
    const copy = Buffer.from(data)
    for (let from = 0; from < copy.length;) {
      const at = offset + from
      const inPage = at % PAGE_BYTES
      const n = Math.min(PAGE_BYTES - inPage, copy.length - from)
      const page = (at - inPage) / PAGE_BYTES
      let bytes = copy.subarray(from, from + n)
      if (n < PAGE_BYTES) {
        const whole = Buffer.alloc(PAGE_BYTES)
        node.now.pages.get(page)?.copy(whole)
        whole.set(bytes, inPage)
        bytes = whole
      }
      this.#change(node, { kind: 'page', page, bytes })
      from += n
    }
    if (offset + copy.length > node.now.size) this.#change(node, { kind: 'size', size: offset + copy.length })
    touch(node.attr)
    return 0
  }

  fsync(ino: number): Reply<0> {
    return this.#sync(ino)
  }

  fsyncdir(ino: number): Reply<0> {
    return this.#sync(ino)
  }

  readdir(ino: number, cookie: number, sink: DirSink): Reply<0> {
    const dir = this.#dir(ino)
    if (typeof dir === 'number') return dir
    const entries: [string, Node | number][] = [['.', ino], ['..', dir.parent], ...dir.names]
    for (let i = cookie; i < entries.length; i++) {
      const [name, node] = entries[i]!
      if (typeof node === 'number') {
        if (!sink.add(Buffer.from(name), node, S_IFDIR, i + 1)) return 0
        continue
      }
      if (!sink.add(Buffer.from(name, 'latin1'), node.attr.ino, node.attr.mode, i + 1, sink.plus ? node.attr : undefined)) return 0
      if (sink.plus) node.lookups++
    }
    return 0
  }

  statfs(): Reply<StatFs> {
    if (this.#isCut) return EIO
    const free = Math.floor(this.#freeBytes / PAGE_BYTES)
    return { blocks: free * 2, bfree: free, bavail: free, files: 1e6, ffree: 1e6, bsize: PAGE_BYTES, namelen: 255, frsize: PAGE_BYTES }
  }

  lseek(ino: number, _fh: number, offset: number, whence: number): Reply<{ offset: number }> {
    const node = this.#node(ino)
    if (typeof node === 'number') return node
    if (offset >= node.now.size) return ENXIO
    return { offset: whence === 3 ? offset : node.now.size }
  }

  flush(): Reply<0> { return this.#isCut ? EIO : 0 }
  readlink(): Reply<Buffer> { return ENOSYS }
  symlink(): Reply<Attr> { return ENOSYS }
  link(): Reply<Attr> { return ENOSYS }
  tmpfile(): Reply<Created> { return ENOTSUP }
  fallocate(): Reply<0> { return ENOTSUP }
  copyFileRange(): Reply<{ bytes: number }> { return ENOTSUP }
  setxattr(): Reply<0> { return ENOTSUP }
  getxattr(): Reply<Buffer> { return ENODATA }
  listxattr(): Reply<Buffer> { return Buffer.alloc(0) }
  removexattr(): Reply<0> { return ENODATA }

  // --- inside ---

  async #sync(ino: number): Promise<0 | Errno> {
    const node = this.#node(ino)
    if (typeof node === 'number') return node
    const upTo = this.#seq
    const ms = this.#random() * this.#syncMs
    if (ms > 0.2) await new Promise(resolve => setTimeout(resolve, ms))
    if (this.#isCut) return EIO
    let count = 0
    for (; count < node.pending.length && node.pending[count]!.seq <= upTo; count++) applyToDisk(node, node.pending[count]!)
    node.pending.splice(0, count)
    return 0
  }

  #change(node: Node, what: { kind: 'page'; page: number; bytes: Buffer } | { kind: 'size'; size: number } | { kind: 'names'; set: [string, Node | undefined][] }): void {
    const change: Change = { seq: ++this.#seq, ...what }
    node.pending.push(change)
    if (change.kind === 'names') {
      for (const [name, child] of change.set) setName(node.names!, name, child)
      touch(node.attr)
      return
    }
    applyContent(node.now, change)
    node.attr.size = node.now.size
    node.attr.blocks = Math.ceil(node.now.size / 512)
  }

  #node(ino: number): Node | Errno {
    return this.#isCut ? EIO : (this.#nodes.get(ino) ?? ENOENT)
  }

  #dir(ino: number): (Node & { names: Map<string, Node> }) | Errno {
    const node = this.#node(ino)
    return typeof node === 'number' ? node : node.names ? (node as Node & { names: Map<string, Node> }) : ENOTDIR
  }

  #make(mode: number, uid: number, gid: number, ino = this.#nextIno++): Node {
    const isDir = (mode & S_IFMT) === S_IFDIR
    const node: Node = {
      attr: { ino, mode, nlink: isDir ? 2 : 1, uid, gid, rdev: 0, size: 0, blocks: 0, atime: 0, atimeNs: 0, mtime: 0, mtimeNs: 0, ctime: 0, ctimeNs: 0 },
      parent: 1, now: { pages: new Map(), size: 0 }, disk: { pages: new Map(), size: 0 }, pending: [], lookups: 0, opens: 0,
      ...(isDir ? { names: new Map(), diskNames: new Map() } : {}),
    }
    touch(node.attr)
    this.#nodes.set(ino, node)
    return node
  }

  #add(parent: number, name: Buffer, mode: number, caller: Caller): Attr | Errno {
    const dir = this.#dir(parent)
    if (typeof dir === 'number') return dir
    if (dir.names.has(key(name))) return EEXIST
    const node = this.#make(mode, caller.uid, caller.gid)
    node.parent = parent
    if (node.names) dir.attr.nlink++
    this.#change(dir, { kind: 'names', set: [[key(name), node]] })
    return this.#given(node)
  }

  #remove(parent: number, name: Buffer, isDir: boolean): Reply<0> {
    const dir = this.#dir(parent)
    if (typeof dir === 'number') return dir
    const node = dir.names.get(key(name))
    if (!node) return ENOENT
    if (isDir !== (node.names !== undefined)) return isDir ? ENOTDIR : EISDIR
    if (node.names?.size) return ENOTEMPTY
    this.#change(dir, { kind: 'names', set: [[key(name), undefined]] })
    if (isDir) dir.attr.nlink--
    node.attr.nlink = 0
    this.#drop(node)
    return 0
  }

  #given(node: Node): Attr {
    node.lookups++
    return node.attr
  }

  #drop(node: Node): void {
    if (node.attr.nlink === 0 && node.opens === 0 && node.lookups === 0) this.#nodes.delete(node.attr.ino)
  }
}

const ZEROS = Buffer.alloc(PAGE_BYTES)
const key = (name: Buffer): string => name.toString('latin1')

function applyToDisk(node: Node, change: Change): void {
  if (change.kind !== 'names') return applyContent(node.disk, change)
  for (const [name, child] of change.set) setName(node.diskNames!, name, child)
}

function applyContent(content: Content, change: Exclude<Change, { kind: 'names' }>): void {
  if (change.kind === 'page') content.pages.set(change.page, change.bytes)
  else cutTo(content, change.size)
}

function setName(names: Map<string, Node>, name: string, node: Node | undefined): void {
  if (node) names.set(name, node)
  else names.delete(name)
}

function cutTo(content: Content, size: number): void {
  const isShrinking = size < content.size
  content.size = size
  if (isShrinking) trim(content)
}

/** Nothing is left behind the end. A file that grows keeps what is there: a page may reach the disk before the size. */
function trim({ pages, size }: Content): void {
  const tail = size % PAGE_BYTES
  const last = (size - tail) / PAGE_BYTES
  for (const page of pages.keys()) if (page > last || (page === last && tail === 0)) pages.delete(page)
  const kept = pages.get(last)
  if (kept) pages.set(last, Buffer.concat([kept.subarray(0, tail)], PAGE_BYTES))
}

function touch(attr: Writable<Attr>): void {
  const ms = Date.now()
  attr.mtime = attr.ctime = Math.floor(ms / 1000)
  attr.mtimeNs = attr.ctimeNs = (ms % 1000) * 1e6
}

/** 0 <= x < 1, the same row for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
