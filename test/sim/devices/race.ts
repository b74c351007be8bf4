/**
 * A race of garbage collection: devices write, copy, cut, replace and remove
 * files that hold one of a handful of contents, keep some of them open, bring
 * back what was, collect as eagerly as they can, make room in caches, let go of
 * what the plan gives to others, lose power and each other. Nothing that anybody can need may be
 * gone from everywhere at any moment (ledger.ts), and in the end everybody reads everything.
 */
import { isDfsError } from '../../../lib/errors.js'
import { certify } from '../../../lib/keys/certificate.js'
import { chunkId } from '../../../lib/seal/chunk.js'
import { ROOT_INO } from '../../../lib/tree/inode.js'
import type { SimDevice } from './device.js'
import { findings } from './dump.js'
import { SimKeeper } from './keeper.js'
import { keptFindings } from './kept.js'
import { Ledger } from './ledger.js'
import { RacePrograms } from './race-programs.js'
import { compare, heads, type Options, type Result } from './scenario.js'
import { World } from './world.js'

const NAMES = ['ada', 'bob', 'cyd', 'dan']
/** Healed, all is everywhere after so long. */
const HEAL_MS = 300_000
/** For all to be stated, and final. */
const STATE_MS = 6000

export async function runRace(seed: number, options: Options = {}): Promise<Result> {
  const world = new World(seed)
  world.isVerbose = options.isVerbose ?? false
  world.graces = { graceMs: world.between(1500, 4000), freshMs: 1000, stating: { settleMs: 500, afterMs: 2000 }, jobMs: world.pick([20, 200, 1000]) }
  try {
    return await new Race(world, options).run()
  } finally {
    world.close()
  }
}

class Race {
  readonly #world: World
  readonly #options: Options
  readonly #ledger: Ledger
  readonly #programs: RacePrograms
  #releasing: SimKeeper['live']

  constructor(world: World, options: Options) {
    this.#world = world
    this.#options = options
    this.#ledger = new Ledger(world)
    this.#programs = new RacePrograms(world, this.#ledger)
  }

  async run(): Promise<Result> {
    const world = this.#world
    const count = 2 + world.below(3)
    const isPlanned = world.chance(0.45)
    const hasKeeper = world.chance(0.35)
    // With a storage-only device nobody else need keep everything.
    const caches = isPlanned ? 0 : hasKeeper && world.chance(0.6) ? count : world.below(count)
    const slowMs = world.pick([30, 30, 300, 2000])
    world.onBoot = (d) => {
      d.disk.syncMs = () => world.between(1, world.chance(0.3) ? slowMs : 30)
      this.#ledger.watch(d)
      this.#options.sabotage?.(d)
    }
    world.onKeeperBoot = (k) => {
      this.#ledger.watch(k)
      this.#options.sabotageKeeper?.(k)
    }
    for (let i = 0; i < count; i++) {
      const d = world.add(NAMES[i]!)
      this.#ledger.add(d)
      d.diskBytes = world.between(1, 9) * 1e11
      if (i === 0) d.create()
      else d.boot()
    }
    const [first] = world.devices as [SimDevice]
    const reconnect = world.net.every(300, () => world.net.connectAll())
    const { settings } = first.s.placing!
    if (isPlanned) settings.set('replication', String(world.between(1, 2)))
    if (world.chance(0.6)) {
      this.#ledger.retentionMs = world.between(1, 15) * 1000
      settings.set('retention', `${this.#ledger.retentionMs}ms`)
    }
    world.net.connectAll()
    await world.run(20_000, () => world.devices.every((d) => d.live))
    for (const d of world.devices.slice(count - caches)) await this.#toCache(d)
    if (hasKeeper) this.#keep(first)

    const phaseMs = world.between(6_000, 20_000)
    this.#act(2 * phaseMs / world.between(40, 160))
    await world.run(world.net.nowMs + phaseMs)
    await this.#heal()
    reconnect()
    return { seed: world.seed, digest: world.digest(), events: world.events, counts: world.counts, simulatedMs: world.net.nowMs, synced: 0 }
  }

  /** It keeps some of the chunks, as many as it likes, and lets go of others when it is told to. */
  async #toCache(d: SimDevice): Promise<void> {
    let isDone = false
    d.s.drive!.cache.setLimit(64 << 20).then(() => { isDone = true }, (e: Error) => this.#world.broken(d, e))
    await this.#world.run(this.#world.net.nowMs + 5000, () => isDone)
  }

