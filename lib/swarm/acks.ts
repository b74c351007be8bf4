/**
 * Which other devices have made durable what somebody waits for: an entry of our
 * own log, and chunks. A step machine: events in, effects out; no I/O, clock or
 * thread of its own.
 *
 * Entry and chunks are counted one by one, each device once: the entry and each
 * chunk need `count` devices, not the same ones. What a device has said stays
 * true when its link goes: it is on its disk. Of an entry that is what it said
 * last; of a chunk what it said while somebody waited.
 *
 * Invariants: chunks that are waited for: at most MAX_CHUNKS, or those of one
 * wait; waits beyond them stand in a queue. Each wait ends in one `done`,
 * `again` or `late`, unless it was given up.
 */
import { keyOf, type Peer } from './messages.js'

/** Chunks in one wait. */
export const MAX_WAIT_CHUNKS = 1024
/** Chunks that are waited for at a time: some megabytes. */
export const MAX_CHUNKS = 16 * MAX_WAIT_CHUNKS
/** Who has not said so is asked again for a chunk, later each time: an answer may have been lost with a link. */
const ASK_AGAIN_MS = 1000
const ASK_AGAIN_LONGEST_MS = 8000

export interface AckHost {
  /** Enrolled in the drive: who merely holds a key is served and counts for nothing. */
  isMember(peer: Peer): boolean
  /** Enrolled, connected, and not one that may let go of the chunk by itself, as a cache does. */
  keeps(peer: Peer, id: Buffer): boolean
  /** False: the chunk is of no use any more, and nobody will fetch it. */
  isNeeded(id: Buffer): boolean
}

export interface Goal {
  /** Our own log up to here; 0: none of it. */
  seq: number
  /** At most MAX_WAIT_CHUNKS. */
  ids: readonly Buffer[]
  /** Devices that are to have each, 1 and more. */
  count: number
  /** Given up when so long nothing of it has come. */
  waitMs: number
}

export type AckEffect =
  /** Which of these does it hold? The answer comes as `holds`. */
  | { type: 'ask'; peer: Peer; ids: Buffer[] }
  | { type: 'done'; wait: number }
  /** Some of it is of no use any more: what took its place may need to be waited for. */
  | { type: 'again'; wait: number }
  /** Its time is up; of `count` devices there are `have` that have what the fewest have. */
  | { type: 'late'; wait: number; have: number }

interface Chunk {
  readonly id: Buffer
  readonly holders: Set<Peer>
  readonly waits: Set<Wait>
  askAtMs: number
  everyMs: number
}

interface Wait {
  readonly token: number
  readonly goal: Goal
  untilMs: number
  /** Devices that had the entry when it was last looked at. */
  heads: number
  /** Chunks that too few have; undefined while it stands in the queue. */
  missing: Set<string> | undefined
  isOld: boolean
}

export class Acks {
  readonly #host: AckHost
  /** Connected. */
  readonly #peers = new Set<Peer>()
  /** Our own log, as far as each device said that it has it durably. */
  readonly #heads = new Map<Peer, number>()
  readonly #chunks = new Map<string, Chunk>()
  readonly #waits = new Map<number, Wait>()
  #out: AckEffect[] = []

  constructor(host: AckHost) {
    this.#host = host
  }

