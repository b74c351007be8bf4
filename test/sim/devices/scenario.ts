/**
 * One run: devices that write, lose each other, lose power, come and go, and
 * perhaps one that lies; then everything heals, and what must be true is looked at.
 */
import { dump, findings } from './dump.js'
import type { SimDevice } from './device.js'
import { keptFindings } from './kept.js'
import { SimKeeper } from './keeper.js'
import { Liar } from './liar.js'
import { Programs } from './programs.js'
import { seeded } from '../network.js'
import { World } from './world.js'

export interface Options {
  isVerbose?: boolean
  isCrowded?: boolean
  /** What was is kept for so long. */
  retentionMs?: number
  /** Breaks a device once it is up: to see that it is noticed. */
  sabotage?: (d: SimDevice) => void
  /** The same of a storage-only device. */
  sabotageKeeper?: (k: SimKeeper) => void
}
export interface Result { seed: number; digest: string; events: number; counts: Record<string, number>; simulatedMs: number; synced: number }

/** Healed, the devices have so long to become equal. */
const HEAL_MS = 400_000
/** Entries of others are stated after a minute; it is looked every five seconds what is final. */
const STATE_MS = 95_000

export async function run(seed: number, options: Options = {}): Promise<Result> {
  const world = new World(seed)
  world.isVerbose = options.isVerbose ?? false
  world.isCrowded = options.isCrowded ?? false
  world.retentionMs = options.retentionMs ?? 0
  world.onBoot = options.sabotage ?? (() => {})
  world.onKeeperBoot = options.sabotageKeeper ?? (() => {})
  try {
    return await runIn(world)
  } finally {
    world.close()
  }
}

/**
 * Months: some devices are away, off or on their own, while the others write, set them aside and go on; some of them on both
 * sides. Then they come back with what they have written, or never.
 */
export async function runAway(seed: number, options: Options = {}): Promise<Result> {
  const world = new World(seed)
  world.isVerbose = options.isVerbose ?? false
  world.retentionMs = options.retentionMs ?? 0
  world.onBoot = options.sabotage ?? (() => {})
  try {
    return await away(world)
  } finally {
    world.close()
  }
}