  /** A storage-only device, of which the others know. */
  #keep(first: SimDevice): void {
    const world = this.#world
    const k = new SimKeeper(world, 'sue')
    this.#ledger.add(k)
    first.s.peers.announce(certify(world.keys, { device: k.publicKey, role: 'storage', name: k.name }))
    world.keepers.push(k)
    k.boot()
  }

  // --- what happens -----------------------------------------------------------

  #act(everyMs: number): void {
    const world = this.#world
    const crashes = world.chance(0.5) ? world.between(20, 150) : Infinity
    const cuts = world.chance(0.6) ? world.between(10, 60) : Infinity
    const act = () => {
      if (this.#programs.isHealing) return
      world.net.after(world.between(1, Math.ceil(everyMs)), act)
      const d = world.pick(world.devices)
      if (!d.isOn) return world.chance(0.1) ? d.boot() : undefined
      if (world.below(crashes) === 0) return d.crash(world.random())
      if (world.below(cuts) === 0) return this.#cut(d)
      for (const k of world.keepers) this.#actKeeper(k)
      if (d.live) this.#programs.step(d)
    }
    act()
  }

  #cut(d: SimDevice): void {
    const { net, devices, keepers, chance } = this.#world
    if (chance.call(this.#world, 0.5)) return net.heal()
    net.partition([[d.name], [...devices, ...keepers].filter((o) => o !== d).map((o) => o.name)])
  }

  #actKeeper(k: SimKeeper): void {
    const world = this.#world
    if (!k.live) return world.chance(0.1) ? k.boot() : undefined
    if (world.chance(0.005)) return k.crash(world.random())
    const at = k.live
    if (this.#releasing === at || !world.chance(0.3)) return
    this.#releasing = at
    k.gc().catch((e: Error) => { if (k.live === at && !isDfsError(e, 'EBUSY')) world.broken(k, e) }).finally(() => { if (this.#releasing === at) this.#releasing = undefined })
  }

  // --- and in the end -----------------------------------------------------------

  async #heal(): Promise<void> {
    const world = this.#world
    world.net.heal()
    this.#programs.heal()
    for (const d of world.devices) if (!d.isOn) d.boot()
    for (const k of world.keepers) if (!k.live) k.boot()
    await this.#settle()
    await this.#readAll()
    await world.run(world.net.nowMs + STATE_MS)
    for (const d of world.devices) {
      const drive = d.s.drive!
      for (const h of this.#programs.open.get(drive)?.splice(0) ?? []) await this.#wait(d, 'reads what it has open', (this.#programs.lost.has(drive) ? Promise.resolve() : this.#programs.all(h)).then(() => h.close()))
      await this.#wait(d, 'collects', this.#programs.collect(drive))
      if (!drive.cache.keepsEverything) await this.#wait(d, 'makes room', drive.cache.makeRoom(1))
    }
    await this.#settle()
    await this.#readAll()
    this.#check()
  }

  async #settle(): Promise<void> {
    const world = this.#world
    let nextMs = 0
    const isEqual = () => {
      if (world.net.nowMs < nextMs) return false
      nextMs = world.net.nowMs + 200
      return this.#unsettled() === ''
    }
    if (!await world.run(world.net.nowMs + HEAL_MS, isEqual)) world.violated(`${HEAL_MS / 1000} s after everything was healed: ${this.#unsettled()}`)
  }

  #unsettled(): string {
    const { honest } = this.#world
    for (const d of honest) if (!d.live) return `${d.name} is ${d.state.is}`
    const dirty = honest.find((d) => d.s.drive!.files.dirtyBytes > 0)
    if (dirty) return `${dirty.name} has not flushed all`
    const [first, ...others] = honest as [SimDevice, ...SimDevice[]]
    const all = heads(first)
    for (const d of others) if (heads(d) !== all) return `${first.name} has ${all}, ${d.name} ${heads(d)}`
    for (const d of honest) {
      const lacking = this.#lacking(d)
      if (lacking > 0) return `${d.name} lacks ${lacking} chunks`
    }
    return ''
  }

  /** Chunks that it is to have and has not. */
  #lacking({ s: { chunks, drive } }: SimDevice): number {
    const { placing: { keeping: { plan } }, cache } = drive!
    if (!plan && !cache.keepsEverything) return 0
    return chunks.elsewhere(0, 10_000).filter((c) => c.refs > 0 && (!plan || plan.isMine(c.id))).length
  }

  /** Every file by the API; then every chunk that the device has a reference to, former versions with it. */
  async #readAll(): Promise<void> {
    for (const d of this.#world.honest) {
      const drive = d.s.drive!
      // Merging may still put a copy away.
      const isThere = (path: string) => filesBelow(d, ROOT_INO, '').includes(path)
      for (const path of filesBelow(d, ROOT_INO, '')) if (isThere(path)) await this.#wait(d, `reads ${path}`, this.#programs.read(drive, path))
      await this.#wait(d, 'reads what it keeps', this.#readChunks(d))
    }
  }

  async #readChunks(d: SimDevice): Promise<void> {
    const { chunks, store } = d.s
    for (let from = 0; ;) {
      const rows = chunks.scan(from, 1000)
      if (rows.length === 0) return
      for (const { num, id } of rows) {
        from = num
        const row = chunks.get(num)
        if (!row || (chunks.identity(num)?.refs ?? 0) === 0) continue
        if (!this.#ledger.isSomewhere(id)) {
          // What is past the retention here goes at the next sweep.
          const why = this.#ledger.needs(d, id)
          if (why) this.#world.violated(`nobody has chunk ${id.toString('hex', 0, 4)}, which ${d.name} needs: ${why}`)
          this.#world.count('refers to what is past')
          continue
        }
        const sealed = row.seg === 0 ? chunks.inlineData(num) : row.seg > 0 ? store.at(row.seg, row.off) : await this.#fetch(d, id)
        if (sealed === 'past') {
          this.#world.count('refers to what is past')
          continue
        }
        if (!sealed || !chunkId(sealed).equals(id)) this.#world.fail(`${d.name} has chunk ${id.toString('hex', 0, 4)}, and it is not what it should be`)
      }
    }
  }

  /** 'past': nobody needs it, and it has gone from everywhere while it was asked for. */
  async #fetch(d: SimDevice, id: Buffer): Promise<Buffer | 'past'> {
    const ended = new AbortController()
    let stop = () => {}
    const past = new Promise<'past'>((resolve) => {
      stop = this.#world.net.every(1000, () => { if (!this.#ledger.isSomewhere(id) && this.#ledger.needs(d, id) === '') resolve('past') })
    })
    const fetched = d.s.drive!.source.fetch(id, { urgency: 'reader', signal: ended.signal })
    fetched.catch(() => {})
    return Promise.race([fetched, past]).finally(() => {
      stop()
      ended.abort()
    })
  }

  async #wait(d: SimDevice, what: string, work: Promise<unknown>): Promise<void> {
    const world = this.#world
    let isDone = false
    work.then(() => { isDone = true }, (e: Error) => world.broken(d, new Error(`${what}: ${e.stack ?? e.message}`)))
    // What is here comes without an event.
    await new Promise((resolve) => setImmediate(resolve))
    if (isDone) return
    if (!await world.run(world.net.nowMs + HEAL_MS, () => isDone)) world.violated(`${d.name} ${what}, and that does not end`)
  }

  #check(): void {
    const world = this.#world
    const [first, ...others] = world.honest as [SimDevice, ...SimDevice[]]
    for (const d of others) compare(world, first, d)
    for (const d of world.honest) {
      const found = [...findings(d), ...keptFindings(d, this.#ledger.retentionMs > 0 ? [0, 0.5, 1].map((share) => d.clock.nowMs() - share * this.#ledger.retentionMs) : [])]
      if (found.length > 0) world.violated(`what ${d.name} has is not sound: ${found.slice(0, 3).join('; ')}`)
    }
  }
}

function filesBelow(d: SimDevice, dir: number, path: string): string[] {
  const { tree } = d.s.metadata
  return d.names(dir).flatMap((name) => {
    const inode = tree.get(d.lookup(dir, name))
    return inode?.isDir ? filesBelow(d, inode.ino, `${path}/${name}`) : inode?.isFile ? [`${path}/${name}`] : []
  })
}
