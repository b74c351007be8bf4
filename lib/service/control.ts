/**
 * The server of the control socket. Who may connect is the file system's
 * decision: the socket is 0600 in the store's 0700 directory.
 *
 * Invariants: a connection that sends anything but frames is dropped and costs
 * nobody else anything; what is held for all connections together is bounded by
 * MAX_CONNECTIONS frames plus BUDGET_BYTES plus one answer of each call.
 */
import { chmodSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { fail } from '../errors.js'
import { socketAddress, type SocketAddress } from './socket.js'
import { Session, type Result, type ServiceApi } from './calls.js'
import {
  encodeFrame, FrameReader, MAX_CALLS, MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, packError, PROTOCOL_VERSION, type Frame,
} from './protocol.js'

/** Command lines and scripts of one user; more is a loop gone wrong. */
const MAX_CONNECTIONS = 64
/** Payloads of calls under way, all connections together, before reading from the sockets pauses. */
const BUDGET_BYTES = 32 * 1024 * 1024
/** Answers that a client has not read yet, before reading more of its calls pauses. */
const MAX_UNREAD_BYTES = 1024 * 1024
/** Progress is for eyes. */
const PROGRESS_INTERVAL_MS = 100
/** Half of a header's limit leaves room for the id and for escapes. */
const MAX_INLINE_VALUE_BYTES = MAX_HEADER_BYTES / 2

/** `onFault` hears of errors that are no DfsError: faults of this program. */
export interface ControlOptions { path: string; service: ServiceApi; onFault: (call: string, error: unknown) => void }

export class ControlServer {
  readonly #options: ControlOptions
  readonly #server: Server
  #address: SocketAddress | undefined
  #connections = new Set<Connection>()
  #heldBytes = 0
  #quiescing: Promise<void> | undefined
  #closed: Promise<void> | undefined

  private constructor(options: ControlOptions) {
    this.#options = options
    this.#server = createServer((socket) => this.#accept(socket))
    this.#server.maxConnections = MAX_CONNECTIONS
  }

  /** Replaces a socket that a killed daemon left behind: the caller holds the store's lock, so nobody listens there. */
  static async listen(options: ControlOptions): Promise<ControlServer> {
    const control = new ControlServer(options)
    const address = control.#address = socketAddress(options.path)
    try {
      rmSync(address.path, { force: true })
      await new Promise<void>((resolve, reject) => {
        control.#server.once('error', reject)
        control.#server.listen(address.path, () => {
          control.#server.off('error', reject)
          resolve()
        })
      })
      chmodSync(address.path, 0o600)
    } catch (error) {
      await control.close()
      throw error
    }
    return control
  }

  /**
   * No new calls: removes the socket, tells who asks that the daemon is
   * stopping, waits for what is under way and closes the clients' files. The
   * connections stay: their end tells clients that the store is free.
   */
  quiesce(): Promise<void> {
    return (this.#quiescing ??= this.#quiesce())
  }

  /**
   * The drive is being replaced by one that may lack the last seconds: whoever has something under way, or open, is cut off, and
   * must not go on as if nothing had happened.
   */
  async reset(): Promise<void> {
    await Promise.all([...this.#connections].map((c) => c.reset()))
  }

  async #quiesce(): Promise<void> {
    this.#closed = new Promise((resolve) => this.#server.close(() => resolve()))
    await Promise.all([...this.#connections].map((c) => c.quiesce()))
  }

  /** Quiesces, then ends the connections. May be called twice. */
  async close(): Promise<void> {
    await this.quiesce()
    await Promise.all([...this.#connections].map((c) => c.end()))
    await this.#closed
    this.#address?.release()
  }

  #accept(socket: Socket): void {
    if (this.#quiescing) return void socket.destroy()
    const connection = new Connection(socket, this.#options, {
      hold: (bytes) => (this.#heldBytes += bytes) > BUDGET_BYTES,
      release: (bytes) => {
        this.#heldBytes -= bytes
        if (this.#heldBytes <= BUDGET_BYTES) for (const c of this.#connections) c.resumeIfRoom()
      },
      isFull: () => this.#heldBytes > BUDGET_BYTES,
    })
    this.#connections.add(connection)
    void connection.closed.then(() => this.#connections.delete(connection))
  }
}

interface Budget {
  hold(bytes: number): boolean
  release(bytes: number): void
  isFull(): boolean
}

class Connection {
  readonly closed: Promise<void>
  #socket: Socket
  #options: ControlOptions
  #budget: Budget
  #session: Session
  #reader = new FrameReader()
  #calls = new Map<number, AbortController>()
  #running = new Set<Promise<void>>()
  #isStopping = false

  constructor(socket: Socket, options: ControlOptions, budget: Budget) {
    this.#socket = socket
    this.#options = options
    this.#budget = budget
    this.#session = new Session(options.service)
    socket.on('data', (bytes) => this.#receive(bytes))
    socket.on('drain', () => this.resumeIfRoom())
    socket.on('error', () => socket.destroy())
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        for (const controller of this.#calls.values()) controller.abort()
        // Files are closed after the calls that use them.
        void Promise.allSettled(this.#running).then(() => this.#session.close()).then(resolve)
      })
    })
    this.#send({ hello: PROTOCOL_VERSION, pid: process.pid })
  }

  /** Does not wait for calls that hang on the old drive: they fail when it is closed. */
  reset(): void {
    if (this.#session.hasState) this.#socket.destroy()
  }

  async quiesce(): Promise<void> {
    this.#isStopping = true
    for (const controller of this.#calls.values()) controller.abort()
    await Promise.allSettled(this.#running)
    await this.#session.close()
  }

  /** Lets the answers that are written reach the client, then ends. */
  async end(): Promise<void> {
    this.#socket.end()
    // A client that does not read must not hold up the end of the daemon.
    const timer = setTimeout(() => this.#socket.destroy(), 1000)
    await this.closed
    clearTimeout(timer)
  }

  resumeIfRoom(): void {
    if (this.#socket.isPaused() && !this.#isFull()) this.#socket.resume()
  }

  #isFull(): boolean {
    return this.#calls.size >= MAX_CALLS || this.#socket.writableLength > MAX_UNREAD_BYTES || this.#budget.isFull()
  }

  #receive(bytes: Buffer): void {
    try {
      for (const frame of this.#reader.push(bytes)) this.#take(frame)
    } catch {
      // Not our protocol: nothing that could be said would be understood.
      this.#socket.destroy()
    }
    if (this.#isFull()) this.#socket.pause()
  }

  #take({ header, payload }: Frame): void {
    if (this.#socket.destroyed) return
    if (typeof header.cancel === 'number') {
      this.#calls.get(header.cancel)?.abort()
      return
    }
    const { id, call, args } = header
    if (!Number.isSafeInteger(id) || typeof call !== 'string' || typeof args !== 'object' || args === null || this.#calls.has(id as number)) {
      this.#socket.destroy()
      return
    }
    if (this.#isStopping) return this.#send(packError(id as number, fail('DAEMON_UNREACHABLE', 'the daemon is stopping; try again')))
    const running = this.#run(id as number, call, args as Record<string, unknown>, payload)
    this.#running.add(running)
    void running.finally(() => this.#running.delete(running))
  }

  async #run(id: number, call: string, args: Record<string, unknown>, payload: Buffer): Promise<void> {
    const controller = new AbortController()
    this.#calls.set(id, controller)
    this.#budget.hold(payload.length)
    let reportedMs = 0
    try {
      const result = await this.#session.call(call, args, {
        payload,
        signal: controller.signal,
        onProgress: (progress) => {
          const nowMs = performance.now()
          if (nowMs - reportedMs < PROGRESS_INTERVAL_MS) return
          reportedMs = nowMs
          this.#send({ id, progress })
        },
      })
      await this.#answer(id, result)
    } catch (error) {
      const answer = packError(id, error)
      if ('code' in answer && answer.code === 'DAEMON_FAILED') this.#options.onFault(call, error)
      this.#send(answer)
    } finally {
      this.#calls.delete(id)
      this.#budget.release(payload.length)
      this.resumeIfRoom()
    }
  }

  async #answer(id: number, result: Result): Promise<void> {
    if ('bytes' in result) return this.#send({ id, value: null }, result.bytes)
    const value = 'json' in result ? result.json : result.value
    const text = Buffer.from(JSON.stringify(value ?? null))
    if (text.length <= MAX_INLINE_VALUE_BYTES) return this.#send({ id, value: value ?? null })
    let offset = 0
    for (; text.length - offset > MAX_PAYLOAD_BYTES; offset += MAX_PAYLOAD_BYTES) {
      this.#send({ id, more: true }, text.subarray(offset, offset + MAX_PAYLOAD_BYTES))
      if (this.#socket.writableNeedDrain) await this.#drained()
    }
    this.#send({ id, json: true }, text.subarray(offset))
  }

  #drained(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#socket.off('drain', done).off('close', done)
        resolve()
      }
      this.#socket.on('drain', done).on('close', done)
      if (this.#socket.destroyed) done()
    })
  }

  #send(header: object, payload?: Buffer): void {
    if (!this.#socket.writable) return
    this.#socket.cork()
    for (const part of encodeFrame(header, payload)) this.#socket.write(part)
    this.#socket.uncork()
  }
}
