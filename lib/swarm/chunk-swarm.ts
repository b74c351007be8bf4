/**
 * Chunks between this device and others: the step machines of asking
 * (exchange.ts) and giving (serve.ts), joined to the chunk table, the segments
 * and the readers of the mount.
 *
 * What comes is verified before anything is done with it; what is asked for in
 * the background is kept durably and only then said to be here.
 */
import blake from '@napi-rs/blake-hash'
import type { ChunkSource, Urgency as ReadUrgency } from '../file/fetch.js'
import { fail } from '../errors.js'
import type { Arrived } from '../order/causal/engine.js'
import { chunkId, sealedLength } from '../seal/chunk.js'
import { ELSEWHERE } from '../store/chunks.js'
import { ChunkExchange, type ExchangeEffect, type WantedChunk } from './exchange.js'
import type { SwarmHost } from './host.js'
import { keyOf, type ChunkMessage, type CustodyMessage, type Message, type Peer, type Status, type Urgency } from './messages.js'
import { ChunkServer, type ServeEffect } from './serve.js'
import { chunkHead } from './wire.js'

/** Newest chunks of which it is remembered who made them: that device has them for certain. */
const MAX_AUTHORS = 65_536
/** Challenges that are being answered: each reads a chunk. */
const MAX_PROOFS = 4

export interface ChunkLinks {
  send(peer: Peer, m: Message, priority: 'now' | 'bulk'): void
  sendFile(peer: Peer, head: Uint8Array, file: { path: string; offset: number; length: number }): void
  queuedBytes(peer: Peer): number
  lying(peer: Peer, why: string): void
}

interface Waiter { resolve: (sealed: Buffer) => void; reject: (e: Error) => void }

export class ChunkSwarm implements ChunkSource {
  readonly isVerified = true
  readonly #drive: SwarmHost
  readonly #links: ChunkLinks
  readonly #exchange: ChunkExchange
  readonly #server: ChunkServer
  readonly #waiters = new Map<string, Waiter[]>()
  readonly #authors = new Map<string, Peer>()
  readonly #peers = new Set<Peer>()
  #wanting: (WantedChunk & { urgency: Urgency })[] = []
  #cursor = 0
  #proofs = 0
  #isClosed = false

