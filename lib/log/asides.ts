/**
 * Devices that were set aside: those that were silent for so long that nobody
 * waits for them any more, and those that begin anew from a snapshot.
 *
 * An op ends the named incarnations of a device. How far their logs are taken is
 * decided by the log alone: whoever has applied the op takes no more of them,
 * and says with its next entry, whose context has the op, how much it has; once
 * all `voters` have said so (`isClosed`), the limit is the greatest of what they
 * and the op have named. Their entries are applied only when what they have seen
 * is: so whoever knows the limit has all entries up to it.
 *
 * `back` is written by whoever gives a device a snapshot, a new one too: from then
 * on its next incarnation is waited for. A removal of later rounds takes that back.
 */
import type { Database } from '../store/database.js'
import { Reader, Writer } from './codec.js'
import type { Log } from './log.js'
import { encodeAside, decodeAside, type AsideOp } from './ops.js'

interface Statement { by: number; bySeq: number; op: AsideOp }

/** Ended incarnations that are told in the handshake: who is met mostly knows; it matters to whom it is about. */
export const MAX_TOLD_ENDED = 64

/** Whom a device counts: two that were apart for so long that each has set the other aside tell by it who begins anew. */
export interface DeviceView {
  /** Devices that it waits for, and the first of them by its key. */
  writers: number
  first: Buffer
  /** Incarnations that were ended, the newest first; MAX_TOLD_ENDED at most. */
  ended: Buffer[]
}

/** What the order knows of the incarnations (local indexes). */
export interface Seen {
  /** Last entry that is applied. */
  applied(inc: number): number
  /** What the last entry of an incarnation had seen. */
  seen(inc: number): ReadonlyMap<number, number> | undefined
}

export class Asides {
  readonly #db: Database
  readonly #log: Log
  readonly #order: Seen
  readonly #all: Statement[] = []
  /** Greatest seq that is named for an incarnation. */
  readonly #named = new Map<number, number>()
  /** Entries that others had before they knew need so much. */
  readonly #raised = new Map<number, number>()

  /** Before a transaction is open. */
  constructor(db: Database, log: Log, order: Seen) {
    this.#db = db
    this.#log = log
    this.#order = order
    db.sql.exec('CREATE TABLE IF NOT EXISTS aside(by INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL, op BLOB NOT NULL, PRIMARY KEY(by, seq, n)) WITHOUT ROWID')
  }

  /** Once, when the log is there. */
  load(): void {
    for (const r of this.#db.sql.prepare('SELECT by, seq, op FROM aside ORDER BY by, seq, n').all() as { by: number; seq: number; op: Buffer }[]) {
      this.#note({ by: r.by, bySeq: r.seq, op: decodeAside(new Reader(r.op)) })
    }
  }

  /** An entry with such ops was applied; within its transaction. */
  add(by: number, bySeq: number, ops: AsideOp[]): void {
    const insert = this.#db.sql.prepare('INSERT OR REPLACE INTO aside VALUES (?,?,?,?)')
    ops.forEach((op, n) => {
      const w = new Writer(256)
      encodeAside(w, op)
      insert.run(by, bySeq, n, w.take())
      this.#note({ by, bySeq, op })
    })
  }

  #note(s: Statement): void {
    this.#all.push(s)
    for (const { id, seq } of s.op.logs) {
      // Of a log that nothing is known of here: its name is.
      const inc = this.#log.index(id, s.op.device)
      if (this.#log.deviceOf(inc).equals(s.op.device)) this.#named.set(inc, Math.max(seq, this.#named.get(inc) ?? 0))
    }
  }

