/**
 * All of a drive but the bytes of files, over one index: the tree, the log, who
 * decides the order, the devices; and how this one becomes one of several.
 *
 *   alone    one device writes; its own order is the order
 *   shared   what is applied can be taken back, the log is kept for others
 *
 * Has no disk, network or clock but those it is given: a drive puts it over a
 * store, a simulator over a fake one.
 */
import sodium from 'sodium-native'
import type { Clock, Timers } from './clock.js'
import { fail } from './errors.js'
import { certify } from './keys/certificate.js'
import type { LocalChunk } from './file/flush.js'
import type { DriveKeys } from './keys/derive.js'
import type { Device } from './keys/device.js'
import { Asides, MAX_TOLD_ENDED, type DeviceView } from './log/asides.js'
import { headerIn } from './log/entry.js'
import { Forks } from './log/forks.js'
import { Journal, KEEP_LOG_BYTES } from './log/journal.js'
import { Log, type EntrySealer as LogSealer } from './log/log.js'
import { Members } from './log/members.js'
import { Newcomers } from './log/newcomers.js'
import type { ChunkRef } from './log/ops.js'
import { PlacedTable } from './log/placed.js'
import { Silence } from './log/silence.js'
import type { Vector } from './log/vector.js'
import { writeHead, type SnapshotLog } from './log/snapshot-head.js'
import { OwnLog } from './own-log.js'
import { ASIDE_AFTER_MS, ASIDE_UP_MS } from './limits.js'
import type { CausalEngine, CausalHost } from './order/causal/engine.js'
import { EntrySealer, signEntry, verifyEntry } from './seal/entry.js'
import { SNAPSHOT_ID_BYTES, SnapshotSealer } from './seal/snapshot.js'
import { FreshSnapshot, type SnapshotGift } from './snapshot.js'
import { ELSEWHERE, type ChunkTable } from './store/chunks.js'
import type { Database } from './store/database.js'
import { SnapshotSource } from './store/snapshot.js'
import { History } from './tree/history.js'
import { Rows } from './tree/rows.js'
import { Tree, type TreeSealer } from './tree/tree.js'

/** Ops in one entry of a shared drive: what another device applies in one go. */
const SHARED_ENTRY_OPS = 500
/** How often it is looked what has become final. */
const SETTLE_MS = 5000
/** A device that wrote nothing says what it has after so many entries of others, or this long after one. */
const STATE_AFTER_ENTRIES = 200
const STATE_AFTER_MS = 60_000
/** Who was heard of within this is there: connected devices are heard of every few seconds. */
const PRESENT_MS = 5000

export interface MetadataParts {
  db: Database
  keys: DriveKeys
  device: Pick<Device, 'publicKey' | 'secretKey'>
  clock: Clock
  timers: Timers
  chunks: ChunkTable
  sealer: TreeSealer
  makeEngine(host: CausalHost): CausalEngine
  /** Where sealed chunks lie. */
  store: { holds(segment: number, offset: number, length: number): boolean }
  /** The removal of an inode can not be taken back any more. */
  gone(ino: number): void
  /** When a silent device is set aside; default ASIDE_AFTER_MS, ASIDE_UP_MS. */
  aside?: { afterMs: number; upMs: number }
  /** How often it is looked what has become final, and how long a device that writes nothing keeps to itself what it has; default SETTLE_MS, STATE_AFTER_MS. */
  stating?: { settleMs: number; afterMs: number }
  /** Sealed bytes of each log that are kept when nobody needs them any more; default KEEP_LOG_BYTES. */
  keepLogBytes?: number
}

export class Metadata {
  readonly log: Log
  readonly tree: Tree
  readonly journal: Journal
  readonly engine: CausalEngine
  readonly members: Members
  readonly forks: Forks
  readonly asides: Asides
  readonly silence: Silence
  readonly newcomers: Newcomers
  readonly own: OwnLog
  readonly history: History
  readonly #p: MetadataParts
  #predatesSharing: boolean
  #isGivenUp = false
  #settling: (() => void) | null = null
  /** Something is to be fetched before what removed it is final. */
  statesLater: () => boolean = () => false

