/** What is mounted, by the kernel's list: a dead mount counts, and is not touched. */
import { readFileSync } from 'node:fs'

/** The paths, lowest first; resolved, as the kernel has them. Source: proc(5), /proc/PID/mountinfo. */
export function mountpoints(): string[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').filter(Boolean)
  return lines.map((line) => line.split(' ')[4]!.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8))))
}
