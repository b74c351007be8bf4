/** Devices of one drive on 127.0.0.1, for tests of the network. Everything is closed when the test ends. */
import type { Assert } from 'brittle'
import { fork } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import createTestnet from 'hyperdht/testnet.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice, deviceSeed, type Device } from '../../lib/keys/device.js'
import type { Link, NetOptions } from '../../lib/swarm/net/link.js'
import { Net } from '../../lib/swarm/net/net.js'

export type Wire = 'tcp' | 'udx'
export const HOST = '127.0.0.1'

/** Of a link: what came, and how it ended. */
export class Seen {
  readonly link: Link
  readonly messages: Buffer[] = []
  readonly fileErrors: { head: Buffer; error: Error }[] = []
  bytes = 0
  drains = 0
  closed: string | undefined
  /** Set to hold messages up. */
  hold: (() => Promise<void>) | undefined
  /** Without it messages are counted, not kept. */
  isKept = true

  constructor(link: Link, changed: () => void) {
    this.link = link
    link.onMessage = (message) => {
      this.bytes += message.length
      if (this.isKept) this.messages.push(message)
      changed()
      return this.hold?.()
    }
    link.onDrain = () => {
      this.drains++
      changed()
    }
    link.onFileError = (head, error) => {
      this.fileErrors.push({ head, error })
      changed()
    }
    link.onClose = (reason) => {
      this.closed = reason
      changed()
    }
  }
}

export class Node {
  readonly net: Net
  readonly device: Device
  /** In the order in which they came, closed ones too. */
  readonly links: Seen[] = []
  readonly faults: Error[] = []
  readonly #changes = new EventEmitter()

  constructor(net: Net, device: Device) {
    this.net = net
    this.device = device
    this.#changes.setMaxListeners(100)
    net.onLink = (link) => {
      this.links.push(new Seen(link, () => this.#changes.emit('change')))
      this.#changes.emit('change')
    }
    net.onFault = (error) => this.faults.push(error)
  }

  /** Links that are there now. */
  get open(): Seen[] { return this.links.filter(({ closed }) => closed === undefined) }

  /** Waits for events, not for time. */
  async until<T>(condition: () => T | undefined | false): Promise<T> {
    for (;;) {
      const value = condition()
      if (value) return value
      await once(this.#changes, 'change')
    }
  }

  /** The open link, to this device or to anybody. */
  linked(to?: Node): Promise<Seen> {
    return this.until(() => this.open.find(({ link }) => to === undefined || link.peer.equals(to.device.publicKey)))
  }
}

export interface Place {
  readonly keys: DriveKeys
  readonly bootstrap: string[] | undefined
  readonly wire: Wire
  /** Listens, and looks for others as the wire does. TCP: `options.peers`, see addressOf. */
  node(options?: Partial<NetOptions> & { device?: Device }): Promise<Node>
  /** Two that are linked. */
  pair(): Promise<[Node, Node]>
}

export async function place(t: Assert, wire: Wire): Promise<Place> {
  const keys = DriveKeys.create()
  // Torn down after the nodes that use it.
  const testnet = wire === 'udx' ? await createTestnet(3, { host: HOST }) : undefined
  if (testnet) t.teardown(() => testnet.destroy(), { order: 100 })
  const bootstrap = testnet?.bootstrap.map(({ host, port }) => `${host}:${port}`)
  let made = 0
  const node = async ({ device = createDevice(), ...options }: Partial<NetOptions> & { device?: Device } = {}) => {
    const hello = Buffer.from(`node ${made++}`)
    const net = new Net({
      device, driveId: keys.driveId, topic: keys.topic, proofKey: keys.proofKey, host: HOST, mdns: false,
      tcp: wire === 'tcp', dht: wire === 'udx', ...(bootstrap && { bootstrap }), hello: () => hello, ...options,
    })
    t.teardown(() => net.close())
    const one = new Node(net, device)
    await net.ready()
    return one
  }
  const pair = async (): Promise<[Node, Node]> => {
    const a = await node()
    const b = await node(wire === 'tcp' ? { peers: [addressOf(a)] } : {})
    await Promise.all([a.linked(b), b.linked(a)])
    return [a, b]
  }
  return { keys, bootstrap, wire, node, pair }
}

/** A device in a process of its own, which can be killed; it greets each link. */
export function netChild(t: Assert, { keys, bootstrap, wire }: Place, device: Device, peers: string[]): { kill(): Promise<void> } {
  const setup: ChildSetup = { key: keys.capability(), seed: deviceSeed(device).toString('hex'), incarnation: device.incarnation.toString('hex'), wire, peers, bootstrap }
  const child = fork(fileURLToPath(new URL('./net-child.js', import.meta.url)), [JSON.stringify(setup)])
  const gone = once(child, 'exit')
  const kill = async () => {
    child.kill('SIGKILL')
    await gone
  }
  t.teardown(kill)
  return { kill }
}

export interface ChildSetup { key: string; seed: string; incarnation: string; wire: Wire; peers: string[]; bootstrap: string[] | undefined }

export function addressOf(node: Node): string {
  return `${HOST}:${node.net.port}`
}

/** For what gives no event: the state of the worker. */
export async function eventually(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(20)
}
