/**
 * A file of real blocks (fallocate is not in node, and a hole would reserve nothing), to be used or given back when the
 * disk is full. Owns its descriptor.
 */
import { closeSync, constants, fstatSync, fsync, fsyncSync, ftruncateSync, openSync, renameSync, write } from 'node:fs'
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
  #filling: { isOver: boolean; done: Promise<void> } | null = null

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
    if (this.#held === 0 || this.#filling) return undefined
    renameSync(this.#path, to)
    const given = { fd: this.#fd, bytes: this.#held }
    this.#held = 0
    this.#fd = -1
    return given
  }

  /** Takes what is missing, off the loop; as before if there is no room for it. */
  fill(): Promise<void> {
    if (this.#filling) return this.#filling.done
    if (this.missing === 0) return Promise.resolve()
    const filling = this.#filling = { isOver: false, done: Promise.resolve() }
    return (filling.done = this.#take(filling).finally(() => { this.#filling = null }))
  }

  async #take(filling: { isOver: boolean }): Promise<void> {
    try {
      if (this.#fd < 0) this.#fd = openIt(this.#path)
      for (let at = this.#held; at < this.wanted && !filling.isOver;) at += (await writeAsync(this.#fd, ZEROS, 0, Math.min(ZEROS.length, this.wanted - at), at)).bytesWritten
      await fsyncAsync(this.#fd)
      if (!filling.isOver) this.#held = this.wanted
    } catch {
      // It filled up meanwhile.
    }
    if (this.#fd >= 0) this.#cut(this.#held)
  }

  /** Nothing touches the file any more when it resolves. May be called twice. */
  async close(): Promise<void> {
    if (this.#filling) this.#filling.isOver = true
    await this.#filling?.done
    if (this.#fd >= 0) closeSync(this.#fd)
    this.#fd = -1
    this.#held = 0
  }

  #cut(bytes: number): void {
    ftruncateSync(this.#fd, bytes)
    this.#held = bytes
  }
}

function openIt(path: string): number {
  return openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600)
}
