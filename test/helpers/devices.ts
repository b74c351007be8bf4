/**
 * Devices of one drive as users have them: each with its store, its daemon and
 * its mount, on this machine, started by the command line. They meet over
 * loopback, by --peer, unless the test says otherwise. Teardown unmounts, ends
 * the daemons by their pid, and removes the folders, also when the test failed.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Assert } from 'brittle'
import type { DeviceStatus, DriveStatus } from '../../lib/api.js'
import { Client } from '../../lib/client.js'
import { DFS, dfs, isAlive, isMounted, kill, processesOf } from './mount.js'
import { must, run, sleep, type Ran, type RunOptions } from './run.js'

/** What does not come within this does not come: it ends a test that would hang. */
const DEADLINE_MS = 60_000
const POLL_MS = 20

/** Waits until `condition` gives something; what it throws counts as not yet. */
export async function until<T>(what: string, condition: () => T | undefined | false | Promise<T | undefined | false>): Promise<T> {
  const deadlineMs = performance.now() + DEADLINE_MS
  for (;;) {
    let why: unknown
    try {
      const value = await condition()
      if (value) return value
    } catch (e) {
      why = e
    }
    if (performance.now() > deadlineMs) throw new Error(`waited in vain: ${what}`, { cause: why })
    await sleep(POLL_MS)
  }
}

export class TestDevice {
  readonly name: string
  readonly scratch: string
  readonly store: string
  readonly dir: string
  readonly #env: NodeJS.ProcessEnv

  constructor(t: Pick<Assert, 'teardown'>, name: string, env: NodeJS.ProcessEnv = {}) {
    this.name = name
    this.scratch = mkdtempSync(join(tmpdir(), `dfs-${name}-`))
    this.store = join(this.scratch, 'store')
    this.dir = join(this.scratch, 'mnt')
    mkdirSync(this.dir)
    this.#env = { NODE_ID: name, ...env }
    t.teardown(() => this.#end(), { order: Infinity, force: true })
  }

  dfs(args: string[], options: RunOptions = {}): Promise<Ran> {
    return dfs(['--store', this.store, ...args], { cwd: this.scratch, ...options, env: { ...this.#env, ...options.env } })
  }

  /** Standard output; throws unless it ends with 0. */
  async ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.dfs(args)
    if (code !== 0) throw new Error(`${this.name}: dfs ${args.join(' ')}: exit code ${code}\n${stderr}`)
    return stdout
  }

  /** A command that goes on until it is told to end. */
  start(...args: string[]): { child: ChildProcess; said(): string; ended: Promise<number | null> } {
    const env = { PATH: process.env.PATH, HOME: this.scratch, DFS_DISCOVERY: 'none', TEST_RUN: process.env.TEST_RUN, ...this.#env }
    const child = spawn(process.execPath, [DFS, '--store', this.store, ...args], { cwd: this.scratch, env, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (b: Buffer) => { output += b.toString() })
    return { child, said: () => output, ended: new Promise((resolve) => child.once('close', (code) => resolve(code))) }
  }

  async json<T>(...args: string[]): Promise<T> {
    return JSON.parse(await this.ok(...args, '--json')) as T
  }

  /** As `dfs status --json` has it; from a daemon that runs without a process of its own, for it is asked often. */
  async status(): Promise<DriveStatus & { daemon: boolean }> {
    const client = await Client.connect(this.store)
    if (!client) return this.json('status')
    try {
      return { ...await client.status(), daemon: true }
    } finally {
      await client.close()
    }
  }

  /** As `dfs devices --json` has it, of a daemon that runs. */
  async devices(): Promise<DeviceStatus[]> {
    const client = await Client.connect(this.store)
    if (!client) throw new Error(`${this.name}: no daemon`)
    try {
      return await client.devices()
    } finally {
      await client.close()
    }
  }

  async mount(...args: string[]): Promise<void> { await this.ok('mount', ...args, this.dir) }

  /** The daemon ends with its last mount. */
  async unmount(): Promise<void> {
    await this.ok('unmount', this.dir)
    await until('the daemon ends', () => processesOf(this.store).length === 0)
  }

  /** 'HOST:PORT' at which it listens. */
  async address(): Promise<string> { return `127.0.0.1:${(await this.status()).network!.port}` }

  /** The power goes: daemon and mount, without a word. */
  async crash(): Promise<void> {
    const { pid } = await this.status()
    kill(pid)
    await until('the daemon is dead', () => !isAlive(pid))
  }

  path(...parts: string[]): string { return join(this.dir, ...parts) }

  /** Names, types, modes, sizes, times and content of all that is mounted. */
  async tree(): Promise<string> {
    const names = await must('find', ['.', '-printf', '%P %y %m %n %l %TY-%Tm-%Td %TT %s\\n'], { cwd: this.dir })
    const sums = await must('sh', ['-c', 'find . -type f -print0 | sort -z | xargs -0r sha256sum'], { cwd: this.dir })
    // Sizes of directories are no one's business.
    return names.replace(/^(.* d .*) \d+$/gm, '$1').split('\n').sort().join('\n') + sums
  }

  async #end(): Promise<void> {
    if (isMounted(this.dir)) await this.dfs(['unmount', '--lazy', this.dir])
    for (const pid of processesOf(this.store)) kill(pid)
    while (isMounted(this.dir) && (await run('umount', ['-l', this.dir])).code === 0);
    await until('the processes are gone', () => processesOf(this.store).length === 0)
    rmSync(this.scratch, { recursive: true, force: true })
  }
}

/** `to` joins the drive of `from`, whose daemon runs, with its key of that kind; not mounted yet. */
export async function joinDrive(from: TestDevice, to: TestDevice, kind?: 'read-only' | 'storage'): Promise<void> {
  const key = await from.ok('key', ...(kind ? [`--${kind}`] : []))
  const { code, stderr } = await to.dfs(['join', '-', '--peer', await from.address()], { input: key })
  if (code !== 0) throw new Error(`dfs join: ${stderr}`)
}

/** Two devices with the drive mounted on each. */
export async function twoDevices(t: Assert): Promise<[TestDevice, TestDevice]> {
  const [a, b] = [new TestDevice(t, 'anna'), new TestDevice(t, 'bert')]
  await a.mount()
  await joinDrive(a, b)
  await b.mount()
  return [a, b]
}

/** Both mounts show the same, content included. */
export async function sameTree(...devices: TestDevice[]): Promise<string> {
  return until('all mounts show the same', async () => {
    const [first, ...rest] = await Promise.all(devices.map((d) => d.tree()))
    return rest.every((tree) => tree === first) && first!
  })
}
