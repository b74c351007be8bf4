/** Which groups a caller is in. FUSE tells the first one; the others are looked up where it matters, which is rare. */
import { readFileSync } from 'node:fs'
import type { Caller } from './operations.js'

export function isInGroup(caller: Caller, gid: number): boolean {
  if (caller.gid === gid) return true
  try {
    const groups = /^Groups:\s*(.*)$/m.exec(readFileSync(`/proc/${caller.pid}/status`, 'latin1'))?.[1] ?? ''
    return groups.split(/\s+/).includes(String(gid))
  } catch {
    // It has ended, or lives in another pid namespace.
    return false
  }
}
