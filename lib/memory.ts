/**
 * Shared memory in blocks that begin on a page and are used again. Direct I/O
 * (O_DIRECT) asks for the first, and the second saves a page fault each 4 KiB.
 *
 * All blocks lie in one WebAssembly memory: the one kind of memory of JavaScript
 * that threads share and that begins on a page. Pages which nobody has touched
 * take no room, so a block may be larger than what is mostly put into it.
 */

/** Offset, length and memory of direct I/O are multiples of this: the page size, and no disk has larger sectors. */
export const PAGE_BYTES = 4096

/** Of @types/node, which leaves WebAssembly to the DOM's types. */
declare const WebAssembly: {
  Memory: new (limits: { initial: number; maximum: number; shared: true }) => { buffer: SharedArrayBuffer }
}
const WASM_PAGE_BYTES = 65536

/** `n` rounded up to whole pages. */
export function pageEnd(n: number): number {
  return Math.ceil(n / PAGE_BYTES) * PAGE_BYTES
}

/**
 * `target[at...] = source`, all of it. set() and copy() go by words, or single bytes, as soon as one of the two is shared
 * memory (each of them as one atomic access), which takes many times as long; fill() of as many bytes does not.
 */
export function copyInto(target: Buffer, at: number, source: Uint8Array): void {
  if (source.length > 0) target.fill(source, at, at + source.length)
}

export interface Block {
  readonly memory: SharedArrayBuffer
  /** Where the block begins in `memory`; a page boundary. */
  readonly start: number
  readonly bytes: Buffer
}

export class BlockPool {
  readonly blockBytes: number
  readonly #count: number
  /** The block given back last goes out first: its pages are there. */
  #free: Block[] | undefined

  /** Memory is asked for with the first block. */
  constructor(blockBytes: number, count: number) {
    this.blockBytes = pageEnd(blockBytes)
    this.#count = count
  }

  /** Undefined when all are out, or the system gives no such memory: the caller makes do with other memory. */
  take(): Block | undefined {
    return (this.#free ??= this.#make()).pop()
  }

  release(block: Block): void {
    if (this.#free!.includes(block)) throw new Error('invariant: block released twice')
    this.#free!.push(block)
  }

  #make(): Block[] {
    const pages = Math.ceil(this.blockBytes * this.#count / WASM_PAGE_BYTES)
    let memory: SharedArrayBuffer
    try {
      memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer
    } catch {
      // A bound on address space, say (ulimit -v).
      return []
    }
    return Array.from({ length: this.#count }, (_, i) => {
      const start = i * this.blockBytes
      return { memory, start, bytes: Buffer.from(memory, start, this.blockBytes) }
    }).reverse()
  }
}
