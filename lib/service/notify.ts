/**
 * Tells the service manager how it goes, as sd_notify(3). Node has no datagram
 * sockets of the Unix kind: systemd's own program sends what is said.
 */
import { spawn } from 'node:child_process'

export interface Notifier {
  /** It serves from now on; the manager is told regularly that it is alive. */
  ready(status: string): void
  /** One line for people. */
  status(text: string): void
  /** It ends. Nothing is said after. */
  stopping(): void
}

/** Where nobody listens. */
export const SILENT: Notifier = { ready() {}, status() {}, stopping() {} }

/** Three chances before the manager takes us for dead. */
const BEATS_PER_LIMIT = 3

/** Undefined unless a manager has started this process and listens. `onFault`: its program cannot be run. */
export function notifierOf(env: NodeJS.ProcessEnv, onFault: (error: unknown) => void): Notifier | undefined {
  const socket = env['NOTIFY_SOCKET']
  if (!socket) return undefined
  const limitMs = !env['WATCHDOG_PID'] || Number(env['WATCHDOG_PID']) === process.pid ? Number(env['WATCHDOG_USEC'] ?? 0) / 1000 : 0
  return new ProgramNotifier({ NOTIFY_SOCKET: socket, PATH: env['PATH'] }, limitMs > 0 ? limitMs / BEATS_PER_LIMIT : undefined, onFault)
}

class ProgramNotifier implements Notifier {
  readonly #env: NodeJS.ProcessEnv
  readonly #beatMs: number | undefined
  readonly #onFault: (error: unknown) => void
  #timer: NodeJS.Timeout | undefined
  /** In order, one at a time. */
  #last: Promise<void> = Promise.resolve()
  #said = ''
  #isOver = false

  constructor(env: NodeJS.ProcessEnv, beatMs: number | undefined, onFault: (error: unknown) => void) {
    this.#env = env
    this.#beatMs = beatMs
    this.#onFault = onFault
  }

  ready(status: string): void {
    this.#said = status
    this.#send('READY=1', `STATUS=${status}`)
    if (this.#beatMs !== undefined) this.#timer = setInterval(() => this.#send('WATCHDOG=1'), this.#beatMs).unref()
  }

  status(text: string): void {
    if (text === this.#said) return
    this.#said = text
    this.#send(`STATUS=${text}`)
  }

  stopping(): void {
    this.#send('STOPPING=1', 'STATUS=flushing')
    clearInterval(this.#timer)
    this.#isOver = true
  }

  #send(...lines: string[]): void {
    if (this.#isOver) return
    const assignments = lines.map((line) => line.replaceAll('\n', ' '))
    this.#last = this.#last.then(() => new Promise((resolve) => {
      const child = spawn('systemd-notify', assignments, { env: this.#env, stdio: 'ignore' })
      child.once('error', (error) => {
        this.#onFault(error)
        resolve()
      })
      child.once('exit', () => resolve())
    }))
  }
}
