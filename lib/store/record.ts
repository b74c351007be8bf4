/**
 * The bytes of a segment file: its header, and the header before each sealed
 * chunk. docs/format.md, "Segment file". Integers are little-endian.
 */
import blakeHash from '@napi-rs/blake-hash'

/** 'DFSSEGM\0' */
const SEGMENT_MAGIC = Buffer.from('DFSSEGM\0', 'latin1')
/** 2: records may be followed by zeros up to the next page, where the next one begins. */
export const SEGMENT_VERSION = 2
export const HEADER_BYTES = 64
export const RECORD_BYTES = 56
const RECORD_MAGIC = 0x4b4e4843 // 'CHNK'
const KIND_CHUNK = 1
/** Bytes of the record header before its checksum. */
const CHECKED_BYTES = 48

export interface RecordHeader { plainLength: number; sealedLength: number; id: Buffer }

/** magic 8 | version u32 | number u32 | drive id 32 | zeros 8 | checksum 8 */
export function segmentHeader(number: number, driveId: Buffer): Buffer {
  const out = Buffer.alloc(HEADER_BYTES)
  SEGMENT_MAGIC.copy(out)
  out.writeUInt32LE(SEGMENT_VERSION, 8)
  out.writeUInt32LE(number, 12)
  driveId.copy(out, 16)
  check64(out.subarray(0, 56)).copy(out, 56)
  return out
}

/** The version that a header tells, for one that is judged 'ok'. */
export function segmentVersion(header: Buffer): number {
  return header.readUInt32LE(8)
}

export type HeaderVerdict = 'ok' | 'newer' | 'foreign' | 'damaged'

export function judgeSegmentHeader(header: Buffer, number: number, driveId: Buffer): HeaderVerdict {
  if (!header.subarray(0, 8).equals(SEGMENT_MAGIC)) return 'damaged'
  if (header.readUInt32LE(8) > SEGMENT_VERSION) return 'newer'
  if (!check64(header.subarray(0, 56)).equals(header.subarray(56, 64))) return 'damaged'
  return header.readUInt32LE(12) === number && header.subarray(16, 48).equals(driveId) ? 'ok' : 'foreign'
}

/** magic u32 | kind u8 | zeros 3 | sealed length u32 | plain length u32 | id 32 | checksum 8, of the header and its place */
export function recordHeader(segment: number, offset: number, record: { id: Buffer; plainLength: number; sealed: { length: number } }, out: Buffer = Buffer.alloc(RECORD_BYTES)): Buffer {
  out.writeUInt32LE(RECORD_MAGIC, 0)
  out.writeUInt32LE(KIND_CHUNK, 4)
  out.writeUInt32LE(record.sealed.length, 8)
  out.writeUInt32LE(record.plainLength, 12)
  record.id.copy(out, 16)
  placeCheck(out, segment, offset).copy(out, CHECKED_BYTES)
  return out
}

/** Undefined unless this is the header of a record at this very place. */
export function parseRecordHeader(bytes: Buffer, segment: number, offset: number): RecordHeader | undefined {
  if (bytes.readUInt32LE(0) !== RECORD_MAGIC || bytes[4] !== KIND_CHUNK) return undefined
  if (!placeCheck(bytes, segment, offset).equals(bytes.subarray(CHECKED_BYTES, RECORD_BYTES))) return undefined
  return { sealedLength: bytes.readUInt32LE(8), plainLength: bytes.readUInt32LE(12), id: Buffer.from(bytes.subarray(16, 48)) }
}

/** The place is hashed too: a stale record in reused space, or a copied one, is not taken for one of this place. */
function placeCheck(header: Buffer, segment: number, offset: number): Buffer {
  const message = Buffer.allocUnsafe(CHECKED_BYTES + 8)
  header.copy(message, 0, 0, CHECKED_BYTES)
  message.writeUInt32LE(segment, CHECKED_BYTES)
  message.writeUInt32LE(offset, CHECKED_BYTES + 4)
  return check64(message)
}

function check64(bytes: Buffer): Buffer {
  return blakeHash.blake3(bytes).subarray(0, 8)
}
