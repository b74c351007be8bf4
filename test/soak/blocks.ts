/**
 * Contents that are put together of the same blocks, so that their chunks are found again in other files, on other devices, and
 * after everybody has let go of them. Which blocks are in use changes slowly: most go out of it for longer than a retention.
 */
import { createHash, randomBytes } from 'node:crypto'

const SIZES = [64, 128, 256, 512, 1024].map((kib) => kib << 10)
const BLOCKS = 120
/** So many are in use at a time, and so often another begins to be. */
const IN_USE = 40
const STEP_MS = 4000
/** Now and then one that is not: it may be on its way out anywhere. */
const STRAY = 0.08
const MOST_PIECES = 4
/** Compared at a time. */
const PAGE = 4096

/** The first `bytes` of a block. */
interface Piece { block: Buffer; bytes: number }

export class Content {
  readonly size: number
  #sha: string | undefined

  constructor(readonly pieces: readonly Piece[]) {
    this.size = pieces.reduce((n, p) => n + p.bytes, 0)
  }

  bytes(): Buffer { return Buffer.concat(this.pieces.map((p) => p.block.subarray(0, p.bytes))) }

  get sha(): string { return (this.#sha ??= shaOfBytes(this.bytes())) }

  /** Cut off at a size. */
  cut(size: number): Content {
    const pieces: Piece[] = []
    for (const p of this.pieces) {
      const bytes = Math.min(p.bytes, size)
      if (bytes > 0) pieces.push({ block: p.block, bytes })
      size -= bytes
    }
    return new Content(pieces)
  }

  replaced(n: number, piece: Piece): Content { return new Content(this.pieces.map((p, i) => (i === n ? piece : p))) }

  with(more: Piece): Content { return new Content([...this.pieces, more]) }
}

export class Blocks {
  readonly #random: () => number
  /** By size. */
  readonly #all: Buffer[]
  readonly #startMs = performance.now()

  constructor(random: () => number) {
    this.#random = random
    this.#all = Array.from({ length: BLOCKS }, (_, i) => randomBytes(SIZES[i % SIZES.length]!))
  }

  draw(): Buffer {
    if (this.#random() < STRAY) return this.#all[Math.floor(this.#random() * BLOCKS)]!
    const first = Math.floor((performance.now() - this.#startMs) / STEP_MS)
    return this.#all[(first + Math.floor(this.#random() * IN_USE)) % BLOCKS]!
  }

  piece(): Piece {
    const block = this.draw()
    return { block, bytes: this.#random() < 0.8 ? block.length : 1 + Math.floor(this.#random() * block.length) }
  }

  content(): Content {
    const pieces = Array.from({ length: 1 + Math.floor(this.#random() * MOST_PIECES) }, () => this.piece())
    // A tail that nothing else has: small content, in the index at first.
    if (this.#random() < 0.3) pieces.push(fresh(1 + Math.floor(this.#random() * 9000)))
    return new Content(pieces)
  }

  /** Of one file of about `bytes` that is never changed: half of it is nowhere else. */
  lasting(bytes: number): Content {
    return new Content([fresh(Math.ceil(bytes / 2)), ...[this.#all[Math.floor(this.#random() * BLOCKS)]!].map((block) => ({ block, bytes: block.length }))])
  }
}

function fresh(bytes: number): Piece { return { block: randomBytes(bytes), bytes } }

export function shaOfBytes(bytes: Buffer): string { return createHash('sha256').update(bytes).digest('hex') }

/** Whether what was found may come of a change from `before` to `after` that did not reach its end: each byte is of one of the two. */
export function isBetween(found: Buffer, before: Buffer, after: Buffer): boolean {
  if (found.length > Math.max(before.length, after.length)) return false
  for (let at = 0; at < found.length; at += PAGE) {
    const end = Math.min(at + PAGE, found.length)
    if (isSame(found, before, at, end) || isSame(found, after, at, end)) continue
    for (let i = at; i < end; i++) if (found[i] !== before[i] && found[i] !== after[i]) return false
  }
  return true
}

function isSame(a: Buffer, b: Buffer, from: number, to: number): boolean {
  return to <= b.length && a.compare(b, from, to, from, to) === 0
}
