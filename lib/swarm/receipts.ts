/**
 * Waits until other devices have made something durable: the step machine (acks.ts)
 * with a clock, and with who waits. Belongs to the drive, so that a network that
 * starts anew loses no wait; the swarm tells it what peers say.
 */
import type { AckGoal, AckSource } from '../acknowledged.js'
import type { Timers } from '../clock.js'
import { fail } from '../errors.js'
import type { Members } from '../log/members.js'
import type { ChunkTable } from '../store/chunks.js'
import { Acks, MAX_WAIT_CHUNKS, type AckEffect, type Goal } from './acks.js'
import type { Peer } from './messages.js'

const TICK_MS = 200
/** What was not acknowledged in time is told so often at most. */
const NOTICE_MS = 60_000

export interface ReceiptsHost {
  readonly timers: Timers
  readonly members: Pick<Members, 'get'>
  readonly chunks: Pick<ChunkTable, 'isUnused'>
  /** Local index of the log that we write. */
  ownLog(): number
}

interface Waiting { goal: Goal; resolve: (isDone: boolean) => void; reject: (e: Error) => void }

export class Receipts implements AckSource {
  readonly #host: ReceiptsHost
  readonly #acks: Acks
  readonly #waiting = new Map<number, Waiting>()
  #next = 1
  #stopTicking: (() => void) | null = null
  #noticeAtMs = 0
  #isClosed = false
  /** Of a drive that is connected, as AckHost.keeps. */
  keeps: (peer: Peer, id: Buffer) => boolean = () => false
  ask: (peer: Peer, ids: Buffer[]) => void = () => {}
  /** What a person should know. */
  onNotice: (text: string) => void = () => {}

  constructor(host: ReceiptsHost) {
    this.#host = host
    this.#acks = new Acks({
      isMember: (peer) => host.members.get(Buffer.from(peer, 'hex')) !== undefined,
      keeps: (peer, id) => this.keeps(peer, id),
      isNeeded: (id) => !host.chunks.isUnused(id),
    })
  }

  async wait({ log, seq, ids, acks: count, waitMs, signal }: AckGoal): Promise<boolean> {
    let part: Buffer[] = []
    let isFirst = true
    for (const id of ids) {
      if (this.#host.chunks.isUnused(id)) continue
      part.push(id)
      if (part.length < MAX_WAIT_CHUNKS) continue
      if (log !== this.#host.ownLog() || !(await this.#one({ seq: isFirst ? seq : 0, ids: part, count, waitMs }, signal))) return false
      part = []
      isFirst = false
    }
    return log === this.#host.ownLog() && this.#one({ seq: isFirst ? seq : 0, ids: part, count, waitMs }, signal)
  }

  #one(goal: Goal, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#isClosed) return Promise.reject(closed())
    if (signal?.aborted) return Promise.reject(interrupted())
    const token = this.#next++
    return new Promise<boolean>((resolve, reject) => {
      const abort = () => {
        this.#waiting.delete(token)
        this.#do(this.#acks.giveUp(this.#now(), token))
        reject(interrupted())
      }
      const over = () => signal?.removeEventListener('abort', abort)
      this.#waiting.set(token, { goal, resolve: (is) => { over(); resolve(is) }, reject: (e) => { over(); reject(e) } })
      signal?.addEventListener('abort', abort, { once: true })
      this.#do(this.#acks.wait(this.#now(), token, goal))
      if (this.#acks.size > 0) this.#stopTicking ??= this.#host.timers.every(TICK_MS, () => this.#tick())
    })
  }

  // --- what peers say -------------------------------------------------------

  up(peer: Peer): void { this.#acks.peerUp(peer) }
  down(peer: Peer): void { this.#acks.peerDown(peer) }
  changed(peer: Peer): void { this.#do(this.#acks.changed(this.#now(), peer)) }
  entry(peer: Peer, seq: number): void { this.#do(this.#acks.receipt(this.#now(), peer, seq)) }
  chunks(peer: Peer, ids: readonly Buffer[]): void { this.#do(this.#acks.holds(this.#now(), peer, ids)) }
  renewed(): void { this.#do(this.#acks.renewed(this.#now())) }

  close(): void {
    this.#isClosed = true
    this.#stopTicking?.()
    this.#stopTicking = null
    for (const [token, { reject }] of this.#waiting) {
      this.#acks.giveUp(this.#now(), token)
      reject(closed())
    }
    this.#waiting.clear()
  }

  #tick(): void {
    this.#do(this.#acks.tick(this.#now()))
    if (this.#acks.size > 0) return
    this.#stopTicking?.()
    this.#stopTicking = null
  }

  #do(effects: AckEffect[]): void {
    for (const e of effects) {
      if (e.type === 'ask') {
        this.ask(e.peer, e.ids)
        continue
      }
      const waiting = this.#waiting.get(e.wait)
      this.#waiting.delete(e.wait)
      if (e.type === 'late') this.#late(e.have, waiting)
      else waiting?.resolve(e.type === 'done')
    }
  }

  #late(have: number, waiting: Waiting | undefined): void {
    if (!waiting) return
    const { count, waitMs } = waiting.goal
    const text = `${have} of ${count} other devices have made durable what was to be synced, and for ${waitMs / 1000} s no more did; it is safe on this device`
    waiting.reject(fail('EIO', text))
    if (this.#now() < this.#noticeAtMs) return
    this.#noticeAtMs = this.#now() + NOTICE_MS
    this.onNotice(`a sync that waits for others (acks=${count}) has failed: ${text}`)
  }

  #now(): number { return this.#host.timers.nowMs() }
}

const closed = () => fail('EIO', 'the drive is being closed')
const interrupted = () => fail('EINTR', 'the wait for other devices was interrupted')
