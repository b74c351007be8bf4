/**
 * Whether the log of a device is taken of which nothing was here before.
 *
 * What all members have stated is final: it keeps its place, and what comes
 * later has seen it. Who is not known is not waited for. So the first entry of a
 * new device must have seen whatever was called final without it, anywhere; or
 * its place would not be the same for all. It has, if one of these is in its
 * context:
 *
 *   the welcome of a member (an op of lib/log/asides.ts), who gave it the
 *   metadata after that;
 *
 *   all that this device had stated when it learned of the newcomer, or began
 *   with itself if that was later: without its statement nobody calls anything
 *   more final, and whoever hears a later one has heard of the newcomer before it
 *   (a device passes certificates on before entries).
 *
 * And it has, if a log that is here names it: its device has looked for itself.
 *
 * One that has not seen it joined from what a storage device keeps while others
 * went on. Its log is ended, and it begins anew (lib/anew.ts).
 */
import type { Database, Statement } from '../store/database.js'
import { decodeVector, encodeVector, holds, type Vector } from './vector.js'

/** Somebody who has looked for himself may be on his way. */
const PATIENCE_MS = 8000
/** No device has this key: for what this one began with. */
const NOBODY = Buffer.alloc(32)

export interface NewcomersParts {
  db: Database
  canWrite: boolean
  /** What this device has stated to have, its own entries among it; empty before its first. */
  stated(): Vector
  /** What is final here. */
  final(): Vector
  /** Entries that welcome a device. */
  welcomes(device: Buffer): Iterable<{ by: number; bySeq: number }>
  nowMs(): number
}

export class Newcomers {
  readonly #p: NewcomersParts
  /** What was stated when a device became known. */
  readonly #met = new Map<string, Vector>()
  readonly #put: Statement
  /** Set while a device that may write has not begun its log. */
  isBeginning = false
  /** Logs that others name. */
  readonly #named = new Set<number>()
  readonly #refused = new Map<number, { device: Buffer; sinceMs: number }>()

  /** Before a transaction is open. */
  constructor(p: NewcomersParts) {
    this.#p = p
    p.db.sql.exec('CREATE TABLE IF NOT EXISTS met(device BLOB PRIMARY KEY, stated BLOB NOT NULL) WITHOUT ROWID')
    this.#put = p.db.sql.prepare('INSERT OR REPLACE INTO met VALUES (?,?)') as unknown as Statement
    for (const r of p.db.sql.prepare('SELECT device, stated FROM met').all() as { device: Buffer; stated: Buffer }[]) {
      this.#met.set(r.device.toString('latin1'), decodeVector(r.stated))
    }
  }

  /** A device became known that may write; within the transaction that keeps its certificate. */
  meet(device: Buffer): void {
    const stated = this.#p.stated()
    if (this.#p.canWrite && stated.size > 0) this.#keep(device, stated)
  }

  /** The log of this device begins with what it has by now; of those who are known already it has stated nothing yet. */
  begin(has: Vector): void {
    this.isBeginning = false
    this.#refused.clear()
    this.#keep(NOBODY, has)
  }

  #keep(device: Buffer, vector: Vector): void {
    this.#met.set(device.toString('latin1'), new Map(vector))
    this.#put.run(device, encodeVector(vector))
  }

  /** A log that is taken names what it had of another. */
  name(inc: number): void { this.#named.add(inc) }

  /** Whether a log that begins with an entry that had seen `context` is taken. */
  isTaken(inc: number, device: Buffer, context: Vector): boolean {
    const isTaken = this.#named.has(inc) || this.#isWelcome(device, context) || this.#hasSeenAll(device, context)
    if (isTaken) this.#refused.delete(inc)
    else if (!this.#refused.has(inc)) this.#refused.set(inc, { device, sinceMs: this.#p.nowMs() })
    return isTaken
  }

  #hasSeenAll(device: Buffer, context: Vector): boolean {
    // Its word would count, and it has looked at nothing.
    if (this.isBeginning) return false
    const stated = this.#met.get(device.toString('latin1')) ?? this.#met.get(NOBODY.toString('latin1'))
    return (!stated || holds(context, stated)) && holds(context, this.#p.final())
  }

  #isWelcome(device: Buffer, context: Vector): boolean {
    for (const { by, bySeq } of this.#p.welcomes(device)) if ((context.get(by) ?? 0) >= bySeq) return true
    return false
  }

  /** Devices whose log was not taken for so long that nobody will vouch for it. */
  refused(): Buffer[] {
    return [...this.#refused].filter(([, r]) => this.#p.nowMs() - r.sinceMs >= PATIENCE_MS).map(([, r]) => r.device)
  }

  /** Its log was ended. */
  forget(device: Buffer): void {
    for (const [inc, r] of this.#refused) if (r.device.equals(device)) this.#refused.delete(inc)
  }
}
