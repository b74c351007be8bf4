/**
 * Carries what placement has to say between devices: the plan to those that
 * cannot read the drive's state, and everybody's reports to everybody. A report goes
 * from its device to all that are connected; who hears it tells a few, and now and
 * then one of them all that is known, so that it also comes to where its device is not connected.
 */
import type { Certificate } from '../keys/certificate.js'
import type { Keeping } from '../placement/keeping.js'
import type { Reports } from '../placement/reports.js'
import type { Hello } from './hello.js'
import type { Peer, PlacementMessage } from './messages.js'

export interface PlanGossipHost {
  keeping: Keeping
  reports: Reports
  peers: ReadonlyMap<Peer, { hello: Hello; certificate: Certificate | undefined }>
  /** This device reads the drive's state, and its word on it is taken. */
  isWriter: boolean
  send(peer: Peer, m: PlacementMessage): void
  planChanged(): void
  random(): number
  nowMs(): number
}

const NO_PLAN = Buffer.alloc(0)
/** Peers that are told what was heard of others. */
const FANOUT = 2
/** One peer is told all. */
const TELL_ALL_MS = 20_000

export class PlanGossip {
  readonly #p: PlanGossipHost
  #tellAtMs = 0

  constructor(host: PlanGossipHost) {
    this.#p = host
    host.keeping.onChange = () => {
      host.planChanged()
      for (const peer of host.peers.keys()) this.#plan(peer)
    }
    host.reports.onNew = (report, from) => {
      const others = [...host.peers.keys()].filter((peer) => peer !== from)
      // From here: to all.
      while (from !== '' && others.length > FANOUT) others.splice(Math.floor(host.random() * others.length), 1)
      for (const peer of others) host.send(peer, { type: 'report', report })
    }
  }

  up(peer: Peer): void {
    this.#plan(peer)
    this.#tell(peer)
  }

  #tell(peer: Peer): void {
    for (const report of this.#p.reports.all()) this.#p.send(peer, { type: 'report', report })
  }

  tick(): void {
    const { reports, peers, random, nowMs } = this.#p
    // What changed while nobody was there is said then.
    if (peers.size === 0) return
    reports.tick()
    if (nowMs() < this.#tellAtMs) return
    this.#tellAtMs = nowMs() + TELL_ALL_MS
    this.#tell([...peers.keys()][Math.floor(random() * peers.size)]!)
  }

  close(): void {
    this.#p.keeping.onChange = () => {}
    this.#p.reports.onNew = () => {}
  }

  #plan(peer: Peer): void {
    const { isWriter, peers, keeping, send } = this.#p
    if (isWriter && peers.get(peer)?.hello.kind === 'storage') send(peer, { type: 'plan', plan: keeping.plan?.bytes ?? NO_PLAN })
  }
}
