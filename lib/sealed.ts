/**
 * What a device with the storage key knows of a drive, over one index:
 *
 *   log        entries as they came, each log from the first that anybody may yet
 *              need; checked by what is in the clear (sealed-inbox.ts)
 *   snapshot   of the drive, the newest that a device which may write has made and
 *              signed: who joins begins with it, and goes on with the entries
 *   chunks     those that entries and the snapshot name; a row's content hash is
 *              not known here, its length follows from the sealed bytes
 *
 * The two belong together: no entry is missing between what the snapshot has in
 * it and what is in the log. Which chunks are dead is in the tree: those who can read it are asked (releases.ts).
 *
 * Has no disk, network or clock but those it is given, as Metadata.
 */
import type { Clock, Timers } from './clock.js'
import { fail, isDfsError } from './errors.js'
import { encodeZ32 } from './keys/zbase32.js'
import { Forks } from './log/forks.js'
import { Journal, KEEP_LOG_BYTES } from './log/journal.js'
import { Log } from './log/log.js'
import { Members } from './log/members.js'
import { readHead, type SnapshotLog, type VerifiedHead } from './log/snapshot-head.js'
import { MAX_CHUNK_BYTES } from './limits.js'
import { plainLength } from './seal/chunk.js'
import { verifyEntry } from './seal/entry.js'
import { SealedInbox } from './sealed-inbox.js'
import { metaOfKept, readChunks, type SnapshotGift, type SnapshotMeta } from './snapshot.js'
import { ELSEWHERE, type ChunkTable } from './store/chunks.js'
import type { Database } from './store/database.js'
import { SealedSnapshots } from './store/sealed-snapshots.js'
import { PIECE_KINDS, type PieceKind } from './swarm/messages.js'
import { PiecesHash } from './swarm/snapshot.js'
import { unreadable } from './unreadable.js'

/** Chunks of a snapshot that become known in one turn. */
const NAMED_CHUNKS = 500
/** A newer snapshot is due when the entries since take as much as it does, and at least this: it costs no more than they did. */
const RENEW_BYTES = 1 << 20

export interface SealedParts {
  db: Database
  driveId: Buffer
  clock: Clock
  timers: Timers
  chunks: ChunkTable
  /** Throws ENOSPC. */
  take(bytes: number): void
  /** Sealed bytes of each log that are kept when nobody needs them any more; default KEEP_LOG_BYTES. */
  keepLogBytes?: number
  /** Default RENEW_BYTES. */
  renewBytes?: number
}

export class Sealed {
  readonly log: Log
  readonly journal: Journal
  readonly members: Members
  readonly forks: Forks
  readonly inbox: SealedInbox
  readonly #p: SealedParts
  readonly #snapshots: SealedSnapshots
  #head: VerifiedHead | undefined
  /** Sealed bytes of the entries behind it. */
  #sinceBytes = 0
  #coming: { meta: SnapshotMeta; bytes: number } | null = null
  #isWorking = false
  #isClosed = false

