/**
 * Files that are open here and have lost their last name. Others let go of their
 * chunks once the removal is final; so what is elsewhere is fetched before, as if
 * the files were pinned (pins.ts), and stays until the last handle goes. While it is
 * on its way, for HOLD_MS at most, this device does not say by itself that it has
 * seen the removal. What it writes itself says so all the same.
 */
import type { Timers } from './clock.js'
import type { Residents } from './store/residents.js'
import { ELSEWHERE } from './store/chunks.js'
import type { Inode } from './tree/inode.js'
import type { Tree } from './tree/tree.js'
import { extentsOf } from './tree/walk.js'

/** So long others wait for what cannot be had. */
export const HOLD_MS = 600_000
/** It is looked whether all is here at most a twentieth of the time. */
const LOOK_SHARE = 20

export interface KeptOpenParts {
  tree: Tree
  residents: Residents
  timers: Timers
  /** Files that are open and have no name; none where nobody else could drop their chunks. */
  unlinked(): Iterable<Inode>
  /** What is here may go: it is kept by name. */
  mayEvict(): boolean
  /** The chunks of a file are, and so many of them are elsewhere. */
  named(lacking: number): void
  /** Something need not be kept any more. */
  fewer(): void
}

interface Kept { inode: Inode; /** Its chunks are named to Residents. */ isNamed: boolean; isHere: boolean }

export class KeptOpen {
  readonly #p: KeptOpenParts
  #files = new Map<number, Kept>()
  #walking: Promise<void> | null = null
  #walkAtMs = 0
  /** Since when something is on its way. */
  #sinceMs = Infinity
  #isClosed = false

  constructor(parts: KeptOpenParts) {
    this.#p = parts
  }

  /** As they are now. */
  get inodes(): Inode[] {
    this.#look()
    return [...this.#files.values()].map((f) => f.inode)
  }

  get isEmpty(): boolean { return this.#files.size === 0 }

  /** Whether one of them has this chunk. */
  async has(num: number): Promise<boolean> {
    try {
      for (const inode of this.inodes) for await (const e of extentsOf(this.#p.tree, inode)) if (e.chunk === num) return true
    } catch (e) {
      if (!this.#isClosed) throw e
    }
    return false
  }

  /** Whether something is on its way that others may have dropped once the removal is final. */
  get isAwaiting(): boolean {
    this.tick()
    if (this.#p.timers.nowMs() - this.#sinceMs >= HOLD_MS) for (const f of this.#files.values()) f.isHere = true
    return !this.#settled()
  }

  /** Nothing is on its way. */
  #settled(): boolean {
    const isSettled = [...this.#files.values()].every((f) => f.isHere)
    if (isSettled) this.#sinceMs = Infinity
    return isSettled
  }

  /** Every few seconds. */
  tick(): void {
    if (this.#isClosed) return
    this.#look()
    if (this.#settled()) return
    const { timers } = this.#p
    const due = [...this.#files.values()].filter((f) => !f.isHere)
    if (this.#walking || (timers.nowMs() < this.#walkAtMs && due.every((f) => f.isNamed))) return
    const startMs = timers.nowMs()
    this.#walking = this.#walk(due).catch((e: Error) => { if (!this.#isClosed) process.emitWarning(`looking for what open files lack: ${e.message}`) }).finally(() => {
      this.#walking = null
      this.#walkAtMs = timers.nowMs() + (timers.nowMs() - startMs) * LOOK_SHARE
    })
  }

  /** Which files there are. */
  #look(): void {
    const before = this.#files
    this.#files = new Map()
    let found = 0
    for (const inode of this.#p.unlinked()) {
      const known = before.get(inode.ino)
      if (known) found++
      else if (this.#sinceMs === Infinity) this.#sinceMs = this.#p.timers.nowMs()
      this.#files.set(inode.ino, known ?? { inode, isNamed: false, isHere: false })
    }
    if (found < before.size) this.#p.fewer()
  }

  async #walk(files: Kept[]): Promise<void> {
    const { tree, residents, mayEvict, named } = this.#p
    for (const f of files) {
      let lacking = 0
      for await (const e of extentsOf(tree, f.inode)) {
        if (this.#isClosed || this.#files.get(f.inode.ino) !== f) break
        if (e.chunk === 0) continue
        if (e.seg === ELSEWHERE) lacking++
        if (!f.isNamed && (e.seg === ELSEWHERE || mayEvict())) residents.pinned(e.chunk)
      }
      if (this.#isClosed) return
      if (!f.isNamed) named(lacking)
      f.isNamed = true
      if (lacking === 0) f.isHere = true
    }
    this.#settled()
  }

  /** What is under way ends. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#walking
  }
}
