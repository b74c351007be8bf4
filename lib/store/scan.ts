/**
 * Reading segments from their own records: re-indexing, fsck, scrub, and finding
 * the end of a segment after a crash.
 */
import blakeHash from '@napi-rs/blake-hash'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { fail } from '../errors.js'
import { PAGE_BYTES, pageEnd } from '../memory.js'
import { HEADER_BYTES, RECORD_BYTES, judgeSegmentHeader, parseRecordHeader, segmentVersion, SEGMENT_VERSION } from './record.js'

export interface ScannedRecord {
  /** Of the sealed bytes in the file (for ok = false without id: of the bytes that could not be understood). */
  offset: number
  sealedLength: number
  plainLength: number
  /** Absent where the record's header is damaged. */
  id?: Buffer
  ok: boolean
}

/** How far a search for the next record reads at a time. */
const SEARCH_BYTES = 1024 * 1024

/**
 * Size and state of a segment file, and whether its last page is empty (it was made of blocks that were kept back, and not used up when it was left): 'empty' if neither its header nor any record is there (a crash when it was
 * made), 'damaged' if records are intact but the header is not, 'old' for an earlier version (read, and not appended to). STORE_NEWER, or STORE_DAMAGED for a
 * segment of another drive or place and for a file that is no segment.
 */
export function checkHeader(path: string, number: number, driveId: Buffer): { size: number; state: 'ok' | 'old' | 'empty' | 'damaged'; endsInZeros: boolean } {
  const header = Buffer.alloc(HEADER_BYTES)
  const fd = openSync(path, 'r')
  let size: number
  let endsInZeros: boolean
  try {
    size = fstatSync(fd).size
    if (size < HEADER_BYTES) return { size, state: 'empty', endsInZeros: false }
    readSync(fd, header, 0, HEADER_BYTES, 0)
    endsInZeros = size >= HEADER_BYTES + PAGE_BYTES && isZero(fd, size - PAGE_BYTES, size)
  } finally {
    closeSync(fd)
  }
  switch (judgeSegmentHeader(header, number, driveId)) {
    case 'ok': return { size, state: segmentVersion(header) < SEGMENT_VERSION ? 'old' : 'ok', endsInZeros }
    case 'newer': throw fail('STORE_NEWER', `segment ${path} has a newer format; update dfs`)
    case 'foreign': throw fail('STORE_DAMAGED', `segment ${path} belongs to another drive or place; move it away`)
    case 'damaged':
      for (const record of scanSegment(path, number, true)) if (record.ok) return { size, state: 'damaged', endsInZeros }
      if (header.every((b) => b === 0)) return { size, state: 'empty', endsInZeros }
      throw fail('STORE_DAMAGED', `${path} is not a segment, or nothing in it is intact; move it away`)
  }
}

/** The records in order, of the first `limit` bytes; see SegmentStore.scan. EIO if the file cannot be opened. */
export function * scanSegment(path: string, segment: number, isVerifying: boolean, limit = Infinity): Generator<ScannedRecord> {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (e) {
    throw fail('EIO', `segment ${segment} cannot be opened`, e)
  }
  try {
    const size = Math.min(fstatSync(fd).size, limit)
    const header = Buffer.alloc(RECORD_BYTES)
    for (let at = HEADER_BYTES; at < size;) {
      const record = at + RECORD_BYTES <= size && readFully(fd, header, at) ? parseRecordHeader(header, segment, at) : undefined
      if (!record || at + RECORD_BYTES + record.sealedLength > size) {
        const page = Math.min(pageEnd(at), size)
        if (page > at && isZero(fd, at, page)) {
          at = page
          continue
        }
        const next = findRecord(fd, segment, at + 1, size)
        yield { offset: at, sealedLength: next - at, plainLength: 0, ok: false }
        at = next
        continue
      }
      const offset = at + RECORD_BYTES
      yield { offset, ...record, ok: !isVerifying || isIntact(fd, offset, record.sealedLength, record.id) }
      at = offset + record.sealedLength
    }
  } finally {
    closeSync(fd)
  }
}

/**
 * Where a segment ends: after its last intact record, and the zeros that fill its page. Only a tail is ever cut: a
 * damaged record with an intact one after it may be the disk's doing and stays.
 */
export function trueEnd(path: string, segment: number, size: number): number {
  let end = HEADER_BYTES
  let isTorn = false
  for (const record of scanSegment(path, segment, true)) {
    isTorn = !record.ok
    if (record.ok) end = record.offset + record.sealedLength
  }
  return !isTorn && size === pageEnd(end) ? size : end
}

/** At most a page. */
function isZero(fd: number, from: number, to: number): boolean {
  const bytes = Buffer.alloc(to - from)
  return readFully(fd, bytes, from) && bytes.every((b) => b === 0)
}

function isIntact(fd: number, offset: number, length: number, id: Buffer): boolean {
  const sealed = Buffer.allocUnsafe(length)
  return readFully(fd, sealed, offset) && blakeHash.blake3(sealed).equals(id)
}

/** The first place from `from` on where a record of this place begins; `size` if there is none. */
function findRecord(fd: number, segment: number, from: number, size: number): number {
  const block = Buffer.alloc(SEARCH_BYTES + RECORD_BYTES)
  for (let base = from; base < size; base += SEARCH_BYTES) {
    const n = readSync(fd, block, 0, Math.min(block.length, size - base), base)
    for (let i = block.indexOf('CHNK', 0, 'latin1'); i >= 0 && i + RECORD_BYTES <= n && i < SEARCH_BYTES; i = block.indexOf('CHNK', i + 1, 'latin1')) {
      const record = parseRecordHeader(block.subarray(i, i + RECORD_BYTES), segment, base + i)
      if (record && base + i + RECORD_BYTES + record.sealedLength <= size) return base + i
    }
  }
  return size
}

function readFully(fd: number, out: Buffer, position: number): boolean {
  for (let done = 0; done < out.length;) {
    const n = readSync(fd, out, done, out.length - done, position + done)
    if (n === 0) return false
    done += n
  }
  return true
}
