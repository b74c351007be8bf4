/** An open file of the daemon. */
import type { FileHandle, Stats, SyncOptions } from '../api.js'
import { MAX_PAYLOAD_BYTES } from './protocol.js'

/** Pieces of one large read or write under way at once: hides the round trip, holds 2 MiB. */
const PIECES = 8

/** Makes a call with this file's handle. */
export type FileCall = (call: string, args: object, payload?: Buffer) => Promise<{ value: unknown; payload: Buffer }>

export class RemoteFile implements FileHandle {
  #call: FileCall
  #writes = new Set<Promise<unknown>>()
  #closing: Promise<void> | undefined

  constructor(call: FileCall) {
    this.#call = call
  }

  async stat(): Promise<Stats> {
    return (await this.#call('fstat', {})).value as Stats
  }

  async read(offset: number, length: number): Promise<Buffer> {
    if (length <= MAX_PAYLOAD_BYTES) return (await this.#call('read', { offset, length })).payload
    const pieces: Buffer[] = []
    for (let done = 0; done < length;) {
      const round: Promise<{ payload: Buffer }>[] = []
      for (let i = 0; i < PIECES && done < length; i++, done += MAX_PAYLOAD_BYTES) {
        round.push(this.#call('read', { offset: offset + done, length: Math.min(MAX_PAYLOAD_BYTES, length - done) }))
      }
      for (const { payload } of await Promise.all(round)) {
        pieces.push(payload)
        // The end of the file; a later piece is empty or, if the file grew just now, not adjacent.
        if (payload.length < MAX_PAYLOAD_BYTES) return Buffer.concat(pieces)
      }
    }
    return Buffer.concat(pieces)
  }

  async write(offset: number, data: Buffer): Promise<void> {
    const round: Promise<unknown>[] = []
    for (let done = 0; done < data.length || done === 0; done += MAX_PAYLOAD_BYTES) {
      if (this.#writes.size >= PIECES) await Promise.race(this.#writes)
      const piece = this.#call('write', { offset: offset + done }, data.subarray(done, done + MAX_PAYLOAD_BYTES))
      const settled = piece.catch(() => {}).finally(() => this.#writes.delete(settled))
      this.#writes.add(settled)
      round.push(piece)
    }
    // All, so that no piece is still under way when this fails.
    for (const result of await Promise.allSettled(round)) if (result.status === 'rejected') throw result.reason
  }

  async truncate(size: number): Promise<void> {
    await this.#call('truncate', { size })
  }

  async sync({ acks, timeoutMs }: SyncOptions = {}): Promise<void> {
    await this.#call('fsync', { acks, timeoutMs })
  }

  close(): Promise<void> {
    // After the writes under way: pieces of one that failed may still be.
    return (this.#closing ??= Promise.all(this.#writes).then(() => this.#call('close', {})).then(() => {}))
  }
}
