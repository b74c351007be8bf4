/**
 * Notifications that are said again, of inodes and of names.
 *
 * Inodes: attributes alone. A reply with attributes is taken in by the thread that asked, when it runs again. Until then an
 * INVAL_INODE of the same inode overtakes it: where the reply is what makes the inode known (LOOKUP, READDIRPLUS), the kernel finds nothing to
 * invalidate; where it changed the inode (SETATTR, LINK), the kernel takes its attributes without comparing
 * attr_version (fs/fuse/dir.c, fuse_do_setattr). Either way old attributes would be believed for as long as the TTL.
 *
 * Names of directories that moved: what makes an expired name good again (fuse_dentry_revalidate) takes no lock of the directory.
 */
const AFTER_MS = [50, 2000] as const
/** Remembered of each delay; past this the oldest is said early. */
const MAX_DUE = 65_536

export class Repeats<K> {
  readonly #say: (what: K, isLast: boolean) => void
  /** For each delay: when; the next one first. */
  readonly #due = AFTER_MS.map(() => new Map<K, number>())
  #timer: NodeJS.Timeout | undefined

  constructor(say: (what: K, isLast: boolean) => void) {
    this.#say = say
  }

  /** It was said just now. */
  note(what: K): void {
    const nowMs = performance.now()
    AFTER_MS.forEach((afterMs, i) => {
      const due = this.#due[i]!
      due.delete(what)
      if (due.size >= MAX_DUE) this.#first(due)
      due.set(what, nowMs + afterMs)
    })
    this.#timer ??= setTimeout(() => this.#run(), AFTER_MS[0]).unref()
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const due of this.#due) due.clear()
  }

  /** It need not be said. */
  forget(what: K): void {
    for (const due of this.#due) due.delete(what)
  }

  #first(due: Map<K, number>): void {
    const what = due.keys().next().value!
    due.delete(what)
    this.#say(what, due === this.#due.at(-1))
  }

  #run(): void {
    this.#timer = undefined
    const nowMs = performance.now()
    let nextMs = Infinity
    for (const due of this.#due) {
      for (const [what, dueMs] of due) {
        if (dueMs > nowMs) {
          nextMs = Math.min(nextMs, dueMs)
          break
        }
        due.delete(what)
        this.#say(what, due === this.#due.at(-1))
      }
    }
    if (nextMs < Infinity) this.#timer = setTimeout(() => this.#run(), Math.ceil(nextMs - nowMs)).unref()
  }
}
