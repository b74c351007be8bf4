/**
 * Moving a snapshot: pieces, streamed from one device to another. Two step
 * machines; what pieces, `meta` and `head` mean is the host's (lib/snapshot.ts).
 *
 * The receiver gives credit for so many bytes and more as it works them off, so
 * neither side holds more than that. There is no resuming: what was interrupted
 * begins anew, perhaps at another peer, for a later snapshot has other pieces.
 *
 * Invariants: never more bytes under way than credit; one read at a time of each
 * snapshot that is given; `complete` only after all pieces, with the hash that the
 * giver named over just these.
 */
import blake from '@napi-rs/blake-hash'
import {
  MAX_SNAPSHOT_CREDIT_BYTES, MAX_SNAPSHOT_META_BYTES, MAX_SNAPSHOT_PIECE_BYTES, PIECE_KINDS,
  type Peer, type PieceKind, type SnapshotBegin, type SnapshotCancel, type SnapshotCredit, type SnapshotEnd, type SnapshotMessage, type SnapshotRefusal,
  type SnapshotPiece, type SnapshotRefused, type WantSnapshot,
} from './messages.js'
import type { Priority } from './net/link.js'

/** Given at the same time: each holds a read transaction open, which keeps the index's log from starting over. */
export const MAX_GIVEN = 4
/** Who asks again sooner is told to wait: each beginning is a read of the index, and an honest one does not. */
export const AGAIN_MS = 500
/** Without any progress: a read transaction is not kept for a peer that has gone to sleep. */
const STALLED_MS = 60_000
/** A giver that says nothing for so long is left for another. */
const SILENT_MS = 15_000
/** Of pieces under way: 100 MB/s over a round trip of 40 ms. */
const CREDIT_BYTES = 4 * 1024 * 1024

type Send = { type: 'send'; peer: Peer; message: SnapshotMessage; priority: Priority }

export type GiveEffect =
  | Send
  /** Begin a consistent read; then call `opened` or `failed`. */
  | { type: 'open'; token: number; peer: Peer }
  /** Read on; then call `piece`, `ended` or `failed`. */
  | { type: 'read'; token: number; peer: Peer }
  /** The read is over, finished or not. Nothing more is called with this token. */
  | { type: 'close'; token: number }

interface Given { token: number; creditBytes: number; hash: PiecesHash; state: 'opening' | 'reading' | 'waiting'; progressMs: number }

/** Gives snapshots to peers. */
export class SnapshotGiver {
  readonly #given = new Map<Peer, Given>()
  readonly #begunMs = new Map<Peer, number>()
  #nextToken = 1
  #out: GiveEffect[] = []

  message(nowMs: number, peer: Peer, m: WantSnapshot | SnapshotCredit | SnapshotCancel): GiveEffect[] {
    const given = this.#given.get(peer)
    if (m.type === 'wantSnapshot') {
      this.#want(nowMs, peer, m, given)
    } else if (given && m.type === 'snapshotCancel') this.#close(peer, given)
    else if (given && m.type === 'snapshotCredit') {
      given.creditBytes = Math.min(MAX_SNAPSHOT_CREDIT_BYTES, given.creditBytes + m.creditBytes)
      given.progressMs = nowMs
      if (given.state === 'waiting') this.#read(peer, given)
    }
    return this.#end()
  }

  peerDown(peer: Peer): GiveEffect[] {
    const given = this.#given.get(peer)
    if (given) this.#close(peer, given)
    return this.#end()
  }

