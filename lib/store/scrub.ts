/**
 * Re-reads what this device holds, so that a disk that forgets is noticed while
 * others still have what it forgot. A pass goes over the chunk table by number, which
 * is about the order on the disk, and compares BLAKE3 of each chunk's sealed bytes
 * with its id. What is not sound is marked (bad.ts) and so asked of others; a mark is
 * taken back if a later look finds the bytes sound.
 *
 *   resting   no pass is due, and no mark is in doubt
 *   passing   in the background at a chosen rate, letting readers go first; or, while
 *             somebody waits for its end (`run`), as fast as the disk gives
 *
 * Where a pass is, is kept in the index, in one transaction with the marks: after a
 * restart it goes on, and what a crash takes back of the one it takes back of the other.
 * A pass ends at the chunk that was the last when it began: what is written meanwhile is
 * the next one's, or a device that is written to fast would never come to an end.
 */
import type { OnProgress } from '../api.js'
import type { Timers } from '../clock.js'
import { fail } from '../errors.js'
import { chunkId, sealedLength } from '../seal/chunk.js'
import { ELSEWHERE, type ChunkTable } from './chunks.js'
import type { Database, Statement } from './database.js'
import type { SealedPlace, Verdict } from './verifier.js'

/** Bytes a second in the background: 1 TB in three days, and a small part of what any disk gives. */
export const SCRUB_RATE = 4 << 20
/** A pass begins so long after the one before did. */
export const SCRUB_EVERY_MS = 30 * 86_400_000
/** The first one, after the store is served for the first time. */
const FIRST_AFTER_MS = 86_400_000
/** It is looked whether there is something to do; a mark is in doubt for one to two of these. */
const TICK_MS = 2000
/** Rows in one go of the loop, and bytes read for them. */
const BATCH_ROWS = 1024
const BATCH_BYTES = 4 << 20
/** Programs that wait for the disk go first, but do not hold it up for longer than this a batch. */
const YIELD_MS = 50
const MAX_YIELDS = 20
/** The position goes into the index so often. */
const SAVE_MS = 2000
/** After a failure that is no chunk's. */
const RETRY_MS = 60_000
/** Doubted chunks that are looked at in one go, with YIELD_MS between. */
const DOUBTS_AT_ONCE = 16
/** A chunk that compaction moves away while it is looked at is looked at again so often. */
const MAX_MOVES = 5

export interface PassCounts {
  /** Milliseconds since 1970. */
  beganMs: number
  /** Verified so far, and their sealed bytes. */
  chunks: number
  bytes: number
  /** Found bad since it began, by it or by a reader; of these and earlier ones, replaced since. */
  found: number
  mended: number
}
export interface Pass extends PassCounts { /** Chunks up to this number are verified... */ at: number; /** ...of those up to this one. */ upTo: number; totalBytes: number }
export interface EndedPass extends PassCounts { endedMs: number }

export interface ScrubParts {
  readonly db: Database
  readonly chunks: ChunkTable
  readonly store: { pathOf(segment: number): string; holds(segment: number, offset: number, length: number): boolean }
  readonly journal: { touched(what: 'derived'): void; durable(): Promise<void>; readonly stopped: Error | null }
  readonly timers: Timers
  readonly clock: { nowMs(): number }
  readonly verifier: { verify(path: string, places: readonly SealedPlace[]): Promise<Verdict[]>; rest(): Promise<void>; close(): Promise<void> }
  /** Programs wait for the disk. */
  isBusy?(): boolean
  /** A chunk was found bad, by the scrub or a reader: others are to be asked for it. */
  found?(num: number): void
}

interface Row { num: number; seg: number; off: number; len: number; id: Buffer }
interface Waiter { onProgress: OnProgress | undefined; resolve(pass: EndedPass): void; reject(e: unknown): void }
interface Kept { sinceMs?: number; pass?: Pass | undefined; last?: EndedPass | undefined }

export class Scrubber {
  readonly #p: ScrubParts
  readonly #next: Statement
  readonly #row: Statement
  readonly #stopTicking: () => void
  #sinceMs: number | undefined
  #pass: Pass | undefined
  #last: EndedPass | undefined
  #rate: number
  readonly #waiting = new Set<Waiter>()
  /** Marks that were made since the last tick, and those that are due for another look. */
  #doubts = new Set<number>()
  #due: Set<number>
  #working: Promise<void> | null = null
  #wake: () => void = () => {}
  #isSaved = true
  #savedMs = 0
  #retryAtMs = -Infinity
  #isClosed = false

