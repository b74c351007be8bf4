/**
 * Moving a snapshot: rows of a consistent read on one device, streamed to
 * another. Two step machines; what the rows and `meta` mean is the host's.
 *
 * The receiver gives credit for so many bytes and more as it works them off, so
 * neither side holds more than that. There is no resuming: what was interrupted
 * begins anew, perhaps at another peer, for a later snapshot has other rows.
 *
 * Invariants: never more rows under way than credit; one read at a time of each
 * snapshot that is given; `complete` only after all rows, with the hash that the
 * giver named over just these.
 */
import blake from '@napi-rs/blake-hash'
import {
  MAX_SNAPSHOT_CREDIT_BYTES, MAX_SNAPSHOT_META_BYTES, MAX_SNAPSHOT_ROWS_BYTES,
  type Peer, type SnapshotBegin, type SnapshotCancel, type SnapshotCredit, type SnapshotEnd, type SnapshotMessage, type SnapshotRefusal,
  type SnapshotRefused, type SnapshotRows, type WantSnapshot,
} from './messages.js'
import type { Priority } from './net/link.js'

/** Given at the same time: each holds a read transaction open, which keeps the index's log from starting over. */
export const MAX_GIVEN = 2
/** Without any progress: a read transaction is not kept for a peer that has gone to sleep, nor is a giver waited for. */
const STALLED_MS = 60_000
/** Of rows under way: 100 MB/s over a round trip of 40 ms. */
const CREDIT_BYTES = 4 * 1024 * 1024

type Send = { type: 'send'; peer: Peer; message: SnapshotMessage; priority: Priority }

export type GiveEffect =
  | Send
  /** Begin a consistent read; then call `opened` or `failed`. */
  | { type: 'open'; token: number; peer: Peer }
  /** Read on, at most `limitBytes` of rows of one table; then call `rows`, `ended` or `failed`. */
  | { type: 'read'; token: number; limitBytes: number }
  /** The read is over, finished or not. Nothing more is called with this token. */
  | { type: 'close'; token: number }

interface Given { token: number; creditBytes: number; hash: RowsHash; state: 'opening' | 'reading' | 'waiting'; progressMs: number }

/** Gives snapshots to peers. */
export class SnapshotGiver {
  readonly #given = new Map<Peer, Given>()
  #nextToken = 1
  #out: GiveEffect[] = []

  message(nowMs: number, peer: Peer, m: WantSnapshot | SnapshotCredit | SnapshotCancel): GiveEffect[] {
    const given = this.#given.get(peer)
    if (m.type === 'wantSnapshot') {
      if (given) this.#close(peer, given)
      if (this.#given.size >= MAX_GIVEN) this.#refuse(peer, 'busy')
      else {
        const token = this.#nextToken++
        this.#given.set(peer, { token, creditBytes: m.creditBytes, hash: new RowsHash(), state: 'opening', progressMs: nowMs })
        this.#out.push({ type: 'open', token, peer })
      }
    } else if (given && m.type === 'snapshotCancel') this.#close(peer, given)
    else if (given && m.type === 'snapshotCredit') {
      given.creditBytes = Math.min(MAX_SNAPSHOT_CREDIT_BYTES, given.creditBytes + m.creditBytes)
      given.progressMs = nowMs
      if (given.state === 'waiting') this.#read(given)
    }
    return this.#end()
  }

  peerDown(peer: Peer): GiveEffect[] {
    const given = this.#given.get(peer)
    if (given) this.#close(peer, given)
    return this.#end()
  }

  opened(nowMs: number, token: number, meta: Buffer, totalBytes: number): GiveEffect[] {
    const [peer, given] = this.#find(token)
    if (!given) return this.#end()
    if (meta.length > MAX_SNAPSHOT_META_BYTES) throw new Error('invariant: the description of a snapshot is too long')
    given.progressMs = nowMs
    this.#send(peer, { type: 'snapshotBegin', meta, totalBytes })
    this.#read(given)
    return this.#end()
  }

  rows(nowMs: number, token: number, table: number, rows: Buffer): GiveEffect[] {
    const [peer, given] = this.#find(token)
    if (!given) return this.#end()
    if (rows.length === 0 || rows.length > Math.min(given.creditBytes, MAX_SNAPSHOT_ROWS_BYTES)) throw new Error('invariant: more rows than were asked for')
    given.creditBytes -= rows.length
    given.progressMs = nowMs
    given.hash.add(table, rows)
    this.#send(peer, { type: 'snapshotRows', table, rows })
    this.#read(given)
    return this.#end()
  }

  ended(token: number): GiveEffect[] {
    const [peer, given] = this.#find(token)
    if (!given) return this.#end()
    this.#send(peer, { type: 'snapshotEnd', hash: given.hash.digest() })
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
      if (given.state !== 'waiting' || nowMs - given.progressMs < STALLED_MS) continue
      this.#refuse(peer, 'failed')
      this.#close(peer, given)
    }
    return this.#end()
  }

