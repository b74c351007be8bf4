/** Mounting for those who are not root, by fusermount3 (package fuse3), which is setuid. */
import { spawn } from 'node:child_process'

import { fail } from '../../lib/errors.js'
import { native } from '../native/index.js'
import type { MountOptions } from '../options.js'
import { MAX_WRITE } from './protocol.js'

/** The helper passes the descriptor of the mount over a socket whose number it finds in _FUSE_COMMFD. Throws as mountKernel. */
export async function mountAsUser(path: string, options: MountOptions): Promise<number> {
  const pair = native().socketPair()
  if (typeof pair === 'number') throw fail('MOUNT_FAILED', `no socket for fusermount3: errno ${-pair}`)
  const [ours, theirs] = pair
  try {
    const list = ['fsname=dfs', 'subtype=dfs', 'default_permissions', `max_read=${MAX_WRITE}`, options.readOnly ? 'ro' : 'rw', 'nosuid', 'nodev']
    if (options.allowOther) list.push('allow_other')
    if (options.noExec) list.push('noexec')
    if (options.noAtime) list.push('noatime')
    await run(['-o', list.join(','), '--', path], path, theirs)
    const fd = native().receiveFd(ours)
    if (fd < 0) throw fail('MOUNT_FAILED', `fusermount3 handed over no descriptor for ${path}: errno ${-fd}`)
    return fd
  } finally {
    native().close(ours)
    native().close(theirs)
  }
}

/** Throws MOUNTPOINT_BUSY, or MOUNT_FAILED. */
export async function unmountAsUser(path: string, lazy: boolean): Promise<void> {
  await run([lazy ? '-uz' : '-u', '--', path], path)
}

async function run(args: string[], path: string, socket?: number): Promise<void> {
  const child = spawn('fusermount3', args, {
    stdio: socket === undefined ? ['ignore', 'ignore', 'pipe'] : ['ignore', 'ignore', 'pipe', socket],
    env: { ...process.env, LC_ALL: 'C', ...(socket === undefined ? {} : { _FUSE_COMMFD: '3' }) },
  })
  let said = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(0, 4096)))
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', (error: NodeJS.ErrnoException) => reject(error.code === 'ENOENT'
      ? fail('FUSE_MISSING', 'fusermount3 not found; install the package fuse3, or mount as root', error)
      : fail('MOUNT_FAILED', `cannot run fusermount3: ${error.code}`, error)))
    child.on('close', status => resolve(status ?? 1))
  })
  if (code === 0) return
  const reason = said.trim().split('\n').pop()!.replace(/^fusermount3: /, '') || `exit code ${code}`
  if (/busy/i.test(reason)) throw fail('MOUNTPOINT_BUSY', `${path} is in use; end what uses it, or unmount with --lazy`)
  if (/user_allow_other/.test(reason)) throw fail('MOUNT_DENIED', 'allow_other needs the line user_allow_other in /etc/fuse.conf')
  if (/\/dev\/fuse.*permission denied/i.test(reason)) throw fail('MOUNT_DENIED', `${reason}; ask the administrator to open /dev/fuse to users (mode 0666)`)
  if (/\/dev\/fuse|device not found/.test(reason)) throw fail('FUSE_MISSING', `${reason}; load the module with "modprobe fuse"`)
  if (/permission|not permitted|no write access|denied/i.test(reason)) throw fail('MOUNT_DENIED', `${reason}; choose a directory of your own`)
  throw fail('MOUNT_FAILED', `fusermount3: ${reason}`)
}
