/**
 * What one device knows of one log while it fills the gaps: what was handed to
 * the host, what has come but cannot be handed over yet, what was asked for, and
 * who holds what. Part of LogSync.
 *
 * Invariants: durable <= delivered unless entries are being checked again;
 * `got` is sorted and disjoint, and lies behind `delivered`.
 */
import { MAX_ENTRIES, MAX_ENTRIES_BYTES, entryBytes, type LogName, type Peer, type SignedEntry } from './messages.js'

/** A run of entries that one peer sent. */
export interface Got { from: number; to: number; peer: Peer; entries: SignedEntry[]; bytes: number }

/** What a peer says that it holds. */
export interface Claim {
  first: number
  seq: number
  hash: Buffer
  /** It said that it has no such entries after all: not asked before then, unless it says something new. */
  refusedUntilMs: number
  /** An entry that needs a request of its own, with room for so many bytes. */
  large: { seq: number; bytes: number } | undefined
  /** The host was told that it needs a snapshot from here, or that our own log is ahead there. */
  isReported: boolean
  /** The entry `seq` was compared, or asked for because it differs. */
  isCompared: boolean
}

/** Before any of a log has come; afterwards its own average counts. */
const FIRST_GUESS_BYTES = 1024

export class LogGaps {
  readonly name: LogName
  readonly key: string
  /** Last entry that is durable here. */
  durable: number
  /** Last entry that was handed to the host. */
  delivered: number
  /**
   * A fork is known: nothing is added behind this entry, the last that the two histories have in common. Up to there all
   * take it as before: what others wrote upon it must find its place everywhere.
   */
  commonSeq = Infinity
  /** The entry that others have taken at the end of it, where the proof names it. */
  commonHash: Buffer | undefined
  /** The log was ended by others: nothing behind this entry is taken. */
  endSeq = Infinity
  /** The host has this batch. */
  checking: Got | undefined
  /** The host cannot judge the next entries yet (no certificate): tried again then. */
  retryAtMs = 0
  readonly claims = new Map<Peer, Claim>()
  readonly asked: { from: number; to: number }[] = []
  got: Got[] = []
  /** Accepted, not durable: oldest first. */
  readonly undurable: { seq: number; bytes: number }[] = []
  averageBytes = FIRST_GUESS_BYTES

  constructor(name: LogName, key: string, durable: number) {
    this.name = name
    this.key = key
    this.durable = durable
    this.delivered = durable
  }

  get isForked(): boolean { return this.commonSeq !== Infinity }

  /** Of what somebody holds, as far as it is taken. */
  taken(claim: Claim): number { return Math.min(claim.seq, this.commonSeq, this.endSeq) }

  /** Somebody holds more of it, which would be taken. */
  get isBehind(): boolean {
    for (const claim of this.claims.values()) if (this.taken(claim) > this.delivered) return true
    return false
  }

  get isIdle(): boolean {
    return this.durable === 0 && this.delivered === 0 && this.claims.size === 0 && this.asked.length === 0 && this.got.length === 0 && !this.checking && !this.isForked
  }

  /** Entry `seq` came, or was asked for. */
  isUnderWay(seq: number): boolean {
    return this.asked.some((run) => run.from <= seq && seq <= run.to) || this.got.some((run) => run.from <= seq && seq <= run.to)
  }

  /** Entries that fit a request of so many bytes, as far as one can tell. */
  guessCount(bytes: number): number {
    return Math.min(MAX_ENTRIES, Math.max(1, Math.floor(bytes / this.averageBytes)))
  }

  /** The first run between lo and hi that neither came nor was asked for. */
  missing(lo: number, hi: number): { from: number; to: number } | undefined {
    let from = Math.max(lo, this.delivered + 1)
    const taken = [...this.asked, ...this.got].sort((a, b) => a.from - b.from)
    for (const run of taken) {
      if (run.to < from) continue
      if (run.from > from) return from <= hi ? { from, to: Math.min(hi, run.from - 1) } : undefined
      from = run.to + 1
    }
    return from <= hi ? { from, to: hi } : undefined
  }

  /** Keeps of a run what is new. Gives the bytes that are now kept for it. */
  insert(peer: Peer, from: number, entries: SignedEntry[]): number {
    const to = from + entries.length - 1
    const bytes = entries.reduce((n, e) => n + entryBytes(e), 0)
    this.averageBytes = Math.ceil(this.averageBytes * 0.75 + bytes / entries.length * 0.25)
    let kept = 0
    const fresh: Got[] = []
    let at = Math.max(from, this.delivered + 1)
    const add = (end: number) => {
      if (end < at) return
      const part = entries.slice(at - from, end - from + 1)
      const run: Got = { from: at, to: end, peer, entries: part, bytes: part.reduce((n, e) => n + entryBytes(e), 0) }
      fresh.push(run)
      kept += run.bytes
    }
    for (const run of this.got) {
      if (run.to < at) continue
      if (run.from > to) break
      add(run.from - 1)
      at = run.to + 1
    }
    add(to)
    // One after another is the usual case, and while the host is busy there can be thousands.
    const last = this.got.at(-1)
    const only = fresh.length === 1 ? fresh[0]! : undefined
    if (only && last && only.from === last.to + 1 && only.peer === last.peer && isMessage(last, only)) {
      last.entries.push(...only.entries)
      last.to = only.to
      last.bytes += only.bytes
    } else if (only && (!last || only.from > last.to)) this.got.push(only)
    else if (fresh.length > 0) this.got = [...this.got, ...fresh].sort((a, b) => a.from - b.from)
    return kept
  }

  /** What the host can have next: the run after `delivered`, with what follows from the same peer, up to a message's worth. */
  takeNext(): Got | undefined {
    const head = this.got[0]
    if (!head || head.from !== this.delivered + 1) return undefined
    let used = 1
    const batch = { ...head }
    for (let next = this.got[1]; next; next = this.got[used]) {
      if (next.from !== batch.to + 1 || next.peer !== batch.peer) break
      if (!isMessage(batch, next)) break
      batch.entries = batch.entries.concat(next.entries)
      batch.bytes += next.bytes
      batch.to = next.to
      used++
    }
    this.got = this.got.slice(used)
    return batch
  }

  /** Forgets what came from `peer`, or from anybody, behind `after`. Gives the bytes that are free again. */
  drop(peer?: Peer): number {
    let freed = 0
    this.got = this.got.filter((run) => {
      if (peer !== undefined && run.peer !== peer) return true
      freed += run.bytes
      return false
    })
    return freed
  }

  /** Forgets what lies at or before `delivered`. */
  trim(): number {
    let freed = 0
    const old = this.got
    this.got = []
    for (const run of old) {
      freed += run.bytes
      if (run.to > this.delivered) freed -= this.insert(run.peer, run.from, run.entries)
    }
    return freed
  }

  /** Gives the bytes that became durable. */
  settle(seq: number): number {
    let bytes = 0
    while (this.undurable.length > 0 && this.undurable[0]!.seq <= seq) bytes += this.undurable.shift()!.bytes
    return bytes
  }
}

/** Together they are no more than one message may hold. */
function isMessage(a: Got, b: Got): boolean {
  return a.bytes + b.bytes <= MAX_ENTRIES_BYTES && a.entries.length + b.entries.length <= MAX_ENTRIES
}
