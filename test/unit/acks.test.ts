/** Which devices have made durable what somebody waits for: counting, and what ends a wait. */
import test from 'brittle'
import { Acks, MAX_CHUNKS, MAX_WAIT_CHUNKS, type AckEffect } from '../../lib/swarm/acks.js'
import { keyOf } from '../../lib/swarm/messages.js'

const ids = (n: number, from = 0) => Array.from({ length: n }, (_, i) => { const b = Buffer.alloc(32); b.writeUInt32LE(from + i); return b })
const WAIT_MS = 1000

/** Peers a, b and c are members that keep everything, from the start. */
function machine() {
  const members = new Set(['a', 'b', 'c'])
  const unused = new Set<string>()
  const caches = new Set<string>()
  const acks = new Acks({ isMember: (peer) => members.has(peer), keeps: (peer) => members.has(peer) && !caches.has(peer), isNeeded: (id) => !unused.has(keyOf(id)) })
  const up = (peer: string) => {
    acks.peerUp(peer)
    return acks.changed(0, peer)
  }
  for (const peer of ['a', 'b', 'c']) up(peer)
  return { acks, members, caches, unused, up }
}

const ends = (effects: AckEffect[]) => effects.filter((e) => e.type !== 'ask')
const asked = (effects: AckEffect[]) => effects.flatMap((e) => (e.type === 'ask' ? [[e.peer, e.ids.length]] : []))

test('a wait is over when so many devices have the entry, and so many each chunk', (t) => {
  const { acks } = machine()
  const [x, y] = ids(2) as [Buffer, Buffer]
  t.alike(asked(acks.wait(0, 1, { seq: 5, ids: [x, y], count: 2, waitMs: WAIT_MS })), [['a', 2], ['b', 2], ['c', 2]])
  t.alike(acks.receipt(0, 'a', 5), [])
  t.alike(acks.receipt(0, 'b', 4), [], 'what comes before it is not it')
  t.alike(acks.holds(0, 'a', [x, y]), [])
  t.alike(acks.holds(0, 'b', [x]), [])
  t.alike(acks.holds(0, 'c', [y]), [], 'chunks are with different devices, the entry with one')
  t.alike(acks.receipt(0, 'b', 9), [{ type: 'done', wait: 1 }])
  t.is(acks.size + acks.chunks, 0)
  t.alike(acks.wait(0, 2, { seq: 5, ids: [], count: 2, waitMs: WAIT_MS }), [{ type: 'done', wait: 2 }], 'what they have is remembered')
})

test('what a device says twice, and what a guest or a cache says, does not count', (t) => {
  const { acks, members, caches, up } = machine()
  const all = ids(1)
  acks.wait(0, 1, { seq: 1, ids: all, count: 2, waitMs: 60_000 })
  for (let i = 0; i < 3; i++) t.alike([...acks.holds(0, 'a', all), ...acks.receipt(0, 'a', 1), ...acks.receipt(0, 'b', 1)], [])
  up('guest')
  t.alike([...acks.holds(0, 'guest', all), ...acks.receipt(0, 'guest', 1)], [])
  caches.add('b')
  t.alike(acks.holds(0, 'b', all), [], 'it may let go of it')
  members.add('guest')
  t.alike(ends(acks.tick(1)), [], 'it was enrolled, and its chunks are asked about')
  t.ok(asked(acks.tick(1001)).some(([peer]) => peer === 'guest'))
  t.alike(acks.holds(1002, 'guest', all), [{ type: 'done', wait: 1 }])
})

test('a device that goes has what it said it has; one that comes back says it anew', (t) => {
  const { acks, up } = machine()
  const all = ids(1)
  acks.wait(0, 1, { seq: 3, ids: all, count: 2, waitMs: WAIT_MS })
  acks.holds(0, 'a', all)
  acks.receipt(0, 'a', 3)
  acks.peerDown('a')
  acks.receipt(0, 'b', 3)
  t.alike(asked(up('a')), [], 'what it said is not asked again')
  t.alike(acks.holds(0, 'b', all), [{ type: 'done', wait: 1 }])
  // It was put back to a backup.
  acks.wait(0, 2, { seq: 3, ids: [], count: 2, waitMs: WAIT_MS })
  t.is(acks.size, 1)
  t.alike(acks.receipt(0, 'a', 2), [])
  t.alike(acks.receipt(0, 'a', 3), [{ type: 'done', wait: 2 }])
})

