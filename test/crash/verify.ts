/**
 * What a writer's journal allows to be found after a crash of the daemon:
 * - a name holds a file that it held at some moment since the last completed
 *   fsync of a directory; nothing else is there;
 * - a file's content is a prefix of its changes, byte by byte (the last of them
 *   may have its begin alone), no shorter than what was fsynced, and no shorter
 *   than it was when the file was renamed or linked to the name where it is found;
 * - a file that was durable, and had a name at every moment since, has one.
 */
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Line, Step } from './journal.js'
import { Content, type Change } from './pattern.js'

interface FileHistory {
  changes: Change[]
  /** So many changes must be there. */
  durable: number
  /** Names now. */
  names: number
  /** Least number of names since it was last made durable; 0 if it never was. */
  leastNames: number
}

/** What a name may mean, and how many changes of that file must be there if it does. `file` undefined: nothing. */
interface Meaning { file: number | undefined; least: number }

export interface Verified { files: number; bytes: number; problems: string[] }

/** `folder` (relative to `root`) holds what the writer of `journal` made, and no folders. */
export function verify(root: string, folder: string, journal: readonly Line[]): Verified {
  const { files, names } = replay(journal)
  const problems: string[] = []
  let bytes = 0
  let found: string[]
  try {
    found = readdirSync(join(root, folder)).map((n) => `${folder}/${n}`)
  } catch (e) {
    // Before its first fsync it may be missing as a whole.
    if (journal.some((l) => l.op === 'syncdir' && l.at === 'done')) problems.push(`${folder}: ${String(e)}`)
    return { files: 0, bytes, problems }
  }
  const kept = new Set<number>()
  for (const path of found) if (!names.has(path)) problems.push(`${path} should not be there`)
  for (const [path, meanings] of names) {
    if (!found.includes(path)) {
      if (!meanings.some((m) => m.file === undefined)) problems.push(`${path} is missing`)
      continue
    }
    const content = readFileSync(join(root, path))
    bytes += content.length
    const verdicts = meanings.map(({ file, least }) => (file === undefined ? 'should not be there' : judge(content, file, files.get(file)!, least)))
    const fits = verdicts.indexOf('')
    if (fits >= 0) kept.add(meanings[fits]!.file!)
    else problems.push(`${path} (${content.length} bytes): ${verdicts.slice(-3).join('; or ')}`)
  }
  for (const [file, { leastNames }] of files) if (leastNames > 0 && !kept.has(file)) problems.push(`file ${file} was durable and has no name any more`)
  return { files: found.length, bytes, problems }
}

/** Bytes that are compared at a time. */
const PAGE_BYTES = 4096

/** '' if `content` is the file after n of its changes, for an n that is allowed, and perhaps the begin of the next. */
function judge(content: Buffer, file: number, { changes, durable }: FileHistory, least: number): string {
  const from = Math.max(least, durable)
  const state = new Content(file)
  let forbidden = -1
  for (let n = 0; n <= changes.length; n++) {
    const before = n > from ? Buffer.from(state.bytes) : undefined
    if (n > 0) state.apply(changes[n - 1]!)
    if (state.bytes.equals(content)) {
      if (n >= from) return ''
      forbidden = n
    } else if (before && isPartOf(content, before, state.bytes)) return ''
  }
  if (forbidden >= 0) return `has ${forbidden} of file ${file}'s changes, ${from} to ${changes.length} are allowed`
  const whole = state.bytes
  const at = firstDifference(content, whole)
  const zeros = at < content.length && content.subarray(at, at + 16).every((b) => b === 0)
  return `no state of file ${file} (of ${changes.length} changes and then ${whole.length} bytes); differs from the last at byte ${at}${zeros ? ', zeros' : ''}`
}

/**
 * Whether `content` is `after` up to some byte, and `before` from there on. One
 * write(2) is not one step: the kernel cuts it into requests where a page is not
 * cached (fuse_fill_write_pages), the daemon into chunks.
 */
function isPartOf(content: Buffer, before: Buffer, after: Buffer): boolean {
  const same = firstDifference(content, after)
  const cut = content.length > before.length ? content.length : same
  return cut <= same && content.length === Math.max(before.length, cut) && content.subarray(cut).equals(before.subarray(cut, content.length))
}

/** Where the two part, or the length of the shorter. */
function firstDifference(a: Buffer, b: Buffer): number {
  const end = Math.min(a.length, b.length)
  let low = 0
  // Most of it is equal: compare by pages first.
  while (low + PAGE_BYTES <= end && a.compare(b, low, low + PAGE_BYTES, low, low + PAGE_BYTES) === 0) low += PAGE_BYTES
  while (low < end && a[low] === b[low]) low++
  return low
}

function replay(journal: readonly Line[]): { files: Map<number, FileHistory>; names: Map<string, Meaning[]> } {
  const files = new Map<number, FileHistory>()
  /** The last is what the name means now; an fsync of a directory leaves only that. */
  const names = new Map<string, Meaning[]>()

  const set = (path: string, file: number | undefined, least = 0) => {
    const meanings = names.get(path) ?? [{ file: undefined, least: 0 }]
    const before = meanings.at(-1)!.file
    if (before !== undefined) files.get(before)!.names--
    if (file !== undefined) files.get(file)!.names++
    meanings.push({ file, least })
    names.set(path, meanings)
    return before
  }
  const apply = (step: Step) => {
    const touched: (number | undefined)[] = []
    switch (step.op) {
      case 'create':
        files.set(step.file, { changes: [], durable: 0, names: 0, leastNames: 0 })
        touched.push(set(step.path, step.file))
        break
      case 'change':
        files.get(step.file)!.changes.push(step.change)
        break
      case 'rename': case 'link':
        // The data that the file had then must be there where the new name is.
        touched.push(set(step.to, step.file, files.get(step.file)!.changes.length))
        if (step.op === 'rename') touched.push(set(step.from, undefined))
        break
      case 'unlink':
        touched.push(set(step.path, undefined))
        break
      case 'fsync': case 'syncdir':
        break
    }
    for (const file of touched) {
      if (file === undefined) continue
      const f = files.get(file)!
      f.leastNames = Math.min(f.leastNames, f.names)
    }
  }
  const settleFile = (f: FileHistory) => {
    f.durable = f.changes.length
    f.leastNames = f.names
  }
  const settle = (step: Step) => {
    if (step.op === 'fsync') settleFile(files.get(step.file)!)
    if (step.op !== 'syncdir') return
    for (const f of files.values()) settleFile(f)
    for (const [path, meanings] of names) {
      if (meanings.at(-1)!.file === undefined) names.delete(path)
      else meanings.splice(0, meanings.length - 1)
    }
  }
  for (const line of journal) {
    if (line.at === 'begin') apply(line)
    else settle(line)
  }
  return { files, names }
}
