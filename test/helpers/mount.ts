/**
 * A drive of its own for a test: a fresh store, mounted through the command line
 * as a user would. Teardown unmounts, ends the daemon (by its pid) and removes
 * the folders, also when the test failed or the daemon is gone.
 *
 * With DFS_TEST_DIR=DIR the same tests run in a fresh folder of DIR instead:
 * on ext4 to check the tests, on another file system to compare it.
 */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Assert } from 'brittle'
import { mountpoints } from './mounts.js'
import { REPOSITORY, run, sleep, type Ran, type RunOptions } from './run.js'

export const DFS = join(REPOSITORY, 'dist/bin/dfs.js')
/** A daemon that owes much may take long to flush; one that hangs must not hang the tests. */
const COMMAND_TIMEOUT_MS = 120_000

export interface TestMount {
  /** The mounted folder. */
  readonly dir: string
  /** Folder of the test's own, outside the mount; holds store and mount point. */
  readonly scratch: string
  /** The store directory; undefined on a stand-in. */
  readonly store: string | undefined
  /** `dfs --store STORE ...args`. */
  dfs(...args: string[]): Promise<Ran>
  /** The daemon's process id. */
  pid(): Promise<number>
  mount(): Promise<void>
  unmount(): Promise<void>
  /** Everything must come from the store again. On a stand-in, nothing. */
  remount(): Promise<void>
  /** Unmounts, kills what is left, removes the folders. May be called twice. */
  close(): Promise<void>
}

export interface MountOptions {
  /** Further arguments of `dfs mount`. */
  args?: string[]
  /** For the daemon. */
  env?: NodeJS.ProcessEnv
  /** Where store and mount point are made; default: the system's temporary folder. */
  parent?: string
}

/** Mounts a fresh drive for the time of a test. */
export async function withMount(t: Pick<Assert, 'teardown'>, options: MountOptions = {}): Promise<TestMount> {
  const made = await makeMount(options)
  t.teardown(() => made.close(), { order: Infinity, force: true })
  return made
}

/** The same with a copy of a store that is at rest, and not mounted yet. */
export function withStore(t: Pick<Assert, 'teardown'>, store: string): TestMount {
  const mount = new DfsMount({})
  t.teardown(() => mount.close(), { order: Infinity, force: true })
  cpSync(store, mount.store, { recursive: true })
  return mount
}

/** As withMount, for programs that are no brittle test: the caller closes it. */
export async function makeMount(options: MountOptions = {}): Promise<TestMount> {
  const standIn = process.env.DFS_TEST_DIR
  if (standIn) return new StandIn(standIn)
  const mount = new DfsMount(options)
  try {
    await mount.mount()
  } catch (e) {
    await mount.close()
    throw e
  }
  return mount
}

/** Mounts to be closed should the test be interrupted. */
const live = new Set<DfsMount>()
let isWatching = false

/** Not before there is one: a program without them may have more to do then than to end. */
function closeWhenInterrupted(): void {
  if (isWatching) return
  isWatching = true
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void Promise.allSettled([...live].map((mount) => mount.close())).then(() => process.exit(1))
    })
  }
}

class DfsMount implements TestMount {
  readonly scratch: string
  readonly dir: string
  readonly store: string
  readonly #options: MountOptions
  #closing: Promise<void> | undefined

  constructor(options: MountOptions) {
    this.#options = options
    this.scratch = mkdtempSync(join(options.parent ?? tmpdir(), 'dfs-mount-'))
    this.dir = join(this.scratch, 'mnt')
    this.store = join(this.scratch, 'store')
    mkdirSync(this.dir)
    live.add(this)
    closeWhenInterrupted()
  }

