/**
 * Sees when this device has to take all metadata anew (lib/anew.ts), and from
 * whom: its log was ended by others, it has too much of another's, or what it
 * lacks is nowhere any more.
 */
import type { Certificate } from '../keys/certificate.js'
import type { DeviceView } from '../log/asides.js'
import type { Hello } from './hello.js'
import type { SwarmHost } from './host.js'
import { logKey, type LogName, type Peer } from './messages.js'
import type { Link } from './net/link.js'
import { SnapshotLinks } from './snapshot-links.js'

/** Nobody gives what comes next of a log for so long: it is nowhere. Two sides are seen for so long: neither is about to hear what the other knows. */
const STUCK_MS = 10_000

export interface AnewWatchParts {
  drive: SwarmHost
  peers: ReadonlyMap<Peer, { link: Link; hello: Hello; certificate: Certificate | undefined }>
  /** Logs of which nobody who may write has what comes next. */
  stuck(): { log: LogName; seq: number }[]
  notice(text: string): void
}

export class AnewWatch {
  readonly #p: AnewWatchParts
  /** Of the logs that are stuck, the last entry that is here, and since when. */
  #stuck = new Map<string, { seq: number; sinceMs: number }>()
  /** Somebody is of another side, of a device that writes nothing. */
  #apartSinceMs: number | undefined
  /** By the word of others: then only theirs is taken. */
  #isEnded = false
  /** While a snapshot is taken. */
  #taking: SnapshotLinks | null = null

  constructor(parts: AnewWatchParts) {
    this.#p = parts
  }

  /** Where its messages go. */
  get taking(): SnapshotLinks | null { return this.#taking }

  up(peer: Peer): void { if (this.#taking && this.#mayGive(peer)) this.#taking.up(this.#p.peers.get(peer)!.link) }

  down(link: Link, reason: string): void { this.#taking?.down(link, reason) }

  tick(): void {
    if (this.#taking) return
    const why = this.#why()
    if (why === undefined) return
    this.#p.notice(`${why}: it takes their metadata${this.#p.drive.keys.canWrite ? ', and does again what only it had' : ''}`)
    this.#taking = new SnapshotLinks()
    this.#p.drive.metadata.giveUp?.()
    // Those who are on this side have to begin anew themselves.
    this.#isEnded = [...this.#p.peers.keys()].some((peer) => this.#goesOnWithoutUs(peer))
    for (const peer of this.#p.peers.keys()) this.up(peer)
    this.#p.drive.beginAnew!(this.#taking, (text) => this.#p.notice(text))
  }

  /** Whose metadata is taken in place of ours. What was kept from before does not say that this device begins anew. */
  #mayGive(peer: Peer): boolean {
    return this.#isEnded ? this.#goesOnWithoutUs(peer) : this.#p.peers.get(peer)!.certificate?.role === 'full'
  }

  /**
   * Whether a device that may write has ended the log of this one, and is not to begin anew itself: of two sides that have set each other aside, the one of
   * fewer does. A device without a log is of the side whose entries it has.
   */
  #goesOnWithoutUs(peer: Peer): boolean {
    const { log, journal, metadata, keys, device } = this.#p.drive
    const { link, hello: { view }, certificate } = this.#p.peers.get(peer)!
    if (certificate?.role !== 'full' || !view) return false
    const id = log.incarnationId(journal.incarnation)
    if (keys.canWrite ? !view.ended.some((e) => e.equals(id)) : !metadata.isApartFrom?.(view)) return false
    const own = metadata.view
    if (!keys.canWrite) return !own || isOfMore(view, own) === true
    if (!own || !metadata.hasEnded?.(link.peer)) return true
    return isOfMore(view, own) ?? Buffer.compare(link.peer, device.publicKey) < 0
  }

  #why(): string | undefined {
    const { drive } = this.#p
    const { metadata, timers } = drive
    if (!drive.beginAnew || !metadata.asides) return undefined
    const nowMs = timers.nowMs()
    const since = new Map<string, { seq: number; sinceMs: number }>()
    let due: LogName | undefined
    for (const { log, seq } of this.#p.stuck()) {
      const before = this.#stuck.get(logKey(log))
      since.set(logKey(log), before?.seq === seq ? before : { seq, sinceMs: nowMs })
      if (before?.seq === seq && nowMs - before.sinceMs >= STUCK_MS) due = log
    }
    this.#stuck = since
    const isApart = !drive.keys.canWrite && [...this.#p.peers.keys()].some((peer) => this.#goesOnWithoutUs(peer))
    this.#apartSinceMs = isApart ? this.#apartSinceMs ?? nowMs : undefined
    const must = metadata.mustBeginAnew
    if (must !== undefined) return must
    const word = this.#wordOfOthers(due)
    return word !== undefined && drive.mayBeginAnew ? word : undefined
  }

  /** What nothing here proves. `stuck`: a log of which what comes next is nowhere. */
  #wordOfOthers(stuck: LogName | undefined): string | undefined {
    const { metadata, members, keys, timers } = this.#p.drive
    if (stuck) return `this device was away for so long that the others have dropped what it lacks (of ${members.get(stuck.device)?.name ?? 'a device'})`
    for (const [peer, { link, certificate }] of this.#p.peers) {
      if (!this.#goesOnWithoutUs(peer)) continue
      if (!keys.canWrite) {
        if (timers.nowMs() - this.#apartSinceMs! < STUCK_MS) continue
        return `${certificate!.name} goes on without those whose changes this device has followed`
      }
      // The entry that says so would come, but what is before it may be nowhere any more.
      return metadata.hasEnded?.(link.peer) ? `this device and ${certificate!.name} were apart, and each goes on without the other` : `${certificate!.name} goes on without what this device has written since they met last, for it was away for too long`
    }
    return undefined
  }
}

/** Whether the first side counts more devices, or as many and the first by its key; undefined: they are the same. */
function isOfMore(a: DeviceView, b: DeviceView): boolean | undefined {
  if (a.writers !== b.writers) return a.writers > b.writers
  const order = Buffer.compare(a.first, b.first)
  return order === 0 ? undefined : order < 0
}
