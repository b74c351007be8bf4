/**
 * Log sync between devices that lose power, lose each other, and lie. Each
 * random run is decided by its seed: to see one again, run this file with
 * SIM_SEED=n; for more of them SIM_SEEDS=n.
 */
import test from 'brittle'
import { MAX_ENTRIES_BYTES, logKey, type SyncMessage } from '../../lib/swarm/messages.js'
import { headOf, seqOf, type FakeLog } from './fake-log.js'
import { LogNode, dump } from './log-node.js'
import { SimNetwork, seeded, type NetworkOptions } from './network.js'

function create(n: number, options: NetworkOptions = { seed: 1 }): { net: SimNetwork; nodes: LogNode[] } {
  const net = new SimNetwork(options)
  const nodes = Array.from({ length: n }, (_, i) => new LogNode(net, 'abcdefghij'[i]!))
  for (const node of nodes) node.start()
  return { net, nodes }
}

function writeMany(node: LogNode, n: number, bytes = 60): void {
  for (let i = 0; i < n; i++) node.write(Buffer.alloc(Math.max(40, bytes), i))
  node.syncDisk()
}

test('a new entry is pushed to everybody, once, and everybody says that he has it', (t) => {
  const { net, nodes } = create(5)
  net.connectAll()
  net.run(1000)
  const seen: string[] = []
  for (const node of nodes) node.tamper = (peer, m) => { if (m.type === 'entries' || m.type === 'wantEntries') seen.push(`${node.name}${peer}`); return [m] }
  writeMany(nodes[0]!, 1)
  const start = net.nowMs
  net.run(start + 120)
  for (const node of nodes.slice(1)) t.is(node.deliveredEntries, 1)
  net.run(2000)
  // Two more before anybody has said that he has the first: still nobody must ask.
  for (let i = 0; i < 2; i++) { writeMany(nodes[0]!, 1); net.run(net.nowMs + 1) }
  net.run(4000)
  t.alike(seen.sort(), ['ab', 'ab', 'ab', 'ac', 'ac', 'ac', 'ad', 'ad', 'ad', 'ae', 'ae', 'ae'], 'from its author only, with nobody asking another for it')
  t.alike(Object.fromEntries(nodes[0]!.receipts), { b: 3, c: 3, d: 3, e: 3 })
})

test('entries travel on between devices that are not connected', (t) => {
  const { net, nodes } = create(4)
  net.connect('a', 'b'); net.connect('b', 'c'); net.connect('c', 'd')
  net.run(500)
  writeMany(nodes[0]!, 3)
  writeMany(nodes[3]!, 2)
  net.run(5000)
  for (const node of nodes) t.is(dump(node), dump(nodes[0]!))
  t.is(nodes[3]!.deliveredEntries, 3)
})

test('a long gap is filled from several peers at the same time', (t) => {
  const { net, nodes } = create(4, { seed: 2, bytesPerMs: 500 })
  net.connect('a', 'b'); net.connect('a', 'c')
  writeMany(nodes[0]!, 6000, 1000)
  net.run(60_000)
  const served = new Map<string, number>()
  for (const node of nodes) {
    node.tamper = (_peer, m) => {
      if (m.type === 'entries') served.set(node.name, (served.get(node.name) ?? 0) + m.entries.length)
      return [m]
    }
  }
  const before = net.nowMs
  for (const peer of ['a', 'b', 'c']) net.connect('d', peer)
  while (nodes[3]!.deliveredEntries < 6000 && net.nowMs < before + 60_000) net.step()
  t.is(nodes[3]!.deliveredEntries, 6000)
  const tookMs = net.nowMs - before
  t.ok(tookMs < 3 * 1_240 * 6000 / 500 / 3, `three links at 500 B/ms: ${tookMs} ms`)
  for (const name of ['a', 'b', 'c']) t.ok(served.get(name)! > 1000, `${name} served ${served.get(name)}`)
  const total = [...served.values()].reduce((a, b) => a + b, 0)
  t.ok(total < 6000 * 1.05, `${total} entries were sent for 6000`)
})

test('what a peer that falls silent was asked for comes from another', (t) => {
  const { net, nodes } = create(3)
  net.connect('a', 'b')
  writeMany(nodes[0]!, 500, 2000)
  net.run(5000)
  nodes[0]!.tamper = (_peer, m) => (m.type === 'entries' ? [] : [m])
  net.connect('c', 'a'); net.connect('c', 'b')
  net.run(30_000)
  t.is(dump(nodes[2]!), dump(nodes[1]!))
})