  #find(token: number): [Peer, Given] | [string, undefined] {
    for (const [peer, given] of this.#given) if (given.token === token) return [peer, given]
    return ['', undefined]
  }

  #read(given: Given): void {
    // A row of some length must fit: small remains of credit are not used up.
    if (given.creditBytes < MAX_SNAPSHOT_ROWS_BYTES) given.state = 'waiting'
    else {
      given.state = 'reading'
      this.#out.push({ type: 'read', token: given.token, limitBytes: MAX_SNAPSHOT_ROWS_BYTES })
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

export type TakeEffect =
  | Send
  /** Its description: check it before anything else is used. */
  | { type: 'begin'; meta: Buffer; totalBytes: number }
  /** Keep them apart until `complete`; call `worked` when they are out of memory. */
  | { type: 'rows'; table: number; rows: Buffer }
  /** All rows came. Whether they are those that the signed description means is for the host to check. */
  | { type: 'complete' }
  /** Throw away what came; begin anew with `take`. 'lying': the peer broke the protocol, close the link. */
  | { type: 'failed'; peer: Peer; why: SnapshotRefusal | 'stalled' | 'disconnected' | 'lying' }

/** Takes one snapshot at a time from a peer. */
export class SnapshotTaker {
  #peer: Peer | undefined
  #state: 'asked' | 'begun' = 'asked'
  #hash = new RowsHash()
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
    this.#hash = new RowsHash()
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

  message(nowMs: number, peer: Peer, m: SnapshotBegin | SnapshotRows | SnapshotEnd | SnapshotRefused): TakeEffect[] {
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
      this.#hash = new RowsHash()
      this.#out.push({ type: 'begin', meta: m.meta, totalBytes: m.totalBytes })
    } else if (this.#state === 'asked') { /* the rest of one that was cancelled */ }
    else if (m.type === 'snapshotRows') {
      if (m.rows.length > this.#creditBytes) this.#fail('lying')
      else {
        this.#creditBytes -= m.rows.length
        this.#hash.add(m.table, m.rows)
        this.#out.push({ type: 'rows', table: m.table, rows: m.rows })
      }
    } else if (m.hash.equals(this.#hash.digest())) {
      this.#peer = undefined
      this.#out.push({ type: 'complete' })
    } else this.#fail('lying')
    return this.#end()
  }

  /** So many bytes of rows are out of memory. */
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
    if (this.#peer !== undefined && nowMs - this.#progressMs >= STALLED_MS) this.#fail('stalled')
    return this.#end()
  }

  #fail(why: SnapshotRefusal | 'stalled' | 'disconnected' | 'lying'): void {
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

/** BLAKE3 over table u8 || length u32 le || rows of each message. */
class RowsHash {
  readonly #hasher = new blake.Blake3Hasher()

  add(table: number, rows: Buffer): void {
    const head = Buffer.alloc(5)
    head[0] = table
    head.writeUInt32LE(rows.length, 1)
    this.#hasher.update(head)
    this.#hasher.update(rows)
  }

  digest(): Buffer {
    return this.#hasher.digestBuffer()
  }
}
