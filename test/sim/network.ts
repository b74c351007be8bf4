/**
 * A network and a clock in memory. One seed decides every delay, so that a run
 * replays exactly: nothing here looks at the time or at Math.random.
 *
 * Links behave as lib/swarm/net/link.ts says: whole messages, each at most
 * once, order kept within a priority, 'now' overtaking 'bulk', a bound on
 * speed; a link that drops loses what is under way. Messages of different links
 * arrive in any order.
 *
 * Nodes hold handlers; who connects to whom is up to the test (`connect`,
 * `isolate`, `heal`). `run` works off everything up to a time; a simulation of
 * asynchronous parts calls `step` and lets them settle in between.
 */
/** 0 <= x < 1; the same sequence for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let a = seed >>> 0
  return () => {
    a = (a + 0x6d2b79f5) >>> 0
    let t = Math.imul(a ^ (a >>> 15), a | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

export interface SimHandlers {
  onUp(peer: string): void
  onDown(peer: string): void
  onMessage(peer: string, bytes: Buffer): void
  onDrain(peer: string): void
}

export interface NetworkOptions {
  seed: number
  /** Milliseconds from one node to another. */
  delayMs?: [min: number, max: number]
  /** Bytes a millisecond of each direction of a link. */
  bytesPerMs?: number
  /** Link.onDrain comes when less is queued. */
  lowWaterBytes?: number
}

interface Pipe {
  from: string
  to: string
  queued: { bytes: Buffer; priority: 'now' | 'bulk' }[]
  queuedBytes: number
  isPumping: boolean
  wasHigh: boolean
  /** Of the last message of each priority: the next one does not arrive before. */
  lastNowMs: number
  lastBulkMs: number
  bytesPerMs: number
}

interface SimLink { isUp: boolean; pipes: [Pipe, Pipe] }

interface Timer { atMs: number; order: number; run: () => void; isCancelled: boolean }

export class SimNetwork {
  nowMs = 0
  /** 0 <= x < 1, of the network's own sequence. */
  readonly random: () => number
  /** Bytes that arrived, and messages. */
  arrived = { bytes: 0, messages: 0 }
  readonly #options: Required<NetworkOptions>
  readonly #nodes = new Map<string, SimHandlers>()
  readonly #links = new Map<string, SimLink>()
  /** Unordered pairs that may not be connected. */
  readonly #cut = new Set<string>()
  readonly #timers: Timer[] = []
  #order = 0

  constructor(options: NetworkOptions) {
    this.#options = { delayMs: [1, 40], bytesPerMs: 10_000, lowWaterBytes: 1024 * 1024, ...options }
    this.random = seeded(options.seed)
  }

  // --- time ---

