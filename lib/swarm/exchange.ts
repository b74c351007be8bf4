/**
 * Getting chunks from peers. A step machine: events in, effects out; no I/O,
 * clock or thread of its own. (Giving chunks to peers: lib/swarm/serve.ts.)
 *
 * What is most urgent is asked for first. Of all peers that may hold a chunk,
 * the one that will deliver it soonest is asked, by its measured speed and what
 * it was asked for already: so a long run of chunks spreads over all holders.
 * Who is late is helped by another; who says that he has it not is asked again
 * only after a while; who sends wrong bytes is reported and, in the end, avoided.
 * Nothing is used before the host has verified that its hash is the id.
 *
 * Invariants, asserted by test/sim:
 * - bytes asked for, being verified and not yet taken by the host: at most MAX_EXCHANGE_BYTES;
 * - wants: at most MAX_WANTS, and MAX_BACKGROUND that were pulled from the host;
 * - every want ends in exactly one `arrived` or `failed`, or by `unwant`.
 */
import { CHUNK_AVERAGE_BYTES } from '../limits.js'
import { Holder } from './holder.js'
import {
  MAX_IDS, MAX_SEALED_CHUNK_BYTES, URGENCIES, keyOf,
  type CancelChunks, type Chunk, type HurryChunks, type NoChunks, type Peer, type Urgency, type WantChunks,
} from './messages.js'
import type { Priority } from './net/link.js'
import { RANK, Wants, type Rank, type Want } from './wants.js'

/** All of them, of all peers. */
export const MAX_EXCHANGE_BYTES = 32 * 1024 * 1024
/** Of it, how much each urgency may fill: a reader finds room whatever else is under way. */
const SHARE_BYTES = [MAX_EXCHANGE_BYTES, MAX_EXCHANGE_BYTES - 4 * 1024 * 1024, MAX_EXCHANGE_BYTES / 2, MAX_EXCHANGE_BYTES / 2]
/** Readers, read-ahead and pins: each a few hundred bytes here. Who wants more waits, or fails. */
export const MAX_WANTS = 8192
/** Pulled from the host at a time, and when so few are left. */
export const MAX_BACKGROUND = 512
const LOW_BACKGROUND = 256
/** The host had nothing (more) that is missing: asked again then, if it does not say so before. */
const PULL_AGAIN_MS = 10_000
/** A peer that did not have a chunk may have got it since. */
const REFUSED_MS = 5_000
/** A request is late after LATE_TIMES of what it should take, within these. */
const LATE_TIMES = 3
const LATE_MS: readonly [number, number][] = [[300, 5_000], [500, 10_000], [5_000, 30_000], [5_000, 30_000]]
/** A request without an answer for so long, and for LOST_TIMES of what it should take, is taken back and made again: nothing says that it was not lost. */
const LOST_MS: readonly number[] = [10_000, 20_000, 300_000, 300_000]
const LOST_TIMES = 10
/** Asked of two at the same time at most: a third would not help a slow network. */
const MAX_ASKS = 2
/** A peer that sends nothing for so long has lost its requests: they go elsewhere, and it rests for AVOID_MS. */
const SILENT_MS = 30_000
const AVOID_MS = 30_000
/** Chunks with wrong bytes: one may be a damaged disk. More, and nothing is asked of the peer any more. */
const MAX_WRONG = 3
/** Peers of which wrong bytes are remembered. */
const MAX_LIARS = 1024
/** A peer of which nothing is known is taken for so much slower: who has the chunk for certain comes first. */
const UNKNOWN_TIMES = 3
/** Wants that are passed over in one round because their holders are busy. */
const MAX_PASSED = 64

export interface WantedChunk {
  /** 32 bytes. */
  id: Buffer
  /** Length of the sealed bytes, if known, and not 0 (sealedLength of what the op says): saves room, and shows a lie at once. */
  sealedBytes?: number
  /** Of what `nextMissing` names: it is pinned. */
  isPinned?: boolean
}

/** What the exchange asks of the host, at once. */
export interface ChunkHost {
  /**
   * Up to `limit` chunks that this device means to hold and lacks, not those of the last calls again until all were
   * named; [] only if there are none, or all were named: then it begins anew, and is not asked for a while. Called only
   * while peers are connected.
   */
  nextMissing(limit: number): WantedChunk[]
  /** Peers that should hold the chunk, by placement or by what they said; empty if nothing is known. */
  likelyHolders(id: Buffer): Iterable<Peer>
}

