/**
 * The TCP transport: listens and dials, opens the gate, shakes hands with Noise
 * (XX, as @hyperswarm/secret-stream does it), and hands over a stream whose other
 * end is a device with the key that the stream names. Membership is proven on
 * the stream itself (conn.ts).
 *
 * Owns: the listener and every socket until its stream is handed over.
 */
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import SecretStream from '@hyperswarm/secret-stream'
import sodium from 'sodium-native'
import { fail } from '../../errors.js'
import { MAX_ACCEPTED_PER_ADDRESS, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS } from '../../limits.js'
import { formatAddress, networkOf, plainHost, type Address } from './address.js'
import { FrameGuard } from './guard.js'
import { gateMac, GATE_NONCE_BYTES, MAC_BYTES, sameMac, type Membership, type Role } from './handshake.js'
import { RawTcp } from './raw-tcp.js'

/** Of the connection itself, and of each step after. */
const CONNECT_TIMEOUT_MS = 5000
const STEP_TIMEOUT_MS = 5000

export interface TcpOptions {
  device: { publicKey: Buffer; secretKey: Buffer }
  member: Membership
  /** A stream whose Noise handshake is done; `context` is what dial() was given. */
  onStream(stream: SecretStream, guard: FrameGuard, origin: { role: Role } & Address, context: unknown): void
  /** A connection was not taken, or did not get through its handshake. */
  onRefused(reason: string): void
}

interface HalfOpen { socket: Socket; network: string; sinceMs: number }

export class Tcp {
  readonly #options: TcpOptions
  #server: Server | undefined
  #isClosed = false
  /** Accepted, in handshake; oldest first. */
  readonly #halfOpen = new Set<HalfOpen>()
  /** Accepted and alive, by network. */
  readonly #accepted = new Map<string, number>()
  readonly #dialling = new Set<Socket>()

  constructor(options: TcpOptions) {
    this.#options = options
  }

  get port(): number {
    const address = this.#server?.address()
    return address && typeof address === 'object' ? address.port : 0
  }