  dfs(...args: string[]): Promise<Ran> {
    return dfs(['--store', this.store, ...args], { cwd: this.scratch, env: this.#options.env })
  }

  async pid(): Promise<number> {
    const { code, stdout, stderr } = await this.dfs('status', '--json')
    if (code !== 0) throw new Error(`dfs status: ${stderr}`)
    const { pid } = JSON.parse(stdout) as { pid?: unknown }
    if (typeof pid !== 'number' || pid < 2) throw new Error(`dfs status --json names no pid: ${stdout.slice(0, 300)}`)
    return pid
  }

  async mount(): Promise<void> {
    const { code, stderr, stdout } = await this.dfs('mount', ...(this.#options.args ?? []), this.dir)
    if (code !== 0) throw new Error(`dfs mount: exit code ${code}\n${stderr}${stdout}${this.#daemonLog()}`)
    if (!isMounted(this.dir)) throw new Error(`dfs mount said it succeeded, but nothing is mounted\n${stdout}${this.#daemonLog()}`)
  }

  async unmount(): Promise<void> {
    const { code, stderr } = await this.dfs('unmount', this.dir)
    if (code !== 0) throw new Error(`dfs unmount: exit code ${code}\n${stderr}`)
    await this.#ended()
  }

  async remount(): Promise<void> {
    await this.unmount()
    await this.mount()
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    if (isMounted(this.dir)) await this.dfs('unmount', this.dir)
    for (const pid of processesOf(this.store)) kill(pid)
    // A daemon that was killed leaves its mount behind; so does one whose mount is busy.
    while (isMounted(this.dir)) if ((await run('umount', ['-l', this.dir])).code !== 0 && (await run('fusermount3', ['-uz', this.dir])).code !== 0) break
    if (isMounted(this.dir)) throw new Error(`${this.dir} is still mounted`)
    await this.#ended()
    rmSync(this.scratch, { recursive: true, force: true })
    live.delete(this)
  }

  /** The daemon outlives its last mount by a moment. */
  async #ended(): Promise<void> {
    for (let i = 0; i < 400 && processesOf(this.store).length; i++) await sleep(25)
  }

  #daemonLog(): string {
    const log = join(this.store, 'daemon.log')
    return existsSync(log) ? `\ndaemon.log:\n${readFileSync(log, 'utf8').slice(-2000)}` : ''
  }
}

/** A folder of some other file system in place of a drive. */
class StandIn implements TestMount {
  readonly scratch: string = mkdtempSync(join(tmpdir(), 'dfs-mount-'))
  readonly dir: string
  readonly store = undefined

  constructor(parent: string) {
    this.dir = mkdtempSync(join(parent, 'dfs-test-'))
  }

  dfs(): Promise<Ran> { throw new Error('DFS_TEST_DIR is set: there is no drive') }
  pid(): Promise<number> { throw new Error('DFS_TEST_DIR is set: there is no daemon') }
  async mount(): Promise<void> {}
  async unmount(): Promise<void> {}
  async remount(): Promise<void> {}
  async close(): Promise<void> {
    rmSync(this.dir, { recursive: true, force: true })
    rmSync(this.scratch, { recursive: true, force: true })
  }
}

/** Runs the command line, without what this environment may say about a user's own drive. */
export function dfs(args: string[], options: RunOptions = {}): Promise<Ran> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(DFS|NODE)_/.test(name)))
  return run(process.execPath, [DFS, ...args], { timeoutMs: COMMAND_TIMEOUT_MS, ...options, env: { ...env, DFS_DISCOVERY: 'none', ...options.env } })
}

/**
 * For a shell that begins a mount namespace (unshare --mount): it lets go of what is mounted elsewhere. A mount that another
 * namespace holds too does not end when it is unmounted, and whoever unmounts it waits.
 */
export const LET_GO = `grep ' - fuse' /proc/self/mountinfo | cut -d ' ' -f 5 | while read -r m; do umount -l "$(printf %b "$m")" || true; done`

export function isMounted(dir: string): boolean { return mountpoints().includes(dir) }

/** Processes, other than this one, that name `path` (one of the test's own) in their command line or hold a file in it open. */
export function processesOf(path: string): number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    if (pid === process.pid) return false
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').some((a) => a === path || a.startsWith(`${path}/`))) return true
      return readdirSync(`/proc/${pid}/fd`).some((fd) => {
        try { return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith(`${path}/`) } catch { return false }
      })
    } catch {
      return false // it ended, or is another user's
    }
  })
}

export function kill(pid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
  try {
    process.kill(pid, signal)
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ESRCH') throw e
  }
}

/** False once all its threads have ended (until then they hold its files), also while its parent has not been told. */
export function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8')) || readdirSync(`/proc/${pid}/task`).length > 1
  } catch {
    return false
  }
}

/** VmRSS and VmHWM of a process in bytes: now, and the most so far. */
export function memoryOf(pid: number): { rss: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const kib = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? NaN)
  return { rss: kib('VmRSS') * 1024, peak: kib('VmHWM') * 1024 }
}

/** Bytes allocated on the disk under a directory. */
export function bytesOnDisk(dir: string): number {
  let bytes = 0
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name)
    if (entry.isDirectory()) bytes += bytesOnDisk(path)
    else if (entry.isFile()) bytes += statSync(path).blocks * 512
  }
  return bytes
}
