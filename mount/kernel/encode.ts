/**
 * Results of operations as replies, encoded in the shared reply area behind the
 * header, whose `unique` is in place already. Each gives the length of the whole
 * reply, or 0 when it was sent already.
 */
import { ERANGE } from '../errno.js'
import type { Attr, Created, Opened, StatFs } from '../operations.js'
import { ATTR_OUT, ENTRY_OUT, Fopen, OUT_HEADER, putAttrOut, putEntry, putNegativeEntry, putU64 } from './protocol.js'

/** Where a reply goes: the to. */
export interface Replies {
  /** The reply area. */
  readonly out: Uint32Array
  readonly outBytes: Buffer
  readonly options: { ttlSeconds: number; noflush: boolean }
  /** The reply hands out this inode, should it not be delivered. */
  given(ino: number): void
  /** Sends `length` bytes of the reply area and then `pieces`. Gives 0. */
  sendData(length: number, pieces: Uint8Array | Uint8Array[]): number
}

export type Encode<T> = (to: Replies, result: T) => number

/** Data up to this many bytes is copied into the reply area: cheaper than handing over one more buffer. */
const COPY_LIMIT = 2048
const MAX_PIECES = 1000

/** The header of a good reply of `body` bytes. */
function good(to: Replies, body: number): number {
  to.out[0] = OUT_HEADER + body
  to.out[1] = 0
  return OUT_HEADER + body
}

/** No result, only success. */
export function done(to: Replies): number {
  return good(to, 0)
}

export function entry(to: Replies, attr: Attr): number {
  putEntry(to.out, 4, attr, to.options.ttlSeconds, to.options.ttlSeconds)
  to.given(attr.ino)
  return good(to, ENTRY_OUT)
}

/** As `entry`, but told apart: its ENOENT is remembered by the kernel. */
export function lookedUp(to: Replies, attr: Attr): number {
  return entry(to, attr)
}

export function attributes(to: Replies, attr: Attr): number {
  putAttrOut(to.out, 4, attr, to.options.ttlSeconds)
  return good(to, ATTR_OUT)
}

/** As `attributes`, not to be believed any longer than this request. */
export function passing(to: Replies, attr: Attr): number {
  putAttrOut(to.out, 4, attr, 0)
  return good(to, ATTR_OUT)
}

function putOpened(to: Replies, i: number, open: Opened): void {
  putU64(to.out, i, open.fh)
  to.out[i + 2] = (open.keepCache ? Fopen.KEEP_CACHE : 0) | (open.directIo ? Fopen.DIRECT_IO : 0) | (to.options.noflush ? Fopen.NOFLUSH : 0)
  to.out[i + 3] = 0
}

export function opened(to: Replies, open: Opened): number {
  putOpened(to, 4, open)
  return good(to, 16)
}

export function openedDir(to: Replies, open: Opened): number {
  putU64(to.out, 4, open.fh)
  to.out[6] = Fopen.KEEP_CACHE | Fopen.CACHE_DIR
  to.out[7] = 0
  return good(to, 16)
}

export function created(to: Replies, result: Created): number {
  entry(to, result.attr)
  putOpened(to, 4 + ENTRY_OUT / 4, result)
  return good(to, ENTRY_OUT + 16)
}

/** A 32-bit count: bytes written, copied, or needed. */
export function size32(to: Replies, result: { size: number }): number {
  to.out[4] = result.size
  to.out[5] = 0
  return good(to, 8)
}

export function sought(to: Replies, result: { offset: number }): number {
  putU64(to.out, 4, result.offset)
  return good(to, 8)
}

export function copied(to: Replies, result: { bytes: number }): number {
  return size32(to, { size: result.bytes })
}

export function copied64(to: Replies, result: { bytes: number }): number {
  return sought(to, { offset: result.bytes })
}

export function data(to: Replies, result: Buffer | Buffer[]): number {
  if (!Array.isArray(result)) {
    const length = good(to, result.length)
    if (result.length <= COPY_LIMIT) {
      to.outBytes.set(result, OUT_HEADER)
      return length
    }
    return to.sendData(OUT_HEADER, result)
  }
  let size = 0
  for (const piece of result) size += piece.length
  good(to, size)
  return to.sendData(OUT_HEADER, result.length > MAX_PIECES ? Buffer.concat(result) : result)
}

/** `size` is what the caller has room for; 0 = it asks how much it needs. */
export function xattr(to: Replies, value: Buffer, size: number): number {
  if (size === 0) return size32(to, { size: value.length })
  if (value.length > size) {
    to.out[0] = OUT_HEADER
    to.out[1] = -ERANGE
    return OUT_HEADER
  }
  return data(to, value)
}

/** A LOOKUP that found nothing: the kernel remembers that, as long as a name. */
export function missing(to: Replies): number {
  putNegativeEntry(to.out, 4, to.options.ttlSeconds)
  return good(to, ENTRY_OUT)
}

/** struct fuse_kstatfs, 80 bytes. */
export function statfs(to: Replies, result: StatFs): number {
  const out = to.out
  out.fill(0, 4, 24)
  putU64(out, 4, result.blocks)
  putU64(out, 6, result.bfree)
  putU64(out, 8, result.bavail)
  putU64(out, 10, result.files)
  putU64(out, 12, result.ffree)
  out[14] = result.bsize
  out[15] = result.namelen
  out[16] = result.frsize
  return good(to, 80)
}
