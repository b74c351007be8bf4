/**
 * Which chunks are to be where, on a device that reads the drive: the settings
 * that all agree on, the plan that follows from them, what this device lacks of
 * its share, what the others report, and how far all of it is met.
 */
import type { DeviceChange, DriveStatus, OnProgress, SettingStatus } from './api.js'
import type { Cache } from './cache.js'
import type { Clock, Timers } from './clock.js'
import { fail } from './errors.js'
import type { Device } from './keys/device.js'
import type { DriveKeys } from './keys/derive.js'
import { decodeZ32 } from './keys/zbase32.js'
import type { Metadata } from './metadata.js'
import { Fleet } from './placement/fleet.js'
import { Keeping } from './placement/keeping.js'
import { Repair } from './placement/repair.js'
import { Reports } from './placement/reports.js'
import { isSetting, SETTINGS, Settings, type SettingName } from './settings.js'
import type { ChunkTable } from './store/chunks.js'
import type { Database } from './store/database.js'
import { Lacking } from './store/lacking.js'
import { ReportTable } from './store/report-table.js'

/** How often it is looked who is lost, and what this device offers. */
const FLEET_MS = 2000
/** How often it is looked whether all is placed, while somebody waits; and how much is owed, which takes longer. */
const WAIT_MS = 200
const OWED_EVERY = 5

export interface PlacingParts {
  db: Database
  keys: DriveKeys
  device: Device
  clock: Clock
  timers: Timers
  chunks: ChunkTable
  metadata: Metadata
  /** Made after this, for it asks for the plan. */
  cache(): Cache
  /** What a disk has for the drive: what that takes, and what is free. */
  diskBytes(): number
  isClosing(): boolean
  /** Attributes of an inode, by an op that no mount has asked for. */
  changed(ino: number): void
  onNotice(text: string): void
  sync(): Promise<void>
}

export class Placing {
  readonly settings: Settings
  readonly keeping: Keeping
  readonly fleet: Fleet
  readonly reports: Reports
  readonly repair: Repair
  readonly #p: PlacingParts
  #stop: () => void = () => {}

  constructor(p: PlacingParts) {
    this.#p = p
    const { db, keys, device, clock, timers, chunks, metadata, cache } = p
    const { tree, log, journal, engine, members } = metadata
    const self = device.publicKey
    const touched = () => journal.touched('derived')
    const settings = this.settings = new Settings({ tree, clock, timers, submit: (op) => {
      engine.submit(op)
      if ('ino' in op) p.changed(op.ino)
    } })
    metadata.history.retentionMs = () => settings.retentionMs
    const keeping = this.keeping = new Keeping({ lacking: new Lacking(db), chunks, timers, touched })
    this.fleet = new Fleet({
      settings, members, keeping, self, nowMs: () => clock.nowMs(),
      canSpeak: () => keys.canWrite && !journal.stopped && !p.isClosing() && !metadata.own.isHeld && !metadata.isEnded && metadata.mustBeginAnew === undefined,
      diskBytes: () => (cache().givenBytes === null ? p.diskBytes() : undefined),
      heardMs: (key) => metadata.silence.heardMs(key), isSure: (upMs) => metadata.silence.isSure(upMs),
      onPlan: (isOther) => cache().planChanged(isOther), onNotice: p.onNotice,
    })
    this.reports = new Reports({
      table: new ReportTable(db), driveId: keys.driveId, device, clock, timers, keeping, isMember: (key) => members.get(key) !== undefined, logs: () => log.headsById(),
      chunks, keepsEverything: () => cache().keepsEverything, isFull: () => cache().isFull, usedBytes: () => cache().usedBytes, settle: () => journal.settle(), touched,
    })
    this.repair = new Repair({
      log, chunks, keeping, reports: this.reports, self, timers, keepsEverything: () => cache().keepsEverything,
      others: () => members.all().filter((c) => c.role !== 'read-only' && !c.device.equals(self) && !metadata.asides.isAway(c.device)).map((c) => c.device.toString('hex')),
    })
    keeping.rate = () => settings.repairRate
    keeping.copiesElsewhere = (group) => this.reports.copiesElsewhere(group, keeping.plan!)
  }

