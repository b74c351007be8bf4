/** Devices of a drive with a replication factor, as real daemons of this machine that come, are killed, and leave. */
import { mkdirSync, mkdtempSync } from 'node:fs'
import type { DeviceStatus, DriveApi, DriveStatus } from '../../lib/api.js'
import { Client } from '../../lib/client.js'
import { freePort } from '../bench/sync-pairs.js'
import { bytesOf, copiesOf, holdingsOf } from '../helpers/copies.js'
import { closeMembers, Member, removeAll, until } from '../helpers/member.js'
import { closeNetworks, type Lan } from '../helpers/namespaces.js'
import { sleep } from '../helpers/run.js'

/** On a machine with other work a repair of gigabytes takes its time. */
const SETTLE_MS = 1_800_000
/** Whoever waits so long says for what. */
const SAY_MS = 20_000
const ENV = { DFS_EVICT_AFTER_MS: '5000' }

export interface FleetOptions {
  parent: string
  copies: number
  /** What each device offers; as `dfs devices set --capacity`. */
  capacity(n: number): string
  env?: NodeJS.ProcessEnv
  /** Each is a host of it; else a port of this machine. */
  lan?: Lan
  log(text: string): void
}

export class SoakFleet {
  members: Member[] = []
  readonly #p: FleetOptions
  readonly #ids = new Map<Member, string>()
  #made = 0

  private constructor(options: FleetOptions) {
    this.#p = options
  }

  static async make(devices: number, options: FleetOptions): Promise<SoakFleet> {
    const fleet = new SoakFleet(options)
    mkdirSync(options.parent, { recursive: true })
    const first = await fleet.#member()
    await first.mount()
    await fleet.#joined(first)
    await first.dfs('config', 'set', 'lost-after', '5s')
    await first.dfs('config', 'set', 'replication', String(options.copies))
    for (let i = 1; i < devices; i++) await fleet.join()
    return fleet
  }

