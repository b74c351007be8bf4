/** A device that does nothing but exchange chunks: ChunkExchange and ChunkServer on a simulated network. */
import { chunkId } from '../../lib/seal/chunk.js'
import { ChunkExchange, MAX_BACKGROUND, MAX_EXCHANGE_BYTES, MAX_WANTS, type ExchangeEffect, type WantedChunk } from '../../lib/swarm/exchange.js'
import { keyOf, type ChunkMessage, type Message, type Urgency } from '../../lib/swarm/messages.js'
import { ChunkServer, MAX_PEER_READS, MAX_QUEUED, type ServeEffect } from '../../lib/swarm/serve.js'
import { decode, encode } from '../../lib/swarm/wire.js'
import type { SimNetwork } from './network.js'

type Effect = ExchangeEffect | ServeEffect

export class ChunkNode {
  readonly name: string
  readonly net: SimNetwork
  /** Durable. */
  readonly chunks = new Map<string, Buffer>()
  /** What it means to hold; pulled as the background. */
  missing: WantedChunk[] = []
  exchange!: ChunkExchange
  server!: ChunkServer
  isUp = false
  keepsEverything = false
  /** How each want ended: an urgency and 'arrived' or why not, with the time. */
  readonly ends = new Map<string, { how: string; atMs: number }[]>()
  readonly caught: { peer: string; why: string }[] = []
  /** Disk time for a chunk. */
  diskMs: [number, number] = [1, 8]
  /** Host time to verify, and to take a chunk that arrived. */
  takeMs: [number, number] = [0, 20]
  mostBytes = 0
  mostWants = 0
  sentBytes = 0
  tamper: (peer: string, m: ChunkMessage) => ChunkMessage[] = (_peer, m) => [m]
  #cursor = 0
  #life = 0
  #stop: () => void = () => {}
  readonly #effects: Effect[] = []
  #isActing = false

  constructor(net: SimNetwork, name: string) {
    this.net = net
    this.name = name
  }

  start(): void {
    this.isUp = true
    this.#life++
    this.exchange = new ChunkExchange({
      likelyHolders: () => [],
      nextMissing: (limit) => this.#nextMissing(limit),
    })
    this.server = new ChunkServer({ queuedBytes: (peer) => this.net.queuedBytes(this.name, peer) })
    this.net.add(this.name, {
      onUp: (peer) => {
        this.do(this.exchange.peerUp(this.net.nowMs, peer, false))
        this.do(this.server.peerUp(peer))
        if (this.keepsEverything) this.net.send(this.name, peer, encode({ type: 'status', capacityBytes: 0, usedBytes: 0, owedBytes: 0, keepsEverything: true, plan: Buffer.alloc(32) }), 'now')
      },
      onDown: (peer) => {
        this.do(this.exchange.peerDown(this.net.nowMs, peer))
        this.do(this.server.peerDown(peer))
      },
      onDrain: (peer) => this.do(this.server.drained(peer)),
      onMessage: (peer, bytes) => this.#onMessage(peer, bytes),
    })
    this.#stop = this.net.every(100, () => this.do(this.exchange.tick(this.net.nowMs)))
  }

  crash(): void {
    this.isUp = false
    this.#life++
    this.#stop()
    this.#effects.length = 0
    this.net.remove(this.name)
  }

  put(sealed: Buffer): Buffer {
    const id = chunkId(sealed)
    this.chunks.set(keyOf(id), sealed)
    return id
  }

  has(id: Buffer): boolean { return this.chunks.has(keyOf(id)) }

  want(chunk: WantedChunk, urgency: Urgency, forMs = Infinity): void {
    this.do(this.exchange.want(this.net.nowMs, chunk, urgency, this.net.nowMs + forMs))
  }

  end(id: Buffer): { how: string; atMs: number } | undefined {
    return this.ends.get(keyOf(id))?.at(-1)
  }

  #nextMissing(limit: number): WantedChunk[] {
    const out: WantedChunk[] = []
    while (this.#cursor < this.missing.length && out.length < limit) {
      const chunk = this.missing[this.#cursor++]!
      if (!this.has(chunk.id)) out.push(chunk)
    }
    if (out.length === 0) this.#cursor = 0
    return out
  }

