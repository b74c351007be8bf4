/**
 * Carries what placement has to say between devices: the plan to those that
 * cannot read the drive's state, and everybody's reports to everybody.
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
}

const NO_PLAN = Buffer.alloc(0)

export class PlanGossip {
  readonly #p: PlanGossipHost

  constructor(host: PlanGossipHost) {
    this.#p = host
    host.keeping.onChange = () => {
      host.planChanged()
      for (const peer of host.peers.keys()) this.#plan(peer)
    }
    host.reports.onNew = (report, from) => {
      for (const peer of host.peers.keys()) if (peer !== from) host.send(peer, { type: 'report', report })
    }
  }

  up(peer: Peer): void {
    this.#plan(peer)
    for (const report of this.#p.reports.all()) this.#p.send(peer, { type: 'report', report })
  }

  tick(): void { this.#p.reports.tick() }

  close(): void {
    this.#p.keeping.onChange = () => {}
    this.#p.reports.onNew = () => {}
  }

  #plan(peer: Peer): void {
    const { isWriter, peers, keeping, send } = this.#p
    if (isWriter && peers.get(peer)?.hello.kind === 'storage') send(peer, { type: 'plan', plan: keeping.plan?.bytes ?? NO_PLAN })
  }
}
