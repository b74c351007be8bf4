/**
 * The chunks that are wanted here: who waits for them, whom they were asked of,
 * who does not have them. Part of ChunkExchange.
 *
 * Invariant: a want is in exactly one place: `waiting` (may be asked for now),
 * `parked` (nobody who is connected can give it, as far as is known), asked of
 * one or two peers, or being verified.
 */
import { URGENCIES, keyOf, type Peer, type Urgency } from './messages.js'

/** 0 is the most urgent. */
export type Rank = 0 | 1 | 2 | 3
export const RANK: Record<Urgency, Rank> = { reader: 0, ahead: 1, pin: 2, background: 3 }

/** `likelyBytes`: what it counts for in the peer's queue; the room kept for it is the want's. */
export interface Ask { sentMs: number; dueMs: number; likelyBytes: number }

export interface Want {
  readonly id: Buffer
  readonly key: string
  rank: Rank
  /** Infinity: none. */
  deadlineMs: number
  /** Room to keep for it: its length if that is known, the longest otherwise. */
  readonly roomBytes: number
  readonly isLengthKnown: boolean
  state: 'waiting' | 'parked' | 'asked' | 'verifying'
  /** Of what came for it and is being verified. */
  token: number | undefined
  readonly asks: Map<Peer, Ask>
  /** Not asked before then: it said that it has it not, or was too slow. */
  readonly notBefore: Map<Peer, number>
  /** Known, or supposed, to hold it. */
  readonly holders: Set<Peer>
}

export class Wants {
  readonly #all = new Map<string, Want>()
  /** By rank, in the order in which they came. */
  readonly waiting: Map<string, Want>[] = URGENCIES.map(() => new Map())
  readonly parked = new Map<string, Want>()
  readonly counts = [0, 0, 0, 0]

  get size(): number { return this.#all.size }
  all(): Iterable<Want> { return this.#all.values() }

  get(id: Buffer): Want | undefined {
    return this.#all.get(keyOf(id))
  }

  add(id: Buffer, rank: Rank, deadlineMs: number, roomBytes: number, isLengthKnown: boolean): Want {
    const want: Want = {
      id, key: keyOf(id), rank, deadlineMs, roomBytes, isLengthKnown, state: 'waiting', token: undefined,
      asks: new Map(), notBefore: new Map(), holders: new Set(),
    }
    this.#all.set(want.key, want)
    this.counts[rank]!++
    this.waiting[rank]!.set(want.key, want)
    return want
  }

  setRank(want: Want, rank: Rank): void {
    this.counts[want.rank]!--
    this.counts[rank]!++
    if (this.waiting[want.rank]!.delete(want.key)) this.waiting[rank]!.set(want.key, want)
    want.rank = rank
  }

  move(want: Want, state: Want['state']): void {
    if (want.state === state) return
    this.waiting[want.rank]!.delete(want.key)
    this.parked.delete(want.key)
    want.state = state
    if (state === 'waiting') this.waiting[want.rank]!.set(want.key, want)
    else if (state === 'parked') this.parked.set(want.key, want)
  }

  remove(want: Want): void {
    this.move(want, 'asked')
    this.#all.delete(want.key)
    this.counts[want.rank]!--
  }

  /** Somebody new may have them. */
  unpark(): void {
    for (const want of [...this.parked.values()]) this.move(want, 'waiting')
  }
}
