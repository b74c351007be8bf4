/**
 * Peers that hold the key and lie, against real daemons: the device that is lied to says so, cuts the liar off, works on
 * for its honest peer, and needs no memory for it.
 */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { certify } from '../../lib/keys/certificate.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { Writer } from '../../lib/log/codec.js'
import { INO_HIGH, type Op } from '../../lib/log/ops.js'
import { metaOfFresh, metaOfKept } from '../../lib/snapshot.js'
import { TABLES } from '../../lib/store/snapshot.js'
import { MAX_SNAPSHOT_PIECE_BYTES } from '../../lib/swarm/messages.js'
import { AGAIN_MS } from '../../lib/swarm/snapshot.js'
import { encode } from '../../lib/swarm/wire.js'
import { chunksOf, ids, Liar, sendSnapshot, ZERO, type LiarOptions, type SnapshotLie } from '../helpers/liar.js'
import { closeMembers, Member, until } from '../helpers/member.js'
import { isAlive, memoryOf } from '../helpers/mount.js'
import { freePort } from '../bench/sync-pairs.js'
import { scratchDir } from '../helpers/scratch.js'

const LONG = { timeout: 300_000 }
const MEMORY_BYTES = 350 << 20
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void closeMembers().then(() => process.exit(1)))

/** A drive on an attacked device, and an honest one. */
async function pair(t: Assert): Promise<{ a: Member; b: Member; key: string; scratch: string }> {
  const scratch = scratchDir(t)
  t.teardown(closeMembers, { order: 1, force: true })
  const [portA, portB] = [await freePort(), await freePort()]
  const a = new Member('a', scratch, { port: portA })
  const b = new Member('b', scratch, { port: portB })
  await a.mount()
  const key = await a.key()
  await b.join(key, '--peer', a.address)
  await b.mount()
  return { a, b, key, scratch }
}

let said = 0
/** The two work together as ever. */
async function works(t: Assert, a: Member, b: Member, pid: number, after: string): Promise<void> {
  const text = `said ${said++}`
  writeFileSync(b.at('by-b'), text)
  writeFileSync(a.at('by-a'), text)
  await until(`what b writes is on a, after ${after}`, () => { try { return readFileSync(a.at('by-b'), 'utf8') === text } catch { return false } })
  await until(`what a writes is on b, after ${after}`, () => { try { return readFileSync(b.at('by-a'), 'utf8') === text } catch { return false } })
  const { rss } = memoryOf(pid)
  t.ok(isAlive(pid) && rss < MEMORY_BYTES, `${after}: works on, ${(rss / 2 ** 20).toFixed(0)} MB`)
}

interface Lie {
  what: string
  /** What the log says of it; absent: nothing is wrong with it, or it cannot be told from bad luck: it is only to do no harm. */
  cut?: RegExp
  /** The same, of one that is not to be cut off: who passes it on may be honest. */
  told?: RegExp
  options?: LiarOptions
  tell(liar: Liar, about: { a: Buffer; b: Buffer }): void | Promise<void>
}

/** In a directory of the second log that the entry names. */
const create = (name: string, counter: number): Op => ({ type: 'create', parent: INO_HIGH + 99, name: Buffer.from(name), ino: counter, mode: 0o100644, uid: 0, gid: 0, rdev: 0, time: { sec: 1, nsec: 0 } })