  constructor(p: SealedParts) {
    this.#p = p
    const { db, chunks } = p
    chunks.indexIds()
    this.forks = new Forks(db)
    this.#snapshots = new SealedSnapshots(db)
    const never = () => { throw unreadable() }
    const sealer = { sealOps: never, openOps: never, sign: never, verify: verifyEntry }
    const log = this.log = new Log(db, sealer)
    const journal = this.journal = new Journal({
      db, rows: { dirtyCount: 0, flush: () => chunks.flush() }, log, sealer, clock: p.clock, timers: p.timers, drive: p.driveId, incarnation: db.getMeta('incarnation') as number,
    })
    this.members = new Members(db, p.driveId, () => journal.touched('derived'))
    this.inbox = new SealedInbox({
      driveId: p.driveId, log, journal, members: this.members, chunks, timers: p.timers, take: (bytes) => p.take(bytes),
      isForked: (inc) => this.forks.has({ incarnation: log.incarnationId(inc), device: log.deviceOf(inc) }),
      nextOpAfter: (inc, seq) => {
        const at = this.#head?.logs.find((l) => l.incarnation.equals(log.incarnationId(inc)))
        return at?.final === seq ? at.nextOp : undefined
      },
    })
    this.inbox.onKept = (bytes) => { this.#sinceBytes += bytes }
    const signed = this.#snapshots.head
    if (signed) this.#head = readHead(signed, p.driveId)
    this.#sinceBytes = this.#bytesSince()
  }

  /** Once, when whoever owns this is ready: goes on with what the last session has left. */
  start(): void { this.#work() }

  // --- what is here ---------------------------------------------------------

  /** What the snapshot is that is here. */
  get head(): VerifiedHead | undefined { return this.#head }

  /** Whether it knows of every chunk of the drive, as of what it has heard. */
  get knowsAllChunks(): boolean { return this.#head !== undefined && this.#snapshots.named >= this.#head.pieces }

  /** A chunk came: what it has in it. False: no chunk has so many sealed bytes, and nobody can read it. */
  learn(num: number, sealedBytes: number): boolean {
    const { chunks } = this.#p
    if (this.journal.stopped || !chunks.get(num)) return false
    const length = plainLength(sealedBytes)
    if (length === undefined) chunks.remove(num)
    else chunks.setLength(num, length)
    this.journal.touched()
    return length !== undefined
  }

  /** As it was made, for who joins or keeps it too; durable here before it leaves. ENOENT: there is none. */
  async snapshot(): Promise<SnapshotGift> {
    const reader = this.#snapshots.reader()
    const head = this.#head
    if (!reader || !head) throw fail('ENOENT', 'no device that may write has given a snapshot yet')
    const signed = this.#snapshots.head!
    try {
      await this.journal.settle()
    } catch (e) {
      reader.close()
      throw e
    }
    let n = 0
    return {
      meta: metaOfKept(signed), totalBytes: head.totalBytes,
      next: () => {
        if (n === head.pieces) return undefined
        const piece = reader.piece(n++)
        const kind = piece && PIECE_KINDS[piece.kind]
        if (!kind) throw fail('EIO', `piece ${n - 1} of the snapshot is missing`)
        return { kind, bytes: piece.bytes }
      },
      end: () => Buffer.alloc(0),
      close: () => reader.close(),
    }
  }

  /** Whether the pieces are still those of its head, a turn of the loop for each. */
  async isSnapshotSound(): Promise<boolean> {
    const reader = this.#snapshots.reader()
    const head = this.#head
    if (!reader || !head) return true
    const hash = new PiecesHash()
    try {
      for (let n = 0; n < head.pieces; n++) {
        const piece = reader.piece(n)
        const kind = piece && PIECE_KINDS[piece.kind]
        if (!kind) return false
        hash.add(kind, piece.bytes)
        await new Promise<void>((go) => this.#p.timers.soon(go))
      }
      return hash.digest().equals(head.hash)
    } finally {
      reader.close()
    }
  }

  /** The one that is here is of no use: another is due. */
  forgetSnapshot(): void {
    this.journal.check()
    this.#snapshots.forget()
    this.#head = undefined
    this.journal.touched()
    this.#work()
  }

  // --- one that comes: for swarm/snapshot-keeper.ts ---------------------------

  /** There is none, or much was written since. */
  get isDue(): boolean {
    return !this.journal.stopped && (!this.#head || this.#sinceBytes > Math.max(this.#p.renewBytes ?? RENEW_BYTES, this.#head.totalBytes))
  }

  /** EIO for one that is of no use here. */
  begin(meta: SnapshotMeta): void {
    if (meta.head && this.#head?.id.equals(meta.head.id)) throw fail('EIO', 'the snapshot that is here')
    if (meta.head) this.#check(meta.head)
    this.#snapshots.begin()
    this.#coming = { meta, bytes: 0 }
  }

  /** ENOSPC; EIO if there is more of it than there can be. */
  piece(kind: PieceKind, bytes: Buffer): void {
    const coming = this.#coming!
    coming.bytes += bytes.length
    if (coming.meta.head && coming.bytes > coming.meta.head.totalBytes) throw fail('EIO', 'a snapshot that is longer than it says')
    this.journal.check()
    this.#p.take(bytes.length)
    this.#snapshots.add(PIECE_KINDS.indexOf(kind), bytes)
    this.journal.touched()
  }

  /** What came is not wanted any more. */
  abandon(): void {
    this.#coming = null
    this.#snapshots.abandon()
    this.#work()
  }

  /** All of it came, with this hash; `signed`: its head, if it did not begin with that. EIO unless it is good, and of use. */
  complete(hash: Buffer, signed: Buffer): void {
    const { meta } = this.#coming!
    const head = meta.head ?? readHead(signed, this.#p.driveId)
    if (!head?.id.equals(meta.id) || !head.hash.equals(hash) || head.pieces !== this.#snapshots.coming) throw fail('EIO', 'a snapshot that no device of the drive has signed')
    this.#check(head)
    this.journal.check()
    this.#coming = null
    this.#snapshots.complete(meta.head ? meta.signed : signed)
    this.#head = head
    for (const log of head.logs) this.#goOn(log)
    // What is here beyond it, the device that made it lacks, or may not take: no reason for another one.
    this.#sinceBytes = 0
    this.journal.touched()
    this.inbox.kick()
    this.#work()
  }

  /** EIO unless, with the entries that are here, nothing is lost by taking it. */
  #check(head: VerifiedHead): void {
    const { log } = this
    const had = new Map(this.#head?.logs.map((l) => [l.incarnation.toString('latin1'), l.seq]))
    for (const l of head.logs) {
      const inc = log.find(l.incarnation)
      if (inc < 0) continue
      if (!log.deviceOf(inc).equals(l.device)) throw fail('EIO', 'a snapshot that gives the log of one device to another')
      const here = log.head(inc)
      const hash = here.seq === l.seq ? here.hash : log.hashAt(inc, l.seq)
      if (hash && here.seq > 0 && !hash.equals(l.hash)) throw fail('EIO', `a snapshot of another history of ${encodeZ32(l.device).slice(0, 8)}`)
    }
    // Of a log that was ended nobody needs more.
    const has = new Map(head.logs.map((l) => [l.incarnation.toString('latin1'), l.isEnded ? Infinity : l.seq]))
    for (const [name, seq] of had) if ((has.get(name) ?? 0) < seq) throw fail('EIO', 'a snapshot that is older than the one that is here')
    for (const inc of log.heads().keys()) {
      const { first } = log.head(inc)
      if (first > (has.get(log.incarnationId(inc).toString('latin1')) ?? 0) + 1) throw fail('EIO', 'a snapshot that is older than the entries that are here')
    }
  }

  /** Of a log that the snapshot has: nobody needs the entries up to `final`. */
  #goOn({ incarnation, device, seq, final, finalHash }: SnapshotLog): void {
    const { log } = this
    const inc = log.index(incarnation, device)
    if (log.head(inc).seq < final) log.skip(inc, final, finalHash)
    else log.truncate(inc, this.#p.keepLogBytes ?? KEEP_LOG_BYTES, Math.min(final, seq))
  }

  #bytesSince(): number {
    let bytes = 0
    for (const inc of this.log.heads().keys()) {
      const id = this.log.incarnationId(inc)
      bytes += this.log.bytesAfter(inc, this.#head?.logs.find((l) => l.incarnation.equals(id))?.seq ?? 0)
    }
    return bytes
  }

  // --- afterwards -------------------------------------------------------------

  /** In slices: the chunks of the snapshot become known, what it has replaced is dropped. */
  #work(): void {
    if (this.#isWorking) return
    this.#isWorking = true
    const slices = this.#slices()
    const slice = () => {
      if (this.#isClosed || this.journal.stopped) return
      try {
        this.journal.check()
        this.#isWorking = !slices.next().done
      } catch (e) {
        if (!isDfsError(e, 'ENOSPC')) return this.journal.stop(e as Error)
        // Until the next session, or snapshot.
        this.#isWorking = false
      }
      if (this.#isWorking) this.#p.timers.soon(slice)
    }
    this.#p.timers.soon(slice)
  }

  *#slices(): Generator<void> {
    for (;;) {
      if (this.#head && !this.knowsAllChunks) yield* this.#nameChunks(this.#head)
      else if (!this.#snapshots.sweep()) return
      this.journal.touched('derived')
      yield
    }
  }

  *#nameChunks(head: VerifiedHead): Generator<void> {
    const piece = this.#snapshots.nextOf(PIECE_KINDS.indexOf('chunks'), this.#snapshots.named)
    const list = piece ? chunksIn(piece.bytes) : []
    for (let at = 0; at < list.length && this.#head === head; at += NAMED_CHUNKS) {
      this.#name(head.by.device, list.slice(at, at + NAMED_CHUNKS))
      yield
    }
    if (this.#head !== head) return
    this.#snapshots.named = piece ? piece.n + 1 : head.pieces
  }

  #name(device: Buffer, list: { id: Buffer; len: number }[]): void {
    const { chunks } = this.#p
    const fresh = list.filter(({ id, len }) => len >= 1 && len <= MAX_CHUNK_BYTES && chunks.findById(id) === 0)
    if (fresh.length === 0) return
    this.#p.take(fresh.length * 128)
    for (const { id, len } of fresh) if (chunks.findById(id) === 0) chunks.ref(chunks.add({ id, h: id, len, seg: ELSEWHERE, off: 0 }), 1)
    this.journal.touched()
    this.inbox.onNamed(device, fresh.map((c) => c.id))
  }

  /** Before the journal is closed. May be called twice. */
  close(): void { this.#isClosed = true }
}

/** What a member has written there that is none names nothing. */
function chunksIn(piece: Buffer): { id: Buffer; len: number }[] {
  try {
    return readChunks(piece)
  } catch (e) {
    if (isDfsError(e)) return []
    throw e
  }
}
