/** Linux errno values, and the one table from DfsError codes to errno. */
import { DfsError, type DfsErrorCode } from '../lib/errors.js'

export const EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, EBADF = 9, EAGAIN = 11, ENOMEM = 12,
  EACCES = 13, EBUSY = 16, EEXIST = 17, EXDEV = 18, ENODEV = 19, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, EFBIG = 27,
  ENOSPC = 28, EROFS = 30, EMLINK = 31, ERANGE = 34, ENAMETOOLONG = 36, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40,
  ENODATA = 61, ENOTSUP = 95, ESTALE = 116

const table: Partial<Record<DfsErrorCode, number>> = {
  ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, EXDEV, EPERM, EACCES, EFBIG, ENAMETOOLONG, ENOSPC, EIO, EMLINK,
  ELOOP, ENODATA, ERANGE, EOPNOTSUPP: ENOTSUP, EROFS, EBADF, ENXIO, EINTR, E2BIG, EBUSY,
}

/** As errnoOf, for a code that was never thrown: an error object costs microseconds. */
export function errnoOfCode(code: DfsErrorCode): number {
  return table[code] ?? EIO
}

/** The errno a program on the mount sees for `error`; EIO for anything unforeseen. */
export function errnoOf(error: unknown): number {
  if (error instanceof DfsError) return table[error.code] ?? EIO
  return EIO
}