  #want(nowMs: number, peer: Peer, m: WantSnapshot, given: Given | undefined): void {
    for (const [one, ms] of this.#begunMs) if (nowMs - ms >= AGAIN_MS) this.#begunMs.delete(one)
    if (this.#begunMs.has(peer)) return this.#refuse(peer, 'busy')
    if (given) this.#close(peer, given)
    if (this.#given.size >= MAX_GIVEN) return this.#refuse(peer, 'busy')
    this.#begunMs.set(peer, nowMs)
    const token = this.#nextToken++
    this.#given.set(peer, { token, creditBytes: Math.min(MAX_SNAPSHOT_CREDIT_BYTES, m.creditBytes), hash: new PiecesHash(), state: 'opening', progressMs: nowMs })
    this.#out.push({ type: 'open', token, peer })
  }

  opened(nowMs: number, token: number, meta: Buffer, totalBytes: number): GiveEffect[] {
    const [peer, given] = this.#find(token)
    if (!given) return this.#end()
    if (meta.length > MAX_SNAPSHOT_META_BYTES) throw new Error('invariant: the description of a snapshot is too long')
    given.progressMs = nowMs
    this.#send(peer, { type: 'snapshotBegin', meta, totalBytes })
    this.#read(peer, given)
    return this.#end()
  }

  piece(nowMs: number, token: number, kind: PieceKind, bytes: Buffer): GiveEffect[] {
    const [peer, given] = this.#find(token)
    if (!given) return this.#end()
    if (bytes.length === 0 || bytes.length > Math.min(given.creditBytes, MAX_SNAPSHOT_PIECE_BYTES)) throw new Error('invariant: a piece that is empty or too long')
    given.creditBytes -= bytes.length
    given.progressMs = nowMs
    given.hash.add(kind, bytes)
    this.#send(peer, { type: 'snapshotPiece', kind, bytes })
    this.#read(peer, given)
    return this.#end()
  }

  /** There are no more pieces. `headOf`: makes the head, from the hash of all. */
  ended(token: number, headOf: (hash: Buffer) => Buffer): GiveEffect[] {
    const [peer, given] = this.#find(token)
    if (!given) return this.#end()
    const hash = given.hash.digest()
    this.#send(peer, { type: 'snapshotEnd', hash, head: headOf(hash) })
    this.#close(peer, given)
    return this.#end()
  }

  /** There is none, or it cannot be read on. */
  failed(token: number, reason: SnapshotRefusal): GiveEffect[] {
    const [peer, given] = this.#find(token)
    if (given) {
      this.#refuse(peer, reason)
      this.#close(peer, given)
    }
    return this.#end()
  }

  /** Every second or so. */
  tick(nowMs: number): GiveEffect[] {
    for (const [peer, given] of [...this.#given]) {
      // Reading, too: the link may take nothing.
      if (given.state === 'opening' || nowMs - given.progressMs < STALLED_MS) continue
      this.#refuse(peer, 'failed')
      this.#close(peer, given)
    }
    return this.#end()
  }

  #find(token: number): [Peer, Given] | [string, undefined] {
    for (const [peer, given] of this.#given) if (given.token === token) return [peer, given]
    return ['', undefined]
  }

  #read(peer: Peer, given: Given): void {
    // The longest piece must fit: small remains of credit are not used up.
    if (given.creditBytes < MAX_SNAPSHOT_PIECE_BYTES) given.state = 'waiting'
    else {
      given.state = 'reading'
      this.#out.push({ type: 'read', token: given.token, peer })
    }
  }

  #close(peer: Peer, given: Given): void {
    this.#given.delete(peer)
    this.#out.push({ type: 'close', token: given.token })
  }

  #refuse(peer: Peer, reason: SnapshotRefusal): void {
    this.#send(peer, { type: 'snapshotRefused', reason })
  }

  #send(peer: Peer, message: SnapshotMessage): void {
    this.#out.push({ type: 'send', peer, message, priority: 'bulk' })
  }

  #end(): GiveEffect[] {
    const out = this.#out
    this.#out = []
    return out
  }
}

export type SnapshotFailure = SnapshotRefusal | 'stalled' | 'disconnected' | 'lying'

export type TakeEffect =
  | Send
  /** What it is: check it before anything else is used. */
  | { type: 'begin'; peer: Peer; meta: Buffer; totalBytes: number }
  /** Keep it apart until `complete`; call `worked` when it is out of memory. */
  | { type: 'piece'; kind: PieceKind; bytes: Buffer }
  /** All pieces came, with this hash. Whether they are those that a signed head means is for the host to check. */
  | { type: 'complete'; peer: Peer; hash: Buffer; head: Buffer }
  /** Throw away what came; begin anew with `take`. 'lying': the peer broke the protocol, close the link. */
  | { type: 'failed'; peer: Peer; why: SnapshotFailure }

/** Takes one snapshot at a time from a peer. */
export class SnapshotTaker {
  #peer: Peer | undefined
  #state: 'asked' | 'begun' = 'asked'
  #hash = new PiecesHash()
  /** Given to the peer and not used by it. */
  #creditBytes = 0
  /** Worked off and not given again. */
  #workedBytes = 0
  #progressMs = 0
  #out: TakeEffect[] = []

