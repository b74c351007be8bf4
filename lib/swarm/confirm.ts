/**
 * Whether others hold a chunk, before it goes here: who keeps everything, or is to hold it by the plan that both know,
 * and has just shown that it has it, by giving it or by BLAKE3(nonce || sealed) with a nonce that is new.
 * The host says what our own copy is; custody.ts carries the question.
 *
 * Who keeps a cache is not counted on: two of them could count on each other and
 * both let go. What was shown counts for FRESH_MS, and only while its giver is connected.
 */
import blake from '@napi-rs/blake-hash'
import { randomBytes } from 'node:crypto'
import type { Plan } from '../placement/plan.js'
import type { FactorTable } from '../store/factor-table.js'
import { keyOf, type Peer } from './messages.js'

const NO_PLAN = Buffer.alloc(32)
/** For an answer about chunks: longer than custody.ts waits for one. */
const CLAIM_MS = 40_000

/** A proof counts so long. Less than the time for which a device that turns to a cache waits (GRACE_MS in lib/cache.ts). */
export const FRESH_MS = 60_000
/** Proofs that are remembered: 8 GiB of chunks. */
const MAX_FRESH = 65_536
/** Chunks in question at a time, each with our own copy in memory. */
const MAX_ASKING = 16

export interface ConfirmHost {
  nowMs(): number
  after(ms: number, f: () => void): () => void
  /** Enrolled in the drive: who merely holds a weaker key is served and counts for nothing. */
  isMember(peer: Peer): boolean
  /** Our own copy, right to the bit; undefined: it cannot be read. */
  read(id: Buffer): Promise<Buffer | undefined>
  /** Ends in one call of `answered`. */
  challenge(peer: Peer, id: Buffer, nonce: Buffer): void
  /** `copies`: whether it holds them as one of so many; 0: at all. The answers come to `said`. */
  ask(peer: Peer, ids: Buffer[], copies: number): void
  plan(): Plan | null
  /** A proof counts so long; absent: FRESH_MS. */
  freshMs?: number
  /** Notes chunks of which there are to be more or fewer copies from now on; absent: that does not happen. */
  watch(): ReturnType<FactorTable['watch']> | undefined
  /** Makes known what this device has written so far, and waits a while for those who have all of it. */
  caughtUp(): Promise<(peer: Peer) => boolean>
}

/** What came of a challenge: the proof, or none. */
type Answer = Buffer | 'refused' | 'silent'
export type Audited = 'shown' | 'refused' | 'silent'

/** What a peer says that it holds on to: everything, or what this plan gives to it. */
interface Kept { keepsEverything: boolean; plan: Buffer }

export class Confirmer {
  readonly #host: ConfirmHost
  /** Connected, and what they keep. */
  readonly #peers = new Map<Peer, Kept>()
  readonly #fresh = new Map<string, Map<Peer, number>>()
  readonly #asked = new Map<string, (answer: Answer) => void>()
  /** By peer and chunk. */
  readonly #claims = new Map<string, { copies: number; end: (isHeld: boolean) => void }>()
  #isClosed = false

  constructor(host: ConfirmHost) {
    this.#host = host
  }

