/**
 * Several devices with programs on them, that hear of each other in any order,
 * all drawn from a seed; and what must hold when all have heard everything.
 */
import { INO_HIGH, type ContentOp, type Op } from '../../lib/log/ops.js'
import { PlacedTable } from '../../lib/log/placed.js'
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
 * What was written is there, under some name, unless something that saw it wrote
 * over it or took it away.
 */
function checkWrites(d: TestDevice): void {
  const done = history(d)
  const there = new Set((d.t.db.sql.prepare('SELECT DISTINCT hex(c.h) AS h FROM extent e JOIN chunk c ON c.num = e.chunk JOIN inode i ON i.ino = e.ino WHERE i.nlink > 0').all() as { h: string }[]).map((r) => r.h))
  for (const w of done) {
    const { op } = w
    if (op.type !== 'content' || op.unnamed || there.has(op.chunks[0]!.h.toString('hex').toUpperCase())) continue
    if (!done.some((x) => x !== w && x.sees(w.id) && replaces(x.op, op))) {
      throw new Error(`the write ${JSON.stringify({ ...op, chunks: [], fill: op.chunks[0]!.h.readUInt32LE(1), id: w.id })} is lost\n${done.map((x) => JSON.stringify({ id: x.id, ...x.op, chunks: [], name: 'name' in x.op ? x.op.name.toString() : '', saw: x.sees(w.id) })).join('\n')}`)
    }
  }
}

function replaces(x: Op, w: ContentOp): boolean {
  // What a copy is depends on the order: whatever is done to one counts.
  const isCopy = (ino: number) => ino % INO_HIGH >= 2 ** 31
  const same = (ino: number) => ino === w.ino || isCopy(ino) || isCopy(w.ino)
  const [piece] = w.pieces
  switch (x.type) {
    case 'content': return same(x.ino) && (x.cut < piece!.off + piece!.len || x.pieces.some((p) => p.off < piece!.off + piece!.len && piece!.off < p.off + p.len))
    case 'unlink': return same(x.ino)
    case 'rename': return x.over !== 0 && !x.exchange && same(x.over)
    default: return false
  }
}

/** All ops that `d` holds, and what each had seen. */
function history(d: TestDevice): Done[] {
  const out: Done[] = []
  for (const [inc, log] of d.logs) {
    const context = new Map<number, number>()
    for (const e of log) {
      for (const [i, seq] of e.context) context.set(i, seq)
      const seen = new Map(context)
      e.ops.forEach((op, i) => {
        const own = e.first + i
        out.push({
          id: inc * INO_HIGH + own, op,
          sees: (id) => {
            const of = Math.floor(id / INO_HIGH)
            if (of === inc) return id % INO_HIGH < own
            const last = d.logs.get(of)?.[(seen.get(of) ?? 0) - 1]
            return last !== undefined && id % INO_HIGH < last.first + last.ops.length
          },
        })
      })
    }
  }
  return out
}
