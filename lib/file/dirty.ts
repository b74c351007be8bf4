/**
 * Which bytes of a file are newer than the tree, and where they lie.
 *
 * Invariant: `ranges` is sorted by offset and nothing overlaps. A range with
 * slab null is a hole that was punched. A range whose `flush` is set is on its
 * way into the store: its bytes must not change any more; newer writes replace
 * the range instead.
 */
import type { Slab, SlabPool } from './slab.js'

export interface DirtyRange<F = object> {
  off: number
  len: number
  slab: Slab | null
  pos: number
  flush: F | null
}

export class DirtyMap<F = object> {
  readonly ranges: DirtyRange<F>[] = []
  readonly #pool: SlabPool
  /** Bytes in ranges with memory. */
  bytes = 0
  /** Bytes and ranges that no flush has taken yet. */
  freshBytes = 0
  fresh = 0

  constructor(pool: SlabPool) {
    this.#pool = pool
  }

  /** Index of the first range that ends after `off`. */
  at(off: number): number {
    const r = this.ranges
    // Appends and sequential readers ask for the end.
    if (r.length === 0 || r[r.length - 1]!.off + r[r.length - 1]!.len <= off) return r.length
    let lo = 0
    let hi = r.length - 1
    while (lo < hi) {
      const mid = (lo + hi) >>> 1
      if (r[mid]!.off + r[mid]!.len > off) hi = mid
      else lo = mid + 1
    }
    return lo
  }

  /** Adds a range where nothing is (after `carve`); takes over one reference of the slab. */
  insert(range: DirtyRange<F>): void {
    const i = this.at(range.off)
    if (i === this.ranges.length) this.ranges.push(range)
    else this.ranges.splice(i, 0, range)
    this.#count(range, 1)
  }

  /** `range` (fresh, the last in its slab) has grown in place. */
  grown(range: DirtyRange<F>, by: number): void {
    range.len += by
    this.bytes += by
    this.freshBytes += by
  }

  /** Removes [from, to). */
  carve(from: number, to: number): void {
    let i = this.at(from)
    while (i < this.ranges.length && this.ranges[i]!.off < to) {
      const r = this.ranges[i]!
      const end = r.off + r.len
      if (r.off < from && end > to) {
        // Split in two.
        this.#count(r, -1)
        const right: DirtyRange<F> = { off: to, len: end - to, slab: r.slab, pos: r.pos + (to - r.off), flush: r.flush }
        r.len = from - r.off
        if (r.slab) r.slab.refs++
        this.#count(r, 1)
        this.ranges.splice(i + 1, 0, right)
        this.#count(right, 1)
        return
      }
      this.#count(r, -1)
      if (r.off < from) {
        r.len = from - r.off
        this.#count(r, 1)
        i++
      } else if (end > to) {
        const cut = to - r.off
        r.off += cut
        r.pos += cut
        r.len -= cut
        this.#count(r, 1)
        return
      } else {
        let n = 1
        // Whole ranges go in one splice.
        while (i + n < this.ranges.length && this.ranges[i + n]!.off + this.ranges[i + n]!.len <= to) {
          this.#count(this.ranges[i + n]!, -1)
          n++
        }
        for (let k = i; k < i + n; k++) this.#drop(this.ranges[k]!)
        this.ranges.splice(i, n)
      }
    }
  }

  /** Removes every range that `flush` carried into the store. */
  settle(flush: F): void {
    let kept = 0
    for (const r of this.ranges) {
      if (r.flush === flush) {
        this.#count(r, -1)
        this.#drop(r)
      } else {
        this.ranges[kept++] = r
      }
    }
    this.ranges.length = kept
  }

  /** `flush` takes all fresh ranges; gives them as they are now. Each slab gets a reference for the flush. */
  claim(flush: F): DirtyRange<F>[] {
    const taken: DirtyRange<F>[] = []
    for (const r of this.ranges) {
      if (r.flush !== null) continue
      r.flush = flush
      if (r.slab) r.slab.refs++
      taken.push({ ...r })
    }
    this.freshBytes = 0
    this.fresh = 0
    return taken
  }

  /** `flush` failed: what is left of its ranges is fresh again. */
  unclaim(flush: F): void {
    for (const r of this.ranges) {
      if (r.flush !== flush) continue
      r.flush = null
      this.fresh++
      if (r.slab) this.freshBytes += r.len
    }
  }

  #drop(r: DirtyRange<F>): void {
    if (r.slab) this.#pool.release(r.slab)
  }

  #count(r: DirtyRange<F>, sign: number): void {
    if (r.slab) this.bytes += sign * r.len
    if (r.flush !== null) return
    this.fresh += sign
    if (r.slab) this.freshBytes += sign * r.len
  }
}
