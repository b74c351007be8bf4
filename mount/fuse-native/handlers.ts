/**
 * One mounted file system: what fuse-native asks by path, asked by inode.
 *
 * Each method of Handlers answers one operation of the package: it takes what the C half gives and resolves to what
 * the C half expects behind the result, or throws; `install` puts them in place of the package's own.
 *
 * Invariants:
 * - every request is answered exactly once, whatever happens: a libfuse thread waits for it;
 * - the answer to a request that came with a buffer carries that buffer's memory, for the C half detaches it then
 *   and aborts the process if it is not there; after the answer the memory belongs to libfuse again.
 */
import { isDfsError } from '../../lib/errors.js'
import { EBADF, ENODATA, ENOTSUP, ERANGE, errnoOf } from '../errno.js'
import type { Caller, Interrupt, Notifier, Operations, SetAttr } from '../operations.js'
import { decodeTime, encodeEntry, encodeStat, encodeStatFs, get64, modificationTime, toPlatform } from './encode.js'
import type { FuseNative, Signal } from './package.js'
import { Paths, Refused, want, type Place } from './paths.js'
import { Unlinked } from './unlinked.js'

const ROOT = 1
/** Entries taken from a directory before other requests get their turn. */
const READDIR_SLICE = 512
const UNSET = 0xffff_ffff
const MAX_HANDLE = 0x7fff_fff0
/** What macOS says where Linux says ENODATA. */
const DARWIN_ENOATTR = 93
const never: Interrupt = { interrupted: false, onInterrupt: () => {} }

interface Handle {
  ino: number
  fh: number
}

/** What the C half expects behind the result when an operation fails; without it, nothing. */
const onError: Record<string, (args: unknown[]) => unknown[]> = {
  read: args => [0, memory(args[2])],
  write: args => [0, memory(args[2])],
  setxattr: args => [memory(args[2])],
  getxattr: args => [memory(args[2])],
  listxattr: args => [memory(args[1])],
}

function memory(buffer: unknown): ArrayBufferLike {
  return (buffer as Buffer).buffer
}

export class Handlers {
  readonly #operations: Operations
  readonly #caller: Caller
  readonly #paths: Paths
  readonly #unlinked: Unlinked
  readonly #report: (error: unknown) => void
  readonly #handles = new Map<number, Handle>()
  /** How many handles an inode has. */
  readonly #opens = new Map<number, number>()
  #nextHandle = 1
  /** Memory of the libfuse thread whose request is being taken, and its opcode. */
  #thread: Buffer = Buffer.alloc(0)
  #opcode = 0

  constructor(operations: Operations, caller: Caller, report: (error: unknown) => void) {
    this.#operations = operations
    this.#caller = caller
    this.#report = report
    this.#paths = new Paths(operations, caller)
    this.#unlinked = new Unlinked(operations, this.#paths, caller)
  }

  /** The operations as the package asks for them; what is not listed, libfuse answers by itself. */
  static readonly names = [
    'statfs', 'getattr', 'fgetattr', 'flush', 'fsync', 'fsyncdir', 'readdir', 'truncate', 'ftruncate', 'utimens', 'readlink', 'chown', 'chmod',
    'mknod', 'setxattr', 'getxattr', 'listxattr', 'removexattr', 'open', 'read', 'write', 'release', 'create', 'unlink', 'rename', 'link',
    'symlink', 'mkdir', 'rmdir',
  ] as const

  /** For the notices of the file system: names kept here must go, too. The kernel's caches cannot be reached. */
  get notifier(): Notifier {
    return {
      invalInode: () => {},
      invalEntry: (parent, name) => this.#paths.drop(parent, name),
      deleted: (parent, _child, name) => this.#paths.drop(parent, name),
      drained: () => Promise.resolve(),
    }
  }

  /** Gives back all that is held. The session must be over. */
  async close(): Promise<void> {
    await this.#unlinked.close()
    this.#paths.close()
  }

