/**
 * Carries the question which chunks nobody needs (lib/releases.ts) between devices:
 * asks one that may write after the other, and answers where the drive's state can be read.
 */
import type { Certificate } from '../keys/certificate.js'
import type { SwarmHost } from './host.js'
import type { Peer, ReleaseMessage, Releases } from './messages.js'

/** A device that is busy takes its time. */
const ANSWER_MS = 30_000

export interface ReleaseLinkHost {
  drive: SwarmHost
  peers: ReadonlyMap<Peer, { certificate: Certificate | undefined }>
  /** What this device has is about to be replaced: it says nothing more. */
  isReplaced(): boolean
  send(peer: Peer, m: ReleaseMessage): void
}

export class ReleaseLink {
  readonly #p: ReleaseLinkHost
  /** Our question, and whom it was put to. */
  #asking: { peer: Peer; ids: Set<string>; end: (answer: Releases | undefined) => void } | null = null
  /** Whom to ask first: who answered last. */
  #last: Peer | undefined
  /** Whose questions wait for an answer. */
  readonly #waiting = new Set<Peer>()
  #isClosed = false

  constructor(host: ReleaseLinkHost) {
    this.#p = host
    if (host.drive.releases) host.drive.releases.ask = (ids) => this.#ask(ids)
  }

  async #ask(ids: Buffer[]): Promise<Releases | undefined> {
    if (this.#asking) return undefined
    const full = [...this.#p.peers].filter(([, p]) => p.certificate?.role === 'full').map(([peer]) => peer)
    full.sort((a, b) => Number(b === this.#last) - Number(a === this.#last))
    for (const peer of full) {
      const answer = await this.#one(peer, ids)
      if (this.#isClosed) return undefined
      if (answer && answer.logs.length > 0) {
        this.#last = peer
        return answer
      }
    }
    return undefined
  }

  #one(peer: Peer, ids: Buffer[]): Promise<Releases | undefined> {
    if (this.#isClosed || !this.#p.peers.has(peer)) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      const stop = this.#p.drive.timers.after(ANSWER_MS, () => this.#asking?.end(undefined))
      const end = (answer: Releases | undefined) => {
        stop()
        this.#asking = null
        resolve(answer)
      }
      this.#asking = { peer, ids: new Set(ids.map((id) => id.toString('latin1'))), end }
      this.#p.send(peer, { type: 'askReleases', ids })
    })
  }

  /** Of who has not the full key, or was not asked, it counts for nothing; nor does what was not asked about. */
  answered(peer: Peer, m: Releases): void {
    const asking = this.#asking
    if (asking?.peer !== peer || this.#p.peers.get(peer)?.certificate?.role !== 'full') return
    asking.end({ ...m, ids: m.ids.filter((id) => asking.ids.has(id.toString('latin1'))) })
  }

  /** One question of each at a time, in a turn of its own; more than that nobody asks. */
  asked(peer: Peer, ids: Buffer[]): void {
    const { drive, send } = this.#p
    if (this.#waiting.has(peer)) return
    this.#waiting.add(peer)
    drive.timers.soon(() => {
      this.#waiting.delete(peer)
      if (this.#isClosed || !this.#p.peers.has(peer)) return
      const dead = drive.journal.stopped || this.#p.isReplaced() ? undefined : drive.deadChunks?.(ids)
      send(peer, { type: 'releases', logs: dead?.logs ?? [], ids: dead?.ids ?? [] })
    })
  }

  down(peer: Peer): void {
    if (this.#asking?.peer === peer) this.#asking.end(undefined)
  }

  close(): void {
    this.#isClosed = true
    const { releases } = this.#p.drive
    if (releases) releases.ask = null
    this.#asking?.end(undefined)
  }
}
