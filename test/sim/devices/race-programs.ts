/**
 * What programs and people do on the devices of a race (race.ts): to few files,
 * with few contents, so that what is removed is soon named again.
 */
import type { FileHandle } from '../../../lib/api.js'
import { isDfsError } from '../../../lib/errors.js'
import type { SimDevice } from './device.js'
import type { Ledger } from './ledger.js'
import type { SimDrive } from './whole.js'
import type { World } from './world.js'

const PATHS = ['/a', '/b', '/c', '/d/e']
/** Small ones go into the index when their file is closed, others into segments. */
const BODIES = ([[700, 'x'], [1500, 'y'], [9000, 'z'], [9500, 'w'], [12_000, 'v'], [20_000, 'u']] as const).map(([length, fill]) => Buffer.alloc(length, fill))
/** Files that are kept open on one device. */
const MAX_OPEN = 3
/** Who can reach all others has fetched what it has open after so long. */
const FETCH_MS = 10_000
/** What a program may be told. */
const USUAL = ['ENOENT', 'EEXIST', 'EISDIR', 'ENOTDIR', 'EBUSY'] as const

export class RacePrograms {
  readonly #world: World
  readonly #ledger: Ledger
  readonly open = new Map<SimDrive, FileHandle[]>()
  /** What is open there cannot be read to the end (docs/decisions/027-releases.md). */
  readonly lost = new Set<SimDrive>()
  readonly #collecting = new Set<SimDrive>()
  #healedMs = Infinity
  #unique = 0

