/**
 * What was, within the retention: whatever programs do, on one device or several,
 * a state that was remembered can be had back, from the history as from what is
 * not final yet; and past the retention nothing of it is left.
 */
import test from 'brittle'
import fc from 'fast-check'
import { exchangeAll, compareAll } from '../helpers/merging.js'
import { Programs, TestDevice } from '../helpers/device.js'
import { shownNow, shownThen } from '../helpers/past.js'

/** Every write is a step. */
const FINE = { burstMs: -1, coarseBurstMs: -1, coarseAfterMs: Infinity }
const RETENTION_MS = 1e9

interface Remembered { atMs: number; shown: string }

function device(inc: number, shared: boolean, grain = FINE): TestDevice {
  const d = new TestDevice(inc, 1_000_000, shared)
  d.history.retentionMs = () => RETENTION_MS
  d.history.grain = grain
  return d
}

/** The state now is that of the end of this millisecond. */
function remember(d: TestDevice, to: Remembered[]): void {
  to.push({ atMs: d.clockMs, shown: shownNow(d) })
  d.clockMs += 1
}

function check(d: TestDevice, states: Remembered[], what: string): void {
  const past = d.past()
  for (const { atMs, shown } of states) {
    const then = shownThen(d, past, atMs)
    if (then !== shown) throw new Error(`${what}: at ${atMs} of ${d.clockMs}\n${shown}\n--- is told as\n${then}`)
  }
  sound(d)
}

function sound(d: TestDevice): void {
  const findings = d.t.findings()
  if (findings.length > 0) throw new Error(findings.join('; '))
}

/** Nothing of it is left, and the references are those of the tree. */
function forgotten(d: TestDevice): void {
  d.clockMs += RETENTION_MS + 1
  while (d.history.sweep(() => false)) { /* it goes on */ }
  d.t.rows.flush()
  const left = d.t.db.sql.prepare('SELECT (SELECT count(*) FROM history) + (SELECT count(*) FROM history_extent) AS n').get() as { n: number }
  if (left.n !== 0) throw new Error(`${left.n} rows of the history are left`)
  if (d.engine.timeline.tail.every((e) => e.count === 0)) {
    const orphans = d.t.rows.orphans()
    if (orphans.length > 0) throw new Error(`inodes ${orphans.join(', ')} are not reaped`)
    const wrong = d.t.db.sql.prepare('SELECT c.num FROM chunk c WHERE c.refs != (SELECT count(*) FROM extent e WHERE e.chunk = c.num)').all()
    if (wrong.length > 0) throw new Error(`references: ${JSON.stringify(wrong)}`)
  }
  sound(d)
}

const steps = fc.integer({ min: 1, max: 120 })

test('a state of a drive with one device can be had back', (t) => {
  fc.assert(fc.property(fc.integer(), steps, (seed, n) => {
    const p = new Programs(seed)
    const d = device(1, false)
    const states: Remembered[] = []
    try {
      // From the first op on.
      d.history.isOn()
      for (let i = 0; i < n; i++) {
        p.step(d)
        if (p.below(5) === 0) remember(d, states)
      }
      check(d, states, 'alone')
      forgotten(d)
    } finally { d.close() }
  }), { numRuns: 30 })
  t.pass()
})

test('the same on a drive of several, while it is not final, in part, and when it is', (t) => {
  fc.assert(fc.property(fc.integer(), steps, (seed, n) => {
    const p = new Programs(seed)
    const [a, b] = [device(1, true), device(2, true)]
    const states: Remembered[] = []
    const settle = () => {
      for (let round = 0; round < 2; round++) {
        for (const d of [a, b]) d.commit(true)
        exchangeAll([a, b])
      }
      for (const d of [a, b]) d.engine.settle([[1], [2]])
    }
    try {
      a.history.isOn()
      b.history.isOn()
      for (let i = 0; i < n; i++) {
        p.step(a)
        if (p.below(6) === 0) a.commit()
        if (p.below(5) === 0) remember(a, states)
        b.clockMs = a.clockMs
        if (p.below(30) === 0) {
          settle()
          check(a, states, 'on the way')
        }
      }
      check(a, states, 'before it is final')
      settle()
      check(a, states, 'final, where it was written')
      check(b, states, 'final, elsewhere')
      for (const d of [a, b]) forgotten(d)
    } finally { for (const d of [a, b]) d.close() }
  }), { numRuns: 20 })
  t.pass()
})

