/** Loads the addon: a build made here (mount/native/build) before the committed one (prebuilds). */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { fail } from '../../lib/errors.js'

/** The session's own functions, as given by `start`. */
export interface NativeSession {
  /** Where requests begin in the request area; the data of a WRITE, 80 bytes on, is page aligned. */
  readonly offset: number
  /** Writes the first `length` bytes of the reply area. 0 or an errno (ENOENT: the request was aborted). */
  send(length: number): number
  /** The same, followed by `data`: at most 1,000 pieces. */
  sendData(length: number, data: Uint8Array | Uint8Array[]): number
  /**
   * Queues a whole notification (fuse_out_header included, copied) for a thread of the addon; messages of one key (32
   * bits) keep their order. The bytes now queued, or -1 when 4 MiB are and nothing was taken.
   */
  notify(key: number, message: Uint8Array): number
  /** Bytes of notifications not written yet. */
  pending(): number
  /** Closes the fd. May be called twice. */
  stop(): void
}

/** Results below 0 are negated errnos, unless said otherwise. */
export interface Native {
  /**
   * Reads requests from `fd` (which it owns from now on) on this thread's event loop.
   * @param request at least max_write + 3 pages
   * @param reply where sync answers are encoded
   * @param spinUs how long to look for the next request before sleeping, microseconds; 0 = not at all
   * @param onRequest a request of that many bytes is in the request area: gives how many bytes of the reply area answer
   *   it, 0 = none or later. Called with a negated errno when the reply given last could not be delivered.
   * @param onEnd the session is over; ENODEV = unmounted
   */
  start(fd: number, request: ArrayBuffer, reply: ArrayBuffer, spinUs: number,
    onRequest: (length: number) => number, onEnd: (errno: number) => void): NativeSession
  /** mount(2), in the thread pool. `flags` are MS_*. */
  mount(source: string, target: string, type: string, flags: number, data: string): Promise<number>
  /** umount2(2), in the thread pool. `flags`: MNT_FORCE 1, MNT_DETACH 2. */
  unmount(target: string, flags: number): Promise<number>
  /** A connected pair of Unix stream sockets, close-on-exec. */
  socketPair(): [number, number] | number
  /** The descriptor that was sent over `socket` (SCM_RIGHTS); does not wait. */
  receiveFd(socket: number): number
  close(fd: number): number
  /** fallocate(2). mode: 0, or a sum of FALLOC_FL_KEEP_SIZE 1, PUNCH_HOLE 2, ZERO_RANGE 16. Blocks this thread. */
  fallocate(fd: number, mode: number, offset: number, length: number): number
  /** sync_file_range(2): starts or awaits writing of pages; says nothing about durability. Blocks when asked to wait. */
  syncFileRange(fd: number, offset: number, length: number, flags: number): number
  /** flock(2), exclusive, without waiting: -EAGAIN (-11) when another open file holds it. */
  lock(fd: number): number
  /** preadv2(2) with RWF_NOWAIT: bytes read, or -EAGAIN (-11) when they are not in the page cache. */
  preadNoWait(fd: number, buffer: Uint8Array, offset: number): number
  /** listxattr(2): the names, each with its closing NUL. Follows symlinks. Blocks this thread, as the next two. */
  listXattr(path: Uint8Array): Buffer | number
  /** getxattr(2). Follows symlinks. */
  getXattr(path: Uint8Array, name: Uint8Array): Buffer | number
  /** lsetxattr(2). */
  setXattr(path: Uint8Array, name: Uint8Array, value: Uint8Array): number
}

/** The folder with package.json, whether we run from dist or from sources. */
function packageRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(dir, 'package.json'))) {
    const parent = dirname(dir)
    if (parent === dir) throw fail('MOUNT_FAILED', 'package.json of dfs not found')
    dir = parent
  }
  return dir
}

function load(): Native {
  const root = packageRoot()
  const require = createRequire(import.meta.url)
  const files = [join(root, 'mount', 'native', 'build', 'Release', 'dfs.node'),
    join(root, 'prebuilds', `linux-${process.arch}`, 'dfs.node')]
  let cause: unknown
  for (const file of files) {
    if (!existsSync(file)) continue
    try {
      return require(file) as Native
    } catch (error) {
      cause = error
    }
  }
  throw fail('MOUNT_FAILED', `no addon for ${process.platform}-${process.arch}: run "npm run build:addon"`, cause)
}

let loaded: Native | undefined

/** The addon; loaded once, at the first call. Linux only. Throws MOUNT_FAILED where there is none. */
export function native(): Native {
  return (loaded ??= load())
}
