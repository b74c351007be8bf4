/**
 * Files that grew by anything but this mount's own requests, until the kernel has dropped their old last page. Behind the old
 * end it holds zeros, which are no part of the file, and whoever learned the new size before it is dropped would read them.
 * So the old size is shown until all that was said to the kernel has been taken in; for HOLD_MS at most, since
 * a notification may wait for a READ that waits for a peer. (A size that is answered late is put right by what is said again,
 * kernel/repeats.ts: HOLD_MS is less than its first delay.)
 */
import { PAGE_BYTES } from '../lib/memory.js'
import type { Attr } from './operations.js'

const HOLD_MS = 40
/** Files whose last page may be in the kernel's cache. Of more than these the oldest are not looked after. */
const MAX_FILES = 65_536

export class GrownFiles {
  /** Where a file ended when its last page, which it does not fill, was read. */
  readonly #ends = new Map<number, number>()
  readonly #shown = new Map<number, number>()

  /** A READ up to `end` of a file of `size` bytes was answered. */
  read(ino: number, end: number, size: number): void {
    if (end < size || size % PAGE_BYTES === 0) return
    if (!this.#ends.has(ino) && this.#ends.size >= MAX_FILES) this.#ends.delete(this.#ends.keys().next().value!)
    this.#ends.set(ino, size)
  }

  /** By this mount's own request: the kernel knows. */
  wrote(ino: number, size: number): void {
    if (this.#shown.size > 0) this.#shown.delete(ino)
    if (this.#ends.size > 0 && this.#ends.has(ino)) this.#ends.set(ino, size)
  }

  forget(ino: number): void {
    this.#ends.delete(ino)
    this.#shown.delete(ino)
  }

  /** By others: it has `size` bytes now, and the kernel is being told. `taken` resolves when it has taken that in. */
  changed(ino: number, size: number, taken: () => Promise<void>): void {
    const end = this.#shown.get(ino) ?? this.#ends.get(ino)
    this.#ends.delete(ino)
    if (end === undefined) return
    if (size <= end) {
      this.#shown.delete(ino)
      return
    }
    this.#shown.set(ino, end)
    let timer: NodeJS.Timeout
    const over = () => {
      clearTimeout(timer)
      this.#shown.delete(ino)
    }
    timer = setTimeout(over, HOLD_MS)
    void taken().then(over)
  }

  /** What is to be said of the file. */
  attr<T extends Attr>(inode: T): T {
    const end = this.#shown.size > 0 ? this.#shown.get(inode.ino) : undefined
    return end === undefined ? inode : Object.create(inode, { size: { value: end } }) as T
  }
}
