/** The newest report of each device (placement/report.ts), as it was sent. */
import type { Database } from './database.js'

export class ReportTable {
  readonly #db: Database

  constructor(db: Database) {
    this.#db = db
    db.sql.exec('CREATE TABLE IF NOT EXISTS report(device BLOB PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID')
  }

  all(): Buffer[] { return this.#db.sql.prepare('SELECT bytes FROM report').pluck().all() as Buffer[] }

  put(device: Buffer, bytes: Buffer): void {
    this.#db.sql.prepare('INSERT OR REPLACE INTO report VALUES (?,?)').run(device, bytes)
  }
}
