/**
 * What a device that only stores holds and need not hold by the plan goes: when all who are to hold it by that very plan say that they
 * have it, and one has shown it (swarm/confirm.ts). So one that is drained ends empty.
 *
 * Nothing goes for a while after a change of plan: others may have counted on this device a moment ago.
 */
import type { Holders } from '../cache.js'
import type { Timers } from '../clock.js'
import type { Journal } from '../log/journal.js'
import { ELSEWHERE, type ChunkTable } from '../store/chunks.js'
import type { Keeping } from './keeping.js'
import type { Plan } from './plan.js'

/** Rows looked at in one go. */
const SLICE_ROWS = 1024
/** Confirmed, and gone, at a time: before each others have to have all that was written here, which takes as long for many as for one. */
const BATCH_CHUNKS = 512
const TICK_MS = 2000
/** Not all went: looked again, after twice as long each time. */
const FIRST_RETRY_MS = 5000
const MAX_RETRY_MS = 10 * 60_000

export interface SurplusParts {
  chunks: ChunkTable
  keeping: Pick<Keeping, 'plan' | 'isLaid' | 'moves'>
  journal: Journal
  timers: Timers
  /** Null: nobody is connected. */
  holders(): Pick<Holders, 'confirm'> | null
  /** When the plan changed, by the system's clock. */
  sinceMs(): number
  graceMs: number
  /** Gives the disk back what went. */
  compact(): Promise<void>
}

export class Surplus {
  readonly #p: SurplusParts
  #running: Promise<void> | null = null
  #retryMs = FIRST_RETRY_MS
  #atMs = 0
  #seen: Plan | null = null
  #seenMoves = 0
  #isClosed = false
  readonly #stopTicking: () => void

  constructor(parts: SurplusParts) {
    this.#p = parts
    this.#stopTicking = parts.timers.every(TICK_MS, () => this.#tick())
  }

  #tick(): void {
    const { keeping, journal, timers } = this.#p
    if (this.#running || this.#isClosed || journal.stopped) return
    if (keeping.moves !== this.#seenMoves) {
      this.#seenMoves = keeping.moves
      this.#atMs = Math.min(this.#atMs, timers.nowMs() + FIRST_RETRY_MS)
    }
    if (keeping.plan !== this.#seen) {
      this.#seen = keeping.plan
      this.#atMs = 0
      this.#retryMs = FIRST_RETRY_MS
    }
    if (timers.nowMs() < this.#atMs) return
    this.#running = this.run().then((isLeft) => {
      // Without any left it is looked all the same, seldom: what came before the plan did may be on its way.
      this.#atMs = timers.nowMs() + (isLeft ? this.#retryMs : MAX_RETRY_MS)
      this.#retryMs = Math.min(MAX_RETRY_MS, this.#retryMs * 2)
    }).catch((e: Error) => {
      if (!this.#isClosed && !journal.stopped) process.emitWarning(`giving back what others are to hold: ${e.message}`)
      this.#atMs = timers.nowMs() + MAX_RETRY_MS
    }).finally(() => { this.#running = null })
  }

  /** Goes through all chunks once. True: some are left that may go another time. */
  async run(): Promise<boolean> {
    const { chunks, keeping, timers } = this.#p
    const { plan } = keeping
    if (!plan) return false
    let isLeft = false
    let gone = 0
    let batch: { num: number; id: Buffer }[] = []
    const go = async () => {
      const went = await this.#letGo(batch, plan)
      isLeft ||= went < batch.length
      gone += went
      batch = []
    }
    for (let from = 0; ;) {
      if (!this.#mayGo(plan)) return true
      const rows = chunks.scan(from, SLICE_ROWS)
      for (const { num, id, seg, refs } of rows) {
        from = num
        // What is dead goes by another way.
        if (seg <= 0 || refs === 0 || plan.isMine(id)) continue
        batch.push({ num, id })
        if (batch.length >= BATCH_CHUNKS) await go()
      }
      if (rows.length < SLICE_ROWS) break
      await new Promise<void>((next) => timers.soon(next))
    }
    if (batch.length > 0) await go()
    if (gone > 0 && !this.#isClosed) await this.#p.compact()
    return isLeft
  }

  #mayGo(plan: Plan): boolean {
    const { keeping, journal, holders, sinceMs, graceMs } = this.#p
    return !this.#isClosed && !journal.stopped && keeping.plan === plan && keeping.isLaid && holders() !== null && Date.now() >= sinceMs() + graceMs
  }

  /** How many went. */
  async #letGo(batch: { num: number; id: Buffer }[], plan: Plan): Promise<number> {
    const { chunks, journal, holders } = this.#p
    if (!this.#mayGo(plan)) return 0
    const confirmed = await holders()!.confirm(batch, 1)
    if (!this.#mayGo(plan)) return 0
    let gone = 0
    batch.forEach(({ num }, i) => {
      if (!confirmed[i] || (chunks.get(num)?.seg ?? 0) <= 0) return
      chunks.move(num, ELSEWHERE, 0)
      gone++
    })
    if (gone > 0) journal.touched()
    return gone
  }

  /** What runs ends. May be called twice. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#stopTicking()
    await this.#running
  }
}
