/**
 * Looks at the frame lengths of an encrypted stream before the stream itself
 * does: @hyperswarm/secret-stream takes room for whatever length three bytes
 * claim, up to 16 MiB, from anybody.
 *
 * Invariant: `#missing` bytes of the present frame are still to come; below zero
 * the header itself is incomplete, with -#missing bytes of it missing.
 */
import { MAX_UNPROVEN_BYTES } from '../../limits.js'
import { MAX_FRAME_BYTES } from './packet.js'

const HEADER_BYTES = 3

export class FrameGuard {
  /** When bytes came last, complete frames or not. */
  heardMs = performance.now()
  #limitBytes: number = MAX_FRAME_BYTES.closed
  #isProven = false
  #seenBytes = 0
  #missing = -HEADER_BYTES
  #length = 0

  /** `at`: where in a frame the stream stands; absent at its very beginning. */
  constructor(at?: { headerBytes: number; length: number; missingBytes: number }) {
    if (!at) return
    if (at.headerBytes < HEADER_BYTES) {
      this.#length = at.length
      this.#missing = at.headerBytes - HEADER_BYTES
    } else {
      this.#missing = at.missingBytes || -HEADER_BYTES
    }
  }

  /** The peer's proof is good. */
  proven(): void { this.#isProven = true }
  /** This side's greeting is sent: messages may come. */
  open(): void { this.#limitBytes = MAX_FRAME_BYTES.open }
  get isOpen(): boolean { return this.#limitBytes === MAX_FRAME_BYTES.open }

  /** False: a frame is too long, or too much came without proof. The stream must not see these bytes. */
  admits(data: Uint8Array): boolean {
    this.heardMs = performance.now()
    this.#seenBytes += data.length
    if (!this.#isProven && this.#seenBytes > MAX_UNPROVEN_BYTES) return false
    for (let at = 0; at < data.length;) {
      if (this.#missing > 0) {
        const skip = Math.min(this.#missing, data.length - at)
        at += skip
        this.#missing -= skip
        if (this.#missing > 0) return true
        this.#missing = -HEADER_BYTES
        continue
      }
      // Little-endian, lowest byte first.
      this.#length += data[at++]! << (8 * (HEADER_BYTES + this.#missing))
      if (++this.#missing < 0) continue
      if (this.#length > this.#limitBytes) return false
      this.#missing = this.#length > 0 ? this.#length : -HEADER_BYTES
      this.#length = 0
    }
    return true
  }
}
