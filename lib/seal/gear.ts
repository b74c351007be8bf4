/**
 * The inner loop of the chunker (chunker.ts) in WebAssembly, assembled here: it
 * looks at more than half of all bytes that are written in bulk, and takes a quarter of
 * the time that the same loop takes in JavaScript (0.2 s a GiB, not 0.8), which checks
 * the bounds of each access.
 *
 * Its memory: the gear table (256 words), the same shifted left by one, the hash
 * that the last call ended with, and a window which the data is copied into.
 */

/** Bytes scanned in one call. Even. A window stays in the nearest cache between the copy and the scan. */
export const WINDOW_BYTES = 32 << 10
const SHIFTED = 1024
const HASH = 2048
const WINDOW = 4096
const WORD_BYTES = 8
/** Pairs of bytes a turn of the loop: more is no faster. */
const PAIRS = 2

/** Of @types/node, which leaves WebAssembly to the DOM's types. */
declare const WebAssembly: {
  Memory: new (limits: { initial: number; maximum: number }) => { buffer: ArrayBuffer }
  Module: new (code: Uint8Array) => object
  Instance: new (module: object, imports: object) => { exports: Record<string, (...args: number[]) => number> }
}
const WASM_PAGE_BYTES = 65536

export class Gear {
  readonly #window: Uint8Array
  readonly #hash: Int32Array
  readonly #scan: (from: number, to: number, hash: number, mask: number) => number

  /** `table`: 256 words. */
  constructor(table: Int32Array) {
    const pages = Math.ceil((WINDOW + WINDOW_BYTES + WORD_BYTES) / WASM_PAGE_BYTES)
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages })
    new Int32Array(memory.buffer, 0, 256).set(table)
    new Int32Array(memory.buffer, SHIFTED, 256).set(table.map((word) => word << 1))
    this.#window = new Uint8Array(memory.buffer, WINDOW, WINDOW_BYTES + WORD_BYTES)
    this.#hash = new Int32Array(memory.buffer, HASH, 1)
    this.#scan = new WebAssembly.Instance(new WebAssembly.Module(module()), { env: { memory } }).exports.scan!
  }

  /** The hash after the last byte that was scanned: where the next call goes on. */
  get hash(): number { return this.#hash[0]! }

  /**
   * Rolls the hash over `bytes` (at most WINDOW_BYTES), beginning with `hash`: h = (h << 1) + gear[byte]. The number of bytes
   * after which the masked hash is 0 for the first time, or -1. An odd last byte is left alone. Bit 31 of the mask must be free.
   */
  scan(bytes: Uint8Array, hash: number, mask: number): number {
    // As far from a word's boundary as in its own memory: V8 copies shared memory byte by byte otherwise.
    const skew = bytes.byteOffset % WORD_BYTES
    this.#window.set(bytes, skew)
    const from = WINDOW + skew
    const cut = this.#scan(from, from + bytes.length, hash, mask)
    return cut < 0 ? -1 : cut - from
  }
}

// --- assembling (WebAssembly core specification, 5: binary format) ---

const I32 = 0x7f
const [FROM, TO, H, MASK, LAST, MASK_SHIFTED] = [0, 1, 2, 3, 4, 5]
const get = (local: number) => [0x20, local]
const set = (local: number) => [0x21, local]
const tee = (local: number) => [0x22, local]
const constant = (n: number) => [0x41, ...signed(n)]
const loadByte = (offset: number) => [0x2d, 0, ...unsigned(offset)]
const loadWord = (offset: number) => [0x28, 2, ...unsigned(offset)]
const storeWord = (offset: number) => [0x36, 2, ...unsigned(offset)]
const [EQZ, LESS, ADD, SUB, AND, SHL, RETURN, END] = [0x45, 0x48, 0x6a, 0x6b, 0x71, 0x74, 0x0f, 0x0b]
const [LOOP, IF, BRANCH, VOID] = [0x03, 0x04, 0x0c, 0x40]

/** hash += table[byte at FROM + k]; if masked it is 0, return FROM + k + 1. The hash is on the stack. */
function step(k: number, table: number, mask: number): number[] {
  return [
    ...get(FROM), ...loadByte(k), ...constant(2), SHL, ...loadWord(table), ADD, ...tee(H), ...get(mask), AND, EQZ,
    IF, VOID, ...get(FROM), ...constant(k + 1), ADD, RETURN, END,
  ]
}

/** The hash after the first byte of a pair is kept shifted by one, and so are its mask and its table: one shift for two bytes. */
function pair(k: number): number[] {
  return [...get(H), ...constant(2), SHL, ...step(k, SHIFTED, MASK_SHIFTED), ...get(H), ...step(k + 1, 0, MASK)]
}

/** As long as so many pairs are left. */
function pairs(count: number): number[] {
  const body = Array.from({ length: count }, (_, i) => pair(2 * i)).flat()
  return [
    ...get(TO), ...constant(2 * count - 1), SUB, ...set(LAST),
    LOOP, VOID, ...get(FROM), ...get(LAST), LESS, IF, VOID, ...body, ...get(FROM), ...constant(2 * count), ADD, ...set(FROM), BRANCH, 1, END, END,
  ]
}

function module(): Uint8Array {
  const code = [
    ...get(MASK), ...constant(1), SHL, ...set(MASK_SHIFTED),
    ...pairs(PAIRS), ...pairs(1),
    ...constant(0), ...get(H), ...storeWord(HASH), ...constant(-1), END,
  ]
  const body = [1, 2, I32, ...code]
  return Uint8Array.from([
    ...text('\0asm'), 1, 0, 0, 0,
    ...section(1, [1, 0x60, 4, I32, I32, I32, I32, 1, I32]),
    ...section(2, [1, ...name('env'), ...name('memory'), 2, 0, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...name('scan'), 0, 0]),
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ])
}

function section(id: number, bytes: number[]): number[] { return [id, ...unsigned(bytes.length), ...bytes] }

function name(s: string): number[] { return [s.length, ...text(s)] }

function text(s: string): number[] { return [...Buffer.from(s, 'latin1')] }

/** LEB128. */
function unsigned(n: number): number[] {
  return n < 128 ? [n] : [(n & 127) | 128, ...unsigned(n >>> 7)]
}

function signed(n: number): number[] {
  return n >= -64 && n < 64 ? [n & 127] : [(n & 127) | 128, ...signed(n >> 7)]
}
