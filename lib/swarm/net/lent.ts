/**
 * Shared memory in which the network's thread puts large messages together and
 * the main thread uses them. Fresh memory for each would cost page faults and, in
 * both threads, a collection of all garbage every 64 MiB.
 *
 * Messages lie one behind the other in blocks; `uses` counts those of each block
 * that are still in use, and one more while the block is being filled. The network's thread counts
 * up, whoever is done with a message counts down. Where all blocks are in use, a message gets memory
 * of its own.
 */
import { MAX_MESSAGE_BYTES } from '../../limits.js'

const BLOCK_BYTES = MAX_MESSAGE_BYTES
/** More than the main thread has under way: bulk windows, and what waits for the disk. Pages that were never touched take no room. */
const BLOCKS = 32

/** Made by the main thread, given to the network's thread. */
export interface LentMemory { bytes: SharedArrayBuffer; uses: SharedArrayBuffer }

/** Where a message lies. */
export interface Place { block: number; start: number; length: number }

/** Undefined where the system gives no such memory: all messages have their own then. */
export function makeLentMemory(): LentMemory | undefined {
  try {
    return { bytes: new SharedArrayBuffer(BLOCK_BYTES * BLOCKS), uses: new SharedArrayBuffer(4 * BLOCKS) }
  } catch {
    return undefined
  }
}

export function bytesAt(memory: LentMemory, { start, length }: Place): Buffer {
  return Buffer.from(memory.bytes, start, length)
}

/** A message is used no more. From any thread, once. */
export function giveBack(memory: LentMemory, { block }: Place): void {
  Atomics.sub(new Int32Array(memory.uses), block, 1)
}

/** The network's thread's side. */
export class Lender {
  readonly #memory: LentMemory
  readonly #uses: Int32Array
  #block = -1
  #filled = 0

  constructor(memory: LentMemory) {
    this.#memory = memory
    this.#uses = new Int32Array(memory.uses)
  }

  /** Undefined: all blocks are in use. In use until it is given back. */
  place(length: number): Place | undefined {
    // All that lies here is done with: its pages are warm.
    if (this.#block >= 0 && Atomics.load(this.#uses, this.#block) === 1) this.#filled = 0
    if (this.#block < 0 || this.#filled + length > BLOCK_BYTES) {
      const next = this.#free()
      if (next < 0) return undefined
      if (this.#block >= 0) Atomics.sub(this.#uses, this.#block, 1)
      Atomics.add(this.#uses, next, 1)
      this.#block = next
      this.#filled = 0
    }
    const start = this.#block * BLOCK_BYTES + this.#filled
    // Whole words are copied faster.
    this.#filled += Math.ceil(length / 8) * 8
    Atomics.add(this.#uses, this.#block, 1)
    return { block: this.#block, start, length }
  }

  bytes(place: Place): Buffer { return bytesAt(this.#memory, place) }

  drop(place: Place): void { giveBack(this.#memory, place) }

  /** The first: so that few are touched. */
  #free(): number {
    for (let i = 0; i < BLOCKS; i++) if (Atomics.load(this.#uses, i) === 0) return i
    return -1
  }
}
