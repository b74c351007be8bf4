/**
 * Chunks on some devices: they write, copy and remove equal content, lose power
 * and each other, while somebody changes how many copies there are to be, and who
 * is to hold how much; dead chunks are dropped, and those that are not to be here
 * let go of. Then a device is gone for good. Nothing that is in the tree may be
 * lost, and no copy may go before there are as many others as wanted.
 */
import type { SimDevice } from './device.js'
import { Programs } from './programs.js'
import { settle, type Options, type Result } from './scenario.js'
import { World } from './world.js'

const NAMES = ['ada', 'bob', 'cyd', 'dan', 'eve']
/** A device is lost after so long. */
const LOST_AFTER = '60s'
/** For plans to be known everywhere, what is lacked to come, and the rest to be let go of. */
const PLACED_MS = 900_000

export async function runPlaced(seed: number, options: Options = {}): Promise<Result> {
  const world = new World(seed)
  world.isVerbose = options.isVerbose ?? false
  world.isPlaced = true
  world.onBoot = options.sabotage ?? (() => {})
  try {
    return await placed(world)
  } finally {
    world.close()
  }
}

async function placed(world: World): Promise<Result> {
  const programs = new Programs(world)
  const count = 3 + world.below(3)
  const crashes = world.chance(0.7) ? world.between(40, 400) : Infinity
  const cuts = world.chance(0.5) ? world.between(100, 500) : Infinity
  for (let i = 0; i < count; i++) {
    const d = world.add(NAMES[i]!, world.keys)
    d.diskBytes = world.between(1, 9) * 1e11
    if (i === 0) d.create()
    else d.boot()
  }
  const settings = (d: SimDevice) => d.s.placing!.settings
  const reconnect = world.net.every(700, () => world.net.connectAll())
  settings(world.devices[0]!).set('replication', String(world.between(1, 3)))
  settings(world.devices[0]!).set('lost-after', LOST_AFTER)
  await world.run(30_000, () => world.devices.every((d) => d.live))

  let isHealing = false
  const act = () => {
    if (isHealing) return
    world.net.after(world.between(1, 2500), act)
    const d = world.pick(world.devices)
    if (!d.isOn) return world.chance(0.3) ? d.boot() : undefined
    if (world.below(crashes) === 0) return d.crash(world.random())
    if (world.below(cuts) === 0) return world.chance(0.5) ? world.net.heal() : world.net.partition([[d.name], world.devices.filter((o) => o !== d).map((o) => o.name)])
    if (!d.live) return
    if (world.chance(0.02)) change(world, d)
    for (let n = world.chance(0.1) ? world.below(10) : 1; n > 0; n--) {
      programs.step(d)
      // Content that others have, or had, too.
      if (world.chance(0.3)) again(world, programs, d)
    }
    if (world.chance(0.2)) world.fsync(d)
  }
  act()
  await world.run(world.net.nowMs + world.between(60_000, 400_000))

  isHealing = true
  world.net.heal()
  for (const d of world.devices) if (!d.isOn) d.boot()
  await settle(world)
  const isMet = () => unmet(world) === ''
  if (!await world.run(world.net.nowMs + PLACED_MS, isMet)) world.violated(`${PLACED_MS / 1000} s after everything was healed: ${unmet(world)}`)

  // --- one is gone for good: what it held is on others
  const [first] = world.honest as [SimDevice]
  const { plan } = first.s.placing!.keeping
  if (plan && plan.placement.copies > 1 && count > 2) {
    const victim = world.pick(world.devices)
    world.count('gone for good')
    victim.crash(0)
    world.gone.add(victim)
    // One of two is never called lost.
    const survivors = world.honest.length
    const isOver = () => survivors > 1 && world.honest.every((d) => d.s.placing!.fleet.devices().some((f) => f.key.equals(victim.publicKey) && (f.isLost || f.isLeaving))) && isMet()
    if (survivors * 2 > count && !await world.run(world.net.nowMs + PLACED_MS, isOver)) world.violated(`${PLACED_MS / 1000} s after ${victim.name} was gone: ${unmet(world) || 'it is not called lost'}`)
  }
  reconnect()
  return { seed: world.seed, digest: world.digest(), events: world.events, counts: world.counts, simulatedMs: world.net.nowMs, synced: world.syncedWrites }
}

