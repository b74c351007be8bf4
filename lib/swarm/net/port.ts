/** What the main thread and the network's thread say to each other. Bytes are transferred, copies, or lie in lent memory (lent.ts). */
import type { LentMemory, Place } from './lent.js'
import type { NetStatus, Via } from './link.js'
import type { LaneIndex } from './packet.js'

/** The worker's workerData. */
export interface NetSetup {
  device: { publicKey: Uint8Array; secretKey: Uint8Array }
  driveId: Uint8Array
  topic: Uint8Array
  proofKey: Uint8Array
  port: number
  host: string | undefined
  peers: string[]
  kept: { device: string; addresses: string[] }[]
  bootstrap: string[] | undefined
  tcp: boolean
  dht: boolean
  mdns: boolean
  /** For large messages that come. */
  lent: LentMemory | undefined
}

export type ToWorker =
  | { type: 'send'; link: number; lane: LaneIndex; bytes: Uint8Array }
  | { type: 'file'; link: number; head: Uint8Array; path: string; offset: number; length: number }
  /** Messages of this lane have been taken; what they cost of the window. */
  | { type: 'taken'; link: number; lane: LaneIndex; costBytes: number }
  | { type: 'close'; link: number; reason: string }
  | { type: 'hello'; id: number; bytes: Uint8Array }
  | { type: 'peer'; address: string }
  | { type: 'status'; id: number }
  | { type: 'stop' }

export type FromWorker =
  | { type: 'ready'; port: number }
  | { type: 'failed'; message: string }
  | { type: 'hello'; id: number }
  | { type: 'link'; link: number; peer: Uint8Array; hello: Uint8Array; via: Via; address: string; reachedAt: string[]; rttMs: number }
  | { type: 'message'; link: number; lane: LaneIndex; bytes: Uint8Array }
  /** As `message`, in lent memory. */
  | { type: 'lent'; link: number; lane: LaneIndex; place: Place }
  /** So many bytes have left the queue for the network since the last time. */
  | { type: 'sent'; link: number; bytes: number }
  | { type: 'unsent'; link: number; head: Uint8Array; message: string; bytes: number }
  | { type: 'rtt'; link: number; rttMs: number; via: Via; address: string }
  | { type: 'closed'; link: number; reason: string }
  | { type: 'status'; id: number; status: NetStatus }
  | { type: 'stopped' }

/** Below this a copy is cheaper than a transfer. */
export const TRANSFER_BYTES = 16 * 1024

/** Collects what is said in one turn, so that many small messages cross in one. */
export class Outbox<T> {
  #list: T[] = []
  #transfer: ArrayBuffer[] = []
  readonly #post: (list: T[], transfer: ArrayBuffer[]) => void
  #isScheduled = false

  constructor(post: (list: T[], transfer: ArrayBuffer[]) => void) {
    this.#post = post
  }

  push(message: T, transfer?: ArrayBufferLike): void {
    this.#list.push(message)
    if (transfer instanceof ArrayBuffer) this.#transfer.push(transfer)
    if (this.#isScheduled) return
    this.#isScheduled = true
    queueMicrotask(() => this.flush())
  }

  flush(): void {
    this.#isScheduled = false
    if (this.#list.length === 0) return
    const list = this.#list
    const transfer = this.#transfer
    this.#list = []
    this.#transfer = []
    this.#post(list, transfer)
  }
}

/** The bytes as something that may be given away: they themselves if they are large and alone in their memory, else a copy. */
export function giveable(bytes: Uint8Array): { bytes: Uint8Array; transfer: ArrayBuffer | undefined } {
  const { buffer } = bytes
  const isAlone = buffer instanceof ArrayBuffer && bytes.byteLength === buffer.byteLength
  const own = isAlone && (bytes.length >= TRANSFER_BYTES || Object.getPrototypeOf(bytes) === Uint8Array.prototype) ? bytes : Uint8Array.from(bytes)
  return { bytes: own, transfer: own.length >= TRANSFER_BYTES ? (own.buffer as ArrayBuffer) : undefined }
}
