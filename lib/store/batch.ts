/** What is appended to a segment at a time: sealed records, as they lie in memory. */
import { fail } from '../errors.js'
import { MAX_CHUNK_BYTES } from '../limits.js'
import { copyInto } from '../memory.js'
import { RECORD_BYTES } from './record.js'

export interface SegmentRecord {
  /** 32 bytes: BLAKE3-256 of `sealed`. */
  id: Buffer
  /** Bytes of the plaintext, 1..MAX_CHUNK_BYTES. */
  plainLength: number
  sealed: Buffer
}
/**
 * Records as they will lie on the disk: each `sealed` a view of `bytes`, RECORD_BYTES behind the end of the one before (the
 * first: behind the start). Of one block of a BlockPool, with room up to the end of the page after the last.
 */
export interface RecordRun { bytes: Buffer; records: SegmentRecord[] }

/** EINVAL. */
export function checkRecord(record: SegmentRecord): void {
  const { id, plainLength, sealed } = record
  if (id.length !== 32 || !(plainLength >= 1 && plainLength <= MAX_CHUNK_BYTES) || sealed.length < 1 || sealed.length > MAX_CHUNK_BYTES * 2) {
    throw fail('EINVAL', `a record of ${plainLength} bytes, ${sealed.length} sealed`)
  }
}

/** Copies scattered records into `bytes` as a run. */
export function gather(bytes: Buffer, records: SegmentRecord[]): RecordRun {
  let at = 0
  return {
    bytes,
    records: records.map((r) => {
      at += RECORD_BYTES
      const sealed = bytes.subarray(at, at + r.sealed.length)
      copyInto(sealed, 0, r.sealed)
      at += sealed.length
      return { ...r, sealed }
    }),
  }
}

/** On the disk, with their headers: of a run from the start of the first record to the end of the last. */
export function bytesOf(records: SegmentRecord[]): number {
  return records.reduce((n, r) => n + RECORD_BYTES + r.sealed.length, 0)
}
