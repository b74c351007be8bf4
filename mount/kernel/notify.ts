/**
 * Notifications to the kernel's caches: struct fuse_notify_inval_inode_out and
 * friends, handed to threads of the addon (mount/native/notify.c says why).
 *
 * The addon's queue is bounded. What does not fit waits here, at most one
 * message for each inode and each name, for a later one covers an earlier; whoever
 * changes much awaits `drained()` between slices.
 */
import type { Notifier } from '../operations.js'
import { Notify, OUT_HEADER, putU64 } from './protocol.js'
import { Repeats } from './repeats.js'

/** The part of the addon's session that is needed; tests bring their own. */
export interface NotifyQueue {
  notify(key: number, message: Uint8Array): number
  pending(): number
}

const RETRY_MS = 5
/**
 * A READ that is answered with less than it asked for tells the kernel where the file ends, but not if an INVAL_INODE came while it was under
 * way (fs/fuse/file.c, fuse_read_update_size). Then the kernel goes by the size that it knew, fills what is missing with zeros, and the program
 * gets those. So the READs that a change found under way are answered first, and what is said of a file that became shorter within LATELY_MS, whose old size the
 * kernel may still go by, waits for HELD_MS: what is truncated and written anew is said once.
 */
const HELD_MS = 5
const LATELY_MS = 3000
/** ...and for READs that wait for content of it, so long at most. */
const MAX_HELD_MS = 2000

/** As in invalInode. */
interface Range { offset: number; length: number }

function union(a: Range | undefined, b: Range): Range {
  if (!a || a.offset < 0) return b
  if (b.offset < 0) return a
  const offset = Math.min(a.offset, b.offset)
  return { offset, length: a.length === 0 || b.length === 0 ? 0 : Math.max(a.offset + a.length, b.offset + b.length) - offset }
}

export class KernelNotifier implements Notifier {
  isReading: (ino: number) => boolean = () => false
  readonly #queue: NotifyQueue
  readonly #waiting = new Map<string, { key: number; message: Buffer }>()
  readonly #repeats = new Repeats((ino) => setImmediate(() => setImmediate(() => this.#invalidate(ino, -1, 0))))
  /** Of inodes, to be said later. */
  readonly #held = new Map<number, Range>()
  /** When each became shorter, the last one last. */
  readonly #shortened = new Map<number, number>()
  #release: NodeJS.Timeout | undefined
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor(queue: NotifyQueue) {
    this.#queue = queue
  }

  /** See Notifier. For a directory, offset 0 drops the kernel's listing of it. */
  invalInode(ino: number, offset: number, length: number, isShorter = false): void {
    if (this.#closed) return
    const nowMs = performance.now()
    if (isShorter) {
      this.#shortened.delete(ino)
      this.#shortened.set(ino, nowMs)
      for (const [old, sinceMs] of this.#shortened) {
        if (nowMs - sinceMs < LATELY_MS) break
        this.#shortened.delete(old)
      }
    }
    const isHeld = this.#held.has(ino) || nowMs - (this.#shortened.get(ino) ?? -Infinity) < LATELY_MS
    if (isHeld) {
      this.#held.set(ino, union(this.#held.get(ino), { offset, length }))
      return this.#later()
    }
    // A file that grew, at once: old pages must not be shown with the new size.
    this.#invalidate(ino, offset, length)
    this.#repeats.note(ino)
  }

  #say(): void {
    this.#release = undefined
    if (this.#closed) return
    const nowMs = performance.now()
    for (const [ino, { offset, length }] of this.#held) {
      if (this.isReading(ino) && nowMs - (this.#shortened.get(ino) ?? -Infinity) < MAX_HELD_MS) continue
      this.#held.delete(ino)
      this.#invalidate(ino, offset, length)
      this.#repeats.note(ino)
    }
    if (this.#held.size > 0) this.#later()
  }

  #later(): void {
    this.#release ??= setTimeout(() => setImmediate(() => setImmediate(() => this.#say())), HELD_MS)
  }

  #invalidate(ino: number, offset: number, length: number): void {
    this.#send(ino, `i${ino}`, invalInode(ino, offset, length), () => invalInode(ino, 0, 0))
  }

  /** Also drops the parent's listing: the kernel does so only when it knows the name. */
  invalEntry(parent: number, name: Buffer): void {
    this.#send(parent, `e${parent}/${name.toString('latin1')}`, invalEntry(parent, name))
    this.invalInode(parent, 0, 0)
  }

  /** Also drops the parent's listing, and the child's attributes: the kernel sets nlink to 0, wrong where other links exist. */
  deleted(parent: number, child: number, name: Buffer): void {
    this.#send(parent, `d${parent}/${child}/${name.toString('latin1')}`, deleted(parent, child, name))
    this.invalInode(parent, 0, 0)
    this.invalInode(child, -1, 0)
  }

  /** Resolves when all that was sent has been written to the kernel. */
  async drained(): Promise<void> {
    while (!this.#closed && (this.#held.size > 0 || this.#waiting.size > 0 || this.#queue.pending() > 0)) {
      await new Promise(resolve => setTimeout(resolve, 1))
    }
  }

  close(): void {
    this.#closed = true
    this.#repeats.close()
    this.#held.clear()
    clearTimeout(this.#release)
    this.#waiting.clear()
    clearTimeout(this.#timer)
  }

  #send(ino: number, identity: string, message: Buffer, covering?: () => Buffer): void {
    if (this.#closed) return
    const key = (ino ^ Math.floor(ino / 0x1_0000_0000)) >>> 0
    if (this.#waiting.size === 0 && this.#queue.notify(key, message) >= 0) return
    const known = this.#waiting.get(identity)
    // Behind what came since: a listing is dropped after the name that changed in it, whose lock waits for who is reading it.
    this.#waiting.delete(identity)
    this.#waiting.set(identity, { key, message: known && covering ? covering() : message })
    this.#timer ??= setTimeout(() => this.#retry(), RETRY_MS)
  }

  #retry(): void {
    this.#timer = undefined
    for (const [identity, { key, message }] of this.#waiting) {
      if (this.#queue.notify(key, message) < 0) {
        this.#timer = setTimeout(() => this.#retry(), RETRY_MS)
        return
      }
      this.#waiting.delete(identity)
    }
  }
}

/** A message of `body` bytes: in fuse_out_header, unique 0 says "not a reply" and `error` holds the code. */
function begin(code: number, body: number): { bytes: Buffer; words: Uint32Array } {
  const memory = new ArrayBuffer(OUT_HEADER + body + 3 & ~3)
  const words = new Uint32Array(memory)
  words[0] = OUT_HEADER + body
  words[1] = code
  return { bytes: Buffer.from(memory, 0, OUT_HEADER + body), words }
}

export function invalInode(ino: number, offset: number, length: number): Buffer {
  const { bytes, words } = begin(Notify.INVAL_INODE, 24)
  putU64(words, 4, ino)
  putU64(words, 6, offset)
  putU64(words, 8, length)
  return bytes
}

export function invalEntry(parent: number, name: Buffer): Buffer {
  const { bytes, words } = begin(Notify.INVAL_ENTRY, 16 + name.length + 1)
  putU64(words, 4, parent)
  words[6] = name.length
  bytes.set(name, OUT_HEADER + 16)
  return bytes
}

export function deleted(parent: number, child: number, name: Buffer): Buffer {
  const { bytes, words } = begin(Notify.DELETE, 24 + name.length + 1)
  putU64(words, 4, parent)
  putU64(words, 6, child)
  words[8] = name.length
  bytes.set(name, OUT_HEADER + 24)
  return bytes
}
