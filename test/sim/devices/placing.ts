/**
 * What a simulated device has for a plan: settings, fleet, queue and reports as
 * they are, and in place of cache and collector a few lines that drop dead chunks
 * and let go of what the plan does not want here, by the rules of lib/cache.ts.
 */
import type { Timers } from '../../../lib/clock.js'
import { EVICT_COPIES, GRACE_MS, type Holders } from '../../../lib/cache.js'
import type { Metadata } from '../../../lib/metadata.js'
import { Fleet } from '../../../lib/placement/fleet.js'
import { Keeping } from '../../../lib/placement/keeping.js'
import { Reports } from '../../../lib/placement/reports.js'
import { Settings } from '../../../lib/settings.js'
import { ELSEWHERE, type ChunkTable } from '../../../lib/store/chunks.js'
import { FactorTable } from '../../../lib/store/factor-table.js'
import { Lacking } from '../../../lib/store/lacking.js'
import { ReportTable } from '../../../lib/store/report-table.js'
import type { SwarmHost } from '../../../lib/swarm/host.js'
import { TreeFactors } from '../../../lib/tree/factors.js'
import type { SimDatabase, SimStore } from './disk.js'
import type { SimDevice } from './device.js'

interface Parts { device: SimDevice; db: SimDatabase; timers: Timers; chunks: ChunkTable; store: SimStore; metadata: Metadata }

const TICK_MS = 2000
/** Chunks that are let go of at a time. */
const BATCH = 16

/** What devices say, and know of each other. */
export interface Placed {
  readonly settings: Settings
  readonly keeping: Keeping
  readonly fleet: Fleet
  readonly reports: Reports
  readonly factors: FactorTable
  readonly cache: NonNullable<SwarmHost['cache']>
}

export class SimPlacing {
  readonly settings: Settings
  readonly keeping: Keeping
  readonly fleet: Fleet
  readonly reports: Reports
  readonly factors: FactorTable
  readonly dirs: TreeFactors
  readonly cache: { readonly keepsEverything: boolean; isFull: boolean; holders: Holders | null }
  readonly #p: Parts
  #sinceMs = 0
  #isWorking = false

  constructor(p: Parts) {
    this.#p = p
    const { device, db, timers, chunks, metadata } = p
    const { tree, engine, journal, members, log } = metadata
    const touched = () => journal.touched('derived')
    const keeping = this.keeping = new Keeping({ lacking: new Lacking(db), chunks, timers, touched })
    this.settings = new Settings({ tree, clock: device.clock, timers, submit: (op) => engine.submit(op) })
    this.factors = new FactorTable(db)
    this.factors.onChange = (id) => keeping.refactored(id)
    this.dirs = new TreeFactors({
      db, tree, chunks, table: this.factors, timers, name: Settings.REPLICATION, heads: () => log.headsById(), touched, isStopped: () => device.live?.metadata !== metadata,
      wantedBy: (ino) => {
        const inode = tree.get(ino)
        return inode && this.settings.replicationBelow(inode)
      },
    })
    this.fleet = new Fleet({
      settings: this.settings, members, keeping, factors: this.factors, others: () => this.dirs.factors, self: device.publicKey, nowMs: () => device.clock.nowMs(),
      canSpeak: () => device.keys.canWrite && device.live?.metadata === metadata && !metadata.own.isHeld && !metadata.isEnded && metadata.mustBeginAnew === undefined,
      diskBytes: () => device.diskBytes, heardMs: (key) => metadata.silence.heardMs(key), isSure: (upMs) => metadata.silence.isSure(upMs),
      onPlan: (isOther) => { if (isOther) this.#sinceMs = timers.nowMs() },
      onNotice: (text) => {
        device.world.count(text.includes('lost') ? 'called lost' : text.includes('back') ? 'called back' : 'doubted')
        if (text.includes('does not have')) device.world.broken(device, new Error(text))
      },
    })
    this.reports = new Reports({
      table: new ReportTable(db), driveId: device.keys.driveId, device: device.device, clock: device.clock, timers, keeping, isMember: (key) => members.get(key) !== undefined,
      logs: () => this.dirs.heads ?? log.headsById(),
      chunks, keepsEverything: () => true, isFull: () => false, usedBytes: () => 0, settle: () => journal.settle(), touched,
    })
    keeping.copiesElsewhere = (group) => this.reports.copiesElsewhere(group, keeping.plan!)
    this.cache = { get keepsEverything() { return keeping.plan === null }, isFull: false, holders: null }
  }

  /** When the metadata is there. */
  start(): void {
    const { timers, metadata } = this.#p
    // As a device that was off cannot tell for how long.
    this.#sinceMs = timers.nowMs()
    const replan = () => this.fleet.replan()
    this.settings.onChange = this.dirs.onChange = replan
    const { onNew } = metadata.members
    metadata.members.onNew = (certificate) => {
      onNew(certificate)
      replan()
    }
    replan()
    timers.every(TICK_MS, () => {
      this.fleet.tick()
      if (this.#isWorking) return
      this.#isWorking = true
      this.#work().catch((e: Error) => this.#p.device.world.broken(this.#p.device, e)).finally(() => { this.#isWorking = false })
    })
  }

  async #work(): Promise<void> {
    const { timers, chunks, metadata, store, device, db } = this.#p
    const { journal, tree } = metadata
    tree.rows.flush()
    const gone: { seg: number; off: number }[] = []
    const place = (num: number) => {
      const row = chunks.get(num)
      if (row && row.seg > 0) gone.push({ seg: row.seg, off: row.off })
    }
    for (const num of db.sql.prepare('SELECT num FROM chunk WHERE refs = 0').pluck().all() as number[]) {
      place(num)
      chunks.remove(num)
      journal.touched()
      device.world.count('chunk dropped')
    }
    const { plan } = this.keeping
    if (plan && this.keeping.isLaid && this.cache.holders && timers.nowMs() - this.#sinceMs > GRACE_MS) {
      const surplus = (db.sql.prepare(`SELECT num, id FROM chunk WHERE seg <> ${ELSEWHERE} AND refs > 0`).all() as { num: number; id: Buffer }[]).filter((c) => !plan.isMine(c.id)).slice(0, BATCH)
      const watch = chunks.watch()
      const confirmed = await this.cache.holders.confirm(surplus, EVICT_COPIES).finally(() => watch.stop())
      if (device.live?.metadata !== metadata || this.keeping.plan !== plan) return
      surplus.forEach((c, i) => {
        // What is dead meanwhile others have dropped.
        if (!confirmed[i] || watch.named.has(c.num) || (chunks.get(c.num)?.seg ?? ELSEWHERE) === ELSEWHERE || chunks.identity(c.num)!.refs === 0) return
        place(c.num)
        chunks.move(c.num, ELSEWHERE, 0)
        journal.touched()
        device.world.count('chunk let go')
        device.world.letGo(device, c.id, Math.min(plan.copiesOf(c.id), plan.placement.devices.filter((d) => !d.isDrained && d.capacityBytes > 0).length))
      })
    }
    if (gone.length === 0) return
    await journal.durable()
    if (device.live?.metadata !== metadata) return
    const named = new Set((db.sql.prepare('SELECT seg, off FROM chunk WHERE seg > 0').all() as { seg: number; off: number }[]).map((r) => `${r.seg}:${r.off}`))
    for (const { seg, off } of gone) if (!named.has(`${seg}:${off}`)) store.drop(seg, off)
  }
}
