/**
 * The TCP transport: listens and dials, opens the gate, shakes hands with Noise
 * (tcp-stream.ts), and hands over a stream whose other
 * end is a device with the key that the stream names. Membership is proven on
 * the stream itself (conn.ts).
 *
 * Owns: the listener and every socket until its stream is handed over.
 */
import { createConnection, createServer, Socket, type Server, type SocketConstructorOpts, type TcpNetConnectOpts } from 'node:net'
import sodium from 'sodium-native'
import { fail } from '../../errors.js'
import { MAX_ACCEPTED_PER_ADDRESS, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS } from '../../limits.js'
import { formatAddress, networkOf, plainHost, type Address } from './address.js'
import { FrameGuard } from './guard.js'
import { gateMac, GATE_NONCE_BYTES, MAC_BYTES, sameMac, type Membership, type Role } from './handshake.js'
import { copyReads, SOCKET_BYTES, TcpStream } from './tcp-stream.js'

/** Of the connection itself, and of each step after. */
const CONNECT_TIMEOUT_MS = 5000
const STEP_TIMEOUT_MS = 5000

export interface TcpOptions {
  device: { publicKey: Buffer; secretKey: Buffer }
  member: Membership
  /** A stream whose Noise handshake is done; `context` is what dial() was given. */
  onStream(stream: TcpStream, guard: FrameGuard, origin: { role: Role } & Address, context: unknown): void
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
    const server = createServer({ noDelay: true, pauseOnConnect: true }, (socket) => this.#accept(socket))
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
    const guard = new FrameGuard()
    const stream = new TcpStream('dialler', guard)
    const socket = createConnection({ ...address, noDelay: true, onread: stream.onread, writableHighWaterMark: SOCKET_BYTES } as TcpNetConnectOpts)
    stream.attach(socket)
    stream.on('error', () => {})
    this.#dialling.add(socket)
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => socket.destroy(new Error('no answer')))
    socket.on('error', () => {})
    try {
      await connected(socket)
      socket.setTimeout(0)
      const host = plainHost(socket.remoteAddress ?? address.host)
      await this.#shake(stream, socket, guard, { host, port: address.port }, context)
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

  #accept(accepted: Socket): void {
    accepted.on('error', () => {})
    const { remoteAddress, remotePort } = accepted
    const guard = new FrameGuard()
    const stream = new TcpStream('answerer', guard)
    const socket = reading(accepted, stream)
    stream.attach(socket)
    stream.on('error', () => {})
    const host = plainHost(remoteAddress ?? '')
    const port = remotePort ?? 0
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
    this.#shake(stream, socket, guard, { host, port }).catch((error: Error) => {
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

  async #shake(stream: TcpStream, socket: Socket, guard: FrameGuard, address: Address, context?: unknown): Promise<void> {
    const role = stream.isInitiator ? 'dialler' : 'answerer'
    await deadline(socket, 'the gate was not answered in time', () => this.#gate(stream, role))
    await deadline(socket, 'the Noise handshake was not done in time', () => stream.shake(this.#options.device))
    this.#options.onStream(stream, guard, { role, ...address }, context)
  }

  async #gate(stream: TcpStream, role: Role): Promise<void> {
    const { member } = this.#options
    const own = Buffer.alloc(GATE_NONCE_BYTES)
    sodium.randombytes_buf(own)
    if (role === 'answerer') {
      stream.writeRaw(own)
      const answer = await stream.take(GATE_NONCE_BYTES + MAC_BYTES)
      const theirs = answer.subarray(0, GATE_NONCE_BYTES)
      if (!sameMac(gateMac(member, 'dialler', own, theirs), answer.subarray(GATE_NONCE_BYTES))) throw new Error('no member at the gate')
      stream.writeRaw(gateMac(member, 'answerer', own, theirs))
    } else {
      const theirs = await stream.take(GATE_NONCE_BYTES)
      stream.writeRaw(Buffer.concat([own, gateMac(member, 'dialler', theirs, own)]))
      if (!sameMac(gateMac(member, 'answerer', theirs, own), await stream.take(MAC_BYTES))) throw new Error('it does not belong to this drive')
    }
  }
}

/**
 * An accepted socket that reads into the stream's buffer. A server has no such option for the sockets that it makes, so the
 * connection goes over to one made here; should a version of Node not allow that, what comes is copied.
 */
function reading(accepted: Socket, stream: TcpStream): Socket {
  const owner = accepted as Socket & { _handle?: object | null }
  const handle = owner._handle
  if (handle) {
    owner._handle = null
    accepted.destroy()
    return new Socket({ handle, onread: stream.onread, readable: true, writable: true, writableHighWaterMark: SOCKET_BYTES } as SocketConstructorOpts)
  }
  copyReads(accepted, stream)
  return accepted
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('the connection ended in the handshake')))
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
