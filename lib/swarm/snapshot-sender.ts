/**
 * Gives the metadata of this device to one that joins: rows of one consistent
 * read, in parts, as fast as the link and the receiver take them.
 */
import blake from '@napi-rs/blake-hash'
import type { KeyKind } from '../keys/capability.js'
import type { SnapshotSource } from '../store/snapshot.js'
import type { SwarmHost } from './host.js'
import { MAX_SNAPSHOT_CREDIT_BYTES, type Message, type Peer, type SnapshotCancel, type SnapshotCredit, type WantSnapshot } from './messages.js'

/** Snapshots under way: each holds a read of the index open, so that its write-ahead log grows. */
const MAX_SENDING = 4
/** Who asks again sooner is told to wait: each beginning is a read of the index, and an honest one does not. */
const AGAIN_MS = 500
/** Nothing more is read for a link that holds so much: credit says what the peer will take, not what the link has. */
const FULL_LINK_BYTES = 4 * 1024 * 1024
/** Rows are read for so long before others have their turn. */
const SLICE_MS = 8

interface Sending {
  source: SnapshotSource
  rows: Generator<{ table: number; rows: Buffer }>
  hash: { update(b: Buffer): unknown; digestBuffer(): Buffer }
  creditBytes: number
  isRunning: boolean
}

export class SnapshotSender {
  readonly #drive: SwarmHost
  readonly #send: (peer: Peer, m: Message) => void
  readonly #sending = new Map<Peer, Sending>()
  /** The last request of each peer. */
  readonly #asked = new Map<Peer, object>()
  readonly #begunMs = new Map<Peer, number>()
  readonly #queuedBytes: (peer: Peer) => number

  constructor(drive: SwarmHost, send: (peer: Peer, m: Message) => void, queuedBytes: (peer: Peer) => number) {
    this.#drive = drive
    this.#send = send
    this.#queuedBytes = queuedBytes
  }

  message(peer: Peer, m: WantSnapshot | SnapshotCredit | SnapshotCancel, kind: KeyKind): void {
    if (m.type === 'snapshotCancel') return this.down(peer)
    if (m.type === 'snapshotCredit') {
      const s = this.#sending.get(peer)
      if (!s) return
      s.creditBytes = Math.min(MAX_SNAPSHOT_CREDIT_BYTES, s.creditBytes + m.creditBytes)
      this.#run(peer, s)
      return
    }
    // Whoever may not read has no use for rows.
    if (kind === 'storage') return this.#send(peer, { type: 'snapshotRefused', reason: 'none' })
    const nowMs = this.#drive.timers.nowMs()
    for (const [one, ms] of this.#begunMs) if (nowMs - ms >= AGAIN_MS) this.#begunMs.delete(one)
    if (this.#begunMs.has(peer)) return this.#send(peer, { type: 'snapshotRefused', reason: 'busy' })
    this.down(peer)
    if (this.#asked.size >= MAX_SENDING) return this.#send(peer, { type: 'snapshotRefused', reason: 'busy' })
    this.#begunMs.set(peer, nowMs)
    void this.#start(peer, m.creditBytes)
  }

  async #start(peer: Peer, creditBytes: number): Promise<void> {
    const asked = {}
    this.#asked.set(peer, asked)
    let source: SnapshotSource
    try {
      source = await this.#drive.snapshot()
    } catch {
      this.#asked.delete(peer)
      return this.#send(peer, { type: 'snapshotRefused', reason: 'failed' })
    }
    if (this.#asked.get(peer) !== asked) return source.close()
    const s: Sending = {
      source, rows: source.rows(), hash: new blake.Blake3Hasher() as unknown as Sending['hash'], creditBytes: Math.min(MAX_SNAPSHOT_CREDIT_BYTES, creditBytes), isRunning: false,
    }
    this.#sending.set(peer, s)
    this.#send(peer, { type: 'snapshotBegin', meta: Buffer.from([1]), totalBytes: source.totalBytes })
    this.#run(peer, s)
  }

  down(peer: Peer): void {
    this.#asked.delete(peer)
    this.#sending.get(peer)?.source.close()
    this.#sending.delete(peer)
  }

  drained(peer: Peer): void {
    const s = this.#sending.get(peer)
    if (s) this.#run(peer, s)
  }

  close(): void {
    this.#asked.clear()
    for (const peer of [...this.#sending.keys()]) this.down(peer)
  }

  #run(peer: Peer, s: Sending): void {
    if (s.isRunning) return
    s.isRunning = true
    const slice = () => {
      if (this.#sending.get(peer) !== s) return
      const until = this.#drive.timers.nowMs() + SLICE_MS
      try {
        while (s.creditBytes > 0 && this.#queuedBytes(peer) < FULL_LINK_BYTES && this.#drive.timers.nowMs() < until) {
          const next = s.rows.next()
          if (next.done) {
            this.#send(peer, { type: 'snapshotEnd', hash: s.hash.digestBuffer() })
            this.down(peer)
            return
          }
          const { table, rows } = next.value
          const head = Buffer.alloc(5)
          head[0] = table
          head.writeUInt32LE(rows.length, 1)
          s.hash.update(head)
          s.hash.update(rows)
          s.creditBytes -= rows.length
          this.#send(peer, { type: 'snapshotRows', table, rows })
        }
      } catch (e) {
        process.emitWarning(`a snapshot for a peer: ${(e as Error).message}`)
        this.#send(peer, { type: 'snapshotRefused', reason: 'failed' })
        this.down(peer)
        return
      }
      if (s.creditBytes > 0 && this.#queuedBytes(peer) < FULL_LINK_BYTES) this.#drive.timers.soon(slice)
      else s.isRunning = false
    }
    this.#drive.timers.soon(slice)
  }
}
