/**
 * When each device was heard of last: connected, or by an entry of its own. By
 * this device's clock, and kept for this device alone.
 *
 * A clock that is set, or a device that has slept itself, must not make the
 * others look silent: nobody is until this one was up for `upMs` in a row with a
 * steady clock, which is when whoever is there has had the time to come.
 */
import type { Clock, Timers } from '../clock.js'
import type { Database, Statement } from '../store/database.js'

/** Wall clock and steady clock go apart by more between two looks: the one was set, or the machine slept. */
const JUMP_MS = 60_000
/** What a crash may lose of it. */
const NOTE_MS = 3_600_000

export class Silence {
  readonly #clock: Pick<Clock, 'nowMs'>
  readonly #timers: Pick<Timers, 'nowMs'>
  readonly #heard = new Map<string, { atMs: number; notedMs: number }>()
  readonly #put: Statement
  #upSinceMs: number
  #last: { wallMs: number; steadyMs: number }

  /** Before a transaction is open. */
  constructor(db: Database, clock: Pick<Clock, 'nowMs'>, timers: Pick<Timers, 'nowMs'>) {
    this.#clock = clock
    this.#timers = timers
    db.sql.exec('CREATE TABLE IF NOT EXISTS heard(device BLOB PRIMARY KEY, ms INTEGER NOT NULL) WITHOUT ROWID')
    this.#put = db.sql.prepare('INSERT OR REPLACE INTO heard VALUES (?,?)') as unknown as Statement
    for (const r of db.sql.prepare('SELECT device, ms FROM heard').all() as { device: Buffer; ms: number }[]) {
      this.#heard.set(r.device.toString('latin1'), { atMs: r.ms, notedMs: r.ms })
    }
    this.#upSinceMs = timers.nowMs()
    this.#last = { wallMs: clock.nowMs(), steadyMs: timers.nowMs() }
  }

  hear(device: Buffer): void {
    const key = device.toString('latin1')
    this.#heard.set(key, { atMs: this.#clock.nowMs(), notedMs: this.#heard.get(key)?.notedMs ?? -Infinity })
  }

  /** Since when a device is silent; one that was never heard of, from now on. */
  heardMs(device: Buffer): number {
    const key = device.toString('latin1')
    if (!this.#heard.has(key)) this.hear(device)
    const heard = this.#heard.get(key)!
    heard.atMs = Math.min(heard.atMs, this.#clock.nowMs())
    return heard.atMs
  }

  /** Every few seconds, within a transaction; whether anything was noted. */
  look(): boolean {
    const now = { wallMs: this.#clock.nowMs(), steadyMs: this.#timers.nowMs() }
    if (Math.abs(now.wallMs - this.#last.wallMs - (now.steadyMs - this.#last.steadyMs)) > JUMP_MS) this.#upSinceMs = now.steadyMs
    this.#last = now
    let noted = false
    for (const [key, heard] of this.#heard) {
      if (Math.abs(heard.atMs - heard.notedMs) < NOTE_MS) continue
      this.#put.run(Buffer.from(key, 'latin1'), Math.floor(heard.atMs))
      heard.notedMs = heard.atMs
      noted = true
    }
    return noted
  }

  /** Whether a device that is there would have been heard of. */
  isSure(upMs: number): boolean { return this.#timers.nowMs() - this.#upSinceMs >= upMs }
}
