/**
 * How far the drive is from what its plan wants, as far as is known here: what
 * each device has said it lacks, and what was written since it said so.
 */
import type { Timers } from '../clock.js'
import { headerIn } from '../log/entry.js'
import type { Log } from '../log/log.js'
import type { ChunkTable } from '../store/chunks.js'
import { Awaited } from './awaited.js'
import type { Keeping } from './keeping.js'
import type { Plan } from './plan.js'
import { isTold, isWhole, lackOfAll, type Lack } from './report.js'
import type { Reports } from './reports.js'

/** Rows, or entries, in one turn. */
const SLICE_ROWS = 20_000
const SLICE_BYTES = 1 << 20
/** Speed is what was done within so long. */
const SPEED_MS = 60_000
const MAX_SEEN = 256

export interface RepairParts {
  log: Log
  chunks: ChunkTable
  keeping: Keeping
  reports: Reports
  self: Buffer
  timers: Timers
  /** Without a plan: other devices of the drive that are waited for, in hex. */
  others(): string[]
  keepsEverything(): boolean
}

export interface RepairStatus {
  /** Copies wanted; what there can be with the devices that take part. */
  wanted: number
  possible: number
  /** Chunks of which fewer copies are known than there should be: at least one of their holders lacks them. */
  chunks: number
  /** Copies of chunks, and their bytes, that are still to be made. */
  copies: number
  bytes: number
  /** Devices that have not said yet what they have: all that they are to hold counts as owed. */
  silent: string[]
  /** Bytes of content that fit before the first device is full. */
  usableBytes: number
}

export class Repair {
  readonly #p: RepairParts
  /** What was owed when somebody asked; the oldest first. */
  #seen: { atMs: number; bytes: number }[] = []

  constructor(parts: RepairParts) {
    this.#p = parts
  }

  /** undefined: there is no plan. */
  async status(): Promise<RepairStatus | undefined> {
    const { keeping, reports, self } = this.#p
    const { plan } = keeping
    if (!plan) return undefined
    const { placement } = plan
    const byGroup = new Map<number, number>()
    const silent: string[] = []
    let bytes = 0
    const add = (group: number, chunks: number, len: number) => {
      bytes += len
      byGroup.set(group, (byGroup.get(group) ?? 0) + chunks)
    }
    let sizes: Map<number, Lack> | undefined
    for (const [i, peer] of plan.peers.entries()) {
      const device = placement.devices[i]!
      if (device.isDrained || placement.shares[i] === 0) continue
      if (device.key.equals(self)) {
        for (const [group, lack] of keeping.missing()) add(group, lack.chunks, lack.bytes)
        continue
      }
      const report = reports.of(peer)
      if (!report) silent.push(peer)
      for (const group of plan.groupsOf(i)) {
        if (report && isWhole(report, group, plan)) continue
        sizes ??= await this.#sizes(plan)
        const size = sizes.get(group)
        if (!size) continue
        // What it never spoke of it may as well not have.
        const lack = (report && isTold(report, group, plan) ? report.lacks.get(group) : undefined) ?? size
        add(group, Math.min(lack.chunks, size.chunks), Math.min(lack.bytes, size.bytes))
      }
      if (report) await this.#since(plan, i, report.logs, (group, len) => add(group, 1, len))
    }
    let chunks = 0
    let copies = 0
    for (const [group, n] of byGroup) {
      copies += n
      chunks += Math.min(n, sizes?.get(group)?.chunks ?? n)
    }
    return { wanted: placement.wanted, possible: placement.copies, chunks, copies, bytes, silent, usableBytes: placement.usableBytes }
  }

  /** At the speed at which what is owed has become less lately; null: not known, for it has not. */
  secondsLeft(bytes: number): number | null {
    const nowMs = this.#p.timers.nowMs()
    const before = this.#seen.find((s) => nowMs - s.atMs <= SPEED_MS)
    this.#seen = [...this.#seen.filter((s) => nowMs - s.atMs <= SPEED_MS), { atMs: nowMs, bytes }].slice(-MAX_SEEN)
    if (bytes === 0) return 0
    if (!before || before.bytes <= bytes || before.atMs === nowMs) return null
    return bytes / (before.bytes - bytes) * (nowMs - before.atMs) / 1000
  }

  /** Until all that is known now is on all devices that are to hold it. */
  awaited(): Awaited {
    const { keeping, reports, self, others, chunks, keepsEverything } = this.#p
    return new Awaited({
      keeping, reports, others, self: self.toString('hex'),
      lacksOfAll: () => (others().length > 0 && keepsEverything() ? lackOfAll(chunks) : undefined),
    }, this.#p.log.headsById())
  }

  /** Live chunks of each group. */
  async #sizes(plan: Plan): Promise<Map<number, Lack>> {
    const out = new Map<number, Lack>()
    for (let from = 0; ;) {
      const slice = this.#p.chunks.scan(from, SLICE_ROWS)
      for (const { num, id, len, refs } of slice) {
        from = num
        if (refs <= 0) continue
        const group = plan.groupOf(id)
        const size = out.get(group)
        if (!size) out.set(group, { chunks: 1, bytes: len })
        else {
          size.chunks++
          size.bytes += len
        }
      }
      if (slice.length < SLICE_ROWS) return out
      await this.#turn()
    }
  }

  /** Chunks for a device in entries behind those that it had when it spoke. */
  async #since(plan: Plan, device: number, logs: ReadonlyMap<string, number>, add: (group: number, len: number) => void): Promise<void> {
    const { log, chunks } = this.#p
    for (const [inc, seq] of log.heads()) {
      const known = logs.get(log.incarnationId(inc).toString('latin1')) ?? 0
      for (let from = Math.max(known + 1, log.head(inc).first); from <= seq;) {
        const entries = log.stored(inc, from, SLICE_BYTES)
        if (entries.length === 0) break
        for (const { signed } of entries) {
          for (const id of headerIn(signed).chunks) {
            const group = plan.groupOf(id)
            if (!plan.holders(group).includes(device)) continue
            const num = chunks.findById(id)
            const len = num > 0 ? chunks.get(num)?.len : undefined
            if (len !== undefined) add(group, len)
          }
        }
        from += entries.length
        await this.#turn()
      }
    }
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => this.#p.timers.soon(resolve))
  }
}