  constructor(parts: ScrubParts) {
    this.#p = parts
    const { db, chunks, timers } = parts
    this.#next = db.sql.prepare('SELECT num, seg, off, len, id FROM chunk WHERE num > ? AND num <= ? ORDER BY num LIMIT ?')
    this.#row = db.sql.prepare('SELECT num, seg, off, len, id FROM chunk WHERE num = ?')
    const rate = db.getMeta('scrub_rate')
    this.#rate = isCount(rate) ? rate : SCRUB_RATE
    const kept = keptIn(db.getMeta('scrub'))
    this.#sinceMs = kept.sinceMs
    this.#pass = kept.pass
    this.#last = kept.last
    this.#due = new Set(chunks.bad)
    chunks.bad.onFound = (num) => {
      this.#doubts.add(num)
      this.#count('found', 1)
      parts.found?.(num)
    }
    chunks.bad.onMended = () => this.#count('mended', 1)
    this.#stopTicking = timers.every(TICK_MS, () => this.#tick())
  }

  /** Bytes a second in the background; 0: none. */
  get rate(): number { return this.#rate }
  get pass(): Readonly<Pass> | undefined { return this.#pass }
  get last(): Readonly<EndedPass> | undefined { return this.#last }
  /** Somebody waits for its end. */
  get isHurried(): boolean { return this.#waiting.size > 0 }

  /** Survives. EINVAL unless it is a whole number from 0. */
  async setRate(bytesPerS: number): Promise<void> {
    if (!isCount(bytesPerS)) throw fail('EINVAL', `a rate of ${bytesPerS} bytes a second`)
    this.#rate = bytesPerS
    this.#p.db.setMeta('scrub_rate', bytesPerS)
    this.#p.journal.touched('derived')
    this.#wake()
    await this.#p.journal.durable()
  }

  /**
   * A whole pass, as fast as it goes: the one under way to its end (`restart`: another from the beginning). Callers at one time share it.
   * An `onProgress` that throws ends the wait, with what it threw; the pass goes on in the background.
   */
  run(options: { restart?: boolean } = {}, onProgress?: OnProgress): Promise<EndedPass> {
    if (this.#isClosed || this.#p.journal.stopped) return Promise.reject(fail('STORE_STOPPED', 'the store is closed'))
    if (options.restart || !this.#pass) this.#begin()
    return new Promise((resolve, reject) => {
      this.#waiting.add({ onProgress, resolve, reject })
      this.#retryAtMs = -Infinity
      this.#wake()
      this.#work()
    })
  }

  /** Looks again at all that is marked, and at whether every chunk can be where the index says. */
  async recheck(onProgress?: OnProgress): Promise<void> {
    const { chunks, store } = this.#p
    for (let from = 0; !this.#isClosed;) {
      const rows = this.#next.all(from, Number.MAX_SAFE_INTEGER, BATCH_ROWS) as Row[]
      if (rows.length === 0) break
      for (const { num, seg, off, len } of rows) if (seg > 0 && !store.holds(seg, off, sealedLength(len))) chunks.bad.add(num)
      from = rows[rows.length - 1]!.num
      onProgress?.({ phase: 'places', done: from, total: 0, unit: 'chunks' })
      await this.#turn()
    }
    await this.#lookAgain([...chunks.bad], onProgress)
  }

  // --- the loop -------------------------------------------------------------

  #tick(): void {
    if (this.#isClosed || this.#p.journal.stopped) return
    if (this.#sinceMs === undefined) {
      this.#sinceMs = Math.floor(this.#p.clock.nowMs())
      this.#isSaved = false
      this.#save()
    }
    for (const num of this.#doubts) this.#due.add(num)
    this.#doubts.clear()
    this.#work()
  }

  #work(): void {
    if (this.#isClosed || this.#p.journal.stopped || this.#p.timers.nowMs() < this.#retryAtMs) return
    this.#working ??= this.#run().catch((e: unknown) => {
      if (this.#isClosed || this.#p.journal.stopped) return
      this.#retryAtMs = this.#p.timers.nowMs() + RETRY_MS
      if (this.#waiting.size === 0) process.emitWarning(`scrub: ${(e as Error).message}`)
      this.#settle((w) => w.reject(e))
    }).finally(() => {
      this.#working = null
      if (this.#isClosed || this.#waiting.size === 0) return
      // Somebody came when it was about to rest.
      if (!this.#p.journal.stopped) return this.#work()
      this.#settle((w) => w.reject(fail('STORE_STOPPED', 'the store has stopped')))
    })
  }

  get #isDue(): boolean {
    const nowMs = this.#p.clock.nowMs()
    // One that began in the future was dated by a clock that was wrong.
    if (this.#last) return nowMs >= this.#last.beganMs + SCRUB_EVERY_MS || nowMs < this.#last.beganMs - FIRST_AFTER_MS
    return this.#sinceMs !== undefined && nowMs >= this.#sinceMs + FIRST_AFTER_MS
  }

  async #run(): Promise<void> {
    // After the caller has taken note of this run.
    await null
    const { journal, verifier, timers } = this.#p
    const isOver = () => this.#isClosed || journal.stopped !== null
    while (!isOver()) {
      const doubted = [...this.#due].slice(0, DOUBTS_AT_ONCE)
      for (const num of doubted) this.#due.delete(num)
      await this.#lookAgain(doubted)
      if (isOver()) break
      if (this.#due.size > 0) {
        if (!this.isHurried) await this.#sleep(YIELD_MS)
        continue
      }
      if (!this.isHurried && (this.#rate === 0 || !(this.#pass || this.#isDue))) {
        this.#save()
        return verifier.rest()
      }
      if (!this.#pass) this.#begin()
      const startMs = timers.nowMs()
      const bytes = await this.#batch(this.#pass!)
      for (let i = 0; i < MAX_YIELDS && this.#p.isBusy?.() && !isOver(); i++) await this.#sleep(YIELD_MS)
      // What was read is paid for in time, also over a batch that took long.
      while (!isOver() && !this.isHurried && this.#rate > 0) {
        const restMs = bytes / this.#rate * 1000 - (timers.nowMs() - startMs)
        if (restMs <= 0) break
        await this.#sleep(Math.min(restMs, RETRY_MS))
      }
      await this.#turn()
    }
  }

  #begin(): void {
    const { db, clock } = this.#p
    const { upTo } = db.sql.prepare('SELECT ifnull(max(num), 0) AS upTo FROM chunk').get() as { upTo: number }
    const { totalBytes } = db.sql.prepare(`SELECT ifnull(sum(len), 0) AS totalBytes FROM chunk WHERE seg != ${ELSEWHERE}`).get() as { totalBytes: number }
    this.#pass = { beganMs: Math.floor(clock.nowMs()), at: 0, upTo, chunks: 0, bytes: 0, totalBytes, found: 0, mended: 0 }
    this.#isSaved = false
    this.#save()
  }

  /** The next chunks of the pass; gives the bytes that were read. */
  async #batch(pass: Pass): Promise<number> {
    const limit = this.isHurried ? BATCH_BYTES : Math.max(1, Math.min(BATCH_BYTES, this.#rate))
    const rows = this.#next.all(pass.at, pass.upTo, BATCH_ROWS) as Row[]
    const batch: Row[] = []
    let bytes = 0
    let at = pass.at
    for (const r of rows) {
      if (r.seg !== ELSEWHERE) {
        if (bytes > 0 && bytes + r.len > limit) break
        bytes += r.len
        batch.push(r)
      }
      at = r.num
    }
    const { chunks } = this.#p
    const before = chunks.bad.size
    for (const [num, verdict] of await this.#verify(batch)) {
      if (verdict === 'sound') chunks.bad.delete(num)
      else chunks.bad.add(num)
    }
    // Another began meanwhile.
    if (this.#pass !== pass) return bytes
    pass.at = at
    pass.chunks += batch.length
    pass.bytes += bytes
    this.#isSaved = false
    const isAtEnd = rows.length === 0 || at >= pass.upTo
    if (isAtEnd) this.#end(pass)
    else if (chunks.bad.size !== before || this.#p.timers.nowMs() - this.#savedMs >= SAVE_MS) this.#save()
    this.#tell(pass)
    if (isAtEnd) this.#settle((w) => w.resolve(this.#last!))
    return bytes
  }

  #end({ beganMs, chunks, bytes, found, mended }: Pass): void {
    this.#last = { beganMs, endedMs: Math.floor(this.#p.clock.nowMs()), chunks, bytes, found, mended }
    this.#pass = undefined
    this.#save()
  }

  /** A marked chunk may be sound: a read failed once, and does not any more. */
  async #lookAgain(nums: number[], onProgress?: OnProgress): Promise<void> {
    const { chunks } = this.#p
    const list = nums.filter((num) => chunks.bad.has(num))
    for (let done = 0; done < list.length && !this.#isClosed;) {
      let bytes = 0
      const batch: Row[] = []
      while (done < list.length && bytes < BATCH_BYTES) {
        const row = this.#row.get(list[done++]) as Row | undefined
        if (!row) continue
        batch.push(row)
        bytes += row.len
      }
      for (const [num, verdict] of await this.#verify(batch)) if (verdict === 'sound' && chunks.bad.delete(num)) this.#count('found', -1)
      onProgress?.({ phase: 'looking again', done, total: list.length, unit: 'chunks' })
      await this.#turn()
    }
  }

  /** Of chunks that are still here when it ends. */
  async #verify(rows: Row[], moves = 0): Promise<Map<number, Verdict>> {
    const { chunks, store, verifier } = this.#p
    const verdicts = new Map<number, Verdict>()
    const bySegment = new Map<number, Row[]>()
    for (const r of rows) {
      if (r.seg === 0) {
        const data = chunks.inlineData(r.num)
        verdicts.set(r.num, data && chunkId(data).equals(r.id) ? 'sound' : 'damaged')
      } else if (r.seg > 0) {
        if (!store.holds(r.seg, r.off, sealedLength(r.len))) verdicts.set(r.num, 'unreadable')
        else if (!bySegment.get(r.seg)?.push(r)) bySegment.set(r.seg, [r])
      }
    }
    for (const [segment, list] of bySegment) {
      list.sort((a, b) => a.off - b.off)
      const found = await verifier.verify(store.pathOf(segment), list.map(({ off, len, id }) => ({ offset: off, length: sealedLength(len), id })))
      list.forEach((r, i) => verdicts.set(r.num, found[i]!))
    }
    // What compaction moved meanwhile, or other bytes replaced, is looked at where it is now.
    const moved: Row[] = []
    for (const r of rows) {
      const now = this.#row.get(r.num) as Row | undefined
      if (now && now.seg === r.seg && now.off === r.off) continue
      verdicts.delete(r.num)
      if (now && now.seg !== ELSEWHERE) moved.push(now)
    }
    if (moved.length > 0 && moves < MAX_MOVES) for (const [num, verdict] of await this.#verify(moved, moves + 1)) verdicts.set(num, verdict)
    return verdicts
  }

  #tell(pass: Pass): void {
    for (const w of this.#waiting) {
      try { w.onProgress?.({ phase: 'scrub', done: pass.bytes, total: pass.totalBytes, unit: 'bytes' }) } catch (e) {
        this.#waiting.delete(w)
        w.reject(e)
      }
    }
  }

  #settle(settle: (w: Waiter) => void): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    waiting.forEach(settle)
  }

  #count(what: 'found' | 'mended', n: number): void {
    const counts = this.#pass ?? this.#last
    if (!counts) return
    counts[what] = Math.max(0, counts[what] + n)
    this.#isSaved = false
  }

  #save(): void {
    if (this.#isSaved || this.#p.journal.stopped) return
    this.#isSaved = true
    this.#savedMs = this.#p.timers.nowMs()
    this.#p.db.setMeta('scrub', JSON.stringify({ sinceMs: this.#sinceMs, pass: this.#pass, last: this.#last } satisfies Kept))
    this.#p.journal.touched('derived')
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => this.#p.timers.soon(resolve))
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#p.timers.after(ms, resolve)
      this.#wake = () => {
        cancel()
        resolve()
      }
    })
  }

  /** What is being read is given up; where the pass is, is kept. May be called twice. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#stopTicking()
    this.#wake()
    await this.#p.verifier.close()
    await this.#working
    this.#settle((w) => w.reject(fail('STORE_STOPPED', 'the store is being closed; the next scrub goes on from here')))
    this.#save()
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** What the index says, as far as it makes sense: a pass that it does not know begins anew. */
function keptIn(meta: unknown): Kept {
  let kept: Partial<Record<keyof Kept, Record<string, unknown>>> & { sinceMs?: unknown }
  try { kept = JSON.parse(String(meta)) as typeof kept } catch { return {} }
  if (typeof kept !== 'object' || kept === null) return {}
  const has = (value: Record<string, unknown> | undefined, keys: readonly string[]) => value && keys.every((key) => isCount(value[key]))
  const counts = ['beganMs', 'chunks', 'bytes', 'found', 'mended']
  return {
    ...(isCount(kept.sinceMs) && { sinceMs: kept.sinceMs }),
    ...(has(kept.pass, [...counts, 'at', 'upTo', 'totalBytes']) && { pass: kept.pass as unknown as Pass }),
    ...(has(kept.last, [...counts, 'endedMs']) && { last: kept.last as unknown as EndedPass }),
  }
}
