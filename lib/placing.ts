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
import { MAX_FACTORS } from './limits.js'
import { isSetting, ownMeta, SETTINGS, Settings, type DeviceField, type SettingName } from './settings.js'
import type { ChunkTable } from './store/chunks.js'
import type { Database } from './store/database.js'
import { FactorTable } from './store/factor-table.js'
import { Lacking } from './store/lacking.js'
import { ReportTable } from './store/report-table.js'
import { TreeFactors } from './tree/factors.js'
import { ROOT_INO, type Inode } from './tree/inode.js'

/** How often it is looked who is lost, and what this device offers. */
const FLEET_MS = 2000
/** How often it is looked whether all is placed, while somebody waits; and how much is owed, which takes longer. */
const OWN_FIELDS: DeviceField[] = ['capacity', 'zone']
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
  /** What directories want of chunks; and what follows them. */
  readonly factors: FactorTable
  readonly dirs: TreeFactors
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
    this.factors = new FactorTable(db)
    this.factors.onChange = (id) => keeping.refactored(id)
    this.dirs = new TreeFactors({
      db, tree, chunks, table: this.factors, timers, name: Settings.REPLICATION, heads: () => log.headsById(), touched, isStopped: () => journal.stopped !== null,
      wantedBy: (ino) => {
        const inode = tree.get(ino)
        return inode && settings.replicationBelow(inode)
      },
    })
    this.fleet = new Fleet({
      settings, members, keeping, self, factors: this.factors, others: () => this.dirs.factors, nowMs: () => clock.nowMs(),
      canSpeak: () => keys.canWrite && !journal.stopped && !p.isClosing() && !metadata.own.isHeld && !metadata.isEnded && metadata.mustBeginAnew === undefined,
      diskBytes: () => (cache().givenBytes === null ? p.diskBytes() : undefined),
      heardMs: (key) => metadata.silence.heardMs(key), isSure: (upMs) => metadata.silence.isSure(upMs),
      onPlan: (isOther) => cache().planChanged(isOther), onNotice: p.onNotice,
    })
    this.reports = new Reports({
      table: new ReportTable(db), driveId: keys.driveId, device, clock, timers, keeping, isMember: (key) => members.get(key) !== undefined, logs: () => this.dirs.heads ?? log.headsById(),
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
    this.dirs.onChange = this.settings.onChange
    this.fleet.replan()
    this.#stop = timers.every(FLEET_MS, () => {
      this.#sayOwn()
      this.fleet.tick()
    })
  }

  /** What was said of this device when it joined: before it offers what its disk has. */
  #sayOwn(): void {
    const { db, device, metadata } = this.#p
    if (!this.fleet.canSpeak) return
    for (const field of OWN_FIELDS) {
      const value = db.getMeta(ownMeta(field))
      if (typeof value !== 'string' || value === '') continue
      this.settings.setOfDevice(device.publicKey, field, value)
      db.setMeta(ownMeta(field), '')
      metadata.journal.touched()
    }
  }

  #changed(): void {
    this.#p.metadata.history.isOn()
    this.fleet.replan()
  }

  async close(): Promise<void> {
    this.#stop()
    const closed = this.dirs.close()
    if (!this.#p.metadata.journal.stopped) this.reports.flush()
    this.keeping.close()
    await closed
  }

  // --- what people say ------------------------------------------------------

  /** As DriveApi.config. */
  config(dir?: Inode): SettingStatus[] {
    const ofDrive = Object.entries(SETTINGS).map(([name, rule]) => ({ name, value: this.settings.get(name as SettingName) ?? null, default: rule.default, about: rule.about }))
    const { tree } = this.#p.metadata
    const below = [...this.dirs.dirs].map(([ino, copies]) => ({ path: tree.dirPath(tree.get(ino)!), copies })).sort((a, b) => (a.path < b.path ? -1 : 1))
    const wanting = below.map(({ path, copies }) => ({ name: 'replication', path, value: String(copies), default: 'as above it', about: 'copies of each chunk of what is below this directory' }))
    if (!dir) return [...ofDrive, ...wanting]
    const nearest = this.dirs.nearest(dir.ino)
    const path = nearest === undefined ? undefined : tree.dirPath(tree.get(nearest)!)
    const own = wanting.find((s) => s.path === path)
    return own ? [own, ...ofDrive.filter((s) => s.name !== own.name)] : ofDrive
  }

  /** As DriveApi.setConfig. */
  async setConfig(name: string, value: string | null, dir?: Inode): Promise<void> {
    if (!isSetting(name)) throw fail('USAGE', `there is no setting "${name}"; there is: ${Object.keys(SETTINGS).join(', ')}`)
    this.#check()
    if (dir && dir.ino !== ROOT_INO) {
      if (name !== 'replication') throw fail('USAGE', `${name} is of the whole drive; of a directory there is replication`)
      if (!dir.isDir) throw fail('ENOTDIR', 'replication is of the drive, or of a directory and all below it')
      this.#checkFactors(dir, value)
      this.settings.setBelow(dir, value)
      await this.dirs.scan()
    } else {
      this.settings.set(name, value)
    }
    this.#changed()
    await this.#p.sync()
  }

  /** As DriveApi.setDevice. */
  async setDevice(device: string, { capacity, zone, isDrained, isTrusted, isAside }: DeviceChange): Promise<void> {
    const key = deviceKey(device)
    if (!key.equals(this.#p.device.publicKey) && !this.#p.metadata.members.get(key)) throw fail('ENOENT', `no device of the drive has the id ${device}; dfs devices lists them, dfs devices add enrols one`)
    this.#check()
    if (capacity !== undefined) this.settings.setOfDevice(key, 'capacity', capacity)
    if (zone !== undefined) this.settings.setOfDevice(key, 'zone', zone === '' ? null : zone)
    if (isAside) this.#p.metadata.setAside(key)
    if (isTrusted) this.settings.setOfDevice(key, 'doubted', null)
    if (isDrained !== undefined) this.settings.setOfDevice(key, 'drained', isDrained ? 'yes' : null)
    this.#changed()
    await this.#p.sync()
  }

  /** More than the plan can tell apart would not be what was asked for. */
  #checkFactors(dir: Inode, value: string | null): void {
    const others = [...this.dirs.dirs].filter(([ino]) => ino !== dir.ino).map(([, copies]) => copies)
    const all = new Set([...others, ...(value === null ? [] : [Number(value)])].filter((copies) => copies !== this.settings.replication))
    if (all.size >= MAX_FACTORS) throw fail('USAGE', `directories can want ${MAX_FACTORS - 1} different numbers of copies besides the drive's, and there are ${[...new Set(others)].sort((a, b) => a - b).join(', ')} already`)
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
      isFull: this.#p.cache().isFull, lacking: this.keeping.lacks, heldBytes: this.keeping.heldBytes, silent: silent.map((peer) => this.#nameOf(peer)),
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
