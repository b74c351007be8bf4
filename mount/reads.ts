/**
 * READs that wait for their content. When the file is changed meanwhile by anything but this mount's own requests
 * (those the kernel keeps in order by itself), they start again: a program whose read(2) begins after the change has
 * been reported may be waiting for the very page that an earlier READ, or the kernel's read-ahead, is about to fill,
 * and must not get the old bytes. What only the old version needs is not waited for any longer.
 *
 * Invariant: an answer is never older than the last `changed` of its range when it is handed to the driver. From there
 * it is one microtask to the kernel, and whoever made a change is answered no sooner.
 */
import type { Reading } from '../lib/file/reading.js'
import type { Interrupt } from './operations.js'

/** `again`: the same read of the file as it is now, with the deadline of the first. */
interface Asked { ino: number; offset: number; size: number; read: Reading; signal: Interrupt; again(deadline: number): Buffer[] | Reading }

class Pending {
  readonly answer: Promise<Buffer[]>
  readonly #asked: Asked
  readonly #over: (p: Pending) => void
  #read: Reading
  #settle!: { resolve: (bytes: Buffer[]) => void; reject: (error: unknown) => void }

  constructor(asked: Asked, over: (p: Pending) => void) {
    this.#asked = asked
    this.#over = over
    this.#read = asked.read
    this.answer = new Promise((resolve, reject) => { this.#settle = { resolve, reject } })
    this.#watch(asked.read)
    asked.signal.onInterrupt(() => this.#read.cancel())
  }

  overlaps(from: number, length: number): boolean {
    const { offset, size } = this.#asked
    return from >= 0 && from < offset + size && (length === 0 || from + length > offset)
  }

  restart(): void {
    const old = this.#read
    try {
      const now = this.#asked.again(old.deadline)
      if (Array.isArray(now)) this.#end(() => this.#settle.resolve(now))
      else this.#watch((this.#read = now))
    } catch (error) {
      this.#end(() => this.#settle.reject(error))
    }
    // After the new one has joined what both wait for.
    old.cancel()
  }

  #watch(read: Reading): void {
    const still = (settle: () => void) => { if (this.#read === read) this.#end(settle) }
    read.done.then((bytes) => still(() => this.#settle.resolve(bytes)), (error) => still(() => this.#settle.reject(error)))
  }

  #end(settle: () => void): void {
    this.#over(this)
    settle()
  }
}

export class PendingReads {
  readonly #byInode = new Map<number, Set<Pending>>()

  wait(asked: Asked): Promise<Buffer[]> {
    const { ino } = asked
    const pending = new Pending(asked, (p) => {
      const all = this.#byInode.get(ino)
      if (all?.delete(p) && all.size === 0) this.#byInode.delete(ino)
    })
    const all = this.#byInode.get(ino)
    if (all) all.add(pending)
    else this.#byInode.set(ino, new Set([pending]))
    return pending.answer
  }

  /** As Watcher.inodeChanged. */
  changed(ino: number, from: number, length: number): void {
    const all = this.#byInode.get(ino)
    if (all) for (const p of [...all]) if (p.overlaps(from, length)) p.restart()
  }
}
