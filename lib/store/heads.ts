import type { SegmentStore } from './segments.js'

/** Number of the first segment that appends may go to from now on. */
export function lowestHead(store: SegmentStore): number {
  let lowest = Infinity
  let last = 0
  for (const n of store.usage().keys()) {
    if (store.isHead(n) && n < lowest) lowest = n
    if (n > last) last = n
  }
  return Math.min(lowest, last + 1)
}
