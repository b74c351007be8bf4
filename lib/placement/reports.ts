/**
 * How far the plan is met: what this device reports of itself, and what the
 * others have reported, by group and never by chunk. The newest report of each
 * device is kept, so that a restart knows what was known.
 *
 * Host: says what is here, and carries reports to whoever is connected.
 */
import type { Clock, Timers } from '../clock.js'
import { isDfsError } from '../errors.js'
import { PLACEMENT_GROUPS } from '../limits.js'
import type { ChunkTable } from '../store/chunks.js'
import type { ReportTable } from '../store/report-table.js'
import type { Keeping } from './keeping.js'
import type { Plan } from './plan.js'
import { isWhole, lackOfAll, NO_PLAN, readReport, writeReport, type Lack, type Report } from './report.js'

/** It is looked whether there is something to say, and said, so often at most, and takes at most a twentieth of the time; if nothing but the logs has gone on, less often. */
const EVERY_MS = 500
const LOGS_MS = 2000
const COST_TIMES = 20
/** Reports go into the index so often: some kilobytes each, and a new one of each device every two seconds. */
const FLUSH_MS = 30_000

export interface ReportsHost {
  readonly table: ReportTable
  readonly driveId: Buffer
  readonly device: { readonly publicKey: Buffer; readonly secretKey: Buffer }
  readonly clock: Pick<Clock, 'nowMs'>
  readonly timers: Pick<Timers, 'nowMs'>
  readonly keeping: Keeping
  /** A device of the drive: who is none is not believed. */
  isMember(device: Buffer): boolean
  /** The logs as they are now: the last entry of each, by its incarnation (as latin1). */
  logs(): Map<string, number>
  readonly chunks: Pick<ChunkTable, 'lackedCount' | 'lacking'>
  /** Without a plan this device means to hold everything, and knows of all that there is. */
  keepsEverything(): boolean
  /** It can take no more. */
  isFull(): boolean
  usedBytes(): number
  /** What is in the index now is durable. */
  settle(): Promise<void>
  touched(): void
}

export class Reports {
  readonly #p: ReportsHost
  readonly #known = new Map<string, { report: Report; bytes: Buffer }>()
  #state = ''
  #logs = ''
  #madeAtMs = -Infinity
  #lastMs = 0
  #nextAtMs = 0
  #making = false
  readonly #unwritten = new Set<string>()
  #flushAtMs = 0
  /** A new one, of ours or another's: to be passed on to all but `from` (hex). */
  onNew: (bytes: Buffer, from: string) => void = () => {}

  constructor(host: ReportsHost) {
    this.#p = host
    for (const bytes of host.table.all()) {
      try {
        const report = readReport(bytes, host.driveId)
        this.#known.set(report.device.toString('hex'), { report, bytes })
      } catch (e) {
        if (!isDfsError(e, 'EIO')) throw e
      }
    }
    const own = this.#known.get(host.device.publicKey.toString('hex'))
    this.#lastMs = own?.report.clockMs ?? 0
  }

