/**
 * Causal order: every device applies its own ops at once, and merges those of
 * others where they belong.
 *
 * While a drive has a single device, its own order is the order and nothing is
 * ever revised. From `share` on each applied entry is kept with its undo records
 * until it is final. Entries of others are applied in one synchronous slice:
 * what comes after the earliest of them is undone, everything is applied in
 * order, own entries anew; the tree is exact before and after.
 *
 * Invariants: the tree is base, then `timeline.tail` in order, then the ops of
 * the open batch; an entry is applied only when all of its context is.
 */
import type { AsideOp, ContentOp, Op } from '../../log/ops.js'
import { INO_HIGH } from '../../log/ops.js'
import type { PlacedEntry, PlacedTable } from '../../log/placed.js'
import { decodeVector, encodeVector, type Vector } from '../../log/vector.js'
import { ChangeSet } from '../../tree/changes.js'
import { NEVER_LINKED } from '../../tree/inode.js'
import type { Outcome, Tree } from '../../tree/tree.js'
import { decodeUndo, encodeUndo, undo, UndoRecorder, type Stamp, type UndoRecord } from '../../tree/undo.js'
import type { ChunkRef } from '../../log/ops.js'
import type { History } from '../../tree/history.js'
import type { OrderEngine } from '../engine.js'
import { Footprints, inodesOf } from './footprints.js'
import { compare, Timeline } from './timeline.js'

/** Of so many ops of the tail's entries everything is kept in memory, about a kilobyte each: what is taken back is mostly what was applied last. */
const MAX_HELD_OPS = 16_384

/** What the tables have of an entry of the tail. */
interface Held { ops: Op[]; records: UndoRecord[]; context: Vector }

/** What the causal engine needs of this device. All of it happens within the open transaction. */
export interface CausalHost {
  readonly tree: Tree
  readonly placed: PlacedTable
  /** Local index of this device's incarnation. */
  readonly incarnation: number
  incarnationId(inc: number): Buffer
  /** A fresh id for an op of our own. */
  newId(): number
  /** Puts an op of our own into the batch for the log. */
  log(op: Op): void
  /** Ends the open batch: its entry is in the log (`closed` was called), and it is committed. */
  commit(): void
  /** The ops of an entry that is in the log. */
  ops(inc: number, seq: number): Op[]
  /** Seq of the last entry of an incarnation that is in the log. */
  head(inc: number): number
  chunkNumber(ref: ChunkRef): number
  getMeta(key: string): unknown
  setMeta(key: string, value: number): void
  /** An inode whose removal can not be taken back any more. */
  gone(ino: number): void
  /** Keeps what final ops have taken away, if it is to be kept. */
  readonly history?: History
  nowMs?(): number
  /** An entry with ops on devices was applied; within its transaction, once. */
  aside?(inc: number, seq: number, ops: AsideOp[]): void
}

/** An entry of another device: verified, in the log, and all of its context applied or before it in the same batch. */
export interface Arrived {
  inc: number
  seq: number
  clockMs: number
  first: number
  /** What it had seen, as a difference to the entry before. */
  context: [inc: number, seq: number][]
  ops: Op[]
}

/** Entry of our own that was closed just now. */
export interface Closed { seq: number; clockMs: number; first: number; count: number }

export class CausalEngine implements OrderEngine {
  readonly name = 'causal'
  readonly #host: CausalHost
  readonly timeline: Timeline
  #shared: boolean
  /** Records of the open batch's ops. */
  #batch: UndoRecord[] = []
  /** And the ops. */
  #batchOps: Op[] = []
  #batchFirst = 0
  readonly #footprints: Footprints
  readonly #held = new Map<PlacedEntry, Held>()
  #heldOps = 0
  /** Records that differ from what the tables have, until the end of `receive`. */
  readonly #mended = new Map<PlacedEntry, UndoRecord[]>()
  /** Whether entries that have nothing to do with those after them are applied without taking these back. Tests compare. */
  appliesInPlace = true
  /** Ops that were taken back and applied anew so far. */
  redone = 0
  /** Of the entry that is being applied. */
  #under: { first: number; inc: number; records: UndoRecord[] } | null = null
  /** Set while nothing may be written, since part of our own log is on its way back: what programs want meanwhile. */
  #waiting: { op: Op; done: (outcome: Outcome) => void }[] | null = null
  /** Entries of others with ops since our last; those of an earlier session since the beginning of this one. */
  #owed = 0
  #owedSinceMs = 0
  /** Rises when the tail has changed other than at its end. */
  revision = 0
  /** Last entry applied of each incarnation. */
  readonly #applied: Vector = new Map()
  /** What the last entry of each incarnation had seen. */
  readonly #seen = new Map<number, Vector>()

