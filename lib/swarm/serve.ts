/**
 * Giving chunks to peers. A step machine: events in, effects out.
 *
 * A chunk is read and sent only when its link has room, so that memory is
 * bounded and what is urgent never waits behind what is not. Of the peers whose
 * links have room, the one with the most urgent want is served, and among equals
 * the one that got the fewest bytes; but who has got UNFAIR_BYTES more than
 * others who wait is served as if nobody waited there.
 *
 * Invariants, asserted by test/sim: at most MAX_READS chunks are being read, of
 * one peer MAX_PEER_READS; at most MAX_QUEUED wants of one peer wait.
 */
import { CHUNK_AVERAGE_BYTES } from '../limits.js'
import { MAX_IDS, keyOf, type CancelChunks, type HurryChunks, type NoChunks, type Peer, type WantChunks } from './messages.js'
import type { Priority } from './net/link.js'
import { RANK } from './wants.js'

/** Chunks in memory between disk and link: 16 MiB at most. */
export const MAX_READS = 16
/** Of one peer: the disk works on the next ones while the link takes one. */
export const MAX_PEER_READS = 4
/** Wants of one peer that wait: more than an honest one has under way. The rest is refused. */
export const MAX_QUEUED = 4096
/** No chunk is read for a link that holds so much: twice what makes it call for more (LOW_WATER_BYTES). */
const FULL_LINK_BYTES = 2 * 1024 * 1024
/** A peer that says of everything that a reader waits gets so much ahead of the others. */
const UNFAIR_BYTES = 32 * 1024 * 1024

/** What serving asks of the host, at once. */
export interface ServeHost {
  /** Bytes that wait in the link to a peer: Link.queuedBytes. */
  queuedBytes(peer: Peer): number
}

export type ServeEffect =
  /** Read the chunk and give it to the link (wire.ts: encode), then call `served`; or give it to the link as a file (chunkHead), and call `sent`. */
  | { type: 'serve'; peer: Peer; id: Buffer; priority: Priority }
  | { type: 'send'; peer: Peer; message: NoChunks; priority: Priority }

interface Client {
  /** By rank, in the order in which they came. */
  readonly queues: Map<string, Buffer>[]
  /** Of the most urgent, those that were asked for ahead: what the link holds was asked for before them, and they go the cheap way behind it. */
  readonly hurried: Set<string>
  count: number
  /** Chunks being read; false: cancelled, so that it is not sent. */
  readonly reading: Map<string, boolean>
  /** What it got, as a place in line: a newcomer begins where the others are. */
  turnBytes: number
  /** Refusals of this step. */
  refused: Buffer[]
}

export class ChunkServer {
  readonly #host: ServeHost
  readonly #clients = new Map<Peer, Client>()
  #reads = 0
  #out: ServeEffect[] = []

  constructor(host: ServeHost) {
    this.#host = host
  }

