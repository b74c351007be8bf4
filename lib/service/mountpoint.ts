import { realpath } from 'node:fs/promises'
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
