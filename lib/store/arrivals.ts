/** Chunks that were fetched from elsewhere are kept: appended to a segment, made durable, and then said to be here. */
import { isDfsError } from '../errors.js'
import type { Journal } from '../log/journal.js'
import { ELSEWHERE, type ChunkTable } from './chunks.js'
import type { SegmentStore } from './segments.js'

/** Sealed bytes that wait for the disk; what comes meanwhile is read and not kept, and fetched again another time. */
const MAX_WAITING_BYTES = 16 << 20

export interface ArrivalParts {
  readonly chunks: ChunkTable
  readonly store: SegmentStore
  readonly journal: Journal
  /** Keeps gc from the segments that are written to, until the function given is called. */
  guard(): () => void
  /** Throws ENOSPC. */
  take(bytes: number): void
}

export class Arrivals {
  readonly #p: ArrivalParts
  readonly #under = new Set<Promise<void>>()
  #bytes = 0
  #isClosed = false

  constructor(parts: ArrivalParts) {
    this.#p = parts
  }

  /** `sealed` is what the chunk's id names. Returns at once; where it cannot be kept, nothing is lost but the work. */
  keep(num: number, sealed: Buffer): void {
    if (this.#isClosed || this.#p.journal.stopped || this.#bytes + sealed.length > MAX_WAITING_BYTES) return
    this.#bytes += sealed.length
    const kept = this.#keep(num, sealed).catch((e: Error) => {
      // A full disk is no fault, and a store that has stopped says so itself.
      if (!isDfsError(e, 'ENOSPC') && !isDfsError(e, 'STORE_STOPPED')) process.emitWarning(`a chunk that came cannot be kept: ${e.message}`)
    }).finally(() => {
      this.#bytes -= sealed.length
      this.#under.delete(kept)
    })
    this.#under.add(kept)
  }

  async #keep(num: number, sealed: Buffer): Promise<void> {
    const { chunks, store, journal } = this.#p
    const known = chunks.identity(num)
    if (!known) return
    this.#p.take(sealed.length)
    const done = this.#p.guard()
    try {
      const [place] = await store.append([{ id: known.id, plainLength: known.len, sealed }])
      await store.sync()
      const now = chunks.get(num)
      if (journal.stopped || !now || (now.seg !== ELSEWHERE && !chunks.bad.has(num))) return
      chunks.move(num, place!.segment, place!.offset)
      journal.touched()
    } finally {
      done()
    }
  }

  /** What is under way ends. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all(this.#under)
  }
}
