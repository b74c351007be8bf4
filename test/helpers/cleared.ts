/**
 * A directory for a test that mounts something in it. Brittle runs the teardowns
 * of a test that threw in the order in which they were made: what must come
 * before the removal belongs into the same one.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Assert } from 'brittle'
import { isMounted, kill, processesOf } from './mount.js'
import { run } from './run.js'

/** `clear` ends what uses the directory, before it is removed; also when the test fails. */
export function clearedDir(t: Pick<Assert, 'teardown'>, clear: (dir: string) => unknown): string {
  const dir = mkdtempSync(join(tmpdir(), 'dfs-test-'))
  t.teardown(async () => {
    await clear(dir)
    rmSync(dir, { recursive: true, force: true })
  }, { order: Infinity, force: true })
  return dir
}

/** Kills the daemon of a store, and takes mounts away, dead ones too. */
export async function clearAway(store: string, ...mounts: string[]): Promise<void> {
  for (const pid of processesOf(store)) kill(pid)
  for (const dir of mounts) while (isMounted(dir) && (await run('umount', ['-l', dir])).code === 0);
}
