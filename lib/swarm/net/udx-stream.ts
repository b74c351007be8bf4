/**
 * A connection of hyperswarm, read and written past the two streams that it comes
 * in: UDX gives each packet of some 1,400 bytes to JavaScript, and
 * @hyperswarm/secret-stream puts frames together from them in fresh memory, which
 * costs more than the packets themselves. Here UDX writes what comes straight into
 * one buffer and calls when a frame is complete; it is opened where it lies.
 * The bytes on the wire are the same, and sealed with the same state.
 *
 * State: shaking (secret-stream reads, until the guard is open to long frames) -> copying -> in place -> closed.
 * What secret-stream 6 and udx-native 1 keep to themselves is looked at before it is used. Without that of the first there is no
 * stream; where that of the second is not as it is known here, a stream goes on copying.
 *
 * Events: 'data' (one frame, good until the listener returns), 'drain', 'end', 'error', 'close'.
 * Owns: the stream, which stays hyperswarm's for all but its bytes.
 */
import type SecretStream from '@hyperswarm/secret-stream'
import { EventEmitter } from 'node:events'
import { FramePool, LENGTH_BYTES, SEAL_BYTES } from './frame-pool.js'
import type { FrameGuard } from './guard.js'
import { MAX_FRAME_BYTES } from './packet.js'

/** UDX never gives more than a packet at a time that it was not told to gather. */
const MAX_PACKET_BYTES = 2048
/** The least that UDX takes for a packet's size. It calls when less than two packets fit into what is left of the room that it has. */
const MIN_PACKET_BYTES = 1200
/** One frame, and the packet with its end. */
const BUFFER_BYTES = LENGTH_BYTES + MAX_FRAME_BYTES.open + 4 * MAX_PACKET_BYTES
/** Of a frame of which so much is missing, what comes is gathered. */
const GATHER_BYTES = 8 * 1024
/** Buffers for frames, kept for the next ones: what UDX has under way. */
const MAX_SPARE = 32
/** Frames of which it is asked together whether they have arrived. */
const LOT = 4
const TOO_LONG = 'frames that are too long'

/** Of secret-stream: where in a frame it stands, and the state of both ciphers. */
interface SecretFields {
  /** 0: in the length, 1: in the message. */
  _state: number
  /** Of the message, as far as it is known. */
  _len: number
  /** In the length: 256 to the power of the bytes of it that came. In the message: how much of it came. */
  _tmp: number
  _message: Uint8Array | null
  _encrypt: { next(message: Uint8Array, into: Uint8Array): void } | null
  _decrypt: { next(sealed: Uint8Array, into: Uint8Array): void } | null
  /** Hyperswarm asks whether there are any. */
  rawBytesRead: number
  rawBytesWritten: number
}

/** Of udx-native: a stream, and what it does with what was read into its buffer. */
interface UdxFields extends EventEmitter {
  readonly remoteHost?: string | null
  readonly remotePort?: number
  readonly mtu: number
  readonly _handle: unknown
  /** What UDX reads into. */
  _buffer: Uint8Array
  /** So much was read: gives it, and puts another buffer. What it gives is pushed. */
  _consumeData(length: number): Uint8Array | undefined
  push(data: Uint8Array | null | undefined): boolean
  /** False: what comes is gathered until the buffer is nearly full. */
  setInteractive(this: { _closed: boolean; _handle: unknown }, isInteractive: boolean): void
  write(data: Uint8Array): boolean
  flush(): Promise<boolean>
  resume(): void
}

/** Where in a frame the stream is: bytes may have come before we look. */
export function positionOf(stream: SecretStream): ConstructorParameters<typeof FrameGuard>[0] {
  const { _state: state, _len: length, _tmp: scale, _encrypt, _decrypt } = stream as unknown as Partial<SecretFields>
  if (typeof state !== 'number' || typeof length !== 'number' || typeof scale !== 'number' || typeof _encrypt?.next !== 'function' || typeof _decrypt?.next !== 'function') throw new Error('this version of @hyperswarm/secret-stream is not known to dfs')
  if (state === 1) return { headerBytes: LENGTH_BYTES, length, missingBytes: length - scale }
  return { headerBytes: Math.round(Math.log2(scale) / 8), length, missingBytes: 0 }
}

