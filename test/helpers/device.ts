/**
 * A device without disk and network: a tree, the causal engine over it, and its
 * log in memory. All devices of a test number incarnations alike, so that their
 * trees can be compared as they are.
 */
import type { Op } from '../../lib/log/ops.js'
import { INO_HIGH } from '../../lib/log/ops.js'
import { PlacedTable } from '../../lib/log/placed.js'
import { History } from '../../lib/tree/history.js'
import { Past } from '../../lib/tree/past.js'
import { CausalEngine, type Arrived } from '../../lib/order/causal/engine.js'
import type { Outcome } from '../../lib/tree/tree.js'
import { copyOf } from '../../lib/tree/merge.js'
import { ROOT_INO, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../../lib/tree/inode.js'
import { crowd } from './crowd.js'
import { random, TestTree } from './tree.js'

export interface LoggedEntry extends Arrived { applied?: boolean }

export class TestDevice {
  readonly inc: number
  readonly t = new TestTree()
  readonly engine: CausalEngine
  readonly history: History
  /** All entries that this device holds, of each incarnation, by seq - 1. */
  readonly logs = new Map<number, Arrived[]>()
  clockMs: number
  readonly #meta = new Map<string, unknown>()
  #batch: Op[] = []
  #first = 1
  #nextOp = 1
  #nextIno = 1

  constructor(inc: number, clockMs = 1000, shared = true) {
    this.inc = inc
    this.clockMs = clockMs
    this.history = new History({ db: this.t.db, chunks: this.t.chunks, nowMs: () => this.clockMs, touched: () => {}, gone: (ino) => { if (this.engine.mayReap(ino)) this.t.tree.reap(ino) } })
    this.engine = new CausalEngine({
      tree: this.t.tree,
      history: this.history,
      nowMs: () => this.clockMs,
      placed: new PlacedTable(this.t.db),
      incarnation: inc,
      incarnationId: (i) => Buffer.alloc(16, i),
      newId: () => inc * INO_HIGH + this.#nextOp,
      log: (op) => {
        this.#batch.push(op)
        this.#nextOp++
      },
      commit: () => this.commit(),
      ops: (i, seq) => this.logs.get(i)![seq - 1]!.ops,
      head: (i) => this.logs.get(i)?.length ?? 0,
      chunkNumber: this.t.chunkNumber,
      getMeta: (k) => this.#meta.get(k),
      setMeta: (k, v) => { this.#meta.set(k, v) },
      gone: (ino) => { if (this.engine.mayReap(ino)) this.t.tree.reap(ino) },
    })
    this.logs.set(inc, [])
    for (let i = 1; i < 10; i++) this.t.rows.setAuthor(i, `device ${i}`)
    if (shared) this.engine.share(1, 1)
  }

  newIno(): number { return this.inc * INO_HIGH + this.#nextIno++ }

  submit(op: Op): Outcome { return this.engine.submitNow(op) }

  commit(force = false): void {
    this.t.rows.flush()
    if (this.#batch.length === 0 && !force) return
    const log = this.logs.get(this.inc)!
    const context = this.engine.context()
    const e: Arrived = { inc: this.inc, seq: log.length + 1, clockMs: this.clockMs, first: this.#first, context, ops: this.#batch }
    log.push(e)
    this.#batch = []
    this.#first = this.#nextOp
    this.engine.closed({ seq: e.seq, clockMs: e.clockMs, first: e.first, count: e.ops.length })
  }

  /** Takes what the other has, up to `limit` entries, in an order that contexts allow. */
  pull(from: TestDevice, limit = Infinity): number {
    from.commit()
    this.commit()
    const batch: Arrived[] = []
    const have = new Map<number, number>()
    const held = (inc: number) => have.get(inc) ?? this.engine.applied(inc)
    for (let progress = true; progress && batch.length < limit;) {
      progress = false
      for (const [inc, log] of from.logs) {
        if (inc === this.inc) continue
        const e = log[held(inc)]
        if (!e || batch.length >= limit || e.context.some(([i, seq]) => i !== this.inc && held(i) < seq)) continue
        let mine = this.logs.get(inc)
        if (!mine) this.logs.set(inc, (mine = []))
        mine.push(e)
        have.set(inc, e.seq)
        batch.push(e)
        progress = true
      }
    }
    if (batch.length > 0) this.engine.receive(batch)
    return batch.length
  }

  /** As if a device `inc` of which nothing else is known had written these. */
  receiveFrom(inc: number, ops: Op[]): void {
    this.commit()
    const log = this.logs.get(inc) ?? []
    this.logs.set(inc, log)
    const last = log[log.length - 1]
    const e: Arrived = { inc, seq: log.length + 1, clockMs: this.clockMs, first: last ? last.first + last.ops.length : 1, context: [], ops }
    log.push(e)
    this.engine.receive([e])
  }

  lookup(parent: number, name: Buffer): number {
    const dir = this.t.tree.get(parent)
    return dir ? this.t.tree.lookup(dir, name) : 0
  }

  child(path: string): number {
    return path.split('/').filter(Boolean).reduce((dir, name) => this.lookup(dir, Buffer.from(name)), ROOT_INO)
  }

  /** Names under a directory, in their order by text. */
  names(dir = ROOT_INO): string[] {
    const out: string[] = []
    this.t.tree.list(this.t.tree.get(dir)!, 0, (name) => {
      out.push(name.toString())
      return true
    })
    return out.sort()
  }

  // --- ops as a program would have them ---

  /** What was, as it can be told. */
  past(): Past {
    const past = new Past({ tree: this.t.tree, history: this.history, engine: this.engine, nowMs: () => this.clockMs, commit: () => this.commit() })
    past.sync()
    return past
  }

  #time() { return timeOf(this.clockMs) }

  make(name: string, mode = S_IFREG | 0o644, parent = ROOT_INO): number {
    const ino = this.newIno()
    const outcome = this.submit({ type: 'create', parent, name: Buffer.from(name), ino, mode, uid: 0, gid: 0, rdev: 0, time: this.#time(), ...((mode & S_IFMT) === S_IFLNK ? { target: Buffer.from('x') } : {}) })
    if (outcome !== '') throw new Error(`create ${name}: ${outcome}`)
    return ino
  }

  mkdir(name: string, parent = ROOT_INO): number { return this.make(name, S_IFDIR | 0o755, parent) }

  /** Replaces the content by something that `fill` (a byte) stands for. */
  write(ino: number, fill: number, at = 0, length = 100, cut: number = Infinity): Outcome {
    const inode = this.t.tree.get(ino)!
    const h = Buffer.alloc(32, fill & 255)
    h.writeUInt32LE(fill, 1)
    return this.submit({
      type: 'content', ino: inode.ino, base: inode.version, cut, size: Math.max(cut === Infinity ? inode.size : Math.min(cut, inode.size), at + length), chunks: [{ id: Buffer.alloc(32, (fill & 255) ^ 255), h, len: 4096 }],
      pieces: [{ off: at, len: length, chunk: 0, coff: 0 }], mtime: this.#time(), ctime: this.#time(),
      ...(inode.nlink === 0 && !this.t.rows.conflicts.has(ino) ? { unnamed: true } : {}),
    })
  }

  unlink(name: string, parent = ROOT_INO): Outcome {
    const ino = this.lookup(parent, Buffer.from(name))
    const inode = this.t.tree.get(ino)
    return this.submit({ type: 'unlink', parent, name: Buffer.from(name), ino, dir: inode?.isDir ?? false, time: this.#time() })
  }

  rename(from: string, to: string, parent = ROOT_INO, newParent = parent): Outcome {
    return this.submit({
      type: 'rename', parent, name: Buffer.from(from), ino: this.lookup(parent, Buffer.from(from)), newParent, newName: Buffer.from(to),
      over: this.lookup(newParent, Buffer.from(to)), exchange: false, time: this.#time(),
    })
  }

  /** First bytes of the chunk hashes under the file's extents, by offset. */
  content(ino: number): [off: number, len: number, fill: number][] {
    this.t.rows.flush()
    return (this.t.db.sql.prepare('SELECT e.off,e.len,c.h FROM extent e JOIN chunk c ON c.num=e.chunk WHERE e.ino=? ORDER BY e.off').raw(true).all(this.t.rows.resolve(ino)) as [number, number, Buffer][])
      .map(([off, len, h]) => [off, len, h[0]!])
  }

  /** All that devices with the same entries must agree upon. */
  dump(): string {
    this.commit()
    return this.t.shown()
  }

  close(): void { this.t.close() }
}

function timeOf(ms: number): { sec: number; nsec: number } { return { sec: Math.floor(ms / 1000), nsec: ms % 1000 * 1_000_000 } }

/** Draws what programs on `d` might do, by a seed. */
export class Programs {
  readonly #rand: () => number
  #fill = 100

  /** `distinct`: no two writes are alike, so that it can be seen whether one was lost. */
  constructor(seed: number, readonly distinct = false, readonly crowded = false) {
    this.#rand = random(seed)
  }

  below(n: number): number { return Math.floor(this.#rand() * n) }
  pick<T>(list: readonly T[]): T { return list[this.below(list.length)]! }

  step(d: TestDevice): void {
    const { t } = d
    t.rows.flush()
    const all = t.db.sql.prepare('SELECT ino, mode & 0xf000 AS type FROM inode WHERE nlink > 0 ORDER BY ino').all() as { ino: number; type: number }[]
    const dirs = all.filter((i) => i.type === S_IFDIR).map((i) => i.ino)
    const files = all.filter((i) => i.type === S_IFREG).map((i) => i.ino)
    if (this.crowded && this.below(10) < 7) {
      crowd(this, {
        tree: t.tree, known: all, now: () => timeOf(d.clockMs), newIno: () => d.newIno(), submit: (op) => d.submit(op),
        write: (ino, isCommon) => { d.write(ino, this.distinct ? this.#fill++ : isCommon ? 1 : this.below(12), isCommon ? 0 : this.below(400), isCommon ? 100 : 1 + this.below(200)) },
      })
      d.clockMs += this.below(50)
      return
    }
    const parent = this.pick(dirs)
    const name = this.pick(['a', 'b', 'c', 'd.txt'])
    const there = d.lookup(parent, Buffer.from(name))
    const time = timeOf(d.clockMs)
    const kind = this.#rand()
    if (kind < 0.25) {
      if (there === 0) d.make(name, this.pick([S_IFREG | 0o644, S_IFREG | 0o600, S_IFDIR | 0o755, S_IFDIR | 0o755, S_IFLNK | 0o777]), parent)
    } else if (kind < 0.4) {
      const names = d.names(parent)
      if (names.length > 0) d.unlink(this.pick(names), parent)
    } else if (kind < 0.6) {
      const names = d.names(parent)
      if (names.length > 0) {
        const from = this.pick(names)
        const newParent = this.pick(dirs)
        if (this.#rand() < 0.15 && there !== 0) {
          d.submit({ type: 'rename', parent, name: Buffer.from(from), ino: d.lookup(parent, Buffer.from(from)), newParent: parent, newName: Buffer.from(name), over: there, exchange: true, time })
        } else d.rename(from, name, parent, newParent)
      }
    } else if (kind < 0.65) {
      if (files.length > 0 && there === 0) d.submit({ type: 'link', ino: this.pick(files), parent, name: Buffer.from(name), time })
    } else if (kind < 0.72) {
      d.submit({ type: 'setattr', ino: this.pick(all).ino, mode: this.below(0o1000), ctime: time, ...(this.#rand() < 0.3 ? { mtime: time } : {}) })
    } else if (kind < 0.78) {
      d.submit({ type: 'xattr', ino: this.pick(all).ino, name: Buffer.from(this.pick(['user.a', 'user.b'])), value: this.#rand() < 0.3 ? null : Buffer.from(String(this.below(9))), ctime: time })
    } else if (files.length > 0) {
      const ino = this.pick(files)
      const cut = this.#rand() < 0.2 ? this.below(300) : Infinity
      d.write(ino, this.distinct ? this.#fill++ : this.below(12), this.below(400), 1 + this.below(200), cut)
    }
    d.clockMs += this.below(50)
  }
}

export { copyOf }
