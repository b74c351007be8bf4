/**
 * Devices on the local network find each other by multicast DNS: each asks at
 * the start and then ever more seldom, and answers who asks. Over IPv4, and over
 * IPv6 by link-local addresses, which are there also where nobody gives any.
 *
 * Owns: one socket an IPv4 address, and one for IPv6 an interface.
 */
import { createSocket, type Socket } from 'node:dgram'
import { networkInterfaces } from 'node:os'
import sodium from 'sodium-native'
import { mayDial, type Address } from './address.js'
import { answer, hear, NONCE_BYTES, question } from './mdns-packet.js'

const GROUP = { udp4: '224.0.0.251', udp6: 'ff02::fb' } as const
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

/** Where it asks and answers: on an IPv4 address, or an IPv6 interface (as `::%eth0`), to `group`. */
interface Place { type: 'udp4' | 'udp6'; by: string; group: string }

export class Mdns {
  readonly #options: MdnsOptions
  readonly #nonce = Buffer.alloc(NONCE_BYTES)
  #sockets = new Map<Socket, Place>()
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
  get isOn(): boolean { return this.#sockets.size > 0 }

  start(): void {
    for (const place of places(this.#options.host)) this.#open(place)
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
    const sockets = [...this.#sockets.keys()]
    this.#sockets.clear()
    // After what was just sent.
    setImmediate(() => {
      for (const socket of sockets) socket.close()
    })
  }

  #open(place: Place): void {
    const { type, by, group } = place
    const socket = createSocket({ type, reuseAddr: true, ipv6Only: type === 'udp6' })
    // No such port, no multicast: then devices are found in another way.
    socket.on('error', () => {
      if (this.#sockets.delete(socket)) socket.close()
    })
    socket.on('message', (packet, from) => this.#heard(packet, from.address))
    socket.bind(PORT, () => {
      if (!this.#sockets.has(socket)) return
      try {
        socket.addMembership(group, by)
        socket.setMulticastInterface(by)
        socket.setMulticastTTL(255)
        socket.setMulticastLoopback(true)
      } catch (error) {
        socket.emit('error', error)
        return
      }
      this.#sendBy(socket, place, answer(this.#options.proofKey, this.#nonce, this.#options.port))
      this.#sendBy(socket, place, question())
    })
    this.#sockets.set(socket, place)
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
    for (const [socket, place] of this.#sockets) this.#sendBy(socket, place, packet)
  }

  #sendBy(socket: Socket, { type, by, group }: Place, packet: Buffer): void {
    // An interface that is down drops it.
    socket.send(packet, PORT, type === 'udp6' ? group + by.slice(by.indexOf('%')) : group, () => {})
  }
}

function places(host: string | undefined): Place[] {
  const isAny = host === undefined || host === '0.0.0.0' || host === '::'
  const all = Object.entries(networkInterfaces()).flatMap(([name, list]) => (list ?? []).map((a) => ({ name, ...a }))).filter((a) => (isAny ? !a.internal : a.address === host))
  const four = all.filter((a) => a.family === 'IPv4').map(({ address }): Place => ({ type: 'udp4', by: address, group: GROUP.udp4 }))
  // Who listens on an IPv4 address alone is not to be found at others.
  const six = all.filter((a) => a.family === 'IPv6' && host !== '0.0.0.0' && (!isAny || a.address.startsWith('fe80'))).map((a) => a.name)
  return [...four, ...[...new Set(six)].map((name): Place => ({ type: 'udp6', by: `::%${name}`, group: GROUP.udp6 }))]
}
