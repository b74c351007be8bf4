/**
 * Mounts a file system through /dev/fuse: with mount(2) as root, with the setuid
 * helper fusermount3 as anyone else.
 *
 * Nothing here touches the mount itself, once it is there: a synchronous call of
 * ours into it would wait for ourselves.
 */
import { promises as fs, openSync } from 'node:fs'

import { fail } from '../../lib/errors.js'
import { EBUSY, EINVAL, ENODEV, EPERM } from '../errno.js'
import { native } from '../native/index.js'
import { defaultMountOptions, type MountOptions } from '../options.js'
import type { Operations } from '../operations.js'
import { prepareMountpoint, mountAt } from './mountpoint.js'
import { mountAsUser, unmountAsUser } from './fusermount.js'
import { KernelNotifier } from './notify.js'
import { MAX_WRITE } from './protocol.js'
import { Session, type SessionOptions } from './session.js'

const MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_NOATIME = 1024
const MNT_FORCE = 1, MNT_DETACH = 2

export interface KernelMount {
  /** The mountpoint, resolved. */
  readonly dir: string
  /** The same that `operations.init` was given. */
  readonly notifier: KernelNotifier
  /**
   * Takes the mount away; resolves when the session is over and the file system was told to flush.
   * `lazy` detaches it although it is in use: resolves at once, `closed` when the last user is gone.
   * Throws MOUNTPOINT_BUSY. May be called twice.
   */
  unmount(options?: { lazy?: boolean }): Promise<void>
  /**
   * Ends the session at once, whoever uses the mount: what waits gets EIO, all else ENOTCONN from then on. The dead mount
   * stays where it is, so that nobody writes below it, until the next mount there clears it away.
   */
  abort(): void
  /** Resolves when the session is over and `operations.destroy()` is done, by whatever cause. */
  readonly closed: Promise<void>
}

/**
 * Serves `operations` at `dir`, an existing directory. A mount there whose daemon died is cleared away first.
 * Throws FUSE_MISSING, MOUNT_DENIED, MOUNTPOINT_MISSING, MOUNTPOINT_BUSY or MOUNT_FAILED, and what `operations.init` throws.
 */
export async function mountKernel({ dir, operations, options, session: sessionOptions }: {
  dir: string
  operations: Operations
  options?: Partial<MountOptions>
  session?: Partial<SessionOptions>
}): Promise<KernelMount> {
  const opts: MountOptions = { ...defaultMountOptions(), ...options }
  const path = await prepareMountpoint(dir)
  const isRoot = process.geteuid!() === 0
  const fd = isRoot ? await mountAsRoot(path, opts) : await mountAsUser(path, opts)

  let notifier!: KernelNotifier
  const session = new Session(operations, { writeback: opts.writeback, noflush: !opts.flush, ...sessionOptions }, () => notifier)
  let ended!: () => void
  const closed = new Promise<void>(resolve => (ended = resolve))
  let isOver = false
  const end = () => {
    isOver = true
    notifier.close()
    session.abandon()
    connection.stop()
  }
  const connection = native().start(fd, session.request, session.reply, opts.spin, length => session.handle(length), errno => {
    end()
    if (errno !== ENODEV) session.options.report(new Error(`the mount at ${path} ended with errno ${errno}`))
    operations.destroy().catch(session.options.report).then(ended, ended)
  })
  notifier = new KernelNotifier(connection)
  session.attach(connection, connection.offset)
  try {
    await Promise.race([session.ready, closed.then(() => { throw fail('MOUNT_FAILED', `${path} was unmounted while it was being mounted`) })])
  } catch (error) { // also what operations.init threw
    await (isRoot ? native().unmount(path, MNT_FORCE | MNT_DETACH) : unmountAsUser(path, true).catch(() => {}))
    throw error
  }
  if (isRoot) await raiseReadahead(path, opts.readahead)

  let gone = false
  let isHidden = false
  void closed.then(() => (gone = true))
  return {
    dir: path, notifier, closed,
    abort() {
      if (isOver) return
      end()
      // What is owed cannot be flushed; whoever aborts knows.
      operations.destroy().catch(() => {}).then(ended, ended)
    },
    async unmount({ lazy = false } = {}) {
      if (gone) return
      if (isHidden && !lazy) throw fail('MOUNTPOINT_BUSY', `${path} was unmounted and is still in use; end what uses it`)
      if (isRoot) {
        const result = await native().unmount(path, lazy ? MNT_DETACH : 0)
        if (result === -EBUSY) throw fail('MOUNTPOINT_BUSY', `${path} is in use; end what uses it, or unmount with --lazy`)
        if (result < 0 && result !== -EINVAL) throw fail('MOUNT_FAILED', `cannot unmount ${path}: errno ${-result}`)
      } else {
        await unmountAsUser(path, lazy)
      }
      isHidden = lazy
      if (!lazy) await closed
    },
  }
}

async function mountAsRoot(path: string, options: MountOptions): Promise<number> {
  let fd: number
  try {
    fd = openSync('/dev/fuse', 'r+')
  } catch (error) {
    throw fail('FUSE_MISSING', 'cannot open /dev/fuse; load the kernel module with "modprobe fuse"', error)
  }
  const flags = (options.suid ? 0 : MS_NOSUID) | (options.dev ? 0 : MS_NODEV) | (options.readOnly ? MS_RDONLY : 0) |
    (options.noExec ? MS_NOEXEC : 0) | (options.noAtime ? MS_NOATIME : 0)
  const data = `fd=${fd},rootmode=40000,user_id=${process.getuid!()},group_id=${process.getgid!()},default_permissions,max_read=${MAX_WRITE}` +
    (options.allowOther ? ',allow_other' : '')
  const result = await native().mount('dfs', path, 'fuse.dfs', flags, data)
  if (result === 0) return fd
  native().close(fd)
  if (result === -EPERM) throw fail('MOUNT_DENIED', `not allowed to mount on ${path}; a container needs CAP_SYS_ADMIN`)
  if (result === -ENODEV) throw fail('FUSE_MISSING', 'this kernel has no FUSE; load the module with "modprobe fuse"')
  throw fail('MOUNT_FAILED', `cannot mount on ${path}: errno ${-result}`)
}

/** Best done through sysfs: INIT can only lower what the kernel offers, 128 KiB. */
async function raiseReadahead(path: string, kib: number): Promise<void> {
  const mount = await mountAt(path)
  if (mount === undefined) return
  await fs.writeFile(`/sys/class/bdi/${mount.device}/read_ahead_kb`, String(kib)).catch(() => {}) // a luxury
}
