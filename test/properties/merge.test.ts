/**
 * Merging: whatever several devices do, in whatever order they hear of each
 * other, all that hold the same entries have the same tree, and it is sound.
 */
import test from 'brittle'
import fc from 'fast-check'
import { Programs, TestDevice } from '../helpers/device.js'

function settle(devices: TestDevice[]): void {
  for (let progress = true; progress;) {
    progress = false
    for (const a of devices) for (const b of devices) if (a !== b && a.pull(b) > 0) progress = true
  }
}

function compareAll(devices: TestDevice[], seed: number): void {
  const [first, ...others] = devices
  const dump = first!.dump().split('\n')
  for (const o of others) {
    const theirs = o.dump().split('\n')
    dump.forEach((line, i) => {
      if (line !== theirs[i]) throw new Error(`seed ${seed}: device ${first!.inc} and ${o.inc} differ\n${line}\n${theirs[i]}`)
    })
  }
  for (const d of devices) {
    const findings = d.t.findings()
    if (findings.length) throw new Error(`seed ${seed}, device ${d.inc}: ${findings.join('; ')}`)
  }
}

export function run(seed: number, count: number, steps: number, settles: boolean): void {
  const p = new Programs(seed)
  const devices = Array.from({ length: count }, (_, i) => new TestDevice(i + 1, 1000 + p.below(5000)))
  try {
    for (let i = 0; i < steps; i++) {
      const d = p.pick(devices)
      p.step(d)
      if (p.below(4) === 0) d.commit()
      if (p.below(6) === 0) d.pull(p.pick(devices.filter((o) => o !== d)), 1 + p.below(3))
      if (settles && p.below(20) === 0) {
        d.commit(true)
        d.engine.settle(devices.map((o) => [o.inc]))
      }
    }
    settle(devices)
    compareAll(devices, seed)
    // Everybody says what they have; then all of it is final.
    if (settles) {
      for (const d of devices) d.commit(true)
      settle(devices)
      for (const d of devices) d.commit(true)
      settle(devices)
      for (const d of devices) d.engine.settle(devices.map((o) => [o.inc]))
      for (const d of devices) d.t.rows.flush()
      for (const d of devices) if (d.engine.timeline.tail.length > devices.length * 2) throw new Error(`seed ${seed}: ${d.engine.timeline.tail.length} entries are not final`)
      const live = devices.map((d) => d.t.findings())
      for (const f of live) if (f.length) throw new Error(`seed ${seed}: ${f[0]}`)
    }
  } finally {
    for (const d of devices) d.close()
  }
}

test('devices that hold the same entries have the same tree', (t) => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 2, max: 4 }), fc.integer({ min: 1, max: 80 }), (seed, count, steps) => run(seed, count, steps, false)), { numRuns: 60 })
  t.pass()
})

test('the same with entries that become final on the way', (t) => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 2, max: 4 }), fc.integer({ min: 1, max: 150 }), (seed, count, steps) => run(seed, count, steps, true)), { numRuns: 40 })
  t.pass()
})