async function away(world: World): Promise<Result> {
  const programs = new Programs(world)
  const count = 2 + world.below(3)
  for (let i = 0; i < count; i++) {
    // Or one that only reads.
    const d = world.add(NAMES[i]!, i > 0 && i === count - 1 && world.chance(0.25) ? world.readKeys : world.keys)
    if (i === 0) d.create()
    else d.boot()
  }
  const crashes = world.chance(0.6) ? world.between(30, 300) : Infinity
  let isHealing = false
  const reconnect = world.net.every(700, () => world.net.connectAll())
  const off = new Set<SimDevice>()
  const act = () => {
    if (isHealing) return
    world.net.after(world.between(1, 400), act)
    const d = world.pick(world.devices)
    if (off.has(d)) return
    if (!d.isOn) return world.chance(0.5) ? d.boot() : undefined
    if (d.isMember && world.below(crashes) === 0) return d.crash(world.random())
    if (!d.live || !d.keys.canWrite) return
    for (let n = world.chance(0.1) ? world.below(10) : 1; n > 0; n--) programs.step(d)
    if (world.chance(0.3)) world.fsync(d)
  }
  await world.run(20_000, () => world.devices.every((d) => d.live))
  act()
  await world.run(world.net.nowMs + world.between(2_000, 10_000))

  // --- some go: each for itself, or together
  const leaving = world.devices.filter(() => world.chance(0.5))
  if (leaving.length === 0 || leaving.length === count) leaving.splice(0, leaving.length, world.pick(world.devices))
  const stay = world.devices.filter((d) => !leaving.includes(d)).map((d) => d.name)
  const part = world.chance(0.5) ? [stay, leaving.map((d) => d.name)] : [stay, ...leaving.map((d) => [d.name])]
  world.net.partition(part)
  world.trace(`apart: ${part.map((names) => names.join(' ')).join(', ')}`)
  await world.run(world.net.nowMs + world.between(500, 5_000))
  // One that is off does not see the months, nor sets anybody aside.
  for (const d of leaving) {
    if (world.chance(0.4)) continue
    off.add(d)
    if (d.isOn) d.crash(world.random())
  }
  const months = world.chance(0.9)
  world.warp(months ? world.between(61, 400) : 30)
  await world.run(world.net.nowMs + world.between(40_000, 60_000))
  if (world.chance(0.3)) world.warp(90)
  // Entries of others are stated after a minute.
  await world.run(world.net.nowMs + (world.chance(0.8) ? world.between(100_000, 130_000) : 5_000))

  // --- and come back
  if (months && world.chance(0.25) && world.devices.some((d) => d.keys.canWrite && !off.has(d))) for (const d of off) world.gone.add(d)
  for (const d of off) if (!world.gone.has(d) && !d.isOn && world.chance(0.5)) {
    // It writes before it meets anybody.
    d.boot()
    for (let n = world.below(12); n > 0 && d.keys.canWrite; n--) programs.step(d)
    world.fsync(d)
  }
  await world.run(world.net.nowMs + 1_000)
  for (const d of off) if (!world.gone.has(d)) off.delete(d)
  world.net.heal()
  await world.run(world.net.nowMs + world.between(500, 30_000))
  isHealing = true
  for (const d of world.devices) if (!d.isOn && !off.has(d)) d.boot()
  if (world.gone.size > 0) {
    // Nobody waits for them, once that was found out.
    world.warp(61)
    // A clock is believed a day an entry, and not every step comes to one.
    const isAwaited = (d: SimDevice, gone: SimDevice) => d.live !== undefined && d.s.metadata.members.get(gone.publicKey)?.role === 'full' && !d.s.metadata.asides.isAway(gone.publicKey)
    const isHeldUp = () => [...world.gone].some((gone) => world.honest.some((d) => isAwaited(d, gone)))
    for (let day = 0; day < 70 || (day < 200 && isHeldUp()); day++) {
      programs.step(world.pick(world.honest.filter((d) => d.keys.canWrite)))
      await world.run(world.net.nowMs + 300)
    }
    await world.run(world.net.nowMs + 100_000)
  }
  await settle(world)
  reconnect()
  return { seed: world.seed, digest: world.digest(), events: world.events, counts: world.counts, simulatedMs: world.net.nowMs, synced: world.syncedWrites }
}

const NAMES = ['ada', 'bob', 'cyd', 'dan', 'eve']

