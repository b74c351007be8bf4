/**
 * Giving back, on a device that cannot read the drive, what nobody needs any more. Devices with the full key are asked:
 *
 *   mark      all chunks are gone through; what one of them calls dead is marked, and
 *             not fetched any more
 *   wait      for longer than a proof of having a chunk counts (swarm/confirm.ts)
 *   release   what is still marked is asked about again; what is dead still goes
 *   compact   segments that are mostly dead are copied together
 *
 * What is lacked here for a while, and nobody gives, may be dead everywhere: it is asked about before that.
 *
 * The mark is taken back when an entry names the chunk, or somebody was told that it is here,
 * or was given it. An answer counts only if all entries that it rests on are here, with
 * what the snapshot rests on that is here, and no entry behind them names the chunk:
 * then who joins from this device alone knows that it is not needed.
 *
 * Marks are in the index (refs = 0), so that a restart goes on with them.
 */
import type { GcReport, OnProgress } from './api.js'
import type { Timers } from './clock.js'
import type { DeadChunks } from './dead-chunks.js'
import { fail } from './errors.js'
import type { Journal } from './log/journal.js'
import { headerIn } from './log/entry.js'
import type { Log } from './log/log.js'
import type { VerifiedHead } from './log/snapshot-head.js'
import type { ChunkTable } from './store/chunks.js'
import { keyOf, MAX_IDS } from './swarm/messages.js'

/** Longer than a proof counts, and what is written until then is under way: as GRACE_MS in lib/cache.ts. */
export const RELEASE_AFTER_MS = 120_000
/** A round by itself after changes, and without any: history goes with time. */
const ROUND_MS = 5 * 60_000
const IDLE_ROUND_MS = 6 * 3_600_000
/** Nobody answered: tried again after this. */
const RETRY_MS = 60_000
const TICK_MS = 3000
/** Nothing of what is lacked has come for so long: it is asked about; and if it is needed, or its removal is not final yet, again after twice as long, up to MAX_STUCK_MS. */
const STUCK_MS = 10_000
const MAX_STUCK_MS = 30_000
/** By itself it asks at most a fifth of the time. */
const REST_TIMES = 4
/** Headers of entries that are looked through for one answer; with more behind it the answer is of no use. */
const MAX_BEHIND_BYTES = 8 << 20

/** Asks a connected device with the full key; undefined: none is there, or none answers. */
export type AskReleases = (ids: Buffer[]) => Promise<DeadChunks | undefined>

export interface ReleaseParts {
  chunks: ChunkTable
  log: Log
  journal: Journal
  timers: Timers
  /** The snapshot that is here. */
  head(): VerifiedHead | undefined
  /** Every chunk of the drive is known, as of what was heard. */
  knowsAllChunks(): boolean
  /** Chunks that are to be here, are not, and are not marked. */
  lacked(limit: number): { num: number; id: Buffer }[]
  /** Some of them are, now. */
  marked(): void
  compact(isAsked: boolean, report: GcReport, onProgress?: OnProgress): Promise<void>
  /** Default RELEASE_AFTER_MS. */
  afterMs?: number
}

export class Releases {
  readonly #p: ReleaseParts
  /** Set by whoever connects this device to others. */
  ask: AskReleases | null = null
  #running: Promise<unknown> | null = null
  /** Somebody waits for a round of their own. */
  #isHurried = false
  #isClosed = false
  /** The last mark that was made; what is marked when the store is opened counts as marked then. */
  #markedMs: number
  #roundMs: number
  #retryMs = 0
  #seen = ''
  /** The first that is lacked, and how many, since when; asked about after so long. */
  #stuck = { at: '', sinceMs: 0, afterMs: STUCK_MS }
  #wake: () => void = () => {}
  readonly #stopTicking: () => void

  constructor(parts: ReleaseParts) {
    this.#p = parts
    this.#markedMs = this.#roundMs = parts.timers.nowMs()
    this.#stopTicking = parts.timers.every(TICK_MS, () => this.#tick())
  }

  get #afterMs(): number { return this.#p.afterMs ?? RELEASE_AFTER_MS }

