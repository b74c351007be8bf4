/**
 * The connected devices as whoever takes a snapshot sees them (lib/join.ts):
 * while the links serve everything else, the messages of a snapshot go here.
 */
import type { Link } from './net/link.js'

export class SnapshotLinks {
  readonly links: SeenLink[] = []
  #onLink: (link: Link) => void = () => {}

  /** Told of each link, of those that are up first. */
  set onLink(onLink: (link: Link) => void) {
    this.#onLink = onLink
    for (const link of this.links) onLink(link)
  }

  up(link: Link): void {
    if (this.links.some((l) => l.under === link)) return
    const seen = new SeenLink(link)
    this.links.push(seen)
    this.#onLink(seen)
  }

  down(link: Link, reason: string): void {
    const at = this.links.findIndex((l) => l.under === link)
    if (at < 0) return
    const [seen] = this.links.splice(at, 1)
    seen!.onClose(reason)
  }

  message(link: Link, bytes: Buffer): void | Promise<void> {
    return this.links.find((l) => l.under === link)?.onMessage(bytes)
  }
}

class SeenLink implements Link {
  readonly under: Link
  onMessage: Link['onMessage'] = () => {}
  onDrain: Link['onDrain'] = () => {}
  onFileError: Link['onFileError'] = () => {}
  onClose: Link['onClose'] = () => {}

  constructor(under: Link) {
    this.under = under
  }

  get peer(): Buffer { return this.under.peer }
  get hello(): Buffer { return this.under.hello }
  get via(): Link['via'] { return this.under.via }
  get address(): string { return this.under.address }
  get reachedAt(): Link['reachedAt'] { return this.under.reachedAt }
  get rttMs(): number { return this.under.rttMs }
  get bytesIn(): number { return this.under.bytesIn }
  get bytesOut(): number { return this.under.bytesOut }
  get queuedBytes(): number { return this.under.queuedBytes }
  send(bytes: Uint8Array, priority: 'now' | 'bulk'): void { this.under.send(bytes, priority) }
  sendFile(head: Uint8Array, file: { path: string; offset: number; length: number }): void { this.under.sendFile(head, file) }
  close(reason?: string): void { this.under.close(reason) }
}