  #onMessage(peer: string, bytes: Buffer): void {
    let m: Message
    try { m = decode(bytes) } catch {
      this.caught.push({ peer, why: 'damaged message' })
      return this.net.disconnect(this.name, peer)
    }
    if (m.type === 'chunk' || m.type === 'noChunks') this.do(this.exchange.message(this.net.nowMs, peer, m))
    else if (m.type === 'wantChunks' || m.type === 'hurryChunks' || m.type === 'cancelChunks') this.do(this.server.message(peer, m))
    else if (m.type === 'haveChunks') this.do(this.exchange.peerHolds(this.net.nowMs, peer, m.ids))
    else if (m.type === 'status') this.do(this.exchange.peerStatus(this.net.nowMs, peer, m.keepsEverything))
  }

  /** In order, also when one effect leads to another event. */
  do(effects: Effect[]): void {
    this.#effects.push(...effects)
    if (this.#isActing) return
    this.#isActing = true
    for (let e = this.#effects.shift(); e; e = this.#effects.shift()) this.#act(e)
    this.#isActing = false
    this.#check()
  }

  #later([min, max]: [number, number], what: () => void): void {
    const life = this.#life
    this.net.after(this.net.between(min, max), () => { if (life === this.#life) what() })
  }

  #send(peer: string, m: ChunkMessage, priority: 'now' | 'bulk'): number {
    let bytes = 0
    for (const sent of this.tamper(peer, m)) {
      const encoded = encode(sent)
      bytes += encoded.length
      this.net.send(this.name, peer, encoded, priority)
    }
    this.sentBytes += bytes
    return bytes
  }

  #act(e: Effect): void {
    switch (e.type) {
      case 'send': this.#send(e.peer, e.message, e.priority); break
      case 'serve':
        // As a file: the link reads it.
        if (e.priority === 'bulk' && this.net.between(0, 1) < 0.5) {
          const file = this.chunks.get(keyOf(e.id))
          const bytes = file ? this.#send(e.peer, { type: 'chunk', id: e.id, sealed: file }, e.priority) : 0
          if (!file) return this.do(this.server.served(e.peer, e.id, bytes))
          this.server.sent(e.peer, e.id, bytes)
          return this.#later([0, 1], () => this.do(this.server.drained(e.peer)))
        }
        this.#later(this.diskMs, () => {
          const sealed = this.chunks.get(keyOf(e.id))
          let bytes = 0
          if (sealed && this.server.isWanted(e.peer, e.id)) bytes = this.#send(e.peer, { type: 'chunk', id: e.id, sealed }, e.priority)
          this.do(this.server.served(e.peer, e.id, bytes))
        })
        break
      case 'verify': {
        const isRight = chunkId(e.sealed).equals(e.id)
        this.#later(this.takeMs, () => this.do(this.exchange.verified(this.net.nowMs, e.token, isRight)))
        break
      }
      case 'arrived':
        if (!chunkId(e.sealed).equals(e.id)) throw new Error('bytes that are not the chunk were given out')
        this.#note(e.id, `${e.urgency} arrived`)
        this.chunks.set(keyOf(e.id), e.sealed)
        this.#later(this.takeMs, () => this.do(this.exchange.taken(this.net.nowMs, e.id)))
        break
      case 'failed': this.#note(e.id, `${e.urgency} ${e.why}`); break
      case 'lying':
        this.caught.push({ peer: e.peer, why: e.why })
        if (e.isAvoided) this.net.disconnect(this.name, e.peer)
        break
    }
  }

  #note(id: Buffer, how: string): void {
    const key = keyOf(id)
    this.ends.set(key, [...this.ends.get(key) ?? [], { how, atMs: this.net.nowMs }])
  }

  #check(): void {
    const { asked, verifying, untaken } = this.exchange.bytes
    const sum = asked + verifying + untaken
    if (Math.min(asked, verifying, untaken) < 0) throw new Error(`${this.name}: counted below zero: ${JSON.stringify(this.exchange.bytes)}`)
    // Two can arrive for one want: only one of them has a room of its own.
    if (sum > MAX_EXCHANGE_BYTES) throw new Error(`${this.name}: ${sum} bytes`)
    const [reader, ahead, pin, background] = this.exchange.wantCounts as [number, number, number, number]
    if (reader + ahead + pin > MAX_WANTS || background > MAX_BACKGROUND) throw new Error(`${this.name}: too many wants`)
    this.mostBytes = Math.max(this.mostBytes, sum)
    this.mostWants = Math.max(this.mostWants, reader + ahead + pin + background)
    for (const peer of this.net.nodes) {
      const { queued, reading } = this.server.state(peer)
      if (queued > MAX_QUEUED || reading > MAX_PEER_READS) throw new Error(`${this.name}: ${queued} wants of ${peer}, ${reading} read`)
    }
  }
}
