/** What a caller may. FUSE tells uid and first group; the other groups are looked up where it matters, which is rare. */
import { readFileSync } from 'node:fs'
import type { Caller } from './operations.js'

/** Of this machine, whatever the drive's number 0 is shown as. */
export function isRoot(caller: Caller): boolean {
  return (caller.ids ? caller.ids.uid(caller.uid) : caller.uid) === 0
}

/** `gid`: as the drive has it. */
export function isInGroup(caller: Caller, gid: number): boolean {
  if (caller.gid === gid) return true
  try {
    const groups = /^Groups:\s*(.*)$/m.exec(readFileSync(`/proc/${caller.pid}/status`, 'latin1'))?.[1] ?? ''
    return groups.split(/\s+/).includes(String(caller.ids ? caller.ids.gid(gid) : gid))
  } catch {
    // It has ended, or lives in another pid namespace.
    return false
  }
}