test('one that is connected later is asked', (t) => {
  const { acks, up } = machine()
  for (const peer of ['a', 'b', 'c']) acks.peerDown(peer)
  const all = ids(3)
  t.alike(acks.wait(0, 1, { seq: 0, ids: all, count: 1, waitMs: WAIT_MS }), [])
  t.alike(asked(up('a')), [['a', 3]])
  t.alike(acks.holds(0, 'a', all), [{ type: 'done', wait: 1 }])
})

test('without progress for its time a wait ends, and says how many have it; progress gives it more', (t) => {
  const { acks } = machine()
  const all = ids(2)
  acks.wait(0, 1, { seq: 1, ids: all, count: 2, waitMs: WAIT_MS })
  acks.receipt(0, 'a', 1)
  acks.receipt(0, 'b', 1)
  acks.holds(900, 'a', all)
  t.alike(ends(acks.tick(1500)), [])
  acks.holds(1600, 'a', all)
  acks.holds(1700, 'b', all.slice(0, 1))
  t.alike(ends(acks.tick(2600)), [])
  t.alike(ends(acks.tick(2700)), [{ type: 'late', wait: 1, have: 1 }])
  t.is(acks.size + acks.chunks, 0)
})

test('what nothing refers to any more is not waited for, and the rest is looked at again', (t) => {
  const { acks, unused } = machine()
  const [x, y] = ids(2) as [Buffer, Buffer]
  acks.wait(0, 1, { seq: 0, ids: [x, y], count: 1, waitMs: 60_000 })
  unused.add(keyOf(x))
  t.alike(ends(acks.tick(1000)), [])
  t.alike(acks.holds(1001, 'a', [y]), [{ type: 'again', wait: 1 }])
})

test('with another log all waits begin anew, and old receipts do not count', (t) => {
  const { acks } = machine()
  acks.receipt(0, 'a', 100)
  acks.wait(0, 1, { seq: 101, ids: ids(1), count: 1, waitMs: WAIT_MS })
  t.alike(acks.renewed(0), [{ type: 'again', wait: 1 }])
  acks.wait(0, 2, { seq: 1, ids: [], count: 1, waitMs: WAIT_MS })
  t.is(acks.size, 1)
  t.alike(acks.receipt(0, 'a', 1), [{ type: 'done', wait: 2 }])
})

test('waits for the same chunk share a question; one that is given up leaves the other', (t) => {
  const { acks } = machine()
  const all = ids(1)
  acks.wait(0, 1, { seq: 0, ids: all, count: 1, waitMs: WAIT_MS })
  t.alike(acks.wait(0, 2, { seq: 0, ids: all, count: 1, waitMs: WAIT_MS }), [])
  t.alike(acks.giveUp(0, 1), [])
  t.alike(acks.holds(0, 'a', all), [{ type: 'done', wait: 2 }])
  t.alike(acks.giveUp(0, 2), [], 'it is over')
})

test('what is waited for is bounded: more stands in a queue, in order, and ends in time', (t) => {
  const { acks } = machine()
  const full = MAX_CHUNKS / MAX_WAIT_CHUNKS
  for (let i = 0; i < full + 3; i++) acks.wait(0, i, { seq: 0, ids: ids(MAX_WAIT_CHUNKS, i * MAX_WAIT_CHUNKS), count: 1, waitMs: WAIT_MS })
  t.is(acks.chunks, MAX_CHUNKS)
  const next = acks.holds(10, 'a', ids(MAX_WAIT_CHUNKS))
  t.alike(ends(next), [{ type: 'done', wait: 0 }])
  t.alike(asked(next), [['a', MAX_WAIT_CHUNKS], ['b', MAX_WAIT_CHUNKS], ['c', MAX_WAIT_CHUNKS]], 'the next one is let in')
  t.is(acks.chunks, MAX_CHUNKS)
  t.is(ends(acks.tick(WAIT_MS + 20)).length, full + 2, 'also those that were not let in')
  t.is(acks.size + acks.chunks, 0)
})
