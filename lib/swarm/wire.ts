/**
 * Messages as bytes: a type byte, then the fields in the order of messages.ts.
 * Integers are LEB128 in their shortest form, byte strings of variable length
 * carry their length, the others do not. docs/protocol.md has the table.
 *
 * `decode` is the first thing that a stranger's bytes reach. It throws a DfsError
 * EIO for anything that `encode` does not write, allocates no more than a small
 * multiple of the bytes that it was given, and checks every length first.
 */
import { fail } from '../errors.js'
import { MAX_BUCKET_CHUNKS, MAX_COPIES, MAX_MESSAGE_BYTES, MAX_PLAN_BYTES, MAX_REPORT_BYTES } from '../limits.js'
import { Reader, Writer } from '../log/codec.js'
import { FACTOR_BUCKETS } from '../store/factor-table.js'
import {
  BYE_REASONS, DEVICE_BYTES, HASH_BYTES, ID_BYTES, INCARNATION_BYTES, MAX_CERTIFICATES, MAX_CERTIFICATE_BYTES, MAX_ENTRIES,
  MAX_ENTRIES_BYTES, MAX_ENTRY_BYTES, MAX_FORKED_HEADER_BYTES, MAX_HAVE_LOGS, MAX_IDS, MAX_PART_BYTES, MAX_SEALED_CHUNK_BYTES, MAX_SEALED_OPS_BYTES,
  MAX_SIGNED_HEADER_BYTES, MAX_SNAPSHOT_CREDIT_BYTES, MAX_SNAPSHOT_META_BYTES, MAX_SNAPSHOT_PIECE_BYTES, MIN_SEALED_CHUNK_BYTES,
  MIN_SEALED_OPS_BYTES, MIN_SIGNED_HEADER_BYTES, NONCE_BYTES, PIECE_KINDS, SNAPSHOT_REFUSALS, URGENCIES, entryBytes,
  type HeldLog, type LogName, type Message, type SignedEntry,
} from './messages.js'

/** Numbers are never given out again. 32 and above are for what comes later (order engines). */
const TYPES = {
  have: 1, wantEntries: 2, entries: 3, noEntries: 4, certificates: 5, forked: 6, entryPart: 7,
  wantSnapshot: 8, snapshotBegin: 9, snapshotPiece: 10, snapshotCredit: 11, snapshotEnd: 12, snapshotRefused: 13, snapshotCancel: 14,
  wantChunks: 16, chunk: 17, noChunks: 18, cancelChunks: 19,
  haveChunks: 20, askChunks: 21, challenge: 22, proof: 23,
  status: 24, bye: 25, hurryChunks: 26, plan: 27, report: 28, askReleases: 29, releases: 30, askFactors: 31, factors: 15,
} as const satisfies Record<Message['type'], number>

const NAMES = new Map<number, Message['type']>(Object.entries(TYPES).map(([name, n]) => [n, name as Message['type']]))

