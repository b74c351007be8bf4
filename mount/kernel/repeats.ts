/**
 * Inodes whose invalidation is said again, attributes alone.
 *
 * A reply with attributes is taken in by the thread that asked, when it runs again. Until then an INVAL_INODE of the same
 * inode overtakes it: where the reply is what makes the inode known (LOOKUP, READDIRPLUS), the kernel finds nothing to
 * invalidate; where it changed the inode (SETATTR, LINK), the kernel takes its attributes without comparing
 * attr_version (fs/fuse/dir.c, fuse_do_setattr). Either way old attributes would be believed for as long as the TTL.
 */
const AFTER_MS = [50, 2000] as const
/** Remembered of each delay; past this the oldest is said early. */
const MAX_INODES = 65_536

export class Repeats {
  readonly #say: (ino: number) => void
  /** For each delay: when, by inode; the next one first. */
  readonly #due = AFTER_MS.map(() => new Map<number, number>())
  #timer: NodeJS.Timeout | undefined

  constructor(say: (ino: number) => void) {
    this.#say = say
  }

  /** It was said just now. */
  note(ino: number): void {
    const nowMs = performance.now()
    AFTER_MS.forEach((afterMs, i) => {
      const due = this.#due[i]!
      due.delete(ino)
      if (due.size >= MAX_INODES) this.#first(due)
      due.set(ino, nowMs + afterMs)
    })
    this.#timer ??= setTimeout(() => this.#run(), AFTER_MS[0]).unref()
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const due of this.#due) due.clear()
  }

  #first(due: Map<number, number>): void {
    const ino = due.keys().next().value!
    due.delete(ino)
    this.#say(ino)
  }

  #run(): void {
    this.#timer = undefined
    const nowMs = performance.now()
    let nextMs = Infinity
    for (const due of this.#due) {
      for (const [ino, dueMs] of due) {
        if (dueMs > nowMs) {
          nextMs = Math.min(nextMs, dueMs)
          break
        }
        due.delete(ino)
        this.#say(ino)
      }
    }
    if (nextMs < Infinity) this.#timer = setTimeout(() => this.#run(), Math.ceil(nextMs - nowMs)).unref()
  }
}
