/** Who holds which chunk: questions, answers and proofs, with their bounds. */
import test from 'brittle'
import { Custody, MAX_ASKED, MAX_CHALLENGED, MAX_WAITING, type CustodyEffect } from '../../lib/swarm/custody.js'

const ids = (n: number, from = 0) => Array.from({ length: n }, (_, i) => { const b = Buffer.alloc(32); b.writeUInt32LE(from + i); return b })
const nonce = Buffer.alloc(32, 7)

/** Everything that one says to the other arrives, and back; the rest is returned. */
function settle(a: Custody, b: Custody, start: CustodyEffect[], has: (id: Buffer) => boolean): CustodyEffect[] {
  const left: CustodyEffect[] = []
  const queue: [Custody, Custody, CustodyEffect][] = start.map((e) => [a, b, e])
  for (let next = queue.shift(); next; next = queue.shift()) {
    const [me, other, e] = next
    const more = (who: Custody, effects: CustodyEffect[]) => { for (const one of effects) queue.push([who, who === a ? b : a, one]) }
    if (e.type === 'send') more(other, other.message(0, 'p', e.message))
    else if (e.type === 'check') more(me, me.checked(e.peer, e.copies, e.ids.filter(has), e.ids.filter((id) => !has(id))))
    else if (e.type === 'prove') more(me, me.proved(e.peer, e.id, has(e.id) ? Buffer.concat([e.id.subarray(0, 16), e.nonce.subarray(0, 16)]) : undefined))
    else left.push(e)
  }
  return left
}

function pairOf(): [Custody, Custody] {
  const a = new Custody(), b = new Custody()
  a.peerUp('p')
  b.peerUp('p')
  return [a, b]
}

test('a peer says of each chunk whether it holds it, however many are asked about', (t) => {
  const [a, b] = pairOf()
  const all = ids(10_000)
  const left = settle(a, b, a.ask(0, 'p', all), (id) => id[0]! % 2 === 0)
  const holds = left.flatMap((e) => (e.type === 'holds' ? e.ids : []))
  const lacks = left.flatMap((e) => (e.type === 'lacks' ? e.ids : []))
  t.is(holds.length, 5000)
  t.is(lacks.length, 5000)
  t.ok(holds.every((id) => id[0]! % 2 === 0))
})

test('each challenge ends in a proof, or without one', (t) => {
  const [a, b] = pairOf()
  const effects = ids(50).flatMap((id) => a.challenge(0, 'p', id, nonce))
  const left = settle(a, b, effects, (id) => id[0]! < 30)
  t.is(left.filter((e) => e.type === 'proof').length, 30)
  t.is(left.filter((e) => e.type === 'unproven').length, 20)
})

test('a challenge without an answer ends, also when the peer goes', (t) => {
  const [a] = pairOf()
  for (const id of ids(6)) a.challenge(0, 'p', id, nonce)
  t.is(a.tick(29_000).length, 0)
  const late = a.tick(31_000)
  t.is(late.filter((e) => e.type === 'unproven').length, 4, 'those that were sent')
  t.is(late.filter((e) => e.type === 'send').length, 2, 'the next ones')
  t.is(a.peerDown('p').filter((e) => e.type === 'unproven').length, 2)
})

test('a proof that nobody asked for is ignored, and each counts once', (t) => {
  const [a] = pairOf()
  const [id] = ids(1)
  const mac = Buffer.alloc(32)
  t.alike(a.message(0, 'p', { type: 'proof', id: id!, mac }), [])
  a.challenge(0, 'p', id!, nonce)
  t.is(a.message(0, 'p', { type: 'proof', id: id!, mac }).length, 1)
  t.alike(a.message(0, 'p', { type: 'proof', id: id!, mac }), [])
})

test('what a peer asks is bounded: the rest is answered with no, and it can ask again later', (t) => {
  const [a] = pairOf()
  let checks = 0, refused = 0
  for (let i = 0; i < 10; i++) {
    for (const e of a.message(0, 'p', { type: 'askChunks', copies: 0, ids: ids(1024, i * 1024) })) {
      if (e.type === 'check') checks += e.ids.length
      if (e.type === 'send' && e.message.type === 'noChunks') refused += e.message.ids.length
    }
  }
  t.is(checks, MAX_ASKED)
  t.is(checks + refused, 10_240)
  a.checked('p', 0, ids(1024), [])
  t.is(a.message(0, 'p', { type: 'askChunks', copies: 0, ids: ids(1024) })[0]!.type, 'check')
  const proves = ids(20).flatMap((id) => a.message(0, 'p', { type: 'challenge', id, nonce })).filter((e) => e.type === 'prove')
  t.is(proves.length, MAX_CHALLENGED)
})

test('what waits here is bounded', (t) => {
  const [a] = pairOf()
  const ends = ids(MAX_WAITING + 100).flatMap((id) => a.challenge(0, 'p', id, nonce)).filter((e) => e.type === 'unproven')
  t.is(ends.length, 96, 'all but those that wait and the four under way')
})
