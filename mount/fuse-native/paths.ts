/**
 * Paths, as libfuse's high-level interface gives them, to inodes.
 *
 * Names looked up are kept for a second, the time for which libfuse lets the kernel keep them, and at most MAX_NAMES.
 *
 * Invariants:
 * - #names holds exactly the lookups that are owed a forget; each goes out when its name does;
 * - they are in the order in which they came, so the first is the oldest;
 * - a name that this mount changes, or that the notifier calls changed, is not in #names afterwards.
 */
import { EINVAL, ENAMETOOLONG, ENOENT } from '../errno.js'
import type { Attr, Caller, Operations, Reply } from '../operations.js'

/** Not in the common table: only this driver needs it. */
const EILSEQ = 84
const ROOT = 1
const MAX_NAMES = 8192
const KEEP_MS = 1000
const MAX_NAME = 255
/** What bytes that are no UTF-8 have become on their way to us. */
const REPLACED = '\ufffd'

export class Refused extends Error {
  constructor(readonly errno: number) {
    super(`errno ${errno}`)
  }
}

/** The result, or Refused if it is an errno. */
export async function want<T>(reply: Reply<T>): Promise<T> {
  const result = await reply
  if (typeof result === 'number' && result !== 0) throw new Refused(result)
  return result as T
}

export interface Place {
  parent: number
  name: Buffer
}

export class Paths {
  readonly #operations: Operations
  readonly #caller: Caller
  readonly #names = new Map<string, { ino: number; untilMs: number }>()
  #timer: NodeJS.Timeout | undefined
  /** Files that were unlinked while open, by the name that libfuse gave them (unlinked.ts). */
  findUnlinked: (name: string) => number | undefined = () => undefined

  constructor(operations: Operations, caller: Caller) {
    this.#operations = operations
    this.#caller = caller
  }

  /** Throws Refused. */
  async resolve(path: string): Promise<number> {
    const unlinked = this.findUnlinked(path.slice(path.lastIndexOf('/') + 1))
    if (unlinked !== undefined) return unlinked
    let ino = ROOT
    for (let at = 1; at < path.length;) {
      const slash = path.indexOf('/', at)
      const end = slash < 0 ? path.length : slash
      const name = path.slice(at, end)
      ino = this.#names.get(key(ino, name))?.ino ?? (await this.#lookup(ino, name))
      at = end + 1
    }
    return ino
  }

  /** Where a name is or is to be. `fresh`: it is about to be made, so it must be exact. */
  async place(path: string, fresh = false): Promise<Place> {
    const slash = path.lastIndexOf('/')
    const name = path.slice(slash + 1)
    if (name === '') throw new Refused(EINVAL)
    // Better no file than one under another name.
    if (fresh && name.includes(REPLACED)) throw new Refused(EILSEQ)
    return { parent: await this.resolve(path.slice(0, Math.max(1, slash))), name: bytes(name) }
  }

  /** An operation made `ino` known under a name. */
  made(place: Place, attr: Attr): void {
    this.#keep(key(place.parent, place.name.toString()), attr.ino)
  }

  /** The name means something else, or nothing. */
  drop(parent: number, name: Buffer): void {
    this.#drop(key(parent, name.toString()))
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    for (const name of [...this.#names.keys()]) this.#drop(name)
  }

  async #lookup(parent: number, name: string): Promise<number> {
    const attr = await want(this.#operations.lookup(parent, bytes(name), this.#caller))
    this.#keep(key(parent, name), attr.ino)
    return attr.ino
  }

  #keep(name: string, ino: number): void {
    this.#drop(name)
    const nowMs = performance.now()
    for (const [old, { untilMs }] of this.#names) {
      if (untilMs > nowMs && this.#names.size < MAX_NAMES) break
      this.#drop(old)
    }
    this.#names.set(name, { ino, untilMs: nowMs + KEEP_MS })
    this.#timer ??= setTimeout(() => this.#sweep(), KEEP_MS).unref()
  }

  #sweep(): void {
    const nowMs = performance.now()
    for (const [name, { untilMs }] of this.#names) {
      if (untilMs > nowMs) break
      this.#drop(name)
    }
    this.#timer = this.#names.size > 0 ? setTimeout(() => this.#sweep(), KEEP_MS).unref() : undefined
  }

  #drop(name: string): void {
    const known = this.#names.get(name)
    if (!known) return
    this.#names.delete(name)
    this.#operations.forget(known.ino, 1)
  }
}

function key(parent: number, name: string): string {
  return `${parent}/${name}`
}

function bytes(name: string): Buffer {
  const buffer = Buffer.from(name)
  if (buffer.length > MAX_NAME) throw new Refused(ENAMETOOLONG)
  if (buffer.length === 0) throw new Refused(ENOENT)
  return buffer
}
