/**
 * Chunks that others ask for: what serve.ts decides is read from the index and the
 * segments. A chunk is given right to the bit, or not at all.
 */
import { chunkId, sealedLength } from '../seal/chunk.js'
import { ELSEWHERE } from '../store/chunks.js'
import type { SwarmHost } from './host.js'
import type { CancelChunks, HurryChunks, Message, Peer, WantChunks } from './messages.js'
import { ChunkServer, type ServeEffect } from './serve.js'
import { chunkHead } from './wire.js'

export interface GivingLinks {
  send(peer: Peer, m: Message, priority: 'now' | 'bulk'): void
  sendFile(peer: Peer, head: Uint8Array, file: { path: string; offset: number; length: number }): void
  queuedBytes(peer: Peer): number
}

export class Giving {
  readonly #drive: SwarmHost
  readonly #links: GivingLinks
  readonly #server: ChunkServer
  readonly #foundBad: () => void
  #isClosed = false

  /** `foundBad` is told when one that was to be given is damaged. */
  constructor(drive: SwarmHost, links: GivingLinks, foundBad: () => void) {
    this.#drive = drive
    this.#links = links
    this.#server = new ChunkServer({ queuedBytes: (peer) => links.queuedBytes(peer) })
    this.#foundBad = foundBad
  }

  peerUp(peer: Peer): void { this.#give(this.#server.peerUp(peer)) }

  peerDown(peer: Peer): void { this.#give(this.#server.peerDown(peer)) }

  drained(peer: Peer): void { this.#give(this.#server.drained(peer)) }

  message(peer: Peer, m: WantChunks | HurryChunks | CancelChunks): void { this.#give(this.#server.message(peer, m)) }

  /** Chunks that a peer waits for. */
  waiting(peer: Peer): number { return this.#server.state(peer).queued }

  /** It could not be sent from its segment. */
  again(peer: Peer, id: Buffer): void { void this.#sendAgain(peer, id) }

  has(id: Buffer): boolean {
    const { chunks, store } = this.#drive
    const num = chunks.findById(id)
    return num > 0 && chunks.isThere(num, store)
  }

  /** Somebody relies on it from here on. */
  counted(id: Buffer): void {
    const { releases, chunks, journal } = this.#drive
    if (releases && !journal.stopped) releases.counted(chunks.findById(id))
  }

  /** The sealed bytes; undefined: not here, or damaged. */
  async read(id: Buffer): Promise<Buffer | undefined> {
    const { chunks, store } = this.#drive
    const num = chunks.findById(id)
    const row = num > 0 ? chunks.get(num) : undefined
    if (!row || row.seg === ELSEWHERE) return undefined
    let sealed: Buffer | undefined
    try { sealed = row.seg === 0 ? chunks.inlineData(num) : await store.read(row.seg, row.off, sealedLength(row.len)) } catch { /* moved by compaction, or damaged */ }
    if (sealed && chunkId(sealed).equals(id)) return sealed
    const now = chunks.get(num)
    if (!now) return undefined
    if (now.seg !== row.seg || now.off !== row.off) return this.read(id)
    // Somebody else may have it, and mend this one.
    chunks.bad.add(num)
    this.#foundBad()
    return undefined
  }

  close(): void { this.#isClosed = true }

  #give(effects: ServeEffect[]): void {
    for (const e of effects) {
      if (e.type === 'send') this.#links.send(e.peer, e.message, e.priority)
      else this.#serve(e.peer, Buffer.from(e.id), e.priority)
    }
  }

  #serve(peer: Peer, id: Buffer, priority: 'now' | 'bulk'): void {
    this.counted(id)
    const { chunks, store } = this.#drive
    const num = chunks.findById(id)
    const row = num > 0 && !chunks.bad.has(num) ? chunks.get(num) : undefined
    if (!row || row.seg <= 0 || priority === 'now') {
      void this.#serveBytes(peer, id, priority)
      return
    }
    const length = sealedLength(row.len)
    // Counted where it waits: in the link. It may be there before this turn is over, and be wanted again.
    this.#links.sendFile(peer, chunkHead(id), { path: store.pathOf(row.seg), offset: row.off, length })
    this.#server.sent(peer, id, length)
    this.#drive.timers.soon(() => { if (!this.#isClosed) this.drained(peer) })
  }

  async #serveBytes(peer: Peer, id: Buffer, priority: 'now' | 'bulk'): Promise<void> {
    const sealed = await this.read(id)
    if (this.#isClosed) return
    const isSent = sealed !== undefined && this.#server.isWanted(peer, id)
    if (isSent) this.#links.send(peer, { type: 'chunk', id, sealed }, priority)
    this.#give(this.#server.served(peer, id, sealed === undefined ? 0 : isSent ? sealed.length : -1))
  }

  /** The server has counted it as sent already: what becomes of it the peer hears in any case. */
  async #sendAgain(peer: Peer, id: Buffer): Promise<void> {
    const sealed = await this.read(id)
    if (this.#isClosed) return
    if (sealed) this.#links.send(peer, { type: 'chunk', id, sealed }, 'bulk')
    else this.#links.send(peer, { type: 'noChunks', ids: [id] }, 'now')
  }
}
