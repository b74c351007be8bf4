/**
 * What was, within a drive's retention (docs/decisions/023-history.md): rows of
 * what final ops have taken away (steps.ts), written when their undo records go,
 * or at once where nothing is ever taken back.
 *
 * Invariants:
 * - rows are in the order of the ops, `n` ascending; those below `first` are of a time
 *   after which changes were not kept, and go;
 * - each extent of a row holds a reference to its chunk;
 * - an inode without a name whose last name a row has taken is not reaped;
 * - everything from `fromMs` on can be had back.
 */
import type { Op } from '../log/ops.js'
import { INO_HIGH } from '../log/ops.js'
import type { Database, Statement } from '../store/database.js'
import type { ChunkTable } from '../store/chunks.js'
import { stepsOf, timeOf, type ContentStep, type ExtentBefore, type How, type NameStep, type Step } from './steps.js'
import type { UndoRecord } from './undo.js'

/**
 * Writes of one device to one file within `burstMs` of the first are one step, for programs write in pieces; when they
 * are older than `coarseAfterMs`, those within `coarseBurstMs`.
 */
export interface Grain { burstMs: number; coarseBurstMs: number; coarseAfterMs: number }
const GRAIN: Grain = { burstMs: 500, coarseBurstMs: 60_000, coarseAfterMs: 3_600_000 }
/** A row that was written so far ahead was written by a clock that was wrong. */
const MAX_AHEAD_MS = 86_400_000
/** An op has no more of them, as far as anybody asks. */
const OP_ROWS = 16
/** Rows that are looked at before the time is. */
const BATCH_ROWS = 256

const WHAT: Step['what'][] = ['birth', 'content', 'name']
const HOW: How[] = ['other', 'create', 'link', 'unlink', 'rename']

export interface HistoryParts {
  db: Database
  chunks: ChunkTable
  nowMs(): number
  /** Rows were changed outside of an op. */
  touched(): void
  /** Nothing holds an inode without a name any more. */
  gone(ino: number): void
}

type Row = [n: number, ino: number, what: number, how: number, op: number, t: number, since: number, after: number, version: number, size: number, mtime: number, mtimeNs: number, key: Buffer | null, name: Buffer | null, was: number, gone: number]
interface Last { n: number; what: Step['what']; op: number; tMs: number; after: number; size: number; version: number }

export class History {
  /** How long what was is kept, milliseconds; 0: not at all. */
  retentionMs: () => number = () => 0
  grain = GRAIN
  /** Rows that have gone so far. */
  dropped = 0
  readonly #p: HistoryParts
  #isOn = false
  #isEmpty = true
  #next = 1
  #first = 1
  #fromMs = Infinity
  /** Rows up to this one are as coarse as they get. */
  #coarse = 0
  readonly #insert: Statement
  readonly #insertExtent: Statement
  readonly #last: Statement
  readonly #grow: Statement
  readonly #delete: Statement
  readonly #extents: Statement
  readonly #deleteExtents: Statement
  readonly #holds: Statement
  readonly #of: Statement
  readonly #from: Statement
  readonly #birth: Statement
  readonly #around: Statement

  constructor(parts: HistoryParts) {
    this.#p = parts
    const p = (text: string) => parts.db.sql.prepare(text) as unknown as Statement
    const q = (text: string) => parts.db.sql.prepare(text).raw(true) as unknown as Statement
    this.#insert = p('INSERT INTO history VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)')
    this.#insertExtent = p('INSERT OR IGNORE INTO history_extent VALUES (?,?,?,?,?)')
    this.#last = q('SELECT n,what,op,t,after,size,version FROM history WHERE ino=? AND n>=? AND n<? ORDER BY n DESC LIMIT 1')
    this.#grow = p('UPDATE history SET after=? WHERE n=?')
    this.#delete = p('DELETE FROM history WHERE n=?')
    this.#extents = q('SELECT off,len,chunk,coff FROM history_extent WHERE n=? ORDER BY off')
    this.#deleteExtents = p('DELETE FROM history_extent WHERE n=?')
    this.#holds = q('SELECT 1 FROM history WHERE was=? AND gone=1 LIMIT 1')
    this.#of = q('SELECT * FROM history WHERE ino=? AND n>=? ORDER BY n')
    this.#birth = q('SELECT * FROM history WHERE ino=? AND n>=? ORDER BY n LIMIT 1')
    this.#around = q('SELECT * FROM history WHERE n>=? AND n<=? ORDER BY n')
    this.#from = q('SELECT * FROM history WHERE n>? ORDER BY n LIMIT ?')
    this.reload()
  }

  /** At open, and after the tables were filled from outside (a snapshot). */
  reload(): void {
    const { db } = this.#p
    const max = (db.sql.prepare('SELECT max(n) AS n FROM history').get() as { n: number | null }).n
    this.#isEmpty = max === null
    this.#first = (db.getMeta('history_first') as number | undefined) ?? 1
    this.#fromMs = (db.getMeta('history_from') as number | undefined) ?? Infinity
    this.#isOn = this.#fromMs !== Infinity && db.getMeta('history_on') === 1
    this.#next = Math.max((max ?? 0) + 1, this.#first)
    this.#coarse = 0
  }