  /** Waits that have not ended. */
  get size(): number { return this.#waits.size }
  /** Chunks that are waited for. */
  get chunks(): number { return this.#chunks.size }

  peerUp(peer: Peer): void {
    this.#peers.add(peer)
    // It says anew what it has: it may have been put back to a backup.
    this.#heads.delete(peer)
  }

  peerDown(peer: Peer): void {
    this.#peers.delete(peer)
    if (!this.#host.isMember(peer)) this.#heads.delete(peer)
  }

  /** It has said what it keeps. */
  changed(nowMs: number, peer: Peer): AckEffect[] {
    if (this.#peers.has(peer)) this.#ask([...this.#chunks.values()], [peer])
    return this.#end(nowMs)
  }

  /** It has our own log durably up to `seq`. */
  receipt(nowMs: number, peer: Peer, seq: number): AckEffect[] {
    this.#heads.set(peer, seq)
    this.#lookAtHeads(nowMs)
    return this.#end(nowMs)
  }

  /** It holds these durably. */
  holds(nowMs: number, peer: Peer, ids: readonly Buffer[]): AckEffect[] {
    if (this.#chunks.size === 0 || !this.#peers.has(peer)) return []
    for (const id of ids) {
      const key = keyOf(id)
      const chunk = this.#chunks.get(key)
      if (!chunk || chunk.holders.has(peer) || !this.#host.keeps(peer, id)) continue
      chunk.holders.add(peer)
      for (const wait of [...chunk.waits]) {
        wait.untilMs = nowMs + wait.goal.waitMs
        if (chunk.holders.size >= wait.goal.count) this.#has(wait, key, chunk)
      }
    }
    return this.#end(nowMs)
  }

  /** We go on with another log: what is waited for has to be told anew. */
  renewed(nowMs: number): AckEffect[] {
    this.#heads.clear()
    for (const wait of this.#waits.values()) this.#over(wait, { type: 'again', wait: wait.token })
    return this.#end(nowMs)
  }

  /** `token`: a number that no other wait has. */
  wait(nowMs: number, token: number, goal: Goal): AckEffect[] {
    if (this.#waits.has(token) || goal.ids.length > MAX_WAIT_CHUNKS) throw new Error(`invariant: wait ${token} for ${goal.ids.length} chunks`)
    this.#waits.set(token, { token, goal, untilMs: nowMs + goal.waitMs, heads: this.#headsAt(goal.seq), missing: undefined, isOld: false })
    return this.#end(nowMs)
  }

  /** Nobody waits any more. */
  giveUp(nowMs: number, token: number): AckEffect[] {
    const wait = this.#waits.get(token)
    if (wait) this.#drop(wait)
    return this.#end(nowMs)
  }

  /** Every 200 ms or so. */
  tick(nowMs: number): AckEffect[] {
    const again: Chunk[] = []
    for (const [key, chunk] of this.#chunks) {
      if (nowMs < chunk.askAtMs) continue
      chunk.everyMs = Math.min(ASK_AGAIN_LONGEST_MS, chunk.everyMs * 2)
      chunk.askAtMs = nowMs + chunk.everyMs
      if (this.#host.isNeeded(chunk.id)) again.push(chunk)
      else {
        for (const wait of [...chunk.waits]) {
          wait.isOld = true
          this.#has(wait, key, chunk)
        }
      }
    }
    if (again.length > 0) this.#ask(again, this.#peers)
    // A certificate may have come.
    this.#lookAtHeads(nowMs)
    const out = this.#end(nowMs)
    for (const wait of this.#waits.values()) if (nowMs >= wait.untilMs) this.#over(wait, { type: 'late', wait: wait.token, have: this.#fewest(wait) })
    return [...out, ...this.#end(nowMs)]
  }

  /** Devices that have our log up to `seq`. */
  #headsAt(seq: number): number {
    let n = 0
    for (const [peer, head] of this.#heads) if (head >= seq && this.#host.isMember(peer)) n++
    return n
  }

  #lookAtHeads(nowMs: number): void {
    for (const wait of this.#waits.values()) {
      const heads = this.#headsAt(wait.goal.seq)
      if (heads > wait.heads) wait.untilMs = nowMs + wait.goal.waitMs
      wait.heads = Math.max(wait.heads, heads)
    }
  }

  #fewest(wait: Wait): number {
    let n = wait.goal.seq > 0 ? wait.heads : wait.goal.count
    for (const key of wait.missing ?? []) n = Math.min(n, this.#chunks.get(key)!.holders.size)
    return Math.min(n, wait.goal.count)
  }

  /** Lets waits in from the queue while there is room, and ends those that have everything. */
  #end(nowMs: number): AckEffect[] {
    for (const wait of this.#waits.values()) {
      if (!wait.missing) {
        // In their order, so that none waits for ever.
        if (this.#chunks.size > 0 && this.#chunks.size + wait.goal.ids.length > MAX_CHUNKS) break
        this.#begin(nowMs, wait)
      }
    }
    for (const wait of this.#waits.values()) {
      if (wait.missing?.size === 0 && (wait.goal.seq === 0 || wait.heads >= wait.goal.count)) this.#over(wait, { type: wait.isOld ? 'again' : 'done', wait: wait.token })
    }
    const out = this.#out
    this.#out = []
    return out
  }

  #begin(nowMs: number, wait: Wait): void {
    wait.missing = new Set()
    const fresh: Chunk[] = []
    for (const id of wait.goal.ids) {
      const key = keyOf(id)
      let chunk = this.#chunks.get(key)
      if (!chunk) {
        chunk = { id, holders: new Set(), waits: new Set(), askAtMs: nowMs + ASK_AGAIN_MS, everyMs: ASK_AGAIN_MS }
        this.#chunks.set(key, chunk)
        fresh.push(chunk)
      }
      if (chunk.holders.size >= wait.goal.count) continue
      wait.missing.add(key)
      chunk.waits.add(wait)
    }
    if (fresh.length > 0) this.#ask(fresh, this.#peers)
  }

  /** `wait` need not wait for the chunk any more. */
  #has(wait: Wait, key: string, chunk: Chunk): void {
    wait.missing!.delete(key)
    chunk.waits.delete(wait)
    if (chunk.waits.size === 0) this.#chunks.delete(key)
  }

  #over(wait: Wait, effect: AckEffect): void {
    this.#drop(wait)
    this.#out.push(effect)
  }

  #drop(wait: Wait): void {
    this.#waits.delete(wait.token)
    for (const key of [...wait.missing ?? []]) this.#has(wait, key, this.#chunks.get(key)!)
  }

  #ask(chunks: Chunk[], peers: Iterable<Peer>): void {
    for (const peer of peers) {
      const ids = chunks.filter((c) => !c.holders.has(peer) && this.#host.keeps(peer, c.id)).map((c) => c.id)
      if (ids.length > 0) this.#out.push({ type: 'ask', peer, ids })
    }
  }
}