  install(fuse: FuseNative): void {
    fuse._handlers = fuse._handlers.map(handler => handler && ((thread, opcode, ...args) => {
      this.#thread = thread
      this.#opcode = opcode
      return handler(thread, opcode, ...args)
    }))
    for (const name of Handlers.names) {
      fuse[`_op_${name}`] = (signal: Signal, ...args: never[]) => this.#answer(name, signal, args)
    }
  }

  #answer(name: (typeof Handlers.names)[number], signal: Signal, args: never[]): void {
    const thread = this.#thread
    const opcode = this.#opcode
    const before = this.#unlinked.before(thread, name, args)
    const go = (): Promise<[number, ...unknown[]]> => {
      this.#thread = thread
      this.#opcode = opcode
      return (this[name] as (...args: never[]) => Promise<[number, ...unknown[]]>)(...args)
    }
    void (before ? before.then(go) : go()).then(
      answer => signal(...answer),
      (error: unknown) => signal(-toPlatform(this.#errno(error)), ...(onError[name]?.(args) ?? [])),
    )
  }

  #errno(error: unknown): number {
    if (error instanceof Refused) return error.errno
    if (!isDfsError(error)) this.#report(error)
    return errnoOf(error)
  }

  // --- attributes ---------------------------------------------------------

  async getattr(path: string): Promise<[number, Uint32Array]> {
    return this.#attributes(await this.#paths.resolve(path))
  }

  async fgetattr(path: string, handle: number): Promise<[number, Uint32Array]> {
    const open = this.#handles.get(handle)
    return open ? this.#attributes(open.ino, open.fh) : this.getattr(path)
  }