  /**
   * Whether what goes is kept. Asked before each op where nothing is taken back, and where it is before ops become
   * final; `fromMs`: all from this time on is or will be kept, if nothing was so far.
   */
  isOn(fromMs?: number): boolean {
    const on = this.retentionMs() > 0
    if (on !== this.#isOn) this.#switch(on, fromMs ?? this.#p.nowMs())
    return on
  }

  #switch(on: boolean, fromMs: number): void {
    const { db, touched } = this.#p
    this.#isOn = on
    db.setMeta('history_on', on ? 1 : 0)
    // What is there is of before a gap.
    this.#first = this.#next
    this.#fromMs = on ? Math.floor(fromMs) : Infinity
    db.setMeta('history_first', this.#first)
    db.setMeta('history_from', on ? this.#fromMs : Number.MAX_SAFE_INTEGER)
    touched()
  }

  /** Times from here on are known; Infinity: none is. */
  get fromMs(): number { return this.#isOn ? this.#fromMs : Infinity }

  // --- keeping ------------------------------------------------------------

  /**
   * An op is final: keeps of its record what it has taken away. The record's references to chunks go over to the
   * history, or go. `keyMs`: the place of its entry in the order.
   */
  note(op: Op, id: number, record: UndoRecord, keyMs: number): void {
    if (record.length === 0) return
    const { chunks } = this.#p
    const nowMs = Math.floor(this.#p.nowMs())
    const kept = new Map<number, ExtentBefore>()
    let file = 0
    for (const s of stepsOf(op, id, record, timeOf(op, keyMs, nowMs))) {
      if (s.what === 'content') {
        file = s.ino
        for (const [off, old] of this.#addContent(s, nowMs)) kept.set(off, old)
      } else this.#add(s, nowMs)
    }
    // By identity: an op may come to an offset twice.
    for (const im of record) if (im.t === 'extent' && im.old && !(im.ino === file && kept.get(im.off) === im.old)) chunks.ref(im.old.chunk, -1)
  }

  #add(s: Exclude<Step, ContentStep>, nowMs: number): void {
    this.#isEmpty = false
    if (s.what === 'birth') this.#insert.run(this.#next++, s.ino, 0, HOW.indexOf(s.how), s.op, s.tMs, nowMs, s.after, 0, 0, 0, 0, null, null, 0, 0)
    else this.#insert.run(this.#next++, s.ino, 2, HOW.indexOf(s.how), s.op, s.tMs, nowMs, 0, 0, 0, 0, 0, s.key, s.name, s.was, s.isGone ? 1 : 0)
  }

  /** Gives the extents that it has taken over. */
  #addContent(s: ContentStep, nowMs: number): [number, ExtentBefore][] {
    const last = this.#lastOf(s.ino, Infinity)
    if (last && isBurst(last, s, this.grain.burstMs)) {
      this.#grow.run(s.after, last.n)
      return this.#addExtents(last, s.extents)
    }
    this.#isEmpty = false
    const n = this.#next++
    this.#insert.run(n, s.ino, 1, 0, s.op, s.tMs, nowMs, s.after, s.version, s.size, s.mtime, s.mtimeNs, null, null, 0, 0)
    return this.#addExtents({ n, what: 'content', size: s.size }, s.extents)
  }

  /** What a row does not have yet, of what lies below its size. */
  #addExtents(row: Pick<Last, 'n' | 'what' | 'size'>, extents: ReadonlyMap<number, ExtentBefore>): [number, ExtentBefore][] {
    if (row.what !== 'content') return []
    const taken: [number, ExtentBefore][] = []
    for (const [off, old] of extents) {
      if (off < row.size && this.#insertExtent.run(row.n, off, old?.len ?? 0, old?.chunk ?? 0, old?.coff ?? 0).changes > 0) taken.push([off, old])
    }
    return taken
  }

  /** The last birth or content before row `n`; of files. */
  #lastOf(ino: number, n: number): Last | undefined {
    const r = this.#last.get(ino, this.#first, Math.min(n, Number.MAX_SAFE_INTEGER)) as [number, number, number, number, number, number, number] | undefined
    return r && { n: r[0], what: WHAT[r[1]]!, op: r[2], tMs: r[3], after: r[4], size: r[5], version: r[6] }
  }

  /** Whether an inode without a name is kept for what it was. */
  holds(ino: number): boolean {
    return !this.#isEmpty && this.#holds.get(ino) !== undefined
  }

  // --- looking ------------------------------------------------------------

  /** What has happened to a file, or to the names in a directory, in order. */
  stepsOf(ino: number): Step[] {
    if (this.#isEmpty) return []
    return (this.#of.all(ino, this.#first) as Row[]).map((r) => this.#stepOf(r))
  }

  /** The names that the op of a step has changed. */
  siblings(s: NameStep): NameStep[] {
    return (this.#around.all(s.n! - OP_ROWS, s.n! + OP_ROWS) as Row[]).filter((r) => r[4] === s.op && r[0] >= this.#first).map((r) => this.#stepOf(r)).filter((o) => o.what === 'name')
  }

  /** Undefined: it began before what is kept. */
  birthOf(ino: number): (Step & { what: 'birth' }) | undefined {
    const row = this.#isEmpty ? undefined : this.#birth.get(ino, this.#first) as Row | undefined
    const s = row && WHAT[row[2]] === 'birth' ? this.#stepOf(row) : undefined
    return s?.what === 'birth' ? s : undefined
  }

  #stepOf(r: Row): Step {
    const [n, ino, what, how, op, tMs, , after, version, size, mtime, mtimeNs, key, name, was, gone] = r
    switch (WHAT[what]) {
      case 'birth': return { what: 'birth', ino, op, tMs, how: HOW[how]!, after }
      case 'content': return { what: 'content', ino, op, tMs, version, after, size, mtime, mtimeNs, extents: this.#extentsOf(n) }
      default: return { what: 'name', ino, op, tMs, how: HOW[how]!, key: key!, name: name!, was, isGone: gone === 1, n }
    }
  }

  #extentsOf(n: number): Map<number, ExtentBefore> {
    const out = new Map<number, ExtentBefore>()
    for (const [off, len, chunk, coff] of this.#extents.all(n) as [number, number, number, number][]) out.set(off, len === 0 ? null : { len, chunk, coff })
    return out
  }

  // --- letting go ---------------------------------------------------------

  /**
   * Drops what is past the retention, and makes what is older than an hour coarser, for about as long as `isOver` says
   * no. True: there may be more to do.
   */
  sweep(isOver: () => boolean): boolean {
    this.isOn()
    if (this.#isEmpty) return false
    return this.#drop(isOver) || this.#thin(isOver)
  }

  #drop(isOver: () => boolean): boolean {
    const { db, touched, nowMs, gone } = this.#p
    const retention = this.retentionMs()
    const now = nowMs()
    const reached = this.#fromMs
    for (;;) {
      const rows = this.#from.all(0, BATCH_ROWS) as Row[]
      let dropped = 0
      for (const [n, , , , , tMs, since, , , , , , , , was, isGone] of rows) {
        if (n >= this.#first && since > now - retention) {
          if (since > now + MAX_AHEAD_MS) db.sql.prepare('UPDATE history SET since=? WHERE since>?').run(Math.floor(now), Math.floor(now))
          break
        }
        this.#remove(n)
        dropped++
        if (n >= this.#first) this.#fromMs = Math.max(this.#fromMs, tMs)
        if (isGone && !this.#holds.get(was)) gone(was)
      }
      this.dropped += dropped
      if (dropped > 0) touched()
      if (this.#fromMs !== reached) db.setMeta('history_from', this.#fromMs)
      this.#isEmpty = dropped === rows.length && rows.length < BATCH_ROWS
      if (dropped < BATCH_ROWS) return false
      if (isOver()) return true
    }
  }

  #remove(n: number): void {
    for (const [, len, chunk] of this.#extents.all(n) as [number, number, number, number][]) if (len > 0) this.#p.chunks.ref(chunk, -1)
    this.#deleteExtents.run(n)
    this.#delete.run(n)
  }

  /** Writes of a minute become one step. */
  #thin(isOver: () => boolean): boolean {
    const before = this.#p.nowMs() - this.grain.coarseAfterMs
    for (;;) {
      const rows = this.#from.all(this.#coarse, BATCH_ROWS) as Row[]
      for (const row of rows) {
        if (row[6] > before) return false
        this.#coarse = row[0]
        if (WHAT[row[2]] === 'content') this.#merge(row)
      }
      if (rows.length < BATCH_ROWS) return false
      if (isOver()) return true
    }
  }

  /** Into the step before, if they are one burst. */
  #merge(row: Row): void {
    const s = this.#stepOf(row) as ContentStep
    const last = this.#lastOf(s.ino, row[0])
    // What it has laid behind a smaller size is not known any more.
    if (!last || s.size < last.size || !isBurst(last, s, this.grain.coarseBurstMs)) return
    this.#grow.run(s.after, last.n)
    const taken = new Set(this.#addExtents(last, s.extents).map(([off]) => off))
    for (const [off, old] of s.extents) if (old && !taken.has(off)) this.#p.chunks.ref(old.chunk, -1)
    this.#deleteExtents.run(row[0])
    this.#delete.run(row[0])
    this.dropped++
    this.#p.touched()
  }
}

/** Whether `s` goes on with what `last` has begun. */
function isBurst(last: Last, s: ContentStep, ms: number): boolean {
  if (Math.floor(last.op / INO_HIGH) !== Math.floor(s.op / INO_HIGH)) return false
  const goesOn = last.after === s.version || (last.what === 'birth' && s.version === 0)
  return goesOn && s.tMs >= last.tMs && s.tMs - last.tMs <= ms
}