  /** Runs `what` at nowMs + delayMs. Gives what cancels it. */
  after(delayMs: number, what: () => void): () => void {
    const timer: Timer = { atMs: this.nowMs + Math.max(0, delayMs), order: this.#order++, run: what, isCancelled: false }
    this.#push(timer)
    return () => { timer.isCancelled = true }
  }

  every(periodMs: number, what: () => void): () => void {
    let isOver = false
    const again = () => {
      if (isOver) return
      what()
      this.after(periodMs, again)
    }
    this.after(periodMs, again)
    return () => { isOver = true }
  }

  between(min: number, max: number): number {
    return min + Math.floor(this.random() * (max - min + 1))
  }

  /** The next thing to happen, if it is not later than `untilMs`. False if there is none. */
  step(untilMs = Infinity): boolean {
    for (;;) {
      const next = this.#timers[0]
      if (!next || next.atMs > untilMs) return false
      this.#pop()
      if (next.isCancelled) continue
      this.nowMs = next.atMs
      next.run()
      return true
    }
  }

  /** Everything up to a time. */
  run(untilMs: number): void {
    while (this.step(untilMs)) { /* the point */ }
    this.nowMs = Math.max(this.nowMs, untilMs)
  }

  // --- nodes and links ---

  /** A node joins, or comes back after `remove`. */
  add(name: string, handlers: SimHandlers): void {
    if (this.#nodes.has(name)) throw new Error(`${name} is there already`)
    this.#nodes.set(name, handlers)
  }

  /** Its machine loses power: the others see their links drop a little later, itself sees nothing. */
  remove(name: string): void {
    this.#nodes.delete(name)
    for (const key of [...this.#links.keys()]) if (key.split('|').includes(name)) this.#drop(key)
  }

  get nodes(): string[] { return [...this.#nodes.keys()] }

  isConnected(a: string, b: string): boolean {
    return this.#links.has(pair(a, b))
  }

  /** No effect if they are connected, cut off from each other, or not there. */
  connect(a: string, b: string): void {
    const key = pair(a, b)
    const left = this.#nodes.get(a), right = this.#nodes.get(b)
    if (a === b || !left || !right || this.#links.has(key) || this.#cut.has(key)) return
    const pipe = (from: string, to: string): Pipe => ({
      from, to, queued: [], queuedBytes: 0, isPumping: false, wasHigh: false, lastNowMs: 0, lastBulkMs: 0, bytesPerMs: this.#options.bytesPerMs,
    })
    this.#links.set(key, { isUp: true, pipes: [pipe(a, b), pipe(b, a)] })
    left.onUp(b)
    // The first message of one may arrive when the other knows of the link: not before.
    if (this.#links.has(key)) right.onUp(a)
  }

  disconnect(a: string, b: string): void {
    this.#drop(pair(a, b))
  }

  /** Everybody with everybody. */
  connectAll(): void {
    const names = this.nodes
    for (const [i, a] of names.entries()) for (const b of names.slice(i + 1)) this.connect(a, b)
  }

  /** Only nodes of one group can be connected, until `heal`. */
  partition(groups: string[][]): void {
    this.#cut.clear()
    for (const [i, group] of groups.entries()) {
      for (const a of group) for (const others of groups.slice(i + 1)) for (const b of others) {
        this.#cut.add(pair(a, b))
        this.disconnect(a, b)
      }
    }
  }

  heal(): void {
    this.#cut.clear()
  }

  /** Bytes a millisecond from one node to another, from now on. */
  setSpeed(from: string, to: string, bytesPerMs: number): void {
    const pipe = this.#pipe(from, to)
    if (pipe) pipe.bytesPerMs = bytesPerMs
  }

  /** Nothing happens without a link. */
  send(from: string, to: string, bytes: Buffer, priority: 'now' | 'bulk'): void {
    const pipe = this.#pipe(from, to)
    if (!pipe) return
    pipe.queued.push({ bytes, priority })
    pipe.queuedBytes += bytes.length
    if (pipe.queuedBytes >= this.#options.lowWaterBytes) pipe.wasHigh = true
    if (!pipe.isPumping) this.#pump(pipe)
  }

  queuedBytes(from: string, to: string): number {
    return this.#pipe(from, to)?.queuedBytes ?? 0
  }

  #pipe(from: string, to: string): Pipe | undefined {
    return this.#links.get(pair(from, to))?.pipes.find((p) => p.from === from)
  }

  /** One message onto the wire; the next one when it has left. */
  #pump(pipe: Pipe): void {
    const at = Math.max(0, pipe.queued.findIndex((m) => m.priority === 'now'))
    const [message] = pipe.queued.splice(at, 1)
    pipe.isPumping = message !== undefined
    if (!message) return
    const link = this.#links.get(pair(pipe.from, pipe.to))
    const { bytes, priority } = message
    const isThere = () => link !== undefined && link.isUp
    this.after(bytes.length / pipe.bytesPerMs, () => {
      if (!isThere()) return
      pipe.queuedBytes -= bytes.length
      const last = priority === 'now' ? pipe.lastNowMs : pipe.lastBulkMs
      const arriveMs = Math.max(last, this.nowMs + this.between(...this.#options.delayMs))
      if (priority === 'now') pipe.lastNowMs = arriveMs
      else pipe.lastBulkMs = arriveMs
      this.after(arriveMs - this.nowMs, () => {
        if (!isThere()) return
        this.arrived.bytes += bytes.length
        this.arrived.messages++
        this.#nodes.get(pipe.to)?.onMessage(pipe.from, bytes)
      })
      this.#pump(pipe)
      if (pipe.wasHigh && pipe.queuedBytes < this.#options.lowWaterBytes) {
        pipe.wasHigh = false
        this.#nodes.get(pipe.from)?.onDrain(pipe.to)
      }
    })
  }

  #drop(key: string): void {
    const link = this.#links.get(key)
    if (!link) return
    link.isUp = false
    this.#links.delete(key)
    const [a, b] = key.split('|') as [string, string]
    this.#nodes.get(a)?.onDown(b)
    this.#nodes.get(b)?.onDown(a)
  }

  // --- a binary heap, by time and then by order of arrival ---

  #push(timer: Timer): void {
    const heap = this.#timers
    let at = heap.push(timer) - 1
    while (at > 0) {
      const up = (at - 1) >> 1
      if (!isBefore(heap[at]!, heap[up]!)) break
      ;[heap[at], heap[up]] = [heap[up]!, heap[at]!]
      at = up
    }
  }

  #pop(): void {
    const heap = this.#timers
    const last = heap.pop()!
    if (heap.length === 0) return
    heap[0] = last
    for (let at = 0; ;) {
      let least = at
      for (const child of [2 * at + 1, 2 * at + 2]) if (child < heap.length && isBefore(heap[child]!, heap[least]!)) least = child
      if (least === at) return
      ;[heap[at], heap[least]] = [heap[least]!, heap[at]!]
      at = least
    }
  }
}

function isBefore(a: Timer, b: Timer): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
}

function pair(a: string, b: string): string {
  return a < b ? `${a}|${b}` : `${b}|${a}`
}