const LIES: Lie[] = [
  { what: 'an entry with a wrong signature', cut: /entry 1 is not valid/, tell: (x) => x.push(1, [x.entry(1, ZERO, [], { flip: 'signature' })]) },
  { what: 'an entry whose ops are others', cut: /entry 1 is not valid/, tell: (x) => x.push(1, [x.entry(1, ZERO, [], { flip: 'ops' })]) },
  { what: 'an entry of another drive', cut: /entry 1 is not valid/, tell: (x) => x.push(1, [x.entry(1, ZERO, [], { drive: randomBytes(32) })]) },
  { what: 'ops that are no ops', cut: /entry 1 is not valid/, tell: (x) => x.push(1, [x.entry(1, ZERO, randomBytes(200))]) },
  { what: 'more ops than there are', cut: /entry 1 is not valid/, tell: (x) => x.push(1, [x.entry(1, ZERO, [], { opCount: 2 ** 40 })]) },
  { what: 'an entry whose ids begin elsewhere', cut: /entry 1 is not valid/, tell: (x) => x.push(1, [x.entry(1, ZERO, [], { firstOp: 1000 })]) },
  {
    what: 'two histories of its own', told: /has written two histories/,
    tell: (x) => {
      const first = x.entry(1, ZERO, [], x.seen())
      x.push(1, [first])
      x.push(2, [x.entry(2, randomBytes(32), [])])
    },
  },
  {
    what: 'an entry in the name of another device', cut: /entry \d+ is not valid/,
    tell: (x, { b }) => {
      const log = x.held.get(b.toString('hex'))!
      x.push(log.seq + 1, [x.entry(log.seq + 1, log.hash, [], { incarnation: log.incarnation })], log)
    },
  },
  {
    what: 'an entry in the incarnation of another', cut: /entry \d+ is not valid/,
    tell: (x, { b }) => {
      const { incarnation } = x.held.get(b.toString('hex'))!
      x.push(1, [x.entry(1, ZERO, [], { incarnation })], { incarnation, device: x.device.publicKey })
    },
  },
  {
    what: 'a log with a gap that it does not fill',
    tell: (x) => x.push(100, [x.entry(100, randomBytes(32), [])]),
  },
  {
    what: 'entries of another, again', 
    tell: async (x, { b }) => {
      const { from, entries } = await x.entriesOf(b)
      for (let i = 0; i < 50; i++) x.push(from, entries, x.held.get(b.toString('hex')))
    },
  },
  {
    what: 'entries of another at another place', cut: /not valid|fork/,
    tell: async (x, { b }) => {
      const log = x.held.get(b.toString('hex'))!
      const { entries } = await x.entriesOf(b)
      x.push(log.seq + 1, [entries[0]!], log)
    },
  },
  {
    what: 'ids of a log that it does not name', cut: /entry 1 is not valid/,
    tell: (x) => x.push(1, [x.entry(1, ZERO, [create('in the void', 1)])]),
  },
  {
    what: 'names in a directory that there is not', 
    tell: (x) => x.push(1, [x.entry(1, ZERO, [create('in the void', 1)], x.seen(Buffer.alloc(16)))]),
  },
  { what: 'garbage', cut: /no dfs writes/, tell: (x) => x.raw(Buffer.concat([Buffer.of(200), randomBytes(1000)])) },
  { what: 'an empty list of a billion', cut: /no dfs writes/, tell: (x) => x.raw(Buffer.from([1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f])) },
  { what: 'a million random bytes', cut: /no dfs writes/, tell: (x) => x.raw(Buffer.concat([Buffer.of(3), randomBytes(1_000_000)]), 'bulk') },
  {
    what: 'a snapshot that nobody asked for',
    tell: async (x) => {
      x.send({ type: 'snapshotBegin', meta: metaOfFresh(randomBytes(16)), totalBytes: 2 ** 50 })
      await x.flood(40, () => encode({ type: 'snapshotPiece', kind: 'rows', bytes: randomBytes(500_000) }))
      x.send({ type: 'snapshotEnd', hash: randomBytes(32), head: Buffer.alloc(0) })
    },
  },
  { what: 'a certificate that nobody has signed', cut: /certificate that the drive has not signed/, tell: (x) => x.send({ type: 'certificates', certificates: [randomBytes(200)] }) },
  {
    what: 'certificates of another drive', cut: /certificate that the drive has not signed/,
    tell: (x) => {
      const other = DriveKeys.create()
      x.send({ type: 'certificates', certificates: ids(256).map((device) => certify(other, { device, role: 'full', name: 'x' })) })
    },
  },
  {
    what: 'a certificate of another drive in the handshake', cut: /certificate that the drive has not signed/,
    options: { certificate: (_, { publicKey }) => certify(DriveKeys.create(), { device: publicKey, role: 'full', name: 'x' }) },
    tell: () => {},
  },
  {
    what: 'a fork of another that is none', cut: /accused a device of a fork and proved none/,
    tell: async (x, { b }) => {
      const { entries, incarnation, device } = await x.entriesOf(b)
      x.send({ type: 'forked', incarnation, device, one: entries[0]!.signed, other: entries[entries.length - 1]!.signed })
    },
  },
  {
    what: 'a fork of another by its own hand', cut: /accused a device of a fork and proved none/,
    tell: (x, { b }) => {
      const { incarnation, device } = x.held.get(b.toString('hex'))!
      x.send({ type: 'forked', incarnation, device, one: x.entry(1, ZERO, [], { incarnation }).signed, other: x.entry(1, ZERO, [], { incarnation, clockMs: 1 }).signed })
    },
  },
  {
    what: 'that it holds more of our log than we do',
    tell: (x, { a }) => {
      const log = x.held.get(a.toString('hex'))!
      for (let i = 1; i <= 200; i++) x.send({ type: 'have', isFull: false, logs: [{ ...log, seq: log.seq + i * 1000, hash: randomBytes(32) }] })
    },
  },
  {
    what: 'another hash for an entry of another',
    tell: (x, { b }) => {
      const log = x.held.get(b.toString('hex'))!
      x.send({ type: 'have', isFull: false, logs: [{ ...log, hash: randomBytes(32) }] })
    },
  },
  {
    what: 'logs without end',
    tell: (x) => x.flood(100, () => encode({
      type: 'have', isFull: false, logs: ids(1024).map((device) => ({ device, incarnation: randomBytes(16), first: 1, seq: 1 + Math.floor(Math.random() * 1e9), hash: ZERO })),
    })),
  },
  {
    what: 'that it has all chunks', 
    tell: (x) => x.flood(500, () => encode({ type: 'haveChunks', copies: 0, ids: ids(1024) })),
  },
  { what: 'chunks that nobody asked for', cut: /what nobody asked for/, tell: (x) => x.flood(300, () => encode({ type: 'chunk', id: randomBytes(32), sealed: randomBytes(100_000) })) },
  { what: 'wants without end', tell: (x) => x.flood(400, () => encode({ type: 'wantChunks', urgency: 'reader', ids: ids(1024) })) },
  { what: 'questions without end', tell: (x) => x.flood(200, () => encode({ type: 'askChunks', copies: 0, ids: ids(1024) })) },
  { what: 'challenges without end', tell: (x) => x.flood(10_000, () => encode({ type: 'challenge', id: randomBytes(32), nonce: ZERO })) },
  {
    what: 'wants of entries without end',
    tell: (x, { a }) => {
      const log = x.held.get(a.toString('hex'))!
      return x.flood(10_000, (i) => encode({ type: 'wantEntries', request: i + 1, incarnation: log.incarnation, device: log.device, from: 1, to: 1e9, limitBytes: 1 << 20 }))
    },
  },
  { what: 'wants of snapshots without end', tell: (x) => x.flood(2000, () => encode({ type: 'wantSnapshot', creditBytes: 16 << 20 })) },
]

