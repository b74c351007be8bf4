/**
 * Who is still waited for until all that some logs name is where it is to be, while others go on writing: by then a device may
 * lack what is newer than that, at every moment. So each of its groups is waited for until it was whole once, in a report of a
 * time when the device knew of the logs; one that the plan has given to it since then begins anew.
 */
import type { Keeping } from './keeping.js'
import { isToldApart, NO_PLAN, type LackOfAll } from './report.js'
import type { Reports } from './reports.js'

export interface AwaitedParts {
  keeping: Pick<Keeping, 'plan' | 'isLaid' | 'size' | 'missing'>
  reports: Pick<Reports, 'of' | 'knows'>
  /** Of this device, in hex. */
  self: string
  /** Without a plan: other devices of the drive that are waited for, in hex; what this one lacks of everything, if it is to keep that. */
  others(): string[]
  lacksOfAll(): LackOfAll | undefined
}

/** Groups that were not whole yet in any report by this plan. */
interface Left { plan: Buffer; groups: readonly number[] }

export class Awaited {
  readonly #p: AwaitedParts
  readonly #logs: ReadonlyMap<string, number>
  readonly #left = new Map<string, Left>()

  /** `logs`: the last entry of each, by its incarnation (as latin1). */
  constructor(parts: AwaitedParts, logs: ReadonlyMap<string, number>) {
    this.#p = parts
    this.#logs = logs
  }

  /** Devices (in hex) as of now; to be asked again and again, until it is empty. */
  devices(): string[] {
    const { keeping, others, lacksOfAll, self } = this.#p
    const { plan } = keeping
    if (!plan) {
      const here = lacksOfAll()
      const isOwingHere = here && (!here.isExact || this.#lacks(self, NO_PLAN, here.byGroup))
      return [...(isOwingHere ? [self] : []), ...others().filter((peer) => this.#isOwing(peer, undefined))]
    }
    return plan.peers.filter((peer, i) => plan.placement.shares[i]! > 0 && (peer === self ? this.#isOwingHere(plan.digest) : this.#isOwing(peer, plan.digest)))
  }

  #isOwingHere(plan: Buffer): boolean {
    const { keeping, self } = this.#p
    if (!keeping.isLaid) return true
    return this.#lacks(self, plan, keeping.size > 0 ? keeping.missing() : new Map())
  }

  #isOwing(peer: string, plan: Buffer | undefined): boolean {
    const { reports } = this.#p
    const report = reports.of(peer)
    if (!report || !reports.knows(peer, this.#logs) || (plan && !report.plan.equals(plan))) return true
    if (!isToldApart(report)) return true
    return this.#lacks(peer, report.plan, report.lacks)
  }

  #lacks(device: string, plan: Buffer, lacks: ReadonlyMap<number, unknown>): boolean {
    const before = this.#left.get(device)
    const groups = before?.plan.equals(plan) ? before.groups.filter((group) => lacks.has(group)) : [...lacks.keys()]
    this.#left.set(device, { plan, groups })
    return groups.length > 0
  }
}
