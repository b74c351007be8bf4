/** FUSE_INIT: what we ask of the kernel, of what it offers. */
import { Init, Init2, MAX_WRITE, VERSION_MAJOR, VERSION_MINOR, getInit, putInit } from './protocol.js'

/**
 * Not asked for:
 * - ASYNC_DIO: with it a read with O_DIRECT waits where no signal reaches it, and no INTERRUPT is sent (fs/fuse/file.c, fuse_direct_IO);
 * - AUTO_INVAL_DATA: we say what changed, the kernel need not guess from mtimes;
 * - POSIX_LOCKS, FLOCK_LOCKS: locks are the kernel's own;
 * - EXPORT_SUPPORT: an inode cannot be looked up by number alone.
 */
const WANTED = Init.ASYNC_READ | Init.ATOMIC_O_TRUNC | Init.BIG_WRITES | Init.DONT_MASK | Init.DO_READDIRPLUS | Init.READDIRPLUS_AUTO |
  Init.PARALLEL_DIROPS | Init.POSIX_ACL | Init.ABORT_ERROR | Init.MAX_PAGES | Init.CACHE_SYMLINKS | Init.EXPLICIT_INVAL_DATA |
  Init.HANDLE_KILLPRIV_V2 | Init.SETXATTR_EXT | Init.INIT_EXT
const WANTED2 = Init2.DIRECT_IO_ALLOW_MMAP | Init2.NO_EXPORT_SUPPORT

/**
 * Reads the request at word `i` of `words` and writes the reply's body at word 4 of `out`. Undefined when the kernel
 * speaks a newer major version: it then asks again with ours. `noOpendir`: OPENDIR may be refused with ENOSYS.
 */
export function negotiate(words: Uint32Array, i: number, out: Uint32Array, options: { writeback: boolean; maxBackground: number }): { noOpendir: boolean } | undefined {
  const offered = getInit(words, i)
  const same = offered.major === VERSION_MAJOR
  putInit(out, 4, {
    minor: same ? Math.min(offered.minor, VERSION_MINOR) : VERSION_MINOR,
    maxReadahead: offered.maxReadahead,
    flags: same ? offered.flags & (WANTED | (options.writeback ? Init.WRITEBACK_CACHE : 0)) : 0,
    flags2: same ? offered.flags2 & WANTED2 : 0,
    maxBackground: options.maxBackground,
    maxWrite: MAX_WRITE,
  })
  return same ? { noOpendir: (offered.flags & Init.NO_OPENDIR_SUPPORT) !== 0 } : undefined
}
