/**
 * The hyperswarm transport: devices that join the drive's topic find each other
 * on the DHT and connect through NATs over UDX, encrypted by Noise (IK) with the
 * device keys. Membership is proven on the stream (conn.ts): a server's
 * connections carry no topic, and anybody may make one.
 *
 * Owns: the swarm, its DHT node, and what this device relays.
 */
import b4a from 'b4a'
import type SecretStream from '@hyperswarm/secret-stream'
import DHT from 'hyperdht'
import { isIPv4 } from 'node:net'
import { MAX_CONNECTIONS, MAX_DHT_HANDSHAKES, MAX_DHT_HANDSHAKES_PER_S } from '../../limits.js'
import { Allowance } from './allowance.js'
import { FrameGuard } from './guard.js'
import type { Role } from './handshake.js'
import { HastySwarm } from './hasty-swarm.js'
import { Relay, relayUser } from './relay.js'
import { positionOf, UdxStream } from './udx-stream.js'

/**
 * The topic is looked up again after this, then twice it, and so on: hyperswarm gives a device up after four tries until a
 * look-up finds it again, and alone it looks every ten minutes.
 */
const FIRST_REFRESH_MS = 2000
const MAX_REFRESH_MS = { alone: 120_000, linked: 600_000 }
/** Between tries to reach a device that is known: hyperswarm has four, of 1 s to 10 min. */
const BACKOFFS_MS = [500, 2000, 10_000, 300_000]
/** A connection that lasted so long was a success: the next try is not far. Hyperswarm's own measure is 15 s. */
const SUCCESS_MS = 4000
/** Unannouncing needs answers; without a network there are none. */
const CLOSE_TIMEOUT_MS = 1500
const FORCED_CLOSE_MS = 300

export interface DhtOptions {
  device: { publicKey: Buffer; secretKey: Buffer }
  topic: Buffer
  proofKey: Buffer
  bootstrap: string[] | undefined
  host: string | undefined
  hasLinks(): boolean
  /** Public keys of devices that may relay: those that are linked, and not through others. */
  relays(): Buffer[]
  onStream(stream: UdxStream, guard: FrameGuard, origin: { role: Role; host: string; port: number }): void
  onRefused(reason: string): void
}

type Discovery = ReturnType<HastySwarm['join']>

export class Dht {
  readonly #options: DhtOptions
  readonly #dht: DHT
  readonly #relay: Relay
  readonly #swarm: HastySwarm
  readonly #discovery: Discovery
  /** Devices that have proven membership, in hex: never refused for a flood of others. */
  readonly #known = new Set<string>()
  readonly #joined = new Set<string>()
  readonly #allowance = new Allowance(2 * MAX_DHT_HANDSHAKES_PER_S, MAX_DHT_HANDSHAKES_PER_S)
  #refreshTimer: NodeJS.Timeout | undefined
  #refreshMs = FIRST_REFRESH_MS
  #isClosed = false

  constructor(options: DhtOptions) {
    this.#options = options
    const { device, topic, proofKey, bootstrap, host, relays } = options
    const user = relayUser(proofKey)
    this.#dht = new DHT({ keyPair: user, ...(bootstrap && { bootstrap }), ...(host !== undefined && isIPv4(host) && { host }) })
    this.#relay = new Relay(this.#dht, user.publicKey)
    // `isForced`: without one it came to nothing.
    const relayThrough = (isForced: boolean | undefined) => (isForced && relays().length > 0 ? relays() : null)
    this.#swarm = new HastySwarm({ keyPair: device, dht: this.#dht, maxPeers: MAX_CONNECTIONS, maxParallel: 8, backoffs: BACKOFFS_MS, relayThrough }, this.#relay)
    this.#limitHandshakes()
    // Its own quick test of whether it can be reached from outside races with the bootstrap, and loses on a small DHT: minutes of hole punching.
    this.#dht.fullyBootstrapped().then(() => this.#dht._updateNetworkState(true)).catch(() => {})
    this.#swarm.on('connection', (stream, info) => this.#connected(stream, info))
    this.#discovery = this.#swarm.join(topic, { server: true, client: true })
    this.#refreshLater()
  }

