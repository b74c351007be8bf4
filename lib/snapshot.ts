/**
 * A snapshot between two devices: what is in its pieces. All of a device's
 * metadata, as rows (store/snapshot.ts), sealed for those who may read; with it,
 * for who keeps it without reading it, the ids of all chunks that they refer to;
 * and a head, signed, that says what it is (log/snapshot-head.ts).
 *
 * Made by a device that may write, while it is given, or given again as it was
 * once made by a device that keeps it (sealed-snapshots.ts).
 */
import { fail } from './errors.js'
import { Reader, Writer } from './log/codec.js'
import { readHead, type VerifiedHead } from './log/snapshot-head.js'
import { SNAPSHOT_ID_BYTES, PIECE_OVERHEAD_BYTES, type SnapshotSealer } from './seal/snapshot.js'
import type { SnapshotSink, SnapshotSource } from './store/snapshot.js'
import { MAX_SNAPSHOT_PIECE_BYTES, type PieceKind } from './swarm/messages.js'

/** Rows of one piece. */
const MAX_PLAIN_BYTES = MAX_SNAPSHOT_PIECE_BYTES - PIECE_OVERHEAD_BYTES - 2
/** Ids in a piece: as many as are read in some milliseconds. */
const CHUNKS_BYTES = 64 << 10
/** Rows that go together, in as many pieces as they need: no longer than the longest value. */
const MAX_ROWS_BYTES = 80 << 20

export interface Piece { kind: PieceKind; bytes: Buffer }

/** A snapshot as it is given. Close it. */
export interface SnapshotGift {
  /** SnapshotMeta, written. */
  readonly meta: Buffer
  /** About what all pieces take. */
  readonly totalBytes: number
  /** Undefined after the last. */
  next(): Piece | undefined
  /** The signed head, of all pieces with this hash; empty if `meta` has it. */
  end(hash: Buffer): Buffer
  /** May be called twice. */
  close(): void
}

/** What is said before the first piece: which snapshot, or, if it was made before, all that it is. */
export type SnapshotMeta = { id: Buffer; head?: undefined } | { id: Buffer; head: VerifiedHead; signed: Buffer }

const MADE_NOW = 0, MADE_BEFORE = 1

export function metaOfFresh(id: Buffer): Buffer { return Buffer.concat([Buffer.of(MADE_NOW), id]) }
export function metaOfKept(signed: Buffer): Buffer { return Buffer.concat([Buffer.of(MADE_BEFORE), signed]) }

/** EIO for what is none, or whose head no device of the drive that may write has signed. */
export function readMeta(bytes: Buffer, driveId: Buffer): SnapshotMeta {
  if (bytes[0] === MADE_NOW && bytes.length === 1 + SNAPSHOT_ID_BYTES) return { id: Buffer.from(bytes.subarray(1)) }
  const signed = Buffer.from(bytes.subarray(1))
  const head = bytes[0] === MADE_BEFORE ? readHead(signed, driveId) : undefined
  if (!head) throw fail('EIO', 'a snapshot that no device of the drive has signed')
  return { id: head.id, head, signed }
}

/** Made while it is given, from one read of the index. */
export class FreshSnapshot implements SnapshotGift {
  readonly meta: Buffer
  readonly totalBytes: number
  readonly #source: SnapshotSource
  readonly #pieces: Generator<Piece>
  readonly #sign: (made: { pieces: number; totalBytes: number; hash: Buffer }) => Buffer
  #count = 0
  #bytes = 0

  /** `source` is closed with this. `sign` makes the head. */
  constructor(o: { id: Buffer; source: SnapshotSource; sealer: SnapshotSealer; withChunks: boolean; sign: (made: { pieces: number; totalBytes: number; hash: Buffer }) => Buffer }) {
    this.meta = metaOfFresh(o.id)
    this.#source = o.source
    this.totalBytes = o.source.totalBytes
    this.#sign = o.sign
    this.#pieces = pieces(o)
  }

  next(): Piece | undefined {
    const next = this.#pieces.next()
    if (next.done) return undefined
    this.#count++
    this.#bytes += next.value.bytes.length
    return next.value
  }

  end(hash: Buffer): Buffer {
    return this.#sign({ pieces: this.#count, totalBytes: this.#bytes, hash })
  }

  close(): void {
    // What is not read to its end holds the index's connection.
    this.#pieces.return(undefined)
    this.#source.close()
  }
}

function *pieces({ id, source, sealer, withChunks }: { id: Buffer; source: SnapshotSource; sealer: SnapshotSealer; withChunks: boolean }): Generator<Piece> {
  let n = 0
  for (const { table, rows } of source.rows()) {
    for (let at = 0; at < rows.length; at += MAX_PLAIN_BYTES) {
      const part = rows.subarray(at, at + MAX_PLAIN_BYTES)
      const goesOn = at + part.length < rows.length
      yield { kind: 'rows', bytes: sealer.seal(id, n++, Buffer.concat([Buffer.of(table, goesOn ? 1 : 0), part])) }
    }
  }
  if (!withChunks) return
  const w = new Writer(CHUNKS_BYTES + 64)
  for (const chunk of source.chunks()) {
    w.fixed(chunk.id)
    w.uint(chunk.len)
    if (w.length < CHUNKS_BYTES) continue
    yield { kind: 'chunks', bytes: w.take() }
    w.reset()
  }
  if (w.length > 0) yield { kind: 'chunks', bytes: w.take() }
}

/** The chunks in a piece of that kind: id (32), and bytes of plaintext. EIO for what is none. */
export function readChunks(piece: Buffer): { id: Buffer; len: number }[] {
  const r = new Reader(piece)
  const out: { id: Buffer; len: number }[] = []
  while (r.left > 0) out.push({ id: r.fixed(32), len: r.uint() })
  return out
}

/** Opens pieces of rows, in their order, into a sink. */
export class SnapshotReader {
  readonly #sealer: SnapshotSealer
  readonly #sink: SnapshotSink
  readonly #id: Buffer
  #n = 0
  #parts: Buffer[] = []
  #bytes = 0

  constructor(sealer: SnapshotSealer, sink: SnapshotSink, id: Buffer) {
    this.#sealer = sealer
    this.#sink = sink
    this.#id = id
  }

  /** EIO unless it is the next piece, sealed by who may read, of rows that can be. */
  take(piece: Buffer): void {
    const plain = this.#sealer.open(this.#id, this.#n++, piece)
    const [table, goesOn] = plain
    if (table === undefined || goesOn === undefined || goesOn > 1) throw fail('EIO', 'a piece of a snapshot without rows')
    if (this.#parts.length > 0 && this.#parts[0]![0] !== table) throw fail('EIO', 'rows of a snapshot without their end')
    this.#parts.push(plain)
    this.#bytes += plain.length
    if (this.#bytes > MAX_ROWS_BYTES) throw fail('EIO', 'rows of a snapshot that are too long')
    if (goesOn === 1) return
    const parts = this.#parts.map((p) => p.subarray(2))
    this.#parts = []
    this.#bytes = 0
    this.#sink.take(table, parts.length === 1 ? parts[0]! : Buffer.concat(parts))
  }

  /** After the last. */
  end(): void {
    if (this.#parts.length > 0) throw fail('EIO', 'rows of a snapshot without their end')
  }
}
