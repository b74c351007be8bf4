/**
 * The FUSE kernel protocol, version 7.45: numbers, and the layout of what is
 * read and written. Source: Linux include/uapi/linux/fuse.h.
 *
 * Areas are seen as 32-bit words (all structures are 8-byte aligned, and both
 * supported machines are little endian); a 64-bit field at word i is low word i,
 * high word i + 1. Offsets below are in words unless they say bytes.
 */
import type { Attr } from '../operations.js'

export const Op = {
  LOOKUP: 1, FORGET: 2, GETATTR: 3, SETATTR: 4, READLINK: 5, SYMLINK: 6, MKNOD: 8, MKDIR: 9, UNLINK: 10, RMDIR: 11,
  RENAME: 12, LINK: 13, OPEN: 14, READ: 15, WRITE: 16, STATFS: 17, RELEASE: 18, FSYNC: 20, SETXATTR: 21, GETXATTR: 22,
  LISTXATTR: 23, REMOVEXATTR: 24, FLUSH: 25, INIT: 26, OPENDIR: 27, READDIR: 28, RELEASEDIR: 29, FSYNCDIR: 30,
  GETLK: 31, SETLK: 32, SETLKW: 33, ACCESS: 34, CREATE: 35, INTERRUPT: 36, BMAP: 37, DESTROY: 38, IOCTL: 39, POLL: 40,
  NOTIFY_REPLY: 41, BATCH_FORGET: 42, FALLOCATE: 43, READDIRPLUS: 44, RENAME2: 45, LSEEK: 46, COPY_FILE_RANGE: 47,
  SYNCFS: 50, TMPFILE: 51, STATX: 52, COPY_FILE_RANGE_64: 53,
} as const

/** FUSE_NOTIFY_* */
export const Notify = { INVAL_INODE: 2, INVAL_ENTRY: 3, DELETE: 6, INC_EPOCH: 8 } as const

/** INIT flags. Those above bit 31 go into flags2, here as their number minus 32. */
export const Init = {
  ASYNC_READ: 1 << 0, ATOMIC_O_TRUNC: 1 << 3, BIG_WRITES: 1 << 5, DONT_MASK: 1 << 6, DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14, ASYNC_DIO: 1 << 15, WRITEBACK_CACHE: 1 << 16, PARALLEL_DIROPS: 1 << 18, POSIX_ACL: 1 << 20,
  ABORT_ERROR: 1 << 21, MAX_PAGES: 1 << 22, CACHE_SYMLINKS: 1 << 23, NO_OPENDIR_SUPPORT: 1 << 24,
  EXPLICIT_INVAL_DATA: 1 << 25, HANDLE_KILLPRIV_V2: 1 << 28, SETXATTR_EXT: 1 << 29, INIT_EXT: 1 << 30,
} as const
export const Init2 = { DIRECT_IO_ALLOW_MMAP: 1 << 4, NO_EXPORT_SUPPORT: 1 << 6 } as const

/** fuse_open_out.open_flags */
export const Fopen = { DIRECT_IO: 1, KEEP_CACHE: 2, CACHE_DIR: 8, NOFLUSH: 32, PARALLEL_DIRECT_WRITES: 64 } as const

/** fuse_setattr_in.valid */
export const Fattr = {
  MODE: 1, UID: 2, GID: 4, SIZE: 8, ATIME: 16, MTIME: 32, FH: 64, ATIME_NOW: 128, MTIME_NOW: 256, LOCKOWNER: 512,
  CTIME: 1024, KILL_SUIDGID: 2048,
  /** Those that set something. */
  CHANGES: 1 | 2 | 4 | 8 | 16 | 32 | 1024,
} as const

export const GETATTR_FH = 1, OPEN_KILL_SUIDGID = 1, WRITE_CACHE = 1, WRITE_KILL_SUIDGID = 4, FSYNC_FDATASYNC = 1,
  SETXATTR_ACL_KILL_SGID = 1, EXPIRE_ONLY = 1

export const VERSION_MAJOR = 7
export const VERSION_MINOR = 45
export const ROOT_ID = 1

/** Bytes. */
export const PAGE = 4096
export const MAX_WRITE = 1 << 20
export const IN_HEADER = 40
export const OUT_HEADER = 16
/** fuse_entry_out, and fuse_attr_out, without the header of the reply. */
export const ENTRY_OUT = 128
export const ATTR_OUT = 104
export const INIT_OUT = 64
/** Before the name in fuse_dirent, and in fuse_direntplus. */
export const DIRENT = 24
export const DIRENTPLUS = ENTRY_OUT + DIRENT

