/**
 * Starting the daemon, both sides: the command that wants it (`reachDaemon`) and
 * the new process (`readOrder`, `Starter`).
 *
 * The order, which may hold a passphrase, goes to the new process through its
 * standard input: arguments and environment can be seen by others. The answer
 * comes back through descriptor 3, once: it runs (and is mounted), or why not.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from '../client.js'
import { logPath, type NetworkConfig } from '../config.js'
import { DfsError, fail, isDfsError, type DfsErrorCode, understood } from '../errors.js'
import { isKeyFileSealed } from '../keys/keyfile.js'
import type { MountRequest } from './calls.js'

/**
 * V8 collects late by default: a heap of 40 MB that lives took 117, and each thread up to 48 for new objects alone. With these the daemon takes a
 * quarter less memory, and no more time: bulk lies outside of the heap.
 */
export const HEAP_FLAGS: readonly string[] = ['--max-semi-space-size=4', '--heap-growing-percent=25']

export interface Order {
  store: string
  /** Make a drive if the store has none. */
  create: boolean
  /** In base64. Of an existing drive or of the one to be made. */
  passphrase?: string
  lifetime: 'while-mounted' | 'until-stopped'
  mount?: MountRequest
  network: NetworkConfig
  /** Bytes of the cache, null: everything; absent: as last time. */
  cache?: number | null
  /** Copies of each chunk, of a drive that is made. */
  replication?: string
  /** End when standard input ends: with whoever started it. */
  foreground: boolean
  /** Nothing is mounted, whoever asks. */
  refuseMounts?: boolean
}

export type StartAnswer = { ok: true; pid: number; created: boolean } | { ok: false; code: DfsErrorCode; message: string }

export interface LaunchOptions {
  store: string
  /** The script of the daemon. */
  script: string
  create: boolean
  lifetime: Order['lifetime']
  mount?: MountRequest
  network: NetworkConfig
  cache?: number | null
  replication?: string
  foreground: boolean
  refuseMounts?: boolean
  /** A daemon runs already: what it has to be told before it mounts. */
  onRunning?: (client: Client) => Promise<void>
  /** Takes in the metadata of a drive that was joined (lib/join.ts). */
  finishJoin: () => Promise<void>
  /** Asked only if the drive has one. */
  passphrase: () => Promise<Buffer>
  /** For a drive that is made now. */
  newPassphrase: () => Promise<Buffer | undefined>
  signal: AbortSignal
}

/** Threads for file operations: syncs of segment and index must not hold up reads (Node's default is 4). */
export const POOL_THREADS = '8'
/** Another command may hold the store for a moment, or a daemon be about to end. */
export const LOCKED_TIMEOUT_MS = 5000
export const RETRY_INTERVAL_MS = 50

export type Reached =
  /** It ran before. `already`: and had it mounted there. */
  | { state: 'running'; client: Client; already: boolean }
  /** It was started; `child` where it is in the foreground. */
  | { state: 'started'; pid: number; created: boolean; child: ChildProcess }

/**
 * The daemon of the store, the running one or a new one, with `mount` done.
 * STORE_LOCKED if something else holds the store for long; whatever the start failed with.
 */
export async function reachDaemon(options: LaunchOptions): Promise<Reached> {
  let deadlineMs = performance.now() + LOCKED_TIMEOUT_MS
  for (;;) {
    let client: Client | undefined
    try {
      client = await Client.connect(options.store)
      if (client) await options.onRunning?.(client)
      if (client) return { state: 'running', client, already: options.mount ? (await client.mount(options.mount)).already : false }
      return { state: 'started', ...(await launch(options)) }
    } catch (error) {
      await client?.close()
      if (isDfsError(error, 'STORE_JOINING')) {
        await options.finishJoin()
        deadlineMs = performance.now() + LOCKED_TIMEOUT_MS
        continue
      }
      // One that is stopping is gone soon; of two that start at once one finds the store taken, or just made.
      const passing = isDfsError(error, client ? 'DAEMON_UNREACHABLE' : 'STORE_LOCKED') || (options.create && isDfsError(error, 'STORE_EXISTS'))
      if (!passing || performance.now() > deadlineMs) throw error
    }
    await sleep(RETRY_INTERVAL_MS)
  }
}

