/**
 * Moves the write-ahead log into the database, off the main thread: a worker
 * with a connection of its own runs PASSIVE checkpoints, which wait for nobody.
 * Under steady writing the log would still never start over, because new frames
 * always follow; so when the worker is through and the log is long, the last few
 * frames are moved between two transactions of the main connection, and the next
 * write starts the log from its front.
 */
import { Worker } from 'node:worker_threads'
import type { Journal } from '../log/journal.js'
import { FRAME_BYTES, type Database } from './database.js'

/** The worker is asked when the log has grown by this share of what database.ts keeps written (6 MiB of 32)... */
const STEP_SHARE = 0.1875
/** ...and it starts over when it is this long: before it outgrows that. */
const RESTART_SHARE = 0.625
/** As much as the main thread may move by itself, within milliseconds. */
const REST_BYTES = 4 << 20
/** The log starts over whatever it takes: the disk is slower than the writers. */
const LONGEST_BYTES = 256 << 20

export class Checkpointer {
  readonly #db: Database
  readonly #journal: Journal
  #worker: Worker | null = null
  #busy = false
  #closed = false
  #doneAt = 0
  #commits = 0

  constructor(db: Database, journal: Journal) {
    this.#db = db
    this.#journal = journal
    journal.onCommit = () => {
      // Each commit is at least a page; looking at the size costs a system call.
      if (++this.#commits >= 16) this.#look()
    }
  }

  #look(): void {
    this.#commits = 0
    if (this.#busy || this.#closed) return
    const size = this.#db.walBytes()
    if (size < this.#doneAt) this.#doneAt = 0
    if (size - this.#doneAt < this.#db.keptWalBytes * STEP_SHARE) return
    this.#busy = true
    this.#start().postMessage(null)
  }

  #start(): Worker {
    if (this.#worker) return this.#worker
    const worker = new Worker(new URL('./checkpoint-worker.js', import.meta.url), { workerData: { path: this.#db.path } })
    worker.unref()
    worker.on('message', (m: { checkpointed: number }) => this.#done(m.checkpointed * FRAME_BYTES))
    worker.on('error', (e) => {
      this.#worker = null
      this.#busy = false
      // A damaged index or a full disk shows itself at the next commit too; the log grows until then.
      process.emitWarning(`checkpoint: ${e.message}`)
    })
    return (this.#worker = worker)
  }

  #done(moved: number): void {
    this.#busy = false
    const now = this.#db.walBytes()
    this.#doneAt = moved
    if (this.#closed || this.#journal.stopped || now < this.#db.keptWalBytes * RESTART_SHARE) return
    // What came meanwhile is the worker's too, unless it is little; or so much that the log must start over.
    if (now - moved > REST_BYTES && now < LONGEST_BYTES) {
      this.#busy = true
      this.#start().postMessage(null)
      return
    }
    try {
      this.#journal.between(() => this.#db.sql.pragma('wal_checkpoint(RESTART)'))
      this.#doneAt = 0
    } catch (e) {
      // With no room for a larger database the log is as it was, and goes on.
      if ((e as { code?: unknown }).code !== 'SQLITE_FULL') this.#journal.stop(e as Error)
    }
  }

  /** May be called twice. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#worker?.terminate()
    this.#worker = null
  }
}
