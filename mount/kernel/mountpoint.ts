/** The directory to mount on: what is there already, whether it lives, and who holds it. */
import { promises as fs } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'

import { fail } from '../../lib/errors.js'
import { native } from '../native/index.js'
import { unmountAsUser } from './fusermount.js'

const MNT_FORCE = 1, MNT_DETACH = 2
/** A mount that does not answer stat(2) within this is taken as alive but stuck. */
const ANSWER_MS = 2000

export interface Mounted {
  /** major:minor */
  device: string
  path: string
  /** As "fuse.dfs". */
  type: string
}

/** All mounts that this process sees, lowest first. Source: proc(5), /proc/PID/mountinfo. */
export async function mounts(): Promise<Mounted[]> {
  const text = await fs.readFile('/proc/self/mountinfo', 'utf8')
  return text.split('\n').filter(Boolean).map(line => {
    const fields = line.split(' ')
    return { device: fields[2]!, path: unescape(fields[4]!), type: fields[fields.indexOf('-') + 1]! }
  })
}

/** The uppermost mount on exactly `path`. */
export async function mountAt(path: string): Promise<Mounted | undefined> {
  return (await mounts()).filter(mount => mount.path === path).pop()
}

/**
 * The resolved path of `dir`, ready to be mounted on; clears away dfs mounts whose daemon died.
 * Throws MOUNTPOINT_MISSING, or MOUNTPOINT_BUSY when it is no directory or a dfs mount that lives.
 */
export async function prepareMountpoint(dir: string): Promise<string> {
  for (let round = 0; round < 8; round++) { // dead mounts can lie on each other
    const path = await resolved(dir)
    const mount = await mountAt(path)
    const state = await look(path)
    if (state === 'dead') {
      await clear(path)
      continue
    }
    if (mount?.type === 'fuse.dfs') {
      throw fail('MOUNTPOINT_BUSY', `${path} is a dfs mount already; unmount it with "dfs unmount ${path}"`)
    }
    if (state === 'missing') throw fail('MOUNTPOINT_MISSING', `${path} does not exist; make it with "mkdir -p ${path}"`)
    if (state === 'stuck') throw fail('MOUNTPOINT_BUSY', `${path} is a mount that does not answer; unmount it with "umount -l ${path}"`)
    if (state === 'other') throw fail('MOUNTPOINT_BUSY', `${path} is not a directory; mount on a folder`)
    return path
  }
  throw fail('MOUNT_FAILED', `${dir} carries dead mounts that cannot be taken away`)
}

/** Symbolic links resolved, but for the last name: a dead mount cannot be looked into. */
async function resolved(dir: string): Promise<string> {
  const full = resolve(dir)
  try {
    return await fs.realpath(full)
  } catch {
    return join(await fs.realpath(dirname(full)).catch(() => dirname(full)), basename(full))
  }
}

async function look(path: string): Promise<'directory' | 'other' | 'missing' | 'dead' | 'stuck'> {
  // in the thread pool: it may be a mount of this very process. statfs first: the kernel answers stat from its cache, for years after the daemon died
  const stat = fs.statfs(path).then(() => fs.stat(path)).then(found => (found.isDirectory() ? 'directory' : 'other') as 'directory' | 'other', (error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOTCONN') return 'dead' as const
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return 'missing' as const
    if (error.code === 'EACCES') throw fail('MOUNT_DENIED', `no access to ${path}; choose a directory of your own`, error)
    throw fail('MOUNT_FAILED', `cannot look at ${path}: ${error.code}`, error)
  })
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<'stuck'>(resolve => (timer = setTimeout(resolve, ANSWER_MS, 'stuck')))
  return Promise.race([stat, late]).finally(() => clearTimeout(timer))
}

async function clear(path: string): Promise<void> {
  if (process.geteuid!() !== 0) return unmountAsUser(path, true)
  const result = await native().unmount(path, MNT_FORCE | MNT_DETACH)
  if (result < 0) throw fail('MOUNT_FAILED', `cannot take away the dead mount at ${path}: errno ${-result}`)
}

/** Blanks and the like are written as octal. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))
}
