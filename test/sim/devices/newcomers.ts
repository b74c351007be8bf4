/**
 * Newcomers: devices that join from a storage-only device while those that write
 * cannot be reached, and write at once. The others go on meanwhile, and call
 * final what they have; or they are gone for ever, and the newcomers are all there is.
 */
import { SimKeeper } from './keeper.js'
import { Programs } from './programs.js'
import { settle, type Options, type Result } from './scenario.js'
import { World } from './world.js'

const NAMES = ['ada', 'bob', 'cyd']
const NEW = ['fay', 'gus', 'hal']

export async function runNewcomers(seed: number, options: Options = {}): Promise<Result> {
  const world = new World(seed)
  world.isVerbose = options.isVerbose ?? false
  world.onBoot = options.sabotage ?? (() => {})
  try {
    return await newcomers(world)
  } finally {
    world.close()
  }
}

async function newcomers(world: World): Promise<Result> {
  const programs = new Programs(world)
  const count = 1 + world.below(3)
  for (let i = 0; i < count; i++) {
    const d = world.add(NAMES[i]!)
    if (i === 0) d.create()
    else d.boot()
  }
  const keeper = new SimKeeper(world, 'sue')
  keeper.boot()
  world.keepers.push(keeper)
  let isHealing = false
  /** While time goes by. */
  let isSlow = false
  const reconnect = world.net.every(700, () => world.net.connectAll())
  const act = () => {
    if (isHealing) return
    world.net.after(isSlow ? world.between(1_000, 8_000) : world.between(1, 400), act)
    const d = world.pick(world.devices)
    if (!d.live) return
    for (let n = world.chance(0.1) ? world.below(10) : 1; n > 0; n--) programs.step(d)
    if (world.chance(0.3)) world.fsync(d)
  }
  await world.run(20_000, () => world.devices.every((d) => d.live))
  act()
  const isKept = () => keeper.live!.sealed.head !== undefined
  if (!await world.run(world.net.nowMs + 60_000, isKept)) world.violated(`${keeper.name} has no snapshot`)
  await world.run(world.net.nowMs + world.between(1_000, 20_000))

  // --- apart: those who write on one side, the keeper on the other
  const old = world.devices.map((d) => d.name)
  const fresh: string[] = []
  const areGone = world.chance(0.25)
  const part = () => world.net.partition([[keeper.name, ...fresh], old])
  part()
  if (areGone) {
    for (const d of world.devices) {
      d.crash(1)
      world.gone.add(d)
    }
  }
  const waits = async () => {
    isSlow = world.chance(0.5)
    await world.run(world.net.nowMs + (isSlow ? world.between(100_000, 150_000) : world.between(100, 10_000)))
    isSlow = false
  }
  for (let n = 1 + world.below(3); n > 0; n--) {
    await waits()
    // The keeper hears of what was written meanwhile, or the newcomers are cut off from it, too.
    if (!areGone && world.chance(0.3)) {
      world.net.heal()
      await world.run(world.net.nowMs + world.between(500, 3_000))
      part()
    }
    const name = NEW[fresh.length]!
    if (fresh.length > 0 && world.chance(0.4)) world.net.partition([[keeper.name, name], fresh, old])
    else part()
    fresh.push(name)
    const d = world.add(name)
    d.boot()
    if (!await world.run(world.net.nowMs + 60_000, () => d.live !== undefined)) world.violated(`${name} has not joined`)
    for (let m = world.below(6); m > 0; m--) programs.step(d)
    if (world.chance(0.5)) world.fsync(d)
    if (world.chance(0.2)) {
      d.crash(world.random())
      d.boot()
    }
  }
  await waits()
  // Some meet before others do.
  if (world.chance(0.5)) {
    const left = [...old, ...fresh, keeper.name].filter(() => world.chance(0.5))
    world.net.partition([left, [...old, ...fresh, keeper.name].filter((n) => !left.includes(n))])
    await waits()
  }
  world.net.heal()
  await world.run(world.net.nowMs + world.between(500, 10_000))
  isHealing = true
  for (const d of world.devices) if (!d.isOn && !world.gone.has(d)) d.boot()
  await settle(world, areGone)
  reconnect()
  return { seed: world.seed, digest: world.digest(), events: world.events, counts: world.counts, simulatedMs: world.net.nowMs, synced: world.syncedWrites }
}
