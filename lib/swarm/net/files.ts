/**
 * Ranges of files for Link.sendFile, in the network's thread. A descriptor is
 * kept for a moment, for the next range is mostly of the same segment; not
 * longer, for a removed file holds its space while it is open.
 *
 * Large ranges are read past the page cache, into memory that is used again: what
 * is sent once is seldom sent soon again, and fresh pages cost more than the disk.
 *
 * Owns: the descriptors, and the blocks that are read into.
 */
import { close, constants, open, read } from 'node:fs'
import { promisify } from 'node:util'
import { fail } from '../../errors.js'
import { BlockPool, PAGE_BYTES, pageEnd } from '../../memory.js'

const MAX_OPEN = 16
const KEPT_MS = 2000
const DIRECT_BYTES = 64 * 1024
/** A page for the head, the longest chunk, and what is read before and behind it up to whole pages. */
const BLOCK_BYTES = 1280 * 1024
/** Of all connections; who finds none takes memory of its own. */
const BLOCKS = 16

const openFile = promisify(open)
const closeFile = promisify(close)
const readFile = promisify(read)

interface Kept { fd: Promise<number>; users: number; usedMs: number }

/** A range with its head before it. `release`: the bytes are used no more; once. */
export interface FileRange { bytes: Uint8Array; release(): void }

export class FileRanges {
  readonly #kept = new Map<string, Kept>()
  readonly #blocks = new BlockPool(BLOCK_BYTES, BLOCKS)
  /** False once a file system did not take direct reads. */
  #isDirect = constants.O_DIRECT !== undefined

  /** `head`, then `length` bytes of a file from `offset`. EIO if the file ends before; the error of the system otherwise. */
  async read(head: Uint8Array, path: string, offset: number, length: number): Promise<FileRange> {
    const block = this.#isDirect && length >= DIRECT_BYTES && head.length <= PAGE_BYTES && length <= BLOCK_BYTES - 3 * PAGE_BYTES ? this.#blocks.take() : undefined
    if (!block) return this.#buffered(head, path, offset, length)
    const skip = offset % PAGE_BYTES
    const pages = block.bytes.subarray(PAGE_BYTES, PAGE_BYTES + pageEnd(skip + length))
    try {
      await this.#fill(path, true, pages, offset - skip, skip + length)
    } catch (e) {
      this.#blocks.release(block)
      if ((e as { code?: unknown }).code !== 'EINVAL') throw e
      this.#isDirect = false
      return this.#buffered(head, path, offset, length)
    }
    const from = PAGE_BYTES + skip
    block.bytes.set(head, from - head.length)
    return { bytes: block.bytes.subarray(from - head.length, from + length), release: () => this.#blocks.release(block) }
  }

  async #buffered(head: Uint8Array, path: string, offset: number, length: number): Promise<FileRange> {
    const bytes = Buffer.allocUnsafeSlow(head.length + length)
    bytes.set(head)
    await this.#fill(path, false, bytes.subarray(head.length), offset, length)
    return { bytes, release: () => {} }
  }

  /** At least `length` bytes of `into`. */
  async #fill(path: string, isDirect: boolean, into: Uint8Array, offset: number, length: number): Promise<void> {
    const key = isDirect ? `direct ${path}` : path
    let kept = this.#kept.get(key)
    if (!kept) {
      kept = { fd: openFile(path, isDirect ? constants.O_RDONLY | constants.O_DIRECT : constants.O_RDONLY), users: 0, usedMs: 0 }
      kept.fd.catch(() => this.#kept.delete(key))
      this.#kept.set(key, kept)
    }
    kept.users++
    kept.usedMs = performance.now()
    try {
      const fd = await kept.fd
      for (let at = 0; at < length;) {
        const { bytesRead } = await readFile(fd, into, at, into.length - at, offset + at)
        at += bytesRead
        // A direct read must go on at a page, and ends within one only at the end of the file.
        if (bytesRead === 0 || (isDirect && at < length && at % PAGE_BYTES !== 0)) throw fail('EIO', 'the file ends before the range does')
      }
    } finally {
      kept.users--
      if (this.#kept.size > MAX_OPEN) this.tidy(0)
    }
  }

  /** Closes what has rested for `keptMs`. */
  tidy(keptMs = KEPT_MS): void {
    const beforeMs = performance.now() - keptMs
    for (const [key, { fd, users, usedMs }] of this.#kept) {
      if (users > 0 || usedMs > beforeMs) continue
      this.#kept.delete(key)
      fd.then((number) => closeFile(number)).catch(() => {})
    }
  }
}
