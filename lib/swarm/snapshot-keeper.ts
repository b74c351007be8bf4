/**
 * Gets snapshots for a device that keeps them: joins the step machine
 * (snapshot.ts) to what keeps them. Asked are devices that may write; with none of
 * them there for a while, others that keep one.
 */
import { isDfsError } from '../errors.js'
import type { Timers } from '../clock.js'
import type { DriveKeys } from '../keys/derive.js'
import { readMeta, type SnapshotMeta } from '../snapshot.js'
import type { Message, Peer, PieceKind, SnapshotBegin, SnapshotEnd, SnapshotPiece, SnapshotRefused } from './messages.js'
import type { Priority } from './net/link.js'
import { SnapshotTaker, type TakeEffect } from './snapshot.js'

/** What keeps them: lib/sealed.ts. The first three throw EIO or ENOSPC for what is not taken. */
export interface SnapshotHolder {
  readonly isDue: boolean
  begin(meta: SnapshotMeta): void
  piece(kind: PieceKind, bytes: Buffer): void
  complete(hash: Buffer, signed: Buffer): void
  abandon(): void
}

/** Between two attempts, doubling. */
const FIRST_RETRY_MS = 1000
const MAX_RETRY_MS = 60_000
/** Others that keep one are asked when no device that may write was met for so long. */
const KEEPERS_AFTER_MS = 5000

export type GiverKind = 'full' | 'storage'

export class SnapshotKeeper {
  readonly #holder: SnapshotHolder
  readonly #timers: Timers
  readonly #keys: Pick<DriveKeys, 'driveId'>
  readonly #send: (peer: Peer, m: Message, priority: Priority) => void
  readonly #peers = new Map<Peer, { kind: GiverKind; askedMs: number }>()
  readonly #taker = new SnapshotTaker()
  /** Entries are missing that nobody gives any more: who says so. */
  readonly #lacks = new Set<GiverKind>()
  #retryMs = FIRST_RETRY_MS
  #nextMs = 0
  #fullMs: number

  constructor(o: { holder: SnapshotHolder; timers: Timers; keys: Pick<DriveKeys, 'driveId'>; send: (peer: Peer, m: Message, priority: Priority) => void }) {
    this.#holder = o.holder
    this.#timers = o.timers
    this.#keys = o.keys
    this.#send = o.send
    this.#fullMs = o.timers.nowMs()
  }

  /** A peer that can give: as its certificate says 'full', by its own word 'storage'. */
  up(peer: Peer, kind: GiverKind): void {
    if (this.#peers.get(peer)?.kind === kind) return
    this.#peers.set(peer, { kind, askedMs: -1 })
    this.tick()
  }

  down(peer: Peer): void {
    this.#peers.delete(peer)
    this.#do(this.#taker.peerDown(peer))
  }

  /** A peer has what follows upon entries that this device lacks, and nobody gives these. */
  lacking(peer: Peer): void {
    const kind = this.#peers.get(peer)?.kind
    if (kind) this.#lacks.add(kind)
  }

  message(peer: Peer, m: SnapshotBegin | SnapshotPiece | SnapshotEnd | SnapshotRefused): void {
    this.#do(this.#taker.message(this.#timers.nowMs(), peer, m))
  }

  tick(): void {
    const nowMs = this.#timers.nowMs()
    this.#do(this.#taker.tick(nowMs))
    const kind = [...this.#peers.values()].some((p) => p.kind === 'full') ? 'full' : 'storage'
    if (kind === 'full') this.#fullMs = nowMs
    if (this.#taker.peer !== undefined || nowMs < this.#nextMs) return
    // Whose word is not enough to have a device that may write make one may himself be asked: what he has begins with its head.
    if (!this.#holder.isDue && !this.#lacks.has(kind)) return
    if (kind === 'storage' && nowMs - this.#fullMs < KEEPERS_AFTER_MS) return
    // In turn.
    const [first] = [...this.#peers].filter(([, p]) => p.kind === kind).sort(([, a], [, b]) => a.askedMs - b.askedMs)
    if (!first) return
    first[1].askedMs = nowMs
    this.#do(this.#taker.take(nowMs, first[0]))
  }

  #do(effects: TakeEffect[]): void {
    for (const e of effects) {
      try {
        switch (e.type) {
          case 'send': this.#send(e.peer, e.message, e.priority); break
          case 'begin': {
            const meta = readMeta(e.meta, this.#keys.driveId)
            // Signed at its end: until then the one that gives it is believed, or not.
            if (!meta.head && this.#peers.get(e.peer)?.kind !== 'full') return this.#refuse()
            this.#holder.begin(meta)
            break
          }
          case 'piece':
            this.#holder.piece(e.kind, e.bytes)
            this.#do(this.#taker.worked(this.#timers.nowMs(), e.bytes.length))
            break
          case 'complete':
            this.#holder.complete(e.hash, e.head)
            this.#lacks.clear()
            this.#retryMs = FIRST_RETRY_MS
            this.#nextMs = this.#timers.nowMs() + FIRST_RETRY_MS
            break
          case 'failed': this.#failed(); break
        }
      } catch (error) {
        if (!isDfsError(error)) throw error
        if (e.type === 'complete') this.#failed()
        else this.#refuse()
        return
      }
    }
  }

  #refuse(): void { this.#do(this.#taker.refuse()) }

  #failed(): void {
    this.#holder.abandon()
    this.#nextMs = this.#timers.nowMs() + this.#retryMs
    this.#retryMs = Math.min(MAX_RETRY_MS, this.#retryMs * 2)
  }
}
