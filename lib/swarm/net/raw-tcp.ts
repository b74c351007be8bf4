/**
 * A TCP socket as @hyperswarm/secret-stream wants its raw stream, with the guard
 * in front: bytes that it does not admit are never seen by the stream.
 */
import { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import type { Socket } from 'node:net'
import type { FrameGuard } from './guard.js'

export class RawTcp extends EventEmitter {
  readonly #socket: Socket

  constructor(socket: Socket, guard: FrameGuard) {
    super()
    this.#socket = socket
    // The socket flows from its first listener on: not before the stream listens.
    this.on('newListener', (event) => {
      if (event !== 'data' || this.listenerCount('data') > 0) return
      socket.on('data', (data: Buffer) => {
        if (guard.admits(data)) this.emit('data', data)
        else this.destroy(new Error('frames that are too long'))
      })
      socket.resume()
    })
    socket.on('end', () => this.emit('end'))
    socket.on('drain', () => this.emit('drain'))
    socket.on('close', () => this.emit('close'))
    socket.on('error', (error) => this.emit('error', error))
  }

  /** The part of a stream that is used, and it alone, is there. */
  asDuplex(): Duplex { return this as unknown as Duplex }

  write(data: Uint8Array): boolean { return this.#socket.write(data) }
  end(): void { this.#socket.end() }
  pause(): void { this.#socket.pause() }
  resume(): void { this.#socket.resume() }

  destroy(error?: Error): void {
    if (error && !this.#socket.destroyed) this.emit('error', error)
    this.#socket.destroy()
  }
}
