/**
 * Files that are unlinked, or replaced by a rename, while they are open.
 *
 * libfuse's high-level interface knows files by path, so instead of unlinking an open file it renames it to
 * `.fuse_hidden...` beside it, and unlinks that at the last close. Here the file loses its name at once, as on any file
 * system, and the hidden name lives in a table alone: nothing is left behind by a crash, and rmdir works.
 *
 * For a rename onto an open file libfuse first hides the old one, then renames: for a moment the name would not be
 * there. So the unlinking waits for what the same thread asks next; if that is the rename, one operation does both.
 * Whatever another thread asks about the name meanwhile waits, too.
 *
 *   hide -> waiting --(the same thread renames onto it)----------> replaced, by one rename
 *                   --(it asks for anything else, or WAIT_MS)----> unlinked
 *
 * A program may have found the name before and open the file after its last close; so the hidden name stays known for
 * LINGER_MS.
 *
 * Invariants: each entry of #hidden owes one forget; a thread has at most one in #waiting.
 */
import { dirname } from 'node:path/posix'
import type { Caller, Operations } from '../operations.js'
import { Paths, want, type Place } from './paths.js'

const HIDDEN = /^\.fuse_hidden[0-9a-f]{16}$/
const WAIT_MS = 10
const LINGER_MS = 1000
/** More than this do not linger: they take up space. */
const MAX_LINGERING = 1024

interface Waiting {
  path: string
  place: Place
  hiddenAs: string
  timer: NodeJS.Timeout
  /** Resolves when the name is gone or replaced. */
  over: Promise<void>
  end: () => void
}

export class Unlinked {
  readonly #operations: Operations
  readonly #paths: Paths
  readonly #caller: Caller
  readonly #hidden = new Map<string, { ino: number; leaving: NodeJS.Timeout | undefined }>()
  readonly #waiting = new Map<Buffer, Waiting>()

  constructor(operations: Operations, paths: Paths, caller: Caller) {
    this.#operations = operations
    this.#paths = paths
    this.#caller = caller
    paths.findUnlinked = name => this.#hidden.get(name)?.ino
  }

  /** A name as libfuse makes them up; a program could, too, so the file must also be open. */
  static isHidden(path: string): boolean {
    return HIDDEN.test(nameOf(path))
  }

  async hide(thread: Buffer, from: string, to: string): Promise<void> {
    const place = await this.#paths.place(from)
    const { ino } = await want(this.#operations.lookup(place.parent, place.name, this.#caller))
    this.#hidden.set(nameOf(to), { ino, leaving: undefined })
    let end!: () => void
    const over = new Promise<void>(resolve => (end = resolve))
    this.#waiting.set(thread, { path: from, place, hiddenAs: nameOf(to), over, end, timer: setTimeout(() => void this.#settle(thread), WAIT_MS) })
  }

  /** What has to be over before `thread` may ask for `operation`. */
  before(thread: Buffer, operation: string, args: readonly unknown[]): Promise<void> | undefined {
    if (this.#waiting.size === 0) return undefined
    const own = this.#waiting.get(thread)
    if (own) return operation === 'rename' && args[1] === own.path ? undefined : this.#settle(thread)
    if (operation === 'fsync' || operation === 'fsyncdir') return this.#settleAll()
    const wholeDir = operation === 'readdir' || operation === 'rmdir' || operation === 'rename'
    const others = [...this.#waiting.values()].filter(({ path }) => args[0] === path || args[1] === path || (wholeDir && args[0] === dirname(path)))
    return others.length > 0 ? Promise.all(others.map(({ over }) => over)).then(() => {}) : undefined
  }

  /** `thread` renames onto `path`. If it has just hidden what was there: to be called when that is done. */
  replacing(thread: Buffer, path: string): (() => void) | undefined {
    const own = this.#waiting.get(thread)
    if (own?.path !== path) return undefined
    clearTimeout(own.timer)
    return () => {
      this.#waiting.delete(thread)
      own.end()
    }
  }

  async #settle(thread: Buffer): Promise<void> {
    const waiting = this.#waiting.get(thread)
    if (!waiting) return
    clearTimeout(waiting.timer)
    const { parent, name } = waiting.place
    try {
      await want(this.#operations.unlink(parent, name, this.#caller))
    } catch {
      this.#forget(waiting.hiddenAs) // refused: the file keeps its name
    }
    this.#paths.drop(parent, name)
    if (this.#waiting.get(thread) === waiting) this.#waiting.delete(thread)
    waiting.end()
  }

  async #settleAll(): Promise<void> {
    await Promise.all([...this.#waiting.keys()].map(thread => this.#settle(thread)))
  }

  /** libfuse unlinks the hidden name. True if there was one. */
  gone(path: string): boolean {
    const name = nameOf(path)
    const hidden = this.#hidden.get(name)
    if (!hidden) return false
    if (this.#hidden.size > MAX_LINGERING) this.#forget(name)
    else hidden.leaving ??= setTimeout(() => this.#forget(name), LINGER_MS).unref()
    return true
  }

  /** The last handle of `ino` was closed. libfuse does not unlink a hidden name whose directory is gone. */
  closed(ino: number): void {
    for (const [name, hidden] of this.#hidden) if (hidden.ino === ino) this.gone(name)
  }

  async close(): Promise<void> {
    await this.#settleAll()
    for (const name of [...this.#hidden.keys()]) this.#forget(name)
  }

  #forget(name: string): void {
    const hidden = this.#hidden.get(name)
    if (!hidden) return
    clearTimeout(hidden.leaving)
    this.#hidden.delete(name)
    this.#operations.forget(hidden.ino, 1)
  }
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}
