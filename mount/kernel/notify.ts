/**
 * Notifications to the kernel's caches: struct fuse_notify_inval_inode_out and
 * friends, handed to threads of the addon (mount/native/notify.c says why).
 *
 * The addon's queue is bounded. What does not fit waits here, at most one
 * message for each inode and each name, for a later one covers an earlier; whoever
 * changes much awaits `drained()` between slices.
 */
import type { Notifier } from '../operations.js'
import { EXPIRE_ONLY, Notify, OUT_HEADER, putU64 } from './protocol.js'
import { Repeats } from './repeats.js'

/** The part of the addon's session that is needed; tests bring their own. */
export interface NotifyQueue {
  notify(key: number, message: Uint8Array): number
  pending(): number
}

const RETRY_MS = 5

export class KernelNotifier implements Notifier {
  readonly #queue: NotifyQueue
  readonly #waiting = new Map<string, { key: number; message: Buffer }>()
  readonly #repeats = new Repeats<number>((ino) => this.#invalidate(ino, -1, 0))
  /** Names of directories that moved: the last time they are dropped, if the kernel still has them. */
  readonly #moved = new Repeats<string>((at, isLast) => this.#expired(at, isLast))
  readonly #isFree = new Map<string, () => boolean>()
  #timer: NodeJS.Timeout | undefined
  #closed = false
  /** One for all who wait: it goes on while there is anything, theirs included. */
  #draining: Promise<void> | undefined

  constructor(queue: NotifyQueue) {
    this.#queue = queue
  }

  /** See Notifier. For a directory, offset 0 drops the kernel's listing of it. */
  invalInode(ino: number, offset: number, length: number): void {
    this.#invalidate(ino, offset, length)
    if (!this.#closed) this.#repeats.note(ino)
  }

  #invalidate(ino: number, offset: number, length: number): void {
    this.#send(ino, `i${ino}`, invalInode(ino, offset, length), () => invalInode(ino, 0, 0))
  }

  /**
   * Also drops the parent's listing: the kernel does so only when it knows the name. That of a directory that moved only
   * expires: dropping takes as long as the kernel knows names below, with the parent locked, and their pages go too; whereas
   * the next look-up of the new name finds the directory by its inode, and moves all that to there (d_splice_alias).
   */
  invalEntry(parent: number, name: Buffer, isFree?: () => boolean): void {
    const at = `${parent}/${name.toString('latin1')}`
    this.#entry(at, isFree ? EXPIRE_ONLY : 0)
    this.invalInode(parent, 0, 0)
    if (!isFree) {
      this.#moved.forget(at)
      this.#isFree.delete(at)
    } else if (!this.#closed) {
      this.#moved.note(at)
      this.#isFree.set(at, isFree)
    }
  }

  /** Who has made something of that name since is not to lose it: an expired name that is right is good again with the next look-up. */
  #expired(at: string, isLast: boolean): void {
    this.#entry(at, isLast && this.#isFree.get(at)?.() ? 0 : EXPIRE_ONLY)
    if (isLast) this.#isFree.delete(at)
  }

  /** `at`: number of the parent, '/', name in latin1. */
  #entry(at: string, flags: number): void {
    const slash = at.indexOf('/')
    const parent = Number(at.slice(0, slash))
    this.#send(parent, `e${at}`, invalEntry(parent, Buffer.from(at.slice(slash + 1), 'latin1'), flags))
  }

  /** Also drops the parent's listing, and the child's attributes: the kernel sets nlink to 0, wrong where other links exist. */
  deleted(parent: number, child: number, name: Buffer): void {
    this.#send(parent, `d${parent}/${child}/${name.toString('latin1')}`, deleted(parent, child, name))
    this.invalInode(parent, 0, 0)
    this.invalInode(child, -1, 0)
  }

  /** Resolves when all that was sent has been written to the kernel. */
  drained(): Promise<void> {
    return (this.#draining ??= this.#drain().finally(() => (this.#draining = undefined)))
  }

  async #drain(): Promise<void> {
    while (!this.#closed && (this.#waiting.size > 0 || this.#queue.pending() > 0)) {
      await new Promise(resolve => setTimeout(resolve, 1))
    }
  }

  close(): void {
    this.#closed = true
    this.#repeats.close()
    this.#moved.close()
    this.#isFree.clear()
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

/** `flags`: EXPIRE_ONLY, or 0 to drop it. Kernels before 7.38 drop it. */
export function invalEntry(parent: number, name: Buffer, flags = 0): Buffer {
  const { bytes, words } = begin(Notify.INVAL_ENTRY, 16 + name.length + 1)
  putU64(words, 4, parent)
  words[6] = name.length
  words[7] = flags
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