  get isEmpty(): boolean { return this.#all.length === 0 }

  /** Incarnations that were ended. */
  ended(): Iterable<number> { return this.#named.keys() }

  isEnded(inc: number): boolean { return this.#named.has(inc) }

  /** No entry of the incarnation behind this one is taken. */
  cap(inc: number): number {
    const named = this.#named.get(inc)
    return named === undefined ? Infinity : Math.max(named, this.#order.applied(inc), this.#raised.get(inc) ?? 0)
  }

  /** An entry of a device that is not set aside has seen so much of an incarnation. */
  raise(inc: number, seq: number): void {
    if (seq > this.cap(inc) && this.limit(inc) === undefined) this.#raised.set(inc, seq)
  }

  /** Where the log of an incarnation ends for good; undefined: that is not decided yet, or it goes on. */
  limit(inc: number): number | undefined {
    const id = this.#named.has(inc) ? this.#log.incarnationId(inc) : undefined
    if (!id) return undefined
    let limit: number | undefined
    for (const s of this.#all) {
      const named = s.op.logs.find((l) => l.id.equals(id))
      if (!named || !this.#isClosed(s)) continue
      let seq = named.seq
      for (const voter of s.op.voters) for (const i of this.#answersOf(s, voter)) seq = Math.max(seq, this.#order.seen(i)?.get(inc) ?? 0)
      limit = Math.min(limit ?? Infinity, seq)
    }
    return limit
  }

  /** The last round of what sets a device aside, and of what brings it back. */
  #rounds(device: Buffer): { away: number; back: number } {
    let away = 0, back = 0
    for (const { op } of this.#all) {
      if (!op.device.equals(device)) continue
      if (op.isBack) back = Math.max(back, op.round)
      else away = Math.max(away, op.round)
    }
    return { away, back }
  }

  /** The round of an op that is made now. */
  nextRound(device: Buffer, isBack: boolean): number {
    const { away, back } = this.#rounds(device)
    return isBack ? Math.max(away, back, 1) : back + 1
  }

  /** Whether the device is set aside, and has not come back. */
  isAway(device: Buffer): boolean {
    const { away, back } = this.#rounds(device)
    return away > back
  }

  /** Whether it is brought back by somebody, and nothing has ended what it writes since. */
  isAwaited(device: Buffer): boolean {
    const { away, back } = this.#rounds(device)
    return back > 0 && back >= away
  }

  /** Entries by which others have welcomed a device. */
  *welcomes(device: Buffer): Generator<{ by: number; bySeq: number }> {
    for (const s of this.#all) if (s.op.isBack && s.op.device.equals(device)) yield s
  }

  /** Devices that are welcome, and were not set aside since. */
  welcomed(): Buffer[] {
    const devices = new Map(this.#all.filter((s) => s.op.isBack).map((s) => [s.op.device.toString('latin1'), s.op.device]))
    return [...devices.values()].filter((device) => this.isAwaited(device))
  }

  /** Whether nobody waits for it any more: all whom it concerns have said what they have of it. */
  isGone(device: Buffer): boolean {
    const { away, back } = this.#rounds(device)
    return away > back && this.#all.some((s) => s.op.device.equals(device) && !s.op.isBack && s.op.round === away && this.#isClosed(s))
  }

  #isClosed(s: Statement): boolean {
    return s.op.voters.every((voter) => this.isAway(voter) || this.#incarnationsOf(voter).some((i) => this.#hasAnswered(s, i)))
  }

  #hasAnswered(s: Statement, inc: number): boolean {
    return inc === s.by ? this.#order.applied(inc) >= s.bySeq : (this.#order.seen(inc)?.get(s.by) ?? 0) >= s.bySeq
  }

  /**
   * The incarnation by which a device has answered first: the others know it. A later one may have taken more, before it heard
   * again of what it has answered (it was put back to a backup): that it must give up. All, of a device that has not answered.
   */
  #answersOf(s: Statement, voter: Buffer): number[] {
    const all = this.#incarnationsOf(voter)
    const answers = all.filter((i) => this.#hasAnswered(s, i))
    const first = answers.find((i) => !answers.some((other) => other !== i && (this.#order.seen(i)?.get(other) ?? 0) > 0))
    return first === undefined ? all : [first]
  }

  #incarnationsOf(device: Buffer): number[] {
    return this.#log.incarnations.flatMap((_, i) => (this.#log.deviceOf(i).equals(device) ? [i] : []))
  }
}
