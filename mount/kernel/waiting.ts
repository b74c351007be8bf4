/**
 * Requests whose operation is not done: each is answered once, by its result, by an
 * interrupt, or with EIO when the session ends. A result that comes after is dropped.
 */
import { EINTR, EIO } from '../errno.js'
import { watchSignals, type PendingCall } from './interrupt.js'

const HIGH = 0x1_0000_0000
const EARLY_LIMIT = 16

/** What an interrupt needs: whom to look at, and whom to tell. */
export interface Asked {
  by: PendingCall
  pid: number
}

interface Request {
  lo: number
  hi: number
  asked: Asked | undefined
  unwatch?: () => void
}

export class Waiting {
  /** By unique, which is a counter and stays far below 2^53. */
  readonly #requests = new Map<number, Request>()
  /** Interrupts of requests not known: answered already, or (where several threads read the fd) not read yet. */
  readonly #early: number[] = []
  readonly #fail: (lo: number, hi: number, errno: number) => void
  readonly #report: (error: unknown) => void

  constructor(fail: (lo: number, hi: number, errno: number) => void, report: (error: unknown) => void) {
    this.#fail = fail
    this.#report = report
  }

  get size(): number {
    return this.#requests.size
  }

  /** Calls `finish` or `failed` when `reply` settles, unless the request was answered otherwise before. */
  add<T>(lo: number, hi: number, reply: Promise<T>, finish: (result: T) => void, failed: (error: unknown) => void, asked?: Asked): void {
    const unique = hi * HIGH + lo
    const request: Request = { lo, hi, asked }
    this.#requests.set(unique, request)
    reply.then(result => {
      if (this.#settle(unique, request)) finish(result)
    }, error => {
      if (this.#settle(unique, request)) failed(error)
    }).catch(this.#report)
  }

  /** FUSE_INTERRUPT for `unique`. Heeded by what may wait for a peer for long: reads, and syncs that others are to acknowledge. */
  interrupt(unique: number): void {
    const request = this.#requests.get(unique)
    if (request === undefined) {
      if (this.#early.push(unique) > EARLY_LIMIT) this.#early.shift()
      return
    }
    const asked = request.asked
    if (asked === undefined || request.unwatch !== undefined) return
    request.unwatch = () => {}
    const unwatch = watchSignals(asked.pid, () => {
      if (!this.#settle(unique, request)) return
      asked.by.interrupt()
      this.#fail(request.lo, request.hi, EINTR)
    })
    if (this.#requests.get(unique) === request) request.unwatch = unwatch
  }

  /** Whether the interrupt of this request came before it. */
  wasInterrupted(lo: number, hi: number): boolean {
    if (this.#early.length === 0) return false
    const at = this.#early.indexOf(hi * HIGH + lo)
    if (at >= 0) this.#early.splice(at, 1)
    return at >= 0
  }

  abandon(): void {
    for (const [unique, request] of this.#requests) {
      this.#settle(unique, request)
      request.asked?.by.interrupt()
      this.#fail(request.lo, request.hi, EIO)
    }
  }

  #settle(unique: number, request: Request): boolean {
    if (this.#requests.get(unique) !== request) return false
    this.#requests.delete(unique)
    request.unwatch?.()
    return true
  }
}