  /** When this device is announced and the first look-up is over. */
  async announced(): Promise<void> {
    await this.#discovery.flushed()
  }

  /** A device that is a member: it is let in, and where it has no TCP link, reached for. */
  want(peer: Buffer, isWanted: boolean): void {
    const name = b4a.toString(peer, 'hex')
    this.#known.add(name)
    if (this.#known.size > MAX_CONNECTIONS) this.#known.delete(this.#known.values().next().value!)
    if (this.#isClosed || this.#joined.has(name) === isWanted) return
    if (isWanted) {
      if (this.#joined.size >= MAX_CONNECTIONS) return
      this.#joined.add(name)
      this.#swarm.joinPeer(peer)
    } else {
      this.#joined.delete(name)
      this.#swarm.leavePeer(peer)
    }
  }

  /** Through a third device. */
  isRelayed(stream: UdxStream): boolean { return this.#relay.isRelayed(stream) }

  /** The network has changed. */
  retry(): void {
    this.#refreshMs = FIRST_REFRESH_MS
    clearTimeout(this.#refreshTimer)
    this.#refresh()
  }

  status(): { isOnline: boolean; nodes: number; port: number } {
    let port = 0
    try {
      port = this.#dht.address().port
    } catch {
      // Not bound yet.
    }
    return { isOnline: this.#dht.online, nodes: this.#dht.toArray().length, port }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#refreshTimer)
    this.#relay.close()
    // Without a node that answers there is nobody to be told, and it would wait for them in vain.
    if (this.#dht.toArray().length > 0) await withinMs(CLOSE_TIMEOUT_MS, this.#swarm.destroy())
    await withinMs(FORCED_CLOSE_MS, this.#swarm.destroy({ force: true }))
  }

  /**
   * hyperdht takes any number of handshakes, and each holds a stream and often a socket for 20 seconds (its issues 294 and
   * 297). Its own hook can refuse before that; hyperswarm's option of the same name would ban the key for good, and keep
   * a record of every one that a flood makes up.
   */
  #limitHandshakes(): void {
    const { server } = this.#swarm
    const inner = server.firewall
    server.firewall = (publicKey, payload, address) => {
      if (this.#relay.isUser(publicKey)) {
        if (this.#relay.hasRoom && server._connects.size <= MAX_DHT_HANDSHAKES) return false
        this.#options.onRefused('too many to be relayed')
        return true
      }
      if (!this.#known.has(b4a.toString(publicKey, 'hex')) && (server._connects.size > MAX_DHT_HANDSHAKES || !this.#allowance.take())) {
        this.#options.onRefused('too many handshakes over the DHT')
        return true
      }
      return inner(publicKey, payload, address)
    }
  }

  #connected(stream: SecretStream, info: { attempts: number }): void {
    // It breaks before anybody else listens.
    stream.on('error', () => {})
    const openedMs = performance.now()
    // Before hyperswarm hears of it and chooses when to try again.
    stream.prependListener('close', () => {
      if (performance.now() - openedMs > SUCCESS_MS) info.attempts = 0
    })
    const guard = new FrameGuard(positionOf(stream))
    const udx = new UdxStream(stream, guard)
    udx.on('error', () => {})
    const { rawStream } = stream
    const host = rawStream.remoteHost ?? ''
    this.#options.onStream(udx, guard, { role: stream.isInitiator ? 'dialler' : 'answerer', host, port: rawStream.remotePort ?? 0 })
  }

  #refreshLater(): void {
    this.#refreshTimer = setTimeout(() => {
      this.#refreshMs = Math.min(2 * this.#refreshMs, this.#options.hasLinks() ? MAX_REFRESH_MS.linked : MAX_REFRESH_MS.alone)
      this.#refresh()
    }, this.#refreshMs * (0.75 + Math.random() / 2))
  }

  #refresh(): void {
    if (this.#isClosed) return
    this.#discovery.refresh().catch(() => {}).finally(() => {
      if (!this.#isClosed) this.#refreshLater()
    })
  }
}

async function withinMs(limitMs: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([work.catch(() => {}), new Promise((resolve) => {
    timer = setTimeout(resolve, limitMs)
  })])
  clearTimeout(timer)
}
