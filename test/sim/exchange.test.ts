/**
 * Chunk exchange between devices that lose power, lose each other, are slow, and
 * lie. A random run is decided by its seed: SIM_SEED=n shows one again,
 * SIM_SEEDS=n runs more of them.
 */
import test from 'brittle'
import { MAX_BACKGROUND, type WantedChunk } from '../../lib/swarm/exchange.js'
import type { ChunkMessage, Urgency } from '../../lib/swarm/messages.js'
import { ChunkNode } from './chunk-node.js'
import { SimNetwork, seeded, type NetworkOptions } from './network.js'

function create(n: number, options: NetworkOptions = { seed: 1 }): { net: SimNetwork; nodes: ChunkNode[] } {
  const net = new SimNetwork(options)
  const nodes = Array.from({ length: n }, (_, i) => new ChunkNode(net, 'abcdefghij'[i]!))
  for (const node of nodes) node.start()
  return { net, nodes }
}

/** Different ones each time: the number is in them. */
let made = 0
function fill(nodes: ChunkNode[], n: number, bytes = 128 * 1024, isLengthKnown = true): WantedChunk[] {
  return Array.from({ length: n }, () => {
    const sealed = Buffer.alloc(Math.max(17, bytes))
    sealed.writeUInt32LE(++made)
    const ids = nodes.map((node) => node.put(sealed))
    return isLengthKnown ? { id: ids[0]!, sealedBytes: sealed.length } : { id: ids[0]! }
  })
}

function until(net: SimNetwork, limitMs: number, isDone: () => boolean): number {
  const start = net.nowMs
  while (!isDone() && net.nowMs - start < limitMs && net.step()) { /* the point */ }
  return net.nowMs - start
}

test('a long run of chunks comes from all who have it, by their speed', (t) => {
  const { net, nodes } = create(4, { seed: 3, bytesPerMs: 10_000, delayMs: [1, 5] })
  const [reader, ...holders] = nodes as [ChunkNode, ChunkNode, ChunkNode, ChunkNode]
  const chunks = fill(holders, 600)
  net.connectAll()
  net.setSpeed('b', 'a', 40_000)
  net.setSpeed('c', 'a', 20_000)
  for (const chunk of chunks) reader.want(chunk, 'ahead')
  const tookMs = until(net, 60_000, () => chunks.every((c) => reader.has(c.id)))
  const bestMs = 600 * 131_072 / 70_000
  t.ok(tookMs < 1.5 * bestMs, `${Math.round(tookMs)} ms of at least ${Math.round(bestMs)}`)
  t.ok(holders[0]!.sentBytes > 1.5 * holders[2]!.sentBytes, 'the quick one sends more')
  t.ok(holders[2]!.sentBytes > 5_000_000, 'the slow one helps')
  const total = holders.reduce((n, h) => n + h.sentBytes, 0)
  t.ok(total < 600 * 131_072 * 1.05, `${total} bytes sent`)
})

test('a reader goes before everything else, at both ends', (t) => {
  const { net, nodes } = create(2, { seed: 4, bytesPerMs: 5_000, delayMs: [1, 5] })
  const [reader, holder] = nodes as [ChunkNode, ChunkNode]
  reader.missing = fill([holder], 500)
  const [now] = fill([holder], 1)
  net.connectAll()
  net.run(3000)
  reader.want(now!, 'reader')
  const tookMs = until(net, 10_000, () => reader.has(now!.id))
  t.ok(tookMs < 130, `${tookMs} ms, of which 26 for the chunk itself`)
  until(net, 60_000, () => reader.missing.every((c) => reader.has(c.id)))
  t.ok(reader.missing.every((c) => reader.has(c.id)), 'the rest came, too')
})

test('what was read ahead and is waited for now is hurried', (t) => {
  const { net, nodes } = create(2, { seed: 4, bytesPerMs: 2_000 })
  const [reader, holder] = nodes as [ChunkNode, ChunkNode]
  const chunks = fill([holder], 100)
  net.connectAll()
  for (const chunk of chunks) reader.want(chunk, 'ahead')
  net.run(500)
  reader.want(chunks[90]!, 'reader')
  const tookMs = until(net, 10_000, () => reader.has(chunks[90]!.id))
  t.ok(tookMs < 600, `${tookMs} ms`)
  t.is(reader.end(chunks[90]!.id)!.how, 'reader arrived')
})

