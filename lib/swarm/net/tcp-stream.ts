/**
 * An encrypted stream over a TCP socket: exact bytes first, for the gate, then Noise
 * XX, then frames that libsodium's secretstream seals. On the wire it is what
 * @hyperswarm/secret-stream sends. That makes new memory for each read of the
 * socket, each frame that comes and each that goes, which on a fast link costs
 * more than sealing does; here a frame is opened where it was read, and buffers
 * that were sent are used again.
 *
 * State: gate -> noise -> header -> open -> closed.
 *
 * Events: 'data' (one frame, good until the listener returns), 'drain', 'end', 'error', 'close'.
 * Owns: the socket, from attach() on.
 */
import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import Noise from 'noise-handshake'
import curve from 'noise-curve-ed'
import sodium from 'sodium-native'
import { FramePool, LENGTH_BYTES, SEAL_BYTES } from './frame-pool.js'
import type { FrameGuard } from './guard.js'
import type { Role } from './handshake.js'

/** Until the handshake is over: from strangers. */
const FIRST_BUFFER_BYTES = 8 * 1024
/** Several frames in one read. */
const BUFFER_BYTES = 256 * 1024
/** The socket holds so much before it says that it is full: enough for the next write to go out while this thread does something else. */
export const SOCKET_BYTES = 256 * 1024
const { crypto_secretstream_xchacha20poly1305_HEADERBYTES: HEADER_BYTES } = sodium
const STREAM_ID_BYTES = 32
/** Buffers for frames, kept for the next ones. */
const MAX_SPARE = 12
const TAG = Buffer.alloc(1)

type State = 'gate' | 'noise' | 'header' | 'open' | 'closed'

export class TcpStream extends EventEmitter {
  readonly isInitiator: boolean
  /** 64 bytes, the same at both ends; null before the handshake. */
  handshakeHash: Buffer | null = null
  /** Of the other device; from the handshake on. */
  remotePublicKey: Buffer = Buffer.alloc(0)
  readonly #guard: FrameGuard
  #socket: Socket | undefined
  #state: State = 'gate'
  /** What came and was not taken: from `#at` to `#filled`. */
  #buffer = Buffer.allocUnsafeSlow(FIRST_BUFFER_BYTES)
  #at = 0
  #filled = 0
  #wanted: { length: number; resolve(bytes: Buffer): void; reject(error: Error): void } | undefined
  #noise: Noise | undefined
  /** The handshake is over, and nobody listens yet. */
  #isHeld = false
  #opened: { resolve(): void; reject(error: Error): void } | undefined
  readonly #push = Buffer.alloc(sodium.crypto_secretstream_xchacha20poly1305_STATEBYTES)
  readonly #pull = Buffer.alloc(sodium.crypto_secretstream_xchacha20poly1305_STATEBYTES)
  #pullKey: Buffer | undefined
  readonly #pool = new FramePool(MAX_SPARE)
  #hasEnded = false