  constructor(world: World, ledger: Ledger) {
    this.#world = world
    this.#ledger = ledger
    ledger.openLost = (d, ino) => {
      const drive = d.s.drive!
      if (!this.lost.has(drive) && world.net.nowMs - Math.max(this.#healedMs, drive.unlinkedMs(ino)) > FETCH_MS) return true
      world.count('open file lost')
      this.lost.add(drive)
      return false
    }
  }

  /** All devices are there: what cannot be read is lost. */
  get isHealing(): boolean { return this.#healedMs !== Infinity }

  heal(): void { this.#healedMs = this.#world.net.nowMs }

  /** Something that a person, a program or the device itself does; what it comes to is told later. */
  step(d: SimDevice): void {
    const drive = d.s.drive!
    const world = this.#world
    this.#do(d, drive).catch((e: Error) => {
      if (d.live?.drive !== drive) return
      if (USUAL.some((code) => isDfsError(e, code))) return world.count(`told ${(e as { code?: string }).code}`)
      world.broken(d, e)
    })
  }

  async #do(d: SimDevice, drive: SimDrive): Promise<void> {
    const world = this.#world
    const path = world.pick(PATHS)
    const kind = world.random()
    const told = (what: string) => {
      world.count(what)
      if (world.isVerbose) world.trace(`${d.name} ${what} ${path}`)
    }
    if (kind < 0.3) {
      told('write')
      return this.#write(drive, path)
    }
    if (kind < 0.46) {
      told('remove')
      return drive.rm(path, { recursive: true })
    }
    if (kind < 0.53) {
      told('rename')
      return drive.rename(path, world.pick(PATHS))
    }
    if (kind < 0.55) {
      told('link')
      return drive.link(path, world.pick(PATHS))
    }
    if (kind < 0.61) return this.#copy(drive, path, world.pick(PATHS))
    if (kind < 0.64) {
      const h = await drive.open(path, 'r+')
      told('cut')
      await h.truncate(world.below(3) * 400)
      return h.close()
    }
    if (kind < 0.7) return this.#hold(drive, path)
    if (kind < 0.76) {
      told('read')
      return this.read(drive, path)
    }
    if (kind < 0.82) {
      if (this.#ledger.retentionMs === 0) return
      told('restore')
      return this.#restore(d, drive, path)
    }
    if (kind < 0.86) return drive.sync()
    if (kind < 0.92) return this.collect(drive)
    if (kind < 0.99) return drive.cache.keepsEverything ? this.collect(drive) : void await drive.cache.makeRoom(1)
    this.#change(d)
  }

  async #write(drive: SimDrive, path: string): Promise<void> {
    const world = this.#world
    if (path.startsWith('/d/')) await drive.mkdir('/d', { recursive: true })
    const isAdded = world.chance(0.2)
    const h = await drive.open(path, isAdded ? 'a' : 'w')
    const { size } = await h.stat()
    await h.write(isAdded && size < 60_000 ? size : 0, this.#body(drive))
    if (world.chance(0.1)) await h.sync()
    await h.close()
  }

  /** Mostly what is on its way out. */
  #body(drive: SimDrive): Buffer {
    const world = this.#world
    if (world.chance(0.05)) return Buffer.alloc(1000, `unique ${++this.#unique} `)
    const dying = BODIES.filter((body) => drive.isDying(body))
    if (dying.length === 0 || world.chance(0.3)) return world.pick(BODIES)
    world.count('dying content written')
    if (world.chance(0.4)) world.net.after(world.between(1, world.graces!.jobMs + 100), () => { if (!this.isHealing) this.#collectSoon(world.pick(world.devices)) })
    return world.pick(dying)
  }

  #collectSoon(d: SimDevice): void {
    const drive = d.live?.drive
    if (drive) this.collect(drive).catch((e: Error) => { if (d.live?.drive === drive) this.#world.broken(d, e) })
  }

  /** As copy_file_range: chunks are named once more. */
  async #copy(drive: SimDrive, from: string, to: string): Promise<void> {
    if (from === to) return
    const source = drive.tree.get((await drive.stat(from)).ino)!
    if (!source.isFile) return
    const h = await drive.open(to, 'w')
    const target = drive.tree.get((await h.stat()).ino)!
    if (source !== target) await drive.posix.copy(source, 0, target, 0, source.size)
    this.#world.count('copy')
    await h.close()
  }

  /** Opens a file, or closes one that is open: it may have been removed meanwhile. */
  async #hold(drive: SimDrive, path: string): Promise<void> {
    const open = this.open.get(drive) ?? []
    this.open.set(drive, open)
    if (open.length >= MAX_OPEN) {
      const h = open.shift()!
      if (!this.lost.has(drive)) await this.all(h)
      return h.close()
    }
    open.push(await drive.open(path, 'r'))
    this.#world.count('open')
  }

  async read(drive: SimDrive, path: string): Promise<void> {
    const h = await drive.open(path, 'r')
    try {
      await this.all(h)
    } finally {
      await h.close()
    }
  }

  /** While devices are apart, what is elsewhere may not be had. */
  async all(h: FileHandle): Promise<void> {
    try {
      const { size } = await h.stat()
      for (let at = 0; at < size; at += 4096) await h.read(at, 4096)
    } catch (e) {
      if (this.isHealing || !isDfsError(e, 'EIO') || this.#world.devices.every((d) => d.live)) throw e
    }
  }

  async #restore(d: SimDevice, drive: SimDrive, path: string): Promise<void> {
    const { history } = d.s.metadata
    const now = d.clock.nowMs()
    // The last moments of the retention, too.
    const atMs = this.#world.chance(0.4) ? Math.max(history.fromMs, now - this.#ledger.retentionMs) : now - this.#world.below(this.#ledger.retentionMs)
    if (!history.isOn() || atMs > now) return
    await drive.restore(path, { atMs, force: true })
    this.#world.count('restored')
  }

  async collect(drive: SimDrive): Promise<void> {
    if (this.#collecting.has(drive)) return
    this.#collecting.add(drive)
    try {
      await drive.collect(this.#world.chance(0.5))
      this.#world.count('collected')
    } finally {
      this.#collecting.delete(drive)
    }
  }

  /** Somebody has another mind about who is to hold what. */
  #change(d: SimDevice): void {
    const world = this.#world
    const { settings, keeping } = d.s.placing!
    if (!keeping.plan) return
    world.count('setting')
    const of = world.pick(world.devices).publicKey
    if (world.chance(0.4)) settings.set('replication', String(world.between(1, 3)))
    else if (world.chance(0.5)) settings.setOfDevice(of, 'capacity', String(world.between(1, 9) * 1e11))
    else settings.setOfDevice(of, 'drained', world.chance(0.4) ? 'yes' : null)
    d.s.drive!.placing.fleet.replan()
  }
}
