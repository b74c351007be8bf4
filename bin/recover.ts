/** Mounts whose daemon died: they answer ENOTCONN to everything until they are taken away. */
import { statfs } from 'node:fs/promises'
import { prepareMountpoint } from '../mount/kernel/mountpoint.js'

/** True if there was one on `dir`, and it is gone now. */
export async function clearDeadMount(dir: string): Promise<boolean> {
  // Not stat: the kernel may answer that from its cache.
  const isDead = await statfs(dir).then(() => false, (error: NodeJS.ErrnoException) => error.code === 'ENOTCONN')
  if (isDead) await prepareMountpoint(dir)
  return isDead
}
