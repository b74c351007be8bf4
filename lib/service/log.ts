/**
 * The daemon's log: `daemon.log` in the store, and the lines before it in
 * `daemon.log.1`; together at most twice MAX_LOG_BYTES. It lies beside sealed
 * data, so it never says what is in the drive: of an error, the code and where
 * in the program, not the message, which may name a file.
 */
import { closeSync, copyFileSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { isDfsError } from '../errors.js'

/** Weeks of a daemon's life; a fault that repeats must not fill the disk. */
const MAX_LOG_BYTES = 1024 * 1024

export class DaemonLog {
  readonly #path: string
  readonly #fd: number
  readonly #mirror: NodeJS.WriteStream | undefined

  /** `mirror` also gets each line: standard error of a daemon in the foreground. */
  constructor(path: string, mirror?: NodeJS.WriteStream) {
    this.#path = path
    this.#fd = openSync(path, 'a', 0o600)
    this.#mirror = mirror
  }

  /** Never throws: a full disk must not end the daemon. */
  line(text: string): void {
    try {
      // Emptied in place, for standard error of the process is open on the same file, in append mode.
      if (fstatSync(this.#fd).size > MAX_LOG_BYTES) {
        copyFileSync(this.#path, `${this.#path}.1`)
        ftruncateSync(this.#fd, 0)
      }
      writeSync(this.#fd, `${new Date().toISOString()} [${process.pid}] ${text}\n`)
    } catch {
      // Nowhere to say so.
    }
    this.#mirror?.write(`dfs: ${text}\n`)
  }

  fault(during: string, error: unknown): void {
    this.line(`fault during ${during}: ${describe(error)}`)
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/** Without the message. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return typeof error
  const code = isDfsError(error) ? error.code : ((error as NodeJS.ErrnoException).code ?? '')
  const frames = (error.stack ?? '').split('\n').filter((line) => /^\s+at /.test(line)).map((line) => line.trim())
  return [`${error.name} ${code}`, ...frames.slice(0, 12), ...(error.cause ? [`caused by ${describe(error.cause)}`] : [])].join(' | ')
}
