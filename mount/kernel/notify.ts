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

export class KernelNotifier implements Notifier {
  readonly #queue: NotifyQueue
  readonly #waiting = new Map<string, { key: number; message: Buffer }>()
  readonly #repeats = new Repeats((ino) => this.#invalidate(ino, -1, 0))
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
