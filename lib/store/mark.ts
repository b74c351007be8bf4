/**
 * The mark of a clean end: the sizes of the segments when the store was closed
 * after a sync. A segment that still has that size needs no check at open. The
 * mark is a hint: if it is lost or stale, opening takes longer and no more.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const NAME = 'clean.json'
/** Only the last segments are ever checked. */
const KEEP = 8

export function writeMark(dir: string, sizes: Map<number, number>): void {
  const last = [...sizes].sort((a, b) => a[0] - b[0]).slice(-KEEP)
  try {
    writeFileSync(join(dir, NAME + '.new'), JSON.stringify({ version: 1, sizes: last }), { mode: 0o600 })
    renameSync(join(dir, NAME + '.new'), join(dir, NAME))
  } catch {
    // A full disk must not fail a close whose data is safe.
  }
}

export function readMark(dir: string): Map<number, number> | undefined {
  try {
    const mark = JSON.parse(readFileSync(join(dir, NAME), 'utf8')) as { version?: unknown; sizes?: unknown }
    if (mark.version !== 1 || !Array.isArray(mark.sizes)) return undefined
    return new Map(mark.sizes.filter((e): e is [number, number] => Array.isArray(e) && typeof e[0] === 'number' && typeof e[1] === 'number'))
  } catch {
    return undefined
  }
}
