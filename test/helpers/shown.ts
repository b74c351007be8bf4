/** What a mount shows, by way of the kernel's caches. */
import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { must } from './run.js'

/** All names below `dir`. */
export function namesIn(dir: string): Promise<string[]> {
  return readdir(dir, { recursive: true })
}

/** Attributes of these, without looking into any directory: listing one brings those of all that is in it anew. */
export async function attributes(dir: string, names: readonly string[]): Promise<string> {
  const lines = await Promise.all(names.map(async (name) => {
    const s = await lstat(join(dir, name), { bigint: true }).catch((e: NodeJS.ErrnoException) => e.code)
    return typeof s === 'object' ? `${name}|${s.ino}|${s.mode.toString(8)}|${s.size}|${s.mtimeNs}|${s.ctimeNs}|${s.nlink}` : `${name}|${s}`
  }))
  return lines.sort().join('\n')
}

/** Names, types, modes, owners, sizes, times, link counts, targets, and each file's SHA-256. */
export async function shown(dir: string): Promise<string> {
  const listing = await must('find', ['.', '-printf', '%p|%y|%m|%U:%G|%s|%T@|%C@|%n|%l\\n'], { cwd: dir })
  return `${listing.split('\n').sort().join('\n')}\n${await must('sh', ['-ec', 'find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum'], { cwd: dir })}`
}

/** Lines of the one alone, and of the other. */
export function differences(one: string, other: string): string {
  const [a, b] = [new Set(one.split('\n')), new Set(other.split('\n'))]
  return [...[...a].filter((l) => !b.has(l)).map((l) => `< ${l}`), ...[...b].filter((l) => !a.has(l)).map((l) => `> ${l}`)].slice(0, 30).join('\n')
}
