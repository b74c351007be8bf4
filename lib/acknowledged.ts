/**
 * What a sync covers that other devices are to have made durable as well: an
 * entry of our log with all before it, and chunks.
 *
 * Of a file: all chunks under its extents, whoever wrote them, when it is synced
 * for the first time; then those that were named since. So a small write to a
 * large file costs no walk over it, and a sync does not wait for what others
 * write beside it. Of the whole drive: what the entries of our own log name, as
 * far back as they are kept, then those since.
 *
 * Invariants: of a file in `#files` that was walked, each chunk under its extents
 * was acknowledged, or is in `since`, or was dropped from it with the file. At
 * most MAX_FILES files and MAX_CHUNKS chunks are remembered; what is forgotten is
 * walked again.
 */
import { fail } from './errors.js'
import { headerIn } from './log/entry.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import type { Op } from './log/ops.js'
import type { ChunkTable } from './store/chunks.js'
import type { ChangeSet } from './tree/changes.js'
import type { Inode } from './tree/inode.js'
import type { Tree } from './tree/tree.js'

export const MAX_ACKS = 16
const MAX_FILES = 4096
const MAX_CHUNKS = 65_536
/** Read at a time. */
const EXTENTS = 1024
const LOG_BYTES = 256 << 10

/** What somebody who syncs wants of others. */
export interface AckWish {
  /** Other devices that are to have it, 1 to MAX_ACKS. */
  acks: number
  /** EIO when for so long nothing more of it came. */
  waitMs: number
  /** EINTR when it is aborted. */
  signal?: AbortSignal | undefined
}

export interface AckGoal extends AckWish {
  /** Local index of our log, and how far it is to be had. */
  log: number
  seq: number
  ids: Iterable<Buffer>
}

/** Who knows what others have. */
export interface AckSource {
  /** True: each has it. False: some is of no use any more, or is told anew; look again what there is. EIO, EINTR. */
  wait(goal: AckGoal): Promise<boolean>
}

export interface AcknowledgedParts {
  tree: Tree
  chunks: ChunkTable
  log: Log
  journal: Journal
  source: AckSource
}

interface Known {
  /** For so many devices. */
  acks: number
  isWalked: boolean
  readonly since: Map<string, Buffer>
}

export class Acknowledged {
  readonly #p: AcknowledgedParts
  readonly #files = new Map<number, Known>()
  #chunks = 0
  /** Our log up to here is acknowledged with all that it names. */
  #drive = { log: -1, seq: 0, acks: 0 }

  constructor(parts: AcknowledgedParts) {
    this.#p = parts
  }

  /** Resolves when `wish` is met for what the file holds after `flush`, and for all changes of names and attributes before. */
  async file(inode: Inode, wish: AckWish, flush: () => Promise<void> | void): Promise<void> {
    for (let isMet = false; !isMet;) {
      await flush()
      const place = await this.#entered(wish)
      // Nobody else has heard of one without a name.
      const known = inode.nlink > 0 ? this.#known(inode.ino, wish.acks) : undefined
      const since = known?.isWalked ? [...known.since] : undefined
      const ids = since ? since.map(([, id]) => id) : known ? this.#under(inode) : []
      try {
        isMet = await this.#p.source.wait({ ...wish, ...place, ids })
      } catch (e) {
        if (known && !known.isWalked) this.#forget(inode.ino)
        throw e
      }
      if (!isMet || !known) continue
      known.isWalked = true
      for (const [key] of since ?? []) if (known.since.delete(key) && this.#files.get(inode.ino) === known) this.#chunks--
    }
  }

  /** As `file`, for all that this device has written. */
  async drive(wish: AckWish, flush: () => Promise<void>): Promise<void> {
    for (let isMet = false; !isMet;) {
      await flush()
      const place = await this.#entered(wish)
      const { log, seq, acks } = this.#drive
      const from = log === place.log && acks >= wish.acks ? seq + 1 : 1
      isMet = await this.#p.source.wait({ ...wish, ...place, ids: this.#named(place, from) })
      if (isMet && (log !== place.log || acks !== wish.acks || place.seq > seq)) this.#drive = { ...place, acks: wish.acks }
    }
  }

  /** A content op of our own was applied. */
  wrote(op: Op & { type: 'content' }): void {
    const known = this.#files.get(op.ino)
    if (!known) return
    for (const { id } of op.chunks) {
      const key = id.toString('latin1')
      if (known.since.has(key)) continue
      known.since.set(key, id)
      this.#chunks++
    }
    if (this.#chunks <= MAX_CHUNKS) return
    this.#files.clear()
    this.#chunks = 0
  }

  /** Ops of others were applied, or ours anew. */
  changed(changes: ChangeSet): void {
    if (this.#files.size === 0) return
    for (const ino of [...changes.inodes.keys(), ...changes.ranges.keys()]) this.#forget(ino)
  }

  async #entered(wish: AckWish): Promise<{ log: number; seq: number }> {
    const place = await this.#p.journal.entered()
    if (wish.signal?.aborted) throw fail('EINTR', 'the wait for other devices was interrupted')
    return place
  }

  /** From here on its chunks are noted. */
  #known(ino: number, acks: number): Known {
    const known = this.#files.get(ino)
    if (known && known.acks >= acks) return known
    this.#forget(ino)
    if (this.#files.size >= MAX_FILES) this.#forget(this.#files.keys().next().value!)
    const fresh: Known = { acks, isWalked: false, since: new Map() }
    this.#files.set(ino, fresh)
    return fresh
  }

  #forget(ino: number): void {
    const known = this.#files.get(ino)
    if (!known) return
    this.#files.delete(ino)
    this.#chunks -= known.since.size
  }

  /** Of all chunks of the file, those of neighbours once. */
  *#under(inode: Inode): Generator<Buffer> {
    const { tree, chunks } = this.#p
    let last = -1
    for (let at = 0; ;) {
      const extents = tree.rows.extents(inode.ino, at, Infinity, EXTENTS)
      for (const { chunk, off, len } of extents) {
        at = off + len
        if (chunk === last) continue
        last = chunk
        const identity = chunks.identity(chunk)
        if (identity) yield identity.id
      }
      if (extents.length === 0) return
    }
  }

  *#named({ log: inc, seq }: { log: number; seq: number }, from: number): Generator<Buffer> {
    const { log } = this.#p
    for (let at = Math.max(from, log.head(inc).first); at <= seq;) {
      const entries = log.stored(inc, at, LOG_BYTES)
      if (entries.length === 0) return
      for (const { signed } of entries.slice(0, seq - at + 1)) yield* headerIn(signed).chunks
      // What was cut from the log meanwhile all have.
      at = Math.max(at + entries.length, log.head(inc).first)
    }
  }
}
