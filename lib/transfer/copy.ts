/**
 * Copies files and trees between a drive and the machine.
 *
 * What is made appears under its name only when it is whole: it is built under
 * a temporary name beside it and renamed. A tree that does not exist yet appears
 * as one; a tree copied into an existing one, file by file. Whatever ends a copy
 * early, its temporary is removed: by itself, or when it was killed by who finds
 * it (store/unfinished.ts, temporary.ts).
 *
 * Neither side is trusted more than the other: names are checked, and a symlink
 * on the way is never followed, for a drive shared with others must not be able
 * to place files anywhere on the machine.
 */
import type { Dirent, FileHandle, OnProgress, Path, Stats } from '../api.js'
import { fail, isDfsError, type DfsErrorCode } from '../errors.js'
import { blocksOf } from './content.js'
import { join, type Files } from './host.js'

const BLOCK_BYTES = 1024 * 1024
/** Zeros of at least this, aligned, become a hole. */
const HOLE_BYTES = 64 * 1024
const ZEROS = Buffer.alloc(HOLE_BYTES)
/** A file system that has no such attributes, or no room for them (ext4 says ENOSPC of a block, not of the disk). */
const REFUSED = new Set<DfsErrorCode>(['EOPNOTSUPP', 'EPERM', 'EACCES', 'EINVAL', 'E2BIG', 'ERANGE', 'ENOSPC'])
/** Hard links are remembered within one tree: one entry each, about 100 bytes. */
const MAX_LINKS = 1_000_000

export interface CopyOptions {
  isRecursive: boolean
  /** Owners too: for root alone. */
  keepOwners: boolean
  /** Bits of the mode that are kept. */
  modeMask: number
  /** Which extended attributes are kept, by name; ACLs are system.posix_acl_*. */
  keepsXattr: (name: string) => boolean
  /** Told once if some cannot be kept: the target's file system refuses them. */
  onXattrsLost: (why: string) => void
  signal: AbortSignal
  /** Bytes so far; `total` is 0. */
  onProgress: OnProgress
  /** Of what cannot be copied: fifos, sockets, devices. */
  onSkip: (path: Path, why: string) => void
}

export interface CopyReport { files: number; directories: number; symlinks: number; bytes: number; skipped: number }

export class Copier {
  readonly report: CopyReport = { files: 0, directories: 0, symlinks: 0, bytes: 0, skipped: 0 }
  readonly #from: Files
  readonly #to: Files
  readonly #options: CopyOptions
  /** Of the tree that is being built: where an inode with several names was copied to. */
  #links = new Map<string, Path>()
  #isLossTold = false

  constructor(from: Files, to: Files, options: CopyOptions) {
    this.#from = from
    this.#to = to
    this.#options = options
  }

  /**
   * Copies `sources` to `target`: into it if it is a directory, else as it
   * (one source). EISDIR for a directory unless recursive, ENOTDIR if several
   * sources have no directory to go to, EINTR when interrupted.
   */
  async copy(sources: Path[], target: Path): Promise<CopyReport> {
    for (const { source, to } of await destinations(this.#from, this.#to, sources, target)) {
      const stats = this.#options.isRecursive ? await this.#from.lstat(source) : await this.#from.stat(source)
      if (stats.type === 'directory' && !this.#options.isRecursive) throw fail('EISDIR', `${source.toString()} is a directory; copy it with -r`)
      await this.#one(source, stats, to)
    }
    return this.report
  }

  /** Copies a stream to the file `target`, replacing it. */
  async fromStream(stream: AsyncIterable<Buffer>, target: Path): Promise<CopyReport> {
    await this.#throughTemporary(target, async (temporary) => {
      const file = await this.#to.open(temporary, 'wx', 0o644)
      try {
        let offset = 0
        for await (const block of blocks(stream)) {
          this.#check()
          await file.write(offset, block)
          offset += block.length
          this.#count(block.length, target)
        }
      } finally {
        await file.close()
      }
    })
    this.report.files++
    return this.report
  }