export function encode(m: Message): Buffer {
  if (m.type === 'chunk') {
    // The bulk of all traffic: one copy.
    const out = Buffer.allocUnsafe(1 + ID_BYTES + m.sealed.length)
    out[0] = TYPES.chunk
    out.set(m.id, 1)
    out.set(m.sealed, 1 + ID_BYTES)
    return out
  }
  const w = new Writer(sizeHint(m))
  w.byte(TYPES[m.type])
  switch (m.type) {
    case 'have':
      w.byte(m.isFull ? 1 : 0)
      w.uint(m.logs.length)
      for (const log of m.logs) {
        writeName(w, log)
        w.uint(log.seq)
        w.uint(log.first)
        w.fixed(log.hash)
      }
      break
    case 'wantEntries':
      w.uint(m.request)
      writeName(w, m)
      w.uint(m.from)
      w.uint(m.to - m.from)
      w.uint(m.limitBytes)
      break
    case 'entries':
      w.uint(m.request)
      writeName(w, m)
      w.uint(m.from)
      w.uint(m.entries.length)
      for (const e of m.entries) { w.bytes(e.signed); w.bytes(e.sealed) }
      break
    case 'entryPart':
      w.uint(m.request)
      w.uint(m.signedBytes)
      w.uint(m.sealedBytes)
      w.uint(m.offset)
      w.bytes(m.part)
      break
    case 'noEntries': w.uint(m.request); w.uint(m.needBytes); break
    case 'certificates':
      w.uint(m.certificates.length)
      for (const c of m.certificates) w.bytes(c)
      break
    case 'forked': writeName(w, m); w.bytes(m.one); w.bytes(m.other); break
    case 'wantSnapshot': case 'snapshotCredit': w.uint(m.creditBytes); break
    case 'snapshotBegin': w.bytes(m.meta); w.uint(m.totalBytes); break
    case 'snapshotPiece': w.byte(PIECE_KINDS.indexOf(m.kind)); w.bytes(m.bytes); break
    case 'snapshotEnd': w.fixed(m.hash); w.bytes(m.head); break
    case 'snapshotRefused': w.byte(SNAPSHOT_REFUSALS.indexOf(m.reason)); break
    case 'snapshotCancel': break
    case 'wantChunks': case 'hurryChunks': w.byte(URGENCIES.indexOf(m.urgency)); writeIds(w, m.ids); break
    case 'noChunks': case 'cancelChunks': writeIds(w, m.ids); break
    case 'haveChunks': case 'askChunks': w.byte(m.copies); writeIds(w, m.ids); break
    case 'challenge': w.fixed(m.id); w.fixed(m.nonce); break
    case 'proof': w.fixed(m.id); w.fixed(m.mac); break
    case 'status':
      w.uint(m.capacityBytes)
      w.uint(m.usedBytes)
      w.uint(m.owedBytes)
      w.byte(m.keepsEverything ? 1 : 0)
      w.fixed(m.plan)
      break
    case 'plan': w.bytes(m.plan); break
    case 'report': w.bytes(m.report); break
    case 'askReleases': writeIds(w, m.ids); break
    case 'askFactors': w.fixed(m.hashes); break
    case 'factors':
      w.uint(m.buckets.length)
      for (const { bucket, chunks } of m.buckets) {
        w.byte(bucket)
        w.uint(chunks.length)
        for (const { id, value } of chunks) { w.fixed(id); w.byte(value) }
      }
      break
    case 'releases':
      w.uint(m.logs.length)
      for (const log of m.logs) {
        writeName(w, log)
        w.uint(log.seq)
      }
      writeIds(w, m.ids)
      break
    case 'bye': w.byte(BYE_REASONS.indexOf(m.reason)); break
  }
  return w.take()
}

/** What stands before the sealed bytes of a `chunk`, for links that send the rest from a file. */
export function chunkHead(id: Buffer): Buffer {
  return Buffer.concat([Buffer.from([TYPES.chunk]), id])
}

/** Whether these are a chunk's: most of all bytes are. */
export function isChunk(bytes: Uint8Array): boolean {
  return bytes[0] === TYPES.chunk
}

/** `bytes` become the message's: a chunk is a view of them. */
export function decode(bytes: Buffer): Message {
  if (bytes.length > MAX_MESSAGE_BYTES) throw wrong('it is too long')
  const r = new Strict(bytes)
  const type = NAMES.get(r.byte())
  if (type === undefined) throw wrong('its type is unknown')
  const m = decodeAs(type, r, bytes)
  if (type !== 'chunk' && r.left !== 0) throw wrong('bytes after its end')
  return m
}

