/**
 * The end of the order: which entries come when, and what each had seen.
 *
 * An entry's key is the time that its device stated, but always above every key
 * in its context, and at most a day above the greatest of them: from the log
 * alone, so that all devices agree and a clock in 2099 wins a day, not for ever.
 * Entries are ordered by key, then by the id of the incarnation.
 *
 * Invariants:
 * - `tail` is sorted; everything before it is final: every member has stated to
 *   have it, so that whatever comes yet has a greater key;
 * - the entries of one incarnation stand in the order of their seq.
 */
import type { Place, PlacedEntry } from '../../log/placed.js'
import type { View } from '../../tree/merge.js'
import { INO_HIGH } from '../../log/ops.js'
import type { Vector } from '../../log/vector.js'

/** How far ahead of what it has seen a device's clock is believed. */
export const MAX_AHEAD_MS = 86_400_000

export class Timeline {
  readonly tail: PlacedEntry[] = []
  /** The same, of each incarnation, by seq. */
  readonly #byInc = new Map<number, PlacedEntry[]>()
  /** Op counters of an incarnation below this are final. */
  readonly #finalOps = new Map<number, number>()
  /** Greatest key of what is final. */
  baseKey: number

  constructor(baseKey: number) {
    this.baseKey = baseKey
  }

  setFinalOps(inc: number, op: number): void { this.#finalOps.set(inc, op) }
  finalOps(inc: number): number { return this.#finalOps.get(inc) ?? 1 }

  /** The key of an entry made at `clockMs` by a device that had seen `context`. */
  keyOf(clockMs: number, context: Vector): number {
    let greatest = this.baseKey
    for (const [inc, seq] of context) {
      const e = this.find(inc, seq)
      if (e && e.key > greatest) greatest = e.key
    }
    if (greatest === 0) return Math.max(1, clockMs)
    return Math.max(greatest + 1, Math.min(clockMs, greatest + MAX_AHEAD_MS))
  }

  /** The entry with this seq; undefined if it is final or unknown. */
  find(inc: number, seq: number): PlacedEntry | undefined {
    const list = this.#byInc.get(inc)
    if (!list || list.length === 0) return undefined
    // No gaps.
    return list[seq - list[0]!.seq]
  }

  /** The first that is not final. */
  first(inc: number): PlacedEntry | undefined {
    return this.#byInc.get(inc)?.[0]
  }

  /** Those with entries in the tail. */
  incarnations(): IterableIterator<number> { return this.#byInc.keys() }

  /** The first entry of an incarnation with ops at `index` of the tail or behind it. */
  firstFrom(inc: number, index: number): PlacedEntry | undefined {
    const at = this.tail[index]
    const list = this.#byInc.get(inc)
    if (!at || !list) return undefined
    let lo = 0
    let hi = list.length
    while (lo < hi) {
      const mid = (lo + hi) >>> 1
      if (compare(list[mid]!, at) >= 0) hi = mid
      else lo = mid + 1
    }
    while (lo < list.length && list[lo]!.count === 0) lo++
    return list[lo]
  }

  /** The entry that holds the op; undefined if it is final or unknown. */
  findOp(op: number): PlacedEntry | undefined {
    const list = this.#byInc.get(Math.floor(op / INO_HIGH))
    if (!list) return undefined
    const counter = op % INO_HIGH
    let lo = 0
    let hi = list.length
    while (lo < hi) {
      const mid = (lo + hi) >>> 1
      if (list[mid]!.first + list[mid]!.count > counter) hi = mid
      else lo = mid + 1
    }
    const e = list[lo]
    return e && e.first <= counter ? e : undefined
  }

  /** Index in `tail` of the first entry that comes after `place`. */
  after(place: Place): number {
    let lo = 0
    let hi = this.tail.length
    while (lo < hi) {
      const mid = (lo + hi) >>> 1
      if (compare(this.tail[mid]!, place) > 0) hi = mid
      else lo = mid + 1
    }
    return lo
  }

  insert(e: PlacedEntry): void {
    const i = this.after(e)
    if (i === this.tail.length) this.tail.push(e)
    else this.tail.splice(i, 0, e)
    this.#link(e)
  }

  /** Holds these instead, which are sorted. */
  fill(entries: PlacedEntry[]): void {
    this.tail.length = 0
    this.#byInc.clear()
    for (const e of entries) {
      this.tail.push(e)
      this.#link(e)
    }
  }

  /** Takes the first `n` out: they are final. */
  settle(n: number): PlacedEntry[] {
    const gone = this.tail.splice(0, n)
    const counts = new Map<number, number>()
    for (const e of gone) {
      counts.set(e.inc, (counts.get(e.inc) ?? 0) + 1)
      this.#finalOps.set(e.inc, e.first + e.count)
      this.baseKey = Math.max(this.baseKey, e.key)
    }
    for (const [inc, count] of counts) {
      const list = this.#byInc.get(inc)!
      list.splice(0, count)
      if (list.length === 0) this.#byInc.delete(inc)
    }
    return gone
  }

  #link(e: PlacedEntry): void {
    const list = this.#byInc.get(e.inc)
    if (!list) this.#byInc.set(e.inc, [e])
    else {
      if (list[list.length - 1]!.seq !== e.seq - 1) throw new Error(`invariant: entry ${e.seq} of incarnation ${e.inc} after ${list[list.length - 1]!.seq}`)
      list.push(e)
    }
  }

  /** What the device of an entry with `context` had seen when it made its ops; its own are always among it. */
  view(inc: number, context: Vector): View {
    return {
      sees: (op) => {
        if (op === 0) return true
        const of = Math.floor(op / INO_HIGH)
        if (of === inc) return true
        const counter = op % INO_HIGH
        if (counter < this.finalOps(of)) return true
        const seq = context.get(of)
        const e = seq === undefined ? undefined : this.find(of, seq)
        return e !== undefined && counter < e.first + e.count
      },
    }
  }
}

export function compare(a: Place, b: Place): number {
  return a.key - b.key || Buffer.compare(a.id, b.id)
}
