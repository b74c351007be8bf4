/**
 * The main thread's side of the network: starts the thread that does the work,
 * and keeps a `Link` for each connection in use there.
 *
 * Should that thread fail, all links close, and a new one starts: the devices
 * find each other again.
 *
 * Owns: the worker.
 */
import { Worker } from 'node:worker_threads'
import { fail } from '../../errors.js'
import { LOW_WATER_BYTES, MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, MAX_QUEUED_BYTES, MESSAGE_COST_BYTES } from '../../limits.js'
import { copyInto } from '../../memory.js'
import { parseAddress } from './address.js'
import { bytesAt, giveBack, makeLentMemory, type LentMemory } from './lent.js'
import type { Link, NetOptions, NetStatus, Priority, Via } from './link.js'
import type { LaneIndex } from './packet.js'
import { giveable, Outbox, type FromWorker, type NetSetup, type ToWorker } from './port.js'

/**
 * The network's thread, which each word wakes, hears of what was taken in lumps of so much. With the quarter of a window that it holds
 * back itself, even the smaller one still has room for the longest message.
 */
const TAKEN_LUMP_BYTES = 512 * 1024
const FIRST_RESTART_MS = 1000
const MAX_RESTART_MS = 60_000
/** For an orderly end of the worker; then it is made to end. */
const CLOSE_TIMEOUT_MS = 6000

type State = 'starting' | 'open' | 'failed' | 'closed'

export class Net {
  /** A device of the drive can be talked to. It has proven membership, no more: `hello` is to be checked. */
  onLink: (link: Link) => void = () => {}
  /** The network's thread has failed and starts again. */
  onFault: (error: Error) => void = () => {}

  readonly #options: NetOptions
  readonly #addresses: string[]
  readonly #links = new Map<number, NetLink>()
  readonly #out: Outbox<ToWorker>
  #worker: Worker | undefined
  #state: State = 'starting'
  #port = 0
  #ready: Promise<void> | undefined
  #settleReady: { resolve(): void; reject(error: Error): void } | undefined
  #closing: Promise<void> | undefined
  #onStopped: (() => void) | undefined
  #restartMs = FIRST_RESTART_MS
  #restartTimer: NodeJS.Timeout | undefined
  readonly #statuses = new Map<number, (status: NetStatus | undefined) => void>()
  #nextStatus = 1

  /** Starts at once. USAGE if an address is malformed. */
  constructor(options: NetOptions) {
    for (const address of [...(options.peers ?? []), ...(options.bootstrap ?? []), ...(options.kept ?? []).flatMap((k) => k.addresses)]) parseAddress(address)
    this.#options = options
    this.#addresses = [...(options.peers ?? [])]
    this.#out = new Outbox((list, transfer) => this.#worker?.postMessage(list, transfer))
    this.#start()
  }

  /** When it listens. USAGE if the port or the address cannot be had. */
  ready(): Promise<void> {
    return (this.#ready ??= new Promise<void>((resolve, reject) => {
      if (this.#state === 'open') return resolve()
      if (this.#state !== 'starting') return reject(fail('DAEMON_FAILED', 'the network is closed'))
      this.#settleReady = { resolve, reject }
    }))
  }

