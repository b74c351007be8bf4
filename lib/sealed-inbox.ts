/**
 * Entries on their way into the log of a device that cannot read them: all that
 * needs no key is checked (drive, device, signature, chain, hash of the sealed
 * ops), then they are kept, and the chunks that they name are known from there on.
 *
 * An entry is kept whatever it has seen of others: what it means is for those
 * who read it.
 *
 * Invariant: an entry and the rows of the chunks that its header names are in
 * one transaction.
 */
import { isDfsError } from './errors.js'
import type { Name, Stored, Verdict } from './inbox.js'
import { decodeHeader, entryHash, hashOf, type EntryHeader } from './log/entry.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import type { Members } from './log/members.js'
import { SIGNATURE_BYTES } from './seal/entry.js'
import { ELSEWHERE, type ChunkTable } from './store/chunks.js'

export interface SealedInboxParts {
  driveId: Buffer
  log: Log
  journal: Journal
  members: Members
  chunks: ChunkTable
  /** Throws ENOSPC. */
  take(bytes: number): void
}

/** Where a log ends here; without hash and op: nothing is known of the entry before. */
interface Tip { seq: number; hash?: Buffer; nextOp?: number }

export class SealedInbox {
  readonly #p: SealedInboxParts
  /** Logs whose next entry is this one, the ones before being lost: by incarnation. */
  readonly #begins = new Map<string, number>()
  /** By local index. */
  readonly #nextOps = new Map<number, number>()
  /** Of the swarm's host; nothing is ever applied here. */
  onApplied: () => void = () => {}
  /** Told of the chunks that entries of a log name which were kept just now. */
  onNamed: (inc: number, ids: Buffer[]) => void = () => {}

  constructor(parts: SealedInboxParts) {
    this.#p = parts
  }

  /** Nobody has entries before `first` any more: the log goes on there. */
  begin(name: Name, first: number): void {
    this.#begins.set(name.incarnation.toString('latin1'), first)
  }

  /** Entries from, from + 1, ... of a log. */
  async deliver(name: Name, from: number, entries: Stored[]): Promise<Verdict> {
    const { log, journal, members } = this.#p
    if (journal.stopped || members.get(name.device)?.role !== 'full') return { accepted: from - 1, then: 'later' }
    const known = log.find(name.incarnation)
    if (known >= 0 && !log.deviceOf(known).equals(name.device)) return { accepted: from - 1, then: 'invalid' }
    const tip = this.#tip(name, known)
    const named: Buffer[] = []
    let accepted = from - 1
    let then: Verdict['then']
    for (const [i, entry] of entries.entries()) {
      const seq = from + i
      if (seq <= tip.seq) {
        const hash = known >= 0 ? log.hashAt(known, seq) : undefined
        if (hash && !hash.equals(entryHash(entry.signed))) then = 'forked'
      } else then = seq > tip.seq + 1 ? 'later' : this.#keep(name, tip, entry, named)
      if (then) break
      accepted = seq
    }
    if (named.length > 0) this.onNamed(log.find(name.incarnation), named)
    return { accepted, ...(then ? { then } : {}) }
  }

  /** 'later': no room on the disk. */
  #keep(name: Name, tip: Tip, { signed, sealed }: Stored, named: Buffer[]): Verdict['then'] {
    const { log, journal, chunks } = this.#p
    const header = this.#verify(name, tip, signed, sealed)
    if (!header) return 'invalid'
    // Two entries of one seq: theirs, or that before it.
    if (tip.hash && !header.previous.equals(tip.hash)) return 'forked'
    try {
      this.#p.take(signed.length + sealed.length + header.chunks.length * 128)
    } catch (e) {
      if (isDfsError(e, 'ENOSPC')) return 'later'
      throw e
    }
    journal.check()
    const inc = log.index(name.incarnation, name.device)
    if (!tip.hash) log.begin(inc, header.seq, header.previous)
    log.keep(inc, header.seq, signed, sealed)
    for (const id of header.chunks) {
      if (chunks.findById(id) > 0) continue
      // Without the key neither the hash of the content nor its length is known: the id stands in, and 0.
      chunks.ref(chunks.add({ id, h: id, len: 0, seg: ELSEWHERE, off: 0 }), 1)
      named.push(id)
    }
    journal.touched()
    tip.seq = header.seq
    tip.hash = entryHash(signed)
    tip.nextOp = header.firstOp + header.opCount
    this.#nextOps.set(inc, tip.nextOp)
    this.#begins.delete(name.incarnation.toString('latin1'))
    return undefined
  }

  /** All that whoever gets it from here will check without reading it: they would take this device for the liar. */
  #verify(name: Name, tip: Tip, signed: Buffer, sealed: Buffer): EntryHeader | undefined {
    const header = headerOf(signed)
    if (!header || !this.#p.log.isSignedBy(signed, name.device) || !hashOf(sealed).equals(header.opsHash)) return undefined
    const isOurs = header.drive.equals(this.#p.driveId) && header.incarnation.equals(name.incarnation) && header.seq === tip.seq + 1
    const isWhole = header.incarnations[0]?.equals(header.incarnation) && header.context.every(([index]) => header.incarnations[index] !== undefined)
    const follows = tip.nextOp === undefined || header.firstOp === tip.nextOp
    return isOurs && isWhole && follows ? header : undefined
  }

  #tip(name: Name, inc: number): Tip {
    const { log } = this.#p
    const head = inc < 0 ? undefined : log.head(inc)
    const first = this.#begins.get(name.incarnation.toString('latin1'))
    if (first !== undefined && first > (head?.seq ?? 0) + 1) return { seq: first - 1 }
    if (!head || head.seq === 0) return { seq: 0, hash: Buffer.alloc(32), nextOp: 1 }
    let nextOp = this.#nextOps.get(inc)
    if (nextOp === undefined) {
      const [last] = log.stored(inc, head.seq, 1)
      const header = last && headerOf(last.signed)
      if (header) this.#nextOps.set(inc, (nextOp = header.firstOp + header.opCount))
    }
    return { seq: head.seq, hash: head.hash, ...(nextOp !== undefined && { nextOp }) }
  }
}

function headerOf(signed: Buffer): EntryHeader | undefined {
  if (signed.length <= SIGNATURE_BYTES) return undefined
  try {
    return decodeHeader(signed.subarray(0, signed.length - SIGNATURE_BYTES))
  } catch (e) {
    if (isDfsError(e)) return undefined
    throw e
  }
}