async function runIn(world: World): Promise<Result> {
  const programs = new Programs(world)
  const count = 2 + world.below(3)
  const hasLiar = count > 2 && world.chance(0.35)
  world.add(NAMES[0]!).create()
  const reconnect = world.net.every(700, () => { if (world.chance(0.8)) world.net.connectAll() })

  // --- faults and programs
  const phaseMs = world.between(5_000, 40_000)
  const crashes = world.chance(0.6) ? world.between(20, 200) : Infinity
  const cuts = world.chance(0.7) ? world.between(10, 100) : Infinity
  const takesBackups = world.chance(0.4)
  const backups = new Map<SimDevice, ReturnType<SimDevice['disk']['copy']>>()
  let isHealing = false
  const join = (i: number) => {
    const d = world.add(NAMES[i]!)
    if (hasLiar && i === count - 1) world.liars.set(d, new Liar(world, d))
    d.boot()
  }
  const act = () => {
    if (isHealing) return
    world.net.after(world.between(1, 300), act)
    const d = world.pick(world.devices)
    if (!d.isOn) {
      const backup = backups.get(d)
      if (backup && world.chance(0.6)) {
        backups.delete(d)
        d.restore(backup)
        // Before it writes anything it meets the others: who does not has two histories.
        world.net.heal()
        d.boot()
        world.net.connectAll()
        const met = d.s
        world.net.after(15_000, () => { if (d.live === met) d.isRestored = false })
        return
      }
      if (world.chance(0.3)) d.boot()
      return
    }
    if (world.devices.length < count && world.chance(0.1)) {
      join(world.devices.length)
      return
    }
    if (!world.devices.some((o) => o.isRestored)) {
      if (world.below(crashes) === 0) return d.crash(world.random())
      if (world.below(cuts) === 0) return cut(world)
    }
    if (!d.live || d.isRestored) return
    if (takesBackups && !world.liars.has(d) && world.chance(0.02)) backups.set(d, d.disk.copy())
    if (world.chance(0.01)) d.skewMs = jump(world)
    for (let n = world.chance(0.1) ? world.below(20) : 1; n > 0; n--) programs.step(d)
    if (world.chance(0.2)) world.fsync(d)
  }
  act()
  // Of a chance of its own: runs without it are what they were.
  const hasKeeper = world.seed % 3 === 0
  if (hasKeeper) keep(world, phaseMs, () => isHealing)
  await world.run(phaseMs)

  // --- healing
  isHealing = true
  if (hasKeeper && world.seed % 2 === 0) await disaster(world)
  while (world.devices.length < count) join(world.devices.length)
  world.net.heal()
  for (const d of world.devices) if (!d.isOn) d.boot()
  for (const k of world.keepers) if (!k.live) k.boot()
  await settle(world)
  for (const k of world.keepers) await restore(world, k)
  reconnect()
  return { seed: world.seed, digest: world.digest(), events: world.events, counts: world.counts, simulatedMs: world.net.nowMs, synced: world.syncedWrites }
}

/** Healed, they become equal; and what must be true is. `isOpen`: somebody is missing, so that nothing becomes final. */
export async function settle(world: World, isOpen = false): Promise<void> {
  let nextLookMs = 0
  const isEqual = () => {
    if (world.net.nowMs < nextLookMs) return false
    nextLookMs = world.net.nowMs + 500
    return world.honest.every((d) => d.live) && hasSettled(world)
  }
  if (!await world.run(world.net.nowMs + HEAL_MS, isEqual)) world.violated(`${HEAL_MS / 1000} s after everything was healed: ${unsettled(world)}`)
  await world.run(world.net.nowMs + STATE_MS)
  if (!await world.run(world.net.nowMs + HEAL_MS, isEqual)) world.violated(`after the statements: ${unsettled(world)}`)
  check(world, isOpen)
}

/** Some devices can not reach some others, or a link drops. */
function cut(world: World): void {
  const names = [...world.devices, ...world.keepers].map((d) => d.name)
  if (world.chance(0.4)) return world.net.heal()
  if (world.chance(0.3) && names.length > 1) return world.net.disconnect(world.pick(names), world.pick(names))
  const left = names.filter(() => world.chance(0.5))
  world.net.partition([left, names.filter((n) => !left.includes(n))])
  world.trace(`cut: ${left.join(' ') || 'nobody'} from the others`)
}

/** A clock that is set: a little off, hours, or to 2099. */
function jump(world: World): number {
  const [small, hours, years] = [world.between(-5000, 5000), world.between(-72, 72) * 3_600_000, 75 * 365 * 86_400_000]
  return world.pick([0, small, small, hours, years])
}

/** `but`: logs that were ended, of which one that cannot read may have more. */
export function heads(d: SimDevice | SimKeeper, but: readonly string[] = []): string {
  const { log } = d instanceof SimKeeper ? d.live!.sealed : d.s.metadata
  return [...log.heads()].filter(([inc]) => !but.includes(log.incarnationId(inc).toString('hex'))).map(([inc, seq]) => `${log.incarnationId(inc).toString('hex').slice(0, 8)}:${seq}`).filter((h) => !h.endsWith(':0')).sort().join(' ')
}

