/**
 * Entries on their way into the log of a device that cannot read them: all that
 * needs no key is checked (drive, device, signature, chain, hash of the sealed
 * ops), then they are kept, and the chunks that they name are known from there on.
 *
 * An entry is kept only after all that it has seen: what is here can be applied
 * by whoever gets it from here, though nobody else should come back.
 *
 * Invariant: an entry and the rows of the chunks that its header names are in
 * one transaction.
 */
import type { Timers } from './clock.js'
import { isDfsError } from './errors.js'
import type { Name, Stored, Verdict } from './inbox.js'
import { entryHash, hashOf, headerOf, type EntryHeader } from './log/entry.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import type { Members } from './log/members.js'
import { ELSEWHERE, type ChunkTable } from './store/chunks.js'

/** What an entry has seen comes within this, or the entry is asked for again. */
const WAIT_MS = 5000

export interface SealedInboxParts {
  driveId: Buffer
  log: Log
  journal: Journal
  members: Members
  chunks: ChunkTable
  timers: Timers
  /** Nothing more is taken of this log (a local index), so that nobody can be made to wait for it. */
  isForked(inc: number): boolean
  /** Counter of the first op after entry `seq` of a log, where a snapshot ends there. */
  nextOpAfter(inc: number, seq: number): number | undefined
  /** Throws ENOSPC. */
  take(bytes: number): void
}

/** Where a log ends here. */
interface Tip { seq: number; hash: Buffer; nextOp: number | undefined }

export class SealedInbox {
  readonly #p: SealedInboxParts
  /** By local index, with the entry after which it comes. */
  readonly #nextOps = new Map<number, { seq: number; op: number }>()
  readonly #waiting = new Set<() => void>()
  /** Of the swarm's host; nothing is ever applied here. */
  onApplied: () => void = () => {}
  /** Told of the chunks that entries of a device name which were kept just now. */
  onNamed: (device: Buffer, ids: Buffer[]) => void = () => {}
  /** Told of the bytes of each entry that was kept. */
  onKept: (bytes: number) => void = () => {}

  constructor(parts: SealedInboxParts) {
    this.#p = parts
  }

  /** Entries from, from + 1, ... of a log. */
  async deliver(name: Name, from: number, entries: Stored[]): Promise<Verdict> {
    const { log, journal, members } = this.#p
    if (journal.stopped || members.get(name.device)?.role !== 'full') return { accepted: from - 1, then: 'later' }
    const known = log.find(name.incarnation)
    if (known >= 0 && !log.deviceOf(known).equals(name.device)) return { accepted: from - 1, then: 'invalid' }
    const named: Buffer[] = []
    const tell = () => { if (named.length > 0) this.onNamed(name.device, named.splice(0)) }
    let accepted = from - 1
    let then: Verdict['then']
    for (const [i, entry] of entries.entries()) {
      let outcome = this.#take(name, from + i, entry, named)
      while (outcome === 'waits') {
        tell()
        outcome = await this.#moved() ? this.#take(name, from + i, entry, named) : 'later'
      }
      if (outcome !== 'good') {
        then = outcome
        break
      }
      accepted = from + i
    }
    tell()
    return { accepted, ...(then ? { then } : {}) }
  }

  /** Entries came by another way, or are not needed any more. */
  kick(): void {
    for (const wake of [...this.#waiting]) wake()
  }

  /** False: not within reason. */
  #moved(): Promise<boolean> {
    return new Promise((resolve) => {
      const end = (isMoved: boolean) => {
        this.#waiting.delete(wake)
        stop()
        resolve(isMoved)
      }
      const wake = () => end(true)
      const stop = this.#p.timers.after(WAIT_MS, () => end(false))
      this.#waiting.add(wake)
    })
  }

  /** 'waits': for what it has seen; 'later': no room on the disk, or a gap. */
  #take(name: Name, seq: number, entry: Stored, named: Buffer[]): 'good' | 'waits' | 'invalid' | 'forked' | 'later' {
    const { log, journal } = this.#p
    if (journal.stopped) return 'later'
    const known = log.find(name.incarnation)
    const tip = this.#tip(known)
    if (seq <= tip.seq) {
      const hash = known >= 0 ? log.hashAt(known, seq) : undefined
      return hash && !hash.equals(entryHash(entry.signed)) ? 'forked' : 'good'
    }
    if (seq > tip.seq + 1) return 'later'
    const header = this.#verify(name, tip, entry)
    if (!header) return 'invalid'
    // Two entries of one seq: theirs, or that before it.
    if (!header.previous.equals(tip.hash)) return 'forked'
    if (!this.#isReady(header)) return 'waits'
    return this.#keep(name, header, entry, named) ? 'good' : 'later'
  }

  #isReady(header: EntryHeader): boolean {
    const { log } = this.#p
    return header.context.every(([index, seq]) => {
      const inc = log.find(header.incarnations[index]!)
      return inc >= 0 && (log.head(inc).seq >= seq || this.#p.isForked(inc))
    })
  }

  /** False: no room on the disk. */
  #keep(name: Name, header: EntryHeader, { signed, sealed }: Stored, named: Buffer[]): boolean {
    const { log, journal, chunks } = this.#p
    try {
      this.#p.take(signed.length + sealed.length + header.chunks.length * 128)
    } catch (e) {
      if (isDfsError(e, 'ENOSPC')) return false
      throw e
    }
    journal.check()
    const inc = log.index(name.incarnation, name.device)
    log.keep(inc, header.seq, signed, sealed)
    for (const id of header.chunks) {
      const known = chunks.findById(id)
      if (known > 0) {
        // Nobody needed it, as was said a moment ago.
        if (chunks.mark(known, false)) named.push(id)
        continue
      }
      // Without the key neither the hash of the content nor its length is known: the id stands in, and 0.
      chunks.ref(chunks.add({ id, h: id, len: 0, seg: ELSEWHERE, off: 0 }), 1)
      named.push(id)
    }
    journal.touched()
    this.#nextOps.set(inc, { seq: header.seq, op: header.firstOp + header.opCount })
    this.onKept(signed.length + sealed.length)
    this.kick()
    return true
  }

  /** All that whoever gets it from here will check without reading it: they would take this device for the liar. */
  #verify(name: Name, tip: Tip, { signed, sealed }: Stored): EntryHeader | undefined {
    const header = headerOf(signed)
    if (!header || !this.#p.log.isSignedBy(signed, name.device) || !hashOf(sealed).equals(header.opsHash)) return undefined
    const isOurs = header.drive.equals(this.#p.driveId) && header.incarnation.equals(name.incarnation) && header.seq === tip.seq + 1
    const isWhole = header.incarnations[0]?.equals(header.incarnation) && header.context.every(([index]) => header.incarnations[index] !== undefined)
    const follows = tip.nextOp === undefined || header.firstOp === tip.nextOp
    return isOurs && isWhole && follows ? header : undefined
  }

  #tip(inc: number): Tip {
    const { log } = this.#p
    const head = inc < 0 ? undefined : log.head(inc)
    if (!head || head.seq === 0) return { seq: 0, hash: Buffer.alloc(32), nextOp: 1 }
    let next = this.#nextOps.get(inc)
    if (next?.seq !== head.seq) {
      const [last] = log.stored(inc, head.seq, 1)
      const header = last && headerOf(last.signed)
      const op = header ? header.firstOp + header.opCount : this.#p.nextOpAfter(inc, head.seq)
      if (op !== undefined) this.#nextOps.set(inc, (next = { seq: head.seq, op }))
    }
    return { seq: head.seq, hash: head.hash, nextOp: next?.seq === head.seq ? next.op : undefined }
  }
}
