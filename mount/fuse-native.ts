/**
 * Mounts a file system through the package fuse-native: for macOS, or by choice. Slower than mount/kernel, and with
 * limits that are in the package or in libfuse 2: docs/fuse-native.md.
 *
 * What the package's JavaScript half does is replaced by fuse-native/handlers.ts; its C half and libfuse remain.
 */
import { execFile } from 'node:child_process'
import { promises as fs } from 'node:fs'
import { resolve } from 'node:path'
import { promisify } from 'node:util'

import { fail } from '../lib/errors.js'
import { Handlers } from './fuse-native/handlers.js'
import { loadFuseNative } from './fuse-native/package.js'
import { unmountAsUser } from './kernel/fusermount.js'
import { mountAt, prepareMountpoint } from './kernel/mountpoint.js'
import { native } from './native/index.js'
import { defaultMountOptions, type MountOptions } from './options.js'
import type { Operations } from './operations.js'

/** Character device 10:229 (Linux, Documentation/admin-guide/devices.txt). */
const FUSE_DEVICE = (10 << 8) | 229
/** What libfuse 2 can take in one request: its buffer has 132 KiB. */
const MAX_WRITE = 128 << 10
/** How long the kernel believes a name. Attributes not at all: two names of one file are two inodes to libfuse, and nothing can be taken back. */
const ENTRY_TIMEOUT_SECONDS = 1
const MNT_FORCE = 1, MNT_DETACH = 2
/** How soon the end of a session is noticed; the package does not tell. */
const WATCH_MS = 200

export interface FuseNativeMount {
  /** The mountpoint, resolved. */
  readonly dir: string
  /** As KernelMount's. */
  unmount(options?: { lazy?: boolean }): Promise<void>
  /** As KernelMount's, as far as the package lets us: the mount is hidden, and its connection cut where that is possible. */
  abort(): void
  /** Resolves when the session is over and `operations.destroy()` is done, by whatever cause. */
  readonly closed: Promise<void>
}

/**
 * Serves `operations` at `dir`, an existing directory. A mount there whose daemon died is cleared away first.
 * `timeoutMs`: after which a request that has no answer fails with ETIMEDOUT; 0 (the default) = never, for operations
 * have deadlines of their own.
 * Throws FUSE_MISSING, MOUNT_DENIED, MOUNTPOINT_MISSING, MOUNTPOINT_BUSY, MOUNT_FAILED, or USAGE for options that this driver lacks.
 */
export async function mountFuseNative({ dir, operations, options, timeoutMs = 0, report = warn }: {
  dir: string
  operations: Operations
  options?: Partial<MountOptions>
  timeoutMs?: number
  /** Told of what an operation threw that was not a DfsError. */
  report?: (error: unknown) => void
}): Promise<FuseNativeMount> {
  const opts: MountOptions = { ...defaultMountOptions(), ...options }
  const list = libfuseOptions(opts)
  const FuseNative = await loadFuseNative()
  const path = process.platform === 'linux' ? await prepareMountpoint(dir) : resolve(dir)

  // FUSE hands over who asks; the package does not. As for any daemon without that, everybody's files are its own.
  const handlers = new Handlers(operations, { uid: process.getuid!(), gid: process.getgid!(), pid: process.pid }, report)
  const fuse = new FuseNative(path, Object.fromEntries(Handlers.names.map(name => [name, true])), { timeout: timeoutMs || false })
  fuse._fuseOptions = () => `-o${list.join(',')}`
  handlers.install(fuse)

  const before = await fuseDescriptors()
  operations.init(handlers.notifier)
  try {
    await new Promise<void>((done, failed) => fuse.mount(error => (error ? failed(error) : done())))
  } catch (error) {
    await operations.destroy()
    throw await reason(path, error as Error)
  }
  const fd = (await fuseDescriptors()).find(f => !before.includes(f))
  if (process.platform === 'linux' && process.geteuid!() === 0) await raiseReadahead(path, opts.readahead)

  const closed = ended(path, fd).then(async () => {
    await handlers.close()
    await operations.destroy()
  }).catch(report)
  let gone = false
  let isHidden = false
  void closed.then(() => (gone = true))
  return {
    dir: path, closed,
    abort() {
      if (gone) return
      const isRoot = process.platform === 'linux' && process.geteuid!() === 0
      void (isRoot ? native().unmount(path, MNT_FORCE | MNT_DETACH) : unmount(path, true).catch(() => {}))
    },
    async unmount({ lazy = false } = {}) {
      if (gone) return
      if (isHidden && !lazy) throw fail('MOUNTPOINT_BUSY', `${path} was unmounted and is still in use; end what uses it`)
      await unmount(path, lazy)
      isHidden = lazy
      if (!lazy) await closed
    },
  }
}