test('entries too large for a message go in parts', (t) => {
  const { net, nodes } = create(2)
  net.connectAll()
  net.run(100)
  writeMany(nodes[0]!, 2, 50)
  nodes[0]!.write(Buffer.alloc(4_000_000, 1))
  nodes[0]!.write(Buffer.alloc(MAX_ENTRIES_BYTES - 184, 2))
  nodes[0]!.write(Buffer.alloc(MAX_ENTRIES_BYTES - 183, 2))
  nodes[0]!.write(Buffer.alloc(300_000, 2))
  writeMany(nodes[0]!, 2, 50)
  net.run(20_000)
  t.is(nodes[1]!.deliveredEntries, 8)
  t.is(dump(nodes[1]!), dump(nodes[0]!))
})

test('a large entry comes over a slow link', (t) => {
  const { net, nodes } = create(2, { seed: 3, bytesPerMs: 60 })
  nodes[0]!.write(Buffer.alloc(4_000_000, 1))
  writeMany(nodes[0]!, 2)
  net.connectAll()
  net.run(90_000)
  t.is(dump(nodes[1]!), dump(nodes[0]!), '67 s for the entry alone')
})

test('a lost tail comes back, and the device goes on as a new incarnation', (t) => {
  const { net, nodes } = create(3)
  net.connectAll()
  net.run(100)
  const a = nodes[0]!
  writeMany(a, 5)
  net.run(1000)
  const backup = a.disk.copy()
  writeMany(a, 5)
  net.run(2000)
  a.crash()
  a.disk.logs = backup
  a.start()
  const first = a.own
  net.connectAll()
  net.run(5000)
  t.unlike(a.own, first)
  t.is(seqOf(a.disk.logs.get(logKey(first))!), 10)
  writeMany(a, 2)
  net.run(8000)
  for (const node of nodes) t.is(dump(node), dump(a))
  t.is(a.disk.logs.size, 2)
  for (const node of nodes) t.alike(node.caught, [])
})

test('a fork is proven, everywhere, also where only one side of it is known', (t) => {
  const { net, nodes } = create(4)
  const [a, , c, d] = nodes as [LogNode, LogNode, LogNode, LogNode]
  net.connect('a', 'b')
  writeMany(a, 3)
  net.run(1000)
  const backup = a.disk.copy()
  writeMany(a, 1, 70)
  net.run(2000)
  net.connect('b', 'd')
  net.run(3000)
  // From a backup, and it writes on before anybody tells it.
  a.crash()
  a.disk.logs = backup
  a.start()
  writeMany(a, 1, 80)
  net.connect('a', 'c')
  net.run(4000)
  t.is(seqOf(c.disk.logs.get(logKey(a.own))!), 4)
  const forked = logKey(a.own)
  net.connect('b', 'c')
  net.run(12_000)
  for (const node of nodes) t.is(node.disk.proofs.length, 1, node.name)
  t.unlike(logKey(a.own), forked)
  for (const node of nodes) t.alike(node.caught, [], node.name)
  writeMany(a, 1)
  net.run(15_000)
  t.is(seqOf(d.disk.logs.get(logKey(a.own))!), 1, 'its new log is taken')
})

test('entries that nobody has any more: a snapshot is asked for', (t) => {
  const { net, nodes } = create(3)
  const [a, , c] = nodes as [LogNode, LogNode, LogNode]
  net.connect('a', 'b')
  writeMany(a, 20)
  net.run(1000)
  a.truncate(a.own, 10)
  net.connect('a', 'c')
  net.run(2000)
  t.alike(c.snapshotsNeeded, ['a'])
  t.is(c.deliveredEntries, 0)
  c.adopt(a)
  writeMany(a, 2)
  net.run(4000)
  t.is(c.deliveredEntries, 2)
  t.is(dump(c), dump(a))
  // Who has them all is asked first.
  const late = new LogNode(net, 'late')
  late.start()
  net.connect('late', 'b')
  net.connect('late', 'a')
  net.run(6000)
  t.is(late.deliveredEntries, 22)
  t.is(dump(late), dump(a))
})

