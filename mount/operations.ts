/**
 * What a file system answers, by inode: the seam between a mount driver (the
 * FUSE kernel protocol, or the fuse-native package) and the file system.
 *
 * Conventions, chosen so that the common case allocates and waits for nothing:
 * - An operation returns its result, or an errno (a number above 0; 0 is
 *   success where there is no result), or a promise of either. It may throw a
 *   DfsError or reject with one; the driver maps it with `errnoOf`
 *   (mount/errno.ts). Anything else thrown is EIO and is reported.
 * - Buffers handed in (names, data) are views of the driver's own memory and are
 *   valid only until the call returns, NOT until its promise settles. Copy what
 *   is kept.
 * - Buffers handed back belong to the driver until it has written the reply;
 *   they may be views of shared caches and are never written to.
 * - Names are bytes: 1 to 255 of them, no '/' and no NUL (the driver checks).
 * - An inode number is a safe integer; 1 is the root. It serves as the FUSE
 *   nodeid and as st_ino.
 */

/** As returned by lookup and friends. The tree's cached inode is passed as it is; drivers only read it. */
export interface Attr {
  readonly ino: number
  /** File type and permission bits, as st_mode. */
  readonly mode: number
  readonly nlink: number
  readonly uid: number
  readonly gid: number
  /** As the kernel encodes it (new_encode_dev). */
  readonly rdev: number
  /** Bytes. */
  readonly size: number
  /** 512-byte blocks. */
  readonly blocks: number
  /** Seconds since 1970 (may be negative) and nanoseconds 0..999,999,999. */
  readonly atime: number
  readonly atimeNs: number
  readonly mtime: number
  readonly mtimeNs: number
  readonly ctime: number
  readonly ctimeNs: number
}

/** Who asks. `gids` are not known to FUSE; default_permissions does the checks in the kernel. */
export interface Caller {
  uid: number
  gid: number
  pid: number
  /** Where ids are mapped (idmap.ts): uid and gid are the drive's, and this says how they are called here. */
  ids?: { uid(id: number): number; gid(id: number): number }
}

export type Errno = number
export type Reply<T> = T | Errno | Promise<T | Errno>

/** setattr: only the fields that are present change. */
export interface SetAttr {
  mode?: number
  uid?: number
  gid?: number
  size?: number
  /** 'now' is the server's clock. */
  atime?: 'now' | { sec: number; nsec: number }
  mtime?: 'now' | { sec: number; nsec: number }
  /** Sent with FATTR_CTIME only under the writeback cache. */
  ctime?: { sec: number; nsec: number }
  /** FATTR_KILL_SUIDGID: clear suid and sgid as a write would. */
  killSuidGid?: boolean
  /** The open file through which ftruncate or fchmod came. */
  fh?: number
}

/** An open file. `keepCache`: the kernel's pages of this inode are still true. */
export interface Opened {
  fh: number
  keepCache?: boolean
  directIo?: boolean
}

export interface Created extends Opened {
  attr: Attr
}

export interface StatFs {
  /** In units of `bsize`. */
  blocks: number
  bfree: number
  bavail: number
  files: number
  ffree: number
  bsize: number
  namelen: number
  frsize: number
}

/** Receives directory entries in order. Returns false when the reply is full: the entry was NOT taken. */
export interface DirSink {
  /** readdirplus wants `attr`; for plain readdir only ino and type bits of mode are used. */
  readonly plus: boolean
  /** `cookie` is a safe integer above 0: where the next read continues after this entry. */
  add(name: Buffer, ino: number, mode: number, cookie: number, attr?: Attr): boolean
}

/** Pushed by the file system to the kernel: what changed by other means than this mount's own requests. */
export interface Notifier {
  /** Attributes, and data in [offset, offset+length); length 0 = to the end; offset < 0 = attributes alone. */
  invalInode(ino: number, offset: number, length: number): void
  /**
   * The name no longer means what the kernel thinks (also drops a negative entry). With `isFree` it meant a directory, which has
   * another name now: what the kernel has below can stay. It says later whether nothing has the name.
   */
  invalEntry(parent: number, name: Buffer, isFree?: () => boolean): void
  /** The name was deleted; tells watchers. */
  deleted(parent: number, child: number, name: Buffer): void
  /** Resolves when the kernel has taken in all of these that came before. */
  drained(): Promise<void>
}

export interface Operations {
  /** Called once when the session is up. `notifier` is undefined where the driver has none. */
  init(notifier: Notifier | undefined): void
  /** The session is over; flush what is owed. */
  destroy(): Promise<void>

