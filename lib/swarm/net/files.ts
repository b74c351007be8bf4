/**
 * Ranges of files for Link.sendFile, in the network's thread. A descriptor is
 * kept for a moment, for the next range is mostly of the same segment; not
 * longer, for a removed file holds its space while it is open.
 *
 * Owns: the descriptors.
 */
import { close, open, read } from 'node:fs'
import { promisify } from 'node:util'
import { fail } from '../../errors.js'

const MAX_OPEN = 16
const KEPT_MS = 2000

const openFile = promisify(open)
const closeFile = promisify(close)
const readFile = promisify(read)

interface Kept { fd: Promise<number>; users: number; usedMs: number }

export class FileRanges {
  readonly #kept = new Map<string, Kept>()

  /** Fills `into`. EIO if the file ends before; the error of the system otherwise. */
  async read(path: string, offset: number, into: Uint8Array): Promise<void> {
    let kept = this.#kept.get(path)
    if (!kept) {
      kept = { fd: openFile(path, 'r'), users: 0, usedMs: 0 }
      kept.fd.catch(() => this.#kept.delete(path))
      this.#kept.set(path, kept)
    }
    kept.users++
    kept.usedMs = performance.now()
    try {
      const fd = await kept.fd
      for (let at = 0; at < into.length;) {
        const { bytesRead } = await readFile(fd, into, at, into.length - at, offset + at)
        if (bytesRead === 0) throw fail('EIO', 'the file ends before the range does')
        at += bytesRead
      }
    } finally {
      kept.users--
      if (this.#kept.size > MAX_OPEN) this.tidy(0)
    }
  }

  /** Closes what has rested for `keptMs`. */
  tidy(keptMs = KEPT_MS): void {
    const beforeMs = performance.now() - keptMs
    for (const [path, { fd, users, usedMs }] of this.#kept) {
      if (users > 0 || usedMs > beforeMs) continue
      this.#kept.delete(path)
      fd.then((number) => closeFile(number)).catch(() => {})
    }
  }
}