/** Throws USAGE. */
function libfuseOptions(options: MountOptions): string[] {
  if (options.writeback) throw fail('USAGE', 'mount option writeback needs the driver kernel')
  if (options.spin !== defaultMountOptions().spin) throw fail('USAGE', 'mount option spin needs the driver kernel')
  const list = [
    'fsname=dfs', 'subtype=dfs', 'default_permissions', 'use_ino', 'auto_cache', 'big_writes', `max_write=${MAX_WRITE}`,
    `entry_timeout=${ENTRY_TIMEOUT_SECONDS}`, 'attr_timeout=0', 'ac_attr_timeout=0',
  ]
  if (options.allowOther) list.push('allow_other')
  if (options.readOnly) list.push('ro')
  if (options.noExec) list.push('noexec')
  if (options.noAtime) list.push('noatime')
  if (options.suid) list.push('suid')
  if (options.dev) list.push('dev')
  return list
}

/** The package says "fuse failed" whatever happened; what libfuse knows it prints to standard error. */
async function reason(path: string, error: Error): Promise<Error> {
  if (/does not exist/.test(error.message)) return fail('MOUNTPOINT_MISSING', `${path} does not exist; make it with "mkdir -p ${path}"`, error)
  if (/in use|not a directory/.test(error.message)) return fail('MOUNTPOINT_BUSY', `${path} is a mountpoint already or not a directory; choose another`, error)
  if (process.platform === 'linux') {
    const device = await fs.access('/dev/fuse', fs.constants.R_OK | fs.constants.W_OK).then(() => 'ok', (e: NodeJS.ErrnoException) => e.code)
    if (device === 'ENOENT') return fail('FUSE_MISSING', 'cannot open /dev/fuse; load the kernel module with "modprobe fuse"', error)
    return fail('MOUNT_DENIED', process.geteuid!() === 0 ? `not allowed to mount on ${path}; a container needs CAP_SYS_ADMIN`
      : `not allowed to mount on ${path}; fusermount (package fuse3) is needed, and a directory of your own`, error)
  }
  return fail('MOUNT_FAILED', `cannot mount on ${path}: ${error.message}`, error)
}

async function unmount(path: string, lazy: boolean): Promise<void> {
  if (process.platform === 'linux' && process.geteuid!() !== 0) return unmountAsUser(path, lazy)
  const flags = lazy ? [process.platform === 'linux' ? '-l' : '-f'] : []
  try {
    await promisify(execFile)('umount', [...flags, path], { env: { ...process.env, LC_ALL: 'C' } })
  } catch (error) {
    const said = String((error as { stderr?: string }).stderr).trim()
    if (/busy/.test(said)) throw fail('MOUNTPOINT_BUSY', `${path} is in use; end what uses it, or unmount with --lazy`, error)
    if (!/not mounted/.test(said)) throw fail('MOUNT_FAILED', `cannot unmount ${path}: ${said}`, error)
  }
}

/** Which of our descriptors are connections to the kernel's FUSE. Linux. */
async function fuseDescriptors(): Promise<string[]> {
  const all = await fs.readdir('/proc/self/fd').catch(() => [])
  const isFuse = await Promise.all(all.map(isFuseDescriptor))
  return all.filter((_, i) => isFuse[i])
}

/** By device number: the name may be another, as in a container. */
function isFuseDescriptor(fd: string): Promise<boolean> {
  return fs.stat(`/proc/self/fd/${fd}`).then(stat => stat.isCharacterDevice() && stat.rdev === FUSE_DEVICE, () => false)
}

/** Resolves when libfuse has closed its connection `fd`, or, where that cannot be seen, when nothing is mounted any more. */
async function ended(path: string, fd: string | undefined): Promise<void> {
  const isAlive = fd !== undefined
    ? () => isFuseDescriptor(fd)
    : async () => {
        if (process.platform === 'linux') return (await mountAt(path)) !== undefined
        const { stdout } = await promisify(execFile)('mount')
        return stdout.includes(` on ${path} (`)
      }
  do await new Promise(resolve => setTimeout(resolve, WATCH_MS))
  while (await isAlive())
}

/** See mount/kernel/mount.ts. */
async function raiseReadahead(path: string, kib: number): Promise<void> {
  const mount = await mountAt(path)
  if (mount) await fs.writeFile(`/sys/class/bdi/${mount.device}/read_ahead_kb`, String(kib)).catch(() => {}) // a luxury
}

function warn(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : new Error(String(error)))
}