  /** The TCP port; 0 before ready(). */
  get port(): number { return this.#port }

  /** 'HOST:PORT', tried for ever. USAGE if malformed. */
  addPeer(address: string): void {
    parseAddress(address)
    if (this.#addresses.includes(address)) return
    this.#addresses.push(address)
    this.#out.push({ type: 'peer', address })
  }

  get links(): Link[] { return [...this.#links.values()] }

  /** Undefined while the network's thread is not there. */
  status(): Promise<NetStatus | undefined> {
    if (this.#state !== 'open' || !this.#worker) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      const id = this.#nextStatus++
      this.#statuses.set(id, resolve)
      this.#out.push({ type: 'status', id })
    })
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    this.#state = 'closed'
    clearTimeout(this.#restartTimer)
    this.#settleReady?.reject(fail('DAEMON_FAILED', 'the network was closed'))
    const worker = this.#worker
    if (worker) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, CLOSE_TIMEOUT_MS)
        this.#onStopped = () => {
          clearTimeout(timer)
          resolve()
        }
        this.#out.push({ type: 'stop' })
      })
      await worker.terminate()
    }
    this.#gone('closed')
  }

  #start(): void {
    const { device, driveId, topic, proofKey, port, host, bootstrap, tcp, dht, mdns } = this.#options
    // After a fault on the port that peers know by now.
    const setup: NetSetup = {
      device: { publicKey: Uint8Array.from(device.publicKey), secretKey: Uint8Array.from(device.secretKey) },
      driveId: Uint8Array.from(driveId), topic: Uint8Array.from(topic), proofKey: Uint8Array.from(proofKey),
      port: this.#port || (port ?? 0), host, peers: this.#addresses, kept: this.#options.kept ?? [], bootstrap, tcp: tcp ?? true, dht: dht ?? true, mdns: mdns ?? true,
      lent: makeLentMemory(),
    }
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: setup, name: 'dfs network' })
    this.#worker = worker
    worker.on('message', (list: FromWorker[]) => {
      if (this.#worker === worker) for (const message of list) this.#obey(message, setup.lent)
    })
    worker.on('error', (error) => this.#fault(worker, error))
    worker.on('exit', (code) => this.#fault(worker, new Error(`the network's thread ended with code ${code}`)))
  }

  #fault(worker: Worker, error: Error): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    this.#onStopped?.()
    this.#gone('the network failed')
    if (this.#state === 'closed') return
    if (this.#state === 'starting') {
      this.#state = 'failed'
      this.#settleReady?.reject(error)
      return
    }
    this.onFault(error)
    this.#restartTimer = setTimeout(() => this.#start(), this.#restartMs)
    this.#restartMs = Math.min(2 * this.#restartMs, MAX_RESTART_MS)
  }

  #gone(reason: string): void {
    for (const link of [...this.#links.values()]) link.ended(reason)
    this.#links.clear()
    for (const resolve of this.#statuses.values()) resolve(undefined)
    this.#statuses.clear()
  }

  #obey(message: FromWorker, lent: LentMemory | undefined): void {
    switch (message.type) {
      case 'ready':
        this.#port = message.port
        if (this.#state === 'starting') this.#state = 'open'
        return this.#settleReady?.resolve()
      case 'failed':
        if (this.#state === 'starting') {
          this.#state = 'failed'
          const worker = this.#worker
          this.#worker = undefined
          void worker?.terminate()
          this.#settleReady?.reject(fail('USAGE', message.message))
          // Who has not asked yet learns it then.
          this.#ready ??= Promise.reject(fail('USAGE', message.message))
          this.#ready.catch(() => {})
        } else if (this.#worker) {
          void this.#worker.terminate()
        }
        return
      case 'hello':
        return this.#out.push({ type: 'hello', id: message.id, bytes: this.#hello() })
      case 'link': {
        const link = new NetLink(message, this.#out)
        this.#links.set(message.link, link)
        this.#restartMs = FIRST_RESTART_MS
        return this.onLink(link)
      }
      case 'message':
        return this.#links.get(message.link)?.arrived(message.lane, message.bytes)
      case 'lent': {
        const { place } = message
        const link = this.#links.get(message.link)
        if (link) link.lent(message.lane, bytesAt(lent!, place), () => giveBack(lent!, place))
        else giveBack(lent!, place)
        return
      }
      case 'sent':
        return this.#links.get(message.link)?.sent(message.bytes)
      case 'unsent':
        return this.#links.get(message.link)?.unsent(message.head, message.message, message.bytes)
      case 'rtt':
        return this.#links.get(message.link)?.measured(message)
      case 'closed': {
        const link = this.#links.get(message.link)
        this.#links.delete(message.link)
        return link?.ended(message.reason)
      }
      case 'status':
        this.#statuses.get(message.id)?.(message.status)
        this.#statuses.delete(message.id)
        return
      case 'stopped':
        this.#onStopped?.()
    }
  }

  #hello(): Uint8Array {
    const bytes = Uint8Array.from(this.#options.hello())
    if (bytes.length > MAX_HELLO_BYTES) throw fail('EINVAL', `hello gave ${bytes.length} bytes; ${MAX_HELLO_BYTES} are allowed`)
    return bytes
  }
}

type LinkSetup = Extract<FromWorker, { type: 'link' }>

/** Invariant: once `#isClosed`, no handler is called any more. */
class NetLink implements Link {
  readonly peer: Buffer
  readonly hello: Buffer
  readonly reachedAt: string[]
  onLent: Link['onLent']
  onDrain: () => void = () => {}
  onFileError: (head: Buffer, error: Error) => void = () => {}
  onClose: (reason: string) => void = () => {}

  readonly #number: number
  readonly #out: Outbox<ToWorker>
  #onMessage: ((bytes: Buffer) => void | Promise<void>) | undefined
  /** Came before there was a handler. */
  #early: { lane: LaneIndex; bytes: Uint8Array }[] = []
  #via: Via
  #address: string
  #rttMs: number
  #bytesIn = 0
  #bytesOut = 0
  #queuedBytes = 0
  #isAboveLowWater = false
  #isClosed = false
  /** Cost of messages taken and not told of, by lane. */
  readonly #takenBytes: [number, number] = [0, 0]

  constructor({ link, peer, hello, via, address, reachedAt, rttMs }: LinkSetup, out: Outbox<ToWorker>) {
    this.#number = link
    this.#out = out
    this.peer = Buffer.from(peer)
    this.hello = Buffer.from(hello)
    this.reachedAt = reachedAt
    this.#via = via
    this.#address = address
    this.#rttMs = rttMs
  }

  get via(): Via { return this.#via }
  get address(): string { return this.#address }
  get rttMs(): number { return this.#rttMs }
  get bytesIn(): number { return this.#bytesIn }
  get bytesOut(): number { return this.#bytesOut }
  get queuedBytes(): number { return this.#queuedBytes }

  get onMessage(): (bytes: Buffer) => void | Promise<void> { return this.#onMessage ?? (() => {}) }

  set onMessage(handler: (bytes: Buffer) => void | Promise<void>) {
    this.#onMessage = handler
    if (this.#early.length === 0) return
    queueMicrotask(() => {
      const early = this.#early
      this.#early = []
      for (const { lane, bytes } of early) this.arrived(lane, bytes)
    })
  }

  send(bytes: Uint8Array, priority: Priority): void {
    // Sent twice, a transferred buffer would be empty the second time.
    if (bytes.length === 0 || bytes.length > MAX_MESSAGE_BYTES) throw fail('EINVAL', `a message has 1 to ${MAX_MESSAGE_BYTES} bytes, not ${bytes.length}`)
    if (this.#isClosed) return
    const { bytes: own, transfer } = giveable(bytes)
    this.#queued(own.length)
    this.#out.push({ type: 'send', link: this.#number, lane: priority === 'now' ? 0 : 1, bytes: own }, transfer)
  }

  sendFile(head: Uint8Array, { path, offset, length }: { path: string; offset: number; length: number }): void {
    if (head.length + length > MAX_MESSAGE_BYTES || head.length + length === 0 || length < 0) throw fail('EINVAL', `a message has 1 to ${MAX_MESSAGE_BYTES} bytes, not ${head.length + length}`)
    if (this.#isClosed) return
    this.#queued(head.length + length)
    this.#out.push({ type: 'file', link: this.#number, head: Uint8Array.from(head), path, offset, length })
  }

  close(reason = 'closed'): void {
    if (this.#isClosed) return
    this.#out.push({ type: 'close', link: this.#number, reason })
    this.ended(reason)
  }

  // --- told by Net ---

  arrived(lane: LaneIndex, bytes: Uint8Array): void {
    if (this.#isClosed) return
    const handler = this.#onMessage
    if (!handler || this.#early.length > 0) {
      this.#early.push({ lane, bytes })
      return
    }
    this.#bytesIn += bytes.length
    const costBytes = bytes.length + MESSAGE_COST_BYTES
    const taking = handler(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    if (taking instanceof Promise) taking.finally(() => this.#taken(lane, costBytes))
    else this.#taken(lane, costBytes)
  }

  /** As `arrived`, in lent memory. */
  lent(lane: LaneIndex, bytes: Buffer, giveBack: () => void): void {
    if (!this.#isClosed && this.#early.length === 0 && this.onLent?.(bytes, giveBack)) {
      this.#bytesIn += bytes.length
      this.#taken(lane, bytes.length + MESSAGE_COST_BYTES)
      return
    }
    const own = Buffer.allocUnsafe(bytes.length)
    copyInto(own, 0, bytes)
    giveBack()
    this.arrived(lane, own)
  }

  sent(bytes: number): void {
    this.#bytesOut += bytes
    this.#unqueued(bytes)
  }

  unsent(head: Uint8Array, message: string, bytes: number): void {
    if (this.#isClosed) return
    this.onFileError(Buffer.from(head), fail('EIO', message))
    this.#unqueued(bytes)
  }

  measured({ rttMs, via, address }: { rttMs: number; via: Via; address: string }): void {
    this.#rttMs = rttMs
    this.#via = via
    this.#address = address
  }

  ended(reason: string): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#queuedBytes = 0
    this.#early = []
    this.onClose(reason)
  }

  #queued(bytes: number): void {
    this.#queuedBytes += bytes
    if (this.#queuedBytes > LOW_WATER_BYTES) this.#isAboveLowWater = true
    if (this.#queuedBytes > MAX_QUEUED_BYTES) this.close('more was queued than the link may hold')
  }

  #unqueued(bytes: number): void {
    if (this.#isClosed) return
    this.#queuedBytes -= bytes
    if (!this.#isAboveLowWater || this.#queuedBytes > LOW_WATER_BYTES) return
    this.#isAboveLowWater = false
    this.onDrain()
  }

  #taken(lane: LaneIndex, costBytes: number): void {
    if (this.#isClosed) return
    const taken = this.#takenBytes[lane] += costBytes
    if (taken < TAKEN_LUMP_BYTES) return
    this.#takenBytes[lane] = 0
    this.#out.push({ type: 'taken', link: this.#number, lane, costBytes: taken })
  }
}
