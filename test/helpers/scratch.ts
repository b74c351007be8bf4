/** Directories for tests, gone when the test is over, also when it fails. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Assert } from 'brittle'
import { isDfsError, type DfsErrorCode } from '../../lib/errors.js'

export function scratchDir(t: Pick<Assert, 'teardown'>): string {
  const dir = mkdtempSync(join(tmpdir(), 'dfs-test-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }), { order: Infinity, force: true })
  return dir
}

/** The code of the DfsError that `action` ends with; 'none' if it does not fail, the error itself if it is another. */
export async function codeOf(action: () => unknown): Promise<DfsErrorCode | 'none' | string> {
  try {
    await action()
    return 'none'
  } catch (e) {
    return isDfsError(e) ? e.code : `not a DfsError: ${String(e)}`
  }
}
