/**
 * One mounted file system: decodes each request, calls the operation, encodes
 * its answer. The fd belongs to the addon (mount/native/session.c), which calls
 * `handle` on this thread once for each request.
 *
 * Invariants:
 * - a request is decoded, and its operation called, before the next is read: the request area is shared;
 * - the reply area is filled and sent without anything in between, so it is shared too; directory
 *   listings, which may take several turns to fill, have areas of their own (dirents.ts);
 * - every request but FORGET, BATCH_FORGET and INTERRUPT is answered exactly once; those that wait are in #waiting;
 * - each inode given out in an entry that was delivered is taken back by FORGET; one that
 *   could not be delivered is forgotten here.
 */
import { isDfsError } from '../../lib/errors.js'
import { EINTR, EINVAL, EIO, ENAMETOOLONG, ENOENT, ENOSYS, ERANGE, errnoOf } from '../errno.js'
import type { Caller, Notifier, Operations, Reply, SetAttr } from '../operations.js'
import { DirentSink } from './dirents.js'
import { attributes, copied, copied64, created, data, done, entry, lookedUp, missing, opened, openedDir, passing, size32, sought, statfs, xattr, type Encode } from './encode.js'
import { negotiate } from './init.js'
import { Waiting, type Asked } from './waiting.js'
import { PendingCall } from './interrupt.js'
import {
  FSYNC_FDATASYNC, Fattr, GETATTR_FH, INIT_OUT, IN_HEADER, In, MAX_WRITE, OPEN_KILL_SUIDGID, OUT_HEADER, Op, PAGE,
  ROOT_ID, SETXATTR_ACL_KILL_SGID, WRITE_CACHE, WRITE_KILL_SUIDGID, getI64, getU64,
} from './protocol.js'

export interface SessionOptions {
  /** Let the kernel gather writes (FUSE_WRITEBACK_CACHE): only for a mount that is the drive's only writer. */
  writeback: boolean
  /** Ask for no FLUSH at close(2). */
  noflush: boolean
  /** How long the kernel believes names, missing names and attributes without a notification, seconds. */
  ttlSeconds: number
  /** Requests in flight that nobody waits for, such as read-ahead. 1..65535. */
  maxBackground: number
  /** Told of what an operation threw that was not a DfsError. */
  report: (error: unknown) => void
}

export const sessionDefaults: SessionOptions = {
  writeback: false, noflush: true, ttlSeconds: 365 * 86_400, maxBackground: 64,
  report: error => process.emitWarning(error instanceof Error ? error : new Error(String(error))),
}

/** What the addon does for a session; tests bring their own. */
export interface Transport {
  send(length: number): number
  sendData(length: number, data: Uint8Array | Uint8Array[]): number
}

export const REQUEST_AREA = MAX_WRITE + 4 * PAGE
const REPLY_AREA = 128 << 10
const MAX_NAME = 255
const RENAME_FLAGS = 3

export class Session {
  readonly request = new ArrayBuffer(REQUEST_AREA)
  readonly reply = new ArrayBuffer(REPLY_AREA)
  /** Resolves when INIT was answered; rejects with what `operations.init` threw. */
  readonly ready: Promise<void>
  readonly #in = new Uint32Array(this.request)
  readonly #inBytes = Buffer.from(this.request)
  readonly out = new Uint32Array(this.reply)
  readonly outBytes = Buffer.from(this.reply)
  readonly options: SessionOptions
  readonly #operations: Operations
  readonly #makeNotifier: (() => Notifier) | undefined
  #transport: Transport | undefined
  #base = 0
  #up!: () => void
  #failed!: (error: unknown) => void
  #noOpendir = false
  readonly #waiting: Waiting
  readonly #sinks: DirentSink[] = []
  /** What the reply given last handed out, should it not be delivered. */
  #givenIno = 0

  constructor(operations: Operations, options: Partial<SessionOptions> = {}, makeNotifier?: () => Notifier) {
    this.#operations = operations
    this.options = { ...sessionDefaults, ...options }
    this.#makeNotifier = makeNotifier
    this.#waiting = new Waiting((lo, hi, errno) => this.#transport!.send(this.#error(lo, hi, errno)), this.options.report)
    this.ready = new Promise((resolve, reject) => {
      this.#up = resolve
      this.#failed = reject
    })
    this.ready.catch(() => {}) // who mounts waits for it; a test need not
  }

