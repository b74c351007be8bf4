/**
 * The little of DNS-SD over multicast DNS (RFC 6762, 6763) that dfs speaks: the
 * question who offers the service, and the answer. No I/O; hostile bytes give
 * undefined.
 *
 * An answer names no drive: its text record holds a nonce and a MAC over it and
 * the port, with the drive's proof key. Members recognise it, others cannot, nor
 * tell two runs of a device from two devices.
 */
import sodium from 'sodium-native'
import { sameMac } from './handshake.js'

const SERVICE = ['_dfs', '_tcp', 'local']
export const NONCE_BYTES = 16
const SHORT_MAC_BYTES = 16
/** What fits an Ethernet frame; longer ones are not ours. */
export const MAX_PACKET_BYTES = 1472
const MAX_RECORDS = 64
/** RFC 6762, 10: of records that name a host. */
const TTL_S = 120
const TYPE = { ptr: 12, txt: 16, srv: 33 }
const CLASS_IN = 1
/** RFC 6762, 10.2: this is all there is of the record. */
const CACHE_FLUSH = 0x8000
const RESPONSE = 0x8400

export type Heard = { type: 'question' } | { type: 'answer'; nonce: Buffer; port: number }

export function question(): Buffer {
  return Buffer.concat([header(0, 1, 0), name(SERVICE), shorts(TYPE.ptr, CLASS_IN)])
}

/** `nonce`: NONCE_BYTES, new for each run. `isOver`: the service is going away. */
export function answer(proofKey: Uint8Array, nonce: Buffer, port: number, isOver = false): Buffer {
  const ttlS = isOver ? 0 : TTL_S
  const host = `dfs-${nonce.toString('hex', 0, 6)}`
  const instance = [host, ...SERVICE]
  const text = Buffer.concat([`n=${nonce.toString('hex')}`, `h=${shortMac(proofKey, nonce, port).toString('hex')}`].map((pair) => Buffer.concat([Buffer.of(pair.length), Buffer.from(pair)])))
  return Buffer.concat([
    header(RESPONSE, 0, 3),
    record(SERVICE, TYPE.ptr, CLASS_IN, ttlS, name(instance)),
    record(instance, TYPE.srv, CLASS_IN | CACHE_FLUSH, ttlS, Buffer.concat([shorts(0, 0, port), name([host, 'local'])])),
    record(instance, TYPE.txt, CLASS_IN | CACHE_FLUSH, ttlS, text),
  ])
}

/** A question for the service, or an answer of a member of this drive; undefined for all else. */
export function hear(packet: Buffer, proofKey: Uint8Array): Heard | undefined {
  try {
    return read(packet, proofKey)
  } catch {
    return undefined // it ends early, or refers outside itself
  }
}

function read(packet: Buffer, proofKey: Uint8Array): Heard | undefined {
  if (packet.length > MAX_PACKET_BYTES) return undefined
  const isResponse = (packet.readUInt16BE(2) & 0x8000) !== 0
  const questions = packet.readUInt16BE(4)
  const records = packet.readUInt16BE(6) + packet.readUInt16BE(8) + packet.readUInt16BE(10)
  if (questions > MAX_RECORDS || records > MAX_RECORDS) return undefined
  let at = 12
  let isAsked = false
  for (let i = 0; i < questions; i++) {
    const { labels, next } = readName(packet, at)
    const type = packet.readUInt16BE(next)
    at = next + 4
    if (isService(labels) && (type === TYPE.ptr || type === 255)) isAsked = true
  }
  if (!isResponse) return isAsked ? { type: 'question' } : undefined
  let port: number | undefined
  let nonce: Buffer | undefined
  let mac: Buffer | undefined
  for (let i = 0; i < records; i++) {
    const { labels, next } = readName(packet, at)
    const type = packet.readUInt16BE(next)
    const ttlS = packet.readUInt32BE(next + 4)
    const length = packet.readUInt16BE(next + 8)
    const data = packet.subarray(next + 10, next + 10 + length)
    if (data.length < length) return undefined
    at = next + 10 + length
    if (!isService(labels.slice(1)) || ttlS === 0) continue
    if (type === TYPE.srv) port = data.readUInt16BE(4)
    if (type === TYPE.txt) {
      for (let from = 0; from < data.length; from += 1 + data[from]!) {
        const match = /^([nh])=([0-9a-f]{32})$/.exec(data.toString('latin1', from + 1, from + 1 + data[from]!))
        if (match?.[1] === 'n') nonce = Buffer.from(match[2]!, 'hex')
        if (match?.[1] === 'h') mac = Buffer.from(match[2]!, 'hex')
      }
    }
  }
  if (!port || !nonce || !mac || !sameMac(shortMac(proofKey, nonce, port), mac)) return undefined
  return { type: 'answer', nonce, port }
}

function shortMac(proofKey: Uint8Array, nonce: Buffer, port: number): Buffer {
  const out = Buffer.alloc(32)
  sodium.crypto_generichash(out, Buffer.concat([Buffer.from('dfs mdns 1\0'), nonce, shorts(port)]), proofKey)
  return out.subarray(0, SHORT_MAC_BYTES)
}

function isService(labels: string[]): boolean {
  return labels.length === SERVICE.length && labels.every((label, i) => label.toLowerCase() === SERVICE[i])
}

/** RFC 1035, 4.1.4: names may refer to earlier ones. Each reference goes back, so that there is an end. */
function readName(packet: Buffer, at: number): { labels: string[]; next: number } {
  const labels: string[] = []
  let next: number | undefined
  let before = at
  for (;;) {
    const length = packet.readUInt8(at)
    if (length === 0) return { labels, next: next ?? at + 1 }
    if (length >= 0xc0) {
      const target = packet.readUInt16BE(at) & 0x3fff
      if (target >= before) throw new RangeError('a name refers forward')
      next ??= at + 2
      before = at = target
      continue
    }
    if (length > 63 || labels.length > 16 || at + 1 + length > packet.length) throw new RangeError('a malformed name')
    labels.push(packet.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
}

function header(flags: number, questions: number, answers: number): Buffer {
  return shorts(0, flags, questions, answers, 0, 0)
}

function record(labels: string[], type: number, classAndFlush: number, ttlS: number, data: Buffer): Buffer {
  return Buffer.concat([name(labels), shorts(type, classAndFlush, ttlS >>> 16, ttlS & 0xffff, data.length), data])
}

function name(labels: string[]): Buffer {
  return Buffer.concat([...labels.map((label) => Buffer.concat([Buffer.of(label.length), Buffer.from(label)])), Buffer.of(0)])
}

function shorts(...values: number[]): Buffer {
  const out = Buffer.alloc(2 * values.length)
  values.forEach((value, i) => out.writeUInt16BE(value, 2 * i))
  return out
}
