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
import { keyOf, type Peer } from './messages.js'

const NO_PLAN = Buffer.alloc(32)
/** For an answer about chunks: longer than custody.ts waits for one. */
const CLAIM_MS = 40_000

/** A proof counts so long. Less than the time for which a device that turns to a cache waits (GRACE_MS in lib/cache.ts). */
export const FRESH_MS = 60_000
/** Proofs that are remembered: 8 GiB of chunks. */
const MAX_FRESH = 65_536
/** Chunks in question at a time, each with our own copy in memory. */
const MAX_ASKING = 8

export interface ConfirmHost {
  nowMs(): number
  after(ms: number, f: () => void): () => void
  /** Enrolled in the drive: who merely holds a weaker key is served and counts for nothing. */
  isMember(peer: Peer): boolean
  /** Our own copy, right to the bit; undefined: it cannot be read. */
  read(id: Buffer): Promise<Buffer | undefined>
  /** Ends in one call of `answered`. */
  challenge(peer: Peer, id: Buffer, nonce: Buffer): void
  /** The answers come to `said`. */
  ask(peer: Peer, ids: Buffer[]): void
  plan(): Plan | null
  /** A proof counts so long; absent: FRESH_MS. */
  freshMs?: number
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
  readonly #claims = new Map<string, (isHeld: boolean) => void>()
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

  /** A peer has answered which chunks it holds, or told of new ones. */
  said(peer: Peer, ids: Buffer[], isHeld: boolean): void {
    if (this.#claims.size === 0) return
    for (const id of ids) {
      const key = peer + keyOf(id)
      const settle = this.#claims.get(key)
      this.#claims.delete(key)
      settle?.(isHeld)
    }
  }

  /** It gave a chunk, and it was the right one. */
  gave(peer: Peer, id: Buffer): void {
    this.#note(peer, id)
  }

  /**
   * In the order of `chunks`. Never rejects. Who counts knows all that this device has written until now (else it may
   * be about to drop what we have just named again), and says after that that it has the chunk. By a plan that are all its holders, and one has to show it; else
   * `copies` of those who keep everything, and each.
   */
  async confirm(chunks: { id: Buffer }[], copies: number): Promise<boolean[]> {
    const plan = this.#host.plan()
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
    const wanted = new Map<Peer, Buffer[]>()
    const counts = (peer: Peer, id: Buffer) => peer !== self && isCaughtUp(peer) && this.keeps(peer, id)
    const asked = chunks.map(({ id }) => {
      const all = plan ? plan.holdersOf(id) : [...this.#peers.keys()].filter((peer) => counts(peer, id))
      if (plan ? all.length === 0 || !all.every((peer) => counts(peer, id)) : all.length < copies) return []
      for (const peer of all) {
        const ids = wanted.get(peer)
        if (ids) ids.push(id)
        else wanted.set(peer, [id])
      }
      return all
    })
    const claims = new Map<string, Promise<boolean>>()
    for (const [peer, ids] of wanted) {
      for (const id of ids) claims.set(peer + keyOf(id), this.#claim(peer, id))
      this.#host.ask(peer, ids)
    }
    return Promise.all(asked.map(async (all, i) => {
      const said = await Promise.all(all.map((peer) => claims.get(peer + keyOf(chunks[i]!.id))!))
      const by = all.filter((_, n) => said[n])
      return (plan ? by.length === all.length : by.length >= copies) ? by : []
    }))
  }

  #claim(peer: Peer, id: Buffer): Promise<boolean> {
    const key = peer + keyOf(id)
    return new Promise((resolve) => {
      // Asked by two at once, or not answered: nothing goes, and is asked again later.
      if (this.#claims.has(key) || this.#isClosed) return resolve(false)
      const cancel = this.#host.after(CLAIM_MS, () => this.said(peer, [id], false))
      this.#claims.set(key, (isHeld) => {
        cancel()
        resolve(isHeld)
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
    for (const settle of this.#claims.values()) settle(false)
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

/** The answer to a challenge. */
export function proofOf(nonce: Buffer, sealed: Buffer): Buffer {
  return new blake.Blake3Hasher().update(nonce).update(sealed).digestBuffer()
}