function endedOn(d: SimDevice): string[] {
  const { asides, log } = d.s.metadata
  return [...asides.ended()].map((inc) => log.incarnationId(inc).toString('hex'))
}

/** Chunks that it should have and has not. */
function missing(d: SimDevice): number {
  const plan = d.s.placing?.keeping.plan
  const rows = d.s.db.sql.prepare('SELECT id, h FROM chunk WHERE seg < 0 AND refs > 0').all() as { id: Buffer; h: Buffer }[]
  return rows.filter((r) => (!plan || plan.isMine(r.id)) && !d.world.isExcused(r.h.toString('hex'))).length
}

/** Everybody has every entry and every chunk. */
function hasSettled(world: World): boolean {
  const [first, ...others] = world.honest
  const all = heads(first!)
  return others.every((d) => heads(d) === all) && world.honest.every((d) => missing(d) === 0)
    && world.keepers.every((k) => heads(k, endedOn(first!)) === heads(first!, endedOn(first!)) && unkept(k, first!) === 0)
}

function unsettled(world: World): string {
  return world.honest.map((d) => (d.live ? `${d.name} has ${heads(d)} and lacks ${missing(d)} chunks` : `${d.name} is ${d.state.is}`)).join('; ')
    + world.keepers.map((k) => (k.live ? `; ${k.name} has ${heads(k)} and lacks ${unkept(k, world.honest[0]!)} chunks` : `; ${k.name} is off`)).join('')
}

// --- a storage-only device ---

/** It comes at some time, and is cut off from power and put back to backups like others. */
function keep(world: World, phaseMs: number, isOver: () => boolean): void {
  const random = seeded(world.seed ^ 0x5709)
  const below = (n: number) => Math.floor(random() * n)
  const keeper = new SimKeeper(world, 'sue')
  let backup: ReturnType<SimKeeper['disk']['copy']> | undefined
  const act = () => {
    if (isOver()) return
    world.net.after(200 + below(2000), act)
    if (!keeper.live) {
      if (backup && below(3) === 0) keeper.restore(backup)
      keeper.boot()
    } else if (below(10) === 0) keeper.crash(random())
    else if (below(5) === 0) backup = keeper.disk.copy()
  }
  world.net.after(below(phaseMs), () => {
    if (isOver()) return
    world.keepers.push(keeper)
    act()
  })
}

/** Chunks that a device's tree has, and the keeper has not. */
function unkept(k: SimKeeper, d: SimDevice): number {
  const { sql } = d.s.db
  const here = new Set((k.live!.db.sql.prepare('SELECT hex(id) AS id FROM chunk WHERE seg >= 0').all() as { id: string }[]).map((c) => c.id))
  const live = sql.prepare('SELECT DISTINCT hex(c.id) AS id, c.h FROM chunk c JOIN extent e ON e.chunk = c.num WHERE e.ino NOT IN (SELECT ino FROM orphan WHERE op = 0)').all() as { id: string; h: Buffer }[]
  return live.filter((c) => !here.has(c.id) && !d.world.isExcused(c.h.toString('hex'))).length
}

/** A new device that reaches the storage peer and nobody else. */
async function joinAlone(world: World, k: SimKeeper, name: string): Promise<SimDevice> {
  world.net.heal()
  world.net.partition([[k.name, name], [...world.devices, ...world.keepers.filter((o) => o !== k)].map((d) => d.name)])
  const { log } = k.live!.sealed
  const had = [...log.heads()].map(([inc, seq]) => ({ id: log.incarnationId(inc), seq }))
  const d = world.add(name)
  d.boot()
  const hasAll = () => {
    if (!d.live) return false
    const { log: has } = d.live.metadata
    return had.every(({ id, seq }) => endedOn(d).includes(id.toString('hex')) || (has.find(id) >= 0 && has.head(has.find(id)).seq >= seq))
  }
  if (!await world.run(world.net.nowMs + 120_000, hasAll)) world.violated(`${d.name}, which joined from ${k.name} alone, ${d.live ? `has ${heads(d)}` : `is ${d.state.is}`}, of ${heads(k)}`)
  return d
}