  async #attributes(ino: number, fh?: number): Promise<[number, Uint32Array]> {
    return [0, encodeStat(await want(this.#operations.getattr(ino, fh, this.#caller)))]
  }

  async chmod(path: string, mode: number): Promise<[number]> {
    return this.#set(path, { mode: mode & 0o7777 })
  }

  async chown(path: string, uid: number, gid: number): Promise<[number]> {
    return this.#set(path, { ...(uid === UNSET ? {} : { uid }), ...(gid === UNSET ? {} : { gid }) })
  }

  async truncate(path: string, sizeLow: number, sizeHigh: number): Promise<[number]> {
    return this.#set(path, { size: get64(sizeLow, sizeHigh) })
  }

  async ftruncate(path: string, handle: number, sizeLow: number, sizeHigh: number): Promise<[number]> {
    const open = this.#handles.get(handle)
    const size = get64(sizeLow, sizeHigh)
    if (!open) return this.#set(path, { size })
    await want(this.#operations.setattr(open.ino, { size, fh: open.fh }, this.#caller))
    return [0]
  }

  /** libfuse asks only if both times are to change. */
  async utimens(path: string, atimeLow: number, atimeHigh: number): Promise<[number]> {
    const atime = (BigInt(atimeHigh) << 32n) | BigInt(atimeLow)
    const mtime = modificationTime(this.#thread, this.#opcode, atime) ?? atime
    return this.#set(path, { atime: decodeTime(atime), mtime: decodeTime(mtime) })
  }

  async #set(path: string, set: SetAttr): Promise<[number]> {
    await want(this.#operations.setattr(await this.#paths.resolve(path), set, this.#caller))
    return [0]
  }

  async readlink(path: string): Promise<[number, string]> {
    return [0, (await want(this.#operations.readlink(await this.#paths.resolve(path)))).toString()]
  }

  async statfs(): Promise<[number, Uint32Array]> {
    return [0, encodeStatFs(await want(this.#operations.statfs()))]
  }

  // --- extended attributes --------------------------------------------------

  async setxattr(path: string, name: string, value: Buffer, _position: number, flags: number): Promise<[number, ArrayBufferLike]> {
    const ino = await this.#paths.resolve(path)
    await want(this.#operations.setxattr(ino, xattrName(name), value, flags, false, this.#caller))
    return [0, value.buffer]
  }

  async getxattr(path: string, name: string, into: Buffer): Promise<[number, ArrayBufferLike]> {
    const value = await this.#xattr(path, name)
    return [fill(into, value), into.buffer]
  }

  async #xattr(path: string, name: string): Promise<Buffer> {
    try {
      return await want(this.#operations.getxattr(await this.#paths.resolve(path), xattrName(name), this.#caller))
    } catch (error) {
      if (process.platform === 'darwin' && error instanceof Refused && error.errno === ENODATA) throw new Refused(DARWIN_ENOATTR)
      throw error
    }
  }

  async listxattr(path: string, into: Buffer): Promise<[number, ArrayBufferLike]> {
    const names = await want(this.#operations.listxattr(await this.#paths.resolve(path), this.#caller))
    const shown = names.toString('latin1').split('\0').slice(0, -1).filter(name => !isAcl(name)).map(name => `${name}\0`).join('')
    return [fill(into, Buffer.from(shown, 'latin1')), into.buffer]
  }

  async removexattr(path: string, name: string): Promise<[number]> {
    await want(this.#operations.removexattr(await this.#paths.resolve(path), xattrName(name), this.#caller))
    return [0]
  }

  // --- names ----------------------------------------------------------------

  /** The umask is applied already, and who asks is not known. */
  async mknod(path: string, mode: number, rdev: number): Promise<[number]> {
    const place = await this.#paths.place(path, true)
    this.#paths.made(place, await want(this.#operations.mknod(place.parent, place.name, mode, rdev, 0, this.#caller)))
    return [0]
  }

  async mkdir(path: string, mode: number): Promise<[number]> {
    const place = await this.#paths.place(path, true)
    this.#paths.made(place, await want(this.#operations.mkdir(place.parent, place.name, mode, 0, this.#caller)))
    return [0]
  }

  async symlink(target: string, path: string): Promise<[number]> {
    const place = await this.#paths.place(path, true)
    this.#paths.made(place, await want(this.#operations.symlink(place.parent, place.name, Buffer.from(target), this.#caller)))
    return [0]
  }

  async link(path: string, to: string): Promise<[number]> {
    const ino = await this.#paths.resolve(path)
    const place = await this.#paths.place(to, true)
    this.#paths.made(place, await want(this.#operations.link(ino, place.parent, place.name, this.#caller)))
    return [0]
  }

  async unlink(path: string): Promise<[number]> {
    if (Unlinked.isHidden(path) && this.#unlinked.gone(path)) return [0]
    const { parent, name } = await this.#paths.place(path)
    await want(this.#operations.unlink(parent, name, this.#caller))
    this.#paths.drop(parent, name)
    return [0]
  }

  async rmdir(path: string): Promise<[number]> {
    const { parent, name } = await this.#paths.place(path)
    await want(this.#operations.rmdir(parent, name, this.#caller))
    this.#paths.drop(parent, name)
    return [0]
  }

  async rename(path: string, to: string): Promise<[number]> {
    const thread = this.#thread
    const replaced = this.#unlinked.replacing(thread, to)
    try {
      if (Unlinked.isHidden(to) && this.#opens.has(await this.#paths.resolve(path))) await this.#unlinked.hide(thread, path, to)
      else await this.#rename(await this.#paths.place(path), await this.#paths.place(to, true))
    } finally {
      replaced?.()
    }
    return [0]
  }

  async #rename(from: Place, to: Place): Promise<void> {
    try {
      await want(this.#operations.rename(from.parent, from.name, to.parent, to.name, 0, this.#caller))
    } finally {
      this.#paths.drop(from.parent, from.name)
      this.#paths.drop(to.parent, to.name)
    }
  }

  /** The whole directory at once: libfuse asks for nothing less. */
  async readdir(path: string): Promise<[number, string[], Uint32Array[]]> {
    const ino = await this.#paths.resolve(path)
    const names: string[] = []
    const stats: Uint32Array[] = []
    for (let cookie = 0, room = 0; room === 0;) {
      room = READDIR_SLICE
      await want(this.#operations.readdir(ino, cookie, {
        plus: false,
        add(name, child, mode, next) {
          if (room === 0) return false
          room--
          names.push(name.toString())
          stats.push(encodeEntry(child, mode))
          cookie = next
          return true
        },
      }))
      if (room === 0) await new Promise(setImmediate)
    }
    return [0, names, stats]
  }

  // --- open files -----------------------------------------------------------

  async open(path: string, flags: number): Promise<[number, number]> {
    const ino = await this.#paths.resolve(path)
    const { fh } = await want(this.#operations.open(ino, flags, false, this.#caller))
    return [0, this.#handle(ino, fh)]
  }

  /** How it is opened is not handed over. */
  async create(path: string, mode: number): Promise<[number, number]> {
    const place = await this.#paths.place(path, true)
    const O_RDWR = 2, O_CREAT = 0o100
    const { attr, fh } = await want(this.#operations.create(place.parent, place.name, mode, O_RDWR | O_CREAT, 0, this.#caller))
    this.#paths.made(place, attr)
    return [0, this.#handle(attr.ino, fh)]
  }

  async read(_path: string, handle: number, into: Buffer, length: number, low: number, high: number): Promise<[number, number, ArrayBufferLike]> {
    const { ino, fh } = this.#open(handle)
    const found = await want(this.#operations.read(ino, fh, get64(low, high), length, never))
    let bytes = 0
    for (const piece of Array.isArray(found) ? found : [found]) bytes += piece.copy(into, bytes)
    return [bytes, 0, into.buffer]
  }

  async write(_path: string, handle: number, data: Buffer, length: number, low: number, high: number): Promise<[number, number, ArrayBufferLike]> {
    const { ino, fh } = this.#open(handle)
    // Not copied: what an operation keeps it copies itself, and the memory is ours until the answer.
    await want(this.#operations.write(ino, fh, get64(low, high), data, undefined, false))
    return [length, 0, data.buffer]
  }

  async flush(_path: string, handle: number): Promise<[number]> {
    const { ino, fh } = this.#open(handle)
    await want(this.#operations.flush(ino, fh))
    return [0]
  }

  async fsync(_path: string, dataOnly: number, handle: number): Promise<[number]> {
    const { ino, fh } = this.#open(handle)
    await want(this.#operations.fsync(ino, fh, dataOnly !== 0, never))
    return [0]
  }

  async fsyncdir(): Promise<[number]> {
    await want(this.#operations.fsyncdir(ROOT, never))
    return [0]
  }

  async release(_path: string, handle: number): Promise<[number]> {
    const { ino, fh } = this.#open(handle)
    this.#handles.delete(handle)
    const opens = this.#opens.get(ino)! - 1
    if (opens > 0) this.#opens.set(ino, opens)
    else this.#opens.delete(ino)
    await want(this.#operations.release(ino, fh))
    if (opens === 0) this.#unlinked.closed(ino)
    return [0]
  }

  #open(handle: number): Handle {
    const open = this.#handles.get(handle)
    if (!open) throw new Refused(EBADF)
    return open
  }

  /** Never 0, which the C half takes for none. */
  #handle(ino: number, fh: number): number {
    do this.#nextHandle = this.#nextHandle % MAX_HANDLE + 1
    while (this.#handles.has(this.#nextHandle))
    this.#handles.set(this.#nextHandle, { ino, fh })
    this.#opens.set(ino, (this.#opens.get(ino) ?? 0) + 1)
    return this.#nextHandle
  }
}

/** ACLs are refused: the kernel, not told of them by libfuse, would not obey them. */
function xattrName(name: string): Buffer {
  if (isAcl(name)) throw new Refused(ENOTSUP)
  return Buffer.from(name)
}

function isAcl(name: string): boolean {
  return name.startsWith('system.posix_acl_')
}

/** An empty buffer asks for the length; the C half would hand on as many bytes as we say, whatever it has. */
function fill(into: Buffer, value: Buffer): number {
  if (into.length === 0) return value.length
  if (value.length > into.length) throw new Refused(ERANGE)
  return value.copy(into)
}
