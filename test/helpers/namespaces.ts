/**
 * A network of its own for a test: a switch, and hosts with addresses on it, each in a network namespace. The switch is a
 * namespace, too, so that this machine's own network is not touched. Hosts are cut off without a word: their port goes
 * to another bridge, what they send is lost, and their link stays up, as when a router far away fails.
 *
 * Needs root and iproute2. Gone when the test is over, also when it fails or is interrupted.
 */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { compile, must, need, run } from './run.js'

const PREFIX = 'dfs-test-'
let made = 0

export class Lan {
  readonly #id = `${PREFIX}${process.pid}-${made++}`
  readonly #names: string[] = []
  readonly #groups = new Map<string, number>()
  readonly #ends: (() => void)[] = []
  #addresses = 0
  #bridges = 0
  #isClosed = false

  static async make(): Promise<Lan> {
    need(['ip', 'iproute2'], ['tc', 'iproute2'], ['nsenter', 'util-linux'])
    if (process.geteuid!() !== 0) throw new Error('network namespaces are for root')
    await clearDead()
    const lan = new Lan()
    live.add(lan)
    try {
      await must('ip', ['netns', 'add', lan.#switch])
      lan.#names.push(lan.#switch)
      await lan.#bridge(0)
    } catch (e) {
      await lan.close()
      throw e
    }
    return lan
  }

  get #switch(): string { return `${this.#id}-switch` }

  async #bridge(n: number): Promise<string> {
    for (; this.#bridges <= n; this.#bridges++) await must('ip', ['-n', this.#switch, 'link', 'add', `br${this.#bridges}`, 'up', 'type', 'bridge'])
    return `br${n}`
  }

  /** A host `name` (a few letters). Gives its address. */
  async host(name: string): Promise<string> {
    const namespace = `${this.#id}-${name}`
    await must('ip', ['netns', 'add', namespace])
    this.#names.push(namespace)
    const address = this.#freshAddress()
    await must('ip', ['link', 'add', 'eth0', 'netns', namespace, 'type', 'veth', 'peer', 'name', `port-${name}`, 'netns', this.#switch])
    await must('ip', ['-n', this.#switch, 'link', 'set', 'dev', `port-${name}`, 'master', 'br0', 'up'])
    await must('ip', ['-n', namespace, 'address', 'add', `${address}/24`, 'dev', 'eth0'])
    for (const device of ['lo', 'eth0']) await must('ip', ['-n', namespace, 'link', 'set', 'dev', device, 'up'])
    this.#groups.set(name, 0)
    return address
  }

  #freshAddress(): string { return `10.77.0.${++this.#addresses}` }

  /** As when a lease is over: the host has another address, which is given, and what came with the old one is gone. */
  async move(name: string): Promise<string> {
    const address = this.#freshAddress()
    await this.ip(name, 'address', 'flush', 'dev', 'eth0')
    await this.ip(name, 'address', 'add', `${address}/24`, 'dev', 'eth0')
    return address
  }

  /**
   * A host `name` behind a router of its own with NAT for UDP, which lets nothing else through. Gives the router's address and
   * what makes it forget its mappings. Needs /dev/net/tun.
   */
  async natted(name: string, kind: 'cone' | 'symmetric'): Promise<{ address: string; rebind(): void }> {
    const router = `nat-${name}`
    const address = await this.host(router)
    const namespace = `${this.#id}-${name}`
    await must('ip', ['netns', 'add', namespace])
    this.#names.push(namespace)
    const inner = `192.168.${this.#addresses}`
    const nat = spawn(compile('test/helpers/nat.c'), [`/run/netns/${namespace}`, `/run/netns/${this.#id}-${router}`, `${inner}.2`, address, kind], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#ends.push(() => nat.kill('SIGKILL'))
    await new Promise<void>((resolve, reject) => {
      nat.stdout.once('data', () => resolve())
      nat.once('exit', (code) => reject(new Error(`nat ended with ${code}`)))
    })
    for (const device of ['lo', 'tun0']) await this.ip(name, 'link', 'set', 'dev', device, 'up')
    await this.ip(name, 'address', 'add', `${inner}.2/24`, 'dev', 'tun0')
    await this.ip(name, 'route', 'add', 'default', 'via', `${inner}.1`, 'dev', 'tun0')
    return { address, rebind: () => void nat.kill('SIGUSR1') }
  }

  /** ip(8) on that host. */
  ip(name: string, ...args: string[]): Promise<string> {
    return must('ip', ['-n', `${this.#id}-${name}`, ...args])
  }

  /** Another interface `device` of that host, on the same switch. */
  async interface(name: string, device: string): Promise<void> {
    await must('ip', ['link', 'add', device, 'netns', `${this.#id}-${name}`, 'type', 'veth', 'peer', 'name', `${device}-${name}`, 'netns', this.#switch])
    await must('ip', ['-n', this.#switch, 'link', 'set', 'dev', `${device}-${name}`, 'master', 'br0', 'up'])
    await this.ip(name, 'link', 'set', 'dev', device, 'up')
  }

  /** What goes through that interface is lost from now on, and its link stays up. */
  async cut(name: string, device: string): Promise<void> {
    const port = device === 'eth0' ? `port-${name}` : `${device}-${name}`
    await must('ip', ['-n', this.#switch, 'link', 'set', 'dev', port, 'nomaster'])
  }

  /** What a command is started with to run as that host. Mounts are seen everywhere. */
  prefix(name: string): string[] {
    return ['nsenter', `--net=/run/netns/${this.#id}-${name}`]
  }

  /** From now on only hosts of one group reach each other. Those that are not named are alone. */
  async split(...groups: string[][]): Promise<void> {
    let alone = groups.length
    for (const name of this.#groups.keys()) {
      const named = groups.findIndex((g) => g.includes(name))
      const group = named >= 0 ? named : alone++
      if (this.#groups.get(name) === group) continue
      await must('ip', ['-n', this.#switch, 'link', 'set', 'dev', `port-${name}`, 'master', await this.#bridge(group)])
      this.#groups.set(name, group)
    }
  }

  /** All reach all. */
  heal(): Promise<void> {
    return this.split([...this.#groups.keys()])
  }

  /** The cable is pulled, or put back: the host sees that. */
  async link(name: string, state: 'up' | 'down'): Promise<void> {
    await must('ip', ['-n', this.#switch, 'link', 'set', 'dev', `port-${name}`, state])
  }

  /** What the host sends is at most so much (tc's units, as 2mbit). */
  async limit(name: string, rate: string | undefined): Promise<void> {
    const queue = ['-n', `${this.#id}-${name}`, 'qdisc', rate === undefined ? 'del' : 'replace', 'dev', 'eth0', 'root']
    await must('tc', rate === undefined ? queue : [...queue, 'tbf', 'rate', rate, 'burst', '64kb', 'latency', '400ms'])
  }

  /** What runs in it is to be ended before. May be called twice. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const end of this.#ends.splice(0)) end()
    for (const name of this.#names.splice(0)) await run('ip', ['netns', 'del', name])
    live.delete(this)
  }
}

/** To be closed should the test be interrupted. */
const live = new Set<Lan>()

export function closeNetworks(): Promise<unknown> {
  return Promise.allSettled([...live].map((lan) => lan.close()))
}

/** What tests left that were killed. */
async function clearDead(): Promise<void> {
  let names: string[] = []
  try { names = readdirSync('/run/netns') } catch { /* there was never one */ }
  for (const name of names) {
    const pid = name.startsWith(PREFIX) ? Number(name.slice(PREFIX.length).split('-')[0]) : NaN
    if (!(pid > 0)) continue
    try {
      process.kill(pid, 0)
    } catch {
      await run('ip', ['netns', 'del', name])
    }
  }
}
