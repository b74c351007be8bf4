/** A peer that keeps to the protocol as far as it is told, and no further. */
import type SecretStream from '@hyperswarm/secret-stream'
import type { Assert } from 'brittle'
import { EventEmitter, once } from 'node:events'
import type { Socket } from 'node:net'
import type { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice, type Device } from '../../lib/keys/device.js'
import { encodeGreeting, NO_LINK, proofPacket } from '../../lib/swarm/net/handshake.js'
import { KIND } from '../../lib/swarm/net/packet.js'
import { Tcp } from '../../lib/swarm/net/tcp.js'
import { TcpStream } from '../../lib/swarm/net/tcp-stream.js'
import { HOST, type Node } from './net.js'

export class Attacker {
  readonly device: Device
  readonly stream: TcpStream | SecretStream
  readonly keys: DriveKeys
  readonly packets: Buffer[] = []
  isClosed = false
  readonly #events = new EventEmitter()

  constructor(stream: TcpStream | SecretStream, keys: DriveKeys, device: Device) {
    this.stream = stream
    this.keys = keys
    this.device = device
    stream.on('data', (packet: Buffer) => {
      this.packets.push(Buffer.from(packet))
      this.#events.emit('change')
    })
    stream.on('error', () => {})
    const closed = () => {
      this.isClosed = true
      this.#events.emit('change')
      stream.destroy()
    }
    stream.on('close', closed)
    stream.on('end', closed)
  }

  async until<T>(condition: () => T | undefined | false): Promise<T> {
    for (;;) {
      const value = condition()
      if (value) return value
      await once(this.#events, 'change')
    }
  }

  closed(): Promise<boolean> { return this.until(() => this.isClosed) }
  got(kind: number): Promise<Buffer> { return this.until(() => this.packets.find((packet) => packet[0] === kind)) }

  send(...packet: (number | Uint8Array)[]): void {
    this.stream.write(Buffer.concat(packet.map((part) => (typeof part === 'number' ? Buffer.of(part) : part))))
  }

  /** Past the encryption. */
  raw(bytes: Uint8Array): void {
    if (this.stream instanceof TcpStream) this.stream.writeRaw(bytes)
    else (this.stream.rawStream as unknown as Socket).write(bytes)
  }

  /** Nothing is read from the socket any more. */
  deafen(): void { (this.stream as TcpStream).pause() }

  prove(): void {
    this.stream.write(proofPacket(this.keys, this.stream.isInitiator ? 'dialler' : 'answerer', this.stream.handshakeHash!))
  }

  greet(): void {
    this.stream.write(encodeGreeting({ instance: Buffer.alloc(16, 9), ended: NO_LINK, port: 0, hosts: [], hello: Buffer.from('attacker') }))
  }

  /** As a good peer does, up to the link. */
  async link(): Promise<this> {
    this.prove()
    await this.got(KIND.proof)
    await this.got(KIND.hello)
    this.greet()
    await this.got(KIND.use)
    return this
  }
}

/** A device whose key is below all others: the attacked one decides. Ed25519 keys cannot be chosen; the least of many will do. */
export function humbleDevice(): Device {
  return Array.from({ length: 64 }, createDevice).reduce((least, device) => (Buffer.compare(device.publicKey, least.publicKey) < 0 ? device : least))
}

/** One whose key is above all others, to be attacked. */
export function proudDevice(): Device {
  return Array.from({ length: 64 }, createDevice).reduce((most, device) => (Buffer.compare(device.publicKey, most.publicKey) > 0 ? device : most))
}

/** Through the gate and the Noise handshake. Rejects if there is no way through. */
export async function attack(t: Assert, node: Node, keys: DriveKeys, device = humbleDevice()): Promise<Attacker> {
  return new Promise((resolve, reject) => {
    const tcp = new Tcp({
      device, member: keys, onRefused() {},
      onStream: (stream) => resolve(new Attacker(stream, keys, device)),
    })
    t.teardown(() => tcp.close())
    tcp.dial({ host: HOST, port: node.net.port }, undefined).catch(reject)
  })
}