async function launch(options: LaunchOptions): Promise<{ pid: number; created: boolean; child: ChildProcess }> {
  const { store, foreground } = options
  const { order, passphrase } = await orderOf(options)
  const log = foreground ? 'inherit' : openLog(store)
  const child = spawn(process.execPath, [...process.execArgv, ...HEAP_FLAGS, options.script, store], {
    // Its own session: ctrl-C reaches the command alone, which then ends the daemon in order.
    detached: true,
    stdio: ['pipe', foreground ? 'inherit' : log, log, 'pipe'],
    env: { ...process.env, UV_THREADPOOL_SIZE: process.env.UV_THREADPOOL_SIZE ?? POOL_THREADS },
  })
  if (typeof log === 'number') closeSync(log)
  const abort = () => child.kill('SIGTERM')
  options.signal.addEventListener('abort', abort)
  try {
    child.stdin!.on('error', () => {}) // it died: the answer says so
    if (foreground) child.stdin!.write(`${JSON.stringify(order)}\n`)
    else child.stdin!.end(`${JSON.stringify(order)}\n`)
    const answer = await answerOf(child, store)
    if (options.signal.aborted) throw fail('EINTR', 'interrupted')
    if (!answer.ok) throw new DfsError(answer.code, answer.message)
    if (!foreground) {
      child.unref()
      ;(child.stdin as unknown as { unref?: () => void }).unref?.()
    }
    return { pid: answer.pid, created: answer.created, child }
  } finally {
    passphrase?.fill(0)
    options.signal.removeEventListener('abort', abort)
  }
}

/** STORE_MISSING; whatever asking for the passphrase throws. The caller wipes that. */
export async function orderOf(options: Omit<LaunchOptions, 'script' | 'signal' | 'onRunning' | 'finishJoin'>): Promise<{ order: Order; passphrase: Buffer | undefined }> {
  const { store } = options
  const keys = join(store, 'keys')
  const exists = existsSync(keys)
  if (!exists && !options.create) throw storeMissing(store)
  const passphrase = !exists ? await options.newPassphrase() : (await isKeyFileSealed(keys)) ? await options.passphrase() : undefined
  const order: Order = {
    store, create: options.create, lifetime: options.lifetime, network: options.network, foreground: options.foreground,
    ...(options.mount && { mount: options.mount }),
    ...(options.cache !== undefined && { cache: options.cache }),
    ...(options.replication !== undefined && { replication: options.replication }),
    ...(options.refuseMounts && { refuseMounts: true }),
    ...(passphrase && { passphrase: passphrase.toString('base64') }),
  }
  return { order, passphrase }
}

export function storeMissing(store: string): DfsError {
  return fail('STORE_MISSING', `there is no drive in ${store}; make one with dfs create or dfs mount, or join one with dfs join KEY`)
}

/** Faults that end the process before it can log them go there too. */
function openLog(store: string): number {
  try {
    mkdirSync(store, { recursive: true, mode: 0o700 })
    return openSync(logPath(store), 'a', 0o600)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw fail(code === 'EACCES' || code === 'EROFS' || code === 'ENOSPC' || code === 'ENOTDIR' ? code : 'DAEMON_FAILED', `the store ${store} cannot be used: ${message}`, error)
  }
}

async function answerOf(child: ChildProcess, store: string): Promise<StartAnswer> {
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(signal ? `killed by ${signal}` : `exit code ${code}`))
  })
  const parts: Buffer[] = []
  for await (const part of child.stdio[3] as Readable) parts.push(part as Buffer)
  try {
    return JSON.parse(Buffer.concat(parts).toString()) as StartAnswer
  } catch {
    return { ok: false, code: 'DAEMON_FAILED', message: `the daemon ended while it started (${await ended}); ${logPath(store)} may say why` }
  }
}

// --- the new process ---------------------------------------------------------

const MAX_ORDER_BYTES = 64 * 1024

/** Reads the order from standard input: one line of JSON. `ended` resolves when whoever started us is gone. */
export async function readOrder(input: Readable): Promise<{ order: Order; ended: Promise<void> }> {
  const ended = new Promise<void>((resolve) => input.once('close', resolve))
  let text = ''
  await new Promise<void>((resolve, reject) => {
    input.setEncoding('utf8')
    input.on('data', (part: string) => {
      text += part
      if (text.includes('\n')) resolve()
      else if (text.length > MAX_ORDER_BYTES) reject(fail('USAGE', 'the order to the daemon is too long'))
    })
    input.once('end', () => reject(fail('USAGE', 'this program is started by dfs mount and dfs serve, not by hand')))
  })
  return { order: JSON.parse(text.slice(0, text.indexOf('\n'))) as Order, ended }
}

/** Tells whoever started us; once. It may be gone. */
export function answerStart(answer: StartAnswer): void {
  try {
    writeSync(3, JSON.stringify(answer))
    closeSync(3)
  } catch {
    // Nobody listens; the log has it too.
  }
}

export function startFailure(error: unknown): StartAnswer {
  const known = understood(error)
  if (known) return { ok: false, code: known.code, message: known.message }
  return { ok: false, code: 'DAEMON_FAILED', message: error instanceof Error ? error.message : String(error) }
}