  constructor(drive: SwarmHost, links: ChunkLinks) {
    this.#drive = drive
    this.#links = links
    this.#exchange = new ChunkExchange({
      nextMissing: (limit) => this.#nextMissing(limit),
      likelyHolders: (id) => {
        const author = this.#authors.get(keyOf(id))
        return author !== undefined && this.#peers.has(author) ? [author] : []
      },
    })
    this.#server = new ChunkServer({ queuedBytes: (peer) => links.queuedBytes(peer) })
  }

  // --- for readers --------------------------------------------------------

  fetch(id: Buffer, how: { urgency: ReadUrgency; signal: AbortSignal }): Promise<Buffer> {
    if (this.#isClosed) return Promise.reject(fail('EIO', 'the drive is being closed'))
    const key = keyOf(id)
    return new Promise<Buffer>((resolve, reject) => {
      let waiters = this.#waiters.get(key)
      if (!waiters) this.#waiters.set(key, (waiters = []))
      const waiter: Waiter = { resolve, reject }
      waiters.push(waiter)
      how.signal.addEventListener('abort', () => {
        const list = this.#waiters.get(key)
        if (!list?.includes(waiter)) return
        list.splice(list.indexOf(waiter), 1)
        if (list.length === 0) {
          this.#waiters.delete(key)
          this.#do(this.#exchange.unwant(this.#now(), id))
        }
        reject(fail('EIO', 'nobody waits for the chunk any more'))
      }, { once: true })
      this.#want(id, how.urgency)
    })
  }

  /** What is asked for in one turn goes out together. */
  #want(id: Buffer, urgency: Urgency): void {
    if (this.#wanting.push({ ...this.#wanted(id), urgency }) > 1) return
    queueMicrotask(() => {
      const wanting = this.#wanting.filter((w) => this.#waiters.has(keyOf(w.id)))
      this.#wanting = []
      if (!this.#isClosed) this.#do(this.#exchange.wantAll(this.#now(), wanting, Infinity))
    })
  }

  #wanted(id: Buffer): WantedChunk {
    const { chunks } = this.#drive
    const num = chunks.findById(id)
    const len = num > 0 ? chunks.get(num)?.len : undefined
    return len === undefined ? { id } : { id, sealedBytes: sealedLength(len) }
  }

  // --- peers --------------------------------------------------------------

  peerUp(peer: Peer): void {
    this.#peers.add(peer)
    this.#links.send(peer, this.#status(), 'now')
    this.#give(this.#server.peerUp(peer))
    this.#do(this.#exchange.peerUp(this.#now(), peer, false))
  }

  peerDown(peer: Peer): void {
    this.#peers.delete(peer)
    this.#give(this.#server.peerDown(peer))
    this.#do(this.#exchange.peerDown(this.#now(), peer))
  }

  drained(peer: Peer): void {
    this.#give(this.#server.drained(peer))
  }

  tick(): void {
    this.#do(this.#exchange.tick(this.#now()))
  }

  /** Entries of others were applied: chunks may be missing that were not known before. */
  changed(arrived: Arrived[]): void {
    const { log } = this.#drive
    let any = false
    for (const a of arrived) {
      const author = log.deviceOf(a.inc).toString('hex')
      for (const op of a.ops) {
        if (op.type !== 'content') continue
        for (const c of op.chunks) {
          any = true
          this.#authors.set(keyOf(c.id), author)
        }
      }
    }
    for (const key of this.#authors.keys()) {
      if (this.#authors.size <= MAX_AUTHORS) break
      this.#authors.delete(key)
    }
    if (any) this.#do(this.#exchange.moreMissing(this.#now()))
  }

  message(peer: Peer, m: ChunkMessage | CustodyMessage | Status): void | Promise<void> {
    switch (m.type) {
      case 'wantChunks': case 'hurryChunks': case 'cancelChunks': this.#give(this.#server.message(peer, m)); return
      case 'chunk': case 'noChunks': this.#do(this.#exchange.message(this.#now(), peer, m)); return
      case 'status': this.#do(this.#exchange.peerStatus(this.#now(), peer, m.keepsEverything)); return
      case 'haveChunks': this.#do(this.#exchange.peerHolds(this.#now(), peer, m.ids)); return
      case 'askChunks': {
        const here = m.ids.filter((id) => this.#isHere(id))
        const gone = m.ids.filter((id) => !here.includes(id))
        if (here.length) this.#links.send(peer, { type: 'haveChunks', ids: here }, 'now')
        if (gone.length) this.#links.send(peer, { type: 'noChunks', ids: gone }, 'now')
        return
      }
      case 'challenge': return this.#prove(peer, m.id, m.nonce)
      case 'proof': return
    }
  }

  /** A chunk could not be sent from its segment: it has moved, or is damaged. */
  fileError(peer: Peer, head: Buffer, _error: Error): void {
    void this.#serveBytes(peer, head.subarray(1, 33), 'bulk')
  }

  close(): void {
    this.#isClosed = true
    for (const waiters of this.#waiters.values()) for (const w of waiters) w.reject(fail('EIO', 'the drive is being closed'))
    this.#waiters.clear()
  }

  /** Chunks wanted now, and bytes on their way. */
  get state(): { wanted: number; bytes: number } {
    return { wanted: this.#exchange.wantCounts.reduce((a, b) => a + b, 0), bytes: this.#exchange.bytes.asked }
  }

  // --- asking -------------------------------------------------------------

  #nextMissing(limit: number): WantedChunk[] {
    const rows = this.#drive.chunks.elsewhere(this.#cursor, limit)
    this.#cursor = rows.length > 0 ? rows[rows.length - 1]!.num : 0
    return rows.filter((r) => r.refs > 0).map((r) => ({ id: r.id, sealedBytes: sealedLength(r.len) }))
  }

  #do(effects: ExchangeEffect[]): void {
    for (const e of effects) {
      switch (e.type) {
        case 'send': this.#links.send(e.peer, e.message, e.priority); break
        case 'verify': this.#do(this.#exchange.verified(this.#now(), e.token, chunkId(e.sealed).equals(e.id))); break
        case 'arrived': this.#arrived(e.id, e.sealed); break
        case 'failed': this.#failed(e.id, e.why); break
        case 'lying': if (e.isAvoided) this.#links.lying(e.peer, e.why); break
      }
    }
  }

  #arrived(id: Buffer, sealed: Buffer): void {
    const key = keyOf(id)
    const waiters = this.#waiters.get(key)
    this.#waiters.delete(key)
    const taken = () => this.#do(this.#exchange.taken(this.#now(), id))
    if (waiters) {
      // Whoever reads keeps it too.
      for (const w of waiters) w.resolve(sealed)
      queueMicrotask(taken)
      return
    }
    const num = this.#drive.chunks.findById(id)
    if (num === 0) return queueMicrotask(taken)
    this.#drive.arrivals.keep(num, sealed).then(taken, taken)
  }

  #failed(id: Buffer, why: string): void {
    const waiters = this.#waiters.get(keyOf(id)) ?? []
    this.#waiters.delete(keyOf(id))
    const text = why === 'full' ? 'too much is being fetched' : 'no device that can be reached gave it'
    for (const w of waiters) w.reject(fail('EIO', text))
  }

  // --- giving -------------------------------------------------------------

  #give(effects: ServeEffect[]): void {
    for (const e of effects) {
      if (e.type === 'send') this.#links.send(e.peer, e.message, e.priority)
      else this.#serve(e.peer, Buffer.from(e.id), e.priority)
    }
  }

  #serve(peer: Peer, id: Buffer, priority: 'now' | 'bulk'): void {
    const { chunks, store } = this.#drive
    const num = chunks.findById(id)
    const row = num > 0 && !chunks.bad.has(num) ? chunks.get(num) : undefined
    if (!row || row.seg <= 0 || priority === 'now') {
      void this.#serveBytes(peer, id, priority)
      return
    }
    const length = sealedLength(row.len)
    if (this.#server.isWanted(peer, id)) this.#links.sendFile(peer, chunkHead(id), { path: store.pathOf(row.seg), offset: row.off, length })
    // Counted where it waits: in the link.
    this.#drive.timers.soon(() => { if (!this.#isClosed) this.#give(this.#server.served(peer, id, length)) })
  }

  async #serveBytes(peer: Peer, id: Buffer, priority: 'now' | 'bulk'): Promise<void> {
    const sealed = await this.#read(id)
    if (this.#isClosed) return
    const isSent = sealed !== undefined && this.#server.isWanted(peer, id)
    if (isSent) this.#links.send(peer, { type: 'chunk', id, sealed }, priority)
    this.#give(this.#server.served(peer, id, sealed === undefined ? 0 : isSent ? sealed.length : -1))
  }

  /** The sealed bytes, right to the bit; undefined: not here, or damaged. */
  async #read(id: Buffer): Promise<Buffer | undefined> {
    const { chunks, store } = this.#drive
    const num = chunks.findById(id)
    const row = num > 0 ? chunks.get(num) : undefined
    if (!row || row.seg === ELSEWHERE) return undefined
    try {
      const sealed = row.seg === 0 ? chunks.inlineData(num) : await store.read(row.seg, row.off, sealedLength(row.len))
      return sealed && chunkId(sealed).equals(id) ? Buffer.from(sealed) : undefined
    } catch {
      return undefined
    }
  }

  #isHere(id: Buffer): boolean {
    const { chunks, store } = this.#drive
    const num = chunks.findById(id)
    return num > 0 && chunks.isThere(num, store)
  }

  async #prove(peer: Peer, id: Buffer, nonce: Buffer): Promise<void> {
    if (this.#proofs >= MAX_PROOFS) return
    this.#proofs++
    try {
      const sealed = await this.#read(id)
      if (this.#isClosed) return
      if (!sealed) this.#links.send(peer, { type: 'noChunks', ids: [id] }, 'now')
      else this.#links.send(peer, { type: 'proof', id, mac: blake.blake3(Buffer.concat([nonce, sealed])) }, 'now')
    } finally {
      this.#proofs--
    }
  }

  #status(): Status {
    const { space, files, store } = this.#drive
    let used = 0
    for (const bytes of store.usage().values()) used += bytes
    return { type: 'status', capacityBytes: used + space.freeBytes(files.dirtyBytes), usedBytes: used, owedBytes: 0, keepsEverything: true }
  }

  #now(): number { return this.#drive.timers.nowMs() }
}

