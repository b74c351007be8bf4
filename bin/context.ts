/** What every command needs: its settings, the drive by whichever way, and an orderly end. */
import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DriveApi, OnProgress } from '../lib/api.js'
import { Client } from '../lib/client.js'
import { loadConfig, type Config, type ConfigOptions } from '../lib/config.js'
import { DfsError, fail, isDfsError, understood } from '../lib/errors.js'
import { ADVICE, EXIT, exitCodeOf } from './exit-codes.js'
import { progressLine, visible } from './output.js'

/** Another command that holds the store is over soon, and so is the one after it; a long one is reported. */
const LOCKED_TIMEOUT_MS = 3000
const RETRY_INTERVAL_MS = 50

export interface GlobalOptions extends ConfigOptions { quiet?: boolean }

export class Context {
  readonly config: Config
  readonly quiet: boolean
  readonly #interrupt = new AbortController()
  #opened: DriveApi | undefined
  #passphrase: Promise<Buffer> | undefined
  #exitCode: number = EXIT.ok

  constructor(options: GlobalOptions) {
    this.config = loadConfig({ options })
    this.quiet = options.quiet ?? false
  }

  /** Aborted by the first ctrl-C, SIGTERM or SIGHUP. */
  get signal(): AbortSignal {
    return this.#interrupt.signal
  }

  interrupt(exitCode: number): void {
    this.#interrupt.abort(exitCode)
  }

  /** Stops watching for signals: from now on they are the business of whoever calls this. */
  leaveSignals: () => void = () => {}

  /** Through the daemon of the store if one runs, else by opening the store. Closed when the command ends. */
  async drive(): Promise<DriveApi> {
    return (this.#opened ??= await this.#open())
  }

  /** The daemon, for commands that cannot do without. */
  async daemon(): Promise<Client | undefined> {
    const client = await Client.connect(this.config.store)
    if (client) this.#opened ??= client
    return client
  }

  async #open(): Promise<DriveApi> {
    let deadlineMs = Infinity
    let holder = ''
    for (;;) {
      const client = await Client.connect(this.config.store)
      if (client) return client
      const { openStore } = await import('../lib/storage-peer.js')
      // The store's files are for its user alone, also in a directory that others may enter.
      process.umask(0o077)
      try {
        return await openStore(this.config.store, { passphrase: () => this.passphrase() })
      } catch (error) {
        if (!isDfsError(error, 'STORE_LOCKED')) throw error
        // It names who holds it: the store has gone from one to the next.
        if (error.message !== holder) deadlineMs = performance.now() + LOCKED_TIMEOUT_MS
        holder = error.message
        if (performance.now() > deadlineMs) throw error
      }
      await sleep(RETRY_INTERVAL_MS)
    }
  }

