/**
 * Conformance of ordering engines, and the tree under them. Every engine runs the
 * same suite; ShuffleEngine stands for those that delay, refuse and reorder.
 */
import test from 'brittle'
import fc from 'fast-check'
import type { Op } from '../../lib/log/ops.js'
import type { OrderEngine, OrderHost } from '../../lib/order/engine.js'
import { Replica } from '../../lib/order/replica.js'
import type { Outcome } from '../../lib/tree/tree.js'
import { INO_HIGH } from '../../lib/tree/inode.js'
import { ShuffleEngine } from '../helpers/shuffle-engine.js'
import { OpSource, TestTree } from '../helpers/tree.js'

const engines: { name: string; revises: boolean; make(host: OrderHost, seed: number): OrderEngine }[] = [
  { name: 'shuffle', revises: ShuffleEngine.revises, make: (h, seed) => new ShuffleEngine(h, seed) },
]

for (const e of engines) {
  test(`${e.name}: the tree is what its order gives, and refused ops leave no trace`, async (t) => {
    await fc.assert(fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 120 }), async (seed, count) => {
      const a = new TestTree()
      const b = new TestTree()
      try {
        let counter = 0
        const logged: Op[] = []
        const order: { id: number; op: Op }[] = []
        const replica = new Replica({
          tree: a.tree, newId: () => INO_HIGH + ++counter, log: (op) => logged.push(op), chunkNumber: a.chunkNumber, revises: e.revises,
        })
        // What was applied and stayed, in the order in which it was.
        const host: OrderHost = {
          newId: () => replica.newId(),
          log: (op) => replica.log(op),
          final: (id) => replica.final(id),
          apply: (id, op) => {
            const o = replica.apply(id, op)
            if (o === '') order.push({ id, op })
            return o
          },
          undo: (id) => {
            replica.undo(id)
            if (order.pop()?.id !== id) throw new Error('undone out of turn')
          },
        }
        const engine = e.make(host, seed)
        const source = new OpSource(seed)
        const outcomes: (Outcome | Promise<Outcome>)[] = []
        for (let i = 0; i < count; i++) {
          outcomes.push(engine.submit(source.next((parent, name) => {
            const dir = a.tree.get(parent)
            return dir ? a.tree.lookup(dir, name) : 0
          })))
        }
        await engine.close()
        const settled = await Promise.all(outcomes)
        if (settled.filter((o) => o === '').length !== order.length) throw new Error('outcomes do not match what stayed applied')
        if (logged.length < order.length) throw new Error('an applied op is not in the log')
        for (const { id, op } of order) if (b.tree.apply(op, id, b.chunkNumber) !== '') throw new Error('the order does not replay')
        if (a.dump() !== b.dump()) throw new Error('the tree is not what its order gives')
        const findings = a.findings().filter((f) => !/references/.test(f))
        if (findings.length) throw new Error(findings[0])
      } finally {
        a.close()
        b.close()
      }
    }), { numRuns: 40 })
    t.pass()
  })
}

test('undoing everything gives back the tree from before, at every step', (t) => {
  fc.assert(fc.property(fc.integer(), (seed) => {
    const a = new TestTree()
    try {
      let counter = 0
      const replica = new Replica({ tree: a.tree, newId: () => INO_HIGH + ++counter, log: () => {}, chunkNumber: a.chunkNumber, revises: true })
      const source = new OpSource(seed)
      const dumps = [a.dump(true)]
      const ids: number[] = []
      for (let i = 0; i < 60; i++) {
        const op = source.next((parent, name) => {
          const dir = a.tree.get(parent)
          return dir ? a.tree.lookup(dir, name) : 0
        })
        const id = replica.newId()
        if (replica.apply(id, op) !== '') continue
        ids.push(id)
        dumps.push(a.dump(true))
      }
      while (ids.length) {
        if (a.dump(true) !== dumps.pop()) throw new Error(`seed ${seed}: undo of op ${ids.length} left something behind`)
        replica.undo(ids.pop()!)
      }
      if (a.dump(true) !== dumps[0]) throw new Error('the empty tree is not empty')
    } finally {
      a.close()
    }
  }), { numRuns: 40 })
  t.pass()
})
