/**
 * Packets: what one frame of the encrypted stream holds. One byte of kind, then
 * the fields. docs/protocol.md, "Packets". A violation is a DfsError EIO: the
 * connection ends.
 */
import { fail } from '../../errors.js'
import { MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, MAX_TOLD_ADDRESSES, MAX_ADDRESS_CHARS, PACKET_BYTES } from '../../limits.js'
import { copyInto } from '../../memory.js'
import type { Lender, Place } from './lent.js'

export const KIND = {
  proof: 1,
  hello: 2,
  use: 3,
  lost: 4,
  bye: 5,
  ping: 6,
  pong: 7,
  credit: 8,
  addresses: 9,
  /** Messages: the lane is the lowest bit (0 now, 1 bulk). */
  whole: 16,
  first: 18,
  more: 20,
} as const

/** From this length on a message lies in lent memory. */
const LENT_MESSAGE_BYTES = 16 * 1024

export const LANES = ['now', 'bulk'] as const
export type LaneIndex = 0 | 1

/** kind, version, MAC */
export const PROOF_BYTES = 1 + 1 + 32
/**
 * Bounds of the frames that may come. `closed`: until this side has sent its greeting, which it does once the peer's proof
 * is good; a greeting is the largest then. The peer sends more only after it has that greeting.
 * kind, instance, ended, port, addresses, application bytes, lengths; 17 bytes of the cipher.
 */
export const MAX_FRAME_BYTES = {
  closed: 1 + 16 + 8 + 3 + 1 + MAX_TOLD_ADDRESSES * (1 + MAX_ADDRESS_CHARS) + 3 + MAX_HELLO_BYTES + 17,
  open: 1 + 4 + PACKET_BYTES + 17,
} as const
/** kind, length of the message */
export const FIRST_HEADER_BYTES = 5
const MAX_REASON_BYTES = 128

export function bye(reason: string): Buffer {
  return Buffer.concat([Buffer.from([KIND.bye]), Buffer.from(reason).subarray(0, MAX_REASON_BYTES)])
}

/** Printable characters of the peer's reason. */
export function readBye(packet: Buffer): string {
  return packet.toString('latin1', 1, 1 + MAX_REASON_BYTES).replace(/[^ -~]/g, '?') || 'closed'
}

export function numbered(kind: number, value: number): Buffer {
  const packet = Buffer.allocUnsafe(5)
  packet[0] = kind
  packet.writeUInt32LE(value, 1)
  return packet
}

export function readNumber(packet: Buffer): number {
  if (packet.length !== 5) throw broken('a packet has the wrong length')
  return packet.readUInt32LE(1)
}

export function credit(lane: LaneIndex, bytes: number): Buffer {
  const packet = Buffer.allocUnsafe(6)
  packet[0] = KIND.credit
  packet[1] = lane
  packet.writeUInt32LE(bytes, 2)
  return packet
}

export function readCredit(packet: Buffer): { lane: LaneIndex; bytes: number } {
  if (packet.length !== 6 || packet[1]! > 1) throw broken('a credit is malformed')
  return { lane: packet[1] as LaneIndex, bytes: packet.readUInt32LE(2) }
}

/** `place`: where it lies in lent memory; undefined: in memory of its own. */
export interface Incoming { bytes: Buffer; place: Place | undefined }

/**
 * Puts the packets of one lane together again.
 * Invariant: `#message` is there if and only if bytes of it are still missing.
 */
export class Assembly {
  readonly #lender: Lender | undefined
  #message: Incoming | undefined
  #filled = 0

  constructor(lender?: Lender) {
    this.#lender = lender
  }

  /** Of the message under way. */
  get heldBytes(): number { return this.#message?.bytes.length ?? 0 }

  /** A packet of kind whole, first or more (without the lane bit); gives the message when it is complete. */
  take(kind: number, packet: Buffer): Incoming | undefined {
    if (kind === KIND.more) {
      const message = this.#message
      const part = packet.length - 1
      if (!message || part < 1 || this.#filled + part > message.bytes.length) throw broken('a message goes on where none began, or past its end')
      copyInto(message.bytes, this.#filled, packet.subarray(1))
      this.#filled += part
      if (this.#filled < message.bytes.length) return undefined
      this.#message = undefined
      return message
    }
    if (this.#message) throw broken('a message begins inside another')
    if (kind === KIND.whole) {
      if (packet.length < 2) throw broken('a message is empty')
      const message = this.#room(packet.length - 1)
      copyInto(message.bytes, 0, packet.subarray(1))
      return message
    }
    if (packet.length <= FIRST_HEADER_BYTES) throw broken('a message begins without bytes')
    const length = packet.readUInt32LE(1)
    const part = packet.length - FIRST_HEADER_BYTES
    if (length > MAX_MESSAGE_BYTES || length <= part) throw broken('a message has an impossible length')
    this.#message = this.#room(length)
    copyInto(this.#message.bytes, 0, packet.subarray(FIRST_HEADER_BYTES))
    this.#filled = part
    return undefined
  }

  /** What is under way does not come any more. */
  drop(): void {
    if (this.#message?.place) this.#lender!.drop(this.#message.place)
    this.#message = undefined
  }

  #room(length: number): Incoming {
    const place = length >= LENT_MESSAGE_BYTES ? this.#lender?.place(length) : undefined
    // Not a slice of Node's pool: it is transferred to another thread.
    return { bytes: place ? this.#lender!.bytes(place) : Buffer.allocUnsafeSlow(length), place }
  }
}

export function broken(what: string) {
  return fail('EIO', `the peer breaks the protocol: ${what}`)
}
