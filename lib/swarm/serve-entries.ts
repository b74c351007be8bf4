/**
 * Serving log entries: the wants of each peer in the order in which they came,
 * read from the log only when the link has room. Part of LogSync.
 */
import {
  MAX_ENTRIES, MAX_ENTRIES_BYTES, MAX_PART_BYTES, entryBytes, type Peer, type SignedEntry, type SyncMessage, type WantEntries,
} from './messages.js'

/** Wants of one peer that wait: several times what an honest one has under way. The rest is answered with nothing. */
const MAX_WAITING = 64
/** No more entries are read for a peer whose link holds so much: above what chunks fill it with, for names go before content. */
const FULL_QUEUE_BYTES = 4 * 1024 * 1024

export interface EntryReader {
  /**
   * Durable entries from..to, fewer if they would take more than `limitBytes` or are more than
   * MAX_ENTRIES; entry `from` is there whatever its size. [] if `from` is not held.
   */
  read(log: { incarnation: Buffer; device: Buffer }, from: number, to: number, limitBytes: number): SignedEntry[]
  /** Bytes that wait in the link to a peer: Link.queuedBytes. */
  queuedBytes(peer: Peer): number
}

export class EntryServer {
  readonly #store: EntryReader
  readonly #waiting = new Map<Peer, WantEntries[]>()

  constructor(store: EntryReader) {
    this.#store = store
  }

  drop(peer: Peer): void {
    this.#waiting.delete(peer)
  }

  want(peer: Peer, want: WantEntries, send: (m: SyncMessage) => void): void {
    const queue = this.#waiting.get(peer)
    if (!queue) this.#waiting.set(peer, [want])
    else if (queue.length < MAX_WAITING) queue.push(want)
    else send({ type: 'noEntries', request: want.request, needBytes: 0 })
    this.serve(peer, send)
  }

  /** Answers what the link has room for. */
  serve(peer: Peer, send: (m: SyncMessage) => void): void {
    const queue = this.#waiting.get(peer)
    if (!queue) return
    let room = FULL_QUEUE_BYTES - this.#store.queuedBytes(peer)
    while (queue.length > 0 && room > 0) room -= this.#answer(queue.shift()!, send)
    if (queue.length === 0) this.#waiting.delete(peer)
  }

  #answer(want: WantEntries, send: (m: SyncMessage) => void): number {
    const { request, incarnation, device, from } = want
    const to = Math.min(want.to, from + MAX_ENTRIES - 1)
    const entries = this.#store.read(want, from, to, Math.min(want.limitBytes, MAX_ENTRIES_BYTES))
    const bytes = entries.reduce((n, e) => n + entryBytes(e), 0)
    if (entries.length === 0) send({ type: 'noEntries', request, needBytes: 0 })
    else if (bytes > want.limitBytes) send({ type: 'noEntries', request, needBytes: bytes })
    else if (bytes > MAX_ENTRIES_BYTES) sendParts(request, entries[0]!, send)
    else send({ type: 'entries', request, incarnation, device, from, entries })
    return bytes
  }
}

function sendParts(request: number, entry: SignedEntry, send: (m: SyncMessage) => void): void {
  const whole = Buffer.concat([entry.signed, entry.sealed])
  const sizes = { signedBytes: entry.signed.length, sealedBytes: entry.sealed.length }
  for (let offset = 0; offset < whole.length; offset += MAX_PART_BYTES) {
    send({ type: 'entryPart', request, ...sizes, offset, part: whole.subarray(offset, offset + MAX_PART_BYTES) })
  }
}