  peerUp(peer: Peer): ServeEffect[] {
    if (this.#clients.has(peer)) throw new Error(`invariant: ${peer} is connected already`)
    this.#clients.set(peer, { queues: [new Map(), new Map(), new Map(), new Map()], hurried: new Set(), count: 0, reading: new Map(), turnBytes: 0, refused: [] })
    return this.#end()
  }

  peerDown(peer: Peer): ServeEffect[] {
    const client = this.#clients.get(peer)
    if (client) this.#reads -= client.reading.size
    this.#clients.delete(peer)
    return this.#end()
  }

  message(peer: Peer, m: WantChunks | HurryChunks | CancelChunks): ServeEffect[] {
    const client = this.#clients.get(peer)
    if (!client) return this.#end()
    if (m.type === 'hurryChunks') {
      this.#hurry(client, m)
      return this.#end()
    }
    if (client.count === 0 && m.type === 'wantChunks') client.turnBytes = Math.max(client.turnBytes, this.#leastTurn())
    for (const id of m.ids) {
      const key = keyOf(id)
      for (const queue of client.queues) if (queue.delete(key)) client.count--
      client.hurried.delete(key)
      if (m.type === 'cancelChunks') {
        if (client.reading.has(key)) client.reading.set(key, false)
      } else if (client.reading.has(key)) client.reading.set(key, true)
      else if (client.count >= MAX_QUEUED) client.refused.push(id)
      else {
        client.queues[RANK[m.urgency]]!.set(key, id)
        client.count++
      }
    }
    return this.#end()
  }

  /** What does not wait here is being sent, or was refused. */
  #hurry(client: Client, m: HurryChunks): void {
    for (const id of m.ids) {
      const key = keyOf(id)
      const queue = client.queues.find((q) => q.delete(key))
      if (!queue) continue
      client.queues[RANK[m.urgency]]!.set(key, id)
      client.hurried.add(key)
    }
  }

  /** Whether a chunk that was read is still wanted: ask before giving it to the link. */
  isWanted(peer: Peer, id: Buffer): boolean {
    return this.#clients.get(peer)?.reading.get(keyOf(id)) ?? false
  }

  /** The end of a `serve`: so many bytes were given to the link; 0: the chunk is not here, or cannot be read. Not if it was no longer wanted: then -1. */
  served(peer: Peer, id: Buffer, bytes: number): ServeEffect[] {
    this.#served(peer, id, bytes)
    return this.#end()
  }

  /** As `served`, in the same step as the `serve`: who wants the chunk from now on wants it again. What is next is said at `drained`. */
  sent(peer: Peer, id: Buffer, bytes: number): void {
    this.#served(peer, id, bytes)
  }

  #served(peer: Peer, id: Buffer, bytes: number): void {
    const client = this.#clients.get(peer)
    const key = keyOf(id)
    // The peer may have gone, and be back.
    if (!client?.reading.has(key)) return
    const isWanted = client.reading.get(key)!
    client.reading.delete(key)
    this.#reads--
    client.turnBytes += Math.max(0, bytes) - CHUNK_AVERAGE_BYTES
    if (bytes === 0 && isWanted) client.refused.push(id)
  }

  /** The link to a peer has room again, or something was sent. */
  drained(_peer: Peer): ServeEffect[] {
    return this.#end()
  }

  /** Wants that wait, and chunks being read. */
  state(peer: Peer): { queued: number; reading: number } {
    const client = this.#clients.get(peer)
    return { queued: client?.count ?? 0, reading: client?.reading.size ?? 0 }
  }

  #leastTurn(): number {
    let least = Infinity
    for (const client of this.#clients.values()) if (client.count > 0) least = Math.min(least, client.turnBytes)
    return least === Infinity ? 0 : least
  }

  #end(): ServeEffect[] {
    while (this.#reads < MAX_READS) {
      const peer = this.#next()
      if (peer === undefined) break
      this.#serve(peer)
    }
    for (const [peer, client] of this.#clients) {
      for (let at = 0; at < client.refused.length; at += MAX_IDS) {
        this.#out.push({ type: 'send', peer, message: { type: 'noChunks', ids: client.refused.slice(at, at + MAX_IDS) }, priority: 'now' })
      }
      client.refused = []
    }
    const out = this.#out
    this.#out = []
    return out
  }

  /** Whose turn it is. */
  #next(): Peer | undefined {
    const ready: [Peer, Client][] = []
    let least = Infinity
    for (const [peer, client] of this.#clients) {
      if (client.count === 0 || client.reading.size >= MAX_PEER_READS) continue
      if (this.#host.queuedBytes(peer) + client.reading.size * CHUNK_AVERAGE_BYTES >= FULL_LINK_BYTES) continue
      ready.push([peer, client])
      least = Math.min(least, client.turnBytes)
    }
    let best: Peer | undefined, bestRank = Infinity, bestTurn = Infinity
    for (const [peer, client] of ready) {
      const rank = client.turnBytes - least > UNFAIR_BYTES ? 3 : client.queues.findIndex((queue) => queue.size > 0)
      if (rank < bestRank || (rank === bestRank && client.turnBytes < bestTurn)) [best, bestRank, bestTurn] = [peer, rank, client.turnBytes]
    }
    return best
  }

  #serve(peer: Peer): void {
    const client = this.#clients.get(peer)!
    const rank = client.queues.findIndex((queue) => queue.size > 0)
    const [key, id] = client.queues[rank]!.entries().next().value!
    client.queues[rank]!.delete(key)
    client.count--
    client.reading.set(key, true)
    client.turnBytes += CHUNK_AVERAGE_BYTES
    this.#reads++
    const isHurried = client.hurried.delete(key)
    this.#out.push({ type: 'serve', peer, id, priority: rank === RANK.reader && !isHurried ? 'now' : 'bulk' })
  }
}