test('a slow holder is helped by another', (t) => {
  const { net, nodes } = create(3, { seed: 5 })
  const [reader, slow, quick] = nodes as [ChunkNode, ChunkNode, ChunkNode]
  slow.keepsEverything = true
  const [chunk] = fill([slow, quick], 1)
  net.connectAll()
  net.setSpeed('b', 'a', 10)
  net.run(1000)
  reader.want(chunk!, 'reader')
  const tookMs = until(net, 20_000, () => reader.has(chunk!.id))
  t.ok(tookMs < 1500, `${tookMs} ms; alone it would be 13 s`)
})

test('nobody has it: the want ends at its deadline, or when somebody comes who has it', (t) => {
  const { net, nodes } = create(3, { seed: 6 })
  const [reader, , late] = nodes as [ChunkNode, ChunkNode, ChunkNode]
  const [never] = fill([new ChunkNode(net, 'x')], 1)
  const [later, later2] = fill([late], 2)
  net.connect('a', 'b')
  reader.want(never!, 'reader', 5000)
  reader.want(later!, 'reader', 20_000)
  reader.want(later2!, 'pin')
  net.run(6000)
  t.is(reader.end(never!.id)!.how, 'reader deadline')
  t.ok(Math.abs(reader.end(never!.id)!.atMs - 5000) <= 100)
  t.absent(reader.end(later!.id))
  net.connect('a', 'c')
  net.run(7000)
  t.ok(reader.has(later!.id))
  t.ok(reader.has(later2!.id))
  // Who did not have it has it now, and says nothing: asked again after a while.
  const [after] = fill([late], 1)
  net.disconnect('a', 'c')
  reader.want(after!, 'reader')
  net.run(9000)
  nodes[1]!.chunks.set(after!.id.toString('latin1'), late.chunks.get(after!.id.toString('latin1'))!)
  net.run(16_000)
  t.ok(reader.has(after!.id))
})

test('what is no longer wanted is not sent', (t) => {
  const { net, nodes } = create(2, { seed: 7, bytesPerMs: 1_000 })
  const [reader, holder] = nodes as [ChunkNode, ChunkNode]
  const chunks = fill([holder], 100)
  net.connectAll()
  for (const chunk of chunks) reader.want(chunk, 'ahead')
  net.run(300)
  for (const chunk of chunks) reader.do(reader.exchange.unwant(net.nowMs, chunk.id))
  t.alike(reader.exchange.bytes.asked, 0)
  net.run(20_000)
  t.ok(holder.sentBytes < 4_000_000, `${holder.sentBytes} of 13 million bytes`)
  t.alike(reader.caught, [])
  t.alike(holder.server.state('a'), { queued: 0, reading: 0 })
})

test('the background is pulled as it is worked off, and what nobody has does not hold it up', (t) => {
  const { net, nodes } = create(2, { seed: 8, bytesPerMs: 50_000 })
  const [reader, holder] = nodes as [ChunkNode, ChunkNode]
  const lost = fill([new ChunkNode(net, 'x')], 2000, 20)
  const there = fill([holder], 4000, 1000, false)
  reader.missing = [...lost, ...there]
  net.connectAll()
  net.run(60_000)
  t.ok(there.every((c) => reader.has(c.id)))
  t.ok(reader.mostWants <= MAX_BACKGROUND, `${reader.mostWants} wants at a time`)
  // Found after all: it comes round again.
  for (const c of lost.slice(0, 10)) {
    const sealed = Buffer.alloc(20)
    sealed.writeUInt32LE(1)
    holder.chunks.set(c.id.toString('latin1'), sealed)
  }
  t.ok(reader.caught.length === 0)
})

