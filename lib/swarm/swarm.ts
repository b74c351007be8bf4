/**
 * A device among the others of its drive: finds them (Net) and works with those
 * that are connected (Peers).
 *
 * Owns the Net and the links. `close` may be called twice.
 */
import type { PeerStatus } from '../api.js'
import type { ChunkSwarm } from './chunk-swarm.js'
import type { SwarmHost } from './host.js'
import type { NetOptions } from './net/link.js'
import { Net } from './net/net.js'
import { Peers } from './peers.js'

export type SwarmOptions = Pick<NetOptions, 'port' | 'host' | 'peers' | 'kept' | 'bootstrap' | 'tcp' | 'dht' | 'mdns'>

export class Swarm {
  readonly net: Net
  readonly #peers: Peers
  /** What a person should know: a lying peer, a fork. */
  onNotice: (text: string) => void = () => {}
  /** A device (its public key in hex) is linked, and where it may be reached another time. */
  onReached: (device: string, addresses: string[]) => void = () => {}

  constructor(drive: SwarmHost, options: SwarmOptions = {}) {
    const { keys, device } = drive
    const peers = this.#peers = new Peers(drive)
    peers.onNotice = (text) => this.onNotice(text)
    this.net = new Net({ ...options, device, driveId: keys.driveId, topic: keys.topic, proofKey: keys.proofKey, hello: () => peers.hello() })
    this.net.onLink = (link) => {
      peers.up(link)
      this.onReached(link.peer.toString('hex'), link.reachedAt)
    }
    this.net.onFault = (e) => this.onNotice(`the network's thread failed and starts again: ${e.message}`)
  }

  get chunks(): ChunkSwarm { return this.#peers.chunks }

  /** USAGE if the port cannot be had. */
  ready(): Promise<void> { return this.net.ready() }

  peers(): PeerStatus[] { return this.#peers.status() }

  /** A certificate that was made here: everybody is told. */
  announce(certificate: Buffer): void { this.#peers.announce(certificate) }

  async close(): Promise<void> {
    this.#peers.close()
    await this.net.close()
  }
}