export class UdxStream extends EventEmitter {
  readonly #stream: SecretStream
  readonly #secret: SecretFields
  readonly #raw: UdxFields
  readonly #guard: FrameGuard
  #state: 'shaking' | 'copying' | 'in place' | 'closed' = 'shaking'
  /** What came and was not taken: from `#at` to `#filled`. */
  #buffer = Buffer.alloc(0)
  #at = 0
  #filled = 0
  #isGathering = false
  /** Since the last tick. */
  #hasCome = false
  /** The frame that is missing comes slowly. */
  #isSlow = false
  readonly #pool = new FramePool(MAX_SPARE)
  #sent: Buffer[] = []

  /** `stream`: as hyperswarm gives it, before anybody else has listened. */
  constructor(stream: SecretStream, guard: FrameGuard) {
    super()
    this.#stream = stream
    this.#secret = stream as unknown as SecretFields
    this.#raw = stream.rawStream as unknown as UdxFields
    this.#guard = guard
    this.#raw.prependListener('data', this.#watch)
    this.#raw.on('drain', () => this.emit('drain'))
    stream.on('data', (packet: Buffer) => {
      if (this.#state === 'shaking' && this.#guard.isOpen) this.#takeOver()
      this.emit('data', packet)
    })
    stream.on('end', () => this.emit('end'))
    stream.on('error', (error: Error) => this.emit('error', error))
    stream.on('close', () => {
      this.#state = 'closed'
      this.#pool.clear()
      this.emit('close')
    })
  }

  get isInitiator(): boolean { return this.#stream.isInitiator }
  get handshakeHash(): Buffer | null { return this.#stream.handshakeHash }
  get remotePublicKey(): Buffer { return this.#stream.remotePublicKey }
  get rawStream(): SecretStream['rawStream'] { return this.#stream.rawStream }
  get destroying(): boolean { return this.#stream.destroying }

  /** Once a second or so: what comes slowly is not gathered, so that it is seen that something comes. */
  tick(): void {
    this.#isSlow = this.#isGathering && !this.#hasCome
    this.#hasCome = false
    if (this.#isSlow) this.#gather(false)
  }

  // --- what comes ---

  /** While secret-stream reads. */
  readonly #watch = (data: Uint8Array): void => {
    if (!this.#guard.admits(data)) this.destroy(new Error(TOO_LONG))
  }

  /** Within a message: from here on secret-stream reads nothing more. */
  #takeOver(): void {
    const { _state: state, _len: length, _tmp: scale, _message: message } = this.#secret
    if (state !== 0 && state !== 1) return
    this.#state = 'copying'
    this.#buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES)
    this.#buffer.writeUIntLE(length, 0, LENGTH_BYTES)
    this.#filled = state === 1 ? LENGTH_BYTES + scale : Math.round(Math.log2(scale) / 8)
    if (state === 1 && message) this.#buffer.set(message.subarray(0, scale), LENGTH_BYTES)
    this.#raw.removeAllListeners('data')
    this.#raw.on('data', (data: Uint8Array) => this.#copied(data))
    this.#raw.resume()
    // What its streams have queued has been told by then.
    setImmediate(() => this.#readInPlace())
  }

  #copied(data: Uint8Array): void {
    for (let at = 0; at < data.length && !this.destroying;) {
      const part = data.subarray(at, at + this.#buffer.length - this.#filled)
      this.#buffer.set(part, this.#filled)
      at += part.length
      this.#came(part.length)
      this.#makeRoom()
    }
  }

  #readInPlace(): void {
    const raw = this.#raw
    if (this.#state !== 'copying' || !(raw._buffer instanceof Uint8Array) || typeof raw._consumeData !== 'function' || typeof raw.setInteractive !== 'function') return
    this.#state = 'in place'
    const { push } = raw
    // Its end still goes the usual way.
    raw.push = (data) => (data === undefined ? true : push.call(raw, data))
    raw._consumeData = (length) => {
      const read = raw._buffer.subarray(0, length)
      if (read.buffer === this.#buffer.buffer) this.#came(length)
      else this.#copied(read)
      this.#makeRoom()
      raw._buffer = this.#nextRoom()
      return undefined
    }
    this.#gather(false, true)
  }

  /** So many bytes lie behind what was there. */
  #came(bytes: number): void {
    this.#hasCome = true
    const fresh = this.#buffer.subarray(this.#filled, this.#filled + bytes)
    this.#filled += bytes
    if (this.destroying) return
    if (this.#guard.admits(fresh)) this.#frames()
    else this.destroy(new Error(TOO_LONG))
  }

  /** All that are complete. */
  #frames(): void {
    for (let left = this.#filled - this.#at; left >= LENGTH_BYTES && !this.destroying; left = this.#filled - this.#at) {
      const length = this.#buffer.readUIntLE(this.#at, LENGTH_BYTES)
      if (left < LENGTH_BYTES + length) break
      const from = this.#at + LENGTH_BYTES
      this.#at = from + length
      this.#frame(this.#buffer.subarray(from, from + length))
    }
  }

  #frame(frame: Buffer): void {
    if (frame.length < SEAL_BYTES) return this.destroy(new Error('a frame is too short'))
    const plain = frame.subarray(1, frame.length - SEAL_BYTES + 1)
    try {
      this.#secret._decrypt!.next(frame, plain)
    } catch {
      return this.destroy(new Error('a frame was changed on its way'))
    }
    this.#secret.rawBytesRead += frame.length
    // An empty one only says that the other side is there.
    if (plain.length > 0) this.emit('data', plain)
  }

  #makeRoom(): void {
    if (this.#at === 0) return
    this.#buffer.copyWithin(0, this.#at, this.#filled)
    this.#filled -= this.#at
    this.#at = 0
  }

  /** What UDX reads into next: so much that it calls when the frame is complete, or at each packet. */
  #nextRoom(): Uint8Array {
    const missing = this.#filled < LENGTH_BYTES ? 0 : LENGTH_BYTES + this.#buffer.readUIntLE(0, LENGTH_BYTES) - this.#filled
    this.#gather(missing >= GATHER_BYTES && !this.#isSlow)
    const room = this.#isGathering ? missing + 2 * Math.min(MIN_PACKET_BYTES, this.#raw.mtu) - 1 : this.#buffer.length
    return this.#buffer.subarray(this.#filled, this.#filled + room)
  }

  #gather(isGathering: boolean, isFirst = false): void {
    if (isGathering === this.#isGathering && !isFirst) return
    this.#isGathering = isGathering
    const { _handle, setInteractive } = this.#raw
    // In udx-native 1.21 it does so for streams alone that are closed; once, in any version.
    for (const _closed of [false, true]) setInteractive.call({ _closed, _handle }, !isGathering)
  }

  // --- what goes ---

  /** Room for one frame, sealed in place if it is the next one written. */
  alloc(length: number): Buffer { return this.#pool.alloc(length) }

  /** False: wait for 'drain'. */
  write(packet: Uint8Array): boolean {
    if (this.#state === 'closed' || this.destroying) return true
    const { packet: plain, frame } = this.#pool.take(packet)
    this.#secret._encrypt!.next(plain, frame.subarray(LENGTH_BYTES))
    this.#secret.rawBytesWritten += frame.length
    const mayGoOn = this.#raw.write(frame)
    if (this.#pool.isSpare(frame) && this.#sent.push(frame) === LOT) this.#reuse()
    return mayGoOn
  }

  /** Once all has arrived: until then UDX may send it again, out of this very memory. */
  #reuse(): void {
    const lot = this.#sent
    this.#sent = []
    this.#raw.flush().then((hasArrived) => {
      if (hasArrived && this.#state !== 'closed') for (const frame of lot) this.#pool.release(frame)
    }).catch(() => {})
  }

  /** What was written goes out, then the end. */
  end(): void { this.#stream.end() }

  destroy(error?: Error): void { this.#stream.destroy(error) }
}