test('who lies is told of and cut off, and the others are served', LONG, async (t) => {
  const { a, b, key } = await pair(t)
  const { pid } = a
  await works(t, a, b, pid, 'joining')
  const probe = await Liar.meet(t, key, a.address, 'probe')
  await probe.until('hears of both logs', () => probe.held.size >= 2)
  // Whose log is whose: a names its own device in the handshake.
  const aKey = probe.link!.peer
  const bKey = [...probe.held.values()].find((log) => !log.device.equals(aKey))!.device
  await probe.close()

  for (const [i, { what, cut, told, tell, options }] of LIES.entries()) {
    const liar = await Liar.meet(t, key, a.address, `liar-${i}`, options)
    const logged = a.log.length
    if (!cut || !options) await liar.until(`is told of the logs (${what})`, () => liar.held.size >= 2)
    const start = performance.now()
    await tell(liar, { a: aKey, b: bKey })
    if (process.env.DFS_TEST_TIMES) t.comment(`told in ${(performance.now() - start).toFixed(0)} ms`)
    if (cut) {
      await until(`cut off for ${what}: ${a.log.slice(logged)}`, () => cut.test(a.log.slice(logged)))
      await liar.until(`is cut off for ${what}`, () => liar.cuts > 0)
    }
    if (told) await until(`told of ${what}`, () => told.test(a.log.slice(logged)))
    // What is cut off at its first message can do little: looked after a few of them.
    if (!cut || i % 6 === 0) await works(t, a, b, pid, what)
    if (!cut) t.absent(/was cut off/.test(a.log.slice(logged)), `${what}: nobody is accused`)
    await liar.close()
  }
  t.is(a.pid, (await a.status()).pid)
  t.absent(/fault|Error|failed:/i.test(a.log), a.log.split('\n').filter((l) => /fault|error/i.test(l)).join('\n'))
  const { peak } = memoryOf(pid)
  t.ok(peak < MEMORY_BYTES, `at most ${(peak / 2 ** 20).toFixed(0)} MB`)
  await a.unmount()
  await a.dfs('fsck', '--data')
})

