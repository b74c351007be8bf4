/**
 * The plaintext of chunks in memory. Chunks that were read in one go lie in one
 * block of memory that is used again: fresh memory for each costs page faults, and the
 * garbage collector's time.
 *
 * So whoever is given the bytes may use them until the event loop turns (through
 * any number of microtasks), as the reply to a READ does, and copies what it
 * keeps. Who needs them for longer holds them.
 */
import { BlockPool, type Block } from '../memory.js'

/** Chunks of a run, or the largest chunk. */
export const RUN_BYTES = 1 << 20
/** What the cache of plaintext (read.ts) and the loads of one reader ahead take, in blocks that are not quite full. */
const BLOCKS = 40

export class PlainMemory {
  readonly #blocks = new BlockPool(RUN_BYTES, BLOCKS)
  #leaving: Home[] = []
  /** Has room behind `#filled`; in use until it is full. */
  #filling: Home | undefined
  #filled = 0

  /** Undefined when all are in use: memory of the chunk's own does, too. */
  take(): Home | undefined {
    const block = this.#blocks.take()
    return block && new Home(block, this)
  }

  /** For one chunk that comes by itself: those that come one after the other lie in one block. */
  place(length: number): Plain {
    if (!this.#filling || this.#filled + length > RUN_BYTES) {
      this.#filling?.leave()
      this.#filling = this.take()
      this.#filled = 0
    }
    if (!this.#filling) return new Plain(Buffer.allocUnsafe(length))
    const bytes = this.#filling.block.bytes.subarray(this.#filled, this.#filled + length)
    this.#filled += length
    return new Plain(bytes, this.#filling)
  }

  /** One use fewer, once the event loop has turned. */
  leave(home: Home): void {
    if (this.#leaving.push(home) > 1) return
    setImmediate(() => {
      const leaving = this.#leaving
      this.#leaving = []
      for (const h of leaving) if (--h.uses === 0) this.#blocks.release(h.block)
    })
  }
}

/** A block and how often it is in use. */
export class Home {
  readonly block: Block
  readonly #memory: PlainMemory
  uses = 1

  constructor(block: Block, memory: PlainMemory) {
    this.block = block
    this.#memory = memory
  }

  leave(): void { this.#memory.leave(this) }
}

export class Plain {
  readonly bytes: Buffer
  readonly #home: Home | undefined

  /** In use by whoever makes it. `home`: where `bytes` lie; undefined = in memory of their own. */
  constructor(bytes: Buffer, home?: Home) {
    this.bytes = bytes
    this.#home = home
    if (home) home.uses++
  }

  hold(): void { if (this.#home) this.#home.uses++ }

  release(): void { this.#home?.leave() }
}

/** Plaintexts by chunk, in the order in which they were put. Each is in use as long as it is here. */
export class PlainCache {
  readonly #plains = new Map<number, Plain>()
  #bytes = 0

  get bytes(): number { return this.#bytes }

  has(chunk: number): boolean { return this.#plains.has(chunk) }

  put(chunk: number, plain: Plain): void {
    this.#plains.set(chunk, plain)
    this.#bytes += plain.bytes.length
  }

  /** It is the caller's then. */
  take(chunk: number): Plain | undefined {
    const plain = this.#plains.get(chunk)
    if (plain) {
      this.#plains.delete(chunk)
      this.#bytes -= plain.bytes.length
    }
    return plain
  }

  /** As `take`, whichever was put first. */
  oldest(): Plain | undefined {
    for (const chunk of this.#plains.keys()) return this.take(chunk)
    return undefined
  }
}

/** What a read uses while it waits for the rest. */
export class Holding {
  #plains: Plain[] | null = []

  /** Nothing is held for a read that is over. */
  add(plain: Plain): void {
    if (this.#plains === null) return
    plain.hold()
    this.#plains.push(plain)
  }

  end(): void {
    for (const p of this.#plains ?? []) p.release()
    this.#plains = null
  }
}
