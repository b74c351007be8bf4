/** Gives snapshots to those who ask: joins the step machine (snapshot.ts) to what makes or keeps them. */
import { isDfsError } from '../errors.js'
import type { KeyKind } from '../keys/capability.js'
import type { SnapshotGift } from '../snapshot.js'
import type { SwarmHost } from './host.js'
import type { Message, Peer, SnapshotCancel, SnapshotCredit, WantSnapshot } from './messages.js'
import type { Priority } from './net/link.js'
import { SnapshotGiver, type GiveEffect } from './snapshot.js'

/** Nothing more is read for a link that holds so much: credit says what the peer will take, not what the link has. */
const FULL_LINK_BYTES = 4 * 1024 * 1024

interface Links {
  send(peer: Peer, m: Message, priority: Priority): void
  queuedBytes(peer: Peer): number
}

export class SnapshotSender {
  readonly #drive: Pick<SwarmHost, 'timers' | 'snapshot' | 'metadata'>
  readonly #links: Links
  readonly #giver = new SnapshotGiver()
  /** By token. */
  readonly #gifts = new Map<number, SnapshotGift>()
  /** Which key each of them has that asks. */
  readonly #kinds = new Map<Peer, KeyKind>()
  /** Reads that wait for room in the link. */
  readonly #waiting = new Map<Peer, number>()

  constructor(drive: Pick<SwarmHost, 'timers' | 'snapshot' | 'metadata'>, links: Links) {
    this.#drive = drive
    this.#links = links
  }

  message(peer: Peer, m: WantSnapshot | SnapshotCredit | SnapshotCancel, kind: KeyKind): void {
    if (m.type === 'wantSnapshot') this.#kinds.set(peer, kind)
    this.#do(this.#giver.message(this.#now(), peer, m))
  }

  down(peer: Peer): void {
    this.#kinds.delete(peer)
    this.#waiting.delete(peer)
    this.#do(this.#giver.peerDown(peer))
  }

  drained(peer: Peer): void {
    const token = this.#waiting.get(peer)
    if (token !== undefined) this.#soon(peer, token)
  }

  tick(): void { this.#do(this.#giver.tick(this.#now())) }

  close(): void {
    for (const gift of this.#gifts.values()) gift.close()
    this.#gifts.clear()
  }

  #now(): number { return this.#drive.timers.nowMs() }

  #do(effects: GiveEffect[]): void {
    for (const e of effects) {
      switch (e.type) {
        case 'send': this.#links.send(e.peer, e.message, e.priority); break
        case 'open': void this.#open(e.peer, e.token); break
        case 'read': this.#soon(e.peer, e.token); break
        case 'close':
          this.#gifts.get(e.token)?.close()
          this.#gifts.delete(e.token)
          break
      }
    }
  }

  async #open(peer: Peer, token: number): Promise<void> {
    let gift: SnapshotGift
    // Who has written here begins anew, and what is in the snapshot says so.
    if (this.#drive.metadata.welcome?.(Buffer.from(peer, 'hex')) === false) return this.#do(this.#giver.failed(token, 'none'))
    try {
      // Whoever may not read has no use for rows, and keeps the chunks.
      gift = await this.#drive.snapshot(this.#kinds.get(peer) === 'storage')
    } catch (e) {
      return this.#do(this.#giver.failed(token, isDfsError(e, 'KEY_KIND') || isDfsError(e, 'ENOENT') ? 'none' : 'failed'))
    }
    this.#gifts.set(token, gift)
    const effects = this.#giver.opened(this.#now(), token, gift.meta, gift.totalBytes)
    // It was cancelled meanwhile.
    if (effects.length === 0) {
      this.#gifts.delete(token)
      gift.close()
    }
    this.#do(effects)
  }

  /** A piece in each turn of the loop, so that the mount has its own between. */
  #soon(peer: Peer, token: number): void {
    this.#waiting.set(peer, token)
    if (this.#links.queuedBytes(peer) >= FULL_LINK_BYTES) return
    this.#drive.timers.soon(() => {
      if (this.#waiting.get(peer) !== token) return
      this.#waiting.delete(peer)
      this.#read(token)
    })
  }

  #read(token: number): void {
    const gift = this.#gifts.get(token)
    if (!gift) return
    try {
      const piece = gift.next()
      this.#do(piece ? this.#giver.piece(this.#now(), token, piece.kind, piece.bytes) : this.#giver.ended(token, (hash) => gift.end(hash)))
    } catch (e) {
      process.emitWarning(`a snapshot for a peer: ${(e as Error).message}`)
      this.#do(this.#giver.failed(token, 'failed'))
    }
  }
}
