/**
 * What this device is to hold, by the plan, and lacks: a queue in the index that
 * follows the chunk table, so that a restart goes on where it was. Without a plan
 * everything is to be held, and there is no queue.
 *
 *   named     a chunk became known that is elsewhere, or went from here, or was found damaged
 *   came      it is here and sound, or nobody needs it any more
 *
 * Another plan is laid over the whole chunk table in slices. Invariant, once that
 * has ended (`isLaid`): of the chunks of this device's groups exactly those that
 * are elsewhere, or damaged, are in the queue.
 *
 * It is fetched most endangered first: the groups of which the fewest other
 * copies are known; what was written just now before all of them.
 */
import type { Timers } from '../clock.js'
import { ELSEWHERE, type ChunkTable } from '../store/chunks.js'
import type { Lacking, LackedChunk } from '../store/lacking.js'
import type { Plan } from './plan.js'

/** Rows of the chunk table in one turn. */
const SLICE_ROWS = 2000
/** Of the rate, what may come at once; and how often more is named. */
const BURST_S = 0.2
const RATE_MS = 50
/** How much is held is looked up so often at most. */
const MEASURE_MS = 5000
/** Named just now and not asked for yet: more are found in their groups. */
const MAX_FRESH = 16_384

export interface KeepingParts {
  lacking: Lacking
  chunks: ChunkTable
  timers: Timers
  /** Something is to be committed that others can do without. */
  touched(): void
}

export class Keeping {
  readonly #p: KeepingParts
  #plan: Plan | null = null
  #isLaid = false
  #fresh: number[] = []
  /** Groups with something in the queue, those to come last first; undefined: to be looked up. */
  #order: number[] | undefined
  #at = { group: -1, num: 0 }
  #laying = 0
  #held = 0
  readonly #budget = { bytes: 0, atMs: 0 }
  #waiting: (() => void) | undefined
  #isMeasuring = false
  #measureAtMs = 0
  /** Counts chunks whose holders have become others by the same plan. */
  moves = 0
  /** The plan changed, or was laid over all chunks. */
  onChange: () => void = () => {}
  /** A chunk that is here is this device's to hold by the new plan (or is not any more). */
  onHeld: (num: number, isMine: boolean) => void = () => {}
  /** Bytes a second at which the queue is named, but for what was written just now. */
  rate: () => number = () => Infinity
  /** There is more to be named, when the rate had been reached. */
  onMore: () => void = () => {}
  /** Copies of a group that others have, as far as is known: what few have is fetched first. */
  copiesElsewhere: (group: number) => number = () => 0

  constructor(parts: KeepingParts) {
    this.#p = parts
  }

