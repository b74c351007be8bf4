/**
 * What this device is to hold, by the plan, and lacks: a queue in the index that
 * follows the chunk table, so that a restart goes on where it was. Without a plan
 * everything is to be held, and there is no queue.
 *
 *   named     a chunk became known that is elsewhere, or went from here
 *   came      it is here, or nobody needs it any more
 *
 * Another plan is laid over the whole chunk table in slices. Invariant, once that
 * has ended (`isLaid`): of the chunks of this device's groups exactly those that
 * are elsewhere are in the queue.
 *
 * It is fetched most endangered first: the groups of which the fewest other
 * copies are known; what was written just now before all of them.
 */
import type { Timers } from '../clock.js'
import { ELSEWHERE, type ChunkTable } from '../store/chunks.js'
import type { Database, Statement } from '../store/database.js'
import { groupOf } from './placement.js'
import type { Plan } from './plan.js'

/** Rows of the chunk table in one turn. */
const SLICE_ROWS = 2000
/** How much is held is looked up so often at most. */
const MEASURE_MS = 5000
/** Named just now and not asked for yet: more are found in their groups. */
const MAX_FRESH = 16_384

export interface KeepingParts {
  db: Database
  chunks: ChunkTable
  timers: Timers
  /** Something is to be committed that others can do without. */
  touched(): void
}

export interface Lacked { id: Buffer; len: number }

export class Keeping {
  readonly #p: KeepingParts
  #plan: Plan | null = null
  #isLaid = false
  #size: number
  #fresh: number[] = []
  /** Groups with something in the queue, those to come last first; undefined: to be looked up. */
  #order: number[] | undefined
  #at = { group: -1, num: 0 }
  #laying = 0
  #held = 0
  #isMeasuring = false
  #measureAtMs = 0
  readonly #add: Statement
  readonly #drop: Statement
  readonly #inGroup: Statement
  readonly #one: Statement
  /** The plan changed, or was laid over all chunks. */
  onChange: () => void = () => {}
  /** A chunk that is here is this device's to hold by the new plan (or is not any more). */
  onHeld: (num: number, isMine: boolean) => void = () => {}
  /** Copies of a group that others have, as far as is known: what few have is fetched first. */
  copiesElsewhere: (group: number) => number = () => 0

  constructor(parts: KeepingParts) {
    this.#p = parts
    const { sql } = parts.db
    sql.exec(`CREATE TABLE IF NOT EXISTS lacking(num INTEGER PRIMARY KEY, grp INTEGER NOT NULL);
      CREATE INDEX IF NOT EXISTS lacking_grp ON lacking(grp, num)`)
    this.#add = sql.prepare('INSERT OR IGNORE INTO lacking VALUES (?,?)')
    this.#drop = sql.prepare('DELETE FROM lacking WHERE num = ?')
    this.#inGroup = sql.prepare('SELECT c.num, c.id, c.len FROM lacking l JOIN chunk c ON c.num = l.num WHERE l.grp = ? AND l.num > ? AND c.refs > 0 ORDER BY l.num LIMIT ?').raw(true) as Statement
    this.#one = sql.prepare('SELECT c.id, c.len FROM lacking l JOIN chunk c ON c.num = l.num WHERE l.num = ? AND c.refs > 0').raw(true) as Statement
    this.#size = (sql.prepare('SELECT count(*) AS n FROM lacking').get() as { n: number }).n
  }

