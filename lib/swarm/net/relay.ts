/**
 * A way between two devices that cannot reach each other, both behind routers that
 * give them another port for everybody: a third device of the drive passes the
 * packets of their UDX stream on, blindly. The stream is Noise from end to end, with
 * the keys of the two; the one between learns who they are, when and how much.
 *
 * hyperdht does this (blind-relay): who reaches for a device names a relay in the handshake, both connect to it and give it
 * the same random token. Here is who may use a relay, and which: any device of the drive is one, for devices of the
 * drive alone. They show it by the key under which they connect, the same for all, derived from the proof key.
 *
 * Owns: the sessions of those who use this device.
 */
import b4a from 'b4a'
import type SecretStream from '@hyperswarm/secret-stream'
import blindRelay from 'blind-relay'
import type DHT from 'hyperdht'
import sodium from 'sodium-native'
import { MAX_RELAYED } from '../../limits.js'

/** Under which devices of the drive connect to a relay; a DHT node has it as its default. */
export function relayUser(proofKey: Uint8Array): { publicKey: Buffer; secretKey: Buffer } {
  const seed = Buffer.alloc(32)
  sodium.crypto_generichash(seed, Buffer.from('dfs relay user 1\0'), proofKey)
  const publicKey = Buffer.alloc(32)
  const secretKey = Buffer.alloc(64)
  sodium.crypto_sign_seed_keypair(publicKey, secretKey, seed)
  return { publicKey, secretKey }
}

export class Relay {
  readonly #user: Buffer
  readonly #server: InstanceType<typeof blindRelay.Server>
  /** Those who use this device. */
  readonly #users = new Set<SecretStream>()
  /** Connections of this device to relays, and whose they are, in hex. */
  readonly #used = new Map<SecretStream, string>()

  constructor(dht: DHT, user: Buffer) {
    this.#user = user
    this.#server = new blindRelay.Server({ createStream: (options) => dht.createRawStream({ ...options, framed: true }) })
    const connect = dht.connect.bind(dht)
    // hyperdht connects to relays by itself, and says nothing of it.
    dht.connect = (publicKey, options) => {
      const stream = connect(publicKey, options)
      if (!options) this.#note(stream, publicKey)
      return stream
    }
  }

  get relayed(): number { return this.#users.size }

  isUser(publicKey: Uint8Array): boolean { return b4a.equals(publicKey, this.#user) }
  /** False: there are too many. */
  get hasRoom(): boolean { return this.#users.size < MAX_RELAYED }

  /** A connection of one who wants to be relayed. */
  accept(stream: SecretStream): void {
    stream.on('error', () => {})
    if (!this.hasRoom) return stream.destroy()
    this.#users.add(stream)
    stream.on('close', () => this.#users.delete(stream))
    this.#server.accept(stream, { id: stream.remotePublicKey }).on('error', () => {})
  }

  /** Whether the stream's packets go through another device: they come from one that this device uses as a relay, and its end is not that one. */
  isRelayed({ remotePublicKey, rawStream }: Pick<SecretStream, 'remotePublicKey' | 'rawStream'>): boolean {
    const peer = b4a.toString(remotePublicKey, 'hex')
    for (const [{ rawStream: way }, relay] of this.#used) {
      if (relay !== peer && way.remoteHost === rawStream.remoteHost && way.remotePort === rawStream.remotePort) return true
    }
    return false
  }

  close(): void {
    for (const stream of this.#users) stream.destroy()
  }

  #note(stream: SecretStream, publicKey: Uint8Array): void {
    this.#used.set(stream, b4a.toString(publicKey, 'hex'))
    stream.on('close', () => this.#used.delete(stream))
  }
}
