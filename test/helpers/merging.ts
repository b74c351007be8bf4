/**
 * Several devices with programs on them, that hear of each other in any order,
 * all drawn from a seed; and what must hold when all have heard everything.
 */
import { INO_HIGH, type ContentOp, type Op } from '../../lib/log/ops.js'
import { PlacedTable, type PlacedEntry } from '../../lib/log/placed.js'
import { compare, Timeline } from '../../lib/order/causal/timeline.js'
import { COPY_INO } from '../../lib/tree/merge.js'
import { decodeUndo, undo } from '../../lib/tree/undo.js'
import { Programs, TestDevice } from './device.js'
import { TestTree } from './tree.js'

export interface Course {
  devices: number
  steps: number
  /** Entries become final on the way. */
  settles: boolean
  /** No two writes are alike, and none may be lost. */
  distinct: boolean
  /** Programs get in each other's way more than they would. */
  crowded?: boolean
}

/** What a seed stands for where nothing else is said. */
export function courseOf(seed: number): Course {
  const p = new Programs(seed)
  return { devices: 2 + p.below(3), steps: 1 + p.below(150), settles: p.below(2) === 0, distinct: p.below(2) === 0 }
}

/** Until nobody has anything that another lacks. */
export function exchangeAll(devices: TestDevice[]): void {
  for (let progress = true; progress;) {
    progress = false
    for (const a of devices) for (const b of devices) if (a !== b && a.pull(b) > 0) progress = true
  }
}

/** Throws with what differs, or is not sound. */
export function compareAll(devices: TestDevice[]): void {
  const [first, ...others] = devices
  const dump = first!.dump().split('\n')
  for (const o of others) {
    const theirs = o.dump().split('\n')
    for (let i = 0; i < Math.max(dump.length, theirs.length); i++) {
      if (dump[i] !== theirs[i]) throw new Error(`device ${first!.inc} and ${o.inc} differ\n${dump[i]}\n${theirs[i]}`)
    }
  }
  for (const d of devices) {
    const findings = d.t.findings()
    if (findings.length) throw new Error(`device ${d.inc}: ${findings.join('; ')}`)
  }
}

/** Throws with the seed's trouble. */
export function runCourse(seed: number, c: Course): void {
  const p = new Programs(seed, c.distinct, c.crowded)
  const devices = Array.from({ length: c.devices }, (_, i) => new TestDevice(i + 1, 1000 + p.below(5000)))
  // Some apply in place what they can: the same comes of it.
  for (const d of devices) d.engine.appliesInPlace = d.inc % 2 === 1
  try {
    for (let i = 0; i < c.steps; i++) {
      const d = p.pick(devices)
      p.step(d)
      if (p.below(4) === 0) d.commit()
      if (p.below(6) === 0) d.pull(p.pick(devices.filter((o) => o !== d)), 1 + p.below(3))
      if (c.crowded && i % 60 === 59) {
        // A restart: records are those of the tables.
        d.commit()
        d.engine.reload()
      }
      if (c.settles && p.below(20) === 0) {
        d.commit(true)
        d.engine.settle(devices.map((o) => [o.inc]))
      }
    }
    exchangeAll(devices)
    compareAll(devices)
    if (c.distinct) checkWrites(devices[0]!)
    if (!c.settles) {
      for (const d of devices) takeAllBack(d)
      return
    }
    // Everybody says what they have; then all of it is final.
    for (let round = 0; round < 2; round++) {
      for (const d of devices) d.commit(true)
      exchangeAll(devices)
    }
    for (const d of devices) {
      d.engine.settle(devices.map((o) => [o.inc]))
      d.t.rows.flush()
      if (d.engine.timeline.tail.length > devices.length * 2) throw new Error(`${d.engine.timeline.tail.length} entries are not final`)
    }
    compareAll(devices)
  } catch (e) {
    throw new Error(`seed ${seed}, ${JSON.stringify(c)}: ${e instanceof Error ? e.message : String(e)}`, { cause: e })
  } finally {
    for (const d of devices) d.close()
  }
}

/** All records, the last first, give back the tree as it began, to the last reference. Nothing goes on after this. */
function takeAllBack(d: TestDevice): void {
  const placed = new PlacedTable(d.t.db)
  for (const e of [...d.engine.timeline.tail].reverse()) for (const record of decodeUndo(placed.undo(e)).reverse()) undo(d.t.rows, record)
  const began = new TestTree()
  try {
    const [is, was] = [d.t.dump(true), began.dump(true)]
    if (is !== was) throw new Error(`device ${d.inc}: taken back, the tree is not as it began\n${is}\n${was}`)
  } finally {
    began.close()
  }
}