function decodeAs(type: Message['type'], r: Strict, bytes: Buffer): Message {
  switch (type) {
    case 'have': return { type, isFull: r.flag(), logs: r.list(0, MAX_HAVE_LOGS, INCARNATION_BYTES + DEVICE_BYTES + 2 + HASH_BYTES, () => readHeld(r)) }
    case 'wantEntries': {
      const request = r.atLeast(1), name = readName(r), from = r.atLeast(1), to = from + r.uint()
      if (!Number.isSafeInteger(to)) throw wrong('a number is out of range')
      return { type, request, ...name, from, to, limitBytes: r.within(1, MAX_ENTRY_BYTES) }
    }
    case 'entries': {
      const request = r.uint(), name = readName(r), from = r.atLeast(1)
      const entries = r.list(1, MAX_ENTRIES, MIN_SIGNED_HEADER_BYTES + MIN_SEALED_OPS_BYTES, () => readEntry(r))
      if (entries.reduce((n, e) => n + entryBytes(e), 0) > MAX_ENTRIES_BYTES) throw wrong('too many entries')
      if (!Number.isSafeInteger(from + entries.length)) throw wrong('a number is out of range')
      return { type, request, ...name, from, entries }
    }
    case 'entryPart': {
      const request = r.atLeast(1)
      const signedBytes = r.within(MIN_SIGNED_HEADER_BYTES, MAX_SIGNED_HEADER_BYTES), sealedBytes = r.within(MIN_SEALED_OPS_BYTES, MAX_SEALED_OPS_BYTES)
      const offset = r.within(0, signedBytes + sealedBytes - 1)
      if (offset % MAX_PART_BYTES !== 0) throw wrong('a part begins where none does')
      const length = Math.min(MAX_PART_BYTES, signedBytes + sealedBytes - offset)
      return { type, request, signedBytes, sealedBytes, offset, part: r.string(length, length) }
    }
    case 'noEntries': return { type, request: r.atLeast(1), needBytes: r.within(0, MAX_ENTRY_BYTES) }
    case 'certificates': return { type, certificates: r.list(1, MAX_CERTIFICATES, 2, () => r.string(1, MAX_CERTIFICATE_BYTES)) }
    case 'forked': {
      const name = readName(r)
      return { type, ...name, one: r.string(MIN_SIGNED_HEADER_BYTES, MAX_FORKED_HEADER_BYTES), other: r.string(MIN_SIGNED_HEADER_BYTES, MAX_FORKED_HEADER_BYTES) }
    }
    case 'wantSnapshot': case 'snapshotCredit': return { type, creditBytes: r.within(1, MAX_SNAPSHOT_CREDIT_BYTES) }
    case 'snapshotBegin': return { type, meta: r.string(0, MAX_SNAPSHOT_META_BYTES), totalBytes: r.uint() }
    case 'snapshotPiece': return { type, kind: r.oneOf(PIECE_KINDS), bytes: r.string(1, MAX_SNAPSHOT_PIECE_BYTES) }
    case 'snapshotEnd': return { type, hash: r.fixed(HASH_BYTES), head: r.string(0, MAX_SNAPSHOT_META_BYTES) }
    case 'snapshotRefused': return { type, reason: r.oneOf(SNAPSHOT_REFUSALS) }
    case 'snapshotCancel': return { type }
    case 'wantChunks': case 'hurryChunks': return { type, urgency: r.oneOf(URGENCIES), ids: readIds(r) }
    case 'chunk': {
      const id = r.fixed(ID_BYTES)
      if (r.left < MIN_SEALED_CHUNK_BYTES || r.left > MAX_SEALED_CHUNK_BYTES) throw wrong('no chunk has this length')
      return { type, id, sealed: bytes.subarray(1 + ID_BYTES) }
    }
    case 'noChunks': case 'cancelChunks': return { type, ids: readIds(r) }
    case 'haveChunks': case 'askChunks': return { type, copies: readCopies(r, 0), ids: readIds(r) }
    case 'challenge': return { type, id: r.fixed(ID_BYTES), nonce: r.fixed(NONCE_BYTES) }
    case 'proof': return { type, id: r.fixed(ID_BYTES), mac: r.fixed(HASH_BYTES) }
    case 'status': return { type, capacityBytes: r.uint(), usedBytes: r.uint(), owedBytes: r.uint(), keepsEverything: r.flag(), plan: r.fixed(HASH_BYTES) }
    case 'plan': return { type, plan: r.string(0, MAX_PLAN_BYTES) }
    case 'report': return { type, report: r.string(1, MAX_REPORT_BYTES) }
    case 'askReleases': return { type, ids: readIds(r) }
    case 'askFactors': return { type, hashes: r.fixed(FACTOR_BUCKETS * 8) }
    case 'factors': return { type, buckets: r.list(0, FACTOR_BUCKETS, 2, () => readBucket(r)) }
    case 'releases': {
      const logs = r.list(0, MAX_HAVE_LOGS, INCARNATION_BYTES + DEVICE_BYTES + 1, () => ({ ...readName(r), seq: r.atLeast(1) }))
      return { type, logs, ids: readIds(r, 0) }
    }
    case 'bye': return { type, reason: r.oneOf(BYE_REASONS) }
  }
}

function writeName(w: Writer, log: LogName): void {
  w.fixed(log.incarnation)
  w.fixed(log.device)
}

function readName(r: Strict): LogName {
  return { incarnation: r.fixed(INCARNATION_BYTES), device: r.fixed(DEVICE_BYTES) }
}