  get halfOpen(): number { return this.#halfOpen.size + this.#dialling.size }

  /** USAGE if the port or the address cannot be had. */
  async listen(port: number, host: string | undefined): Promise<void> {
    const server = createServer({ noDelay: true }, (socket) => this.#accept(socket))
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        const where = host === undefined ? `port ${port}` : formatAddress({ host, port })
        reject(fail('USAGE', `cannot listen on ${where} (${error.code}); ${error.code === 'EADDRINUSE' ? 'another program has it, choose another port' : 'choose another port or address'}`, error))
      })
      server.listen({ port, host, exclusive: true }, resolve)
    })
    // Out of descriptors, for one: the connection is lost, the listener stays.
    server.on('error', (error) => this.#options.onRefused(error.message))
    this.#server = server
    if (this.#isClosed) server.close()
  }

  /** Resolves when the stream has been handed over. Rejects with why there is none. */
  async dial(address: Address, context: unknown): Promise<void> {
    if (this.#isClosed) throw new Error('closed')
    const socket = createConnection({ ...address, noDelay: true })
    this.#dialling.add(socket)
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => socket.destroy(new Error('no answer')))
    socket.on('error', () => {})
    try {
      await settled(socket, 'connect', () => true)
      socket.setTimeout(0)
      const host = plainHost(socket.remoteAddress ?? address.host)
      await this.#shake(socket, 'dialler', { host, port: address.port }, context)
    } catch (error) {
      socket.destroy()
      throw error
    } finally {
      this.#dialling.delete(socket)
    }
  }

  close(): void {
    this.#isClosed = true
    this.#server?.close()
    for (const { socket } of this.#halfOpen) socket.destroy()
    for (const socket of this.#dialling) socket.destroy()
  }

  #accept(socket: Socket): void {
    socket.on('error', () => {})
    const host = plainHost(socket.remoteAddress ?? '')
    const port = socket.remotePort ?? 0
    const network = networkOf(host)
    const refusal = this.#refusal(network)
    if (host === '' || refusal !== undefined) {
      socket.destroy()
      return this.#options.onRefused(refusal ?? 'gone at once')
    }
    this.#accepted.set(network, (this.#accepted.get(network) ?? 0) + 1)
    socket.on('close', () => {
      const left = this.#accepted.get(network)! - 1
      if (left > 0) this.#accepted.set(network, left)
      else this.#accepted.delete(network)
    })
    const entry = { socket, network, sinceMs: performance.now() }
    this.#halfOpen.add(entry)
    if (this.#halfOpen.size > MAX_HALF_OPEN) {
      // Who means it is through in a moment: the one that has waited longest does not.
      const [oldest] = this.#halfOpen
      oldest!.socket.destroy(new Error('too many connections in handshake'))
    }
    this.#shake(socket, 'answerer', { host, port }).catch((error: Error) => {
      socket.destroy()
      this.#options.onRefused(error.message)
    }).finally(() => this.#halfOpen.delete(entry))
  }

  #refusal(network: string): string | undefined {
    if (this.#isClosed) return 'closed'
    if ((this.#accepted.get(network) ?? 0) >= MAX_ACCEPTED_PER_ADDRESS) return 'too many connections of one address'
    let ofNetwork = 0
    for (const other of this.#halfOpen) if (other.network === network) ofNetwork++
    return ofNetwork >= MAX_HALF_OPEN_PER_ADDRESS ? 'too many connections of one address in handshake' : undefined
  }

  async #shake(socket: Socket, role: Role, address: Address, context?: unknown): Promise<void> {
    await deadline(socket, 'the gate was not answered in time', () => this.#gate(socket, role))
    const guard = new FrameGuard()
    const { publicKey, secretKey } = this.#options.device
    const stream = new SecretStream(role === 'dialler', new RawTcp(socket, guard).asDuplex(), { keyPair: { publicKey, secretKey }, enableSend: false })
    let failure: Error | undefined
    stream.on('error', (error: Error) => {
      failure ??= error
    })
    const isOpen = await deadline(socket, 'the Noise handshake was not done in time', () => stream.opened)
    if (!isOpen || stream.destroying) throw failure ?? new Error('the Noise handshake failed')
    this.#options.onStream(stream, guard, { role, ...address }, context)
  }

  async #gate(socket: Socket, role: Role): Promise<void> {
    const { member } = this.#options
    const own = Buffer.alloc(GATE_NONCE_BYTES)
    sodium.randombytes_buf(own)
    if (role === 'answerer') {
      socket.write(own)
      const answer = await take(socket, GATE_NONCE_BYTES + MAC_BYTES)
      const theirs = answer.subarray(0, GATE_NONCE_BYTES)
      if (!sameMac(gateMac(member, 'dialler', own, theirs), answer.subarray(GATE_NONCE_BYTES))) throw new Error('no member at the gate')
      socket.write(gateMac(member, 'answerer', own, theirs))
    } else {
      const theirs = await take(socket, GATE_NONCE_BYTES)
      socket.write(Buffer.concat([own, gateMac(member, 'dialler', theirs, own)]))
      if (!sameMac(gateMac(member, 'answerer', theirs, own), await take(socket, MAC_BYTES))) throw new Error('it does not belong to this drive')
    }
  }
}

/** Exactly so many bytes; what comes after stays in the socket. */
function take(socket: Socket, length: number): Promise<Buffer> {
  // One listener throughout: a new one is told at once of bytes that lie there, too few as they are, again and again.
  return settled(socket, 'readable', () => {
    // Gives null until so many are there, but all that is left once the end has come.
    const bytes = socket.read(length) as Buffer | null
    if (bytes && bytes.length < length) throw new Error('the connection ended in the handshake')
    return bytes ?? undefined
  })
}

/** What `look` gives, tried now and at each `event`. Rejects with what `look` throws, or when the socket has ended. */
function settled<T>(socket: Socket, event: 'connect' | 'readable', look: () => T | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    const done = () => socket.off(event, onEvent).off('error', onError).off('close', onClose).off('end', onClose)
    const onError = (error: Error) => {
      done()
      reject(error)
    }
    const onClose = () => onError(new Error('the connection ended in the handshake'))
    const onEvent = () => {
      try {
        const value = look()
        if (value === undefined) return
        done()
        resolve(value)
      } catch (error) {
        onError(error as Error)
      }
    }
    socket.on(event, onEvent).on('error', onError).on('close', onClose).on('end', onClose)
    if (socket.destroyed) onClose()
    else if (event === 'readable') onEvent()
  })
}

async function deadline<T>(socket: Socket, message: string, step: () => Promise<T>): Promise<T> {
  const timer = setTimeout(() => socket.destroy(new Error(message)), STEP_TIMEOUT_MS)
  try {
    return await step()
  } finally {
    clearTimeout(timer)
  }
}
