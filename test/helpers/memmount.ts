/**
 * A MemFs mounted in this process, for the time of a test. Use only asynchronous
 * calls on it (they run in the thread pool; a synchronous one would wait for
 * ourselves), and never spawn with `cwd` inside it (spawn waits for the child's chdir).
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { promises as fs } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Assert } from 'brittle'

import { native } from '../../mount/native/index.js'
import { mountKernel, type KernelMount } from '../../mount/kernel/mount.js'
import type { SessionOptions } from '../../mount/kernel/session.js'
import type { MountOptions } from '../../mount/options.js'
import { MemFs } from './memfs.js'
import { LET_GO } from './mount.js'

export interface MemMount {
  dir: string
  memfs: MemFs
  mount: KernelMount
}

/** A directory that goes away with the test, with whatever is mounted on it. */
export async function mountpoint(t: Pick<Assert, 'teardown'>): Promise<string> {
  const dir = await fs.realpath(await fs.mkdtemp(join(tmpdir(), 'dfs-kernel-')))
  t.teardown(async () => {
    while (await native().unmount(dir, 2) === 0);
    await fs.rmdir(dir)
  }, { order: Infinity, force: true })
  return dir
}

export async function withMemMount(t: Pick<Assert, 'teardown'>, options: Partial<MountOptions> = {}, session: Partial<SessionOptions> = {}): Promise<MemMount> {
  const dir = await mountpoint(t)
  const memfs = new MemFs()
  const mount = await mountKernel({ dir, operations: memfs, options, session })
  t.teardown(async () => {
    await mount.unmount({ lazy: true })
    await mount.closed
  }, { order: 100, force: true })
  return { dir, memfs, mount }
}

/** Runs a shell script; gives what it printed. Rejects where it fails. */
export async function shell(script: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)('sh', ['-ec', script, 'sh', ...args], { timeout: 60_000, maxBuffer: 64 << 20 })).stdout
}

/** A process of its own that mounts a MemFs at `dir` (test/helpers/memmount-child.ts), run by `prefix`; ended with the test. Resolves with what it says first. */
export async function mountInChild(t: Pick<Assert, 'teardown'>, dir: string, options = '', prefix: string[] = []): Promise<{ child: ChildProcess; said: string }> {
  const [command, ...args] = [...prefix, process.execPath, fileURLToPath(new URL('memmount-child.js', import.meta.url)), dir, options]
  const child = spawn(command!, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' })
  t.teardown(() => ended(child, 'SIGKILL'), { order: 50, force: true })
  const said = await new Promise<string>(resolve => {
    child.stdout!.setEncoding('utf8').once('data', resolve)
    child.once('exit', () => resolve('exited'))
  })
  return { child, said: said.trim() }
}

/** As `inUserland`, for the user nobody. */
export async function asNobody(t: Pick<Assert, 'teardown'>): Promise<string[]> {
  return (await inUserland(t)).as(65534)
}

/**
 * Gives prefixes of commands: `root`, and `as` for an ordinary user, alone in the group of the same number and the given ones. In
 * a mount namespace of their own, where /dev/fuse is open to all as it is on most systems (here it may be root's alone), and
 * users may mount with allow_other, 1000 and 1001 among them; it ends with the test.
 */
export async function inUserland(t: Pick<Assert, 'teardown'>): Promise<{ root: string[]; as(id: number, groups?: readonly number[]): string[] }> {
  const scratch = await fs.mkdtemp(join(tmpdir(), 'dfs-nobody-'))
  await shell('mknod -m 666 "$1/fuse" c 10 229; echo user_allow_other > "$1/fuse.conf"; { cat /etc/passwd; echo "dfs-a:x:1000:1000::/:/bin/sh"; echo "dfs-b:x:1001:1001::/:/bin/sh"; } > "$1/passwd"; chmod 644 "$1/fuse.conf" "$1/passwd"', scratch)
  const script = `${LET_GO}; ` + 'mount --bind "$1/fuse" /dev/fuse; if [ -e /etc/fuse.conf ]; then mount --bind "$1/fuse.conf" /etc/fuse.conf; fi; mount --bind "$1/passwd" /etc/passwd; echo ready; exec sleep 300'
  const holder = spawn('unshare', ['--mount', 'sh', '-ec', script, 'sh', scratch], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(async () => {
    await ended(holder, 'SIGKILL')
    await fs.rm(scratch, { recursive: true })
  }, { order: 90, force: true })
  await new Promise(resolve => holder.stdout.once('data', resolve))
  const root = ['nsenter', `--mount=/proc/${holder.pid}/ns/mnt`]
  return {
    root,
    as: (id, groups = []) => [...root, 'setpriv', `--reuid=${id}`, `--regid=${id}`, ...(groups.length > 0 ? [`--groups=${[id, ...groups].join(',')}`] : ['--clear-groups'])],
  }
}

/** Ends a child with `signal` and waits for it. */
export async function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = new Promise(resolve => child.once('exit', resolve))
  child.kill(signal)
  await exit
}