test('devices that write at once keep the same, and tell the same of it before and after it is final', (t) => {
  fc.assert(fc.property(fc.integer(), steps, fc.boolean(), fc.boolean(), (seed, n, crowded, coarse) => {
    const p = new Programs(seed, false, crowded)
    const devices = [1, 2, 3].map((inc) => device(inc, true, coarse ? { burstMs: 40, coarseBurstMs: -1, coarseAfterMs: Infinity } : FINE))
    for (const d of devices) {
      d.engine.appliesInPlace = d.inc % 2 === 1
      d.history.isOn()
    }
    const [first] = devices as [TestDevice]
    const all = devices.map((d) => [d.inc])
    try {
      for (let i = 0; i < n; i++) {
        const d = p.pick(devices)
        p.step(d)
        if (p.below(4) === 0) d.commit()
        if (p.below(6) === 0) d.pull(p.pick(devices.filter((o) => o !== d)), 1 + p.below(3))
        if (p.below(20) === 0) {
          d.commit(true)
          d.engine.settle(all)
        }
      }
      exchangeAll(devices)
      const end = Math.max(...devices.map((d) => d.clockMs))
      for (const d of devices) d.clockMs = end
      const times = Array.from({ length: 8 }, () => 1_000_000 + p.below(end - 1_000_000 + 1))
      const told = coarse ? [] : times.map((at) => shownThen(first, first.past(), at))
      for (let round = 0; round < 2; round++) {
        for (const d of devices) d.commit(true)
        exchangeAll(devices)
      }
      for (const d of devices) d.engine.settle(all)
      compareAll(devices)
      const rows = devices.map((d) => rowsOf(d))
      for (const r of rows) if (r !== rows[0]) throw new Error(`what is kept differs\n${rows[0]}\n---\n${r}`)
      for (const d of devices) {
        told.forEach((shown, i) => {
          const then = shownThen(d, d.past(), times[i]!)
          if (then !== shown) throw new Error(`device ${d.inc}, ${times[i]}: before it was final\n${shown}\n--- and after\n${then}`)
        })
        forgotten(d)
      }
    } catch (e) {
      throw new Error(`seed ${seed}: ${e instanceof Error ? e.message : String(e)}`, { cause: e })
    } finally { for (const d of devices) d.close() }
  }), { numRuns: 30 })
  t.pass()
})

/** All that is kept, by what means the same everywhere. */
function rowsOf(d: TestDevice): string {
  d.t.rows.flush()
  const all = (text: string) => d.t.db.sql.prepare(text).raw(true).all() as unknown[][]
  return JSON.stringify([
    all("SELECT n,ino,what,how,op,t,after,version,size,mtime,mtime_ns,hex(key),was,gone FROM history ORDER BY n"),
    all('SELECT h.n,h.off,h.len,hex(c.h),h.coff FROM history_extent h LEFT JOIN chunk c ON c.num=h.chunk ORDER BY h.n,h.off'),
  ])
}

test('writes in a row are one step, at once or when they are old, and what was before them can be had back', (t) => {
  fc.assert(fc.property(fc.integer(), steps, fc.boolean(), (seed, n, later) => {
    const p = new Programs(seed)
    const d = device(1, false, later ? { burstMs: -1, coarseBurstMs: 200, coarseAfterMs: 10_000 } : { burstMs: 200, coarseBurstMs: -1, coarseAfterMs: Infinity })
    const states: Remembered[] = []
    try {
      d.history.isOn()
      for (let i = 0; i < n; i++) {
        p.step(d)
        if (p.below(12) !== 0) continue
        remember(d, states)
        // A pause: no burst goes on after it.
        d.clockMs += 201
      }
      const before = countRows(d)
      if (later) {
        d.clockMs += 10_001
        while (d.history.sweep(() => false)) { /* it goes on */ }
        if (countRows(d) > before) throw new Error('there are more rows than before')
      }
      check(d, states, later ? 'coarser' : 'in bursts')
      forgotten(d)
    } finally { d.close() }
  }), { numRuns: 30 })
  t.pass()
})

function countRows(d: TestDevice): number {
  return (d.t.db.sql.prepare('SELECT count(*) AS n FROM history').get() as { n: number }).n
}
