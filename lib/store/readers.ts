/**
 * Reading segment files. Owns up to OPEN_SEGMENTS descriptors, least recently
 * used first to go.
 */
import { closeSync, openSync, read, readSync } from 'node:fs'
import { promisify } from 'node:util'
import { fail, isDfsError } from '../errors.js'
import { OPEN_SEGMENTS } from '../limits.js'
import { codeOf } from './write.js'

const readAsync = promisify(read)

export class SegmentReaders {
  readonly #pathOf: (segment: number) => string
  readonly #open = new Map<number, number>()

  constructor(pathOf: (segment: number) => string) {
    this.#pathOf = pathOf
  }

  /** Fills out[0..length). EIO if the segment is gone, ends before, or cannot be read. */
  readSync(segment: number, offset: number, length: number, out: Buffer): void {
    const fd = this.#descriptor(segment)
    for (let done = 0; done < length;) {
      let n: number
      try {
        n = readSync(fd, out, done, length - done, offset + done)
      } catch (e) {
        throw unreadable(segment, e)
      }
      if (n === 0) throw fail('EIO', `segment ${segment} ends before byte ${offset + length}`)
      done += n
    }
  }

  /** As readSync, off the loop; gives `out`. */
  async read(segment: number, offset: number, length: number, out: Buffer): Promise<Buffer> {
    // A descriptor of its own: one of the shared set could be closed, and its number reused, while the read waits.
    const fd = this.#openFile(segment)
    try {
      for (let done = 0; done < length;) {
        const { bytesRead } = await readAsync(fd, out, done, length - done, offset + done)
        if (bytesRead === 0) throw fail('EIO', `segment ${segment} ends before byte ${offset + length}`)
        done += bytesRead
      }
      return out
    } catch (e) {
      throw isDfsError(e) ? e : unreadable(segment, e)
    } finally {
      closeSync(fd)
    }
  }

  /** Before the file is deleted: an open descriptor would hold its space. */
  forget(segment: number): void {
    const fd = this.#open.get(segment)
    if (fd === undefined) return
    this.#open.delete(segment)
    closeSync(fd)
  }

  close(): void {
    for (const segment of [...this.#open.keys()]) this.forget(segment)
  }

  #descriptor(segment: number): number {
    let fd = this.#open.get(segment)
    if (fd !== undefined) {
      this.#open.delete(segment)
    } else {
      fd = this.#openFile(segment)
      if (this.#open.size >= OPEN_SEGMENTS) this.forget(this.#open.keys().next().value!)
    }
    this.#open.set(segment, fd)
    return fd
  }

  #openFile(segment: number): number {
    try {
      return openSync(this.#pathOf(segment), 'r')
    } catch (e) {
      throw unreadable(segment, e)
    }
  }
}

function unreadable(segment: number, e: unknown) {
  return fail('EIO', `segment ${segment} cannot be read (${codeOf(e)})`, e)
}