test('who comes back with the same lie again and again is not listened to for ever', LONG, async (t) => {
  const { a, b, key } = await pair(t)
  const garbage = () => Buffer.of(255, 1, 2, 3)
  const liar = await Liar.meet(t, key, a.address, 'again')
  const notices = () => a.log.split('\n').filter((l) => l.includes('was cut off')).length
  liar.raw(garbage())
  await until('cut off', () => notices() === 1)
  // It tries again at once, and again, and is not listened to.
  await liar.until('is cut off again', () => liar.cuts > 2)
  t.is(notices(), 1)
  await liar.until('is let in again', () => {
    liar.raw(garbage())
    return notices() > 1
  })
  await works(t, a, b, a.pid, 'a liar that comes back')
})

test('a peer that takes nothing in holds nothing up', LONG, async (t) => {
  const { a, b, key } = await pair(t)
  await writeFile(a.at('big'), randomBytes(64 << 20))
  await until('b has it all', async () => (await b.status()).chunks.owed === 0 && (await readFile(b.at('big'))).length === 64 << 20)
  const liar = await Liar.meet(t, key, a.address, 'deaf')
  await liar.until('is told of the logs', () => liar.held.size >= 2)
  const { entries } = await liar.entriesOf(liar.link!.peer)
  t.ok(entries.length > 0)
  const wanted = entries.flatMap(chunksOf)
  t.ok(wanted.length > 100, `${wanted.length} chunks`)
  liar.isDeaf = true
  for (let i = 0; i < wanted.length; i += 1024) liar.send({ type: 'wantChunks', urgency: 'reader', ids: wanted.slice(i, i + 1024) })
  liar.send({ type: 'wantSnapshot', creditBytes: 16 << 20 })
  await works(t, a, b, a.pid, 'a peer that takes nothing in')
  const before = (await a.status()).rssBytes
  for (let i = 0; i < 2; i++) await works(t, a, b, a.pid, 'the same')
  t.ok((await a.status()).rssBytes < Math.max(before + (64 << 20), 200 << 20))
})

test('who leaves in the middle of a snapshot, or has no more of it, leaves nothing behind', LONG, async (t) => {
  const { a, b, key } = await pair(t)
  // So many inodes that credit ends in the middle of their rows, which are read from an iterator.
  const creditBytes = MAX_SNAPSHOT_PIECE_BYTES * 1.25
  mkdirSync(a.at('many'))
  for (let i = 0; i < 4000; i++) writeFileSync(a.at(`many/a name of some length, number ${i}`), '')
  const leavers: [what: string, leave: (x: Liar) => unknown][] = [
    ['goes', (x) => x.close()],
    ['cancels', (x) => x.send({ type: 'snapshotCancel' })],
    ['asks again', async (x) => {
      await sleep(AGAIN_MS)
      x.send({ type: 'wantSnapshot', creditBytes })
      await x.until('is given another', () => x.counts.get('snapshotBegin') === 2)
    }],
  ]
  for (const [what, leave] of leavers) {
    const liar = await Liar.meet(t, key, a.address, what)
    liar.send({ type: 'wantSnapshot', creditBytes })
    await liar.until('gets the first pieces', () => (liar.counts.get('snapshotPiece') ?? 0) > 2)
    await leave(liar)
    await works(t, a, b, a.pid, `one that ${what}`)
    await liar.close()
  }
  t.is(a.pid, (await a.status()).pid)
  t.absent(/fault|Error|failed:/i.test(a.log), a.log)
  const last = await Liar.meet(t, key, a.address, 'leaver')
  last.send({ type: 'wantSnapshot', creditBytes })
  await last.until('gets the first pieces', () => (last.counts.get('snapshotPiece') ?? 0) > 2)
  // While it is given.
  await a.unmount()
  await a.dfs('fsck', '--data')
})

test('wrong chunks: the liar is cut off, the reader gets the right ones', LONG, async (t) => {
  const { a, b, key, scratch } = await pair(t)
  const content = randomBytes(24 << 20)
  await writeFile(b.at('file'), content)
  const c = new Member('c', scratch, { port: await freePort() })
  await c.join(key, '--peer', a.address)
  await c.mount()
  // It says that it holds everything, and gives something else.
  let asked = 0
  const liar = await Liar.meet(t, key, c.address, 'wrong-chunks', {
    answer: (m, x) => {
      if (m.type !== 'wantChunks') return false
      asked += m.ids.length
      for (const id of m.ids) x.send({ type: 'chunk', id, sealed: randomBytes(100_000) }, 'bulk')
      return true
    },
  })
  liar.send({ type: 'status', capacityBytes: 1e12, usedBytes: 0, owedBytes: 0, keepsEverything: true, plan: Buffer.alloc(32) })
  const more = randomBytes(24 << 20)
  await writeFile(b.at('more'), more)
  await until('c has both files', async () => (await c.status()).chunks.owed === 0 && (await readFile(c.at('more')).catch(() => Buffer.alloc(0))).equals(more))
  t.ok((await readFile(c.at('file'))).equals(content))
  t.comment(`the liar was asked for ${asked} chunks`)
  if (asked > 20) t.ok(/wrong-chunks was cut off/.test(c.log))
  await works(t, a, b, a.pid, 'wrong chunks')
})

