/**
 * Bytes in and out: LEB128 integers up to 2^53 - 1, length-prefixed byte
 * strings. The reader trusts nothing: every length is checked against what is
 * left before anything is allocated, and a violation is a DfsError EIO.
 */
import { fail } from '../errors.js'

export class Writer {
  #buf: Buffer
  #at = 0

  constructor(capacity = 4096) {
    this.#buf = Buffer.allocUnsafe(capacity)
  }

  get length(): number { return this.#at }

  /** A copy of what was written. */
  take(): Buffer {
    return Buffer.from(this.#buf.subarray(0, this.#at))
  }

  /** What was written from `start` on; valid until the next write. */
  since(start: number): Buffer {
    return this.#buf.subarray(start, this.#at)
  }

  reset(): void {
    this.#at = 0
    if (this.#buf.length > 1 << 20) this.#buf = Buffer.allocUnsafe(4096)
  }

  byte(v: number): void {
    this.#room(1)
    this.#buf[this.#at++] = v
  }

  /** 0 .. 2^53 - 1 */
  uint(v: number): void {
    this.#room(8)
    const buf = this.#buf
    let at = this.#at
    while (v >= 0x80) {
      if (v < 0x80000000) {
        buf[at++] = (v & 0x7f) | 0x80
        v >>>= 7
      } else {
        buf[at++] = (v % 128) | 0x80
        v = Math.floor(v / 128)
      }
    }
    buf[at++] = v
    this.#at = at
  }

  /** -(2^52) .. 2^52, zigzag. */
  int(v: number): void {
    this.uint(v < 0 ? -v * 2 - 1 : v * 2)
  }

  bytes(b: Uint8Array): void {
    this.uint(b.length)
    this.fixed(b)
  }

  fixed(b: Uint8Array): void {
    this.#room(b.length)
    this.#buf.set(b, this.#at)
    this.#at += b.length
  }

  #room(n: number): void {
    if (this.#at + n <= this.#buf.length) return
    const bigger = Buffer.allocUnsafe(Math.max(this.#buf.length * 2, this.#at + n))
    this.#buf.copy(bigger, 0, 0, this.#at)
    this.#buf = bigger
  }
}

export class Reader {
  readonly #buf: Buffer
  #at = 0

  constructor(buf: Buffer) {
    this.#buf = buf
  }

  get left(): number { return this.#buf.length - this.#at }

  byte(): number {
    if (this.left < 1) throw short()
    return this.#buf[this.#at++]!
  }

  uint(): number {
    let v = 0
    let scale = 1
    for (let i = 0; i < 8; i++) {
      const b = this.byte()
      v += (b & 0x7f) * scale
      if (b < 0x80) {
        if (v > Number.MAX_SAFE_INTEGER) break
        return v
      }
      scale *= 128
    }
    throw fail('EIO', 'damaged record: an integer is too long')
  }

  int(): number {
    const v = this.uint()
    return v % 2 === 1 ? -(v + 1) / 2 : v / 2
  }

  /** A count of things that take at least a byte each. */
  count(max: number): number {
    const n = this.uint()
    if (n > max || n > this.left) throw fail('EIO', 'damaged record: a count is too large')
    return n
  }

  bytes(max: number): Buffer {
    const n = this.uint()
    if (n > max) throw fail('EIO', 'damaged record: a byte string is too long')
    return this.fixed(n)
  }

  /** A copy. */
  fixed(n: number): Buffer {
    if (n > this.left) throw short()
    const out = Buffer.from(this.#buf.subarray(this.#at, this.#at + n))
    this.#at += n
    return out
  }
}

function short() {
  return fail('EIO', 'damaged record: it ends too early')
}