test('who asks for a lot, and says that all of it is urgent, does not keep others from theirs', (t) => {
  const { net, nodes } = create(3, { seed: 9, bytesPerMs: 100_000, delayMs: [0, 1] })
  const [greedy, modest, holder] = nodes as [ChunkNode, ChunkNode, ChunkNode]
  holder.diskMs = [4, 4]
  const many = fill([holder], 1500)
  const few = fill([holder], 60)
  net.connectAll()
  for (const chunk of many) greedy.want(chunk, 'reader')
  net.run(20)
  for (const chunk of few) modest.want(chunk, 'pin')
  const tookMs = until(net, 60_000, () => few.every((c) => modest.has(c.id)))
  t.absent(many.every((c) => greedy.has(c.id)), 'the greedy one is not done')
  t.ok(tookMs < 1200, `${Math.round(tookMs)} ms`)
  until(net, 60_000, () => many.every((c) => greedy.has(c.id)))
  t.ok(many.every((c) => greedy.has(c.id)))
})

const LIES: Record<string, (m: ChunkMessage) => ChunkMessage[]> = {
  'wrong bytes': (m) => (m.type === 'chunk' ? [{ ...m, sealed: Buffer.alloc(m.sealed.length, 9) }] : [m]),
  'another length': (m) => (m.type === 'chunk' ? [{ ...m, sealed: m.sealed.subarray(0, -1) }] : [m]),
  'too long': (m) => (m.type === 'chunk' ? [{ ...m, sealed: Buffer.concat([m.sealed, Buffer.alloc(100)]) }] : [m]),
  'another chunk': (m) => (m.type === 'chunk' ? [{ ...m, id: Buffer.alloc(32, 4) }] : [m]),
  'has nothing': (m) => (m.type === 'chunk' ? [{ type: 'noChunks', ids: [m.id] }] : [m]),
  'silent': (m) => (m.type === 'chunk' ? [] : [m]),
  'each thrice': (m) => [m, m, m],
  'refuses and sends': (m) => (m.type === 'chunk' ? [{ type: 'noChunks', ids: [m.id] }, m] : [m]),
}

for (const [what, lie] of Object.entries(LIES)) {
  test(`a peer that lies (${what}) keeps nobody from his chunks`, (t) => {
    const { net, nodes } = create(3, { seed: 10, bytesPerMs: 5_000 })
    const [reader, honest, liar] = nodes as [ChunkNode, ChunkNode, ChunkNode]
    liar.keepsEverything = true
    liar.tamper = (_peer, m) => lie(m)
    const read = fill([honest, liar], 100)
    const pinned = fill([honest, liar], 50, 50_000, false)
    reader.missing = fill([honest, liar], 100, 80_000, false)
    const all = [...read, ...pinned, ...reader.missing]
    net.connect('a', 'c')
    net.setSpeed('b', 'a', 1_000)
    for (const chunk of read) reader.want(chunk, 'reader')
    for (const chunk of pinned) reader.want(chunk, 'pin')
    net.run(2000)
    for (let round = 0; round < 120 && !all.every((c) => reader.has(c.id)); round++) {
      net.connectAll()
      net.run(net.nowMs + 1000)
    }
    t.ok(all.every((c) => reader.has(c.id)), `after ${net.nowMs} ms`)
    t.ok(reader.caught.every((one) => one.peer === 'c'), 'the honest one is not blamed')
    if (['wrong bytes', 'another length', 'too long'].includes(what)) t.ok(reader.caught.length >= 1)
  })
}

