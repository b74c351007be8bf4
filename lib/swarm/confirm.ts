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
}

/** What a peer says that it holds on to: everything, or what this plan gives to it. */
interface Kept { keepsEverything: boolean; plan: Buffer }

export class Confirmer {
  readonly #host: ConfirmHost
  /** Connected, and what they keep. */
  readonly #peers = new Map<Peer, Kept>()
  readonly #fresh = new Map<string, Map<Peer, number>>()
  readonly #asked = new Map<string, (mac: Buffer | undefined) => void>()
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

  /** In the order of `chunks`. Never rejects. By a plan: of each that all its holders say that they have it, and one has shown it. */
  async confirm(chunks: { id: Buffer }[], copies: number): Promise<boolean[]> {
    const plan = this.#host.plan()
    if (!plan) return this.#prove(chunks, copies)
    const said = await this.#claimed(chunks, plan)
    const asked = chunks.filter((_, i) => said[i])
    const proven = await this.#prove(asked, copies)
    // By another plan they need not keep it.
    if (this.#host.plan() !== plan) return chunks.map(() => false)
    return chunks.map((c) => proven[asked.indexOf(c)] ?? false)
  }

  /** Whether all who are to hold a chunk by the plan, which they have too, say that they do. */
  async #claimed(chunks: { id: Buffer }[], plan: Plan): Promise<boolean[]> {
    const self = plan.peers[plan.self]
    const wanted = new Map<Peer, Buffer[]>()
    const counts = (peer: Peer) => this.#host.isMember(peer) && this.#peers.get(peer)?.plan.equals(plan.digest) === true
    const holders = chunks.map(({ id }) => {
      const all = plan.holdersOf(id)
      if (all.length === 0 || all.some((peer) => peer === self || !counts(peer))) return []
      for (const peer of all) wanted.set(peer, [...wanted.get(peer) ?? [], id])
      return all
    })
    const claims = new Map<string, Promise<boolean>>()
    for (const [peer, ids] of wanted) {
      for (const id of ids) claims.set(peer + keyOf(id), this.#claim(peer, id))
      this.#host.ask(peer, ids)
    }
    return Promise.all(holders.map(async (all, i) => {
      if (all.length === 0) return false
      const said = await Promise.all(all.map((peer) => claims.get(peer + keyOf(chunks[i]!.id))!))
      return said.every(Boolean)
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

  async #prove(chunks: { id: Buffer }[], copies: number): Promise<boolean[]> {
    const out: boolean[] = new Array<boolean>(chunks.length).fill(false)
    let next = 0
    const run = async () => {
      for (let i = next++; i < chunks.length && !this.#isClosed; i = next++) out[i] = await this.#one(chunks[i]!.id, copies).catch(() => false)
    }
    await Promise.all(Array.from({ length: Math.min(MAX_ASKING, chunks.length) }, run))
    return out
  }

  /** Whether it shows that it has a chunk; undefined: it has gone meanwhile, or our own copy cannot be read. */
  async audit(peer: Peer, id: Buffer): Promise<boolean | undefined> {
    const own = await this.#host.read(id)
    if (!own || !this.#peers.has(peer) || this.#asked.has(peer + keyOf(id))) return undefined
    const isShown = await this.#challenge(peer, id, own)
    return this.#peers.has(peer) && !this.#isClosed ? isShown : undefined
  }

  /** What came of a challenge; undefined: nothing, or it has not the chunk. */
  answered(peer: Peer, id: Buffer, mac: Buffer | undefined): void {
    const key = peer + keyOf(id)
    const settle = this.#asked.get(key)
    this.#asked.delete(key)
    settle?.(mac)
  }

  close(): void {
    this.#isClosed = true
    for (const settle of this.#claims.values()) settle(false)
    this.#claims.clear()
    for (const settle of this.#asked.values()) settle(undefined)
    this.#asked.clear()
  }

  async #one(id: Buffer, copies: number): Promise<boolean> {
    const shown = new Set(this.#freshOf(id))
    if (shown.size >= copies) return true
    const others = [...this.#peers.keys()].filter((peer) => !shown.has(peer) && this.keeps(peer, id))
    if (shown.size + others.length < copies) return false
    const own = await this.#host.read(id)
    if (!own) return false
    for (const peer of others) {
      if (this.#isClosed) return false
      if (await this.#challenge(peer, id, own)) this.#note(peer, id)
      // Who has gone or changed its mind meanwhile does not count.
      if (this.#freshOf(id).length >= copies) return true
    }
    return false
  }

  async #challenge(peer: Peer, id: Buffer, own: Buffer): Promise<boolean> {
    const key = peer + keyOf(id)
    if (this.#asked.has(key)) return false
    const nonce = randomBytes(32)
    const mac = await new Promise<Buffer | undefined>((resolve) => {
      this.#asked.set(key, resolve)
      this.#host.challenge(peer, id, nonce)
    })
    return mac !== undefined && mac.equals(proofOf(nonce, own))
  }

  #freshOf(id: Buffer): Peer[] {
    const sinceMs = this.#host.nowMs() - FRESH_MS
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
