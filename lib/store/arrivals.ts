/** Chunks that came from elsewhere are kept: appended to a segment, made durable, and then said to be here. */
import type { Timers } from '../clock.js'
import { isDfsError } from '../errors.js'
import type { Journal } from '../log/journal.js'
import { ELSEWHERE, type ChunkTable } from './chunks.js'
import type { SegmentStore } from './segments.js'

/** Sealed bytes that wait for the disk; what comes meanwhile is read and not kept, and fetched again another time. */
const MAX_WAITING_BYTES = 48 << 20
/** Appended together: what a segment takes past the page cache in one go. */
const BATCH_BYTES = 4 << 20
/** Batches under way: while one is made durable the next is written. */
const MAX_BATCHES = 2
/** What comes singly waits so long for more. */
const GATHER_MS = 2

export interface ArrivalParts {
  readonly chunks: ChunkTable
  readonly store: Pick<SegmentStore, 'append' | 'sync'>
  readonly journal: Journal
  readonly timers: Timers
  /** Keeps gc from the segments that are written to, until the function given is called. */
  guard(): () => void
  /** Throws ENOSPC. */
  take(bytes: number): void
  /** Whether this device keeps it (absent: everything); `bytes`: with what waits for the disk. */
  mayKeep?(num: number, bytes: number): boolean
}

interface Waiting { num: number; sealed: Buffer; done: (isKept: boolean) => void }

export class Arrivals {
  readonly #p: ArrivalParts
  #waiting: Waiting[] = []
  #bytes = 0
  #waitingBytes = 0
  #working: Promise<void> | null = null
  #isClosed = false
  /** There was no room. */
  onFull: () => void = () => {}
  /** Told of chunks that are here now, durably but for the index. */
  onKept: (nums: number[]) => void = () => {}

  constructor(parts: ArrivalParts) {
    this.#p = parts
  }

  /** `sealed` is what the chunk's id names. Resolves when its bytes are no longer needed; false: not kept, and nothing is lost but the work. */
  keep(num: number, sealed: Buffer): Promise<boolean> {
    if (this.#isClosed || this.#p.journal.stopped || this.#bytes + sealed.length > MAX_WAITING_BYTES || this.#p.mayKeep?.(num, this.#bytes + sealed.length) === false) return Promise.resolve(false)
    this.#bytes += sealed.length
    this.#waitingBytes += sealed.length
    return new Promise<boolean>((done) => {
      this.#waiting.push({ num, sealed, done })
      this.#working ??= this.#run()
    })
  }

  async #run(): Promise<void> {
    const batches = new Set<Promise<void>>()
    // After the caller has taken note of this run.
    await null
    while (this.#waiting.length > 0 || batches.size > 0) {
      if (this.#waiting.length === 0 || batches.size >= MAX_BATCHES) {
        await Promise.race(batches)
        continue
      }
      if (this.#waitingBytes < BATCH_BYTES && !this.#isClosed) await new Promise<void>((go) => void this.#p.timers.after(GATHER_MS, go))
      let bytes = 0
      let n = 0
      while (n < this.#waiting.length && (n === 0 || bytes + this.#waiting[n]!.sealed.length <= BATCH_BYTES)) bytes += this.#waiting[n++]!.sealed.length
      this.#waitingBytes -= bytes
      const batch = this.#batch(this.#waiting.splice(0, n), bytes).finally(() => batches.delete(batch))
      batches.add(batch)
    }
    // With nothing in between: what comes from here on begins anew.
    this.#working = null
  }

  async #batch(batch: Waiting[], bytes: number): Promise<void> {
    let kept = false
    try {
      await this.#store(batch, bytes)
      kept = true
    } catch (e) {
      if (isDfsError(e, 'ENOSPC')) this.onFull()
      // A full disk is no fault, and a store that has stopped says so itself.
      if (!isDfsError(e, 'ENOSPC') && !isDfsError(e, 'STORE_STOPPED')) process.emitWarning(`chunks that came cannot be kept: ${(e as Error).message}`)
    }
    this.#bytes -= bytes
    for (const w of batch) w.done(kept)
  }

  async #store(batch: Waiting[], bytes: number): Promise<void> {
    const { chunks, store, journal } = this.#p
    const fresh = batch.flatMap((w) => {
      const known = chunks.identity(w.num)
      return known ? [{ num: w.num, id: known.id, plainLength: known.len, sealed: w.sealed }] : []
    })
    if (fresh.length === 0) return
    this.#p.take(bytes)
    const done = this.#p.guard()
    try {
      const places = await store.append(fresh)
      await store.sync()
      if (journal.stopped) return
      const here: number[] = []
      fresh.forEach(({ num }, i) => {
        const now = chunks.get(num)
        if (!now || (now.seg !== ELSEWHERE && !chunks.bad.has(num))) return
        chunks.move(num, places[i]!.segment, places[i]!.offset)
        chunks.onHere(num)
        here.push(num)
      })
      if (here.length === 0) return
      journal.touched()
      this.onKept(here)
    } finally {
      done()
    }
  }

  /** What is under way ends. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#working
  }
}