  /** Of a device, its key in hex. */
  of(device: string): Report | undefined { return this.#known.get(device)?.report }

  all(): Buffer[] { return [...this.#known.values()].map((k) => k.bytes) }

  /** False: nobody has signed it, or not a device of the drive. */
  take(bytes: Buffer, from: string): boolean {
    let report: Report
    try {
      report = readReport(bytes, this.#p.driveId)
    } catch (e) {
      if (isDfsError(e, 'EIO')) return false
      throw e
    }
    // Its certificate may be on its way; what was ours comes back after this device was put back.
    if (!this.#p.isMember(report.device) || report.device.equals(this.#p.device.publicKey)) return true
    const key = report.device.toString('hex')
    if ((this.#known.get(key)?.report.clockMs ?? -1) >= report.clockMs) return true
    this.#keep(key, report, Buffer.from(bytes))
    this.onNew(bytes, from)
    return true
  }

  #keep(key: string, report: Report, bytes: Buffer): void {
    this.#known.set(key, { report, bytes })
    this.#unwritten.add(key)
  }

  /** What a crash takes of it the others tell again. */
  flush(): void {
    this.#flushAtMs = this.#p.timers.nowMs() + FLUSH_MS
    if (this.#unwritten.size === 0) return
    for (const key of this.#unwritten) this.#p.table.put(this.#known.get(key)!.report.device, this.#known.get(key)!.bytes)
    this.#unwritten.clear()
    this.#p.touched()
  }

  /** Says what is here if it has changed. */
  tick(): void {
    const { clock, timers, keeping } = this.#p
    const nowMs = timers.nowMs()
    if (nowMs >= this.#flushAtMs) this.flush()
    if (this.#making || nowMs < this.#nextAtMs || (keeping.plan && !keeping.isLaid)) return
    const state = this.#stateNow()
    const logs = [...this.#p.logs()].join(' ')
    this.#nextAtMs = timers.nowMs() + Math.max(EVERY_MS, (timers.nowMs() - nowMs) * COST_TIMES)
    if (state === this.#state && (logs === this.#logs || nowMs - this.#madeAtMs < LOGS_MS)) return
    this.#making = true
    const made = this.#make(Math.max(Math.floor(clock.nowMs()), this.#lastMs + 1))
    this.#nextAtMs = timers.nowMs() + Math.max(EVERY_MS, (timers.nowMs() - nowMs) * COST_TIMES)
    this.#p.settle().then(() => {
      this.#making = false
      this.#state = state
      this.#logs = logs
      this.#madeAtMs = nowMs
      this.#lastMs = made.clockMs
      const bytes = writeReport(made, this.#p.driveId, this.#p.device.secretKey)
      this.#keep(made.device.toString('hex'), made, bytes)
      this.onNew(bytes, '')
    }, () => { /* stopped; every caller learns from check() */ })
  }

  /** It would say something else now, whatever `#stateNow` says. */
  changed(): void { this.#state = '' }

  /** What a report would say, as far as it is cheap to know. */
  #stateNow(): string {
    const { keeping, chunks, keepsEverything } = this.#p
    const lacks = keeping.plan ? keeping.size : keepsEverything() ? chunks.lackedCount : -1
    return `${keeping.plan?.digest.toString('latin1') ?? ''} ${lacks} ${this.#p.isFull()} ${keeping.plan ? keeping.heldBytes : 0}`
  }

  #make(clockMs: number): Report {
    const { device, keeping, isFull, usedBytes, logs, chunks, keepsEverything } = this.#p
    const { plan } = keeping
    const whole = Buffer.alloc((plan?.groupCount ?? PLACEMENT_GROUPS) / 8)
    const all = plan || !keepsEverything() ? undefined : lackOfAll(chunks)
    const lacks = plan ? keeping.missing() : all?.byGroup ?? new Map<number, Lack>()
    if (plan?.isTakingPart) for (const group of plan.groupsOf(plan.self)) whole[group >> 3]! |= 1 << (group & 7)
    if (all?.isExact) whole.fill(255)
    for (const group of lacks.keys()) whole[group >> 3]! &= ~(1 << (group & 7))
    return { device: device.publicKey, clockMs, plan: plan?.digest ?? NO_PLAN, isFull: isFull(), heldBytes: keeping.heldBytes, usedBytes: usedBytes(), logs: logs(), whole, lacks }
  }

  // --- what is known ----------------------------------------------------------

  /** Devices other than this one that have a group whole, whether they are to hold it or not, but for those that nobody counts on. */
  copiesElsewhere(group: number, plan: Plan): number {
    let copies = 0
    for (const [key, { report }] of this.#known) {
      const i = plan.peers.indexOf(key)
      if (i >= 0 && i !== plan.self && !plan.placement.devices[i]!.isDrained && isWhole(report, group, plan)) copies++
    }
    return copies
  }

  /** Whether a device has said that it knows of so much of the logs. */
  knows(device: string, logs: ReadonlyMap<string, number>): boolean {
    const report = this.of(device)
    if (!report) return false
    for (const [incarnation, seq] of logs) if ((report.logs.get(incarnation) ?? 0) < seq) return false
    return true
  }
}
