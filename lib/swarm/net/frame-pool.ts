/** Memory for frames that go: room for the length and the seal around each packet, so that it is sealed in place; used again. */
import sodium from 'sodium-native'
import { PACKET_BYTES } from '../../limits.js'

/** Before each frame: its length, without these. */
export const LENGTH_BYTES = 3
/** Of libsodium's secretstream: a tag before, a MAC behind. */
export const { crypto_secretstream_xchacha20poly1305_ABYTES: SEAL_BYTES } = sodium
/** A whole packet with its head. */
const SPARE_BYTES = PACKET_BYTES + 64
/** Smaller frames are given memory of Node's pool. */
const SMALL_BYTES = 4 * 1024

export class FramePool {
  readonly #limit: number
  readonly #spare: Buffer[] = []
  /** What alloc() gave last: where it lies in its frame. */
  #room: { packet: Buffer; frame: Buffer } | undefined

  /** Keeps at most `limit` buffers. */
  constructor(limit: number) {
    this.#limit = limit
  }

  /** Room for a packet; put into its frame by take() if it is the next one. */
  alloc(length: number): Buffer {
    const whole = LENGTH_BYTES + length + SEAL_BYTES
    const memory = length < SMALL_BYTES ? Buffer.allocUnsafe(whole) : whole <= SPARE_BYTES ? (this.#spare.pop() ?? Buffer.allocUnsafeSlow(SPARE_BYTES)) : Buffer.allocUnsafeSlow(whole)
    const frame = memory.length === whole ? memory : memory.subarray(0, whole)
    const packet = frame.subarray(LENGTH_BYTES + 1, LENGTH_BYTES + 1 + length)
    this.#room = { packet, frame }
    return packet
  }

  /** The packet's frame, with its length written; the rest of it is to be sealed. */
  take(packet: Uint8Array): { packet: Buffer; frame: Buffer } {
    if (this.#room?.packet !== packet) this.alloc(packet.length).set(packet)
    const room = this.#room!
    this.#room = undefined
    room.frame.writeUIntLE(room.frame.length - LENGTH_BYTES, 0, LENGTH_BYTES)
    return room
  }

  /** Whether giving it back is of use. */
  isSpare(frame: Buffer): boolean { return frame.buffer.byteLength === SPARE_BYTES }

  /** The frame is used no more. */
  release(frame: Buffer): void {
    if (this.isSpare(frame) && this.#spare.length < this.#limit) this.#spare.push(Buffer.from(frame.buffer))
  }

  clear(): void { this.#spare.length = 0 }
}
