/**
 * Directories that others moved into another directory, as long as the kernel may have them under the old name.
 *
 * With a look-up of the new name it moves there what it has, if it gets the lock of the former parent without waiting; else
 * it looks up a second time, and then fails with ESTALE (fs/dcache.c, __d_unalias). So where programs work in the
 * former parent, or the kernel is dropping the old name just then, many a program that came first would fail. Who asks a
 * second time is therefore answered when the old name is dropped; after HOLD_MS at the latest, since dropping waits for the lock of
 * the one directory while the kernel waits for this answer with the lock of the other.
 */
const HOLD_MS = 100
/** Longer than the kernel keeps an old name (kernel/repeats.ts), and takes to drop it. */
const KEEP_MS = 10_000
const MAX_DIRS = 4096

interface Moved {
  untilMs: number
  /** 'asked': it was looked up once. A promise: the old name is being dropped. */
  state: 'kept' | 'asked' | Promise<void>
  drop(): Promise<void>
}

export class MovedDirs {
  /** By inode; the oldest first. */
  readonly #dirs = new Map<number, Moved>()

  /** `drop` drops the old name; it resolves when the kernel has done so. */
  note(ino: number, drop: () => Promise<void>): void {
    const nowMs = performance.now()
    this.#dirs.delete(ino)
    for (const [old, { untilMs }] of this.#dirs) {
      if (untilMs > nowMs && this.#dirs.size < MAX_DIRS) break
      this.#dirs.delete(old)
    }
    this.#dirs.set(ino, { untilMs: nowMs + KEEP_MS, state: 'kept', drop })
  }

  forget(ino: number): void {
    if (this.#dirs.size > 0) this.#dirs.delete(ino)
  }

  /** A look-up found it. What to wait for before that is answered. */
  asked(ino: number): Promise<void> | undefined {
    const moved = this.#dirs.size > 0 ? this.#dirs.get(ino) : undefined
    if (!moved) return undefined
    if (moved.state === 'kept') {
      moved.state = 'asked'
      return undefined
    }
    if (moved.state === 'asked') {
      if (moved.untilMs < performance.now()) {
        this.#dirs.delete(ino)
        return undefined
      }
      const dropped = moved.state = moved.drop()
      void dropped.then(() => { if (this.#dirs.get(ino) === moved) this.#dirs.delete(ino) })
    }
    return atMost(moved.state, HOLD_MS)
  }
}

function atMost(until: Promise<void>, ms: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    void until.then(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}