  /** Into the place of whatever is at `to`, atomically, or into the directory that is there. */
  async #one(source: Path, stats: Stats, to: Path): Promise<void> {
    this.#check()
    const there = await lstatIfAny(this.#to, to)
    if (stats.type !== 'directory') {
      if (there?.type === 'directory') throw fail('EISDIR', `${to.toString()} is a directory, but ${source.toString()} is not; remove one of them`)
      return this.#throughTemporary(to, (temporary) => this.#make(source, stats, temporary))
    }
    if (!there) {
      this.#links = new Map()
      return this.#throughTemporary(to, (temporary) => this.#make(source, stats, temporary))
    }
    if (there.type !== 'directory') throw fail('ENOTDIR', `${to.toString()} is there already and no directory; remove it first`)
    for await (const entry of this.#from.opendir(source)) {
      await this.#one(join(source, checked(entry.name, source)), entry.stats, join(to, entry.name))
    }
  }

  /** At a path that does not exist. False if it is of a kind that cannot be copied. */
  async #make(source: Path, stats: Stats & { dev?: number }, to: Path): Promise<boolean> {
    this.#check()
    switch (stats.type) {
      case 'directory': await this.#directory(source, to); break
      case 'file': {
        const key = stats.nlink > 1 ? `${stats.dev ?? 0}:${stats.ino}` : undefined
        const first = key && this.#links.get(key)
        if (first) {
          await this.#to.link(first, to)
          this.report.files++
          return true
        }
        await this.#file(source, to)
        if (key && this.#links.size < MAX_LINKS) this.#links.set(key, to)
        break
      }
      case 'symlink':
        await this.#to.symlink(await this.#from.readlink(source), to)
        this.report.symlinks++
        break
      default:
        this.report.skipped++
        this.#options.onSkip(source, `is a ${stats.type}`)
        return false
    }
    if (this.#options.keepOwners) await this.#to.chown(to, stats.uid, stats.gid)
    // While it may be written, and before chmod, which must have the last word where an ACL says something of the mode.
    if (stats.type !== 'symlink' && stats.hasXattrs !== false) await this.#xattrs(source, to)
    // After chown, which clears bits. A symlink has no mode of its own.
    if (stats.type !== 'symlink') await this.#to.chmod(to, stats.mode & this.#options.modeMask)
    await this.#to.utimes(to, stats.atimeMs, stats.mtimeMs)
    return true
  }

  async #xattrs(source: Path, to: Path): Promise<void> {
    for (const name of await this.#from.listXattrs(source)) {
      if (!this.#options.keepsXattr(name.toString('latin1'))) continue
      try {
        await this.#to.setXattr(to, name, await this.#from.getXattr(source, name))
      } catch (error) {
        if (isDfsError(error, 'ENODATA')) continue // gone meanwhile
        if (!isDfsError(error) || !REFUSED.has(error.code)) throw error
        if (!this.#isLossTold) this.#options.onXattrsLost(`${source.toString()}: ${name.toString('latin1')} cannot be kept where it goes (${error.code})`)
        this.#isLossTold = true
      }
    }
  }

  async #directory(source: Path, to: Path): Promise<void> {
    await this.#to.mkdir(to, { mode: 0o700 })
    for await (const entry of this.#from.opendir(source)) {
      await this.#make(join(source, checked(entry.name, source)), entry.stats, join(to, entry.name))
    }
    this.report.directories++
  }

  async #file(source: Path, to: Path): Promise<void> {
    const input = await this.#from.open(source, 'r')
    try {
      const output = await this.#to.open(to, 'wx', 0o600)
      try {
        await this.#bytes(source, input, output)
      } finally {
        await output.close()
      }
    } finally {
      await input.close()
    }
    this.report.files++
  }

