/** Snapshots over a simulated network: whole or not at all, with bounded memory on both sides. */
import test from 'brittle'
import { MAX_SNAPSHOT_PIECE_BYTES, PIECE_KINDS, type PieceKind, type SnapshotMessage } from '../../lib/swarm/messages.js'
import { AGAIN_MS, MAX_GIVEN, SnapshotGiver, SnapshotTaker, type GiveEffect, type TakeEffect } from '../../lib/swarm/snapshot.js'
import { decode, encode } from '../../lib/swarm/wire.js'
import { SimNetwork, seeded } from './network.js'

interface Piece { kind: PieceKind; bytes: Buffer }

function makePieces(seed: number, n: number): Piece[] {
  const rand = seeded(seed)
  return Array.from({ length: n }, (_, i) => ({ kind: PIECE_KINDS[i % 2]!, bytes: Buffer.alloc(1 + Math.floor(rand() * (rand() < 0.2 ? MAX_SNAPSHOT_PIECE_BYTES : 20_000)), i) }))
}

/** 'a' gives, 'b' takes. */
function create(seed: number, source: Piece[], options: { tamper?: (m: SnapshotMessage) => SnapshotMessage[]; workMs?: number } = {}) {
  const net = new SimNetwork({ seed, bytesPerMs: 20_000, delayMs: [1, 30] })
  const giver = new SnapshotGiver(), taker = new SnapshotTaker()
  const at = new Map<number, number>()
  let kept: Piece[] = [], unworked = 0, most = 0
  const log: string[] = []
  const openNow = new Set<number>()
  const give = (effects: GiveEffect[]): void => {
    for (const e of effects) {
      if (e.type === 'send') for (const m of (options.tamper ?? ((x) => [x]))(e.message)) net.send('a', e.peer, encode(m), e.priority)
      else if (e.type === 'open') {
        openNow.add(e.token)
        at.set(e.token, 0)
        net.after(5, () => give(source.length === 0 ? giver.failed(e.token, 'none') : giver.opened(net.nowMs, e.token, Buffer.from('meta'), 1)))
      } else if (e.type === 'read') {
        net.after(net.between(0, 3), () => {
          if (!openNow.has(e.token)) return
          const n = at.get(e.token)!
          const next = source[n]
          at.set(e.token, n + 1)
          give(next ? giver.piece(net.nowMs, e.token, next.kind, next.bytes) : giver.ended(e.token, (hash) => hash))
        })
      } else openNow.delete(e.token)
    }
  }
  const take = (effects: TakeEffect[]): void => {
    for (const e of effects) {
      if (e.type === 'send') net.send('b', e.peer, encode(e.message), e.priority)
      else if (e.type === 'begin') kept = []
      else if (e.type === 'piece') {
        kept.push({ kind: e.kind, bytes: e.bytes })
        unworked += e.bytes.length
        most = Math.max(most, unworked)
        net.after(options.workMs ?? 2, () => {
          unworked -= e.bytes.length
          take(taker.worked(net.nowMs, e.bytes.length))
        })
      } else log.push(e.type === 'failed' ? e.why : e.type)
    }
  }
  net.add('a', {
    onUp: () => {}, onDrain: () => {}, onDown: (peer) => give(giver.peerDown(peer)),
    onMessage: (peer, bytes) => {
      const m = decode(bytes)
      if (m.type === 'wantSnapshot' || m.type === 'snapshotCredit' || m.type === 'snapshotCancel') give(giver.message(net.nowMs, peer, m))
    },
  })
  net.add('b', {
    onUp: () => {}, onDrain: () => {}, onDown: (peer) => take(taker.peerDown(peer)),
    onMessage: (peer, bytes) => {
      const m = decode(bytes)
      if (m.type === 'snapshotBegin' || m.type === 'snapshotPiece' || m.type === 'snapshotEnd' || m.type === 'snapshotRefused') take(taker.message(net.nowMs, peer, m))
    },
  })
  net.every(1000, () => {
    give(giver.tick(net.nowMs))
    take(taker.tick(net.nowMs))
  })
  net.connect('a', 'b')
  return { net, giver, taker, give, take, log, openNow, kept: () => kept, most: () => most }
}

test('all pieces come, in order, and never more than the credit at a time', (t) => {
  const source = makePieces(1, 300)
  const sim = create(1, source, { workMs: 20 })
  sim.take(sim.taker.take(0, 'a'))
  sim.net.run(60_000)
  t.alike(sim.log, ['complete'])
  t.ok(sim.kept().length === source.length && sim.kept().every((row, i) => row.kind === source[i]!.kind && row.bytes.equals(source[i]!.bytes)))
  t.ok(sim.most() <= 4 * 1024 * 1024, `${sim.most()} bytes`)
  t.is(sim.openNow.size, 0, 'the read is closed')
})

