import { fail } from '../errors.js'
import type { Load } from './loads.js'
import type { Holding } from './plain.js'

/** A read that has to wait: it ends with its bytes, with what went wrong, with EIO when its time is up, or when it is cancelled. */
export class Reading {
  /** The bytes are good until the event loop turns (plain.ts). */
  readonly done: Promise<Buffer[]>
  /** When it fails with EIO if the bytes have not come, on the clock of performance.now(). */
  readonly deadline: number
  #loads: Load[]
  #holding: Holding
  #timer: NodeJS.Timeout
  #reject!: (error: Error) => void

  /** `loads`: what it has joined. `holding`: what it keeps while it waits. */
  constructor(parts: (Buffer | Promise<Buffer>)[], loads: Load[], holding: Holding, deadline: number) {
    this.#loads = loads
    this.#holding = holding
    this.deadline = deadline
    this.done = new Promise((resolve, reject) => {
      this.#reject = reject
      Promise.all(parts).then((bytes) => {
        this.#over()
        resolve(bytes)
      }, (error: unknown) => {
        this.#over()
        reject(error)
      })
    })
    this.#timer = setTimeout(() => this.#end(fail('EIO', 'the content did not come in time')), Math.max(0, deadline - performance.now()))
  }

  /** Nobody waits for it any more. `done` rejects with EINTR if it has not settled. */
  cancel(): void {
    this.#end(fail('EINTR', 'the read was interrupted'))
  }

  #end(error: Error): void {
    this.#over()
    this.done.catch(() => {})
    this.#reject(error)
  }

  #over(): void {
    clearTimeout(this.#timer)
    this.#holding.end()
    for (const load of this.#loads.splice(0)) load.leave()
  }
}
