/** Lists directories as ls does. */
import type { Dirent, DriveApi, FileType, Path, Stats } from '../lib/api.js'
import { join } from '../lib/transfer/host.js'
import { nameFields, printable, write, writeLine } from './output.js'

/** Sorting holds the names of a directory in memory; larger ones stream. */
const MAX_SORTED = 10_000
/** Fewer, larger writes. */
const WRITE_BYTES = 64 * 1024
const NEWLINE = Buffer.from('\n')
const SIX_MONTHS_MS = 182 * 24 * 3600 * 1000

export interface ListOptions { long: boolean; recursive: boolean; json: boolean; signal: AbortSignal }

const LETTERS: Record<FileType, string> = { file: '-', directory: 'd', symlink: 'l', fifo: 'p', socket: 's', chardev: 'c', blockdev: 'b' }

/** `onError` of one path; the others are listed all the same. */
export async function list(drive: DriveApi, paths: string[], options: ListOptions, onError: (error: unknown) => void): Promise<void> {
  const directories: string[] = []
  for (const path of paths) {
    try {
      const stats = await drive.lstat(path)
      // A symlink that is named leads to its directory, as with ls, unless its own details are wanted.
      const isDirectory = stats.type === 'directory' || (stats.type === 'symlink' && !options.long && (await drive.stat(path).catch(() => stats)).type === 'directory')
      if (isDirectory) directories.push(path)
      else await write(Buffer.concat([bytes(await line(drive, path, { name: Buffer.from(path), ino: stats.ino, type: stats.type, stats }, path, options)), NEWLINE]))
    } catch (error) {
      onError(error)
    }
  }
  for (const path of directories) {
    try {
      await directory(drive, path, options, paths.length > 1 || options.recursive)
    } catch (error) {
      onError(error)
    }
  }
}

async function directory(drive: DriveApi, path: Path, options: ListOptions, withHeading: boolean): Promise<void> {
  if (withHeading && !options.json) await write(Buffer.concat([bytes(printable(path)), Buffer.from(':\n')]))
  const below: Path[] = []
  const output = new Output()
  for await (const entry of sorted(drive.opendir(path))) {
    options.signal.throwIfAborted()
    const full = join(path, entry.name)
    if (options.recursive && entry.type === 'directory') below.push(full)
    await output.line(await line(drive, full, entry, entry.name, options))
  }
  await output.flush()
  for (const full of below) {
    if (!options.json) await writeLine('')
    await directory(drive, full, options, true)
  }
}

async function* sorted(entries: AsyncIterable<Dirent>): AsyncGenerator<Dirent> {
  let held: Dirent[] | undefined = []
  for await (const entry of entries) {
    if (!held) yield entry
    else if (held.push(entry) > MAX_SORTED) {
      yield* held
      held = undefined
    }
  }
  if (held) yield* held.sort((a, b) => Buffer.compare(a.name, b.name))
}

async function line(drive: DriveApi, path: Path, entry: Dirent, shown: Buffer | string, { long, json }: ListOptions): Promise<string | Buffer> {
  const target = (long || json) && entry.type === 'symlink' ? await drive.readlink(path) : undefined
  if (json) {
    const { name, nameBase64 } = nameFields(entry.name)
    return JSON.stringify({ path: path.toString(), name: name.slice(name.lastIndexOf('/') + 1), ...(nameBase64 && { nameBase64 }), ...statsFields(entry.stats), ...(target && { target: target.toString() }) })
  }
  if (!long) return printable(shown)
  const arrow = target ? [Buffer.from(' -> '), bytes(printable(target))] : []
  return Buffer.concat([Buffer.from(`${formatStats(entry.stats)} `), bytes(printable(shown)), ...arrow])
}

export function statsFields(s: Stats) {
  return {
    type: s.type, mode: (s.mode & 0o7777).toString(8).padStart(4, '0'), nlink: s.nlink, uid: s.uid, gid: s.gid, size: s.size,
    mtime: new Date(s.mtimeMs).toISOString(), mtimeMs: s.mtimeMs, ino: s.ino,
  }
}

export function formatStats(s: Stats): string {
  const device = s.type === 'chardev' || s.type === 'blockdev'
  const size = device ? `${(s.rdev >> 8) & 0xfff}, ${(s.rdev & 0xff) | ((s.rdev >> 12) & 0xfff00)}` : String(s.size)
  return `${LETTERS[s.type]}${formatMode(s.mode)} ${String(s.nlink).padStart(2)} ${String(s.uid).padStart(5)} ${String(s.gid).padStart(5)} ${size.padStart(11)} ${formatTime(s.mtimeMs)}`
}

function formatMode(mode: number): string {
  const text = [...'rwxrwxrwx'].map((c, i) => (mode & (0o400 >> i) ? c : '-'))
  const special = (bit: number, at: number, letter: string) => {
    if (mode & bit) text[at] = text[at] === 'x' ? letter : letter.toUpperCase()
  }
  special(0o4000, 2, 's')
  special(0o2000, 5, 's')
  special(0o1000, 8, 't')
  return text.join('')
}

/** As ls: the time of day within half a year, else the year. */
function formatTime(ms: number): string {
  const date = new Date(ms)
  if (Number.isNaN(date.getTime())) return '?'.padEnd(12)
  const pad = (n: number) => String(n).padStart(2, '0')
  const month = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'][date.getMonth()]
  const age = Date.now() - ms
  const isRecent = age > -60_000 && age < SIX_MONTHS_MS
  return `${month} ${String(date.getDate()).padStart(2)} ${isRecent ? `${pad(date.getHours())}:${pad(date.getMinutes())}` : String(date.getFullYear()).padStart(5)}`
}

function bytes(text: string | Buffer): Buffer {
  return typeof text === 'string' ? Buffer.from(text) : text
}

class Output {
  #parts: Buffer[] = []
  #bytes = 0

  async line(text: string | Buffer): Promise<void> {
    this.#parts.push(bytes(text), NEWLINE)
    this.#bytes += text.length + 1
    if (this.#bytes >= WRITE_BYTES) await this.flush()
  }

  async flush(): Promise<void> {
    if (this.#bytes === 0) return
    const all = Buffer.concat(this.#parts)
    this.#parts = []
    this.#bytes = 0
    await write(all)
  }
}