const LIES: Record<string, (m: SyncMessage) => SyncMessage[]> = {
  'forged content': (m) => (m.type === 'entries' ? [{ ...m, entries: m.entries.map((e) => ({ ...e, sealed: Buffer.alloc(e.sealed.length, 9) })) }] : [m]),
  'forged signature': (m) => (m.type === 'entries' ? [{ ...m, entries: m.entries.map((e) => ({ ...e, signed: Buffer.concat([e.signed.subarray(0, -1), Buffer.from([7])]) })) }] : [m]),
  'other entries': (m) => (m.type === 'entries' ? [{ ...m, from: m.from + 1 }] : [m]),
  'too many': (m) => (m.type === 'entries' && m.entries.length === 1 ? [{ ...m, entries: [...m.entries, ...m.entries, ...m.entries] }] : [m]),
  'far too large': (m) => (m.type === 'entries' ? [{ ...m, entries: m.entries.slice(0, 1).map((e) => ({ ...e, sealed: Buffer.alloc(900_000) })) }] : [m]),
  'another log': (m) => (m.type === 'entries' ? [{ ...m, device: Buffer.alloc(32, 1) }] : [m]),
  'fewer each time': (m) => (m.type === 'entries' ? [{ ...m, entries: m.entries.slice(0, 1) }] : [m]),
  'everything twice': (m) => (m.type === 'entries' || m.type === 'have' ? [m, m] : [m]),
  'nothing of what it says': (m) => (m.type === 'entries' ? [{ type: 'noEntries', request: Math.max(1, m.request), needBytes: 0 }] : [m]),
  'endless need': (m) => (m.type === 'entries' ? [{ type: 'noEntries', request: Math.max(1, m.request), needBytes: 8_000_000 }] : [m]),
  'heads in the clouds': (m) => (m.type === 'have' ? [{ ...m, logs: m.logs.map((log) => ({ ...log, seq: log.seq + 1e12, hash: Buffer.alloc(32) })) }] : [m]),
  'other hashes': (m) => (m.type === 'have' ? [{ ...m, logs: m.logs.map((log) => ({ ...log, hash: Buffer.alloc(32, 5) })) }] : [m]),
  'forks that are none': (m) => (m.type === 'have' && m.logs[0] ? [m, { type: 'forked', incarnation: m.logs[0].incarnation, device: m.logs[0].device, one: Buffer.alloc(184), other: Buffer.alloc(184, 1) }] : [m]),
  'a thousand logs': (m) => (m.type === 'have' ? [{
    ...m, logs: Array.from({ length: 1000 }, (_, i) => ({ incarnation: Buffer.alloc(16, String(i)), device: Buffer.alloc(32, i), first: 1, seq: 1e9, hash: Buffer.alloc(32) })),
  }] : [m]),
}

for (const [what, lie] of Object.entries(LIES)) {
  test(`a peer that lies (${what}) keeps nobody from the truth`, (t) => {
    const { net, nodes } = create(4, { seed: 5 })
    const [a, b, c, liar] = nodes as [LogNode, LogNode, LogNode, LogNode]
    liar.tamper = (_peer, m) => lie(m)
    net.connect('a', 'b')
    writeMany(a, 300, 1500)
    net.run(2000)
    net.connect('a', 'd')
    net.run(8000)
    // The liar first; the truth a little later.
    net.connect('c', 'd')
    net.run(9000)
    for (let round = 0; round < 40; round++) {
      net.connectAll()
      net.run(9000 + round * 1000)
      if (round === 20) writeMany(b, 5)
    }
    net.run(net.nowMs + 30_000)
    t.is(dump(c), dump(a))
    t.is(dump(b), dump(a))
    t.is(seqOf(c.disk.logs.get(logKey(a.own))!), 300)
    for (const node of [a, b, c]) t.ok(node.caught.every((one) => one.peer === 'd'), `${node.name} blames nobody else`)
    for (const node of [a, b, c]) t.alike(node.disk.proofs, [])
    for (const node of [a, b, c]) t.is(node.sync.bytes.kept + node.sync.bytes.judged, 0)
  })
}