test('what was interrupted begins anew', (t) => {
  for (let seed = 1; seed <= 15; seed++) {
    const rand = seeded(seed)
    const source = makePieces(seed, 20 + Math.floor(rand() * 100))
    const sim = create(seed, source)
    sim.take(sim.taker.take(0, 'a'))
    for (let i = 0; i < 5; i++) {
      sim.net.run(sim.net.nowMs + Math.floor(rand() * 400))
      const what = rand()
      if (what < 0.4) sim.net.disconnect('a', 'b')
      else if (what < 0.6) sim.take(sim.taker.take(sim.net.nowMs, 'a'))
      else if (what < 0.7) sim.take(sim.taker.cancel())
      sim.net.connect('a', 'b')
      if (sim.taker.peer === undefined) sim.take(sim.taker.take(sim.net.nowMs, 'a'))
    }
    sim.net.run(sim.net.nowMs + 200_000)
    while (sim.log.at(-1) !== 'complete') {
      if (sim.net.nowMs > 2_000_000) return t.fail(`seed ${seed}: ${sim.log.join(' ')}`)
      if (sim.taker.peer === undefined) sim.take(sim.taker.take(sim.net.nowMs, 'a'))
      sim.net.run(sim.net.nowMs + 70_000)
    }
    if (sim.kept().length !== source.length || !sim.kept().every((row, i) => row.bytes.equals(source[i]!.bytes))) return t.fail(`seed ${seed}: other pieces`)
    if (sim.openNow.size > 0) return t.fail(`seed ${seed}: a read is left open`)
  }
  t.pass()
})

test('pieces that were changed, left out or added are found', (t) => {
  const lies: ((m: SnapshotMessage) => SnapshotMessage[])[] = [
    (m) => (m.type === 'snapshotPiece' && m.bytes[0] === 9 ? [{ ...m, bytes: Buffer.alloc(m.bytes.length, 1) }] : [m]),
    (m) => (m.type === 'snapshotPiece' && m.bytes[0] === 9 ? [] : [m]),
    (m) => (m.type === 'snapshotPiece' && m.bytes[0] === 9 ? [m, m] : [m]),
    (m) => (m.type === 'snapshotPiece' && m.bytes[0] === 9 ? [{ ...m, kind: m.kind === 'rows' ? 'chunks' : 'rows' }] : [m]),
  ]
  for (const tamper of lies) {
    const sim = create(2, makePieces(2, 30), { tamper })
    sim.take(sim.taker.take(0, 'a'))
    sim.net.run(30_000)
    t.alike(sim.log, ['lying'])
    t.ok(sim.most() <= 4 * 1024 * 1024)
  }
})

test('more than the credit are not taken', (t) => {
  const tamper = (m: SnapshotMessage) => (m.type === 'snapshotPiece' ? Array.from({ length: 20 }, () => m) : [m])
  const sim = create(2, makePieces(2, 60), { tamper, workMs: 1e6 })
  sim.take(sim.taker.take(0, 'a'))
  sim.net.run(30_000)
  t.alike(sim.log, ['lying'])
  t.ok(sim.most() <= 4 * 1024 * 1024)
})

test('a giver without a snapshot, one that falls silent, and one that has enough to do', (t) => {
  const none = create(3, [])
  none.take(none.taker.take(0, 'a'))
  none.net.run(1000)
  t.alike(none.log, ['none'])
  const silent = create(3, makePieces(3, 30), { tamper: (m) => (m.type === 'snapshotPiece' || m.type === 'snapshotEnd' ? [] : [m]) })
  silent.take(silent.taker.take(0, 'a'))
  silent.net.run(100_000)
  t.is(silent.log[0], 'stalled')
  const giver = new SnapshotGiver()
  const want = { type: 'wantSnapshot' as const, creditBytes: 1e6 }
  const busy = (peer: string) => [{ type: 'send', peer, message: { type: 'snapshotRefused', reason: 'busy' }, priority: 'bulk' }]
  const peers = Array.from({ length: MAX_GIVEN }, (_, i) => `x${i}`)
  for (const peer of peers) t.is(giver.message(0, peer, want)[0]!.type, 'open')
  t.alike(giver.message(0, 'z', want), busy('z'))
  giver.opened(0, 1, Buffer.alloc(0), 0)
  t.is(giver.peerDown('x0')[0]!.type, 'close')
  t.is(giver.message(0, 'z', want)[0]!.type, 'open')
  t.alike(giver.message(AGAIN_MS - 1, 'x1', want), busy('x1'), 'who asks again and again waits')
  t.alike(giver.message(AGAIN_MS, 'x1', want).map((e) => e.type), ['close', 'open'])
})
