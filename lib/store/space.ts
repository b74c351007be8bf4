/**
 * Room on the store's disk. A write is refused with ENOSPC when what is already
 * accepted, the index and a margin would not fit any more, so that nothing that
 * was accepted fails later.
 *
 * Other programs may fill the same disk behind our back: a reserve file holds
 * real blocks, given back when room gets short, so that what was accepted still
 * fits and deleting still works. It is taken again at the next open with room.
 */
import { closeSync, existsSync, fstatSync, fsyncSync, ftruncateSync, openSync, statfsSync, truncateSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fail } from '../errors.js'

/** Free bytes are asked for again after this much was taken or this long. */
const ASK_BYTES = 4 << 20
const ASK_MS = 20
/** Kept free for index and log... */
const MARGIN_BYTES = 32 << 20
/** ...and as real blocks: what was accepted and not stored yet (DIRTY_SHARE of it), and what the index adds for it. */
const RESERVE_BYTES = 52 << 20
const DIRTY_SHARE = 0.62
/** On a small disk, this share of it each. */
const SMALL_SHARE = 0.08
/** What a commit may add to the index and its log. */
const COMMIT_BYTES = 4 << 20
/** The reserve is given back in so many parts. */
const GIVE_STEPS = 4
/** With less than this, not even a lock can be taken. */
const NOTHING_BYTES = 4 << 20

export class Space {
  readonly #dir: string
  readonly #margin: number
  readonly #reserve: number
  readonly #commitRoom: number
  #reserveFd: number
  #free = 0
  #taken = 0
  #askedAt = -Infinity
  /** Bytes of the reserve that are there. */
  #held = 0

  constructor(dir: string) {
    this.#dir = dir
    const fs = statfsSync(dir)
    const total = fs.blocks * fs.bsize
    this.#margin = Math.min(MARGIN_BYTES, Math.floor(total * SMALL_SHARE))
    this.#reserve = Math.min(RESERVE_BYTES, Math.floor(total * SMALL_SHARE))
    this.#commitRoom = Math.min(COMMIT_BYTES, Math.floor(this.#margin / 2))
    this.#reserveFd = openSync(join(dir, 'reserve'), 'a+', 0o600)
    this.#ask()
    this.#held = Math.min(fstatSync(this.#reserveFd).size, this.#reserve)
    // What was given back is taken again when the store is opened and there is room.
    if (this.#held < this.#reserve && this.#free > this.#margin + this.#reserve * 2) this.#hold()
  }

  /** Before a store is opened: on a full disk its reserve goes first, or it could not even be locked. */
  static rescue(dir: string): void {
    const path = join(dir, 'reserve')
    const fs = statfsSync(dir)
    if (fs.bavail * fs.bsize < NOTHING_BYTES && existsSync(path)) truncateSync(path, 0)
  }

  /** Bytes that may be accepted and not stored yet: they fit whatever others do to the disk. */
  get dirtyLimit(): number { return Math.floor(this.#reserve * DIRTY_SHARE) }

  /** Something did not fit: gives back a part of the reserve. False if there is none left to give. */
  makeRoom(): boolean {
    if (this.#held === 0) return false
    // In steps: whoever fills the disk may take each of them from us.
    this.#held = Math.max(0, this.#held - Math.ceil(this.#reserve / GIVE_STEPS))
    ftruncateSync(this.#reserveFd, this.#held)
    fsyncSync(this.#reserveFd)
    this.#ask()
    return true
  }

  /** Before a commit, which must not fail. */
  beforeCommit(): void {
    if (this.#isStale()) this.#ask()
    while (this.#free < this.#commitRoom && this.makeRoom()) { /* until it fits, or nothing is left */ }
  }

  /** Bytes that programs may still write, as statfs on the mount tells. */
  freeBytes(dirty: number): number {
    this.#ask()
    return Math.max(0, this.#free - this.#margin - dirty)
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
    // Sealing adds a tag of 16 bytes to each 4 KiB, a header to each chunk and the rest of a page to each batch.
    if (this.#free - (dirty + bytes) * 1.02 < this.#margin) throw fail('ENOSPC', 'the disk of the store is full')
  }

  /** A name, an attribute, an xattr is about to be added. Throws ENOSPC. Half the margin is kept for deleting. */
  takeMeta(): void {
    this.#taken += 4096
    if (this.#isStale()) this.#ask()
    if (this.#free < this.#margin / 2) throw fail('ENOSPC', 'the disk of the store is full')
  }

  close(): void {
    if (this.#reserveFd >= 0) closeSync(this.#reserveFd)
    this.#reserveFd = -1
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

  /** Real blocks: fallocate is not in node, and a hole would reserve nothing. */
  #hold(): void {
    try {
      const zeros = Buffer.alloc(1 << 20)
      for (let n = this.#held; n < this.#reserve; n += zeros.length) writeSync(this.#reserveFd, zeros, 0, Math.min(zeros.length, this.#reserve - n))
      fsyncSync(this.#reserveFd)
      this.#held = this.#reserve
    } catch {
      // It filled up meanwhile.
      ftruncateSync(this.#reserveFd, 0)
      this.#held = 0
    }
  }
}
