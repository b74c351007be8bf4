/**
 * One process to a store. The lock must vanish with the process, also on kill -9.
 *
 * Chosen: SQLite's POSIX lock on a small file of its own (an exclusive transaction
 * that is never committed). Node has no flock. An abstract unix socket would be
 * bound to a network namespace, so that two containers could open one store, and
 * any user could take the name; a pid file outlives its process. A POSIX lock
 * works for all users and namespaces of a machine, and for NFS where that has locks.
 *
 * lock.db must never be opened but by SQLite: closing any other descriptor on
 * it would drop the lock of this process (fcntl(2)).
 */
import Sqlite from 'better-sqlite3'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fail } from '../errors.js'

const LOCK = 'lock.db'
/** Who holds it; a hint for messages, true only while the lock is held. */
const HOLDER = 'lock.pid'

export class StoreLock {
  readonly dir: string
  #db: Sqlite.Database | undefined

  private constructor(dir: string, db: Sqlite.Database) {
    this.dir = dir
    this.#db = db
  }

  /** Takes the lock of the store in `dir`, without waiting. STORE_LOCKED names the process that holds it. */
  static acquire(dir: string): StoreLock {
    const db = tryLock(dir)
    if (!db) {
      const pid = readHolder(dir)
      throw fail('STORE_LOCKED', `the store ${dir} is in use by ${pid ? `process ${pid}` : 'another process'}`)
    }
    writeFileSync(join(dir, HOLDER), `${process.pid}\n`, { mode: 0o600 })
    return new StoreLock(dir, db)
  }

  /** The process that holds the store now; undefined if none does; 0 if one does but its pid is not known. */
  static holder(dir: string): number | undefined {
    const db = tryLock(dir)
    if (!db) return readHolder(dir) ?? 0
    unlock(db)
    return undefined
  }

  /** May be called twice. */
  release(): void {
    if (!this.#db) return
    rmSync(join(this.dir, HOLDER), { force: true })
    unlock(this.#db)
    this.#db = undefined
  }
}

function tryLock(dir: string): Sqlite.Database | undefined {
  let db: Sqlite.Database
  try {
    db = new Sqlite(join(dir, LOCK), { timeout: 0 })
  } catch (e) {
    if (!existsSync(dir)) throw fail('STORE_MISSING', `there is no store at ${dir}`, e)
    throw fail('EIO', `the store ${dir} cannot be opened: ${(e as Error).message.split('\n', 1)[0]}`, e)
  }
  try {
    db.exec('BEGIN EXCLUSIVE')
    return db
  } catch (e) {
    db.close()
    const code = (e as { code?: string }).code ?? ''
    if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) return undefined
    throw fail('STORE_DAMAGED', `the lock of the store ${dir} cannot be taken (${code || String(e)})`, e)
  }
}

function unlock(db: Sqlite.Database): void {
  if (db.inTransaction) db.exec('ROLLBACK')
  db.close()
}

function readHolder(dir: string): number | undefined {
  try {
    const pid = Number(readFileSync(join(dir, HOLDER), 'utf8'))
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined
  } catch {
    return undefined
  }
}