  /** `offset`: where requests begin in the request area, bytes, a multiple of 8. */
  attach(transport: Transport, offset: number): void {
    this.#transport = transport
    this.#base = offset / 4
  }

  /** Requests that were not answered yet. */
  get waiting(): number {
    return this.#waiting.size
  }

  /** Answers with EIO all that waits, so that no process hangs on a session that closes. */
  abandon(): void {
    this.#waiting.abandon()
  }

  /** See Native.start, onRequest. */
  handle(length: number): number {
    if (length < 0) {
      this.#undelivered()
      return 0
    }
    this.#givenIno = 0
    const lo = this.#in[this.#base + In.UNIQUE]!
    const hi = this.#in[this.#base + In.UNIQUE + 1]!
    try {
      return this.#dispatch(this.#in, this.#base, lo, hi, length)
    } catch (error) {
      return this.#error(lo, hi, this.#errno(error))
    }
  }

  #dispatch(w: Uint32Array, b: number, lo: number, hi: number, length: number): number {
    const ops = this.#operations
    const node = getU64(w, b + In.NODEID)
    const body = b + In.BODY
    switch (w[b + In.OPCODE]) {
      case Op.LOOKUP:
        return this.#answer(lo, hi, ops.lookup(node, this.#name(0, length), this.#caller()), lookedUp)
      case Op.FORGET:
        ops.forget(node, getU64(w, body))
        return 0
      case Op.BATCH_FORGET:
        for (let i = 0, at = body + 2; i < w[body]!; i++, at += 4) ops.forget(getU64(w, at), getU64(w, at + 2))
        return 0
      case Op.GETATTR:
        return this.#answer(lo, hi, ops.getattr(node, w[body]! & GETATTR_FH ? getU64(w, body + 2) : undefined, this.#caller()), attributes)
      case Op.SETATTR:
        // With nothing to set it may come ahead of a write that is going to clear suid, which the kernel does not expect to be told.
        return this.#answer(lo, hi, ops.setattr(node, this.#setattr(body), this.#caller()), (w[body]! & Fattr.CHANGES) === 0 ? passing : attributes)
      case Op.READLINK:
        return this.#answer(lo, hi, ops.readlink(node), data)
      case Op.SYMLINK: {
        const name = this.#name(0, length)
        return this.#answer(lo, hi, ops.symlink(node, name, this.#text(name.length + 1, length), this.#caller()), entry)
      }
      case Op.MKNOD:
        return this.#answer(lo, hi, ops.mknod(node, this.#name(16, length), w[body]!, w[body + 1]!, w[body + 2]!, this.#caller()), entry)
      case Op.MKDIR:
        return this.#answer(lo, hi, ops.mkdir(node, this.#name(8, length), w[body]!, w[body + 1]!, this.#caller()), entry)
      case Op.LINK:
        return this.#answer(lo, hi, ops.link(getU64(w, body), node, this.#name(8, length), this.#caller()), entry)
      case Op.UNLINK:
        return this.#answer(lo, hi, ops.unlink(node, this.#name(0, length), this.#caller()), done)
      case Op.RMDIR:
        return this.#answer(lo, hi, ops.rmdir(node, this.#name(0, length), this.#caller()), done)
      case Op.RENAME:
        return this.#rename(lo, hi, node, getU64(w, body), 0, 8, length)
      case Op.RENAME2:
        return this.#rename(lo, hi, node, getU64(w, body), w[body + 2]!, 16, length)
      case Op.OPEN:
        return this.#answer(lo, hi, ops.open(node, w[body]!, (w[body + 1]! & OPEN_KILL_SUIDGID) !== 0, this.#caller()), opened)
      case Op.CREATE:
        return this.#answer(lo, hi, ops.create(node, this.#name(16, length), w[body + 1]!, w[body]!, w[body + 2]!, this.#caller()), created)
      case Op.TMPFILE:
        return this.#answer(lo, hi, ops.tmpfile(node, w[body + 1]!, w[body]!, w[body + 2]!, this.#caller()), created)
      case Op.READ:
        return this.#read(lo, hi, node, body)
      case Op.WRITE:
        return this.#write(lo, hi, node, b, length)
      case Op.FLUSH:
        return this.#answer(lo, hi, ops.flush(node, getU64(w, body)), done)
      case Op.RELEASE:
        return this.#answer(lo, hi, ops.release(node, getU64(w, body)), done)
      case Op.FSYNC:
        return this.#synced(lo, hi, (signal) => ops.fsync(node, getU64(w, body), (w[body + 2]! & FSYNC_FDATASYNC) !== 0, signal))
      case Op.FSYNCDIR:
        return this.#synced(lo, hi, (signal) => ops.fsyncdir(node, signal))
      case Op.SYNCFS:
        return this.#synced(lo, hi, (signal) => ops.fsyncdir(ROOT_ID, signal))
      case Op.FALLOCATE:
        return this.#answer(lo, hi, ops.fallocate(node, getU64(w, body), getU64(w, body + 2), getU64(w, body + 4), w[body + 6]!, this.#caller()), done)
      case Op.LSEEK:
        return this.#answer(lo, hi, ops.lseek(node, getU64(w, body), getI64(w, body + 2), w[body + 4]!), sought)
      case Op.COPY_FILE_RANGE:
        return this.#answer(lo, hi, this.#copy(node, body, 0xfffff000), copied)
      case Op.COPY_FILE_RANGE_64:
        return this.#answer(lo, hi, this.#copy(node, body, Number.MAX_SAFE_INTEGER), copied64)
      case Op.OPENDIR:
        // ENOSYS: from now on the kernel opens directories by itself, and keeps and trusts their listings
        if (this.#noOpendir) return this.#error(lo, hi, ENOSYS)
        return this.#answer(lo, hi, { fh: 0, keepCache: true }, openedDir)
      case Op.RELEASEDIR:
        return this.#error(lo, hi, 0)
      case Op.READDIR:
        return this.#readdir(lo, hi, node, body, false)
      case Op.READDIRPLUS:
        return this.#readdir(lo, hi, node, body, true)
      case Op.STATFS:
        return this.#answer(lo, hi, ops.statfs(), statfs)
      case Op.SETXATTR: {
        const name = this.#xattrName(16, length)
        const at = b * 4 + IN_HEADER + 16 + name.length + 1
        const value = this.#inBytes.subarray(at, at + w[body]!)
        if (value.length !== w[body]! || at + value.length > b * 4 + length) return this.#error(lo, hi, EINVAL)
        return this.#answer(lo, hi, ops.setxattr(node, name, value, w[body + 1]!, (w[body + 2]! & SETXATTR_ACL_KILL_SGID) !== 0, this.#caller()), done)
      }
      case Op.GETXATTR: {
        const size = w[body]!
        return this.#answer(lo, hi, ops.getxattr(node, this.#xattrName(8, length), this.#caller()), (to, value) => xattr(to, value, size))
      }
      case Op.LISTXATTR: {
        const size = w[body]!
        return this.#answer(lo, hi, ops.listxattr(node, this.#caller()), (to, value) => xattr(to, value, size))
      }
      case Op.REMOVEXATTR:
        return this.#answer(lo, hi, ops.removexattr(node, this.#xattrName(0, length), this.#caller()), done)
      case Op.INTERRUPT:
        this.#waiting.interrupt(getU64(w, body))
        return 0
      case Op.INIT:
        return this.#init(lo, hi, body)
      case Op.DESTROY:
        return this.#error(lo, hi, 0)
      case Op.NOTIFY_REPLY:
        return 0
      default:
        // ACCESS (default_permissions does it), locks (the kernel's own), IOCTL, BMAP, POLL, STATX, and what is newer
        return this.#error(lo, hi, ENOSYS)
    }
  }

