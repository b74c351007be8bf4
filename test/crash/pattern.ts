/**
 * What writers write, so that a reader knows from any byte whose it is: each
 * write is filled with a noise that follows from (file, number of the write, offset
 * in the file). No write is all zeros, so a hole is never taken for data.
 */

export function patternOf(file: number, write: number, offset: number, length: number): Buffer {
  const out = Buffer.allocUnsafe(length)
  const salt = Math.imul(file + 1, 0x9e3779b1) ^ Math.imul(write + 1, 0x85ebca6b)
  for (let i = 0; i < length; i++) {
    let x = Math.imul((offset + i) ^ salt, 0xc2b2ae35)
    x ^= x >>> 15
    out[i] = (Math.imul(x, 0x2c1b3c6d) >>> 24) | 1
  }
  return out
}

/** One change of a file's content, in the order in which the writer made them. */
export type Change = { kind: 'write'; write: number; offset: number; length: number } | { kind: 'truncate'; size: number }

/** A file's content as changes are made to it. */
export class Content {
  #bytes = Buffer.alloc(4096)
  #size = 0
  /** One past the greatest size so far: bytes there may be stale. */
  #used = 0

  constructor(readonly file: number) {}

  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#size)
  }

  apply(c: Change): void {
    if (c.kind === 'truncate') return this.#resize(c.size)
    if (c.offset + c.length > this.#size) this.#resize(c.offset + c.length)
    patternOf(this.file, c.write, c.offset, c.length).copy(this.#bytes, c.offset)
  }

  #resize(size: number): void {
    if (size > this.#bytes.length) {
      const larger = Buffer.alloc(size * 2)
      this.#bytes.copy(larger, 0, 0, this.#size)
      this.#bytes = larger
      this.#used = this.#size
    } else if (size > this.#size) this.#bytes.fill(0, this.#size, Math.min(size, this.#used))
    this.#size = size
    this.#used = Math.max(this.#used, size)
  }
}
