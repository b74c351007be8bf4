/**
 * Entries of other devices on their way into the tree:
 *
 *   check     drive, device, chain, signature, ops; before anything is kept
 *   wait      until all that an entry has seen is applied
 *   flush     what programs have written to the files that it concerns: so that
 *             they are judged as concurrent, not laid over
 *   apply     in slices (the engine), in the transaction that keeps the entries
 *   tell      mounts, of exactly what changed
 *
 * An entry is in the log exactly when it is applied. What waits is kept here,
 * and is bounded by whoever delivers: he gets no verdict before.
 */
import type { Timers } from './clock.js'
import { isDfsError } from './errors.js'
import type { Files } from './file/files.js'
import type { Asides } from './log/asides.js'
import type { EntryHeader } from './log/entry.js'
import { entryHash } from './log/entry.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import type { Op } from './log/ops.js'
import type { Vector } from './log/vector.js'
import type { Arrived, CausalEngine } from './order/causal/engine.js'
import type { Posix } from './posix.js'
import type { ChangeSet } from './tree/changes.js'
import type { Tree } from './tree/tree.js'

/** Applied in one go, the mount waiting meanwhile: as many ops as take about so long, but at least one entry. */
const SLICE_MS = 8
const MIN_SLICE_OPS = 100
const MAX_SLICE_OPS = 2000
/** What becomes an op on the spot. */
const INLINE_BYTES = 128 << 10

export interface InboxParts {
  driveId: Buffer
  tree: Tree
  log: Log
  journal: Journal
  engine: CausalEngine
  files: Pick<Files, 'dirtyBytes' | 'find' | 'flush' | 'flushSmall'>
  posix: Pick<Posix, 'tellChanges'> & { copies: Pick<Posix['copies'], 'received'> }
  timers: Timers
  /** Nothing more is taken of this log (a local index), so that nobody can be made to wait for it. */
  isForked(inc: number): boolean
  /** Whether this device may write. */
  mayWrite(device: Buffer): boolean
  /** Whether a log is taken that begins with an entry which had seen `context`. */
  takes(inc: number, device: Buffer, context: Vector): boolean
  /** A log that is taken names what it had of another. */
  named(inc: number): void
  /** Logs of devices that were set aside. */
  asides: Pick<Asides, 'isEmpty' | 'cap' | 'raise' | 'isEnded'>
}

export interface Name { incarnation: Buffer; device: Buffer }
export interface Stored { signed: Buffer; sealed: Buffer }

/** 'later': not to be judged yet; 'forked': another entry of this seq is here. */
export interface Verdict { accepted: number; then?: 'invalid' | 'forked' | 'later' }

interface Waiting { arrived: Arrived; stored: Stored; name: Name }
interface Batch { entries: Waiting[]; done: (accepted: number) => void }

export class Inbox {
  readonly #p: InboxParts
  /** Batches of logs, whose first entry waits for others. */
  readonly #batches: Batch[] = []
  #working: Promise<void> | null = null
  /** Ops of the next slice. */
  #sliceOps = 500
  /** Told after each slice. */
  onApplied: (arrived: Arrived[], changes: ChangeSet) => void = () => {}

  constructor(parts: InboxParts) {
    this.#p = parts
  }