  constructor(role: Role, guard: FrameGuard) {
    super()
    this.isInitiator = role === 'dialler'
    this.#guard = guard
    this.on('newListener', (event) => {
      if (event !== 'data' || !this.#isHeld) return
      this.#isHeld = false
      queueMicrotask(() => this.#frames())
    })
  }

  /** The socket's option of this name: it reads straight into our buffer. */
  get onread(): { buffer: () => Uint8Array; callback: (bytes: number) => boolean } {
    return { buffer: () => this.#buffer.subarray(this.#filled), callback: (bytes) => this.#came(bytes) }
  }

  get destroying(): boolean { return this.#state === 'closed' }

  /** `socket` was made with `onread`. */
  attach(socket: Socket): void {
    this.#socket = socket
    socket.on('drain', () => this.emit('drain'))
    socket.on('error', (error) => this.destroy(error))
    socket.on('end', () => {
      this.#hasEnded = true
      this.#fail(new Error('the connection ended in the handshake'))
      if (this.#state !== 'closed') this.emit('end')
    })
    socket.on('close', () => {
      this.#fail(new Error('the connection ended in the handshake'))
      this.#state = 'closed'
      this.#buffer = Buffer.alloc(0)
      this.emit('close')
    })
  }

  // --- the gate ---

  /** Exactly so many bytes, at most FIRST_BUFFER_BYTES, in memory of their own. */
  take(length: number): Promise<Buffer> {
    if (this.#filled - this.#at < length && (this.#hasEnded || this.destroying)) return Promise.reject(new Error('the connection ended in the handshake'))
    return new Promise((resolve, reject) => {
      this.#wanted = { length, resolve, reject }
      this.#giveTaken()
    })
  }

  /** As they are. */
  writeRaw(bytes: Uint8Array): void {
    this.#socket!.write(bytes)
  }

  /** Nothing is read any more. */
  pause(): void { this.#socket!.pause() }

  #giveTaken(): void {
    const wanted = this.#wanted
    if (!wanted || this.#filled - this.#at < wanted.length) return
    this.#wanted = undefined
    const bytes = Buffer.from(this.#buffer.subarray(this.#at, this.#at + wanted.length))
    this.#at += wanted.length
    wanted.resolve(bytes)
  }

  // --- the handshake ---

  /** Noise XX. Resolves when the other device's key is known and frames may be written. */
  shake(keyPair: { publicKey: Buffer; secretKey: Buffer }): Promise<void> {
    const noise = this.#noise = new Noise('XX', this.isInitiator, keyPair, { curve })
    noise.initialise(Buffer.alloc(0))
    const opened = new Promise<void>((resolve, reject) => { this.#opened = { resolve, reject } })
    this.#state = 'noise'
    if (this.isInitiator) this.#writeFrame(noise.send())
    const early = this.#buffer.subarray(this.#at, this.#filled)
    if (this.#hasEnded) this.#fail(new Error('the connection ended in the handshake'))
    else if (this.#guard.admits(early)) this.#frames()
    else this.destroy(new Error(TOO_LONG))
    return opened
  }

  #shaken(message: Buffer): void {
    const noise = this.#noise!
    try {
      noise.recv(message)
      if (!noise.complete) this.#writeFrame(noise.send())
    } catch {
      return this.destroy(new Error('the Noise handshake failed'))
    }
    if (!noise.complete) return
    this.handshakeHash = Buffer.from(noise.hash!)
    this.remotePublicKey = Buffer.from(noise.rs!)
    const header = Buffer.alloc(STREAM_ID_BYTES + HEADER_BYTES)
    header.set(streamId(this.handshakeHash, this.isInitiator))
    sodium.crypto_secretstream_xchacha20poly1305_init_push(this.#push, header.subarray(STREAM_ID_BYTES), Buffer.from(noise.tx!.subarray(0, 32)))
    this.#pullKey = Buffer.from(noise.rx!.subarray(0, 32))
    this.#noise = undefined
    this.#state = 'header'
    this.#isHeld = true
    this.#writeFrame(header)
    const opened = this.#opened!
    this.#opened = undefined
    opened.resolve()
  }

  #begin(message: Buffer): void {
    const isRight = message.length === STREAM_ID_BYTES + HEADER_BYTES && message.subarray(0, STREAM_ID_BYTES).equals(streamId(this.handshakeHash!, !this.isInitiator))
    if (!isRight) return this.destroy(new Error('the stream does not begin as it should'))
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(this.#pull, message.subarray(STREAM_ID_BYTES), this.#pullKey!)
    this.#state = 'open'
  }

  #writeFrame(bytes: Uint8Array): void {
    const frame = Buffer.allocUnsafe(LENGTH_BYTES + bytes.length)
    frame.writeUIntLE(bytes.length, 0, LENGTH_BYTES)
    frame.set(bytes, LENGTH_BYTES)
    this.#socket!.write(frame)
  }

  // --- what comes ---

  #came(bytes: number): boolean {
    if (this.#state === 'closed') return false
    const fresh = this.#buffer.subarray(this.#filled, this.#filled + bytes)
    this.#filled += bytes
    if (this.#state === 'gate') this.#giveTaken()
    else if (this.#guard.admits(fresh)) this.#frames()
    else this.destroy(new Error(TOO_LONG))
    if (this.destroying) return false
    this.#makeRoom()
    if (this.#filled === this.#buffer.length) this.destroy(new Error('too much before the handshake'))
    return !this.destroying
  }

  /** For the next read. Only between one and the next: the socket holds the room that it reads into. */
  #makeRoom(): void {
    if (this.#state === 'open' && this.#buffer.length < BUFFER_BYTES && this.#guard.isOpen) {
      const larger = Buffer.allocUnsafeSlow(BUFFER_BYTES)
      this.#filled = this.#buffer.copy(larger, 0, this.#at, this.#filled)
      this.#buffer = larger
    } else if (this.#at > 0) {
      this.#buffer.copyWithin(0, this.#at, this.#filled)
      this.#filled -= this.#at
    }
    this.#at = 0
  }

  /** All that are complete. */
  #frames(): void {
    for (let left = this.#filled - this.#at; left >= LENGTH_BYTES && !this.#isHeld && this.#state !== 'closed'; left = this.#filled - this.#at) {
      const length = this.#buffer.readUIntLE(this.#at, LENGTH_BYTES)
      if (left < LENGTH_BYTES + length) break
      const from = this.#at + LENGTH_BYTES
      this.#at = from + length
      this.#frame(this.#buffer.subarray(from, from + length))
    }
  }

  #frame(frame: Buffer): void {
    switch (this.#state) {
      case 'noise': return this.#shaken(Buffer.from(frame))
      case 'header': return this.#begin(frame)
    }
    if (frame.length < SEAL_BYTES) return this.destroy(new Error('a frame is too short'))
    const plain = frame.subarray(1, frame.length - SEAL_BYTES + 1)
    try {
      sodium.crypto_secretstream_xchacha20poly1305_pull(this.#pull, plain, TAG, frame, null)
    } catch {
      return this.destroy(new Error('a frame was changed on its way'))
    }
    this.emit('data', plain)
  }

  // --- what goes ---

  /** Room for one frame of at most PACKET_BYTES and a head, sealed in place if it is the next one written. */
  alloc(length: number): Buffer { return this.#pool.alloc(length) }

  /** False: wait for 'drain'. */
  write(packet: Uint8Array): boolean {
    if (this.#state === 'closed') return true
    const { packet: plain, frame } = this.#pool.take(packet)
    sodium.crypto_secretstream_xchacha20poly1305_push(this.#push, frame.subarray(LENGTH_BYTES), plain, null, sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE)
    return this.#socket!.write(frame, this.#pool.isSpare(frame) ? () => this.#sent(frame) : undefined)
  }

  #sent(frame: Buffer): void {
    if (this.#state !== 'closed') this.#pool.release(frame)
  }

  /** What was written goes out, then the end. */
  end(): void { this.#socket?.end() }

  destroy(error?: Error): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#pool.clear()
    this.#fail(error ?? new Error('the connection ended in the handshake'))
    this.#socket?.destroy()
    if (error) this.emit('error', error)
  }

  #fail(error: Error): void {
    this.#wanted?.reject(error)
    this.#opened?.reject(error)
    this.#wanted = this.#opened = undefined
  }
}

/** For a socket that was made without `onread`. */
export function copyReads(socket: Socket, { onread }: TcpStream): void {
  socket.on('data', (data: Buffer) => {
    for (let at = 0; at < data.length;) {
      const room = onread.buffer()
      const part = data.subarray(at, at + room.length)
      room.set(part)
      at += part.length
      if (!onread.callback(part.length)) return
    }
  })
}

const TOO_LONG = 'frames that are too long'

/** As @hyperswarm/secret-stream names the two directions. */
const [INITIATOR, RESPONDER] = [0, 1].map((n) => {
  const name = Buffer.alloc(33, n)
  sodium.crypto_generichash(name.subarray(0, 32), Buffer.from('hyperswarm/secret-stream'))
  const out = Buffer.alloc(32)
  sodium.crypto_generichash(out, name)
  return out
})

function streamId(handshakeHash: Buffer, isInitiator: boolean): Buffer {
  const out = Buffer.alloc(STREAM_ID_BYTES)
  sodium.crypto_generichash(out, (isInitiator ? INITIATOR : RESPONDER)!, handshakeHash)
  return out
}