export type ExchangeEffect =
  | { type: 'send'; peer: Peer; message: WantChunks | HurryChunks | CancelChunks; priority: Priority }
  /** Is BLAKE3 of `sealed` the id? Answer with `verified`, always. */
  | { type: 'verify'; token: number; id: Buffer; sealed: Buffer }
  /** Verified. Use or keep it, and call `taken` when its bytes are no longer in memory, or are somebody else's to count. */
  | { type: 'arrived'; peer: Peer; id: Buffer; sealed: Buffer; urgency: Urgency }
  /** 'deadline': nobody gave it in time. 'nobody': in the background, nobody who is connected has it. 'full': too many wants. */
  | { type: 'failed'; id: Buffer; urgency: Urgency; why: 'deadline' | 'nobody' | 'full' }
  /** It sent wrong bytes, or what nobody asked for. `isAvoided`: nothing is asked of it any more: close the link. */
  | { type: 'lying'; peer: Peer; id: Buffer; why: string; isAvoided: boolean }

export class ChunkExchange {
  readonly #host: ChunkHost
  readonly #wants = new Wants()
  /** Pulled from the host, and wanted by nobody else. */
  readonly #pulled = new Set<Want>()
  readonly #peers = new Map<Peer, Holder>()
  /** Wrong chunks of each peer, also after it has gone. */
  readonly #wrong = new Map<Peer, number>()
  readonly #taken = new Map<string, number>()
  readonly #verifying = new Map<number, { want: Want; peer: Peer; sealed: Buffer }>()
  #nextToken = 1
  /** Of a chunk, as they come. */
  #averageBytes = CHUNK_AVERAGE_BYTES
  #askedBytes = 0
  #verifyingBytes = 0
  #untakenBytes = 0
  #nowMs = 0
  #pullAtMs = 0
  #unparkAtMs = Infinity
  #out: ExchangeEffect[] = []
  /** Requests and cancellations of this step, by peer: sent together. */
  readonly #asks = new Map<Peer, Buffer[][]>()
  readonly #hurries = new Map<Peer, Buffer[][]>()
  readonly #cancels = new Map<Peer, Buffer[]>()

  constructor(host: ChunkHost) {
    this.#host = host
  }

  // --- events; each gives what is to be done now, in this order ---