  /** The peer that gives; undefined while none is taken. */
  get peer(): Peer | undefined { return this.#peer }

  /** Asks a peer that is connected. What was under way is cancelled. */
  take(nowMs: number, peer: Peer): TakeEffect[] {
    if (this.#peer !== undefined) this.#send({ type: 'snapshotCancel' })
    this.#peer = peer
    this.#state = 'asked'
    this.#hash = new PiecesHash()
    this.#creditBytes = CREDIT_BYTES
    this.#workedBytes = 0
    this.#progressMs = nowMs
    this.#send({ type: 'wantSnapshot', creditBytes: CREDIT_BYTES })
    return this.#end()
  }

  cancel(): TakeEffect[] {
    if (this.#peer !== undefined) this.#send({ type: 'snapshotCancel' })
    this.#peer = undefined
    return this.#end()
  }

  peerDown(peer: Peer): TakeEffect[] {
    if (peer === this.#peer) this.#fail('disconnected')
    return this.#end()
  }

  message(nowMs: number, peer: Peer, m: SnapshotBegin | SnapshotPiece | SnapshotEnd | SnapshotRefused): TakeEffect[] {
    if (peer !== this.#peer) {
      // What was cancelled may still come; what was begun for nobody is cancelled.
      if (m.type === 'snapshotBegin') this.#out.push({ type: 'send', peer, message: { type: 'snapshotCancel' }, priority: 'now' })
      return this.#end()
    }
    this.#progressMs = nowMs
    if (m.type === 'snapshotRefused') this.#fail(m.reason)
    else if (m.type === 'snapshotBegin') {
      // Again: the rest of one that was cancelled came before the answer.
      this.#state = 'begun'
      this.#hash = new PiecesHash()
      this.#out.push({ type: 'begin', peer, meta: m.meta, totalBytes: m.totalBytes })
    } else if (this.#state === 'asked') { /* the rest of one that was cancelled */ }
    else if (m.type === 'snapshotPiece') {
      if (m.bytes.length > this.#creditBytes) this.#fail('lying')
      else {
        this.#creditBytes -= m.bytes.length
        this.#hash.add(m.kind, m.bytes)
        this.#out.push({ type: 'piece', kind: m.kind, bytes: m.bytes })
      }
    } else {
      const hash = this.#hash.digest()
      if (m.hash.equals(hash)) {
        this.#peer = undefined
        this.#out.push({ type: 'complete', peer, hash, head: m.head })
      } else this.#fail('lying')
    }
    return this.#end()
  }

  /** What comes is not what it should be: the host will have no more of it. */
  refuse(): TakeEffect[] {
    if (this.#peer !== undefined) {
      this.#send({ type: 'snapshotCancel' })
      this.#fail('lying')
    }
    return this.#end()
  }

  /** So many bytes of pieces are out of memory. */
  worked(nowMs: number, bytes: number): TakeEffect[] {
    if (this.#peer === undefined) return this.#end()
    this.#workedBytes += bytes
    this.#progressMs = nowMs
    if (this.#workedBytes >= CREDIT_BYTES / 4) {
      this.#send({ type: 'snapshotCredit', creditBytes: this.#workedBytes })
      this.#creditBytes += this.#workedBytes
      this.#workedBytes = 0
    }
    return this.#end()
  }

  /** Every second or so. */
  tick(nowMs: number): TakeEffect[] {
    if (this.#peer !== undefined && nowMs - this.#progressMs >= SILENT_MS) this.#fail('stalled')
    return this.#end()
  }

  #fail(why: SnapshotFailure): void {
    const peer = this.#peer!
    if (why === 'stalled') this.#send({ type: 'snapshotCancel' })
    this.#peer = undefined
    this.#out.push({ type: 'failed', peer, why })
  }

  #send(message: SnapshotMessage): void {
    this.#out.push({ type: 'send', peer: this.#peer!, message, priority: 'now' })
  }

  #end(): TakeEffect[] {
    const out = this.#out
    this.#out = []
    return out
  }
}

/** BLAKE3 over kind u8 || length u32 le || bytes of each piece. */
export class PiecesHash {
  readonly #hasher = new blake.Blake3Hasher()

  add(kind: PieceKind, bytes: Buffer): void {
    const head = Buffer.alloc(5)
    head[0] = PIECE_KINDS.indexOf(kind)
    head.writeUInt32LE(bytes.length, 1)
    this.#hasher.update(head)
    this.#hasher.update(bytes)
  }

  digest(): Buffer {
    return this.#hasher.digestBuffer()
  }
}
