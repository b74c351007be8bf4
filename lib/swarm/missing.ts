/**
 * What this device should have and has not, a few at a time: damaged chunks, then
 * what is pinned, then its share by the plan, or, where everything is kept, the rest.
 */
import { sealedLength } from '../seal/chunk.js'
import type { WantedChunk } from './exchange.js'
import type { SwarmHost } from './host.js'

export class Missing {
  readonly #drive: Pick<SwarmHost, 'chunks' | 'cache' | 'keeping'>
  /** Damaged ones that are to be named next. */
  #damaged: number[] = []
  /** Of what is named: damaged, pinned, the rest from `#cursor` on. */
  #stage = 0
  #cursor = 0

  constructor(drive: Pick<SwarmHost, 'chunks' | 'cache' | 'keeping'>) {
    this.#drive = drive
  }

  /** A chunk that is here was found damaged. */
  damaged(num: number): void { this.#damaged.push(num) }

  /** [] at the end of all. */
  next(limit: number): WantedChunk[] {
    const damaged = this.#nextDamaged(limit)
    if (damaged.length > 0) return damaged
    for (; this.#stage < 3; this.#stage++) {
      const found = this.#next(limit)
      if (found.length > 0) return found
    }
    this.#stage = 0
    return []
  }

  /** Of those that something names: the rest goes with gc. */
  #nextDamaged(limit: number): WantedChunk[] {
    const { chunks } = this.#drive
    const out: WantedChunk[] = []
    while (this.#damaged.length > 0 && out.length < limit) {
      const num = this.#damaged.pop()!
      const known = chunks.bad.has(num) ? chunks.identity(num) : undefined
      if (known && known.refs > 0) out.push(wanted(known))
    }
    return out
  }

  #next(limit: number): WantedChunk[] {
    const { chunks, cache, keeping } = this.#drive
    if (this.#stage === 0) {
      this.#stage = 1
      this.#damaged = [...chunks.bad]
      const damaged = this.#nextDamaged(limit)
      if (damaged.length > 0) return damaged
    }
    if (this.#stage === 1) return (cache?.pins?.missing(limit) ?? []).map((c) => ({ ...wanted(c), isPinned: true }))
    if (keeping?.plan) return cache?.isFull ? [] : keeping.next(limit).map(wanted)
    while (cache?.keepsEverything ?? true) {
      const rows = chunks.elsewhere(this.#cursor, limit)
      this.#cursor = rows.length > 0 ? rows[rows.length - 1]!.num : 0
      const live = rows.filter((r) => r.refs > 0)
      if (rows.length === 0 || live.length > 0) return live.map(wanted)
    }
    return []
  }
}

function wanted({ id, len }: { id: Buffer; len: number }): WantedChunk {
  return { id, sealedBytes: sealedLength(len) }
}