  peerUp(peer: Peer): void { this.#peers.set(peer, { keepsEverything: false, plan: NO_PLAN }) }

  peerDown(peer: Peer): void {
    this.#peers.delete(peer)
    for (const [key, shown] of this.#fresh) if (shown.delete(peer) && shown.size === 0) this.#fresh.delete(key)
  }

  status(peer: Peer, keepsEverything: boolean, plan: Buffer): void {
    if (this.#peers.has(peer)) this.#peers.set(peer, { keepsEverything, plan })
  }

  /** A peer has answered that it holds chunks, as one of so many if it was asked for that, or told of new ones (0); or that it does not. */
  said(peer: Peer, ids: Buffer[], copies: number | 'none'): void {
    if (this.#claims.size === 0) return
    for (const id of ids) {
      const key = peer + keyOf(id)
      const claim = this.#claims.get(key)
      if (!claim || (copies !== 'none' && copies !== claim.copies)) continue
      this.#claims.delete(key)
      claim.end(copies !== 'none')
    }
  }

  /** It gave a chunk, and it was the right one. */
  gave(peer: Peer, id: Buffer): void {
    this.#note(peer, id)
  }

  /**
   * In the order of `chunks`. Never rejects. Who counts knows all that this device has written until now (else it may
   * be about to drop what we have just named again), and says after that that it has the chunk. By a plan that are all its holders, who think of it as
   * one of as many copies as this device does, and one has to show it; else `copies` of those who keep everything, and each.
   */
  async confirm(chunks: { id: Buffer }[], copies: number): Promise<boolean[]> {
    const plan = this.#host.plan()
    const watch = this.#host.watch()
    try {
      const confirmed = await this.#confirmed(chunks, copies, plan)
      return chunks.map(({ id }, i) => confirmed[i]! && !watch?.changed.has(id.toString('latin1')))
    } finally {
      watch?.stop()
    }
  }

  async #confirmed(chunks: { id: Buffer }[], copies: number, plan: Plan | null): Promise<boolean[]> {
    const isCaughtUp = await this.#host.caughtUp()
    const said = await this.#claimed(chunks, copies, plan, isCaughtUp)
    const asked = chunks.flatMap(({ id }, i) => (said[i]!.length > 0 ? [{ id, by: said[i]! }] : []))
    const proven = await this.#prove(asked, copies)
    // By another plan they need not keep it.
    if (this.#host.plan() !== plan) return chunks.map(() => false)
    let next = 0
    return chunks.map((_, i) => (said[i]!.length > 0 ? proven[next++]! : false))
  }

  /** Of each chunk who says to have it, if those are enough; else []. */
  async #claimed(chunks: { id: Buffer }[], copies: number, plan: Plan | null, isCaughtUp: (peer: Peer) => boolean): Promise<Peer[][]> {
    const self = plan?.peers[plan.self]
    const wanted = new Map<Peer, Map<number, Buffer[]>>()
    const counts = (peer: Peer, id: Buffer) => peer !== self && isCaughtUp(peer) && this.keeps(peer, id)
    const asked = chunks.map(({ id }) => {
      const all = plan ? plan.holdersOf(id) : [...this.#peers.keys()].filter((peer) => counts(peer, id))
      if (plan ? all.length === 0 || !all.every((peer) => counts(peer, id)) : all.length < copies) return []
      const as = copiesAs(plan, id)
      for (const peer of all) {
        const byCopies = wanted.get(peer) ?? new Map<number, Buffer[]>()
        const ids = byCopies.get(as) ?? []
        ids.push(id)
        wanted.set(peer, byCopies.set(as, ids))
      }
      return all
    })
    const claims = new Map<string, Promise<boolean>>()
    for (const [peer, byCopies] of wanted) {
      for (const [as, ids] of byCopies) {
        for (const id of ids) claims.set(peer + keyOf(id), this.#claim(peer, id, as))
        this.#host.ask(peer, ids, as)
      }
    }
    return Promise.all(asked.map(async (all, i) => {
      const said = await Promise.all(all.map((peer) => claims.get(peer + keyOf(chunks[i]!.id))!))
      const by = all.filter((_, n) => said[n])
      return (plan ? by.length === all.length : by.length >= copies) ? by : []
    }))
  }

  #claim(peer: Peer, id: Buffer, copies: number): Promise<boolean> {
    const key = peer + keyOf(id)
    return new Promise((resolve) => {
      // Asked by two at once, or not answered: nothing goes, and is asked again later.
      if (this.#claims.has(key) || this.#isClosed) return resolve(false)
      const cancel = this.#host.after(CLAIM_MS, () => this.said(peer, [id], 'none'))
      this.#claims.set(key, {
        copies,
        end: (isHeld) => {
          cancel()
          resolve(isHeld)
        },
      })
    })
  }

  async #prove(chunks: { id: Buffer; by: Peer[] }[], copies: number): Promise<boolean[]> {
    const out: boolean[] = new Array<boolean>(chunks.length).fill(false)
    let next = 0
    const run = async () => {
      for (let i = next++; i < chunks.length && !this.#isClosed; i = next++) out[i] = await this.#one(chunks[i]!.id, chunks[i]!.by, copies).catch(() => false)
    }
    await Promise.all(Array.from({ length: Math.min(MAX_ASKING, chunks.length) }, run))
    return out
  }

  /** Whether it shows that it has a chunk: what it shows and is wrong counts as refused; undefined: it has gone meanwhile, or our own copy cannot be read. */
  async audit(peer: Peer, id: Buffer): Promise<Audited | undefined> {
    const own = await this.#host.read(id)
    if (!own || !this.#peers.has(peer) || this.#asked.has(peer + keyOf(id))) return undefined
    const as = copiesAs(this.#host.plan(), id)
    if (as > 0) {
      // It may think of other holders yet.
      const claim = this.#claim(peer, id, as)
      this.#host.ask(peer, [id], as)
      if (!await claim || !this.#peers.has(peer)) return undefined
    }
    const audited = await this.#challenge(peer, id, own)
    return this.#peers.has(peer) && !this.#isClosed ? audited : undefined
  }

  answered(peer: Peer, id: Buffer, answer: Answer): void {
    const key = peer + keyOf(id)
    const settle = this.#asked.get(key)
    this.#asked.delete(key)
    settle?.(answer)
  }

  close(): void {
    this.#isClosed = true
    for (const { end } of this.#claims.values()) end(false)
    this.#claims.clear()
    for (const settle of this.#asked.values()) settle('silent')
    this.#asked.clear()
  }

  async #one(id: Buffer, by: Peer[], copies: number): Promise<boolean> {
    const freshOf = () => this.#freshOf(id).filter((peer) => by.includes(peer))
    const shown = new Set(freshOf())
    if (shown.size >= copies) return true
    const others = by.filter((peer) => !shown.has(peer) && this.keeps(peer, id))
    if (shown.size + others.length < copies) return false
    const own = await this.#host.read(id)
    if (!own) return false
    for (const peer of others) {
      if (this.#isClosed) return false
      if (await this.#challenge(peer, id, own) === 'shown') this.#note(peer, id)
      // Who has gone or changed its mind meanwhile does not count.
      if (freshOf().length >= copies) return true
    }
    return false
  }

  async #challenge(peer: Peer, id: Buffer, own: Buffer): Promise<Audited> {
    const key = peer + keyOf(id)
    if (this.#asked.has(key)) return 'silent'
    const nonce = randomBytes(32)
    const answer = await new Promise<Answer>((resolve) => {
      this.#asked.set(key, resolve)
      this.#host.challenge(peer, id, nonce)
    })
    if (typeof answer === 'string') return answer
    return answer.equals(proofOf(nonce, own)) ? 'shown' : 'refused'
  }

  #freshOf(id: Buffer): Peer[] {
    const sinceMs = this.#host.nowMs() - (this.#host.freshMs ?? FRESH_MS)
    return [...this.#fresh.get(keyOf(id)) ?? []].filter(([peer, atMs]) => atMs >= sinceMs && this.keeps(peer, id)).map(([peer]) => peer)
  }

  /** Whether it will not let go of the chunk by itself. */
  keeps(peer: Peer, id: Buffer): boolean {
    const kept = this.#peers.get(peer)
    if (!kept || !this.#host.isMember(peer)) return false
    if (kept.keepsEverything) return true
    const plan = this.#host.plan()
    return plan !== null && kept.plan.equals(plan.digest) && plan.holdersOf(id).includes(peer)
  }

  #note(peer: Peer, id: Buffer): void {
    const key = keyOf(id)
    const shown = this.#fresh.get(key) ?? new Map<Peer, number>()
    shown.set(peer, this.#host.nowMs())
    // The one shown last is forgotten last.
    this.#fresh.delete(key)
    this.#fresh.set(key, shown)
    if (this.#fresh.size > MAX_FRESH) this.#fresh.delete(this.#fresh.keys().next().value!)
  }
}

/** Where chunks have factors of their own, a holder is asked for the one that it knows: it is that of all copies that it counts on. */
function copiesAs(plan: Plan | null, id: Buffer): number { return plan && plan.factors.length > 1 ? plan.copiesOf(id) : 0 }

/** The answer to a challenge. */
export function proofOf(nonce: Buffer, sealed: Buffer): Buffer {
  return new blake.Blake3Hasher().update(nonce).update(sealed).digestBuffer()
}