  peerUp(nowMs: number, peer: Peer, keepsEverything: boolean): ExchangeEffect[] {
    this.#nowMs = nowMs
    if (this.#peers.has(peer)) throw new Error(`invariant: ${peer} is connected already`)
    const holder = new Holder()
    holder.keepsEverything = keepsEverything
    this.#peers.set(peer, holder)
    this.#pullAtMs = 0
    this.#wants.unpark()
    return this.#end()
  }

  peerDown(nowMs: number, peer: Peer): ExchangeEffect[] {
    this.#nowMs = nowMs
    if (!this.#peers.has(peer)) return this.#end()
    for (const want of this.#wants.all()) {
      if (want.asks.has(peer)) this.#unask(want, peer)
      want.notBefore.delete(peer)
      want.holders.delete(peer)
    }
    this.#peers.delete(peer)
    this.#asks.delete(peer)
    this.#hurries.delete(peer)
    this.#cancels.delete(peer)
    return this.#end()
  }

  /** Its status says so now. */
  peerStatus(nowMs: number, peer: Peer, keepsEverything: boolean): ExchangeEffect[] {
    this.#nowMs = nowMs
    const holder = this.#peers.get(peer)
    if (holder) holder.keepsEverything = keepsEverything
    return this.#end()
  }

  /** It said that it holds these. */
  peerHolds(nowMs: number, peer: Peer, ids: Buffer[]): ExchangeEffect[] {
    this.#nowMs = nowMs
    if (this.#peers.has(peer)) {
      for (const id of ids) {
        const want = this.#wants.get(id)
        if (!want) continue
        want.holders.add(peer)
        want.notBefore.delete(peer)
        if (want.state === 'parked') this.#wants.move(want, 'waiting')
      }
    }
    return this.#end()
  }

  message(nowMs: number, peer: Peer, m: Chunk | NoChunks): ExchangeEffect[] {
    this.#nowMs = nowMs
    const holder = this.#peers.get(peer)
    if (!holder) return this.#end()
    if (m.type === 'chunk') this.#onChunk(peer, holder, m)
    else for (const id of m.ids) this.#onRefused(peer, holder, id)
    return this.#end()
  }

  /** Wanted by somebody, until `deadlineMs` (Infinity: as long as it takes). Again: the greater urgency and the later deadline count. */
  want(nowMs: number, chunk: WantedChunk, urgency: Urgency, deadlineMs: number): ExchangeEffect[] {
    return this.wantAll(nowMs, [{ ...chunk, urgency }], deadlineMs)
  }

  /** As `want`, of many that come together: asked for in few messages. */
  wantAll(nowMs: number, chunks: (WantedChunk & { urgency: Urgency })[], deadlineMs: number): ExchangeEffect[] {
    this.#nowMs = nowMs
    for (const chunk of chunks) this.#want(chunk, chunk.urgency, deadlineMs)
    return this.#end()
  }

  #want(chunk: WantedChunk, urgency: Urgency, deadlineMs: number): void {
    const rank = RANK[urgency]
    const want = this.#wants.get(chunk.id)
    if (want) {
      want.deadlineMs = this.#pulled.delete(want) ? deadlineMs : Math.max(want.deadlineMs, deadlineMs)
      if (rank < want.rank) this.#hurry(want, rank)
    } else if (this.#wants.size - this.#pulled.size >= MAX_WANTS) {
      this.#out.push({ type: 'failed', id: chunk.id, urgency, why: 'full' })
    } else this.#add(chunk, rank, deadlineMs)
  }

  /** Nobody wants it any more. */
  unwant(nowMs: number, id: Buffer): ExchangeEffect[] {
    this.#nowMs = nowMs
    const want = this.#wants.get(id)
    if (want) this.#forget(want)
    return this.#end()
  }

  /** What the host found about a `verify`. */
  verified(nowMs: number, token: number, isRight: boolean): ExchangeEffect[] {
    this.#nowMs = nowMs
    const found = this.#verifying.get(token)
    if (!found) throw new Error('invariant: nothing was to be verified')
    const { want, peer, sealed } = found
    this.#verifying.delete(token)
    this.#verifyingBytes -= sealed.length
    if (!isRight) this.#lies(peer, want.id, 'its bytes have another hash')
    // Given up meanwhile; another want for the same id has its own token.
    if (want.token !== token) return this.#end()
    want.token = undefined
    if (isRight) {
      const urgency = URGENCIES[want.rank]!
      this.#forget(want)
      this.#taken.set(want.key, (this.#taken.get(want.key) ?? 0) + sealed.length)
      this.#untakenBytes += sealed.length
      this.#out.push({ type: 'arrived', peer, id: want.id, sealed, urgency })
    } else {
      want.notBefore.set(peer, Infinity)
      this.#wants.move(want, want.asks.size > 0 ? 'asked' : 'waiting')
    }
    return this.#end()
  }

  /** The bytes of an `arrived` are no longer ours to count. */
  taken(nowMs: number, id: Buffer): ExchangeEffect[] {
    this.#nowMs = nowMs
    const key = keyOf(id)
    this.#untakenBytes -= this.#taken.get(key) ?? 0
    this.#taken.delete(key)
    return this.#end()
  }

  /** Chunks are missing in the background that were not before. */
  moreMissing(nowMs: number): ExchangeEffect[] {
    this.#nowMs = nowMs
    this.#pullAtMs = 0
    return this.#end()
  }

  /** Every 50 to 200 ms. */
  tick(nowMs: number): ExchangeEffect[] {
    this.#nowMs = nowMs
    for (const [peer, holder] of this.#peers) if (holder.asks > 0 && nowMs - holder.waitingSinceMs > SILENT_MS) this.#silent(peer, holder)
    for (const want of [...this.#wants.all()]) {
      if (want.deadlineMs <= nowMs) {
        this.#out.push({ type: 'failed', id: want.id, urgency: URGENCIES[want.rank]!, why: 'deadline' })
        this.#forget(want)
      } else if (want.state === 'asked') this.#checkLate(want)
    }
    if (this.#unparkAtMs <= nowMs) {
      this.#unparkAtMs = Infinity
      this.#wants.unpark()
    }
    return this.#end()
  }

  // --- what can be asked ---

  get bytes(): { asked: number; verifying: number; untaken: number } {
    return { asked: this.#askedBytes, verifying: this.#verifyingBytes, untaken: this.#untakenBytes }
  }

  /** Wants of each urgency, as in URGENCIES. */
  get wantCounts(): readonly number[] { return this.#wants.counts }

  /** Wants that nobody who is connected can serve, as far as is known. */
  get parked(): number { return this.#wants.parked.size }

  /** Measured, bytes a second; what it was asked for and has not answered. */
  peerState(peer: Peer): { bytesPerS: number; asks: number; askedBytes: number } | undefined {
    const holder = this.#peers.get(peer)
    return holder && { bytesPerS: holder.bytesPerMs * 1000, asks: holder.asks, askedBytes: holder.askedBytes }
  }

  // --- what came ---

  #onChunk(peer: Peer, holder: Holder, m: Chunk): void {
    const want = this.#wants.get(m.id)
    const ask = want?.asks.get(peer)
    const wasCancelled = holder.wasCancelled(keyOf(m.id))
    if (!ask && !wasCancelled) {
      if (!holder.sentUnasked(this.#nowMs)) this.#lies(peer, m.id, 'it sends what nobody asked for', true)
      return
    }
    holder.arrived(m.sealed.length, this.#nowMs)
    this.#averageBytes = this.#averageBytes * 0.95 + m.sealed.length * 0.05
    if (ask) this.#unask(want!, peer)
    if (!want || want.state === 'verifying') return
    if (want.isLengthKnown && m.sealed.length !== want.roomBytes) {
      want.notBefore.set(peer, Infinity)
      return this.#lies(peer, m.id, `it sent ${m.sealed.length} bytes instead of ${want.roomBytes}`)
    }
    // A late one has no room of its own.
    if (!ask && this.#heldBytes + m.sealed.length > MAX_EXCHANGE_BYTES) return
    const token = want.token = this.#nextToken++
    this.#verifying.set(token, { want, peer, sealed: m.sealed })
    this.#verifyingBytes += m.sealed.length
    this.#wants.move(want, 'verifying')
    this.#out.push({ type: 'verify', token, id: want.id, sealed: m.sealed })
  }

  #onRefused(peer: Peer, holder: Holder, id: Buffer): void {
    holder.wasCancelled(keyOf(id))
    const want = this.#wants.get(id)
    if (!want?.asks.has(peer)) return
    holder.waitingSinceMs = this.#nowMs
    want.holders.delete(peer)
    want.notBefore.set(peer, this.#nowMs + REFUSED_MS)
    this.#unask(want, peer)
  }

  #lies(peer: Peer, id: Buffer, why: string, isFlood = false): void {
    const wrong = isFlood ? MAX_WRONG : (this.#wrong.get(peer) ?? 0) + 1
    if (!this.#wrong.has(peer) && this.#wrong.size >= MAX_LIARS) this.#wrong.delete(this.#wrong.keys().next().value!)
    this.#wrong.set(peer, wrong)
    const isAvoided = wrong >= MAX_WRONG
    this.#out.push({ type: 'lying', peer, id, why, isAvoided })
    if (!isAvoided) return
    for (const want of this.#wants.all()) if (want.asks.has(peer)) this.#cancel(want, peer)
  }

  #silent(peer: Peer, holder: Holder): void {
    holder.avoidUntilMs = this.#nowMs + AVOID_MS
    for (const want of this.#wants.all()) if (want.asks.has(peer)) this.#cancel(want, peer)
    this.#unparkAtMs = Math.min(this.#unparkAtMs, holder.avoidUntilMs)
  }

  /** A request takes longer than it should: somebody else helps, or takes over. */
  #checkLate(want: Want): void {
    for (const [peer, ask] of want.asks) {
      if (ask.dueMs > this.#nowMs) continue
      const waitedMs = this.#nowMs - ask.sentMs
      if (waitedMs > LOST_MS[want.rank]! && waitedMs > LOST_TIMES * this.#peers.get(peer)!.expectedMs(0, want.rank)) {
        this.#cancel(want, peer)
        continue
      }
      ask.dueMs = Math.min(this.#nowMs + 2 * (ask.dueMs - ask.sentMs), Math.max(this.#nowMs + 1000, ask.sentMs + LOST_MS[want.rank]!))
      if (want.asks.size >= MAX_ASKS) continue
      const other = this.#choose(want)
      if (other === undefined || other === 'busy') continue
      // Where nobody waits, bytes matter more than time: not twice.
      if (want.rank >= RANK.pin) {
        this.#cancel(want, peer)
        want.notBefore.set(peer, this.#nowMs + REFUSED_MS)
      }
      if (this.#heldBytes + want.roomBytes <= SHARE_BYTES[want.rank]!) this.#ask(want, other)
    }
  }

  // --- wants ---

  #add(chunk: WantedChunk, rank: Rank, deadlineMs: number): Want {
    const room = Math.min(chunk.sealedBytes || MAX_SEALED_CHUNK_BYTES, MAX_SEALED_CHUNK_BYTES)
    const want = this.#wants.add(chunk.id, rank, deadlineMs, room, Boolean(chunk.sealedBytes))
    for (const peer of this.#host.likelyHolders(chunk.id)) if (this.#peers.has(peer)) want.holders.add(peer)
    return want
  }

  #hurry(want: Want, rank: Rank): void {
    for (const [peer, ask] of want.asks) {
      const holder = this.#peers.get(peer)!
      holder.reranked(ask.likelyBytes, want.rank, rank)
      ask.sentMs = this.#nowMs
      ask.dueMs = this.#dueMs(holder, 0, rank)
      note(this.#hurries, peer, want.id, rank)
    }
    this.#wants.setRank(want, rank)
    if (want.state === 'parked') this.#wants.move(want, 'waiting')
  }

  /** Its end: whom it was asked of is told. */
  #forget(want: Want): void {
    for (const peer of [...want.asks.keys()]) this.#cancel(want, peer)
    want.token = undefined
    this.#pulled.delete(want)
    this.#wants.remove(want)
  }

  #cancel(want: Want, peer: Peer): void {
    this.#unask(want, peer)
    this.#peers.get(peer)!.cancelled(want.key)
    const list = this.#cancels.get(peer)
    if (list) list.push(want.id)
    else this.#cancels.set(peer, [want.id])
  }

  #unask(want: Want, peer: Peer): void {
    const ask = want.asks.get(peer)!
    want.asks.delete(peer)
    this.#askedBytes -= want.roomBytes
    this.#peers.get(peer)!.answered(ask.likelyBytes, want.rank)
    if (want.asks.size === 0 && want.state === 'asked') this.#wants.move(want, 'waiting')
  }

  // --- whom to ask ---

  get #heldBytes(): number { return this.#askedBytes + this.#verifyingBytes + this.#untakenBytes }

  #schedule(): void {
    this.#pull()
    let passed = 0
    for (const queue of this.#wants.waiting) {
      for (const want of queue.values()) {
        // The usual case with much to do, and the one that must be quick: everybody is busy.
        if (!this.#isAnyFree(want)) break
        if (this.#heldBytes + want.roomBytes > SHARE_BYTES[want.rank]!) break
        const peer = this.#choose(want)
        if (peer === undefined) this.#park(want)
        else if (peer !== 'busy') this.#ask(want, peer)
        else if (++passed > MAX_PASSED) return
      }
    }
  }

  #isAnyFree(want: Want): boolean {
    const bytes = this.#likelyBytes(want)
    for (const holder of this.#peers.values()) if (holder.hasRoom(bytes, want.rank)) return true
    return this.#peers.size === 0
  }

  /** Who will have sent it first; 'busy' if those who may have it can be asked for no more now; undefined if there is nobody. */
  #choose(want: Want): Peer | 'busy' | undefined {
    let best: Peer | undefined, bestMs = Infinity, isBusy = false
    const bytes = this.#likelyBytes(want)
    for (const [peer, holder] of this.#peers) {
      if (want.asks.has(peer) || (this.#wrong.get(peer) ?? 0) >= MAX_WRONG) continue
      if (holder.avoidUntilMs > this.#nowMs || (want.notBefore.get(peer) ?? 0) > this.#nowMs) continue
      if (!holder.hasRoom(bytes, want.rank)) {
        isBusy = true
        continue
      }
      const isLikely = holder.keepsEverything || want.holders.has(peer)
      const ms = holder.expectedMs(bytes, want.rank) * (isLikely ? 1 : UNKNOWN_TIMES)
      if (ms < bestMs) [best, bestMs] = [peer, ms]
    }
    return best ?? (isBusy ? 'busy' : undefined)
  }

  #park(want: Want): void {
    if (this.#pulled.has(want) && this.#peers.size > 0) {
      // The host names it again when its turn comes; others are not held up by it.
      this.#out.push({ type: 'failed', id: want.id, urgency: URGENCIES[want.rank]!, why: 'nobody' })
      this.#forget(want)
      return
    }
    this.#wants.move(want, 'parked')
    for (const [peer, holder] of this.#peers) {
      const mayAskMs = Math.max(holder.avoidUntilMs, want.notBefore.get(peer) ?? 0)
      if (mayAskMs > this.#nowMs) this.#unparkAtMs = Math.min(this.#unparkAtMs, mayAskMs)
    }
  }

  #ask(want: Want, peer: Peer): void {
    const holder = this.#peers.get(peer)!
    const likelyBytes = this.#likelyBytes(want)
    const dueMs = this.#dueMs(holder, likelyBytes, want.rank)
    holder.asked(likelyBytes, want.rank, this.#nowMs)
    this.#askedBytes += want.roomBytes
    want.asks.set(peer, { sentMs: this.#nowMs, dueMs, likelyBytes })
    this.#wants.move(want, 'asked')
    note(this.#asks, peer, want.id, want.rank)
  }

  #likelyBytes(want: Want): number {
    return want.isLengthKnown ? want.roomBytes : Math.ceil(this.#averageBytes)
  }

  #dueMs(holder: Holder, bytes: number, rank: Rank): number {
    const [min, max] = LATE_MS[rank]!
    return this.#nowMs + Math.min(max, min + LATE_TIMES * holder.expectedMs(bytes, rank))
  }

  /** The background is pulled as it is worked off, so that memory does not grow with what is missing. */
  #pull(): void {
    if (this.#peers.size === 0 || this.#pullAtMs > this.#nowMs || this.#pulled.size > LOW_BACKGROUND) return
    const limit = MAX_BACKGROUND - this.#pulled.size
    const missing = this.#host.nextMissing(limit)
    if (missing.length === 0) this.#pullAtMs = this.#nowMs + PULL_AGAIN_MS
    for (const chunk of missing.slice(0, limit)) {
      if (!this.#wants.get(chunk.id)) this.#pulled.add(this.#add(chunk, chunk.isPinned ? RANK.pin : RANK.background, Infinity))
    }
  }

  #end(): ExchangeEffect[] {
    this.#schedule()
    // What is cancelled and asked for again in one step is asked for: in this order.
    for (const [peer, ids] of this.#cancels) {
      for (let at = 0; at < ids.length; at += MAX_IDS) {
        this.#out.push({ type: 'send', peer, message: { type: 'cancelChunks', ids: ids.slice(at, at + MAX_IDS) }, priority: 'now' })
      }
    }
    for (const [type, byPeer] of [['wantChunks', this.#asks], ['hurryChunks', this.#hurries]] as const) {
      for (const [peer, lists] of byPeer) {
        for (const [rank, ids] of lists.entries()) {
          for (let at = 0; at < ids.length; at += MAX_IDS) {
            this.#out.push({ type: 'send', peer, message: { type, urgency: URGENCIES[rank]!, ids: ids.slice(at, at + MAX_IDS) }, priority: 'now' })
          }
        }
      }
    }
    this.#cancels.clear()
    this.#asks.clear()
    this.#hurries.clear()
    const out = this.#out
    this.#out = []
    return out
  }
}

function note(byPeer: Map<Peer, Buffer[][]>, peer: Peer, id: Buffer, rank: Rank): void {
  let lists = byPeer.get(peer)
  if (!lists) byPeer.set(peer, lists = URGENCIES.map(() => []))
  lists[rank]!.push(id)
}