  /** Of an existing drive: from the file that the settings name, else from the terminal. */
  async passphrase(): Promise<Buffer> {
    // Who gets it wipes it, and a store that was joined is opened twice.
    return Buffer.from(await (this.#passphrase ??= this.#readPassphrase()))
  }

  async #readPassphrase(): Promise<Buffer> {
    const { readPassphrase } = await import('../lib/keys/passphrase.js')
    const path = this.config.passphraseFile
    if (path === '-') return readPassphrase({ from: 'stdin' })
    if (path) return readPassphrase({ from: 'file', path })
    return readPassphrase({ from: 'prompt', prompt: `Passphrase of ${this.config.store}: ` })
  }

  /** For a new drive: undefined if none is wanted. A file given is a wish. */
  async newPassphrase(isWanted: boolean): Promise<Buffer | undefined> {
    if (this.config.passphraseFile) return this.passphrase()
    if (!isWanted) return undefined
    const { readPassphrase } = await import('../lib/keys/passphrase.js')
    return readPassphrase({ from: 'prompt', prompt: 'New passphrase: ', confirm: true })
  }

  /** Long work, with its progress on a terminal; ctrl-C ends it. */
  async working<T>(work: (onProgress: OnProgress) => Promise<T>): Promise<T> {
    const progress = progressLine(this.quiet)
    try {
      return await work((p) => {
        this.signal.throwIfAborted()
        progress.update(p)
      })
    } finally {
      progress.end()
    }
  }

  /** The work goes on; the command ends with the code of the first failure. */
  warn(problem: unknown): void {
    if (this.#exitCode === EXIT.ok) this.#exitCode = exitOf(problem)
    process.stderr.write(`${typeof problem === 'string' ? `dfs: ${visible(problem)}` : errorLine(problem)}\n`)
  }

  /** Worth knowing, and no failure. */
  notice(text: string): void {
    process.stderr.write(`dfs: ${visible(text)}\n`)
  }

  get exitCode(): number {
    return this.#exitCode
  }

  /** Tells people, not programs. */
  say(text: string): void {
    if (!this.quiet) process.stdout.write(`${text}\n`)
  }

  async close(): Promise<void> {
    const opened = this.#opened
    this.#opened = undefined
    void this.#passphrase?.then((passphrase) => passphrase.fill(0), () => {})
    await opened?.close()
  }
}

/** `ends`: on ctrl-C at once (nothing to undo), or by the command itself, which watches `signal`. */
export interface RunOptions { onInterrupt?: 'end' | 'command' }

/** Runs a command's work and ends the process. */
export async function run(command: Command, work: (context: Context) => Promise<number | void>, { onInterrupt = 'end' }: RunOptions = {}): Promise<void> {
  let context: Context | undefined
  let code: number
  try {
    context = new Context(command.optsWithGlobals<GlobalOptions>())
    const interrupted = watchSignals(context)
    interrupted.catch(() => {}) // a command that watches the signal itself does not wait for it
    const working = work(context)
    code = (await (onInterrupt === 'end' ? Promise.race([working, interrupted]) : working)) ?? context.exitCode
  } catch (error) {
    code = report(error, context)
  }
  try {
    // Through a direct drive, this is what makes everything durable: its failure is the command's.
    await context?.close()
  } catch (error) {
    // What stopped the work often stops the close: told once.
    if (code === EXIT.ok) code = report(error, context)
  }
  await end(code)
}

function report(error: unknown, context: Context | undefined): number {
  const signal = context?.signal
  if (signal?.aborted) {
    const code = signal.reason as number
    // As everywhere, a message with a semicolon has said what is to be known: here, how far it came.
    if (code !== EXIT.outputGone && !(error instanceof Interrupted)) process.stderr.write(`${isDfsError(error, 'EINTR') && error.message.includes(';') ? errorLine(error) : 'dfs: interrupted'}\n`)
    return code
  }
  process.stderr.write(`${errorLine(error)}\n`)
  return exitOf(error)
}

function exitOf(error: unknown): number {
  const known = understood(error)
  return known ? exitCodeOf(known.code) : EXIT.failure
}

/** `dfs: what happened; what to do` */
export function errorLine(error: unknown): string {
  const known = understood(error)
  if (!known) {
    const text = error instanceof Error ? (process.env.DFS_DEBUG ? (error.stack ?? error.message) : error.message) : String(error)
    return `dfs: this should not have happened: ${process.env.DFS_DEBUG ? text : visible(text)}; run it again with DFS_DEBUG=1 and report what it says`
  }
  const advice = known.message.includes(';') ? undefined : ADVICE[known.code]
  return `dfs: ${visible(known.message)}${advice ? `; ${advice}` : ''}`
}

class Interrupted extends Error {}

function watchSignals(context: Context): Promise<never> {
  return new Promise((_, reject) => {
    const interrupt = (code: number) => {
      // A second ctrl-C: whatever hangs, leave.
      if (context.signal.aborted) process.exit(code)
      context.interrupt(code)
      reject(new Interrupted())
    }
    const handlers = [['SIGINT', () => interrupt(EXIT.interrupted)], ['SIGTERM', () => interrupt(EXIT.terminated)], ['SIGHUP', () => interrupt(EXIT.terminated)]] as const
    for (const [signal, handler] of handlers) process.on(signal, handler)
    context.leaveSignals = () => handlers.forEach(([signal, handler]) => process.off(signal, handler))
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') interrupt(EXIT.outputGone)
    })
  })
}

async function end(code: number): Promise<never> {
  // What is still in the pipe must get out first.
  await Promise.all([process.stdout, process.stderr].map((stream) => new Promise<void>((resolve) => {
    if (stream.destroyed || stream.writableLength === 0) return resolve()
    stream.write('', () => resolve())
  })))
  process.exit(code)
}

export function usage(message: string): DfsError {
  return fail('USAGE', message)
}