/** Somebody has another mind about who is to hold what. */
function change(world: World, d: SimDevice): void {
  const { settings } = d.s.placing!
  const of = world.pick(world.devices).publicKey
  world.count('setting')
  const kind = world.below(12)
  if (kind >= 10) return changeBelow(world, d)
  if (kind < 3) settings.set('replication', world.chance(0.2) ? 'all' : String(world.between(1, 4)))
  else if (kind < 5) settings.setOfDevice(of, 'capacity', world.chance(0.3) ? null : String(world.between(0, 9) * 1e11))
  else if (kind < 7) settings.setOfDevice(of, 'zone', world.chance(0.4) ? null : world.pick(['attic', 'cellar']))
  else settings.setOfDevice(of, 'drained', world.chance(0.4) ? 'yes' : null)
}

/** Of some directory there are to be more copies, or fewer. */
function changeBelow(world: World, d: SimDevice): void {
  const dirs = (d.s.db.sql.prepare('SELECT ino FROM inode WHERE nlink > 0 AND mode & 0xf000 = 0x4000 AND ino <> 1').pluck().all() as number[]).map((ino) => ({ ino, id: d.globalId(ino) })).sort((a, b) => (a.id < b.id ? -1 : 1))
  const dir = dirs.length > 0 ? d.s.metadata.tree.get(world.pick(dirs).ino) : undefined
  if (!dir) return
  world.count('setting of a directory')
  d.s.placing!.settings.setBelow(dir, world.chance(0.3) ? null : String(world.between(1, 5)))
}

/** Writes to some file what is written often, and removed as often. */
function again(world: World, programs: Programs, d: SimDevice): void {
  const files = d.s.db.sql.prepare('SELECT ino FROM inode WHERE nlink > 0 AND mode & 0xf000 = 0x8000').pluck().all() as number[]
  const ids = files.map((ino) => ({ ino, id: d.globalId(ino) })).sort((a, b) => (a.id < b.id ? -1 : 1))
  if (ids.length > 0) programs.write(d, world.pick(ids).ino, true)
}

/** What is not as the plan wants it; '': all is. */
function unmet(world: World): string {
  const [first, ...others] = world.honest as [SimDevice, ...SimDevice[]]
  const { plan } = first.s.placing!.keeping
  for (const d of others) {
    const theirs = d.s.placing!.keeping.plan
    if (plan ? !theirs?.digest.equals(plan.digest) : theirs) return `${d.name} has another plan than ${first.name}`
    if (d.s.placing!.factors.differing(first.s.placing!.factors.hashes()).length > 0) return `${d.name} and ${first.name} take directories to want different things`
  }
  const live = first.s.db.sql.prepare('SELECT DISTINCT c.id, hex(c.h) AS h FROM chunk c JOIN extent e ON e.chunk = c.num JOIN inode i ON i.ino = e.ino WHERE i.nlink > 0').all() as { id: Buffer; h: string }[]
  for (const { id, h } of live) {
    if (world.isExcused(h.toLowerCase())) continue
    for (const d of world.honest) {
      const isHolder = plan ? plan.holdersOf(id).includes(d.publicKey.toString('hex')) : true
      const num = d.s.chunks.findById(id)
      const isHere = num > 0 && d.s.chunks.isThere(num, d.s.store)
      if (isHolder && !isHere) return `${d.name} lacks a chunk (${h.slice(0, 8)}) that it is to hold`
      if (!isHolder && isHere && d.s.placing!.fleet.isLeaving) return `${d.name} leaves, and still has a chunk`
    }
  }
  return ''
}