  /** Somebody was told that a chunk is here, or was given it. */
  counted(num: number): void {
    const { chunks, journal } = this.#p
    if (chunks.mark(num, false)) journal.touched('derived')
  }

  /** A round at once. EBUSY: nobody is there who could say what is needed. */
  async run(report: GcReport, onProgress?: OnProgress): Promise<void> {
    this.#isHurried = true
    this.#wake()
    while (this.#running) await this.#running.catch(() => {})
    this.#isHurried = false
    const round = this.#round(true, report, onProgress)
    this.#running = round.finally(() => { this.#running = null })
    this.#running.catch(() => {})
    if (!await round) throw fail('EBUSY', 'no device that can read the drive is connected and has what is here: it would say what nobody needs any more')
  }

  #tick(): void {
    const { journal, log, timers } = this.#p
    if (this.#running || this.#isClosed || journal.stopped || !this.ask) return
    const nowMs = timers.nowMs()
    if (nowMs < this.#retryMs) return
    const state = [...log.heads()].join(' ')
    const sinceMs = nowMs - this.#roundMs
    if (sinceMs < (state === this.#seen ? IDLE_ROUND_MS : ROUND_MS)) return this.#lookForStuck(nowMs)
    const report: GcReport = { chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 }
    this.#running = this.#round(false, report).then((isDone) => {
      if (!isDone) {
        this.#retryMs = timers.nowMs() + RETRY_MS
        return
      }
      this.#roundMs = timers.nowMs()
      this.#seen = state
    }).catch((e: Error) => {
      if (!this.#isClosed && !journal.stopped) process.emitWarning(`giving back what nobody needs: ${e.message}`)
      this.#retryMs = timers.nowMs() + RETRY_MS
    }).finally(() => { this.#running = null })
  }

  #lookForStuck(nowMs: number): void {
    const { lacked, journal } = this.#p
    const rows = lacked(MAX_IDS)
    const at = rows.length === 0 ? '' : `${rows.length} ${rows[0]!.num}`
    if (at !== this.#stuck.at) this.#stuck = { at, sinceMs: nowMs, afterMs: STUCK_MS }
    if (at === '' || nowMs - this.#stuck.sinceMs < this.#stuck.afterMs) return
    this.#stuck = { at, sinceMs: nowMs, afterMs: Math.min(this.#stuck.afterMs * 2, MAX_STUCK_MS) }
    this.#running = this.#markDead(rows, false).catch((e: Error) => {
      if (!this.#isClosed && !journal.stopped) process.emitWarning(`asking who needs what is lacked: ${e.message}`)
    }).finally(() => { this.#running = null })
  }

  /** Asks about these. False: nobody answered. */
  async #markDead(rows: { num: number; id: Buffer }[], isAsked: boolean): Promise<boolean> {
    const { chunks, journal, timers, marked } = this.#p
    const dead = await this.#dead(rows.map((r) => r.id), isAsked)
    if (!dead) return false
    let isAny = false
    for (const r of rows) if (dead.has(keyOf(r.id)) && chunks.mark(r.num, true)) isAny = true
    if (isAny) {
      this.#markedMs = timers.nowMs()
      journal.touched('derived')
      marked()
    }
    return true
  }

  /** False: nobody answered all of it, or it was broken off. */
  async #round(isAsked: boolean, report: GcReport, onProgress?: OnProgress): Promise<boolean> {
    const { chunks } = this.#p
    if (!this.#p.knowsAllChunks()) return false
    const { last } = chunks
    let done = 0
    for (let from = 0; from < last;) {
      const rows = chunks.scan(from, MAX_IDS)
      if (rows.length === 0) break
      from = rows[rows.length - 1]!.num
      const live = rows.filter((r) => r.refs > 0)
      if (live.length === 0) continue
      if (!await this.#markDead(live, isAsked)) return false
      onProgress?.({ phase: 'asking', done: done += live.length, total: 0, unit: 'chunks' })
    }
    if (chunks.dead(0, 1).length > 0 && !await this.#release(isAsked, report, onProgress)) return false
    await this.#p.compact(isAsked, report, onProgress)
    return true
  }

  async #release(isAsked: boolean, report: GcReport, onProgress?: OnProgress): Promise<boolean> {
    const { chunks, journal } = this.#p
    if (!await this.#wait(isAsked, onProgress)) return false
    for (let from = 0; ;) {
      const rows = chunks.dead(from, MAX_IDS)
      if (rows.length === 0) return true
      from = rows[rows.length - 1]!.num
      const dead = await this.#dead(rows.map((r) => r.id), isAsked)
      if (!dead) return false
      for (const r of rows) {
        // The mark may have been taken back while the answer was on its way.
        if (chunks.identity(r.num)?.refs !== 0) continue
        if (dead.has(keyOf(r.id))) {
          chunks.remove(r.num)
          report.chunksDropped++
        } else chunks.mark(r.num, false)
      }
      journal.touched()
      onProgress?.({ phase: 'dead chunks', done: report.chunksDropped, total: 0, unit: 'chunks' })
    }
  }

  /** Until the last mark is old enough. */
  async #wait(isAsked: boolean, onProgress?: OnProgress): Promise<boolean> {
    const { timers } = this.#p
    const untilMs = this.#markedMs + this.#afterMs
    const marked = this.#p.chunks.deadCount
    for (let left = untilMs - timers.nowMs(); left > 0; left = untilMs - timers.nowMs()) {
      onProgress?.({ phase: `for ${Math.ceil(left / 1000)} s somebody may still count on them:`, done: marked, total: 0, unit: 'chunks' })
      if (!await this.#sleep(Math.min(left, 1000), isAsked)) return false
    }
    return true
  }

  /** False: what runs is to end. */
  async #sleep(ms: number, isAsked: boolean): Promise<boolean> {
    const isOver = () => this.#isClosed || (this.#isHurried && !isAsked)
    if (isOver()) return false
    await new Promise<void>((resolve) => {
      const stop = this.#p.timers.after(ms, resolve)
      this.#wake = () => {
        stop()
        resolve()
      }
    })
    return !isOver()
  }

  /** Those of `ids` that nobody needs; undefined: that is not known. */
  async #dead(ids: Buffer[], isAsked: boolean): Promise<Set<string> | undefined> {
    const { timers } = this.#p
    const startMs = timers.nowMs()
    const answer = await this.ask?.(ids)
    if (!answer || this.#isClosed || this.#p.journal.stopped) return undefined
    const needed = this.#namedBehind(answer)
    if (!needed) return undefined
    if (!isAsked && !await this.#sleep((timers.nowMs() - startMs) * REST_TIMES, false)) return undefined
    // What became known while it rested is not marked, or not any more.
    return new Set(answer.ids.map(keyOf).filter((id) => !needed.has(id)))
  }

  /** Chunks that entries name which the answer does not rest on; undefined: not all is here that it rests on, or it is too far behind. */
  #namedBehind({ logs }: DeadChunks): Set<string> | undefined {
    const { log } = this.#p
    const applied = new Map<number, number>()
    for (const { incarnation, device, seq } of logs) {
      const inc = log.find(incarnation)
      if (inc < 0 || !log.deviceOf(inc).equals(device) || log.head(inc).seq < seq) return undefined
      applied.set(inc, seq)
    }
    for (const l of this.#p.head()?.logs ?? []) {
      const inc = log.find(l.incarnation)
      if (!l.isEnded && (inc < 0 || (applied.get(inc) ?? 0) < l.seq)) return undefined
    }
    const named = new Set<string>()
    let bytes = 0
    for (const [inc, last] of log.heads()) {
      let seq = (applied.get(inc) ?? 0) + 1
      if (seq <= last && log.head(inc).first > seq) return undefined
      while (seq <= last) {
        const entries = log.stored(inc, seq, 1 << 20)
        if (entries.length === 0) return undefined
        for (const { signed } of entries) {
          bytes += signed.length
          for (const id of headerIn(signed).chunks) named.add(keyOf(id))
        }
        if (bytes > MAX_BEHIND_BYTES) return undefined
        seq += entries.length
      }
    }
    return named
  }

  /** What runs ends. May be called twice. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#stopTicking()
    this.#wake()
    await this.#running?.catch(() => {})
  }
}
