/** Segments that something under way may have written to, and has not named in the index yet: compaction leaves them alone. */
import { lowestHead } from './heads.js'
import type { SegmentStore } from './segments.js'

export class InUse {
  readonly #store: SegmentStore
  readonly #jobs = new Set<{ segment: number }>()
  #waiting: (() => void)[] = []

  constructor(store: SegmentStore) {
    this.#store = store
  }

  /** Call what it gives when all that was written from here on is named, or never will be. */
  begin(): () => void {
    const job = { segment: lowestHead(this.#store) }
    this.#jobs.add(job)
    return () => {
      this.#jobs.delete(job)
      for (const go of this.#waiting.splice(0)) go()
    }
  }

  firstSegment(): number {
    let first = Infinity
    for (const job of this.#jobs) first = Math.min(first, job.segment)
    return first
  }

  async passed(last: number): Promise<void> {
    while (this.firstSegment() <= last) await new Promise<void>((resolve) => { this.#waiting.push(resolve) })
  }
}