  constructor(host: CausalHost) {
    this.#host = host
    this.#shared = host.getMeta('shared') === 1
    this.timeline = new Timeline((host.getMeta('base_key') as number | undefined) ?? 0)
    host.tree.shared = this.#shared
    this.#footprints = new Footprints({ resolve: (ino) => host.tree.rows.resolve(ino), keyOf: (dir, name) => host.tree.keyOf(dir, name), movesDirectory: (op) => this.#movesDirectory(op) })
    if (this.#shared) this.reload()
    host.tree.merge.history = (op) => this.#recordOf(op)
    host.tree.merge.written = (op) => this.#writtenBy(op)
  }

  /** Whether others take part: then ops that are applied may yet be taken back. */
  get revises(): boolean { return this.#shared }

  /** Reads the order from the tables: at open, and after a snapshot was taken in. */
  reload(): void {
    const { placed } = this.#host
    this.#shared = true
    this.#host.tree.shared = true
    this.timeline.baseKey = (this.#host.getMeta('base_key') as number | undefined) ?? 0
    for (const s of placed.allSeen()) {
      this.timeline.setFinalOps(s.inc, s.finalOp)
      this.#seen.set(s.inc, decodeVector(s.context))
      this.#applied.set(s.inc, this.#host.head(s.inc))
    }
    this.timeline.fill(placed.all())
    this.#owed = this.#unstated()
    this.#held.clear()
    this.#heldOps = 0
    this.#footprints.reset(this.timeline.tail[this.timeline.tail.length - 1] ?? null)
  }

  /**
   * Others take part from now on. What there is so far is the base of the order:
   * whoever joins begins with it. `nextOp`: counter of the next op of our own.
   */
  share(nowMs: number, nextOp: number): void {
    if (this.#shared) return
    const { incarnation } = this.#host
    this.#shared = true
    this.#host.tree.shared = true
    this.timeline.baseKey = Math.max(1, Math.floor(nowMs))
    this.#host.setMeta('shared', 1)
    this.#host.setMeta('base_key', this.timeline.baseKey)
    this.timeline.setFinalOps(incarnation, nextOp)
    this.#applied.set(incarnation, this.#host.head(incarnation))
    this.#seen.set(incarnation, new Map())
    this.#host.placed.setSeen(incarnation, nextOp, encodeVector(new Map()))
  }

  /** Takes back what is in the open batch; what is submitted from here on waits for `goOn`. */
  hold(): void {
    this.#waiting = []
    for (let i = this.#batch.length - 1; i >= 0; i--) undo(this.#host.tree.rows, this.#batch[i]!)
    this.#batch = []
    this.#batchOps = []
  }

  /** Ends `hold`; `submit` is called for each op in the order in which they came. */
  goOn(submit: (op: Op) => Outcome): void {
    const waiting = this.#waiting ?? []
    this.#waiting = null
    for (const { op, done } of waiting) done(submit(op))
  }

  /** This device begins a log of its own upon what it has taken in; nothing of it is known to others. */
  begin(inc: number): void {
    this.timeline.setFinalOps(inc, 1)
    this.#applied.set(inc, 0)
    this.#seen.set(inc, new Map())
    this.#host.placed.setSeen(inc, 1, encodeVector(new Map()))
  }

  /** What is submitted waits. */
  get isHeld(): boolean { return this.#waiting !== null }

  /** So many ops do. */
  get waiting(): number { return this.#waiting?.length ?? 0 }

  /** At once, unless held: then when that is over. */
  submit(op: Op): Outcome | Promise<Outcome> {
    if (this.#waiting) return new Promise((done) => this.#waiting!.push({ op, done }))
    return this.submitNow(op)
  }

  submitNow(op: Op): Outcome {
    const id = this.#host.newId()
    if (!this.#shared) {
      const outcome = this.#alone(op, id, () => this.#host.tree.apply(op, id, this.#chunk))
      if (outcome === '') this.#host.log(op)
      return outcome
    }
    const recorder = new UndoRecorder()
    const outcome = this.#record(recorder, () => this.#host.tree.apply(op, id, this.#chunk))
    if (outcome === '') this.#keep(op, id, recorder.images)
    else if (recorder.images.length > 0) throw new Error(`invariant: a refused ${op.type} has changed rows`)
    return outcome
  }

  /**
   * Something that was local so far becomes known: `apply` makes it so in the
   * tree, and `ops`, for the log, says the same to others.
   */
  introduce(apply: (id: number) => Outcome, ops: () => Iterable<Op>): Outcome {
    if (this.#waiting) return 'EBUSY'
    const recorder = new UndoRecorder()
    const id = this.#host.newId()
    const records = this.#shared || this.#isKept()
    const outcome = records ? this.#record(recorder, () => apply(id)) : apply(id)
    if (outcome !== '') return outcome
    let { images } = recorder
    for (const op of [...ops()]) {
      if (!this.#shared && records) this.#host.history!.note(op, this.#host.newId(), images, this.#nowMs())
      this.#keep(op, this.#host.newId(), images)
      images = []
    }
    return ''
  }

  /** An op that nothing will take back: what it takes away is kept for a while, if that is wanted. */
  #alone(op: Op, id: number, apply: () => Outcome): Outcome {
    if (!this.#isKept()) return apply()
    const recorder = new UndoRecorder()
    const outcome = this.#record(recorder, apply)
    if (outcome === '') this.#host.history!.note(op, id, recorder.images, this.#nowMs())
    return outcome
  }

  #isKept(): boolean { return this.#host.history?.isOn() ?? false }
  #nowMs(): number { return this.#host.nowMs?.() ?? 0 }

  /** Content for a file without a name, on a drive with one device: in the tree, and not in the log. */
  local(op: ContentOp, id: number): Outcome {
    const apply = () => this.#host.tree.apply(op, id, this.#chunk)
    const inode = this.#host.tree.get(op.ino)
    return this.#shared || !inode || inode.flags & NEVER_LINKED ? apply() : this.#alone(op, id, apply)
  }

  /** An op of our own that is in the log's batch again after a crash. */
  redo(op: Op, id: number): Outcome {
    const recorder = new UndoRecorder()
    const apply = () => this.#host.tree.apply(op, id, this.#chunk)
    const outcome = this.#shared ? this.#record(recorder, apply) : this.#alone(op, id, apply)
    if (outcome === '' && this.#shared) this.#remember(op, id, recorder.images)
    return outcome
  }

  #record(recorder: UndoRecorder, apply: () => Outcome): Outcome {
    const { rows } = this.#host.tree
    rows.recorder = recorder
    try { return apply() } finally { rows.recorder = null }
  }

  #keep(op: Op, id: number, images: UndoRecord): void {
    if (this.#shared) this.#remember(op, id, images)
    this.#host.log(op)
  }

  #remember(op: Op, id: number, images: UndoRecord): void {
    if (this.#batch.length === 0) this.#batchFirst = id % INO_HIGH
    this.#batch.push(images)
    this.#batchOps.push(op)
  }

  readonly #chunk = (ref: ChunkRef): number => this.#host.chunkNumber(ref)

  // --- own entries --------------------------------------------------------

  /** What the entry to come has seen, as a difference to our entry before. */
  context(): [inc: number, seq: number][] {
    if (!this.#shared) return []
    const { incarnation } = this.#host
    const last = this.#seen.get(incarnation)!
    const out: [number, number][] = []
    for (const [inc, seq] of this.#applied) if (inc !== incarnation && seq > (last.get(inc) ?? 0)) out.push([inc, seq])
    return out
  }

  /** The batch has become an entry; within its transaction. */
  closed(e: Closed): void {
    if (!this.#shared) return
    const { incarnation: inc, placed } = this.#host
    if (this.#batch.length !== e.count) throw new Error(`invariant: ${e.count} ops in the entry and ${this.#batch.length} undo records`)
    const context: Vector = new Map(this.#applied)
    context.set(inc, e.seq - 1)
    const entry: PlacedEntry = { key: this.timeline.keyOf(e.clockMs, context), id: this.#host.incarnationId(inc), inc, seq: e.seq, first: e.first, count: e.count }
    const bytes = encodeVector(context)
    placed.put(entry, bytes, encodeUndo(this.#batch))
    placed.setSeen(inc, this.timeline.finalOps(inc), bytes)
    this.timeline.insert(entry)
    if (this.timeline.tail[this.timeline.tail.length - 1] !== entry) throw new Error('invariant: an entry of our own is not the last')
    this.#applied.set(inc, e.seq)
    this.#seen.set(inc, context)
    this.#hold(entry, { ops: this.#batchOps, records: this.#batch, context })
    this.#tellAsides(inc, e.seq, this.#batchOps)
    this.#batch = []
    this.#batchOps = []
    this.#owed = 0
  }

  /** Entries of others with ops that our last has not seen. */
  #unstated(): number {
    const { incarnation } = this.#host
    const seen = this.#seen.get(incarnation)
    return this.timeline.tail.filter((e) => e.inc !== incarnation && e.count > 0 && (seen?.get(e.inc) ?? 0) < e.seq).length
  }

  #tellAsides(inc: number, seq: number, ops: Op[]): void {
    const asides = ops.filter((op) => op.type === 'aside')
    if (asides.length > 0) this.#host.aside?.(inc, seq, asides)
  }

  /** Remembers what an entry does, and where; its ops are those that were applied. */
  #hold(e: PlacedEntry, held: Held): void {
    const { tail } = this.timeline
    this.#footprints.note(e, held.ops, held.records, tail[tail.length - 1]!)
    this.#letGo(e)
    this.#held.set(e, held)
    this.#heldOps += e.count
    for (const [old] of this.#held) {
      if (this.#heldOps <= MAX_HELD_OPS) break
      this.#letGo(old)
    }
  }

  #letGo(e: PlacedEntry): void {
    if (this.#held.delete(e)) this.#heldOps -= e.count
  }

  #recordsOf(e: PlacedEntry): UndoRecord[] {
    return this.#held.get(e)?.records ?? this.#mended.get(e) ?? decodeUndo(this.#host.placed.undo(e))
  }

  #contextOf(e: PlacedEntry): Vector {
    return this.#held.get(e)?.context ?? decodeVector(this.#host.placed.context(e))
  }

  #opsOf(e: PlacedEntry): Op[] {
    return this.#held.get(e)?.ops ?? this.#host.ops(e.inc, e.seq)
  }

  // --- entries of others --------------------------------------------------

  /** Whether others wait to hear what we have: since `sinceMs`, or for `entries` of theirs. */
  owesStatement(entries: number, sinceMs: number): boolean {
    return this.#owed >= entries || (this.#owed > 0 && this.#owedSinceMs <= sinceMs)
  }

  /** Last entry of an incarnation that keeps its place for good. */
  finalSeq(inc: number): number {
    const e = this.timeline.first(inc)
    return e ? e.seq - 1 : this.applied(inc)
  }

  /** Whether everything that an entry with this context has seen is applied. */
  isReady(context: Iterable<[inc: number, seq: number]>): boolean {
    for (const [inc, seq] of context) if ((this.#applied.get(inc) ?? 0) < seq) return false
    return true
  }

  /** Counter of the op that the next entry of an incarnation begins with. */
  nextOp(inc: number): number {
    const e = this.timeline.find(inc, this.applied(inc))
    return e ? e.first + e.count : this.timeline.finalOps(inc)
  }

  /** Of each log, the last entry that is applied. */
  has(): Vector { return new Map(this.#applied) }

  /** Of each log, the last entry that keeps its place for good. */
  final(): Vector {
    const final: Vector = new Map()
    for (const inc of this.#applied.keys()) final.set(inc, this.finalSeq(inc))
    return final
  }

  /** What our own last entry says that is here, itself among it; empty before the first. */
  stated(): Vector {
    const { incarnation } = this.#host
    const seq = this.applied(incarnation)
    return seq > 0 ? new Map(this.#seen.get(incarnation)).set(incarnation, seq) : new Map()
  }

  /** What the last entry of an incarnation had seen. */
  seen(inc: number): ReadonlyMap<number, number> | undefined { return this.#seen.get(inc) }

  /** How long the end of the order is that is not final: from the last final entry to the last one, by their keys, milliseconds. */
  get unsettledMs(): number {
    const last = this.timeline.tail[this.timeline.tail.length - 1]
    return last ? last.key - this.timeline.baseKey : 0
  }

  /** Last entry of an incarnation that is applied. */
  applied(inc: number): number { return this.#applied.get(inc) ?? 0 }

  /**
   * Applies entries of others where they belong; in the order in which they may
   * be applied. Ends committed. Gives what has changed.
   */
  receive(batch: Arrived[], nowMs = 0): ChangeSet {
    if (!this.#shared) throw new Error('invariant: entries of others on a drive that is not shared')
    // Only our own batch: the entries themselves may be in the transaction already, and must not be committed before they are applied.
    if (this.#batch.length > 0) this.#host.commit()
    const { tree, placed } = this.#host
    const { rows } = tree
    const news = new Map<PlacedEntry, { ops: Op[]; context: Vector }>()
    for (const a of batch) {
      // Statements are not stated in turn.
      if (a.ops.length > 0 && this.#owed++ === 0) this.#owedSinceMs = nowMs
      const context: Vector = new Map(this.#seen.get(a.inc) ?? [])
      for (const [inc, seq] of a.context) context.set(inc, Math.max(seq, context.get(inc) ?? 0))
      if (a.seq > 1) context.set(a.inc, a.seq - 1)
      const entry: PlacedEntry = { key: this.timeline.keyOf(a.clockMs, context), id: this.#host.incarnationId(a.inc), inc: a.inc, seq: a.seq, first: a.first, count: a.ops.length }
      this.timeline.insert(entry)
      this.#applied.set(a.inc, a.seq)
      this.#seen.set(a.inc, context)
      placed.setSeen(a.inc, this.timeline.finalOps(a.inc), encodeVector(context))
      news.set(entry, { ops: a.ops, context })
      this.#tellAsides(a.inc, a.seq, a.ops)
    }
    const order = [...news.keys()].sort(compare)
    const { tail } = this.timeline
    let end = tail.length - 1
    while (end >= 0 && news.has(tail[end]!)) end--
    const last = tail[end]
    if (last && order[0] && compare(order[0], last) < 0) this.revision++
    const changes = new ChangeSet()
    rows.changes = changes
    try {
      let n = 0
      for (; n < order.length; n++) {
        const e = order[n]!
        const { ops, context } = news.get(e)!
        const records = last === undefined || compare(e, last) > 0 ? this.#apply(e, ops, context) : this.#applyInPlace(e, ops, context)
        if (!records) break
        this.#settleIn(e, ops, context, records)
      }
      if (n < order.length) this.#applyAnew(order.slice(n), news)
    } finally {
      rows.changes = null
      this.#under = null
    }
    for (const [e, records] of this.#mended) placed.setUndo(e, encodeUndo(records))
    this.#mended.clear()
    rows.clearLimbo()
    this.#host.commit()
    return changes
  }

  #settleIn(e: PlacedEntry, ops: Op[], context: Vector, records: UndoRecord[]): void {
    this.#host.placed.put(e, encodeVector(context), encodeUndo(records))
    this.#mended.delete(e)
    this.#hold(e, { ops, records, context })
  }

  /** Takes back what comes after the first of `news`, applies these, and the others anew. */
  #applyAnew(news: PlacedEntry[], of: ReadonlyMap<PlacedEntry, { ops: Op[]; context: Vector }>): void {
    const { tree } = this.#host
    const fresh = new Set(news)
    const from = this.timeline.after(news[0]!) - 1
    const slice = this.timeline.tail.slice(from)
    for (let i = slice.length - 1; i >= 0; i--) {
      if (fresh.has(slice[i]!)) continue
      const records = this.#recordsOf(slice[i]!)
      for (let j = records.length - 1; j >= 0; j--) undo(tree.rows, records[j]!)
    }
    for (const e of slice) {
      const arrived = fresh.has(e) ? of.get(e)! : undefined
      const ops = arrived?.ops ?? this.#opsOf(e)
      const context = arrived?.context ?? this.#contextOf(e)
      if (!arrived) this.redone += e.count
      this.#settleIn(e, ops, context, this.#apply(e, ops, context))
    }
    this.#footprints.lower(this.timeline.tail[from - 1] ?? null)
  }

  /**
   * Applies an entry where the tree is now, with later ones in it; undefined, and
   * nothing has changed: it has to do with one of them. Why it is the same:
   * footprints.ts.
   */
  #applyInPlace(e: PlacedEntry, ops: Op[], context: Vector): UndoRecord[] | undefined {
    if (!this.appliesInPlace || !this.#footprints.reaches(e)) return undefined
    const { rows } = this.#host.tree
    for (const op of ops) {
      if (!this.#footprints.mayBeApart(e, op)) return undefined
      if (rows.conflicts.size === 0) continue
      for (const ino of inodesOf(op)) {
        const stands = rows.resolve(ino)
        if (rows.conflicts.has(stands) || rows.conflictsOf(stands)) return undefined
      }
    }
    const records = this.#apply(e, ops, context, (record, op) => this.#footprints.isApart(e, op, record))
    if (records) this.#stampInOrder(e, records)
    return records
  }

  /**
   * `e` was applied where the tree is, and has set the times of directories in
   * which later entries have changed names too. They get back the times that
   * these set, and of the records each has what it would have found.
   */
  #stampInOrder(e: PlacedEntry, records: UndoRecord[]): void {
    const { rows } = this.#host.tree
    const done = new Set<number>()
    for (const record of records) {
      for (const im of record) {
        if (im.t !== 'names' || done.has(im.ino)) continue
        done.add(im.ino)
        const next = this.#nextStamp(e, im.ino)
        if (!next) continue
        const dir = rows.get(im.ino)!
        const { mtime, mtimeNs, ctime, ctimeNs } = dir
        rows.setStamp(dir, im.old)
        im.old = next.old
        next.old = { mtime, mtimeNs, ctime, ctimeNs }
      }
    }
  }

  /** Where the first entry after `e` that changed names of `dir` has kept the times from before, to be changed. */
  #nextStamp(e: PlacedEntry, dir: number): { old: Stamp } | undefined {
    for (const next of this.#footprints.nextIn(dir, e)) {
      const records = this.#recordsOf(next)
      for (const record of records) {
        for (const im of record) {
          if (im.t !== 'names' || im.ino !== dir) continue
          this.#mended.set(next, records)
          return im
        }
      }
    }
    return undefined
  }

  #apply(e: PlacedEntry, ops: Op[], context: Vector): UndoRecord[]
  /** With `accept`: undefined, and nothing has changed, once it does not take what an op did. */
  #apply(e: PlacedEntry, ops: Op[], context: Vector, accept: (record: UndoRecord, op: Op) => boolean): UndoRecord[] | undefined
  #apply(e: PlacedEntry, ops: Op[], context: Vector, accept?: (record: UndoRecord, op: Op) => boolean): UndoRecord[] | undefined {
    const view = this.timeline.view(e.inc, context)
    const { tree } = this.#host
    const records: UndoRecord[] = []
    this.#under = { first: e.first, inc: e.inc, records }
    for (let i = 0; i < ops.length; i++) {
      const recorder = new UndoRecorder()
      const op = unnumbered(ops[i]!)
      let isAccepted = accept === undefined || !this.#movesDirectory(op) || this.#footprints.mayMoveDirectory(e)
      if (isAccepted) {
        const outcome = this.#record(recorder, () => tree.apply(op, e.inc * INO_HIGH + e.first + i, this.#chunk, view))
        isAccepted = accept === undefined || accept(recorder.images, op)
        if (outcome !== '' || !isAccepted) undo(tree.rows, recorder.images.splice(0))
      }
      if (!isAccepted) {
        for (let j = records.length - 1; j >= 0; j--) undo(tree.rows, records[j]!)
        this.#under = null
        return undefined
      }
      records.push(recorder.images)
    }
    this.#under = null
    return records
  }

  #movesDirectory(op: Op): boolean {
    return op.type === 'rename' && (op.exchange || this.#host.tree.get(op.ino)?.isDir === true)
  }

  #recordOf(op: number): UndoRecord | undefined {
    const inc = Math.floor(op / INO_HIGH)
    const counter = op % INO_HIGH
    const under = this.#under
    if (under && under.inc === inc && counter >= under.first && counter < under.first + under.records.length) return under.records[counter - under.first]
    if (inc === this.#host.incarnation && this.#batch.length > 0 && counter >= this.#batchFirst) return this.#batch[counter - this.#batchFirst]
    const e = this.timeline.findOp(op)
    return e && this.#recordsOf(e)[counter - e.first]
  }

  #writtenBy(id: number): number {
    const e = this.timeline.findOp(id)
    const op = e && this.#opsOf(e)[id % INO_HIGH - e.first]
    return op?.type === 'content' ? op.ino : 0
  }

  // --- what is final ------------------------------------------------------

  /**
   * `members`: the incarnations of each device that may write. What all of them
   * have stated to have keeps its place: its undo records go. Gives the number of entries.
   */
  settle(members: number[][]): number {
    const { tail } = this.timeline
    let n = 0
    while (n < tail.length && members.every((incs) => incs.some((inc) => inc === tail[n]!.inc || (this.#seen.get(inc)?.get(tail[n]!.inc) ?? 0) >= tail[n]!.seq))) n++
    n = this.#seenByRest(n)
    if (n === 0) return 0
    this.revision++
    const { placed, tree, history } = this.#host
    const { chunks } = tree.rows
    const graves = new Set<number>()
    // Of all that is not final yet it is known what was before.
    const isKept = history?.isOn(this.timeline.baseKey) ?? false
    for (const e of tail.slice(0, n)) {
      const records = this.#recordsOf(e)
      for (const record of records) {
        for (const im of record) {
          if (im.t === 'extent' && im.old && !isKept) chunks.ref(im.old.chunk, -1)
          else if (im.t === 'orphan' || im.t === 'inode') graves.add(im.ino)
        }
      }
      if (isKept && e.count > 0) this.#opsOf(e).forEach((op, i) => history!.note(op, e.inc * INO_HIGH + e.first + i, records[i]!, e.key))
      placed.remove(e)
      this.#letGo(e)
    }
    this.#footprints.forget(new Set(tail.slice(0, n)))
    for (const e of this.timeline.settle(n)) placed.setSeen(e.inc, this.timeline.finalOps(e.inc), encodeVector(this.#seen.get(e.inc)!))
    this.#host.setMeta('base_key', this.timeline.baseKey)
    for (const ino of graves) {
      if (this.mayReap(ino)) this.#host.gone(ino)
    }
    return n
  }

  /**
   * How many of the first `n` entries all that come after them have seen. The
   * others are needed yet: an entry that is concurrent with them may be applied
   * anew, and then asks what they have changed. One without ops asks nothing.
   */
  #seenByRest(n: number): number {
    const { tail } = this.timeline
    while (n > 0) {
      let lowest = n
      for (const inc of this.timeline.incarnations()) {
        // Those that follow in its log have seen at least as much.
        const e = this.timeline.firstFrom(inc, n)
        if (!e) continue
        const context = this.#contextOf(e)
        for (const other of this.timeline.incarnations()) {
          if (other === inc) continue
          const first = this.timeline.first(other)!
          const unseen = this.timeline.find(other, Math.max(first.seq, (context.get(other) ?? 0) + 1))
          if (unseen) lowest = Math.min(lowest, this.timeline.after(unseen) - 1)
        }
      }
      if (lowest === n) break
      n = lowest
    }
    return Math.min(n, tail.length)
  }

  /** Whether the op keeps its place for good. */
  isFinal(op: number): boolean {
    return op === 0 || op % INO_HIGH < this.timeline.finalOps(Math.floor(op / INO_HIGH))
  }

  /** Of the entry at `index` of the tail: its ops, each with its id and record, and its key. Undefined: there is none. */
  unsettled(index: number): { key: number; ops: { op: Op; id: number; record: UndoRecord }[] } | undefined {
    const e = this.timeline.tail[index]
    if (!e) return undefined
    if (e.count === 0) return { key: e.key, ops: [] }
    const records = this.#recordsOf(e)
    return { key: e.key, ops: this.#opsOf(e).map((op, i) => ({ op, id: e.inc * INO_HIGH + e.first + i, record: records[i]! })) }
  }

  mayReap(ino: number): boolean {
    const { tree } = this.#host
    const grave = tree.rows.orphan(ino)
    if (!grave) return false
    const inode = tree.get(ino)
    if (!inode || inode.flags & NEVER_LINKED) return true
    if (this.#host.history?.holds(ino)) return false
    // What others never heard of.
    if (!this.#shared) return true
    return this.isFinal(grave.op) && this.isFinal(inode.version)
  }

  async close(): Promise<void> {}
}

/** A content op without the chunk numbers of this device, which may have changed since it was applied. */
function unnumbered(op: Op): Op {
  return op.type === 'content' ? { ...op, chunks: op.chunks.map(({ id, h, len }) => ({ id, h, len })) } : op
}
