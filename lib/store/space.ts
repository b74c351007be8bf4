/**
 * Room on the store's disk. A write is refused with ENOSPC when what is already
 * accepted, the index and a margin would not fit any more, so that nothing that
 * was accepted fails later.
 *
 * Other programs may fill the same disk behind our back, and take at once what
 * is given back to it. So what was accepted has real blocks that only it can
 * come by: content those of a reserve that becomes a segment (segments.ts), the
 * index the log that is written to its length beforehand (database.ts). A second
 * reserve is given back in steps, so that the index can grow and deleting works.
 * Both are taken again when there is room.
 */
import { existsSync, statfsSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { fail } from '../errors.js'
import { Reserve } from './reserve.js'

/** Free bytes are asked for again after this much was taken or this long. */
const ASK_BYTES = 4 << 20
const ASK_MS = 20
/** Kept free for index and log... */
const MARGIN_BYTES = 32 << 20
/** ...and as real blocks... */
const RESERVE_BYTES = 52 << 20
/** ...of which this share is for what was accepted and not stored yet, the rest for the index. */
const CONTENT_SHARE = 0.72
/** Sealing adds a tag of 16 bytes to each 4 KiB, a header to each chunk and the rest of a page to each batch. */
const SEALED_TIMES = 1.02
/** Writers wait once more than the limit was accepted: by so much each, a few at a time, but not more than this share. */
const OVERSHOOT_BYTES = 4 << 20
const OVERSHOOT_SHARE = 0.2
/** On a small disk, this share of it each. */
const SMALL_SHARE = 0.08
/** What a commit may add to the index and its log. */
const COMMIT_BYTES = 4 << 20
/** The second reserve is given back in so many parts. */
const GIVE_STEPS = 4
/** With less than this, not even a lock can be taken. */
const NOTHING_BYTES = 4 << 20
/** Name of the file that holds blocks for content. */
const CONTENT = 'reserve.content'

export class Space {
  readonly #dir: string
  readonly #margin: number
  /** For content; and what is given back in steps. */
  readonly #content: Reserve
  readonly #steps: Reserve
  readonly #commitRoom: number
  #free = 0
  #taken = 0
  #askedAt = -Infinity
  readonly #logRoom: () => number

  /** `logRoom`: bytes that the index can write whatever happens to the disk. `isWritten`: by programs, whom it tells that their content is kept before it is. */
  constructor(dir: string, { logRoom, isWritten }: { logRoom: () => number; isWritten: boolean }) {
    this.#dir = dir
    this.#logRoom = logRoom
    const fs = statfsSync(dir)
    const total = fs.blocks * fs.bsize
    this.#margin = Math.min(MARGIN_BYTES, Math.floor(total * SMALL_SHARE))
    const reserve = Math.min(RESERVE_BYTES, Math.floor(total * SMALL_SHARE))
    this.#commitRoom = Math.min(COMMIT_BYTES, Math.floor(this.#margin / 4))
    const content = isWritten ? Math.floor(reserve * CONTENT_SHARE) : 0
    this.#steps = new Reserve(join(dir, 'reserve'), reserve - content)
    this.#content = new Reserve(join(dir, CONTENT), content)
    this.#ask()
  }

  /** Before a store is opened: on a full disk its reserves go first, or it could not even be locked. */
  static rescue(dir: string): void {
    for (const name of ['reserve', CONTENT]) {
      const path = join(dir, name)
      const fs = statfsSync(dir)
      if (fs.bavail * fs.bsize < NOTHING_BYTES && existsSync(path)) truncateSync(path, 0)
    }
  }

  /** Bytes that may be accepted and not stored yet: they fit whatever others do to the disk. */
  get dirtyLimit(): number {
    const { wanted } = this.#content
    return Math.floor(wanted / SEALED_TIMES - Math.min(OVERSHOOT_BYTES, wanted * OVERSHOOT_SHARE))
  }

  /** Blocks for what was accepted and finds no room: a file `path` of them, open for writing. Undefined: they are used up. */
  handOver(path: string): { fd: number; bytes: number } | undefined { return this.#content.handOver(path) }

  /** Something did not fit: gives back a part of the second reserve. False if there is none left to give. */
  makeRoom(): boolean {
    // In steps: whoever fills the disk may take each of them from us.
    const isGiven = this.#steps.give(Math.ceil(this.#steps.wanted / GIVE_STEPS))
    if (isGiven) this.#ask()
    return isGiven
  }

  /** Takes the reserves, or what was used or given back of them, where others have as much room left as that. Gives whether all is there. */
  async refill(): Promise<boolean> {
    const short = [this.#content, this.#steps].filter((r) => r.missing > 0)
    if (short.length === 0) return true
    this.#ask()
    if (this.#free <= this.#margin + short.reduce((n, r) => n + r.missing, 0) * 2) return false
    for (const r of short) await r.fill()
    this.#ask()
    return short.every((r) => r.missing === 0)
  }

  /** Before a commit, which must not fail. */
  beforeCommit(): void {
    if (this.#isStale()) this.#ask()
    if (this.#free >= this.#commitRoom || this.#logRoom() >= this.#commitRoom) return
    while (this.#free < this.#commitRoom && this.makeRoom()) { /* until it fits, or nothing is left */ }
  }

  /** Bytes that programs may still write, as statfs on the mount tells. */
  freeBytes(dirty: number): number {
    this.#ask()
    return Math.max(0, this.#free - this.#margin - this.#content.missing - dirty)
  }

  totalBytes(): number {
    const fs = statfsSync(this.#dir)
    return fs.blocks * fs.bsize
  }

  /** It will be full soon: time for a cache to become smaller. */
  get isTight(): boolean {
    if (this.#isStale()) this.#ask()
    return this.#free < this.#margin * 3
  }

  /** `bytes` of file content are about to be accepted while `dirty` wait. Throws ENOSPC. */
  take(bytes: number, dirty: number): void {
    this.#taken += bytes
    if (this.#isStale()) this.#ask()
    if (this.#free - (dirty + bytes) * SEALED_TIMES < this.#margin + this.#content.missing) throw fail('ENOSPC', 'the disk of the store is full')
  }

  /** A name, an attribute, an xattr is about to be added. Throws ENOSPC. Half the margin is kept for deleting. */
  takeMeta(): void {
    this.#taken += 4096
    if (this.#isStale()) this.#ask()
    if (this.#free < this.#margin / 2) throw fail('ENOSPC', 'the disk of the store is full')
  }

  /** May be called twice. */
  async close(): Promise<void> {
    await this.#content.close()
    await this.#steps.close()
  }

  /** A guess is good enough only while there is plenty. */
  #isStale(): boolean {
    return this.#free < this.#margin * 4 || this.#taken > ASK_BYTES || performance.now() - this.#askedAt > ASK_MS
  }

  #ask(): void {
    const fs = statfsSync(this.#dir)
    this.#free = fs.bavail * fs.bsize
    this.#taken = 0
    this.#askedAt = performance.now()
  }
}