  constructor(p: MetadataParts) {
    this.#p = p
    const { db, keys, device } = p
    this.#predatesSharing = db.getMeta('predates_sharing') === 1
    const entries = new EntrySealer(keys)
    const sealer: LogSealer = {
      sealOps: (plain, aad) => entries.sealOps(plain, aad),
      openOps: (sealed, aad) => entries.openOps(sealed, aad),
      sign: (header) => signEntry(header, device.secretKey),
      verify: verifyEntry,
    }
    const rows = new Rows(db, p.chunks)
    this.forks = new Forks(db)
    this.log = new Log(db, sealer)
    this.asides = new Asides(db, this.log, { applied: (inc) => this.engine.applied(inc), seen: (inc) => this.engine.seen(inc) })
    this.asides.load()
    this.silence = new Silence(db, p.clock, p.timers)
    this.newcomers = new Newcomers({
      db, canWrite: keys.canWrite, nowMs: () => p.timers.nowMs(), welcomes: (device) => this.asides.welcomes(device), final: () => this.engine.final(), stated: () => this.engine.stated(),
    })
    this.tree = new Tree({ rows, sealer: p.sealer, incarnationId: (i) => this.log.incarnationId(i) })
    const journal = this.journal = new Journal({
      db, rows, log: this.log, sealer, clock: p.clock, timers: p.timers, drive: keys.driveId, incarnation: db.getMeta('incarnation') as number,
    })
    this.history = new History({ db, chunks: p.chunks, nowMs: () => p.clock.nowMs(), touched: () => journal.touched(), gone: p.gone })
    this.engine = p.makeEngine({
      tree: this.tree,
      history: this.history,
      nowMs: () => p.clock.nowMs(),
      placed: new PlacedTable(db),
      get incarnation() { return journal.incarnation },
      incarnationId: (i) => this.log.incarnationId(i),
      newId: () => journal.newOpId(),
      log: (op) => journal.append(op),
      commit: () => journal.commit(),
      ops: (inc, seq) => this.log.ops(inc, seq),
      head: (inc) => this.log.head(inc).seq,
      chunkNumber: (ref) => this.chunkNumber(ref),
      getMeta: (key) => db.getMeta(key),
      setMeta: (key, value) => {
        db.setMeta(key, value)
        journal.touched()
      },
      gone: p.gone,
      aside: (inc, seq, ops) => this.asides.add(inc, seq, ops),
    })
    journal.contextOf = () => this.engine.context()
    journal.onEntry = (entry) => this.engine.closed(entry)
    this.members = new Members(db, keys.driveId, () => journal.touched('derived'))
    this.members.onNew = ({ device: key, role }) => { if (role === 'full' && !key.equals(device.publicKey)) this.newcomers.meet(key) }
    this.own = new OwnLog({
      db, canWrite: keys.canWrite, device: device.publicKey, deviceName: () => this.deviceName, timers: p.timers,
      log: this.log, journal, engine: this.engine, tree: this.tree, newcomers: this.newcomers,
    })
  }