/** Devices write, crash and lose each other for a while; then all are connected, and must agree. */
function randomRun(seed: number): { entries: number; messages: number } {
  const rand = seeded(seed)
  const pick = (n: number) => Math.floor(rand() * n)
  const { net, nodes } = create(2 + pick(4), { seed, delayMs: [1, 1 + pick(200)], bytesPerMs: 50 + pick(5000) })
  const names = nodes.map((n) => n.name)
  const liar = rand() < 0.3 ? nodes[pick(nodes.length)] : undefined
  const lies = Object.values(LIES)
  const lie = lies[pick(lies.length)]!
  if (liar) liar.tamper = (_peer, m) => (rand() < 0.3 ? lie(m) : [m])
  const promised = new Map<string, FakeLog>()
  const note = (node: LogNode) => { for (const [key, log] of node.disk.logs) if (node !== liar && log.name.device.equals(node.device.key)) promised.set(key, { ...log }) }

  const untilMs = 2000 + pick(15_000)
  while (net.nowMs < untilMs) {
    net.run(net.nowMs + pick(300))
    const node = nodes[pick(nodes.length)]!
    const what = rand()
    if (what < 0.45) {
      if (node.isUp) for (let n = pick(25); n > 0; n--) node.write(Buffer.alloc(40 + (rand() < 0.004 ? pick(2_000_000) : pick(1500)), pick(256)))
    } else if (what < 0.6) net.connect(names[pick(names.length)]!, names[pick(names.length)]!)
    else if (what < 0.7) net.disconnect(names[pick(names.length)]!, names[pick(names.length)]!)
    else if (what < 0.75) net.partition([names.filter((_, i) => i % 2 === 0), names.filter((_, i) => i % 2 === 1)])
    else if (what < 0.8) { net.heal(); net.connectAll() }
    else if (what < 0.87 && node.isUp) { note(node); node.crash() }
    else if (!node.isUp) node.start()
    else node.syncDisk()
  }
  net.heal()
  for (const node of nodes) {
    if (!node.isUp) node.start()
    node.syncDisk()
    note(node)
  }
  const honest = nodes.filter((n) => n !== liar)
  let rounds = 0
  const isDone = () => honest.every((n) => dump(n) === dump(honest[0]!))
  do {
    net.connectAll()
    net.run(net.nowMs + 1000)
    if (rounds++ > 240) throw new Error(`they do not agree:\n${honest.map((n) => `${n.name}:\n${dump(n)} ${JSON.stringify(n.sync.bytes)} ${JSON.stringify(n.caught)}`).join('\n')}`)
  } while (!isDone())
  net.run(net.nowMs + 30_000)
  for (const [key, log] of promised) for (const node of honest) {
    const mine = node.disk.logs.get(key)
    if (!mine || seqOf(mine) < seqOf(log)) throw new Error(`${node.name} lacks what was durable: ${mine ? seqOf(mine) : 0} of ${seqOf(log)}`)
    const at = seqOf(log) - 1
    if (log.entries.length > 0 && !mine.hashes[at]!.equals(headOf(log))) throw new Error('another entry in its place')
  }
  for (const node of honest) {
    const blamed = node.caught.find((one) => one.peer !== liar?.name)
    if (blamed) throw new Error(`${node.name} blames ${blamed.peer}: ${blamed.why}`)
    const bytes = Object.values(node.sync.bytes).reduce((a, b) => a + b, 0)
    if (!liar && bytes > 0) throw new Error(`${node.name} counts ${JSON.stringify(node.sync.bytes)} with nothing to do`)
    if (node.disk.proofs.length > 0) throw new Error('a fork that was none')
  }
  return { entries: honest[0]!.deliveredEntries, messages: net.arrived.messages }
}

test('after everything has healed all logs are equal, and nothing durable is lost', (t) => {
  const only = process.env.SIM_SEED
  const seeds = only ? [Number(only)] : Array.from({ length: Number(process.env.SIM_SEEDS ?? 200) }, (_, i) => i + 1)
  const started = performance.now()
  let entries = 0, messages = 0
  for (const seed of seeds) {
    try {
      const done = randomRun(seed)
      entries += done.entries
      messages += done.messages
    } catch (e) {
      return t.fail(`SIM_SEED=${seed}: ${(e as Error).stack}`)
    }
  }
  t.pass(`${seeds.length} seeds, ${entries} entries, ${messages} messages, ${Math.round(performance.now() - started)} ms`)
})

test('a seed replays exactly', (t) => {
  t.alike(randomRun(7), randomRun(7))
})