/** fuse_in_header */
export const In = { LEN: 0, OPCODE: 1, UNIQUE: 2, NODEID: 4, UID: 6, GID: 7, PID: 8, BODY: 10 } as const

const HIGH = 0x1_0000_0000

/** The unsigned 64-bit field at word `i`; exact below 2^53. */
export function getU64(words: Uint32Array, i: number): number {
  return words[i + 1]! * HIGH + words[i]!
}

/** The signed one: seconds since 1970, and file offsets. */
export function getI64(words: Uint32Array, i: number): number {
  return (words[i + 1]! | 0) * HIGH + words[i]!
}

/** Writes a safe integer, negative ones in two's complement. */
export function putU64(words: Uint32Array, i: number, value: number): void {
  words[i] = value >>> 0
  words[i + 1] = Math.floor(value / HIGH) >>> 0
}

/** struct fuse_attr, 22 words, from word `i`. */
export function putAttr(words: Uint32Array, i: number, attr: Attr): void {
  putU64(words, i, attr.ino)
  putU64(words, i + 2, attr.size)
  putU64(words, i + 4, attr.blocks)
  putU64(words, i + 6, attr.atime)
  putU64(words, i + 8, attr.mtime)
  putU64(words, i + 10, attr.ctime)
  words[i + 12] = attr.atimeNs
  words[i + 13] = attr.mtimeNs
  words[i + 14] = attr.ctimeNs
  words[i + 15] = attr.mode
  words[i + 16] = attr.nlink
  words[i + 17] = attr.uid
  words[i + 18] = attr.gid
  words[i + 19] = attr.rdev
  words[i + 20] = PAGE // blksize; 0 would make it the page size too
  words[i + 21] = 0
}

/** struct fuse_entry_out, 32 words, from word `i`. The generation is 0: inode numbers are never used again. */
export function putEntry(words: Uint32Array, i: number, attr: Attr, entryTtl: number, attrTtl: number): void {
  putU64(words, i, attr.ino)
  words[i + 2] = 0
  words[i + 3] = 0
  putU64(words, i + 4, entryTtl)
  putU64(words, i + 6, attrTtl)
  words[i + 8] = 0
  words[i + 9] = 0
  putAttr(words, i + 10, attr)
}

/** A negative entry: nodeid 0 means "no such name", remembered for `entryTtl` seconds. */
export function putNegativeEntry(words: Uint32Array, i: number, entryTtl: number): void {
  words.fill(0, i, i + ENTRY_OUT / 4)
  putU64(words, i + 4, entryTtl)
}

/** struct fuse_attr_out, 26 words, from word `i`. */
export function putAttrOut(words: Uint32Array, i: number, attr: Attr, attrTtl: number): void {
  putU64(words, i, attrTtl)
  words[i + 2] = 0
  words[i + 3] = 0
  putAttr(words, i + 4, attr)
}

/** struct fuse_init_in. `flags2` is 0 where the kernel does not send it. */
export function getInit(words: Uint32Array, i: number): { major: number; minor: number; maxReadahead: number; flags: number; flags2: number } {
  const flags = words[i + 3]! | 0
  return { major: words[i]!, minor: words[i + 1]!, maxReadahead: words[i + 2]!, flags, flags2: flags & Init.INIT_EXT ? words[i + 4]! | 0 : 0 }
}

/** struct fuse_init_out, 64 bytes, from word `i`. */
export function putInit(words: Uint32Array, i: number, init: { minor: number; maxReadahead: number; flags: number; flags2: number; maxBackground: number; maxWrite: number }): void {
  words.fill(0, i, i + 16)
  words[i] = VERSION_MAJOR
  words[i + 1] = init.minor
  words[i + 2] = init.maxReadahead
  words[i + 3] = init.flags
  words[i + 4] = init.maxBackground | Math.floor((init.maxBackground * 3) / 4) << 16 // and the congestion threshold
  words[i + 5] = init.maxWrite
  words[i + 6] = 1 // time_gran, nanoseconds
  words[i + 7] = init.maxWrite / PAGE // max_pages, 16 bits; map_alignment 0
  words[i + 8] = init.flags2
}