  /** When metadata and cache are there. */
  start(): void {
    const { metadata, timers, isClosing } = this.#p
    this.settings.onChange = () => { if (!metadata.journal.stopped && !isClosing()) this.#changed() }
    const { onNew } = metadata.members
    metadata.members.onNew = (certificate) => {
      onNew(certificate)
      this.settings.onChange()
    }
    this.fleet.replan()
    this.#stop = timers.every(FLEET_MS, () => this.fleet.tick())
  }

  #changed(): void {
    this.#p.metadata.history.isOn()
    this.fleet.replan()
  }

  close(): void {
    this.#stop()
    if (!this.#p.metadata.journal.stopped) this.reports.flush()
    this.keeping.close()
  }

  // --- what people say ------------------------------------------------------

  config(): SettingStatus[] {
    return Object.entries(SETTINGS).map(([name, rule]) => ({ name, value: this.settings.get(name as SettingName) ?? null, default: rule.default, about: rule.about }))
  }

  /** As DriveApi.setConfig. */
  async setConfig(name: string, value: string | null): Promise<void> {
    if (!isSetting(name)) throw fail('USAGE', `there is no setting "${name}"; there is: ${Object.keys(SETTINGS).join(', ')}`)
    this.#check()
    this.settings.set(name, value)
    this.#changed()
    await this.#p.sync()
  }

  /** As DriveApi.setDevice. */
  async setDevice(device: string, { capacity, zone, isDrained, isTrusted }: DeviceChange): Promise<void> {
    const key = deviceKey(device)
    if (!key.equals(this.#p.device.publicKey) && !this.#p.metadata.members.get(key)) throw fail('ENOENT', `no device of the drive has the id ${device}; dfs devices lists them, dfs devices add enrols one`)
    this.#check()
    if (capacity !== undefined) this.settings.setOfDevice(key, 'capacity', capacity)
    if (zone !== undefined) this.settings.setOfDevice(key, 'zone', zone === '' ? null : zone)
    if (isTrusted) this.settings.setOfDevice(key, 'doubted', null)
    if (isDrained !== undefined) this.settings.setOfDevice(key, 'drained', isDrained ? 'yes' : null)
    this.#changed()
    await this.#p.sync()
  }

  #check(): void {
    this.#p.metadata.journal.check()
    if (!this.#p.keys.canWrite) throw fail('EROFS', 'the drive is read-only here: its key does not write')
  }

  // --- how far it is met ------------------------------------------------------

  async status(): Promise<DriveStatus['placement']> {
    const status = await this.repair.status()
    if (!status || !this.keeping.plan) return null
    const { wanted, possible, chunks, copies, bytes, usableBytes, silent } = status
    return {
      wanted, possible, chunksUnder: chunks, copiesOwed: copies, bytesOwed: bytes, secondsLeft: this.repair.secondsLeft(bytes), usableBytes,
      isFull: this.#p.cache().isFull, lacking: this.keeping.size, heldBytes: this.keeping.heldBytes, silent: silent.map((peer) => this.#nameOf(peer)),
    }
  }

  /** As DriveApi.waitPlaced. */
  async wait(onProgress?: OnProgress): Promise<void> {
    const { sync, metadata, timers } = this.#p
    await sync()
    const waiting = this.repair.awaited()
    let owed = 0
    for (let n = 0; ; n++) {
      metadata.journal.check()
      const awaited = waiting.devices()
      if (awaited.length === 0) return
      // It looks at all chunks.
      if (onProgress && n % OWED_EVERY === 0) owed = (await this.repair.status())?.bytes ?? 0
      onProgress?.({ phase: `waiting for ${awaited.map((peer) => this.#nameOf(peer)).join(', ')}; owed`, done: owed, total: 0, unit: 'bytes' })
      await new Promise<void>((go) => void timers.after(WAIT_MS, go))
    }
  }

  #nameOf(peer: string): string {
    const { device, metadata } = this.#p
    return metadata.members.get(Buffer.from(peer, 'hex'))?.name ?? (peer === device.publicKey.toString('hex') ? metadata.deviceName : peer.slice(0, 12))
  }
}

/** EINVAL for what is no device's id. */
export function deviceKey(device: string): Buffer {
  const what = `'${device}' is not the id of a device; dfs devices lists those that are connected`
  let key: Buffer
  try {
    key = decodeZ32(device)
  } catch (e) {
    throw fail('EINVAL', what, e)
  }
  if (key.length !== 32) throw fail('EINVAL', what)
  return key
}
