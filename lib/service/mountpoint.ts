import { mkdir, realpath } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'

/**
 * `dir` absolute and without symlinks, the name by which the daemon knows a
 * mount. The last name is left as it is where it cannot be looked at: a mount
 * whose daemon died, or nothing at all. Never throws.
 */
export async function canonicalDir(dir: string): Promise<string> {
  const full = resolve(dir)
  try {
    return await realpath(full)
  } catch {
    return join(await realpath(dirname(full)).catch(() => dirname(full)), basename(full))
  }
}

/**
 * Makes `dir` if it is missing; not those above it, for that is more often a
 * mistyped path than a wish. True if it was made. Whatever else is wrong with it
 * the mount will say.
 */
export async function makeMountpoint(dir: string): Promise<boolean> {
  return mkdir(dir, { mode: 0o755 }).then(() => true, () => false)
}