  async #member(): Promise<Member> {
    const { parent, lan, env } = this.#p
    const name = `d${++this.#made}`
    return new Member(name, parent, lan ? { lan, address: await lan.host(name) } : { port: await freePort() }, { env: { ...ENV, ...env } })
  }

  async #joined(member: Member): Promise<void> {
    const { device } = await member.status()
    this.#ids.set(member, device)
    this.members.push(member)
    await member.dfs('devices', 'set', device, '--capacity', this.#p.capacity(this.#made - 1))
  }

  /** A device with a fresh store joins by the key; takes part when this resolves. */
  async join(): Promise<Member> {
    const before = [...this.members]
    const member = await this.#member()
    // With a cache it offers nothing by itself: what its disk has would be its share until it is told otherwise.
    await member.join(await before[0]!.key(), '--peer', before[0]!.address, '--cache', this.#p.capacity(this.#made - 1))
    await member.mount(...before.flatMap((m) => ['--peer', m.address]))
    await this.#joined(member)
    await until(`${member.name} is linked with all and takes part`, async () => {
      if ((await member.status()).peers.length < before.length) return false
      for (const m of this.members) if (!((await this.device(member, m)).placement?.share ?? 0)) return false
      return true
    }, 120_000, 200)
    return member
  }

  /** A device that only stores joins, and is served; it is none of `members`. */
  async storing(): Promise<Member> {
    const [first] = this.members as [Member]
    const member = await this.#member()
    const key = (await first.dfs('key', '--storage')).trim().split('\n').find((line) => line.includes('dfs1-'))!.trim()
    await member.join(key, '--peer', first.address)
    await member.serve(...this.members.flatMap((m) => ['--peer', m.address]))
    const { device } = await member.status()
    this.#ids.set(member, device)
    await until(`${member.name} is linked with all`, async () => (await member.status()).peers.length === this.members.length, 120_000, 200)
    await first.dfs('devices', 'add', device, '--role', 'storage', '--name', member.name)
    await first.dfs('devices', 'set', device, '--capacity', this.#p.capacity(this.#made - 1))
    await until(`${member.name} takes part`, async () => ((await this.device(member)).placement?.share ?? 0) > 0, 120_000, 200)
    return member
  }

  id(member: Member): string { return this.#ids.get(member)! }

  async ask<T>(member: Member, what: (drive: DriveApi) => Promise<T>): Promise<T> {
    const client = await Client.connect(member.store)
    if (!client) throw new Error(`${member.name}: no daemon\n${member.log.slice(-2000)}`)
    try {
      return await what(client)
    } finally {
      await client.close()
    }
  }

  devices(asked = this.members[0]!): Promise<DeviceStatus[]> { return this.ask(asked, (d) => d.devices()) }

  /** What `asked` knows of a device. */
  async device(member: Member, asked = this.members[0]!): Promise<DeviceStatus> {
    const id = this.id(member)
    const found = (await this.devices(asked)).find((d) => d.device === id)
    if (!found) throw new Error(`${asked.name} does not know ${member.name}`)
    return found
  }

  /** Parts of everything, by name; only of those that take part. */
  async shares(): Promise<Map<string, number>> {
    return new Map((await this.devices()).filter((d) => (d.placement?.share ?? 0) > 0).map((d) => [d.name, d.placement!.share!]))
  }

  /** The power of all these goes at once, and their disks. */
  async wipe(victims: readonly Member[]): Promise<void> {
    this.members = this.members.filter((m) => !victims.includes(m))
    await Promise.all(victims.map((v) => v.kill()))
    await this.remove(victims)
  }

  async remove(members: readonly Member[]): Promise<void> {
    this.members = this.members.filter((m) => !members.includes(m))
    for (const member of members) {
      await member.close()
      await removeAll(member.store)
    }
  }

  async lost(victims: readonly Member[]): Promise<void> {
    await until(`${victims.map((v) => v.name).join(' and ')} count as lost`, async () => {
      for (const m of this.members) for (const v of victims) if (!(await this.device(v, m)).placement?.isLost) return false
      return true
    }, 120_000, 200)
    // As one would who knows that they are gone for good: else what is removed from now on takes room.
    for (const v of victims) await this.aside(this.id(v))
  }

  /** As one would whose device has left: else what is removed from now on takes room. Not before it was silent for a moment. */
  async aside(id: string): Promise<void> {
    await until('the one that left is set aside', async () => {
      const { code, stderr } = await this.members[0]!.tried('devices', 'aside', id)
      if (code !== 0 && !stderr.includes('a moment ago')) throw new Error(stderr)
      return code === 0
    }, 120_000, 1000)
  }

  /** `dfs sync --wait` on each of them. */
  async synced(members: readonly Member[] = this.members): Promise<void> {
    let saidMs = performance.now()
    await Promise.all(members.map((m) => this.ask(m, (d) => d.waitPlaced(({ phase, done }) => {
      if (performance.now() - saidMs < SAY_MS) return
      saidMs = performance.now()
      this.#p.log(`${m.name} is ${phase} ${done} bytes`)
    }))))
  }

  /** Nothing is being written: every device knows that nothing is owed. */
  async settled(members: readonly Member[] = this.members): Promise<void> {
    await this.synced(members)
    let owed: DriveStatus['placement'][] = []
    await until('nothing is owed', async () => {
      owed = await Promise.all(members.map(async (m) => (await m.status()).placement))
      return owed.every((p) => p && p.copiesOwed === 0 && p.lacking === 0 && p.possible === Math.min(this.#p.copies, this.members.length))
    }, SETTLE_MS, 500).catch((e: Error) => { throw new Error(`${e.message}: ${JSON.stringify(owed)}`) })
  }

  /** Content that nobody is to hold here goes, as far as others have it. */
  async evict(members: readonly Member[] = this.members): Promise<void> {
    await Promise.all(members.map(async (member) => {
      while (!await this.ask(member, (d) => d.evict('/')).then(() => true, (e: { code?: string }) => {
        if (e.code !== 'EBUSY') throw e
        return false
      })) await sleep(1000)
    }))
  }

  /** Of the chunks that are live on all devices: how many, their bytes, and the fewest and the mean number of copies. */
  copies(also: readonly Member[] = []): { chunks: number; bytes: number; least: number; mean: number; few: string[] } {
    const stores = [...this.members, ...also].map((m) => m.store)
    const { live } = holdingsOf(stores[0]!)
    return { bytes: bytesOf(live), ...this.copiesOf(live.keys(), also) }
  }

  copiesOf(chunks: Iterable<string>, also: readonly Member[] = []): { chunks: number; least: number; mean: number; few: string[] } {
    const copies = copiesOf([...this.members, ...also].map((m) => m.store), chunks)
    let least = Infinity
    let sum = 0
    const few: string[] = []
    for (const [id, n] of copies) {
      if (n < this.#p.copies) few.push(Buffer.from(id, 'latin1').toString('hex'))
      least = Math.min(least, n)
      sum += n
    }
    return { chunks: copies.size, least, mean: sum / copies.size, few }
  }

  /** Bytes that came to each device over the connections that it has now. */
  async bytesIn(members: readonly Member[] = this.members): Promise<Map<string, number>> {
    const out = new Map<string, number>()
    for (const m of members) out.set(m.name, (await this.ask(m, (d) => d.peers())).reduce((n, p) => n + p.bytesIn, 0))
    return out
  }
}

/** Runs `main` in a folder of its own, and ends the process; daemons, networks and folder go, also when it fails or is interrupted. */
export function runAlone(prefix: string, main: (parent: string) => Promise<void>, keepsFailed = false): void {
  const parent = mkdtempSync(prefix)
  let isEnding = false
  const end = async (code: number, keeps = false) => {
    if (isEnding) return
    isEnding = true
    await closeMembers()
    await closeNetworks()
    if (keeps) console.error(`stores in ${parent}`)
    else await removeAll(parent)
    process.exit(code)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void end(130))
  main(parent).then(() => end(0), (e: Error) => {
    if (!isEnding) console.error(e.stack)
    return end(1, keepsFailed)
  })
}
