/**
 * The machine's own file system in the shape of a drive, so that copying is
 * written once for both directions. Paths are bytes where names are not UTF-8.
 */
import { constants, type Stats as NodeStats } from 'node:fs'
import * as fs from 'node:fs/promises'
import type { Dirent, DriveApi, FileHandle, FileType, Path, Stats } from '../api.js'
import { fail, type DfsErrorCode } from '../errors.js'
import { beside } from '../paths.js'
import { clearDead, ourselves, temporaryName } from './temporary.js'

/** What copying needs of either side. `dev` tells file systems apart: an inode number alone does not name a file of the machine. */
export interface Files extends Pick<DriveApi, 'opendir' | 'open' | 'mkdir' | 'rm' | 'rename' | 'link' | 'symlink' | 'readlink' | 'chmod' | 'chown' | 'utimes' | 'listXattrs' | 'getXattr' | 'setXattr' | 'temporary'> {
  stat(path: Path): Promise<Stats & { dev?: number }>
  lstat(path: Path): Promise<Stats & { dev?: number }>
}

/**
 * Extended attributes of the machine's own files, which node cannot reach and lib has no native code for: whoever starts a
 * copy hands this over (bin/xattrs.ts has it from the addon). Paths and names are bytes; results below 0 are negated errnos.
 */
export interface HostXattrs {
  /** The names, each with its closing NUL. Follows symlinks. */
  listXattr(path: Uint8Array): Buffer | number
  /** Follows symlinks. */
  getXattr(path: Uint8Array, name: Uint8Array): Buffer | number
  /** Of a symlink itself. */
  setXattr(path: Uint8Array, name: Uint8Array, value: Uint8Array): number
}

export class HostFiles implements Files {
  readonly #xattrs: HostXattrs | undefined
  /** Directories where dead copies' leavings were looked for. */
  readonly #cleared = new Set<string>()

  /** Without `xattrs` files have none, and take none. */
  constructor(xattrs?: HostXattrs) {
    this.#xattrs = xattrs
  }

  stat(path: Path): Promise<Stats & { dev: number }> {
    return named(path, async () => statsOf(await fs.stat(path)))
  }

  lstat(path: Path): Promise<Stats & { dev: number }> {
    return named(path, async () => statsOf(await fs.lstat(path)))
  }

  async *opendir(path: Path): AsyncIterable<Dirent> {
    // Read at once: fs.opendir cannot give names as bytes (Node 20).
    const names = await named(path, () => fs.readdir(path, { encoding: 'buffer' }))
    for (const name of names) {
      let stats: Stats
      try {
        stats = await this.lstat(join(path, name))
      } catch (error) {
        if ((error as { code?: string }).code === 'ENOENT') continue // gone meanwhile
        throw error
      }
      yield { name, ino: stats.ino, type: stats.type, stats }
    }
  }

  async open(path: Path, flags = 'r', mode = 0o644): Promise<FileHandle> {
    // A fifo in the place of a file that was just looked at must not block the open for ever.
    const bits = flags === 'r' ? constants.O_RDONLY | constants.O_NONBLOCK : flags
    return new HostFile(await named(path, () => fs.open(path, bits, mode)), path)
  }

  async mkdir(path: Path, options: { recursive?: boolean; mode?: number } = {}): Promise<void> {
    await named(path, () => fs.mkdir(path, options))
  }

  async rm(path: Path, options: { recursive?: boolean; force?: boolean } = {}): Promise<void> {
    try {
      await fs.rm(path, options)
    } catch (error) {
      // Directories that were copied without the right to write in them.
      const code = (error as NodeJS.ErrnoException).code
      if (!options.recursive || (code !== 'EACCES' && code !== 'EPERM')) return named(path, () => Promise.reject(error as Error))
      await this.#unlock(path)
      await named(path, () => fs.rm(path, options))
    }
  }

