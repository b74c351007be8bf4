/**
 * Devices that find each other through one of them, and what a network does to them after: cables, leases, routes, sleep,
 * restarts, routers that forget. Each time all must be linked again by themselves, with one connection each, and owe each other
 * nothing. Real daemons with addresses of their own; discovery is off unless a case needs it.
 */
import { spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Member, PORT, until } from '../helpers/member.js'
import { Lan } from '../helpers/namespaces.js'
import { DFS, isAlive, kill } from '../helpers/mount.js'
import { dhtOf } from '../helpers/cli.js'
import { must, sleep } from '../helpers/run.js'

export type Log = (text: string) => void

/** Longer than any peer waits for a sign of life. */
const ASLEEP_MS = 15_000

export class Household {
  readonly lan: Lan
  readonly members: Member[] = []
  readonly #log: Log
  readonly #parent: string
  readonly #start = performance.now()
  #dht = 0
  readonly #written: string[] = []

  private constructor(lan: Lan, parent: string, log: Log) {
    this.lan = lan
    this.#parent = parent
    this.#log = log
  }

  /** `names` on one network. The first is told to the others, and nothing else. */
  static async make(parent: string, names: readonly string[], log: Log): Promise<Household> {
    const home = new Household(await Lan.make(), parent, log)
    return home.#closedIfFails(async () => {
      for (const name of names) await home.#add(name, await home.lan.host(name), { DFS_DISCOVERY: 'none' })
      await home.#join(['--peer', home.members[0]!.address])
    })
  }

  /** On one network without IPv4, found by multicast. */
  static async linkLocal(parent: string, names: readonly string[], log: Log): Promise<Household> {
    const home = new Household(await Lan.make(), parent, log)
    return home.#closedIfFails(async () => {
      for (const name of names) {
        await home.#add(name, await home.lan.host(name), { DFS_DISCOVERY: 'lan' })
        await home.lan.ip(name, '-4', 'address', 'flush', 'dev', 'eth0')
      }
      await home.#join([])
    })
  }

  /** A private DHT, and `open` hosts on its network; those of `natted` behind a NAT each, so that only hyperswarm leads to them. */
  static async natted(parent: string, open: readonly string[], natted: Record<string, 'cone' | 'symmetric'>, log: Log): Promise<Household & { rebind(name: string): void }> {
    const home = new Household(await Lan.make(), parent, log)
    const rebinds = new Map<string, () => void>()
    await home.#closedIfFails(async () => {
      const env = { DFS_DISCOVERY: 'dht', DFS_BOOTSTRAP: await home.#bootstrap() }
      for (const name of open) await home.#add(name, await home.lan.host(name), env)
      for (const [name, kind] of Object.entries(natted)) {
        const { address, rebind } = await home.lan.natted(name, kind)
        rebinds.set(name, rebind)
        await home.#add(name, address, env)
      }
      await home.#join([])
    })
    return Object.assign(home, { rebind: (name: string) => rebinds.get(name)!() })
  }

  async #closedIfFails(start: () => Promise<void>): Promise<this> {
    try {
      await start()
      return this
    } catch (e) {
      await this.close()
      throw e
    }
  }

  async #add(name: string, address: string, env: NodeJS.ProcessEnv): Promise<void> {
    const parent = join(this.#parent, `home-${name}`)
    mkdirSync(parent, { recursive: true })
    this.members.push(new Member(name, parent, { lan: this.lan, address }, { env }))
  }

  async #join(args: string[]): Promise<void> {
    const [first, ...others] = this.members
    await first!.mount()
    const key = await first!.key()
    for (const other of others) await other.join(key, ...args)
    await Promise.all(others.map((other) => other.mount()))
  }

  async #bootstrap(): Promise<string> {
    const address = await this.lan.host('dht')
    const [command, ...args] = [...this.lan.prefix('dht'), process.execPath, DFS, 'bootstrap', '--host', address]
    const child = spawn(command!, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' })
    this.#dht = child.pid!
    return dhtOf(child)
  }

  member(name: string): Member { return this.members.find((m) => m.name === name)! }

  say(text: string): void { this.#log(`${((performance.now() - this.#start) / 1000).toFixed(1)} s: ${text}`) }

  /** Those that are linked with `name` now. */
  async peersOf(name: string): Promise<string[]> {
    return (await this.member(name).status()).peers.map((p) => p.name).sort()
  }

  /** Each with each other; gives seconds. */
  async linked(names = this.members.map((m) => m.name)): Promise<number> {
    const from = performance.now()
    let last = ''
    await until('all are linked', async () => {
      const all = await Promise.all(names.map(async (name) => ({ name, peers: await this.peersOf(name) })))
      last = all.map(({ name, peers }) => `${name}: ${peers}`).join('; ')
      return all.every(({ name, peers }) => names.every((other) => other === name || peers.includes(other)))
    }).catch((e: Error) => { throw new Error(`${e.message}; ${last}`) })
    return (performance.now() - from) / 1000
  }

  /** All have `name` at `address`; seconds. */
  async linkedAt(name: string, address: string): Promise<number> {
    const from = performance.now()
    for (const other of this.members) {
      if (other.name === name) continue
      await until(`${other.name} has ${name} at ${address}`, async () => (await other.status()).peers.some((p) => p.name === name && p.address.startsWith(`${address}:`)))
    }
    return (performance.now() - from) / 1000
  }

  async unlinked(name: string): Promise<void> {
    for (const other of this.members) if (other.name !== name && other.pid > 0) await until(`${other.name} has seen ${name} go`, async () => !(await this.peersOf(other.name)).includes(name))
  }

  /** Each writes something. */
  async write(...names: string[]): Promise<void> {
    for (const name of names) {
      const file = `${name}-${this.#written.length}`
      await writeFile(this.member(name).at(file), `by ${name}`)
      this.#written.push(file)
    }
  }

  /** What each has written is everywhere, nothing is owed, and there is one TCP connection between two devices, two listeners apart. */
  async same(names = this.members.map((m) => m.name)): Promise<void> {
    let why = ''
    await until('all are the same', async () => {
      const all = await Promise.all(names.map(async (name) => ({ name, status: await this.member(name).status(), listing: await this.member(name).listing() })))
      why = all.map(({ name, status: s }) => `${name}: ${s.chunks.owed} chunks, ${s.peers.map((p) => `${p.name} -${p.owedToPeer} +${p.owedFromPeer}`).join(', ')}`).join('; ')
      return all.every(({ status: s, listing }) => s.chunks.owed === 0 && s.peers.every((p) => p.owedFromPeer === 0 && p.owedToPeer === 0) && listing === all[0]!.listing)
    }).catch((e: Error) => { throw new Error(`${e.message}; ${why}`) })
    for (const name of names) {
      for (const file of this.#written) {
        const text = await readFile(this.member(name).at(file), 'latin1')
        if (text !== `by ${file.split('-')[0]}`) throw new Error(`${file} on ${name} is '${text}'`)
      }
    }
  }

  /** Established TCP connections of each daemon, by the peer's device: what it takes for its link, and nothing beside. */
  async oneConnectionEach(names = this.members.map((m) => m.name)): Promise<void> {
    let why = ''
    await until('there is one connection between two', async () => {
      const counts = await Promise.all(names.map(async (name) => {
        const { pid } = this.member(name)
        const table = await must(this.lan.prefix(name)[0]!, [...this.lan.prefix(name).slice(1), 'ss', '-Htnp', 'state', 'established'])
        return table.split('\n').filter((line) => line.includes(`pid=${pid},`) && !line.includes('127.0.0.1')).length
      }))
      why = counts.join(', ')
      return counts.every((count) => count === names.length - 1)
    }, 30_000).catch((e: Error) => { throw new Error(`${e.message}: ${why}`) })
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.members.map((m) => m.close()))
    if (this.#dht > 0 && isAlive(this.#dht)) kill(this.#dht)
    await this.lan.close()
  }
}

