/**
 * The plan of a drive, from its settings and devices; and what this device says
 * there by itself: how much it offers, and who is lost.
 *
 * Only a device that may write says anything. Who was silent for too long is
 * called lost by a device that hears most of the others: one that is cut off does
 * not call all of them lost. Whoever hears a lost device again says so.
 */
import type { Members } from '../log/members.js'
import type { Settings } from '../settings.js'
import type { FactorTable } from '../store/factor-table.js'
import type { Keeping } from './keeping.js'
import { Plan } from './plan.js'
import type { PlacedDevice } from './devices.js'

/** What a disk offers is said anew when it is another by so much of it... */
const NEW_OFFER = 0.2
/** ...and not more often, unless there is less. */
const OFFER_MS = 3_600_000
/** A lost device counts again when it was there for so long. */
const BACK_MS = 5000

export interface FleetParts {
  settings: Settings
  members: Members
  keeping: Keeping
  /** What directories want of chunks, and all numbers of copies that they want. */
  factors: FactorTable
  others(): number[]
  self: Buffer
  /** This device may say something now. */
  canSpeak(): boolean
  /** Of the disk: what the drive takes there and what is free; undefined: it offers nothing by itself, for it keeps a cache. */
  diskBytes(): number | undefined
  nowMs(): number
  /** When each was heard last, and whether one that is there would have been heard within so long. */
  heardMs(device: Buffer): number
  isSure(upMs: number): boolean
  /** The plan is another, or what is offered. */
  onPlan(isOther: boolean): void
  onNotice(text: string): void
}

/** A device of the drive, as placement sees it. */
export interface FleetDevice extends PlacedDevice {
  /** What it has offered of its disk, or was given; undefined: neither yet. */
  readonly offeredBytes: number | undefined
  readonly isLeaving: boolean
  readonly isLost: boolean
  /** It could not show what it has said that it holds. */
  readonly isDoubted: boolean
}

export class Fleet {
  readonly #p: FleetParts
  #offeredAtMs = -Infinity
  /** Lost devices that are here again, and since when. */
  readonly #back = new Map<string, number>()

  constructor(parts: FleetParts) {
    this.#p = parts
  }

  /** Those that are enrolled, and this one. */
  devices(): FleetDevice[] {
    const { members, self } = this.#p
    const keys = members.all().map((c) => c.device)
    if (!keys.some((key) => key.equals(self))) keys.push(self)
    return keys.map((key) => this.#device(key))
  }

  #device(key: Buffer): FleetDevice {
    const { settings } = this.#p
    const bytes = (field: 'capacity' | 'disk') => {
      const text = settings.ofDevice(key, field)
      return text === undefined ? undefined : Number(text)
    }
    const given = bytes('capacity')
    const disk = bytes('disk')
    const offeredBytes = given === undefined ? disk : Math.min(given, disk ?? Infinity)
    const isLeaving = settings.ofDevice(key, 'drained') !== undefined
    const isLost = settings.ofDevice(key, 'lost') !== undefined
    const isDoubted = settings.ofDevice(key, 'doubted') !== undefined
    return { key, capacityBytes: offeredBytes ?? 0, zone: settings.ofDevice(key, 'zone') ?? '', isDrained: isLeaving || isLost || isDoubted, offeredBytes, isLeaving, isLost, isDoubted }
  }

  get isLeaving(): boolean { return this.#p.settings.ofDevice(this.#p.self, 'drained') !== undefined }

  /** What this device offers; Infinity: it has not said yet. */
  get budgetBytes(): number { return this.#device(this.#p.self).offeredBytes ?? Infinity }

  /** After settings or devices have changed. */
  replan(): void {
    const { settings, keeping, self, onPlan, factors, others } = this.#p
    const wanted = settings.replication
    const before = keeping.plan
    const plan = wanted === undefined ? null : new Plan({ devices: this.devices(), wanted, others: others(), self, factors })
    const isOther = plan ? !keeping.isLaidBy(plan) && !before?.digest.equals(plan.digest) : before !== null
    keeping.set(plan)
    onPlan(isOther)
  }

  /** It may say something in the drive now. */
  get canSpeak(): boolean { return this.#p.canSpeak() }

  /** Every few seconds. */
  tick(): void {
    if (!this.#p.canSpeak() || this.#p.settings.replication === undefined) return
    this.#offer()
    this.#lose()
    this.#welcome()
  }

  /** What this device's disk can take, for placement goes by what can be had. */
  #offer(): void {
    const { settings, self, diskBytes, nowMs } = this.#p
    const said = settings.ofDevice(self, 'disk')
    const bytes = diskBytes()
    if (bytes === undefined) {
      if (said !== undefined) settings.setOfDevice(self, 'disk', null)
      return
    }
    const rounded = twoDigits(bytes)
    const known = said === undefined ? undefined : Number(said)
    if (known !== undefined) {
      if (Math.abs(rounded - known) <= known * NEW_OFFER) return
      if (rounded > known && nowMs() - this.#offeredAtMs < OFFER_MS) return
    }
    this.#offeredAtMs = nowMs()
    settings.setOfDevice(self, 'disk', String(rounded))
  }

  #lose(): void {
    const { settings, self, nowMs, heardMs, isSure, onNotice, members } = this.#p
    const afterMs = settings.lostAfterMs
    if (afterMs === Infinity || !isSure(afterMs)) return
    const others = this.devices().filter((d) => !d.isDrained && d.capacityBytes > 0 && !d.key.equals(self))
    const silent = others.filter((d) => nowMs() - heardMs(d.key) >= afterMs)
    if (silent.length === 0 || (others.length - silent.length + 1) * 2 <= others.length + 1) return
    for (const { key } of silent) {
      settings.setOfDevice(key, 'lost', 'yes')
      onNotice(`the device ${members.get(key)?.name ?? key.toString('hex').slice(0, 16)} counts as lost: what it held is copied to others`)
    }
  }

  /** A device could not show, again and again, what it has said that it holds. */
  doubt(device: Buffer): void {
    const { settings, members, onNotice, canSpeak } = this.#p
    if (!canSpeak() || settings.ofDevice(device, 'doubted') !== undefined) return
    settings.setOfDevice(device, 'doubted', 'yes')
    onNotice(`the device ${members.get(device)?.name ?? device.toString('hex').slice(0, 16)} does not have what it says: what it is to hold is copied to others, until it is told otherwise (dfs devices set ID --trust)`)
  }

  #welcome(): void {
    const { settings, self, nowMs, heardMs, onNotice, members } = this.#p
    for (const { key, isLost } of this.devices()) {
      const name = key.toString('hex')
      // Of oneself one knows.
      if (!isLost || !(key.equals(self) || nowMs() - heardMs(key) < BACK_MS)) {
        this.#back.delete(name)
        continue
      }
      const since = this.#back.get(name) ?? nowMs()
      this.#back.set(name, since)
      if (nowMs() - since < BACK_MS) continue
      this.#back.delete(name)
      settings.setOfDevice(key, 'lost', null)
      onNotice(`the device ${members.get(key)?.name ?? name.slice(0, 16)} is back`)
    }
  }
}

/** Down to two digits: what others write on the same disk must not move chunks. */
function twoDigits(bytes: number): number {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(Math.max(1, bytes))) - 1)
  return Math.floor(bytes / unit) * unit
}
