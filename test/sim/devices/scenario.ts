/**
 * One run: devices that write, lose each other, lose power, come and go, and
 * perhaps one that lies; then everything heals, and what must be true is looked at.
 */
import { dump, findings } from './dump.js'
import type { SimDevice } from './device.js'
import { Liar } from './liar.js'
import { Programs } from './programs.js'
import { World } from './world.js'

export interface Options {
  isVerbose?: boolean
  isCrowded?: boolean
  /** Breaks a device once it is up: to see that it is noticed. */
  sabotage?: (d: SimDevice) => void
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
  world.onBoot = options.sabotage ?? (() => {})
  try {
    return await runIn(world)
  } finally {
    world.close()
  }
}

async function runIn(world: World): Promise<Result> {
  const programs = new Programs(world)
  const names = ['ada', 'bob', 'cyd', 'dan', 'eve']
  const count = 2 + world.below(3)
  const hasLiar = count > 2 && world.chance(0.35)
  world.add(names[0]!).create()
  const reconnect = world.net.every(700, () => { if (world.chance(0.8)) world.net.connectAll() })

  // --- faults and programs
  const phaseMs = world.between(5_000, 40_000)
  const crashes = world.chance(0.6) ? world.between(20, 200) : Infinity
  const cuts = world.chance(0.7) ? world.between(10, 100) : Infinity
  const takesBackups = world.chance(0.4)
  const backups = new Map<SimDevice, ReturnType<SimDevice['disk']['copy']>>()
  let isHealing = false
  const join = (i: number) => {
    const d = world.add(names[i]!)
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
  await world.run(phaseMs)

  // --- healing
  isHealing = true
  while (world.devices.length < count) join(world.devices.length)
  world.net.heal()
  for (const d of world.devices) if (!d.isOn) d.boot()
  let nextLookMs = 0
  const isEqual = () => {
    if (world.net.nowMs < nextLookMs) return false
    nextLookMs = world.net.nowMs + 500
    return world.honest.every((d) => d.live) && hasSettled(world)
  }
  if (!await world.run(world.net.nowMs + HEAL_MS, isEqual)) world.violated(`${HEAL_MS / 1000} s after everything was healed: ${unsettled(world)}`)
  await world.run(world.net.nowMs + STATE_MS)
  if (!await world.run(world.net.nowMs + HEAL_MS, isEqual)) world.violated(`after the statements: ${unsettled(world)}`)
  check(world)
  reconnect()
  return { seed: world.seed, digest: world.digest(), events: world.events, counts: world.counts, simulatedMs: world.net.nowMs, synced: world.syncedWrites }
}

/** Some devices can not reach some others, or a link drops. */
function cut(world: World): void {
  const names = world.devices.map((d) => d.name)
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

function heads(d: SimDevice): string {
  const { log } = d.s.metadata
  return [...log.heads()].map(([inc, seq]) => `${log.incarnationId(inc).toString('hex').slice(0, 8)}:${seq}`).filter((h) => !h.endsWith(':0')).sort().join(' ')
}

/** Chunks that it should have and has not. */
function missing(d: SimDevice): number {
  const rows = d.s.db.sql.prepare('SELECT h FROM chunk WHERE seg < 0 AND refs > 0').all() as { h: Buffer }[]
  return rows.filter((r) => !d.world.isExcused(r.h.toString('hex'))).length
}

/** Everybody has every entry and every chunk. */
function hasSettled(world: World): boolean {
  const [first, ...others] = world.honest
  const all = heads(first!)
  return others.every((d) => heads(d) === all) && world.honest.every((d) => missing(d) === 0)
}

function unsettled(world: World): string {
  return world.honest.map((d) => (d.live ? `${d.name} has ${heads(d)} and lacks ${missing(d)} chunks` : `${d.name} is ${d.state.is}`)).join('; ')
}

function check(world: World): void {
  const [first, ...others] = world.honest as [SimDevice, ...SimDevice[]]
  const one = dump(first)
  for (const d of others) {
    const two = dump(d)
    const [a, b] = [one.filter((l) => !two.includes(l)), two.filter((l) => !one.includes(l))]
    if (a.length + b.length > 0) world.violated(`${first.name} and ${d.name} have different trees\n  ${first.name}: ${a.slice(0, 4).join('\n        ')}\n  ${d.name}: ${b.slice(0, 4).join('\n        ')}`)
  }
  for (const d of world.honest) {
    const found = findings(d)
    if (found.length > 0) world.violated(`the tree of ${d.name} is not sound: ${found.slice(0, 3).join('; ')}`)
  }
  world.checkSynced()
  const provable = [...world.liars.values()].reduce((n, l) => n + l.provable, 0)
  if (provable > 5 && !world.counts['liar caught']) world.violated(`a device lied ${provable} times and was not caught`)
  // A liar need not say what it has.
  if (world.liars.size > 0) return
  for (const d of world.honest) {
    const { tail } = d.s.metadata.engine.timeline
    if (tail.length > world.devices.length * 3) world.violated(`${d.name} keeps ${tail.length} entries that are not final`)
  }
}
