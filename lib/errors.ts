/**
 * The one error class of dfs. Every error that a caller may act on has a stable
 * `code`; the mount maps codes to errno in one table, the command line to one
 * line and an exit code.
 */

export type DfsErrorCode =
  // the tree and its files: same meaning as the errno of that name
  | 'ENOENT' | 'EEXIST' | 'ENOTDIR' | 'EISDIR' | 'ENOTEMPTY' | 'EINVAL' | 'EXDEV'
  | 'EPERM' | 'EACCES' | 'EFBIG' | 'ENAMETOOLONG' | 'ENOSPC' | 'EIO' | 'EMLINK'
  | 'ELOOP' | 'ENODATA' | 'ERANGE' | 'EOPNOTSUPP' | 'EROFS' | 'EBADF' | 'ENXIO' | 'EINTR' | 'E2BIG' | 'EBUSY'
  // the store
  | 'STORE_JOINING' | 'STORE_MISSING' | 'STORE_EXISTS' | 'STORE_LOCKED' | 'STORE_NEWER' | 'STORE_DAMAGED' | 'STORE_STOPPED'
  // keys
  | 'KEY_INVALID' | 'KEY_KIND' | 'PASSPHRASE_NEEDED' | 'PASSPHRASE_WRONG'
  // mounting
  | 'FUSE_MISSING' | 'MOUNT_DENIED' | 'MOUNTPOINT_MISSING' | 'MOUNTPOINT_BUSY' | 'NOT_MOUNTED' | 'MOUNT_FAILED'
  // the service
  | 'DAEMON_UNREACHABLE' | 'DAEMON_FAILED' | 'USAGE'
  // systemd: not here, no such unit, or it failed
  | 'SYSTEMD_MISSING' | 'SERVICE_MISSING' | 'SERVICE_FAILED'

export class DfsError extends Error {
  readonly code: DfsErrorCode
  constructor(code: DfsErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'DfsError'
    this.code = code
  }
}

/** Shorthand for the factories below and for rooms that need a rarely used code. */
export function fail(code: DfsErrorCode, message: string, cause?: unknown): DfsError {
  return new DfsError(code, message, cause === undefined ? undefined : { cause })
}

export function isDfsError(e: unknown, code?: DfsErrorCode): e is DfsError {
  return e instanceof DfsError && (code === undefined || e.code === code)
}

/** What an error means to a user: a DfsError as it is, a damaged index by its name; undefined for a fault of ours. */
export function understood(e: unknown): DfsError | undefined {
  if (e instanceof DfsError) return e
  const code = (e as { code?: unknown } | null)?.code
  if (typeof code === 'string' && /^SQLITE_(CORRUPT|NOTADB|IOERR)/.test(code)) {
    return fail('STORE_DAMAGED', `the index of the store is damaged (${(e as Error).message}); run dfs fsck to see what it concerns`, e)
  }
  return undefined
}