interface Done { id: number; op: Op; sees(id: number): boolean }

/**
 * What was written is there, under some name, unless an op took it away from
 * where its device saw it: wrote over it, in the version that it was written
 * upon, or took the name of a file that held it in the version last seen.
 */
function checkWrites(d: TestDevice): void {
  const done = history(d)
  const there = new Set((d.t.db.sql.prepare('SELECT DISTINCT hex(c.h) AS h FROM extent e JOIN chunk c ON c.num = e.chunk JOIN inode i ON i.ino = e.ino WHERE i.nlink > 0').all() as { h: string }[]).map((r) => r.h))
  const versions = new Versions(done)
  for (const w of done) {
    const { op } = w
    if (op.type !== 'content' || op.unnamed || there.has(op.chunks[0]!.h.toString('hex').toUpperCase())) continue
    if (!done.some((x) => x !== w && x.sees(w.id) && versions.takesAway(x, w.id))) {
      throw new Error(`the write ${JSON.stringify({ ...op, chunks: [], fill: op.chunks[0]!.h.readUInt32LE(1), id: w.id })} is lost\n${done.map((x) => JSON.stringify({ id: x.id, ...x.op, chunks: [], name: 'name' in x.op ? x.op.name.toString() : '', saw: x.sees(w.id) })).join('\n')}`)
    }
  }
}

/** The content of files at each version, which is the same in whatever order: who wrote each byte. */
class Versions {
  readonly #done: Done[]
  readonly #writes = new Map<number, ContentOp>()
  readonly #bytes = new Map<number, number[]>()

  /** `done`: in order. */
  constructor(done: Done[]) {
    this.#done = done
    for (const { id, op } of done) if (op.type === 'content') this.#writes.set(id, op)
  }

  #at(version: number): number[] {
    const op = this.#writes.get(version)
    if (!op) return []
    let bytes = this.#bytes.get(version)
    if (bytes) return bytes
    bytes = this.#at(op.base).slice(0, op.cut === Infinity ? undefined : op.cut)
    for (const p of op.pieces) for (let i = p.off; i < p.off + p.len; i++) bytes[i] = version
    bytes.length = op.size
    this.#bytes.set(version, bytes)
    return bytes
  }

  /** Whether `x` did that to what the op `w` wrote. */
  takesAway(x: Done, w: number): boolean {
    const { op } = x
    if (op.type === 'content') return this.#at(op.base).includes(w) && !this.#at(x.id).includes(w)
    const ino = op.type === 'unlink' ? op.ino : op.type === 'rename' && !op.exchange ? op.over : 0
    if (ino === 0) return false
    const last = this.#done.findLast((o) => o.op.type === 'content' && o.op.ino === ino && x.sees(o.id))
    return this.#at(last ? last.id : ino - COPY_INO).includes(w)
  }
}

/** All ops that `d` holds, in their order, and what each had seen. */
function history(d: TestDevice): Done[] {
  const entries: { place: PlacedEntry; done: Done[] }[] = []
  const timeline = new Timeline(1)
  const contexts = new Map<number, Map<number, number>>()
  for (let progress = true; progress;) {
    progress = false
    for (const [inc, log] of d.logs) {
      const before = contexts.get(inc) ?? new Map<number, number>()
      const e = log[before.get(inc) ?? 0]
      if (!e || e.context.some(([of, seq]) => of !== inc && (contexts.get(of)?.get(of) ?? 0) < seq)) continue
      progress = true
      const seen = new Map([...before, ...e.context])
      const place = { key: timeline.keyOf(e.clockMs, seen), id: Buffer.alloc(16, inc), inc, seq: e.seq, first: e.first, count: e.ops.length }
      timeline.insert(place)
      contexts.set(inc, new Map(seen).set(inc, e.seq))
      const view = timeline.view(inc, seen)
      entries.push({ place, done: e.ops.map((op, i) => {
        const own = e.first + i
        return { id: inc * INO_HIGH + own, op, sees: (id) => (Math.floor(id / INO_HIGH) === inc ? id % INO_HIGH < own : view.sees(id)) }
      }) })
    }
  }
  return entries.sort((a, b) => compare(a.place, b.place)).flatMap((e) => e.done)
}