function randomRun(seed: number): { chunks: number; messages: number } {
  const rand = seeded(seed)
  const pick = (n: number) => Math.floor(rand() * n)
  const { net, nodes } = create(2 + pick(4), { seed, delayMs: [0, 1 + pick(100)], bytesPerMs: 500 + pick(50_000) })
  const names = nodes.map((n) => n.name)
  const liar = nodes.length > 2 && rand() < 0.4 ? nodes[pick(nodes.length)] : undefined
  const lies = Object.values(LIES)
  const lie = lies[pick(lies.length)]!
  if (liar) liar.tamper = (_peer, m) => (rand() < 0.5 ? lie(m) : [m])
  const honest = nodes.filter((n) => n !== liar)
  const wanted = new Map<ChunkNode, WantedChunk[]>(honest.map((n) => [n, []]))
  const urgencies: Urgency[] = ['reader', 'ahead', 'pin']
  const untilMs = 1000 + pick(8000)
  while (net.nowMs < untilMs) {
    net.run(net.nowMs + pick(400))
    const node = nodes[pick(nodes.length)]!
    const what = rand()
    if (what < 0.5) {
      // An honest device holds each chunk; some others may.
      const taker = honest[pick(honest.length)]!
      const others = nodes.filter((n) => n !== taker)
      const sure = honest.filter((n) => n !== taker)[pick(honest.length - 1)]
      if (!sure) continue
      const chunks = fill([sure, ...others.filter(() => rand() < 0.3)], 1 + pick(15), rand() < 0.1 ? 1_000_000 : pick(60_000), rand() < 0.7)
      wanted.get(taker)!.push(...chunks)
      const urgency = urgencies[pick(4)]
      if (urgency && taker.isUp) for (const chunk of chunks) taker.want(chunk, urgency, rand() < 0.3 ? pick(3000) : Infinity)
      taker.missing.push(...chunks)
      if (taker.isUp) taker.do(taker.exchange.moreMissing(net.nowMs))
    } else if (what < 0.65) net.connect(names[pick(names.length)]!, names[pick(names.length)]!)
    else if (what < 0.73) net.disconnect(names[pick(names.length)]!, names[pick(names.length)]!)
    else if (what < 0.8) net.setSpeed(node.name, names[pick(names.length)]!, 10 + pick(5000))
    else if (what < 0.85) { net.heal(); net.connectAll() }
    else if (what < 0.92 && node.isUp) node.crash()
    else if (!node.isUp) node.start()
    else { const id = wanted.get(node)?.[0]?.id; if (id) node.do(node.exchange.unwant(net.nowMs, id)) }
  }
  for (const node of nodes) if (!node.isUp) node.start()
  const isDone = () => honest.every((n) => wanted.get(n)!.every((c) => n.has(c.id)))
  for (let round = 0; !isDone(); round++) {
    if (round > 200) {
      const lacking = honest.map((n) => `${n.name} lacks ${wanted.get(n)!.filter((c) => !n.has(c.id)).length}, ${JSON.stringify(n.exchange.bytes)} ${n.exchange.wantCounts.join(' ')} ${JSON.stringify(n.caught.slice(-3))}`)
      throw new Error(`chunks are missing: ${lacking.join('\n')}`)
    }
    net.connectAll()
    net.run(net.nowMs + 1000)
  }
  // Wants that were repeated in the last moment.
  until(net, 120_000, () => honest.every((n) => n.exchange.wantCounts.every((count) => count === 0)))
  net.run(net.nowMs + 100)
  for (const node of honest) {
    const blamed = node.caught.find((one) => one.peer !== liar?.name)
    if (blamed) throw new Error(`${node.name} blames ${blamed.peer}: ${blamed.why}`)
    const { asked, verifying, untaken } = node.exchange.bytes
    if (!liar && asked + verifying + untaken > 0) throw new Error(`${node.name} counts ${JSON.stringify(node.exchange.bytes)} with nothing to do`)
  }
  return { chunks: honest.reduce((n, node) => n + node.ends.size, 0), messages: net.arrived.messages }
}

test('after everything has healed everybody has what he wants', (t) => {
  const only = process.env.SIM_SEED
  const seeds = only ? [Number(only)] : Array.from({ length: Number(process.env.SIM_SEEDS ?? 200) }, (_, i) => i + 1)
  const started = performance.now()
  let chunks = 0, messages = 0
  for (const seed of seeds) {
    try {
      const done = randomRun(seed)
      chunks += done.chunks
      messages += done.messages
    } catch (e) {
      return t.fail(`SIM_SEED=${seed}: ${(e as Error).stack}`)
    }
  }
  t.pass(`${seeds.length} seeds, ${chunks} chunks, ${messages} messages, ${Math.round(performance.now() - started)} ms`)
})

test('a seed replays exactly', (t) => {
  t.alike(randomRun(7), randomRun(7))
})