/** All others are out of reach for ever, as far as one can tell: what it has acknowledged is there, and can be applied. */
async function disaster(world: World): Promise<void> {
  const [keeper] = world.keepers
  if (!keeper?.live?.sealed.head) return
  world.count('disaster')
  // What the others go on to drop meanwhile it may lack.
  ;(await joinAlone(world, keeper, 'fay')).wasRestored = true
}

/** With what the storage peer has, a new device is like the others, and a member like them. */
async function restore(world: World, keeper: SimKeeper): Promise<void> {
  if (!keeper.live!.sealed.head) world.violated(`${keeper.name} has no snapshot`)
  const [first] = world.honest as [SimDevice]
  const d = await joinAlone(world, keeper, 'gus')
  world.count('restored from a keeper')
  if (d.s.metadata.mustBeginAnew !== undefined) {
    // The storage peer has more of a log than was left of it when it was ended: only a device that writes can put that right.
    world.count('restored, and began anew')
    world.net.heal()
    return settle(world)
  }
  if (!await world.run(world.net.nowMs + 120_000, () => missing(d) === 0)) world.violated(`${d.name} lacks ${missing(d)} chunks`)
  compare(world, first, d)
  const found = findings(d)
  if (found.length > 0) world.violated(`the tree of ${d.name} is not sound: ${found.slice(0, 3).join('; ')}`)
  if (!await world.run(world.net.nowMs + 60_000, () => heads(keeper, endedOn(d)) === heads(d, endedOn(d)))) world.violated(`${keeper.name} has not taken what ${d.name} wrote: ${heads(keeper)}, ${heads(d)}`)
}

export function compare(world: World, a: SimDevice, b: SimDevice): void {
  const [one, two] = [dump(a), dump(b)]
  const [here, there] = [one.filter((l) => !two.includes(l)), two.filter((l) => !one.includes(l))]
  if (here.length + there.length > 0) world.violated(`${a.name} and ${b.name} have different trees\n  ${a.name}: ${here.slice(0, 4).join('\n        ')}\n  ${b.name}: ${there.slice(0, 4).join('\n        ')}`)
}

function check(world: World, isOpen: boolean): void {
  const [first, ...others] = world.honest as [SimDevice, ...SimDevice[]]
  for (const d of others) compare(world, first, d)
  for (const d of world.honest) {
    const found = findings(d)
    if (found.length > 0) world.violated(`the tree of ${d.name} is not sound: ${found.slice(0, 3).join('; ')}`)
  }
  if (world.retentionMs > 0) {
    for (const d of world.honest) {
      const wrong = keptFindings(d, [0.1, 0.3, 0.6, 0.9, 1].map((share) => world.wallMs - Math.floor((1 - share) * world.net.nowMs)))
      if (wrong.length > 0) world.violated(`what ${d.name} keeps is not sound: ${wrong.slice(0, 3).join('; ')}`)
      world.counts['kept'] = (world.counts['kept'] ?? 0) + (d.s.db.sql.prepare('SELECT count(*) AS n FROM history').get() as { n: number }).n
    }
  }
  world.checkSynced()
  const provable = [...world.liars.values()].reduce((n, l) => n + l.provable, 0)
  if (provable > 5 && !world.counts['liar caught']) world.violated(`a device lied ${provable} times and was not caught`)
  // A liar need not say what it has.
  if (world.liars.size > 0 || isOpen) return
  for (const d of world.honest) {
    const { tail } = d.s.metadata.engine.timeline
    if (tail.length > world.devices.length * 3) world.violated(`${d.name} keeps ${tail.length} entries that are not final`)
  }
}
