/** Logs whose device has written two histories, with the proof: two signed headers that cannot be of one chain. */
import type { Database } from '../store/database.js'

export interface ForkProof { incarnation: Buffer; device: Buffer; one: Buffer; other: Buffer }

export class Forks {
  readonly #db: Database
  readonly #known = new Map<string, ForkProof>()

  /** Before a transaction is open. */
  constructor(db: Database) {
    this.#db = db
    db.sql.exec('CREATE TABLE IF NOT EXISTS fork(incarnation BLOB NOT NULL, device BLOB NOT NULL, one BLOB NOT NULL, other BLOB NOT NULL, PRIMARY KEY(incarnation, device)) WITHOUT ROWID')
    for (const proof of db.sql.prepare('SELECT incarnation, device, one, other FROM fork').all() as ForkProof[]) this.#known.set(keyOf(proof), proof)
  }

  all(): ForkProof[] { return [...this.#known.values()] }

  has(log: { incarnation: Buffer; device: Buffer }): boolean { return this.#known.has(keyOf(log)) }

  /** Within the open transaction. The first proof of a log is enough. */
  add(proof: ForkProof): void {
    if (this.has(proof)) return
    const { incarnation, device, one, other } = proof
    this.#known.set(keyOf(proof), { incarnation, device, one, other })
    this.#db.sql.prepare('INSERT OR IGNORE INTO fork VALUES (?,?,?,?)').run(incarnation, device, one, other)
  }
}

function keyOf(log: { incarnation: Buffer; device: Buffer }): string {
  return log.incarnation.toString('latin1') + log.device.toString('latin1')
}