  async #unlock(directory: Path): Promise<void> {
    if ((await this.lstat(directory)).type !== 'directory') return
    await this.chmod(directory, 0o700)
    for await (const entry of this.opendir(directory)) if (entry.type === 'directory') await this.#unlock(join(directory, entry.name))
  }

  rename(from: Path, to: Path): Promise<void> {
    return named(to, () => fs.rename(from, to))
  }

  link(existing: Path, path: Path): Promise<void> {
    return named(path, () => fs.link(existing, path))
  }

  symlink(target: Path, path: Path): Promise<void> {
    return named(path, () => fs.symlink(target, path))
  }

  readlink(path: Path): Promise<Buffer> {
    return named(path, () => fs.readlink(path, { encoding: 'buffer' }))
  }

  chmod(path: Path, mode: number): Promise<void> {
    return named(path, () => fs.chmod(path, mode))
  }

  chown(path: Path, uid: number, gid: number): Promise<void> {
    return named(path, () => fs.lchown(path, uid, gid))
  }

  utimes(path: Path, atimeMs: number, mtimeMs: number): Promise<void> {
    return named(path, () => fs.lutimes(path, atimeMs / 1000, mtimeMs / 1000))
  }

  async listXattrs(path: Path): Promise<Buffer[]> {
    const found = this.#xattrs?.listXattr(bytesOf(path)) ?? Buffer.alloc(0)
    // A file system that has none.
    if (found === -95) return []
    const names: Buffer[] = []
    const all = took<Buffer>(found, path)
    for (let at = 0; at < all.length;) {
      const end = all.indexOf(0, at)
      names.push(all.subarray(at, end))
      at = end + 1
    }
    return names
  }

  async getXattr(path: Path, name: Buffer): Promise<Buffer> {
    return took<Buffer>(this.#xattrs?.getXattr(bytesOf(path), name) ?? -61, path)
  }

  async setXattr(path: Path, name: Buffer, value: Buffer): Promise<void> {
    took(this.#xattrs?.setXattr(bytesOf(path), name, value) ?? -95, path)
  }

  /** Beside `path`; what dead copies have left there is removed. */
  async temporary(path: Path): Promise<Path> {
    const temporary = beside(path, Buffer.from(temporaryName(ourselves())))
    const slash = temporary.lastIndexOf(47)
    const directory = slash < 0 ? Buffer.from('.') : temporary.subarray(0, Math.max(1, slash))
    const key = directory.toString('latin1')
    if (!this.#cleared.has(key)) {
      this.#cleared.add(key)
      await clearDead(directory, (dead) => this.rm(dead, { recursive: true, force: true }))
    }
    return temporary
  }
}

const bytesOf = (path: Path) => (typeof path === 'string' ? Buffer.from(path) : path)

/** Linux errno values that the calls for extended attributes give. */
const XATTR_CODES: Record<number, DfsErrorCode> = {
  1: 'EPERM', 2: 'ENOENT', 7: 'E2BIG', 13: 'EACCES', 22: 'EINVAL', 28: 'ENOSPC', 30: 'EROFS', 34: 'ERANGE', 61: 'ENODATA', 95: 'EOPNOTSUPP', 122: 'ENOSPC',
}

function took<T>(result: T | number, path: Path): T {
  if (typeof result !== 'number' || result >= 0) return result as T
  const code = XATTR_CODES[-result] ?? 'EIO'
  throw fail(code, `${path.toString()}: extended attributes: ${code}`)
}

class HostFile implements FileHandle {
  #handle: fs.FileHandle
  #path: Path
  #isOpen = true

  constructor(handle: fs.FileHandle, path: Path) {
    this.#handle = handle
    this.#path = path
  }

  stat(): Promise<Stats> {
    return named(this.#path, async () => statsOf(await this.#handle.stat()))
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(length)
    let done = 0
    while (done < length) {
      const { bytesRead } = await named(this.#path, () => this.#handle.read(buffer, done, length - done, offset + done))
      if (bytesRead === 0) break
      done += bytesRead
    }
    return buffer.subarray(0, done)
  }

  async write(offset: number, data: Buffer): Promise<void> {
    for (let done = 0; done < data.length;) {
      done += (await named(this.#path, () => this.#handle.write(data, done, data.length - done, offset + done))).bytesWritten
    }
  }

  truncate(size: number): Promise<void> {
    return named(this.#path, () => this.#handle.truncate(size))
  }

  sync(): Promise<void> {
    return named(this.#path, () => this.#handle.sync())
  }

  async close(): Promise<void> {
    if (!this.#isOpen) return
    this.#isOpen = false
    await named(this.#path, () => this.#handle.close())
  }
}

/** `name` appended to `path`; text where both are. */
export function join(path: Path, name: Buffer | string): Path {
  if (typeof path === 'string' && typeof name === 'string') return path.endsWith('/') ? path + name : `${path}/${name}`
  const head = typeof path === 'string' ? Buffer.from(path) : path
  const tail = typeof name === 'string' ? Buffer.from(name) : name
  return Buffer.concat(head.at(-1) === 47 ? [head, tail] : [head, Buffer.from('/'), tail])
}

const WORDS: Record<string, string> = {
  ENOENT: 'no such file or directory', EEXIST: 'it exists already', ENOTDIR: 'not a directory', EISDIR: 'it is a directory',
  ENOTEMPTY: 'the directory is not empty', EACCES: 'permission denied', EPERM: 'not permitted', ENOSPC: 'no space left', EROFS: 'read-only',
}

async function named<T>(path: Path, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (!code || !/^E[A-Z0-9]+$/.test(code)) throw error
    throw fail((code in WORDS ? code : 'EIO') as DfsErrorCode, `${path.toString()}: ${WORDS[code] ?? (error as Error).message}`, error)
  }
}

const TYPES: [number, FileType][] = [
  [constants.S_IFDIR, 'directory'], [constants.S_IFLNK, 'symlink'], [constants.S_IFIFO, 'fifo'], [constants.S_IFSOCK, 'socket'],
  [constants.S_IFCHR, 'chardev'], [constants.S_IFBLK, 'blockdev'],
]

function statsOf(s: NodeStats): Stats & { dev: number } {
  return {
    dev: s.dev, ino: s.ino, type: TYPES.find(([bits]) => (s.mode & constants.S_IFMT) === bits)?.[1] ?? 'file', mode: s.mode, nlink: s.nlink,
    uid: s.uid, gid: s.gid, rdev: s.rdev, size: s.size, atimeMs: s.atimeMs, mtimeMs: s.mtimeMs, ctimeMs: s.ctimeMs,
  }
}