  async #bytes(source: Path, input: FileHandle, output: FileHandle): Promise<void> {
    let offset = 0
    let writtenTo = 0
    for await (const block of blocksOf(input)) {
      for (const [start, end] of dataRanges(block)) {
        await output.write(offset + start, block.subarray(start, end))
        writtenTo = offset + end
      }
      offset += block.length
      this.#count(block.length, source)
      this.#check()
    }
    if (writtenTo < offset) await output.truncate(offset)
  }

  async #throughTemporary(to: Path, make: (temporary: Path) => Promise<boolean | void>): Promise<void> {
    const temporary = await this.#to.temporary(withoutSlashes(to))
    try {
      if ((await make(temporary)) === false) return
      this.#check()
      await this.#to.rename(temporary, to)
    } catch (error) {
      await this.#to.rm(temporary, { recursive: true, force: true }).catch(() => {})
      throw error
    }
  }

  #check(): void {
    if (this.#options.signal.aborted) throw fail('EINTR', 'interrupted; what was under way is undone')
  }

  #count(bytes: number, path: Path): void {
    this.report.bytes += bytes
    this.#options.onProgress({ phase: path.toString(), done: this.report.bytes, total: 0, unit: 'bytes' })
  }
}

/** As cp and mv: into `target` if it is a directory, else to that very name. */
export async function destinations(from: Pick<Files, 'stat'> | undefined, to: Pick<Files, 'stat'>, sources: Path[], target: Path): Promise<{ source: Path; to: Path }[]> {
  let isDirectory = false
  try {
    isDirectory = (await to.stat(target)).type === 'directory'
  } catch (error) {
    if (!isDfsError(error, 'ENOENT')) throw error
  }
  if (isDirectory) return sources.map((source) => ({ source, to: join(target, nameOf(source)) }))
  if (sources.length > 1) throw fail('ENOTDIR', `${target.toString()} is not a directory, and several things cannot go to one name`)
  const [source] = sources
  if (bytesOf(target).at(-1) === 47 && (await from?.stat(source!))?.type !== 'directory') {
    throw fail('ENOENT', `${target.toString()}: no such directory`)
  }
  return [{ source: source!, to: withoutSlashes(target) }]
}

function bytesOf(path: Path): Buffer {
  return typeof path === 'string' ? Buffer.from(path) : path
}

function withoutSlashes(path: Path): Path {
  if (typeof path === 'string') return path.replace(/(.)\/+$/s, '$1')
  let end = path.length
  while (end > 1 && path[end - 1] === 47) end--
  return path.subarray(0, end)
}

/** The last component. EINVAL if there is none ('/', '.', '..'). */
function nameOf(path: Path): Buffer {
  const bytes = bytesOf(withoutSlashes(path))
  const name = bytes.subarray(bytes.lastIndexOf(47) + 1)
  const text = name.toString('latin1')
  if (text === '' || text === '.' || text === '..') throw fail('EINVAL', `${path.toString()} has no name to keep; name the target in full, as one that does not exist`)
  return name
}

function checked(name: Dirent['name'], directory: Path): Buffer {
  const text = name.toString('latin1')
  if (text === '' || text === '.' || text === '..' || text.includes('/') || text.includes('\0')) {
    throw fail('EINVAL', `${directory.toString()} holds a name that no file can have`)
  }
  return name
}

async function lstatIfAny(files: Files, path: Path): Promise<Stats | undefined> {
  try {
    return await files.lstat(path)
  } catch (error) {
    if (isDfsError(error, 'ENOENT')) return undefined
    throw error
  }
}

/** [start, end) of what is not zeros, in order. */
export function* dataRanges(block: Buffer): Generator<[number, number]> {
  let start = -1
  for (let at = 0; at < block.length; at += HOLE_BYTES) {
    const piece = block.subarray(at, at + HOLE_BYTES)
    const isHole = piece.length === HOLE_BYTES && piece.equals(ZEROS)
    if (!isHole && start < 0) start = at
    if (isHole && start >= 0) {
      yield [start, at]
      start = -1
    }
  }
  if (start >= 0) yield [start, block.length]
}

/** A pipe gives 64 KiB at a time; fewer, larger writes are cheaper. */
async function* blocks(stream: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let parts: Buffer[] = []
  let bytes = 0
  for await (const part of stream) {
    parts.push(part)
    bytes += part.length
    if (bytes < BLOCK_BYTES) continue
    yield Buffer.concat(parts, bytes)
    parts = []
    bytes = 0
  }
  if (bytes > 0) yield Buffer.concat(parts, bytes)
}