test('joining: a snapshot of nonsense is not taken, whatever it is made of', LONG, async (t) => {
  const { a, key, scratch } = await pair(t)
  await writeFile(a.at('true'), 'as it is')
  const nulls = (table: number) => Buffer.alloc(TABLES[table]!.columns.length)
  const numbers = (table: number) => {
    const w = new Writer(200)
    for (const _ of TABLES[table]!.columns) { w.byte(1); w.int(7) }
    return w.take()
  }
  const at = (name: string) => TABLES.findIndex((table) => table.name === name)
  const nonsense: [what: string, parts: [table: number, rows: Buffer][]][] = [
    ['nothing at all', []],
    ['random rows', [[1, randomBytes(1000)]]],
    ['a table that there is not', [[200, Buffer.alloc(10)]]],
    ['rows of nothing', [[at('inode'), nulls(at('inode'))]]],
    ['rows of sevens', TABLES.map((_, i): [number, Buffer] => [i, numbers(i)]).filter(([i]) => i !== at('meta') && i !== at('chunk'))],
    ['a drive without a root', [[at('incarnation'), (() => {
      const w = new Writer(200)
      w.byte(1); w.int(0); w.byte(3); w.bytes(Buffer.alloc(16)); w.byte(3); w.bytes(Buffer.alloc(32))
      return w.take()
    })()]]],
  ]
  const root: [number, Buffer][] = [nonsense[5]![1][0]!]
  /** What is wrong with how it is sent. */
  const ways: [what: string, change: SnapshotLie][] = [
    ['as it is', {}],
    ['not sealed', { seal: (plain) => plain }],
    ['sealed as other pieces', { seal: (plain, id, n, sealer) => sealer.seal(id, n + 1, plain) }],
    ['of another snapshot', { seal: (plain, _, n, sealer) => sealer.seal(randomBytes(16), n, plain) }],
    ['signed by nobody', { head: (head) => Buffer.concat([head.subarray(0, -64), randomBytes(64)]) }],
    ['without a head', { head: () => Buffer.alloc(0) }],
    ['signed by a reader', { role: 'read-only' }],
    ['with the head of another', { id: randomBytes(16) }],
    ['begun as nothing', { meta: () => Buffer.of(7) }],
    ['with a head of garbage', { meta: () => metaOfKept(randomBytes(300)) }],
    ['rows without an end', { seal: (plain, id, n, sealer) => { plain[1] = 1; return sealer.seal(id, n, plain) } }],
  ]
  const lies: [[number, Buffer][], SnapshotLie][] = [...nonsense.map(([, parts]): [[number, Buffer][], SnapshotLie] => [parts, {}]), ...ways.map(([, how]): [[number, Buffer][], SnapshotLie] => [root, how])]
  let given = 0
  const liar = await Liar.meet(t, key, undefined, 'nonsense', {
    port: await freePort(),
    answer: (m, x) => {
      if (m.type !== 'wantSnapshot') return false
      const [parts, how] = lies[given++ % lies.length]!
      sendSnapshot(x, parts, how)
      return true
    },
  })
  // The honest one can be reached when the liar has said it all.
  const port = await freePort()
  const c = new Member('c', scratch, { port: await freePort() })
  await c.join(key, '--peer', liar.address, '--peer', `127.0.0.1:${port}`)
  const mounted = c.mount()
  mounted.catch(() => {})
  await liar.until('is asked again after each', () => given > lies.length)
  const way = createServer((from) => {
    const to = connect(Number(a.address.split(':')[1]), '127.0.0.1')
    from.on('error', () => to.destroy()).on('close', () => to.destroy())
    to.on('error', () => from.destroy()).on('close', () => from.destroy())
    from.pipe(to).pipe(from)
  })
  t.teardown(() => { way.close() }, { force: true })
  await new Promise<void>((done) => way.listen(port, '127.0.0.1', done))
  await mounted
  t.is(await readFile(c.at('true'), 'utf8').catch(String), 'as it is')
  await c.unmount()
  await c.dfs('fsck', '--data')
})
