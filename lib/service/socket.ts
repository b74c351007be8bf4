/**
 * Unix socket addresses hold 107 bytes (sun_path, unix(7)); a store may lie
 * deeper. Linux resolves /proc/self/fd/N/NAME to NAME in the directory open as
 * N, so the socket stays in the private directory of its store wherever that is.
 */
import { closeSync, constants, existsSync, openSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { fail } from '../errors.js'

const MAX_ADDRESS_BYTES = 107

export interface SocketAddress {
  /** To hand to listen or connect. */
  readonly path: string
  /** Once the socket is closed (a server's close unlinks `path`) or connected. */
  release(): void
}

/** Throws what open(2) of the directory throws (ENOENT where there is no store). */
export function socketAddress(path: string): SocketAddress {
  if (Buffer.byteLength(path) <= MAX_ADDRESS_BYTES) return { path, release() {} }
  if (!existsSync('/proc/self/fd')) {
    throw fail('DAEMON_FAILED', `${path} is too long for a socket (at most ${MAX_ADDRESS_BYTES} bytes); use a store with a shorter path`)
  }
  let fd: number | undefined = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
  return {
    path: `/proc/self/fd/${fd}/${basename(path)}`,
    release() {
      if (fd !== undefined) closeSync(fd)
      fd = undefined
    },
  }
}
