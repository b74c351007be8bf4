/**
 * Room on the store's disk. A write is refused with ENOSPC when what is already
 * accepted, the index and a margin would not fit any more, so that nothing that
 * was accepted fails later.
 *
 * Other programs may fill the same disk behind our back: a reserve file holds
 * real blocks, given back when room gets short, so that what was accepted still
 * fits and deleting still works.
 */
import { closeSync, fsyncSync, ftruncateSync, openSync, statfsSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fail } from '../errors.js'

/** Free bytes are asked for again after this much was taken or this long. */
const ASK_BYTES = 4 << 20
const ASK_MS = 200
/** Margin for index and log over the dirty limit. */
const MARGIN_BYTES = 48 << 20
/** On a small disk, this share of it. */
const MARGIN_SHARE = 0.1
const RESERVE_BYTES = 16 << 20

export class Space {
  readonly #dir: string
  readonly #margin: number
  readonly #reserve: number
  #reserveFd: number
  #free = 0
  #taken = 0
  #askedAt = -Infinity
  #held = false

  constructor(dir: string) {
    this.#dir = dir
    const fs = statfsSync(dir)
    const total = fs.blocks * fs.bsize
    this.#margin = Math.min(MARGIN_BYTES, Math.floor(total * MARGIN_SHARE))
    this.#reserve = Math.min(RESERVE_BYTES, Math.floor(total * MARGIN_SHARE / 2))
    this.#reserveFd = openSync(join(dir, 'reserve'), 'a+', 0o600)
    this.#ask()
    if (this.#free > this.#margin + this.#reserve * 2) this.#hold()
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

  /** `bytes` of file content are about to be accepted while `dirty` wait. Throws ENOSPC. */
  take(bytes: number, dirty: number): void {
    this.#taken += bytes
    if (this.#taken > ASK_BYTES || performance.now() - this.#askedAt > ASK_MS) this.#ask()
    // Sealing adds a tag of 16 bytes to each 16 KiB and a header to each chunk.
    const owed = (dirty + bytes) * 1.02
    if (this.#free - owed < this.#margin) {
      this.#ask()
      if (this.#free - owed < this.#margin) throw fail('ENOSPC', 'the disk of the store is full')
    }
  }

  /** A name, an attribute, an xattr is about to be added. Throws ENOSPC. Half the margin is kept for deleting. */
  takeMeta(): void {
    this.#taken += 4096
    if (this.#taken > ASK_BYTES || performance.now() - this.#askedAt > ASK_MS) this.#ask()
    if (this.#free < this.#margin / 2) throw fail('ENOSPC', 'the disk of the store is full')
  }

  /** Takes the reserve again after room came back. */
  close(): void {
    if (this.#reserveFd >= 0) closeSync(this.#reserveFd)
    this.#reserveFd = -1
  }

  #ask(): void {
    const fs = statfsSync(this.#dir)
    this.#free = fs.bavail * fs.bsize
    this.#taken = 0
    this.#askedAt = performance.now()
    if (this.#held && this.#free < this.#margin / 2) this.#giveBack()
    else if (!this.#held && this.#free > this.#margin * 2 + this.#reserve * 2) this.#hold()
  }

  #hold(): void {
    if (this.#reserveFd < 0) return
    try {
      ftruncateSync(this.#reserveFd, 0)
      // Real blocks: fallocate is not in node, and a hole would reserve nothing.
      const zeros = Buffer.alloc(1 << 20)
      for (let n = 0; n < this.#reserve; n += zeros.length) writeSync(this.#reserveFd, zeros)
      fsyncSync(this.#reserveFd)
      this.#held = true
    } catch {
      this.#giveBack()
    }
  }

  #giveBack(): void {
    ftruncateSync(this.#reserveFd, 0)
    fsyncSync(this.#reserveFd)
    this.#held = false
  }
}
