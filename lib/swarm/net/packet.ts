/**
 * Packets: what one frame of the encrypted stream holds. One byte of kind, then
 * the fields. docs/protocol.md, "Packets". A violation is a DfsError EIO: the
 * connection ends.
 */
import { fail } from '../../errors.js'
import { MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, MAX_TOLD_ADDRESSES, MAX_ADDRESS_CHARS, PACKET_BYTES } from '../../limits.js'

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

/**
 * Puts the packets of one lane together again.
 * Invariant: `#message` is there if and only if bytes of it are still missing.
 */
export class Assembly {
  #message: Buffer | undefined
  #filled = 0

  /** Of the message under way. */
  get heldBytes(): number { return this.#message?.length ?? 0 }

  /** A packet of kind whole, first or more (without the lane bit); gives the message when it is complete, in memory of its own. */
  take(kind: number, packet: Buffer): Buffer | undefined {
    if (kind === KIND.more) {
      const message = this.#message
      const part = packet.length - 1
      if (!message || part < 1 || this.#filled + part > message.length) throw broken('a message goes on where none began, or past its end')
      packet.copy(message, this.#filled, 1)
      this.#filled += part
      if (this.#filled < message.length) return undefined
      this.#message = undefined
      return message
    }
    if (this.#message) throw broken('a message begins inside another')
    if (kind === KIND.whole) {
      if (packet.length < 2) throw broken('a message is empty')
      const message = own(packet.length - 1)
      packet.copy(message, 0, 1)
      return message
    }
    if (packet.length <= FIRST_HEADER_BYTES) throw broken('a message begins without bytes')
    const length = packet.readUInt32LE(1)
    const part = packet.length - FIRST_HEADER_BYTES
    if (length > MAX_MESSAGE_BYTES || length <= part) throw broken('a message has an impossible length')
    this.#message = own(length)
    packet.copy(this.#message, 0, FIRST_HEADER_BYTES)
    this.#filled = part
    return undefined
  }
}

/** Not a slice of Node's pool: it is transferred to another thread. */
function own(bytes: number): Buffer {
  return Buffer.allocUnsafeSlow(bytes)
}

export function broken(what: string) {
  return fail('EIO', `the peer breaks the protocol: ${what}`)
}