  /** Entries from, from + 1, ... of a log. Resolves when they are applied, or why not. */
  async deliver(name: Name, from: number, entries: Stored[]): Promise<Verdict> {
    const { log, journal, engine, asides } = this.#p
    if (journal.stopped || !this.#p.mayWrite(name.device)) return { accepted: from - 1, then: 'later' }
    let inc = log.find(name.incarnation)
    if (inc >= 0 && !log.deviceOf(inc).equals(name.device)) return { accepted: from - 1, then: 'invalid' }
    const good: Waiting[] = []
    let then: Verdict['then']
    const head = inc < 0 ? undefined : log.head(inc)
    let previous = head?.hash ?? Buffer.alloc(32)
    let seq = head?.seq ?? 0
    let nextOp = inc < 0 ? 1 : engine.nextOp(inc)
    for (let i = 0; i < entries.length; i++) {
      if (from + i <= seq && i === good.length) {
        const known = log.hashAt(inc, from + i)
        if (known && !known.equals(entryHash(entries[i]!.signed))) {
          then = 'forked'
          break
        }
        good.push(undefined as never)
        continue
      }
      if (from + i !== seq + 1) return { accepted: from - 1, then: 'later' }
      if (inc >= 0 && from + i > asides.cap(inc)) {
        then = 'later'
        break
      }
      let opened: { header: EntryHeader; ops: Op[]; context: [inc: number, seq: number][] }
      try {
        opened = log.openForeign(entries[i]!.signed, entries[i]!.sealed, name.device)
      } catch (e) {
        if (!isDfsError(e)) throw e
        then = isDfsError(e, 'ENOENT') ? 'later' : 'invalid'
        break
      }
      const { header, ops, context } = opened
      const isOurs = header.drive.equals(this.#p.driveId) && header.incarnation.equals(name.incarnation) && header.seq === seq + 1
      if (!isOurs || header.firstOp !== nextOp) {
        then = 'invalid'
        break
      }
      if (!header.previous.equals(previous)) {
        // Ours or theirs: two entries of one seq have the one before in common no more. Nothing is before the first.
        then = seq === 0 ? 'invalid' : 'forked'
        break
      }
      inc = log.find(header.incarnation)
      if (seq === 0 && !this.#p.takes(inc, name.device, new Map(context))) {
        then = 'later'
        break
      }
      for (const [i] of context) if (log.head(i).seq === 0) this.#p.named(i)
      this.#raise(inc, context)
      good.push({
        name, stored: entries[i]!,
        arrived: { inc, seq: header.seq, clockMs: header.clockMs, first: header.firstOp, context, ops },
      })
      previous = entryHash(entries[i]!.signed)
      seq++
      nextOp += ops.length
    }
    const fresh = good.filter((g) => g !== undefined)
    if (fresh.length > 0) {
      await new Promise<void>((done) => {
        this.#batches.push({ entries: fresh, done: () => done() })
        this.#work()
      })
    }
    return { accepted: from + good.length - 1, ...(then ? { then } : {}) }
  }

  /** Something may be ready that was not (a snapshot, entries that came by another way). */
  kick(): void { this.#work() }

  #work(): void {
    this.#working ??= this.#run()
    this.#working.catch((e: Error) => { if (!this.#p.journal.stopped) this.#p.journal.stop(e) })
  }

  async #run(): Promise<void> {
    try {
      // A turn for others who have something that belongs with it.
      await this.#turn()
      while (!this.#p.journal.stopped) {
        const slice = this.#next()
        if (slice.length === 0) return
        await this.#flush(slice)
        if (this.#p.journal.stopped) return
        this.#apply(slice)
        for (const b of [...this.#batches]) {
          if (b.entries.length > 0) continue
          this.#batches.splice(this.#batches.indexOf(b), 1)
          b.done(0)
        }
        await this.#turn()
      }
    } finally {
      // With nothing in between: what is delivered from here on begins anew.
      this.#working = null
    }
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => this.#p.timers.soon(resolve))
  }

  /** What the writer of an entry had of a log before it knew that it ends, is taken. */
  #raise(inc: number, context: [inc: number, seq: number][]): void {
    const { asides } = this.#p
    if (!asides.isEmpty && !asides.isEnded(inc)) for (const [i, s] of context) asides.raise(i, s)
  }

  /** What can be applied now, up to a slice, each after all that it has seen. */
  #next(): Waiting[] {
    const { engine } = this.#p
    const slice: Waiting[] = []
    const applied = new Map<number, number>()
    const has = (inc: number) => applied.get(inc) ?? engine.applied(inc)
    let ops = 0
    for (let progress = true; progress;) {
      progress = false
      for (const b of this.#batches) {
        for (let w = b.entries[0]; w; w = b.entries[0]) {
          const { inc, seq, context } = w.arrived
          // It was ended meanwhile.
          if (seq > this.#p.asides.cap(inc)) break
          if (has(inc) !== seq - 1) break
          const missing = context.filter(([i, s]) => has(i) < s && !this.#p.isForked(i))
          // Of a log that was ended while this waited, too.
          this.#raise(inc, missing)
          if (missing.length > 0) break
          if (slice.length > 0 && ops + w.arrived.ops.length > this.#sliceOps) return slice
          slice.push(w)
          b.entries.shift()
          applied.set(inc, seq)
          ops += w.arrived.ops.length
          progress = true
        }
      }
    }
    return slice
  }

  /** What was written here to the files that these ops concern becomes ops first. */
  async #flush(slice: Waiting[]): Promise<void> {
    const { files, tree } = this.#p
    if (files.dirtyBytes === 0) return
    const waits: Promise<unknown>[] = []
    const seen = new Set<number>()
    for (const { arrived } of slice) {
      for (const op of arrived.ops) {
        for (const ino of this.#touched(op)) {
          if (ino === 0 || seen.has(ino)) continue
          seen.add(ino)
          const file = files.find(tree.rows.resolve(ino))
          // What fails is told to whoever has the file open.
          if (file?.isDirty) waits.push(files.flush(file).catch(() => {}))
        }
      }
    }
    await Promise.all(waits)
    // What a program has written while the disk worked: without waiting, as far as that goes.
    for (const ino of waits.length > 0 ? seen : []) {
      const file = files.find(tree.rows.resolve(ino))
      if (!file?.isDirty) continue
      try { files.flushSmall(file, INLINE_BYTES)?.catch(() => {}) } catch { /* told likewise */ }
    }
  }

  /** Inodes whose content the op may change, take away, or compare with another's. */
  #touched(op: Op): number[] {
    switch (op.type) {
      case 'content': return [op.ino]
      case 'create': return [this.#at(op.parent, op.name)]
      case 'link': return [this.#at(op.parent, op.name)]
      case 'unlink': return [op.ino]
      case 'rename': return [op.ino, op.over, this.#at(op.newParent, op.newName)]
      default: return []
    }
  }

  #at(parent: number, name: Buffer): number {
    const dir = this.#p.tree.get(parent)
    return dir?.isDir ? this.#p.tree.lookup(dir, name) : 0
  }

  /** What is taken back and applied anew costs the same for few and for many: then a slice has as many of others' ops. */
  #pace(slice: Waiting[], redone: number, tookMs: number): void {
    const ops = slice.reduce((n, w) => n + w.arrived.ops.length, 0)
    const inTime = this.#sliceOps * (tookMs > SLICE_MS ? 0.7 : ops >= this.#sliceOps / 2 ? 1.2 : 1)
    this.#sliceOps = Math.min(MAX_SLICE_OPS, Math.max(MIN_SLICE_OPS, redone, inTime))
  }

  #apply(slice: Waiting[]): void {
    const { engine, log, journal } = this.#p
    // Ends our own batch first: what comes next has not seen it, and the other way round.
    journal.commit()
    for (const { arrived, stored } of slice) log.keep(arrived.inc, arrived.seq, stored.signed, stored.sealed)
    journal.touched()
    const before = engine.redone
    const started = this.#p.timers.nowMs()
    const changes = engine.receive(slice.map((w) => w.arrived), started)
    this.#pace(slice, engine.redone - before, this.#p.timers.nowMs() - started)
    this.#p.posix.copies.received(changes)
    this.#p.posix.tellChanges(changes)
    this.onApplied(slice.map((w) => w.arrived), changes)
  }
}