function readHeld(r: Strict): HeldLog {
  const name = readName(r)
  const seq = r.within(1, Number.MAX_SAFE_INTEGER - 1)
  return { ...name, seq, first: r.within(1, seq + 1), hash: r.fixed(HASH_BYTES) }
}

function readEntry(r: Strict): SignedEntry {
  return { signed: r.string(MIN_SIGNED_HEADER_BYTES, MAX_SIGNED_HEADER_BYTES), sealed: r.string(MIN_SEALED_OPS_BYTES, MAX_SEALED_OPS_BYTES) }
}

function writeIds(w: Writer, ids: Buffer[]): void {
  w.uint(ids.length)
  for (const id of ids) w.fixed(id)
}

function readIds(r: Strict, min = 1): Buffer[] {
  return r.list(min, MAX_IDS, ID_BYTES, () => r.fixed(ID_BYTES))
}

function readCopies(r: Strict, min: number): number {
  const copies = r.byte()
  if (copies < min || copies > MAX_COPIES) throw wrong('so many copies there cannot be')
  return copies
}

/** The ids of a bucket begin with its number, and ascend. */
function readBucket(r: Strict): { bucket: number; chunks: { id: Buffer; value: number }[] } {
  const bucket = r.byte()
  let last: Buffer | undefined
  const chunks = r.list(0, MAX_BUCKET_CHUNKS, ID_BYTES + 1, () => {
    const id = r.fixed(ID_BYTES), value = r.byte()
    const copies = value & 0x7f
    if (id[0] !== bucket || (last && last.compare(id) >= 0) || copies < 1 || copies > MAX_COPIES) throw wrong('a bucket that nobody has')
    last = id
    return { id, value }
  })
  return { bucket, chunks }
}

/** So that the writer seldom has to move what it has. */
function sizeHint(m: Message): number {
  switch (m.type) {
    case 'have': return 16 + m.logs.length * 96
    case 'entries': return m.entries.reduce((n, e) => n + e.signed.length + e.sealed.length + 16, 128)
    case 'entryPart': return m.part.length + 64
    case 'certificates': return m.certificates.reduce((n, c) => n + c.length + 8, 16)
    case 'forked': return m.one.length + m.other.length + 80
    case 'snapshotBegin': return m.meta.length + 32
    case 'snapshotPiece': return m.bytes.length + 32
    case 'snapshotEnd': return m.head.length + 64
    case 'plan': return m.plan.length + 16
    case 'report': return m.report.length + 16
    case 'askFactors': return m.hashes.length + 16
    case 'factors': return m.buckets.reduce((n, { chunks }) => n + 8 + chunks.length * (ID_BYTES + 1), 16)
    case 'releases': return 32 + m.logs.length * 64 + m.ids.length * ID_BYTES
    case 'wantChunks': case 'hurryChunks': case 'noChunks': case 'cancelChunks': case 'haveChunks': case 'askChunks': case 'askReleases': return 16 + m.ids.length * ID_BYTES
    default: return 128
  }
}

/** Accepts one form of each value only: a message has one encoding. */
class Strict extends Reader {
  override uint(): number {
    const before = this.left
    const v = super.uint()
    const took = before - this.left
    if (took > 1 && v < 128 ** (took - 1)) throw wrong('a number is not in its shortest form')
    return v
  }

  within(min: number, max: number): number {
    const v = this.uint()
    if (v < min || v > max) throw wrong('a number is out of range')
    return v
  }

  atLeast(min: number): number {
    return this.within(min, Number.MAX_SAFE_INTEGER)
  }

  flag(): boolean {
    const v = this.byte()
    if (v > 1) throw wrong('a flag is neither 0 nor 1')
    return v === 1
  }

  oneOf<T>(values: readonly T[]): T {
    const v = values[this.byte()]
    if (v === undefined) throw wrong('a value is unknown')
    return v
  }

  string(min: number, max: number): Buffer {
    return this.fixed(this.within(min, max))
  }

  /** `eachBytes`: none takes less, so that a count cannot ask for more than is there. */
  list<T>(min: number, max: number, eachBytes: number, read: () => T): T[] {
    const n = this.within(min, max)
    if (n * eachBytes > this.left) throw wrong('it ends too early')
    const out: T[] = []
    for (let i = 0; i < n; i++) out.push(read())
    return out
  }
}

function wrong(why: string) {
  return fail('EIO', `a peer's message: ${why}`)
}
