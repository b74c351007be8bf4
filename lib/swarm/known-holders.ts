/** Who has the newest chunks: who made them, and who said so. */
import { keyOf, type Peer } from './messages.js'

/** Chunks of which it is remembered. */
const MAX_KNOWN = 65_536
const SLACK = 4096
/** Devices that are remembered to have one chunk: more are not needed to get it. */
const MAX_HOLDERS = 4

export class KnownHolders {
  /** By chunk; the newest last. */
  readonly #known = new Map<string, Peer[]>()

  of(id: Buffer): Peer[] { return this.#known.get(keyOf(id)) ?? [] }

  add(peer: Peer, id: Buffer): void {
    const key = keyOf(id)
    const holders = this.#known.get(key) ?? []
    if (holders.includes(peer)) return
    this.#known.delete(key)
    this.#known.set(key, [...holders.slice(1 - MAX_HOLDERS), peer])
    // Many at a time: a Map walks over what was deleted at its front.
    if (this.#known.size <= MAX_KNOWN + SLACK) return
    for (const old of this.#known.keys()) {
      if (this.#known.size <= MAX_KNOWN) break
      this.#known.delete(old)
    }
  }

  remove(peer: Peer, id: Buffer): void {
    const key = keyOf(id)
    const holders = this.#known.get(key)?.filter((p) => p !== peer)
    if (holders?.length) this.#known.set(key, holders)
    else this.#known.delete(key)
  }
}