  // -- requests ------------------------------------------------------------------------------------------------------

  #caller(): Caller {
    const w = this.#in
    const b = this.#base
    return { uid: w[b + In.UID]!, gid: w[b + In.GID]!, pid: w[b + In.PID]! }
  }

  /** The bytes up to the NUL, from `skip` bytes into the body. */
  #text(skip: number, length: number): Buffer {
    const start = this.#base * 4 + IN_HEADER + skip
    const end = this.#inBytes.indexOf(0, start)
    if (end < 0 || end >= this.#base * 4 + length) throw new ProtocolError(EINVAL)
    return this.#inBytes.subarray(start, end)
  }

  #name(skip: number, length: number): Buffer {
    const name = this.#text(skip, length)
    if (name.length > MAX_NAME) throw new ProtocolError(ENAMETOOLONG)
    if (name.length === 0) throw new ProtocolError(EINVAL)
    return name
  }

  #xattrName(skip: number, length: number): Buffer {
    const name = this.#text(skip, length)
    if (name.length === 0 || name.length > MAX_NAME) throw new ProtocolError(ERANGE)
    return name
  }

  #setattr(body: number): SetAttr {
    const w = this.#in
    const valid = w[body]!
    const set: SetAttr = {}
    if (valid & Fattr.FH) set.fh = getU64(w, body + 2)
    if (valid & Fattr.SIZE) set.size = getU64(w, body + 4)
    if (valid & Fattr.ATIME) set.atime = valid & Fattr.ATIME_NOW ? 'now' : { sec: getI64(w, body + 8), nsec: w[body + 14]! }
    if (valid & Fattr.MTIME) set.mtime = valid & Fattr.MTIME_NOW ? 'now' : { sec: getI64(w, body + 10), nsec: w[body + 15]! }
    if (valid & Fattr.CTIME) set.ctime = { sec: getI64(w, body + 12), nsec: w[body + 16]! }
    if (valid & Fattr.MODE) set.mode = w[body + 17]!
    if (valid & Fattr.UID) set.uid = w[body + 19]!
    if (valid & Fattr.GID) set.gid = w[body + 20]!
    if (valid & Fattr.KILL_SUIDGID) set.killSuidGid = true
    return set
  }

  #rename(lo: number, hi: number, parent: number, newParent: number, flags: number, skip: number, length: number): number {
    if (flags & ~RENAME_FLAGS) return this.#error(lo, hi, EINVAL)
    const name = this.#name(skip, length)
    const newName = this.#name(skip + name.length + 1, length)
    return this.#answer(lo, hi, this.#operations.rename(parent, name, newParent, newName, flags, this.#caller()), done)
  }

  #read(lo: number, hi: number, node: number, body: number): number {
    const w = this.#in
    const size = Math.min(w[body + 4]!, MAX_WRITE)
    const by = new PendingCall()
    if (this.#waiting.wasInterrupted(lo, hi)) return this.#error(lo, hi, EINTR)
    const pid = w[this.#base + In.PID]!
    return this.#answer(lo, hi, this.#operations.read(node, getU64(w, body), getU64(w, body + 2), size, by), data, { by, pid })
  }

  #synced(lo: number, hi: number, sync: (signal: PendingCall) => Reply<0>): number {
    const by = new PendingCall()
    const wasInterrupted = this.#waiting.wasInterrupted(lo, hi)
    const reply = sync(by)
    const length = this.#answer(lo, hi, reply, done, by.isHeeded ? { by, pid: this.#in[this.#base + In.PID]! } : undefined)
    if (wasInterrupted && by.isHeeded) this.#waiting.interrupt(hi * 2 ** 32 + lo)
    return length
  }

  #write(lo: number, hi: number, node: number, b: number, length: number): number {
    const w = this.#in
    const body = b + In.BODY
    const size = w[body + 4]!
    const flags = w[body + 5]!
    const at = b * 4 + IN_HEADER + 40
    if (size > MAX_WRITE || IN_HEADER + 40 + size > length) return this.#error(lo, hi, EIO)
    const reply = this.#operations.write(node, getU64(w, body), getI64(w, body + 2), this.#inBytes.subarray(at, at + size),
      (flags & WRITE_KILL_SUIDGID) !== 0 ? this.#caller() : undefined, (flags & WRITE_CACHE) !== 0)
    if (reply === 0) return this.#written(lo, hi, size)
    if (typeof reply === 'number') return this.#error(lo, hi, reply)
    return this.#answer(lo, hi, reply.then(result => result === 0 ? { size } : result), size32)
  }

  #copy(node: number, body: number, most: number): Reply<{ bytes: number }> {
    const w = this.#in
    if (getU64(w, body + 12) !== 0) return EINVAL // flags: none are defined
    return this.#operations.copyFileRange(node, getU64(w, body), getI64(w, body + 2), getU64(w, body + 4), getU64(w, body + 6),
      getI64(w, body + 8), Math.min(getU64(w, body + 10), most), this.#caller())
  }

  #readdir(lo: number, hi: number, node: number, body: number, plus: boolean): number {
    const w = this.#in
    const sink = this.#sinks.pop() ?? new DirentSink(MAX_WRITE)
    sink.begin(plus, w[body + 4]!, this.options.ttlSeconds, this.options.ttlSeconds)
    let reply: Reply<0>
    try {
      reply = this.#operations.readdir(node, getU64(w, body + 2), sink)
    } catch (error) {
      reply = this.#errno(error)
    }
    const finish = (result: number) => {
      let undelivered = false
      if (result === 0 || sink.length > OUT_HEADER) { // an error after some entries comes back at the next read
        sink.words[0] = sink.length
        sink.words[1] = 0
        sink.words[2] = lo
        sink.words[3] = hi
        undelivered = this.#transport!.sendData(0, sink.bytes.subarray(0, sink.length)) !== 0
      } else {
        this.#transport!.send(this.#error(lo, hi, result))
      }
      if (undelivered) for (const ino of sink.handedOut()) this.#operations.forget(ino, 1)
      if (this.#sinks.length < 2) this.#sinks.push(sink)
    }
    if (typeof reply === 'number') finish(reply)
    else this.#waiting.add(lo, hi, reply, finish, error => finish(this.#errno(error)))
    return 0
  }

  #init(lo: number, hi: number, body: number): number {
    const agreed = negotiate(this.#in, body, this.out, this.options)
    const length = this.header(lo, hi, INIT_OUT)
    if (agreed === undefined) return length
    this.#noOpendir = agreed.noOpendir
    try {
      this.#operations.init(this.#makeNotifier?.())
    } catch (error) {
      this.#failed(error)
      return this.#error(lo, hi, EIO)
    }
    this.#up()
    return length
  }

  // -- replies -------------------------------------------------------------------------------------------------------

  #answer<T extends object>(lo: number, hi: number, reply: Reply<T | 0>, encode: Encode<T>, about?: Asked): number {
    if (typeof reply === 'number') {
      if (reply !== ENOENT || encode !== (lookedUp as unknown)) return this.#error(lo, hi, reply)
      this.out[2] = lo
      this.out[3] = hi
      return missing(this)
    }
    if (reply instanceof Promise) {
      this.#waiting.add(lo, hi, reply, result => this.#sendLater(lo, hi, result, encode),
        error => this.#transport!.send(this.#error(lo, hi, this.#errno(error))), about)
      return 0
    }
    this.out[2] = lo
    this.out[3] = hi
    return encode(this, reply)
  }

  #sendLater<T extends object>(lo: number, hi: number, result: T | number, encode: Encode<T>): void {
    this.#givenIno = 0
    const length = this.#answer(lo, hi, result as T | 0, encode)
    if (length > 0 && this.#transport!.send(length) !== 0) this.#undelivered()
  }

  #written(lo: number, hi: number, size: number): number {
    this.out[4] = size
    this.out[5] = 0
    return this.header(lo, hi, 8)
  }

  /** Fills the header of a good reply with `body` bytes. */
  header(lo: number, hi: number, body: number): number {
    const out = this.out
    out[0] = OUT_HEADER + body
    out[1] = 0
    out[2] = lo
    out[3] = hi
    return OUT_HEADER + body
  }

  #error(lo: number, hi: number, errno: number): number {
    const out = this.out
    out[0] = OUT_HEADER
    out[1] = -errno
    out[2] = lo
    out[3] = hi
    return OUT_HEADER
  }

  #errno(error: unknown): number {
    if (error instanceof ProtocolError) return error.errno
    if (!isDfsError(error)) this.options.report(error)
    return errnoOf(error)
  }

  given(ino: number): void {
    this.#givenIno = ino
  }

  sendData(length: number, pieces: Uint8Array | Uint8Array[]): number {
    this.#transport!.sendData(length, pieces)
    return 0
  }

  /** The kernel did not take the reply: nobody else knows what it handed out. */
  #undelivered(): void {
    const ino = this.#givenIno
    this.#givenIno = 0
    if (ino !== 0) this.#operations.forget(ino, 1)
  }
}

class ProtocolError extends Error {
  constructor(readonly errno: number) {
    super(`errno ${errno}`)
  }
}