  get plan(): Plan | null { return this.#plan }

  /** The queue is what the plan says. */
  get isLaid(): boolean { return this.#isLaid }

  /** Chunks in the queue, dead ones that are still to be dropped among them. */
  get size(): number { return this.#p.lacking.size }

  /** Chunks in the queue that somebody needs. */
  get lacks(): number { return this.#p.lacking.live }

  /** The queue that is kept is of this plan: the last session ended with it. */
  isLaidBy(plan: Plan): boolean {
    return this.#p.lacking.plan?.equals(plan.digest) === true
  }

  /** null: everything is to be held. */
  set(plan: Plan | null): void {
    if (this.#plan === plan || (plan && this.#plan?.digest.equals(plan.digest))) return
    const { lacking, chunks } = this.#p
    this.#plan = plan
    this.#laying++
    this.#order = undefined
    this.#fresh = []
    this.#isLaid = plan !== null && this.isLaidBy(plan)
    chunks.keeping = plan && this
    if (!this.#isLaid) {
      lacking.clear()
      lacking.plan = undefined
      this.#p.touched()
      if (plan) this.#lay(this.#laying, 0)
    }
    this.onChange()
  }

  /** Of the chunk table. */
  named(num: number, id: Buffer): void {
    const group = this.#plan!.groupOf(id)
    if (!this.#plan!.isMyGroup(group) || !this.#p.lacking.add(num, group)) return
    if (this.#fresh.length < MAX_FRESH) this.#fresh.push(num)
    // Only then: putting all groups in order takes as long as hundreds of chunks, and writers name some all the time.
    else this.#order = undefined
  }

  /** There are to be more copies of a chunk, or fewer: others may be to hold it now. */
  refactored(id: Buffer): void {
    const plan = this.#plan
    if (!plan || plan.factors.length === 1) return
    this.moves++
    const { chunks, lacking } = this.#p
    const num = chunks.findById(id)
    const row = num === 0 ? undefined : chunks.get(num)
    if (!row) return
    const group = plan.groupOf(id)
    const isMine = plan.isMyGroup(group)
    if (row.seg !== ELSEWHERE) this.onHeld(num, isMine)
    lacking.drop(num)
    if (!isMine || (row.seg !== ELSEWHERE && !chunks.bad.has(num))) return
    lacking.add(num, group)
    if (this.#fresh.length < MAX_FRESH) this.#fresh.push(num)
    else this.#order = undefined
    this.onMore()
  }

  /** Of the chunk table. */
  came(num: number): void { this.#p.lacking.drop(num) }

  /** Up to about `limit` that are lacked, not those of the last calls again until all were named; [] at the end. */
  next(limit: number): LackedChunk[] {
    const { lacking } = this.#p
    const out: LackedChunk[] = []
    while (out.length < limit && this.#fresh.length > 0) {
      const chunk = lacking.get(this.#fresh.shift()!)
      if (chunk) out.push(chunk)
    }
    this.#order ??= this.#inOrder()
    const rate = this.rate()
    while (out.length < limit) {
      if (!this.#mayName(rate)) return out
      if (this.#at.group < 0) {
        const group = this.#order.pop()
        if (group === undefined) break
        this.#at = { group, num: 0 }
      }
      const wanted = limit - out.length
      const rows = lacking.inGroup(this.#at.group, this.#at.num, wanted)
      for (const chunk of rows) {
        this.#at.num = chunk.num
        out.push(chunk)
        this.#budget.bytes -= chunk.len
        if (this.#budget.bytes <= 0 && rate !== Infinity) return out
      }
      if (rows.length < wanted) this.#at.group = -1
    }
    // The next call begins anew.
    if (out.length === 0) this.#order = undefined
    return out
  }

  /** Not faster than the rate; then again a moment later. */
  #mayName(rate: number): boolean {
    if (rate === Infinity) return true
    const nowMs = this.#p.timers.nowMs()
    const budget = this.#budget
    budget.bytes = Math.min(rate * BURST_S, budget.bytes + rate * (nowMs - budget.atMs) / 1000)
    budget.atMs = nowMs
    if (budget.bytes > 0) return true
    this.#waiting ??= this.#p.timers.after(Math.ceil(-budget.bytes / rate * 1000) + RATE_MS, () => {
      this.#waiting = undefined
      this.onMore()
    })
    return false
  }

  /** What is lacked, by group; dead chunks left out. */
  missing(): Map<number, { chunks: number; bytes: number }> { return this.#p.lacking.sums() }

  /** Some of it; undefined without a plan. */
  lacked(limit: number): LackedChunk[] | undefined { return this.#plan ? this.#p.lacking.some(limit) : undefined }

  #inOrder(): number[] {
    const groups = this.#p.lacking.groups()
    return groups.map((group) => [group, this.copiesElsewhere(group)] as const).sort((a, b) => b[1] - a[1]).map(([group]) => group)
  }

  /** Looks at all chunks. Those that become known meanwhile are seen to where they do. */
  #lay(laying: number, from: number): void {
    const { lacking, chunks, timers, touched } = this.#p
    const rows = chunks.scan(from, SLICE_ROWS)
    for (const { num, id, seg } of rows) {
      const group = this.#plan!.groupOf(id)
      const isMine = this.#plan!.isMyGroup(group)
      if (seg !== ELSEWHERE) this.onHeld(num, isMine)
      if (isMine && (seg === ELSEWHERE || chunks.bad.has(num))) lacking.add(num, group)
    }
    if (rows.length > 0) touched()
    if (rows.length === SLICE_ROWS) {
      timers.soon(() => { if (laying === this.#laying) this.#lay(laying, rows[rows.length - 1]!.num) })
      return
    }
    this.#order = undefined
    this.#isLaid = true
    lacking.plan = this.#plan!.digest
    touched()
    this.onChange()
  }

  /** Bytes of content of this device's groups that are here: looked up in turns, at most a hundredth of the time. */
  get heldBytes(): number {
    this.#measure()
    return this.#held
  }

  #measure(): void {
    const { chunks, timers } = this.#p
    const plan = this.#plan
    if (!plan || this.#isMeasuring || timers.nowMs() < this.#measureAtMs) return
    this.#isMeasuring = true
    const laying = this.#laying
    let bytes = 0
    let tookMs = 0
    const slice = (from: number): void => {
      if (laying !== this.#laying) {
        this.#isMeasuring = false
        return
      }
      const startMs = timers.nowMs()
      const found = chunks.scan(from, SLICE_ROWS)
      for (const { id, len, seg, refs } of found) if (seg !== ELSEWHERE && refs > 0 && plan.isMine(id)) bytes += len
      tookMs += timers.nowMs() - startMs
      if (found.length === SLICE_ROWS) return void timers.soon(() => slice(found[found.length - 1]!.num))
      this.#held = bytes
      this.#isMeasuring = false
      this.#measureAtMs = timers.nowMs() + Math.max(MEASURE_MS, tookMs * 100)
    }
    slice(0)
  }

  /** Nothing more is done. */
  close(): void {
    this.#laying++
    this.#waiting?.()
    this.#p.chunks.keeping = null
  }
}
