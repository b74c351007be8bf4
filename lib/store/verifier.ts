/**
 * Whether sealed chunks on the disk are what their ids say: read and hashed by a
 * thread of its own, past the page cache, so that it is the disk that is looked at,
 * and nothing that programs use is pushed out. What fails is read once more before
 * it is said to be bad.
 *
 * Owns the thread, which is there while there is something to do.
 */
import { Worker } from 'node:worker_threads'
import { fail } from '../errors.js'

export interface SealedPlace {
  /** Of the sealed bytes, in the segment. */
  offset: number
  length: number
  /** 32 bytes: BLAKE3 of the sealed bytes. */
  id: Buffer
}
export const VERDICTS = ['sound', 'damaged', 'unreadable'] as const
export type Verdict = typeof VERDICTS[number]

/** `places`: offset, length pairs; `ids`: 32 bytes each. Answered by the index of a verdict for each, or `error`. */
export interface VerifyJob { token: number; path: string; places: Float64Array; ids: Uint8Array }
export interface VerifyAnswer { token: number; verdicts: Uint8Array; error?: string }

interface Pending { resolve(verdicts: Verdict[]): void; reject(e: Error): void }

export class Verifier {
  #worker: Worker | null = null
  readonly #pending = new Map<number, Pending>()
  #next = 1
  #isClosed = false

  /** Of one segment file, `places` by rising offsets; a verdict for each. EBADF when it is closed, EIO if the thread fails. */
  verify(path: string, places: readonly SealedPlace[]): Promise<Verdict[]> {
    if (this.#isClosed) return Promise.reject(fail('EBADF', 'the verifier is closed'))
    const numbers = new Float64Array(places.length * 2)
    const ids = new Uint8Array(places.length * 32)
    places.forEach(({ offset, length, id }, i) => {
      numbers[2 * i] = offset
      numbers[2 * i + 1] = length
      ids.set(id, 32 * i)
    })
    const token = this.#next++
    const worker = this.#start()
    return new Promise((resolve, reject) => {
      this.#pending.set(token, { resolve, reject })
      worker.ref()
      worker.postMessage({ token, path, places: numbers, ids } satisfies VerifyJob)
    })
  }

  #start(): Worker {
    if (this.#worker) return this.#worker
    const worker = new Worker(new URL('./verify-worker.js', import.meta.url), { name: 'dfs-verify' })
    worker.on('message', ({ token, verdicts, error }: VerifyAnswer) => {
      const pending = this.#pending.get(token)
      this.#pending.delete(token)
      if (this.#pending.size === 0) worker.unref()
      if (error === undefined) pending?.resolve([...verdicts].map((v) => VERDICTS[v]!))
      else pending?.reject(fail('EIO', error))
    })
    worker.on('error', (e) => this.#lost(worker, e))
    worker.on('exit', () => this.#lost(worker, undefined))
    return (this.#worker = worker)
  }

  #lost(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return
    this.#worker = null
    this.#refuse(fail('EIO', 'the thread that verifies chunks has ended', cause))
  }

  #refuse(why: Error): void {
    for (const { reject } of this.#pending.values()) reject(why)
    this.#pending.clear()
  }

  /** Nothing is to be done for a while. */
  async rest(): Promise<void> {
    if (this.#pending.size === 0) await this.#end()
  }

  /** May be called twice. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#refuse(fail('EBADF', 'the verifier is closed'))
    await this.#end()
  }

  async #end(): Promise<void> {
    const worker = this.#worker
    this.#worker = null
    await worker?.terminate()
  }
}