  get plan(): Plan | null { return this.#plan }

  /** The queue is what the plan says. */
  get isLaid(): boolean { return this.#isLaid }

  /** Chunks in the queue, dead ones that are still to be dropped among them. */
  get size(): number { return this.#size }

  /** The queue that is kept is of this plan: the last session ended with it. */
  isLaidBy(plan: Plan): boolean {
    const kept = this.#p.db.getMeta('lacking_plan') as Buffer | undefined
    return kept?.equals(plan.digest) === true
  }

  /** null: everything is to be held. */
  set(plan: Plan | null): void {
    if (this.#plan === plan || (plan && this.#plan?.digest.equals(plan.digest))) return
    const { db, chunks } = this.#p
    this.#plan = plan
    this.#laying++
    this.#order = undefined
    this.#fresh = []
    this.#isLaid = plan !== null && this.isLaidBy(plan)
    chunks.keeping = plan && this
    if (!this.#isLaid) {
      if (this.#size > 0) db.sql.exec('DELETE FROM lacking')
      this.#size = 0
      db.setMeta('lacking_plan', Buffer.alloc(0))
      this.#p.touched()
      if (plan) this.#lay(this.#laying, 0)
    }
    this.onChange()
  }

  /** Of the chunk table. */
  named(num: number, id: Buffer): void {
    if (!this.#plan!.isMine(id) || this.#add.run(num, groupOf(id)).changes === 0) return
    this.#size++
    this.#order = undefined
    if (this.#fresh.length < MAX_FRESH) this.#fresh.push(num)
  }

  /** Of the chunk table. */
  came(num: number): void {
    if (this.#size > 0) this.#size -= this.#drop.run(num).changes
  }

  /** Up to about `limit` that are lacked, not those of the last calls again until all were named; [] at the end. */
  next(limit: number): Lacked[] {
    const out: Lacked[] = []
    while (out.length < limit && this.#fresh.length > 0) {
      const row = this.#one.get(this.#fresh.shift()!) as [Buffer, number] | undefined
      if (row) out.push({ id: row[0], len: row[1] })
    }
    this.#order ??= this.#inOrder()
    while (out.length < limit) {
      if (this.#at.group < 0) {
        const group = this.#order.pop()
        if (group === undefined) break
        this.#at = { group, num: 0 }
      }
      const wanted = limit - out.length
      const rows = this.#inGroup.all(this.#at.group, this.#at.num, wanted) as [number, Buffer, number][]
      for (const [num, id, len] of rows) {
        this.#at.num = num
        out.push({ id, len })
      }
      if (rows.length < wanted) this.#at.group = -1
    }
    // The next call begins anew.
    if (out.length === 0) this.#order = undefined
    return out
  }

  /** What is lacked, by group; dead chunks left out. */
  missing(): Map<number, { chunks: number; bytes: number }> {
    if (this.#size === 0) return new Map()
    const rows = this.#p.db.sql.prepare('SELECT l.grp, count(*), sum(c.len) FROM lacking l JOIN chunk c ON c.num = l.num WHERE c.refs > 0 GROUP BY l.grp').raw(true).all() as [number, number, number][]
    return new Map(rows.map(([group, chunks, bytes]) => [group, { chunks, bytes }]))
  }

  #inOrder(): number[] {
    if (this.#size === 0) return []
    const groups = this.#p.db.sql.prepare('SELECT DISTINCT grp FROM lacking').pluck().all() as number[]
    return groups.map((group) => [group, this.copiesElsewhere(group)] as const).sort((a, b) => b[1] - a[1]).map(([group]) => group)
  }

  /** Looks at all chunks. Those that become known meanwhile are seen to where they do. */
  #lay(laying: number, from: number): void {
    const { db, timers, touched } = this.#p
    const rows = db.sql.prepare('SELECT num, id, seg FROM chunk WHERE num > ? ORDER BY num LIMIT ?').raw(true).all(from, SLICE_ROWS) as [number, Buffer, number][]
    for (const [num, id, seg] of rows) {
      const isMine = this.#plan!.isMine(id)
      if (seg !== ELSEWHERE) this.onHeld(num, isMine)
      else if (isMine) this.#size += this.#add.run(num, groupOf(id)).changes
    }
    if (rows.length > 0) touched()
    if (rows.length === SLICE_ROWS) {
      timers.soon(() => { if (laying === this.#laying) this.#lay(laying, rows[rows.length - 1]![0]) })
      return
    }
    this.#order = undefined
    this.#isLaid = true
    db.setMeta('lacking_plan', this.#plan!.digest)
    touched()
    this.onChange()
  }

  /** Bytes of content of this device's groups that are here: looked up in turns, at most a hundredth of the time. */
  get heldBytes(): number {
    this.#measure()
    return this.#held
  }

  #measure(): void {
    const { db, timers } = this.#p
    const plan = this.#plan
    if (!plan || this.#isMeasuring || performance.now() < this.#measureAtMs) return
    this.#isMeasuring = true
    const rows = db.sql.prepare(`SELECT num, id, len FROM chunk WHERE num > ? AND seg <> ${ELSEWHERE} AND refs > 0 ORDER BY num LIMIT ?`).raw(true)
    const laying = this.#laying
    let bytes = 0
    let tookMs = 0
    const slice = (from: number): void => {
      if (laying !== this.#laying) {
        this.#isMeasuring = false
        return
      }
      const startMs = performance.now()
      const found = rows.all(from, SLICE_ROWS) as [number, Buffer, number][]
      for (const [, id, len] of found) if (plan.isMine(id)) bytes += len
      tookMs += performance.now() - startMs
      if (found.length === SLICE_ROWS) return void timers.soon(() => slice(found[found.length - 1]![0]))
      this.#held = bytes
      this.#isMeasuring = false
      this.#measureAtMs = performance.now() + Math.max(MEASURE_MS, tookMs * 100)
    }
    slice(0)
  }

  /** Nothing more is done. */
  close(): void {
    this.#laying++
    this.#p.chunks.keeping = null
  }
}
