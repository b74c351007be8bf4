/**
 * A private DHT for networks without a way to the public one: devices that name
 * one of its nodes in DFS_BOOTSTRAP find each other there.
 *
 * Several nodes in one process: a device learns what its NAT does by how it looks
 * to different nodes, and with a single one hyperdht never gets to connect two.
 *
 * Owns: its nodes.
 */
import DHT from 'hyperdht'
import { isIPv4 } from 'node:net'
import { fail } from '../../errors.js'
import { isLoopback, ownAddresses } from './address.js'

export const DEFAULT_BOOTSTRAP_PORT = 49737
/** The first is named to devices, the others they learn from it. On the ports after its own. */
const NODES = 4

export interface BootstrapOptions {
  /** UDP; NODES ports from here on. Default DEFAULT_BOOTSTRAP_PORT. */
  port?: number
  /** The IPv4 address at which devices reach this machine. Default: its own first one. */
  host?: string
}

export class Bootstrap {
  readonly host: string
  readonly port: number
  readonly #nodes: DHT[]

  private constructor(host: string, port: number, nodes: DHT[]) {
    this.host = host
    this.port = port
    this.#nodes = nodes
  }

  /** Resolves when devices can use it. USAGE for what is not an IPv4 address, or if a port is taken. */
  static async start({ port = DEFAULT_BOOTSTRAP_PORT, host = ownIPv4() }: BootstrapOptions = {}): Promise<Bootstrap> {
    if (!isIPv4(host) || host === '0.0.0.0') throw fail('USAGE', `'${host}' is not the IPv4 address of a machine; give the one at which devices reach this machine`)
    if (!Number.isInteger(port) || port < 1 || port + NODES - 1 > 65535) throw fail('USAGE', `the port ${port} is out of range; give one of 1 to ${65535 - NODES + 1}`)
    const bound = { firewalled: false, ephemeral: false, anyPort: false, ...(isLoopback(host) && { host }) }
    const nodes: DHT[] = []
    const bootstrap = new Bootstrap(host, port, nodes)
    try {
      for (let i = 0; i < NODES; i++) {
        const node = i === 0 ? DHT.bootstrapper(port, host, bound) : new DHT({ ...bound, port: port + i, bootstrap: [{ host, port }] })
        nodes.push(node)
        await node.fullyBootstrapped()
      }
    } catch (error) {
      await bootstrap.close()
      const { code, message } = error as NodeJS.ErrnoException
      throw fail('USAGE', `cannot use the UDP ports ${port} to ${port + NODES - 1} (${code ?? message}); choose another with --port`, error)
    }
    return bootstrap
  }

  /** What to put in DFS_BOOTSTRAP. */
  get address(): string { return `${this.host}:${this.port}` }
  /** All UDP ports that must be open. */
  get ports(): number[] { return this.#nodes.map((_, i) => this.port + i) }
  /** Nodes of the DHT that the first one knows; its own others among them. */
  get known(): number { return this.#nodes[0]?.toArray().length ?? 0 }

  async close(): Promise<void> {
    await Promise.allSettled(this.#nodes.splice(0).reverse().map((node) => node.destroy()))
  }
}

function ownIPv4(): string {
  return ownAddresses(undefined).find((host) => isIPv4(host)) ?? '127.0.0.1'
}
