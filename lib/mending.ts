/**
 * Bringing back what should be here and is not: chunks that are damaged, and those
 * that are missing. The swarm asks for them all the time, in the background; here is
 * how somebody waits for it, and what there is to say when it ends.
 */
import type { Danger, OnProgress } from './api.js'
import type { Timers } from './clock.js'
import type { ChunkTable } from './store/chunks.js'
import type { Database } from './store/database.js'
import { countMissing, listMissing, type Owed } from './store/missing.js'

/** It is looked so often how much is left, or less where counting takes longer than this part of it. */
const POLL_MS = 100
const COUNT_SHARE = 20
/** Nothing comes, and nothing is asked for: those who are connected have nothing, or nobody is. */
const QUIET_MS = 5000
/** Nothing comes, though it was asked for. */
const STALL_MS = 60_000
/** Paths and chunks that are named. */
const MAX_NAMED = 10_000

/** Who gets chunks from other devices. */
export interface Mender {
  /** A chunk here was found bad. */
  damaged(num: number): void
  /** Chunks may be missing that were not. */
  moreMissing(): void
  readonly peerCount: number
  /** Bytes that were asked for, or came and are not kept yet. */
  readonly wanted: { askedBytes: number; heldBytes: number }
}

export interface MendingParts {
  readonly db: Database
  readonly chunks: ChunkTable
  readonly timers: Timers
  owed(): Owed
  /** The drive has other devices. */
  hasOthers(): boolean
  /** Rows that are written behind are written. */
  flush(): void
  /** The paths that need these chunks; absent on a device that cannot read. */
  paths?(nums: ReadonlySet<number>): Promise<Map<number, string[]>>
}

export class Mending {
  readonly #p: MendingParts
  /** Set by whoever connects this device to others. */
  mender: Mender | null = null
  #isClosed = false

  constructor(parts: MendingParts) {
    this.#p = parts
  }

  /** Damaged chunks that something still names. */
  damaged(): number[] {
    return this.#p.chunks.damaged()
  }

  missing(): { chunks: number; bytes: number } {
    return countMissing(this.#p.db, this.#p.owed())
  }

  /** Waits until nothing is damaged (`withMissing`: or missing), or nothing more comes. Ends with what `onProgress` throws. */
  async settle(withMissing: boolean, onProgress?: OnProgress): Promise<void> {
    const { timers, flush } = this.#p
    const count = () => this.damaged().length + (withMissing ? this.missing().chunks : 0)
    flush()
    const total = count()
    if (total === 0 || !this.mender || (this.mender.peerCount === 0 && !this.#p.hasOthers())) return
    this.mender.moreMissing()
    let left = total
    let aliveMs = timers.nowMs()
    let cameMs = aliveMs
    while (left > 0 && !this.#isClosed) {
      onProgress?.({ phase: 'mending', done: Math.max(0, total - left), total, unit: 'chunks' })
      const nowMs = timers.nowMs()
      const now = count()
      const tookMs = timers.nowMs() - nowMs
      if (now < left) cameMs = aliveMs = nowMs
      const { askedBytes = 0, heldBytes = 0 } = this.mender?.wanted ?? {}
      if (askedBytes + heldBytes > 0) aliveMs = nowMs
      left = now
      if (left === 0 || nowMs - aliveMs > QUIET_MS || nowMs - cameMs > STALL_MS) return
      await new Promise<void>((go) => void timers.after(Math.max(POLL_MS, tookMs * COUNT_SHARE), go))
    }
  }

  /** What is damaged, and what is missing that should be here, with the paths that need it. */
  async danger(): Promise<Danger> {
    const { db, chunks, flush, owed, paths } = this.#p
    flush()
    const damaged = this.damaged()
    const missing = this.missing()
    const nums = new Set([...damaged, ...listMissing(db, owed(), MAX_NAMED)])
    const named = await paths?.(nums)
    const bytes = damaged.reduce((sum, num) => sum + (chunks.identity(num)?.len ?? 0), missing.bytes)
    const all = [...new Set([...named?.values() ?? []].flat())].sort()
    const unnamed = [...nums].filter((num) => !named?.has(num)).flatMap((num) => chunks.identity(num)?.id.toString('hex') ?? [])
    return {
      damaged: damaged.length, missing: missing.chunks, bytes, paths: all.slice(0, MAX_NAMED), unnamed: unnamed.slice(0, MAX_NAMED),
      isAll: all.length <= MAX_NAMED && unnamed.length <= MAX_NAMED && missing.chunks <= MAX_NAMED,
    }
  }

  /** Nobody waits any more. */
  close(): void { this.#isClosed = true }
}
