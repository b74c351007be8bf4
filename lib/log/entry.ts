/**
 * One entry of a device's log: a batch of ops, one group commit, signed once.
 *
 * Header, in the clear (docs/format.md, "Log entry"): what anybody, a storage
 * peer included, needs to order, verify and serve the entry. The ops are sealed.
 * The entry's hash covers header and signature, and the header holds the hash of
 * the entry before it: a chain for each incarnation.
 */
import blake from '@napi-rs/blake-hash'
import { fail, isDfsError } from '../errors.js'
import { SIGNATURE_BYTES } from '../seal/entry.js'
import { Reader, Writer } from './codec.js'

export const ENTRY_VERSION = 1

export interface EntryHeader {
  drive: Buffer
  incarnation: Buffer
  /** 1, 2, 3, ... */
  seq: number
  /** Hash of the entry before; zeros for the first. */
  previous: Buffer
  /** Milliseconds since 1970, by the device's clock. */
  clockMs: number
  /** Counter of the first op's id; the others follow without a gap. */
  firstOp: number
  opCount: number
  /** Incarnations that the ops refer to; index 0 is the entry's own. */
  incarnations: Buffer[]
  /** What the device had when it made the entry, as a difference to its entry before: (incarnation index, seq). */
  context: [index: number, seq: number][]
  /** Ids of all chunks that the ops newly refer to, deduplicated ones included. */
  chunks: Buffer[]
  /** BLAKE3 of the sealed ops. */
  opsHash: Buffer
}

export function encodeHeader(h: EntryHeader): Buffer {
  const w = new Writer(256 + h.chunks.length * 32)
  w.byte(ENTRY_VERSION)
  w.fixed(h.drive)
  w.fixed(h.incarnation)
  w.uint(h.seq)
  w.fixed(h.previous)
  w.uint(h.clockMs)
  w.uint(h.firstOp)
  w.uint(h.opCount)
  w.uint(h.incarnations.length)
  for (const id of h.incarnations) w.fixed(id)
  w.uint(h.context.length)
  for (const [index, seq] of h.context) { w.uint(index); w.uint(seq) }
  w.uint(h.chunks.length)
  for (const id of h.chunks) w.fixed(id)
  w.fixed(h.opsHash)
  return w.take()
}

/** Of an entry as it is stored: header and signature, which is not looked at. EIO as decodeHeader. */
export function headerIn(signed: Buffer): EntryHeader {
  return decodeHeader(signed.subarray(0, Math.max(0, signed.length - SIGNATURE_BYTES)))
}

/** The same; undefined for what is no header. */
export function headerOf(signed: Buffer): EntryHeader | undefined {
  try {
    return headerIn(signed)
  } catch (e) {
    if (isDfsError(e)) return undefined
    throw e
  }
}

/** EIO for anything that is not a header of this version. */
export function decodeHeader(bytes: Buffer): EntryHeader {
  const r = new Reader(bytes)
  const version = r.byte()
  if (version !== ENTRY_VERSION) throw fail('EIO', `log entry: version ${version} is unknown`)
  const drive = r.fixed(32), incarnation = r.fixed(16)
  const seq = r.uint()
  const previous = r.fixed(32)
  const clockMs = r.uint(), firstOp = r.uint(), opCount = r.uint()
  const incarnations: Buffer[] = []
  for (let n = r.count(1 << 16); n > 0; n--) incarnations.push(r.fixed(16))
  const context: [number, number][] = []
  for (let n = r.count(1 << 16); n > 0; n--) context.push([r.uint(), r.uint()])
  const chunks: Buffer[] = []
  for (let n = r.count(1 << 20); n > 0; n--) chunks.push(r.fixed(32))
  const opsHash = r.fixed(32)
  if (r.left !== 0) throw fail('EIO', 'log entry: bytes after the header')
  return { drive, incarnation, seq, previous, clockMs, firstOp, opCount, incarnations, context, chunks, opsHash }
}

/** Associated data of the sealed ops: drive, incarnation and seq. */
export function entryAad(drive: Buffer, incarnation: Buffer, seq: number): Buffer {
  const place = Buffer.alloc(8)
  place.writeUIntLE(seq, 0, 6)
  return Buffer.concat([drive, incarnation, place])
}

export function hashOf(bytes: Buffer): Buffer {
  return blake.blake3(bytes)
}

/** Hash of an entry as stored: the header bytes with the signature behind them. */
export function entryHash(signedHeader: Buffer): Buffer {
  return blake.blake3(signedHeader)
}