  get db(): Database { return this.#p.db }
  get clock(): Clock { return this.#p.clock }
  get deviceName(): string { return (this.#p.db.getMeta('device_name') as string | undefined) ?? '' }

  /** Whether others take part. */
  get isShared(): boolean { return this.engine.revises }

  /** Whether the device has written two histories of the log with this local index. */
  isForked(inc: number): boolean {
    return this.forks.has({ incarnation: this.log.incarnationId(inc), device: this.log.deviceOf(inc) })
  }

  /**
   * Once, when what a crash has left is put right: goes on as what the index says it is. `replaced`: the index may be older
   * than what this device has written; called when it is not any more.
   */
  start(replaced?: () => void): void {
    if (!this.engine.revises) return replaced?.()
    this.#becomeShared()
    this.own.start(replaced)
  }

  /**
   * Others take part from now on: what is applied can be taken back, chunks are
   * found by their id, the log is kept for those who lack it.
   */
  share(): void {
    const { journal } = this
    if (!this.engine.revises) {
      journal.commit()
      this.tree.rows.setAuthor(journal.incarnation, this.deviceName)
      this.#p.db.setMeta('shared_seq', this.log.head(journal.incarnation).seq)
      this.engine.share(Math.max(this.#p.clock.nowMs(), this.log.lastClockMs(journal.incarnation)), journal.nextOpCounter)
      journal.touched()
      journal.commit()
    }
    this.#becomeShared()
  }

  #becomeShared(): void {
    const { keys, device, chunks, timers } = this.#p
    chunks.indexIds()
    this.journal.maxOps = SHARED_ENTRY_OPS
    this.journal.canTruncate = false
    if (keys.canWrite && !this.members.get(device.publicKey)) {
      this.members.add(certify(keys, { device: device.publicKey, role: keys.kind, name: this.deviceName }))
    }
    this.#settling ??= timers.every(this.#p.stating?.settleMs ?? SETTLE_MS, () => this.#settle())
  }

  /** Says what we have where others wait to hear it, and drops what can not be taken back any more. */
  #settle(): void {
    const { journal, engine } = this
    if (journal.stopped) return
    try {
      if (this.silence.look()) journal.touched('derived')
      // What it says counts no more.
      if (this.isEnded || this.#isGivenUp) return
      if (this.#p.keys.canWrite && !this.own.isHeld) {
        this.#setAside()
        this.#endRefused()
      }
      if (this.#p.keys.canWrite && !this.own.isHeld && engine.owesStatement(STATE_AFTER_ENTRIES, this.#p.timers.nowMs() - (this.#p.stating?.afterMs ?? STATE_AFTER_MS)) && !this.statesLater()) journal.state()
      if (engine.settle(this.awaited()) === 0) return
      for (const inc of this.log.heads().keys()) this.log.truncate(inc, this.#p.keepLogBytes ?? KEEP_LOG_BYTES, engine.finalSeq(inc))
      journal.touched()
    } catch (e) {
      journal.stop(e as Error)
    }
  }

  // --- devices that are away ------------------------------------------------

  /** This incarnation was ended by others: what is written from here on is written anew after a snapshot. */
  get isEnded(): boolean { return this.asides.isEnded(this.journal.incarnation) }

  /**
   * A device that may write holds more of our log than we do. If we have made nothing since others take part, they took part
   * before, in a time that this index does not know of: what is final to them began with another key.
   */
  lostTail(): void {
    if (this.#p.db.getMeta('shared_seq') !== this.log.head(this.journal.incarnation).seq) return
    this.#p.db.setMeta('predates_sharing', 1)
    this.#predatesSharing = true
    this.journal.touched('derived')
  }

  /** The metadata of others is to take the place of this: it judges nobody any more. */
  giveUp(): void { this.#isGivenUp = true }

  get isGivenUp(): boolean { return this.#isGivenUp }

  /** Why this device has to take all metadata anew; undefined: it need not. */
  get mustBeginAnew(): string | undefined {
    if (this.#predatesSharing) return 'this device was put back to a time before others took part'
    if (this.asides.isEmpty) return undefined
    if (this.isEnded) return 'the others go on without what this device has written, for it was away for too long, or joined while they were out of reach'
    for (const inc of this.asides.ended()) {
      if (this.engine.applied(inc) > (this.asides.limit(inc) ?? Infinity)) return 'this device has entries of one that the others have set aside without them'
    }
    return undefined
  }

  /** As devices tell each other in the handshake. */
  get view(): DeviceView | undefined {
    const writers = this.members.writers().map((c) => c.device).sort(Buffer.compare)
    const awaited = writers.filter((device) => !this.asides.isAway(device))
    // The last ones first: it is they that may still be somebody's.
    const ended = [...this.asides.ended()].sort((a, b) => b - a).map((inc) => this.log.incarnationId(inc))
    return awaited[0] && { writers: awaited.length, first: awaited[0], ended }
  }

  /** Whether all that is known of a device was ended: it is set aside, or welcomed and has not begun anew. */
  hasEnded(device: Buffer): boolean {
    const incs = this.#incarnationsOf(device)
    return this.asides.isAway(device) || (incs.length > 0 && incs.every((inc) => this.asides.isEnded(inc)))
  }

  /** Whether others have ended a log that goes on here, and a log goes on there that was ended here: two sides. What is still on its way looks the same. */
  isApartFrom({ ended }: DeviceView): boolean {
    // Others than these may be ended there, too.
    if (ended.length >= MAX_TOLD_ENDED) return false
    const there = new Set(ended.map((id) => this.log.find(id)))
    const isTheirs = [...there].some((inc) => inc >= 0 && !this.asides.isEnded(inc) && this.log.head(inc).seq > 0)
    return isTheirs && [...this.asides.ended()].some((inc) => !there.has(inc))
  }

  /** A device was met, or an entry of it has come. */
  heard(device: Buffer): void { this.silence.hear(device) }

  #incarnationsOf(device: Buffer): number[] {
    return this.log.incarnations.flatMap((_, i) => (this.log.deviceOf(i).equals(device) ? [i] : []))
  }

  /** For whom what is final waits: the incarnations of each device that may write, and is not away. */
  awaited(): number[][] {
    const { asides, members } = this
    const devices = members.writers().filter((c) => !asides.isGone(c.device)).map((c) => c.device)
    // Of whom the certificate is still to come.
    for (const device of asides.welcomed()) if (!members.get(device)) devices.push(device)
    return devices.map((device) => this.#incarnationsOf(device).filter((inc) => !asides.isEnded(inc)))
  }

  /** Sets aside who was silent for so long that what it would hold up is as long. */
  #setAside(): void {
    const { afterMs, upMs } = this.#p.aside ?? { afterMs: ASIDE_AFTER_MS, upMs: ASIDE_UP_MS }
    const { asides, silence } = this
    const others = this.members.writers().filter((c) => !c.device.equals(this.#p.device.publicKey) && !asides.isAway(c.device))
    const now = this.#p.clock.nowMs()
    const silent = others.filter((c) => now - silence.heardMs(c.device) >= afterMs)
    if (silent.length === 0 || !silence.isSure(upMs) || this.engine.unsettledMs < afterMs) return
    for (const { device } of silent) this.#end(device, false, silent.map((c) => c.device))
    this.journal.commit()
  }

  /**
   * A person says that a device is gone, or away for long: nobody waits for it any more. If it comes it begins anew.
   * EINVAL: nobody waits for it. EBUSY: it was heard of a moment ago. EROFS.
   */
  setAside(device: Buffer): void {
    if (!this.#p.keys.canWrite || this.isEnded || this.own.isHeld) throw fail('EROFS', 'this device says nothing in the drive now')
    if (device.equals(this.#p.device.publicKey)) throw fail('EINVAL', 'this device cannot set itself aside')
    if (this.members.get(device)?.role !== 'full') throw fail('EINVAL', 'nobody waits for a device that does not write the drive')
    if (this.asides.isAway(device)) return
    if (this.#p.clock.nowMs() - this.silence.heardMs(device) < PRESENT_MS) throw fail('EBUSY', 'it was heard of a moment ago: end its dfs first, and wait for some seconds')
    this.#end(device, false, [device])
    this.journal.commit()
  }

  /** Newcomers that have not seen what was called final without them: they begin anew. */
  #endRefused(): void {
    for (const device of this.newcomers.refused()) {
      this.newcomers.forget(device)
      this.#welcome(device)
    }
  }

  /** All devices that are waited for, but for those in `but`, are asked what they have of the logs. */
  #end(device: Buffer, isBack: boolean, but: Buffer[], incs = this.#incarnationsOf(device)): void {
    const logs = incs.map((inc) => ({ id: this.log.incarnationId(inc), seq: this.engine.applied(inc) }))
    const voters = this.members.writers().map((c) => c.device).filter((d) => !this.asides.isAway(d) && !but.some((b) => b.equals(d)))
    this.engine.submitNow({ type: 'aside', device, isBack, round: this.asides.nextRound(device, isBack), logs, voters })
  }

  /**
   * A device asks for all metadata. If it has written here before it begins anew, and what it has said it has counts no
   * more. Before the snapshot is made. False: this device can not give one.
   */
  welcome(device: Buffer): boolean {
    if (this.isEnded || this.own.isHeld) return false
    if (!this.#p.keys.canWrite || this.members.get(device)?.role !== 'full') return true
    // Somebody has said so before, and it has not begun yet.
    if (!this.asides.isAwaited(device) || !this.#incarnationsOf(device).every((inc) => this.asides.isEnded(inc))) this.#welcome(device)
    return true
  }

  /** Its logs end, if it has any; its next one is waited for, and taken. */
  #welcome(device: Buffer): void {
    this.#end(device, true, [device])
    this.journal.commit()
  }

  /** This device has begun anew: its former logs end where they are known to others, also if none of these was who gave the metadata. */
  endFormer(ids: Buffer[]): void {
    const { publicKey: device } = this.#p.device
    const logs = ids.map((id) => this.log.index(id, device)).filter((inc) => inc !== this.journal.incarnation && !this.asides.isEnded(inc))
    if (logs.length > 0) this.#end(device, true, [], logs)
  }

  /** Whether a log is taken, of which nothing is here, and whose first entry had seen `context`. */
  takes(inc: number, device: Buffer, context: Vector): boolean {
    const isKnown = this.#incarnationsOf(device).some((i) => i !== inc && this.log.head(i).seq > 0 && !this.asides.isEnded(i))
    return isKnown || device.equals(this.#p.device.publicKey) || this.newcomers.isTaken(inc, device, context)
  }

  /** The number of a chunk that an op names: known, or added. */
  chunkNumber(ref: ChunkRef): number {
    const { chunks, store } = this.#p
    const local = ref as LocalChunk
    if (local.num > 0) return local.num
    // Equal content may have come in by another way meanwhile.
    const known = chunks.findByHash(ref.h)
    if (known === 0) {
      // Of another device's op: known by what it says, and to be fetched.
      local.seg ??= ELSEWHERE
      local.off ??= 0
      local.num = chunks.add(local)
    } else {
      local.num = known
      // The one we knew was lost or damaged: here are its bytes again, the same to the bit.
      if ((local.seg > 0 || local.data) && !chunks.isThere(known, store)) {
        if (local.data) chunks.moveInline(known, local.data)
        else {
          chunks.move(known, local.seg, local.off)
          chunks.onHere(known)
        }
        // Whoever applies the op again has not seen the damage.
        this.journal.touched()
      }
    }
    return local.num
  }

  /**
   * All metadata as it is now, in one consistent read, for a device that joins or (`withChunks`) keeps it; durable here
   * before it leaves. Close it. KEY_KIND on a device that may not write.
   */
  async snapshot(withChunks = false): Promise<SnapshotGift> {
    const { keys, device, db, clock } = this.#p
    if (!keys.canWrite) throw fail('KEY_KIND', 'a snapshot is made by a device that may write')
    this.share()
    this.journal.commit()
    const source = new SnapshotSource(db.reader())
    try {
      const id = Buffer.alloc(SNAPSHOT_ID_BYTES)
      sodium.randombytes_buf(id)
      const clockMs = Math.floor(clock.nowMs())
      const logs = this.#snapshotLogs()
      await this.journal.settle()
      return new FreshSnapshot({
        id, source, sealer: new SnapshotSealer(keys), withChunks,
        sign: (made) => writeHead(keys.driveId, this.members.bytesOf(device.publicKey)!, { id, clockMs, ...made, logs }, device.secretKey),
      })
    } catch (e) {
      source.close()
      throw e
    }
  }

  /** The logs as they are now. */
  #snapshotLogs(): SnapshotLog[] {
    const { log, engine } = this
    return [...new Set([...log.heads().keys(), ...this.asides.ended()])].flatMap((inc) => {
      const { seq, hash, first } = log.head(inc)
      if (seq === 0 && this.asides.limit(inc) !== 0) return []
      // What is not here any more was.
      const final = Math.max(engine.finalSeq(inc), first - 1)
      const [next] = final < seq ? log.stored(inc, final + 1, 1) : []
      const header = next && headerIn(next.signed)
      return [{
        incarnation: log.incarnationId(inc), device: log.deviceOf(inc), seq, hash,
        final, finalHash: header?.previous ?? hash, nextOp: header?.firstOp ?? engine.nextOp(inc), isEnded: this.asides.limit(inc) === seq,
      }]
    })
  }

  /** Ends what runs by itself. May be called twice. */
  stop(): void {
    this.#settling?.()
    this.#settling = null
  }
}
