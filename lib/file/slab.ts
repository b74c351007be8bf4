/**
 * Memory for bytes that programs wrote and the store does not have yet. Slabs of
 * shared memory, filled from front to back in the order of the writes, so that a
 * run of small random writes lies together and can be sealed as one chunk, and
 * so that workers cut, hash and seal without a copy.
 *
 * A slab is counted by the ranges that lie in it and goes back to the pool when
 * the last one is gone.
 */
export const SLAB_BYTES = 4 << 20
/** Recycled slabs kept: fresh shared memory costs a page fault each 4 KiB. */
const KEEP_SLABS = 12

export class Slab {
  readonly memory = new SharedArrayBuffer(SLAB_BYTES)
  readonly bytes = Buffer.from(this.memory)
  /** Bytes handed out from the front. */
  used = 0
  refs = 0
}

export class SlabPool {
  readonly #free: Slab[] = []

  /** A slab with one reference, its maker's. */
  take(): Slab {
    const slab = this.#free.pop() ?? new Slab()
    slab.used = 0
    slab.refs = 1
    return slab
  }

  release(slab: Slab): void {
    if (--slab.refs > 0) return
    if (slab.refs < 0) throw new Error('invariant: slab released too often')
    if (this.#free.length < KEEP_SLABS) this.#free.push(slab)
  }
}
