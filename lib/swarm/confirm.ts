/**
 * Whether others hold a chunk, before it goes here: who keeps everything and has
 * just shown that it has this one, by giving it or by BLAKE3(nonce || sealed) with a nonce that is new.
 * The host says what our own copy is; custody.ts carries the question.
 *
 * Who keeps a cache is not counted on: two of them could count on each other and
 * both let go. What was shown counts for FRESH_MS, and only while its giver is connected.
 */
import blake from '@napi-rs/blake-hash'
import { randomBytes } from 'node:crypto'
import { keyOf, type Peer } from './messages.js'

/** A proof counts so long. Less than the time for which a device that turns to a cache waits (GRACE_MS in lib/cache.ts). */
export const FRESH_MS = 60_000
/** Proofs that are remembered: 8 GiB of chunks. */
const MAX_FRESH = 65_536
/** Chunks in question at a time, each with our own copy in memory. */
const MAX_ASKING = 8

export interface ConfirmHost {
  nowMs(): number
  /** Enrolled in the drive: who merely holds a weaker key is served and counts for nothing. */
  isMember(peer: Peer): boolean
  /** Our own copy, right to the bit; undefined: it cannot be read. */
  read(id: Buffer): Promise<Buffer | undefined>
  /** Ends in one call of `answered`. */
  challenge(peer: Peer, id: Buffer, nonce: Buffer): void
}

export class Confirmer {
  readonly #host: ConfirmHost
  /** Connected, and whether they keep everything. */
  readonly #peers = new Map<Peer, boolean>()
  readonly #fresh = new Map<string, Map<Peer, number>>()
  readonly #asked = new Map<string, (mac: Buffer | undefined) => void>()
  #isClosed = false

  constructor(host: ConfirmHost) {
    this.#host = host
  }

  peerUp(peer: Peer): void { this.#peers.set(peer, false) }

  peerDown(peer: Peer): void {
    this.#peers.delete(peer)
    for (const [key, shown] of this.#fresh) if (shown.delete(peer) && shown.size === 0) this.#fresh.delete(key)
  }

  status(peer: Peer, keepsEverything: boolean): void {
    if (this.#peers.has(peer)) this.#peers.set(peer, keepsEverything)
  }

  /** It gave a chunk, and it was the right one. */
  gave(peer: Peer, id: Buffer): void {
    this.#note(peer, id)
  }

  /** In the order of `chunks`. Never rejects. */
  async confirm(chunks: { id: Buffer }[], copies: number): Promise<boolean[]> {
    const out: boolean[] = new Array<boolean>(chunks.length).fill(false)
    let next = 0
    const run = async () => {
      for (let i = next++; i < chunks.length && !this.#isClosed; i = next++) out[i] = await this.#one(chunks[i]!.id, copies).catch(() => false)
    }
    await Promise.all(Array.from({ length: Math.min(MAX_ASKING, chunks.length) }, run))
    return out
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
    for (const settle of this.#asked.values()) settle(undefined)
    this.#asked.clear()
  }

  async #one(id: Buffer, copies: number): Promise<boolean> {
    const shown = new Set(this.#freshOf(id))
    if (shown.size >= copies) return true
    const others = [...this.#peers].filter(([peer, keeps]) => keeps && !shown.has(peer) && this.#host.isMember(peer)).map(([peer]) => peer)
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
    return [...this.#fresh.get(keyOf(id)) ?? []].filter(([peer, atMs]) => atMs >= sinceMs && this.#peers.get(peer) === true && this.#host.isMember(peer)).map(([peer]) => peer)
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
