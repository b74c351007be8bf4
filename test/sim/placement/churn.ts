/**
 * A drive over the years: devices fail and are replaced, others leave in an orderly way, and what is missing is
 * copied. The placement is the real one; the model around it:
 *
 * - A device fails for good at a constant rate, with all that it holds. Others notice after the grace period; the placement is
 *   then computed without it, and what its groups lack is copied. A new device of its size and zone comes some days later.
 * - At another rate a device is replaced in time: the new one comes, the old one is drained, holds what it has until that is
 *   elsewhere, and leaves.
 * - Zones fail as a whole at a third rate.
 * - Copying: a group from one holder to one that shall be, one after the other at each end, at the bandwidth that a device has for it in
 *   each direction. Groups with the fewest copies go first, those that only move last; from the holder that is free first. Not
 *   optimal: ends wait for each other at times. The order is made anew at each change, and what was being copied then begins again.
 * - A chunk is lost when the last device that holds it fails. It is counted, and there again as if from a backup.
 *
 * Not in it: devices that are off for a while and come back, silent damage, mistakes.
 *
 * Losses of three copies are too rare to be seen in as many years as can be simulated. So beside the count there is an expectation: for each
 * group that a failure leaves with all copies but one, the chance that all holders of these fail before the first new copy is there:
 * the time to it is of this simulation, their failures independent.
 *
 * Invariants, asserted: no group is ever without a holder unless it is lost at that moment; a holder is a device that is there; nothing planned takes a copy away before another is there.
 */
import assert from 'node:assert'
import { PLACEMENT_GROUPS } from '../../../lib/limits.js'
import { leastMoved } from '../../../lib/placement/moves.js'
import { Placement } from '../../../lib/placement/placement.js'
import type { Fleet, SimDevice } from './fleet.js'

export interface Model {
  copies: number
  /** Of a device, a year. */
  failures: number
  planned: number
  /** Of a zone, a year. */
  zoneFailures: number
  graceHours: number
  replaceHours: number
  /** For copying, of a device in each direction. */
  bytesPerHour: number
  chunkBytes: number
  /** Whether the placement knows the zones. */
  knowsZones: boolean
}

export interface Outcome {
  years: number
  failures: number
  replacements: number
  /** Copies of everything: what was copied, and the least that the shares asked for. */
  moved: number
  least: number
  /** Part of the chunks that has too few copies, over time: what each failure caused, times the failures in a year. */
  underReplicated: number
  /** Hours from a failure until its groups have all copies: mean and longest of those that were seen to the end. */
  meanRepairHours: number
  longestRepairHours: number
  lostChunks: number
  lossEvents: number
  /** A year, of failures at the rate of the model. */
  expectedLostChunks: number
}

const HOURS_PER_YEAR = 8766

type Event =
  | { at: number; kind: 'fail' | 'replace' | 'zone' }
  | { at: number; kind: 'lost'; device: SimDevice; failedAt: number; exposed: Map<number, number> }
  | { at: number; kind: 'join'; device: SimDevice }

interface Task { group: number; to: number; doneAt: number }

export class Churn {
  readonly #model: Model
  readonly #fleet: Fleet
  readonly #chunks: Uint32Array
  readonly #random: () => number
  #now = 0
  /** Those that the placement knows, dead ones that nobody has noticed included. */
  #members: SimDevice[]
  /** Uids of those that are up. */
  readonly #alive = new Map<number, SimDevice>()
  #events: Event[] = []
  #placement: Placement<SimDevice>
  /** Of each group, uids: those that have it, and those that shall. */
  readonly #have: number[][]
  #want: number[][] = []
  /** Under way, by group: in the order in which they are done. */
  #tasks = new Map<number, Task[]>()
  /** Of each group: until when its missing copies are accounted for. */
  readonly #countedTo = new Float64Array(PLACEMENT_GROUPS)
  #missingChunkHours = 0
  /** Failures whose groups are not whole yet. */
  #open: { at: number; left: Set<number>; wholeAt: number }[] = []
  readonly #repairHours: number[] = []
  readonly #outcome: Outcome = { years: 0, failures: 0, replacements: 0, moved: 0, least: 0, underReplicated: 0, meanRepairHours: 0, longestRepairHours: 0, lostChunks: 0, lossEvents: 0, expectedLostChunks: 0 }

  constructor(model: Model, devices: SimDevice[], fleet: Fleet, chunks: Uint32Array, random: () => number) {
    this.#model = model
    this.#fleet = fleet
    this.#chunks = chunks
    this.#random = random
    this.#members = devices
    for (const d of devices) this.#alive.set(d.uid, d)
    this.#placement = this.#compute()
    this.#want = this.#wanted()
    this.#have = this.#want.map((uids) => [...uids])
    for (const kind of ['fail', 'replace', 'zone'] as const) this.#schedule(kind)
  }

