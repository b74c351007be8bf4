/**
 * A file of real blocks (fallocate is not in node, and a hole would reserve nothing), to be used or given back when the
 * disk is full. Owns its descriptor.
 */
import { closeSync, constants, fstatSync, fsync, fsyncSync, ftruncateSync, openSync, renameSync, write, writeSync } from 'node:fs'
import { promisify } from 'node:util'

const ZEROS = Buffer.alloc(1 << 20)
const writeAsync = promisify(write)
const fsyncAsync = promisify(fsync)

export class Reserve {
  readonly #path: string
  /** Bytes that it should have. */
  readonly wanted: number
  #fd: number
  #held: number
  /** Under way; `isOver`: it is no longer wanted. */
  #filling: { isOver: boolean } | null = null
  #isClosed = false

  constructor(path: string, wanted: number) {
    this.#path = path
    this.wanted = wanted
    this.#fd = openIt(path)
    this.#held = fstatSync(this.#fd).size
    if (this.#held > wanted) this.#cut(wanted)
  }

  /** Bytes of it that are there. */
  get held(): number { return this.#held }
  get missing(): number { return this.wanted - this.#held }

  /** Gives `bytes` of it back to the disk, or what there is: whoever is quick may take them. False if there is nothing. */
  give(bytes: number): boolean {
    if (this.#held === 0) return false
    if (this.#filling) this.#filling.isOver = true
    this.#cut(Math.max(0, this.#held - bytes))
    fsyncSync(this.#fd)
    return true
  }

  /**
   * The file gets another name, its blocks another use: nobody else comes by them. Gives it, open for writing; undefined:
   * there are none. Throws what node:fs throws.
   */
  handOver(to: string): { fd: number; bytes: number } | undefined {
    // What is being taken may end anywhere.
    if (this.#held === 0 || this.#filling || this.#fd < 0) return undefined
    renameSync(this.#path, to)
    const given = { fd: this.#fd, bytes: this.#held }
    this.#held = 0
    this.#fd = -1
    return given
  }

  /** Takes what is missing, at once. */
  fill(): void {
    try {
      this.#open()
      for (let at = this.#held; at < this.wanted;) at += writeSync(this.#fd, ZEROS, 0, Math.min(ZEROS.length, this.wanted - at), at)
      fsyncSync(this.#fd)
      this.#held = this.wanted
    } catch {
      // It filled up meanwhile.
      this.#cut(this.#held)
    }
  }

  /** Takes what is missing, off the loop. */
  async refill(): Promise<void> {
    if (this.#filling || this.#isClosed || this.missing === 0) return
    const filling = this.#filling = { isOver: false }
    try {
      this.#open()
      for (let at = this.#held; at < this.wanted && !filling.isOver;) at += (await writeAsync(this.#fd, ZEROS, 0, Math.min(ZEROS.length, this.wanted - at), at)).bytesWritten
      await fsyncAsync(this.#fd)
      if (!filling.isOver) this.#held = this.wanted
    } catch {
      // As in fill().
    }
    this.#filling = null
    this.#cut(this.#held)
    if (this.#isClosed) this.#shut()
  }

  /** May be called twice. */
  close(): void {
    this.#isClosed = true
    if (this.#filling) this.#filling.isOver = true
    else this.#shut()
  }

  #open(): void {
    if (this.#fd < 0) this.#fd = openIt(this.#path)
  }

  #cut(bytes: number): void {
    if (this.#fd >= 0) ftruncateSync(this.#fd, bytes)
    this.#held = bytes
  }

  #shut(): void {
    if (this.#fd >= 0) closeSync(this.#fd)
    this.#fd = -1
  }
}

function openIt(path: string): number {
  return openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600)
}