  lookup(parent: number, name: Buffer, caller: Caller): Reply<Attr>
  /** Never answered. */
  forget(ino: number, nlookup: number): void
  getattr(ino: number, fh: number | undefined, caller: Caller): Reply<Attr>
  setattr(ino: number, set: SetAttr, caller: Caller): Reply<Attr>
  readlink(ino: number): Reply<Buffer>
  /** `umask` has not been applied to `mode` (FUSE_DONT_MASK), for default ACLs override it. */
  mknod(parent: number, name: Buffer, mode: number, rdev: number, umask: number, caller: Caller): Reply<Attr>
  mkdir(parent: number, name: Buffer, mode: number, umask: number, caller: Caller): Reply<Attr>
  symlink(parent: number, name: Buffer, target: Buffer, caller: Caller): Reply<Attr>
  link(ino: number, parent: number, name: Buffer, caller: Caller): Reply<Attr>
  unlink(parent: number, name: Buffer, caller: Caller): Reply<0>
  rmdir(parent: number, name: Buffer, caller: Caller): Reply<0>
  /** flags: RENAME_NOREPLACE 1, RENAME_EXCHANGE 2 (others are EINVAL). */
  rename(parent: number, name: Buffer, newParent: number, newName: Buffer, flags: number, caller: Caller): Reply<0>

  /** flags as open(2); O_TRUNC truncates (ATOMIC_O_TRUNC). `killSuidGid`: FUSE_OPEN_KILL_SUIDGID. */
  open(ino: number, flags: number, killSuidGid: boolean, caller: Caller): Reply<Opened>
  create(parent: number, name: Buffer, mode: number, flags: number, umask: number, caller: Caller): Reply<Created>
  tmpfile(parent: number, mode: number, flags: number, umask: number, caller: Caller): Reply<Created>
  /** Fewer bytes than asked only at the end of the file. The pieces are written one after the other. */
  read(ino: number, fh: number, offset: number, size: number, signal: Interrupt): Reply<Buffer | Buffer[]>
  /** `killFor`: FUSE_WRITE_KILL_SUIDGID, clear suid and sgid as for a write by this caller. `cached`: FUSE_WRITE_CACHE, the writer is unknown. All of `data` is taken or none. */
  write(ino: number, fh: number, offset: number, data: Buffer, killFor: Caller | undefined, cached: boolean): Reply<0>
  flush(ino: number, fh: number): Reply<0>
  /** The last close of this open file; errors are not seen by anyone. */
  release(ino: number, fh: number): Reply<0>
  fsync(ino: number, fh: number, dataOnly: boolean, signal: Interrupt): Reply<0>
  /** Of any directory: the whole drive. */
  fsyncdir(ino: number, signal: Interrupt): Reply<0>
  /** mode: FALLOC_FL_KEEP_SIZE 1, PUNCH_HOLE 2, ZERO_RANGE 16. */
  fallocate(ino: number, fh: number, offset: number, length: number, mode: number, caller: Caller): Reply<0>
  /** whence: SEEK_DATA 3 or SEEK_HOLE 4. The offset is in `{ offset }`, for 0 is success elsewhere. */
  lseek(ino: number, fh: number, offset: number, whence: number): Reply<{ offset: number }>
  copyFileRange(inoIn: number, fhIn: number, offsetIn: number, inoOut: number, fhOut: number, offsetOut: number, length: number, caller: Caller): Reply<{ bytes: number }>

  /** Entries after `cookie` (0 = from the start), '.' and '..' included, until `sink.add` says no. */
  readdir(ino: number, cookie: number, sink: DirSink): Reply<0>

  statfs(): Reply<StatFs>

  /** flags: XATTR_CREATE 1, XATTR_REPLACE 2. `killSgid`: FUSE_SETXATTR_ACL_KILL_SGID. */
  setxattr(ino: number, name: Buffer, value: Buffer, flags: number, killSgid: boolean, caller: Caller): Reply<0>
  getxattr(ino: number, name: Buffer, caller: Caller): Reply<Buffer>
  /** Each name with its closing NUL, one after the other; `trusted.` ones for root alone. */
  listxattr(ino: number, caller: Caller): Reply<Buffer>
  removexattr(ino: number, name: Buffer, caller: Caller): Reply<0>
}

/** Set by the driver when the kernel says that the caller of a waiting request was interrupted. */
export interface Interrupt {
  readonly interrupted: boolean
  /** Called once if the interrupt comes while the operation waits. */
  onInterrupt(callback: () => void): void
}