type Case = (home: Household) => Promise<void>

/** Each leaves all linked. With a, b and c. */
export const CASES: Record<string, Case> = {
  /** b and c know a alone; then a is gone. */
  async met(home) {
    home.say(`b and c are linked after ${(await home.linked()).toFixed(1)} s, by a`)
    await home.oneConnectionEach()
    const [a, b, c] = home.members as [Member, Member, Member]
    await a.unmount()
    await b.unmount()
    await home.write('c')
    await b.mount()
    home.say(`b was restarted without a: linked with c after ${(await home.linked(['b', 'c'])).toFixed(1)} s`)
    await home.same(['b', 'c'])
    await a.mount()
    home.say(`a is back after ${(await home.linked()).toFixed(1)} s`)
    void c
  },

  async 'other port'(home) {
    const a = home.member('a')
    await a.kill()
    await home.write('b', 'c')
    await a.mount('--port', String(PORT + 100))
    home.say(`a, killed and on another port, is back after ${(await home.linked()).toFixed(1)} s`)
  },

  async 'new address'(home) {
    const address = await home.lan.move('c')
    await home.write('a', 'b', 'c')
    home.say(`c, at another address, is linked there after ${(await home.linkedAt('c', address)).toFixed(1)} s`)
  },

  /** The one whose address was given has another. */
  async 'new address of a'(home) {
    const address = await home.lan.move('a')
    await home.write('a', 'b', 'c')
    home.say(`a, at another address, is linked there after ${(await home.linkedAt('a', address)).toFixed(1)} s`)
  },

  async cable(home) {
    await home.lan.link('c', 'down')
    await home.write('a', 'c')
    await home.unlinked('c')
    await home.lan.link('c', 'up')
    home.say(`c's cable is back: linked after ${(await home.linked()).toFixed(1)} s`)
  },

  /** The interface of the machine itself. */
  async interface(home) {
    const [address] = /10\.77\.0\.\d+/.exec(await home.lan.ip('c', 'address', 'show', 'dev', 'eth0'))!
    await home.lan.ip('c', 'link', 'set', 'dev', 'eth0', 'down')
    await home.lan.ip('c', 'address', 'flush', 'dev', 'eth0')
    await home.write('b', 'c')
    await home.unlinked('c')
    await home.lan.ip('c', 'address', 'add', `${address}/24`, 'dev', 'eth0')
    await home.lan.ip('c', 'link', 'set', 'dev', 'eth0', 'up')
    home.say(`c's interface is back: linked after ${(await home.linked()).toFixed(1)} s`)
  },

  /** No cable is pulled: nobody is told. */
  async silence(home) {
    await home.lan.split(['a', 'b'], ['c'])
    await home.write('a', 'c')
    await home.unlinked('c')
    await home.lan.heal()
    home.say(`c is reached again: linked after ${(await home.linked()).toFixed(1)} s`)
  },

  async sleep(home) {
    const { pid } = home.member('c')
    process.kill(pid, 'SIGSTOP')
    try {
      await home.write('a', 'b')
      await sleep(ASLEEP_MS)
      for (const name of ['a', 'b']) if ((await home.peersOf(name)).includes('c')) throw new Error(`${name} has not seen that c sleeps`)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    await home.write('c')
    home.say(`c slept: linked after ${(await home.linked()).toFixed(1)} s`)
  },
}

/** Between two with addresses that are no interface's: b has two ways to a, and its default route goes from one to the other. */
export async function playRoutes(parent: string, log: Log): Promise<void> {
  const home = await Household.make(parent, ['a', 'b'], log)
  try {
    await home.linked()
    const { lan } = home
    await lan.ip('a', 'address', 'add', '10.99.0.1/32', 'dev', 'lo')
    await lan.ip('a', 'address', 'add', '10.78.0.1/24', 'dev', 'eth0')
    await lan.interface('b', 'eth1')
    await lan.ip('b', 'address', 'add', '10.78.0.2/24', 'dev', 'eth1')
    await lan.ip('b', 'route', 'add', 'default', 'via', '10.77.0.1', 'dev', 'eth0')
    await home.member('b').unmount()
    await home.member('b').dfs('mount', '--peer', `10.99.0.1:${PORT}`, home.member('b').dir)
    home.member('b').pid = (await home.member('b').status()).pid
    await home.linked()
    // The first way goes dead without a word, and the second is the default.
    await lan.cut('b', 'eth0')
    await lan.ip('b', 'route', 'replace', 'default', 'via', '10.78.0.1', 'dev', 'eth1')
    await home.write('a', 'b')
    home.say(`b goes by another route: linked after ${(await home.linkedAt('b', '10.78.0.2')).toFixed(1)} s`)
    await home.same()
  } finally {
    await home.close()
  }
}

/** Over hyperswarm alone: the router of one forgets which port was whose. */
export async function playRebinding(parent: string, log: Log, rounds = 1): Promise<void> {
  const home = await Household.natted(parent, ['a'], { b: 'cone' }, log)
  try {
    home.say(`through a NAT, linked after ${(await home.linked()).toFixed(1)} s: ${(await home.member('a').status()).peers[0]!.via}`)
    for (let round = 0; round < rounds; round++) {
      await home.write('a', 'b')
      await home.same()
      home.rebind('b')
      await home.write('a', 'b')
      const from = performance.now()
      await home.same()
      home.say(`b's router has forgotten it: all is there after ${((performance.now() - from) / 1000).toFixed(1)} s`)
    }
  } finally {
    await home.close()
  }
}

/** By multicast over IPv6: no IPv4 address, no IPv6 address but the link-local ones that each interface has by itself. */
export async function playLinkLocal(parent: string, log: Log): Promise<void> {
  const home = await Household.linkLocal(parent, ['a', 'b', 'c'], log)
  try {
    home.say(`found by IPv6 multicast, linked after ${(await home.linked()).toFixed(1)} s`)
    for (const { name, via, address } of (await home.member('a').status()).peers) if (via !== 'lan' || !address.startsWith('[fe80:')) throw new Error(`a has ${name} by ${via} at ${address}`)
    await home.write('a', 'b', 'c')
    await home.same()
    await home.oneConnectionEach()
    await home.member('b').unmount()
    await home.member('b').mount()
    home.say(`b was restarted: linked after ${(await home.linked()).toFixed(1)} s`)
  } finally {
    await home.close()
  }
}

/** Over hyperswarm alone: b and c have routers that defeat hole punching, and meet through a, blindly. */
export async function playRelayed(parent: string, log: Log): Promise<void> {
  const home = await Household.natted(parent, ['a'], { b: 'symmetric', c: 'symmetric' }, log)
  try {
    const relayed = async () => {
      const seconds = await home.linked()
      for (const [name, other] of [['b', 'c'], ['c', 'b']] as const) {
        await until(`${name} has ${other} through a`, async () => (await home.member(name).status()).peers.find((p) => p.name === other)?.via === 'relayed')
      }
      for (const [name, other] of [['a', 'b'], ['a', 'c'], ['b', 'a'], ['c', 'a']] as const) {
        const via = (await home.member(name).status()).peers.find((p) => p.name === other)?.via
        if (via !== 'holepunched') throw new Error(`${name} has ${other} ${via}`)
      }
      return seconds
    }
    home.say(`all are linked after ${(await relayed()).toFixed(1)} s, b with c through a`)
    if (!(await home.member('b').dfs('peers')).includes('UDP, relayed')) throw new Error('dfs peers does not say that it is relayed')
    await home.write('a', 'b', 'c')
    await writeFile(home.member('b').at('large'), Buffer.alloc(4 << 20, 'of b'))
    await home.same()
    const { bytesIn } = (await home.member('c').status()).peers.find((p) => p.name === 'b')!
    if (bytesIn === 0) throw new Error('nothing came from b to c')
    // With the relay goes the link; both come again.
    await home.member('a').unmount()
    await until('b and c have lost each other', async () => !(await home.peersOf('b')).includes('c') && !(await home.peersOf('c')).includes('b'))
    await home.write('b', 'c')
    await home.member('a').mount()
    home.say(`a was away: all are linked after ${(await relayed()).toFixed(1)} s`)
    await home.same()
  } finally {
    await home.close()
  }
}

/** `names` of CASES on one household. */
export async function playStaying(parent: string, names: readonly string[], log: Log): Promise<void> {
  const home = await Household.make(parent, ['a', 'b', 'c'], log)
  try {
    for (const name of names) {
      await CASES[name]!(home)
      await home.write('a', 'b', 'c')
      await home.same()
      await home.oneConnectionEach()
    }
  } finally {
    await home.close()
  }
}
