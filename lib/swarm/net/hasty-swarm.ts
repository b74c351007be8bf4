/**
 * Hyperswarm, but for two things. Who connects to be relayed (relay.ts) is no peer.
 * And where two devices reach for each other at once, hyperswarm keeps the attempt of the one that the keys name, even if that one has been at it
 * for seconds and gets nowhere, and turns away the other's connection, which is
 * there. That is what becomes of a device whose router has given it other
 * ports: the others reach for it where it was, and it cannot come in.
 */
import type SecretStream from '@hyperswarm/secret-stream'
import Hyperswarm from 'hyperswarm'
import type { Relay } from './relay.js'

/** Attempts younger than this may well meet: then the keys decide, or each side would keep another one. */
const HOPEFUL_MS = 1500

export class HastySwarm extends Hyperswarm {
  readonly #startedMs = new WeakMap<SecretStream, number>()
  readonly #relay: Relay

  constructor(options: ConstructorParameters<typeof Hyperswarm>[0], relay: Relay) {
    super(options)
    this.#relay = relay
  }

  protected override _connect(peer: { publicKey: Buffer }, isQueued: boolean): void {
    super._connect(peer, isQueued)
    const attempt = this._allConnections.get(peer.publicKey)
    if (attempt && !this.#startedMs.has(attempt)) this.#startedMs.set(attempt, performance.now())
  }

  protected override _handleServerConnection(stream: SecretStream): void {
    if (this.#relay.isUser(stream.remotePublicKey)) return this.#relay.accept(stream)
    const attempt = this._allConnections.get(stream.remotePublicKey)
    const startedMs = attempt && !this.connections.has(attempt) ? this.#startedMs.get(attempt) : undefined
    if (startedMs === undefined || performance.now() - startedMs < HOPEFUL_MS) return super._handleServerConnection(stream)
    attempt!.on('error', () => {})
    attempt!.destroy(new Error('Duplicate connection'))
    this._handleServerConnectionSwap(attempt!, stream)
  }
}
