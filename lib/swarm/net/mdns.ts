/**
 * Devices on the local network find each other by multicast DNS: each asks at
 * the start and then ever more seldom, and answers who asks.
 *
 * Owns: one socket an interface.
 */
import { createSocket, type Socket } from 'node:dgram'
import { networkInterfaces } from 'node:os'
import sodium from 'sodium-native'
import { mayDial, type Address } from './address.js'
import { answer, hear, NONCE_BYTES, question } from './mdns-packet.js'

const GROUP = '224.0.0.251'
const PORT = 5353
const FIRST_ASK_MS = 1000
const MAX_ASK_MS = 60_000
/** RFC 6762, 6: a shared record is answered after 20 to 120 ms, and at most once a second. */
const ANSWER_MS = { least: 20, most: 120, interval: 1000 }
/** Replayed answers from made-up addresses cost a few dials, no more. */
const MAX_FOUND_PER_MINUTE = 60

export interface MdnsOptions {
  proofKey: Buffer
  /** Where this device listens for TCP. */
  port: number
  /** The one address to be found at; absent: all. */
  host: string | undefined
  onFound(address: Address): void
}

export class Mdns {
  readonly #options: MdnsOptions
  readonly #nonce = Buffer.alloc(NONCE_BYTES)
  #sockets: Socket[] = []
  #askTimer: NodeJS.Timeout | undefined
  #askMs = FIRST_ASK_MS
  #answerTimer: NodeJS.Timeout | undefined
  #answeredMs = -Infinity
  #found = 0
  #foundMs = performance.now()
  #isClosed = false

  constructor(options: MdnsOptions) {
    this.#options = options
    sodium.randombytes_buf(this.#nonce)
  }

  /** It could have a socket. */
  get isOn(): boolean { return this.#sockets.length > 0 }

  start(): void {
    for (const address of interfaceAddresses(this.#options.host)) this.#open(address)
    this.#askMs = FIRST_ASK_MS
    this.#askLater()
  }

  /** Interfaces have changed. */
  restart(): void {
    if (this.#isClosed) return
    this.#stop()
    this.start()
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#answerTimer)
    this.#send(answer(this.#options.proofKey, this.#nonce, this.#options.port, true))
    this.#stop()
  }

  #stop(): void {
    clearTimeout(this.#askTimer)
    const sockets = this.#sockets
    this.#sockets = []
    // After what was just sent.
    setImmediate(() => {
      for (const socket of sockets) socket.close()
    })
  }

  #open(address: string): void {
    const socket = createSocket({ type: 'udp4', reuseAddr: true })
    // No such port, no multicast: then devices are found in another way.
    socket.on('error', () => {
      if (!this.#sockets.includes(socket)) return
      this.#sockets = this.#sockets.filter((other) => other !== socket)
      socket.close()
    })
    socket.on('message', (packet, from) => this.#heard(packet, from.address))
    socket.bind(PORT, () => {
      if (!this.#sockets.includes(socket)) return
      try {
        socket.addMembership(GROUP, address)
        socket.setMulticastInterface(address)
        socket.setMulticastTTL(255)
        socket.setMulticastLoopback(true)
      } catch (error) {
        socket.emit('error', error)
        return
      }
      this.#sendBy(socket, answer(this.#options.proofKey, this.#nonce, this.#options.port))
      this.#sendBy(socket, question())
    })
    this.#sockets.push(socket)
  }

  #heard(packet: Buffer, host: string): void {
    const heard = hear(packet, this.#options.proofKey)
    if (!heard || this.#isClosed) return
    if (heard.type === 'question') return this.#answerSoon()
    if (heard.nonce.equals(this.#nonce) || !mayDial(host, host) || !this.#mayFind()) return
    this.#options.onFound({ host, port: heard.port })
  }

  #mayFind(): boolean {
    const nowMs = performance.now()
    if (nowMs - this.#foundMs > 60_000) {
      this.#foundMs = nowMs
      this.#found = 0
    }
    return this.#found++ < MAX_FOUND_PER_MINUTE
  }

  #answerSoon(): void {
    if (this.#answerTimer) return
    const restMs = Math.max(0, this.#answeredMs + ANSWER_MS.interval - performance.now())
    this.#answerTimer = setTimeout(() => {
      this.#answerTimer = undefined
      this.#answeredMs = performance.now()
      this.#send(answer(this.#options.proofKey, this.#nonce, this.#options.port))
    }, restMs + ANSWER_MS.least + Math.random() * (ANSWER_MS.most - ANSWER_MS.least))
  }

  #askLater(): void {
    this.#askTimer = setTimeout(() => {
      this.#send(question())
      this.#askMs = Math.min(3 * this.#askMs, MAX_ASK_MS)
      this.#askLater()
    }, this.#askMs * (0.75 + Math.random() / 2))
  }

  #send(packet: Buffer): void {
    for (const socket of this.#sockets) this.#sendBy(socket, packet)
  }

  #sendBy(socket: Socket, packet: Buffer): void {
    socket.send(packet, PORT, GROUP, () => {}) // an interface that is down drops it
  }
}

function interfaceAddresses(host: string | undefined): string[] {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []).filter((a) => a.family === 'IPv4')
  if (host !== undefined && host !== '0.0.0.0' && host !== '::') return all.filter((a) => a.address === host).map((a) => a.address)
  return all.filter((a) => !a.internal).map((a) => a.address)
}
