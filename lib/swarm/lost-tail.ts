/**
 * Entries of our own log that are lost here (a power cut, an old backup) and that
 * others hold: nothing is written until they are back, which proves that it was
 * so; then this device goes on as a new incarnation. Who says so falsely keeps it
 * waiting once.
 */
import type { SwarmHost } from './host.js'
import type { LogName, Peer, SignedEntry } from './messages.js'

/** Entries of our own that others hold come back within this, or the word of them was false. */
const TAKE_BACK_MS = 10_000
/** After the false word of a peer without a certificate: twice as long each time, at most MAX_SILENCED_MS. */
const GUESTS_SILENCED_MS = 60_000
const MAX_SILENCED_MS = 3_600_000

export interface LostTailParts {
  drive: SwarmHost
  /** Whether a peer has no certificate. */
  isGuest(peer: Peer): boolean
  isOwn(log: LogName): boolean
  /** Nobody has what comes next of our log. */
  isStuck(): boolean
  /** We go on as this incarnation. */
  onRenew(incarnation: Buffer): void
  notice(text: string): void
}

export class LostTail {
  readonly #p: LostTailParts
  /** Entries up to `seq` are on their way back. */
  #lost: { seq: number; stop: () => void } | null = null
  /** Peers whose word did not come true. */
  readonly #mistaken = new Set<Peer>()
  /** The same of those without a certificate, who can come as another each time: none of them is believed until then. */
  readonly #guests = { mistakes: 0, believedFromMs: 0 }

  constructor(parts: LostTailParts) {
    this.#p = parts
  }

  close(): void { this.#lost?.stop() }

  /** A peer says that it holds our log up to `seq`, which is more than we do. */
  ahead(peer: Peer, seq: number): void {
    if (this.#isMistaken(peer)) return
    if (!this.#p.isGuest(peer)) this.#p.drive.metadata.lostTail?.()
    if (this.#lost) this.#lost.seq = Math.max(this.#lost.seq, seq)
    else this.#takeBack(seq, peer)
  }

  /** Entries of a log come, signed by its device: ours, perhaps, and not known to be lost, since whoever said so was not believed. */
  coming(peer: Peer, name: LogName, from: number, entries: SignedEntry[]): void {
    if (this.#lost || !this.#p.isOwn(name)) return
    const { log, journal, device } = this.#p.drive
    const last = from + entries.length - 1
    if (last > log.head(journal.incarnation).seq && log.isSignedBy(entries.at(-1)!.signed, device.publicKey)) this.#takeBack(last, peer)
  }

  /** They were judged: perhaps all that were lost are here. */
  came(name: LogName): void {
    const { log, journal } = this.#p.drive
    if (this.#lost && this.#p.isOwn(name) && log.head(journal.incarnation).seq >= this.#lost.seq) this.renew()
  }

  /** Goes on as a new incarnation, whatever came. */
  renew(): void {
    this.#lost?.stop()
    this.#lost = null
    const incarnation = this.#p.drive.metadata.own?.renew()
    if (!incarnation) return
    this.#p.onRenew(incarnation)
    this.#p.notice('this device goes on as a new incarnation')
  }

  #isMistaken(peer: Peer): boolean {
    return this.#mistaken.has(peer) || (this.#p.isGuest(peer) && this.#p.drive.timers.nowMs() < this.#guests.believedFromMs)
  }

  /** Nothing is written until our entries up to `seq` are here, of which `peer` has said that it holds them. */
  #takeBack(seq: number, peer: Peer): void {
    const { metadata, timers, log, journal } = this.#p.drive
    this.#p.notice(`a peer holds entries of this device up to ${seq}, which are lost here: they are taken back first`)
    metadata.own?.hold()
    const before = log.head(journal.incarnation).seq
    const isGuest = this.#p.isGuest(peer)
    const end = () => {
      // Nobody has them any more: this device begins anew, and makes no entries before.
      if (this.#p.isStuck()) {
        this.#lost!.stop = timers.after(TAKE_BACK_MS, end)
        return
      }
      this.#mistaken.add(peer)
      // Some came: their numbers are taken.
      if (log.head(journal.incarnation).seq > before) return this.renew()
      this.#lost = null
      if (isGuest) this.#guests.believedFromMs = timers.nowMs() + Math.min(MAX_SILENCED_MS, GUESTS_SILENCED_MS * 2 ** this.#guests.mistakes++)
      this.#p.notice('the lost entries did not come: going on without them')
      metadata.own?.resume()
    }
    this.#lost = { seq, stop: timers.after(TAKE_BACK_MS, end) }
  }
}
