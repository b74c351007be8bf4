/**
 * A device of a drive as a user has it: a store, a daemon and a mount of its own, run through the command line, on a host
 * of a Lan or on a port of this machine. Whatever a test leaves is ended by process id and removed by `closeMembers`.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Client } from '../../lib/client.js'
import { DFS, isAlive, isMounted, kill, memoryOf, processesOf } from './mount.js'
import type { Lan } from './namespaces.js'
import { must, run, sleep, type Ran } from './run.js'

const COMMAND_TIMEOUT_MS = 120_000
export const PORT = 4977

export interface MemberOptions {
  /** Further environment of all its commands. */
  env?: NodeJS.ProcessEnv
  mountArgs?: string[]
}

export class Member {
  readonly dir: string
  readonly store: string
  readonly address: string
  readonly #prefix: string[]
  readonly #env: NodeJS.ProcessEnv
  readonly #mountArgs: string[]
  /** Of the daemon, while it is known to run; 0 otherwise. */
  pid = 0
  /** The most memory that any of its daemons has had, bytes. */
  peak = 0

  constructor(readonly name: string, parent: string, place: { lan: Lan; address: string } | { port: number }, options: MemberOptions = {}) {
    this.dir = join(parent, `${name}-mnt`)
    this.store = join(parent, `${name}-store`)
    mkdirSync(this.dir)
    const port = 'port' in place ? place.port : PORT
    this.address = `${'lan' in place ? place.address : '127.0.0.1'}:${port}`
    this.#prefix = 'lan' in place ? place.lan.prefix(name) : []
    this.#mountArgs = options.mountArgs ?? []
    const clean = Object.fromEntries(Object.entries(process.env).filter(([key]) => !/^(DFS|NODE)_/.test(key)))
    this.#env = { ...clean, DFS_DISCOVERY: 'none', NODE_ID: name, NODE_PORT: String(port), ...options.env }
    members.add(this)
  }

  /** Whatever it ends with. */
  tried(...args: string[]): Promise<Ran> {
    const [command, ...rest] = [...this.#prefix, process.execPath, DFS, '--store', this.store, ...args]
    return run(command!, rest, { env: this.#env, timeoutMs: COMMAND_TIMEOUT_MS, cwd: '/' })
  }

  /** Its standard output; throws unless it ends with 0. */
  async dfs(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.tried(...args)
    if (code !== 0) throw new Error(`${this.name}: dfs ${args[0]}: exit code ${code}\n${stderr}${this.log.slice(-2000)}`)
    return stdout
  }

  async mount(...args: string[]): Promise<void> {
    await this.dfs('mount', ...this.#mountArgs, ...args, this.dir)
    this.pid = (await this.status()).pid
  }

  /** The daemon alone, without a mount, as a service manager runs it. */
  async serve(...args: string[]): Promise<void> {
    const [command, ...rest] = [...this.#prefix, process.execPath, DFS, '--store', this.store, 'serve', '--no-fork', ...args]
    const child = spawn(command!, rest, { env: this.#env, cwd: '/', stdio: 'ignore' })
    let failure = ''
    child.once('exit', (code) => { failure = `dfs serve ended with ${code}` })
    await until(`${this.name} is served`, async () => {
      if (failure) throw new Error(`${this.name}: ${failure}`)
      const client = await Client.connect(this.store).catch(() => undefined)
      await client?.close()
      return client !== undefined
    })
    this.pid = child.pid!
  }

  async join(key: string, ...args: string[]): Promise<void> {
    await this.dfs('join', key, ...args)
  }

  async key(): Promise<string> {
    return (await this.dfs('key')).trim().split('\n').find((line) => line.includes('dfs1-'))!.trim()
  }

  async status(): Promise<Awaited<ReturnType<Client['status']>>> {
    const client = await Client.connect(this.store)
    if (!client) throw new Error(`${this.name}: no daemon`)
    try {
      return await client.status()
    } finally {
      await client.close()
    }
  }

  /** As a power switch, but for the disk's. */
  async kill(): Promise<void> {
    this.#measure()
    const { pid } = this
    this.pid = 0
    if (pid === 0) return
    kill(pid)
    while (isAlive(pid)) await sleep(10)
  }

  async unmount(): Promise<void> {
    this.#measure()
    const { pid } = this
    await this.dfs('unmount', this.dir)
    this.pid = 0
    while (pid > 0 && isAlive(pid)) await sleep(10)
  }

  get log(): string {
    const path = join(this.store, 'daemon.log')
    return existsSync(path) ? readFileSync(path, 'utf8') : ''
  }

  at(...path: string[]): string { return join(this.dir, ...path) }

  #measure(): void {
    try { this.peak = Math.max(this.peak, memoryOf(this.pid).peak) } catch { /* it has ended */ }
  }

  /** Names, types, modes, owners, sizes, times, link counts, targets; sorted by name. */
  async listing(dir = this.dir): Promise<string> {
    // A directory's link count and size are what find(1) may use; that of the mount itself counts as well.
    const found = await must('find', ['.', '-printf', '%p|%y|%m|%U:%G|%s|%T@|%C@|%n|%l\\n'], { cwd: dir, timeoutMs: COMMAND_TIMEOUT_MS })
    return found.split('\n').sort().join('\n')
  }

  /** SHA-256 of each file's content, by name, and all extended attributes. */
  async contents(): Promise<{ sums: Map<string, string>; xattrs: string }> {
    const sums = new Map<string, string>()
    const names = (await must('find', ['.', '-type', 'f', '-print0'], { cwd: this.dir, timeoutMs: COMMAND_TIMEOUT_MS })).split('\0').filter(Boolean).sort()
    for (const name of names) sums.set(name, await shaOf(join(this.dir, name)))
    const xattrs = await must('sh', ['-ec', 'find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex --'], { cwd: this.dir, timeoutMs: COMMAND_TIMEOUT_MS })
    return { sums, xattrs }
  }

  /** Ends its processes and its mount, whatever state they are in; leaves the store. */
  async close(): Promise<void> {
    this.#measure()
    // First the daemon: what hangs on its mount gets its error.
    for (const pid of processesOf(this.store)) kill(pid)
    while (isMounted(this.dir) && (await run('umount', ['-l', this.dir])).code === 0);
    for (let i = 0; i < 400 && processesOf(this.store).length > 0; i++) await sleep(25)
    members.delete(this)
  }
}

const members = new Set<Member>()

export async function closeMembers(): Promise<void> {
  await Promise.allSettled([...members].map((m) => m.close()))
}

export async function shaOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  const file = await open(path)
  try {
    const buffer = Buffer.alloc(1 << 20)
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length)
      if (bytesRead === 0) return hash.digest('hex')
      hash.update(buffer.subarray(0, bytesRead))
    }
  } finally {
    await file.close()
  }
}

/** Waits; says what did not come true. */
export async function until(what: string, is: () => boolean | Promise<boolean>, limitMs = 90_000, everyMs = 50): Promise<void> {
  for (const start = performance.now(); !(await is()); await sleep(everyMs)) if (performance.now() - start > limitMs) throw new Error(`waited ${limitMs / 1000} s in vain: ${what}`)
}

export async function removeAll(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 3 })
}