  /** Until so many devices have failed by themselves, or, without such failures, so many zones; and what these left is whole again. */
  run(failures: number): Outcome {
    const perYear = this.#model.failures * this.#alive.size
    let seen = 0
    let lastAt = 0
    while (this.#events.length > 0) {
      this.#events.sort((a, b) => a.at - b.at)
      const event = this.#events.shift()!
      if (seen === failures && event.kind !== 'lost') continue
      this.#settle(event.at)
      switch (event.kind) {
        case 'fail':
          seen++
          this.#fail([this.#pick()])
          break
        case 'zone': {
          if (this.#model.failures === 0) seen++
          const { zone } = this.#pick()
          this.#fail([...this.#alive.values()].filter((d) => d.zone === zone))
          break
        }
        case 'replace': {
          const old = this.#pick()
          this.#outcome.replacements++
          const fresh = this.#fleet.device(old.zone, old.capacityBytes)
          this.#alive.set(fresh.uid, fresh)
          this.#become([...this.#members, fresh])
          this.#become(this.#members.map((d) => d.uid === old.uid ? { ...d, isDrained: true } : d))
          this.#plan()
          break
        }
        case 'lost':
          this.#become(this.#members.filter((d) => d.uid !== event.device.uid))
          this.#plan()
          this.#expect(event.failedAt, event.exposed)
          break
        case 'join':
          this.#alive.set(event.device.uid, event.device)
          this.#become([...this.#members, event.device])
          this.#plan()
          break
      }
      if (event.kind === 'fail' || event.kind === 'replace' || event.kind === 'zone') this.#schedule(event.kind)
      if (event.kind === 'fail' || event.kind === 'zone') lastAt = event.at
    }
    this.#settle([...this.#tasks.values()].flat().reduce((last, task) => Math.max(last, task.doneAt), this.#now))
    for (let g = 0; g < PLACEMENT_GROUPS; g++) this.#account(g, this.#now)
    const total = this.#chunks.reduce((a, b) => a + b, 0)
    const o = this.#outcome
    o.years = lastAt / HOURS_PER_YEAR
    o.underReplicated = this.#missingChunkHours / seen * perYear / (total * HOURS_PER_YEAR)
    o.expectedLostChunks *= perYear / seen
    o.meanRepairHours = this.#repairHours.reduce((a, b) => a + b, 0) / Math.max(1, this.#repairHours.length)
    o.longestRepairHours = this.#repairHours.reduce((a, b) => Math.max(a, b), 0)
    return o
  }

  #schedule(kind: 'fail' | 'replace' | 'zone'): void {
    const zones = kind === 'zone' ? new Set([...this.#alive.values()].map((d) => d.zone)).size : 0
    const rate = kind === 'zone' ? this.#model.zoneFailures * zones : this.#alive.size * (kind === 'fail' ? this.#model.failures : this.#model.planned)
    if (rate > 0) this.#events.push({ at: this.#now - Math.log(1 - this.#random()) / rate * HOURS_PER_YEAR, kind })
  }

  /** One that is up and not leaving. */
  #pick(): SimDevice {
    const drained = new Set(this.#members.filter((d) => d.isDrained).map((d) => d.uid))
    const staying = [...this.#alive.values()].filter((d) => !drained.has(d.uid))
    return staying[Math.floor(this.#random() * staying.length)]!
  }

  #fail(devices: SimDevice[]): void {
    const gone = new Set(devices.map((d) => d.uid))
    for (const uid of gone) this.#alive.delete(uid)
    for (const device of devices) {
      this.#outcome.failures++
      const exposed = new Map<number, number>()
      const left = new Set<number>()
      for (let g = 0; g < PLACEMENT_GROUPS; g++) {
        const have = this.#have[g]!
        if (!have.includes(device.uid)) continue
        this.#account(g, this.#now)
        this.#have[g] = have.filter((uid) => uid !== device.uid)
        const copies = this.#have[g]!.filter((uid) => !gone.has(uid)).length
        if (copies === this.#model.copies - 1) exposed.set(g, copies)
        if (copies < this.#model.copies) left.add(g)
        if (copies === 0) this.#lose(g, gone)
      }
      if (left.size > 0) this.#open.push({ at: this.#now, left, wholeAt: 0 })
      this.#events.push({ at: this.#now + this.#model.graceHours, kind: 'lost', device, failedAt: this.#now, exposed })
      // One that was leaving has been replaced.
      if (this.#members.some((d) => d.uid === device.uid && d.isDrained)) continue
      this.#events.push({ at: this.#now + this.#model.replaceHours, kind: 'join', device: this.#fleet.device(device.zone, device.capacityBytes) })
    }
    // What came from it, or went there, is planned anew.
    if (this.#tasks.size > 0) this.#plan()
  }

  #lose(g: number, gone: Set<number>): void {
    this.#outcome.lostChunks += this.#chunks[g]!
    this.#outcome.lossEvents++
    const anew = this.#want[g]!.filter((uid) => this.#alive.has(uid) && !gone.has(uid))
    this.#have[g] = anew.length > 0 ? anew : [[...this.#alive.keys()][g % this.#alive.size]!]
  }

  /** The chance that what a failure left of these groups had failed before the first new copy was there. */
  #expect(failedAt: number, exposed: Map<number, number>): void {
    const rate = this.#model.failures / HOURS_PER_YEAR
    for (const [g, copies] of exposed) {
      const first = this.#tasks.get(g)?.[0]
      if (first) this.#outcome.expectedLostChunks += this.#chunks[g]! * (1 - Math.exp(-rate * (first.doneAt - failedAt))) ** copies
    }
  }

  #compute(): Placement<SimDevice> {
    return new Placement(this.#model.knowsZones ? this.#members : this.#members.map((d) => ({ ...d, zone: '' })), this.#model.copies)
  }

  #wanted(): number[][] {
    return Array.from({ length: PLACEMENT_GROUPS }, (_, g) => this.#placement.holders(g).map((i) => this.#placement.devices[i]!.uid))
  }

  /** The drive has these devices from now on. */
  #become(members: SimDevice[]): void {
    const before = this.#placement
    this.#members = members
    this.#placement = this.#compute()
    const was = this.#want
    this.#want = this.#wanted()
    this.#outcome.least += leastMoved(before, this.#placement)
    let gains = 0
    for (let g = 0; g < PLACEMENT_GROUPS; g++) for (const uid of this.#want[g]!) if (!was[g]!.includes(uid)) gains++
    this.#outcome.moved += gains / PLACEMENT_GROUPS
    for (let g = 0; g < PLACEMENT_GROUPS; g++) this.#release(g)
  }

  /** All copying that is to be done, with the hour at which each is. */
  #plan(): void {
    this.#tasks = new Map()
    const byCopies: Task[][] = Array.from({ length: this.#model.copies + 1 }, () => [])
    for (let g = 0; g < PLACEMENT_GROUPS; g++) {
      const have = this.#have[g]!
      assert(have.length > 0, `group ${g} has no holder`)
      for (const uid of have) if (!this.#alive.has(uid)) assert.fail(`group ${g} has the holder ${uid}, which is gone`)
      for (const to of this.#want[g]!) {
        if (!have.includes(to) && this.#alive.has(to)) byCopies[Math.min(have.length, this.#model.copies)]!.push({ group: g, to, doneAt: 0 })
      }
    }
    const sends = new Map<number, number>()
    const receives = new Map<number, number>()
    for (const task of byCopies.flat()) {
      let from = -1
      let free = Infinity
      for (const uid of this.#have[task.group]!) {
        const at = sends.get(uid) ?? this.#now
        if (at < free) [from, free] = [uid, at]
      }
      const hours = this.#chunks[task.group]! * this.#model.chunkBytes / this.#model.bytesPerHour
      task.doneAt = Math.max(free, receives.get(task.to) ?? this.#now) + hours
      sends.set(from, task.doneAt)
      receives.set(task.to, task.doneAt)
      const others = this.#tasks.get(task.group)
      if (others) others.push(task)
      else this.#tasks.set(task.group, [task])
    }
    for (const tasks of this.#tasks.values()) if (tasks.length > 1) tasks.sort((a, b) => a.doneAt - b.doneAt)
  }

  /** What is done by then, is. */
  #settle(until: number): void {
    for (const [g, tasks] of this.#tasks) {
      while (tasks.length > 0 && tasks[0]!.doneAt <= until) {
        const task = tasks.shift()!
        this.#account(g, task.doneAt)
        this.#have[g]!.push(task.to)
        if (this.#have[g]!.length < this.#model.copies) continue
        for (const failure of this.#open) if (failure.left.delete(g)) failure.wholeAt = Math.max(failure.wholeAt, task.doneAt)
      }
      if (tasks.length === 0) {
        this.#tasks.delete(g)
        this.#release(g)
      }
    }
    for (const failure of this.#open) if (failure.left.size === 0) this.#repairHours.push(failure.wholeAt - failure.at)
    this.#open = this.#open.filter((failure) => failure.left.size > 0)
    this.#now = until
    const drained = this.#members.filter((d) => d.isDrained)
    if (drained.length === 0) return
    const needed = new Set(this.#have.flat())
    for (const d of drained) if (!needed.has(d.uid)) this.#alive.delete(d.uid)
    this.#members = this.#members.filter((d) => !d.isDrained || this.#alive.has(d.uid) || this.#events.some((e) => e.kind === 'lost' && e.device.uid === d.uid))
  }

  /** Copies that are not wanted go once all that are wanted are there. */
  #release(g: number): void {
    const want = this.#want[g]!
    const have = this.#have[g]!
    if (have.length > want.length && want.every((uid) => have.includes(uid))) this.#have[g] = [...want]
  }

  #account(g: number, until: number): void {
    if (this.#have[g]!.length < this.#model.copies) this.#missingChunkHours += this.#chunks[g]! * (until - this.#countedTo[g]!)
    this.#countedTo[g] = until
  }
}
