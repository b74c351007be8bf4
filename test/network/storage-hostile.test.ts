/**
 * Who holds the storage key and nothing else, and is no friend: on real sockets, against devices that write, that join, and that
 * store. It gets to read nothing, is believed nothing that is not signed, and makes nobody hold more than was signed for.
 */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { systemTimers, type Timers } from '../../lib/clock.js'
import { Drive } from '../../lib/drive.js'
import { finishJoin, prepareJoin, SnapshotIntake, type Linked } from '../../lib/join.js'
import { certify } from '../../lib/keys/certificate.js'
import { createDevice } from '../../lib/keys/device.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { readHead, writeHead } from '../../lib/log/snapshot-head.js'
import { SnapshotSealer } from '../../lib/seal/snapshot.js'
import { metaOfFresh, metaOfKept } from '../../lib/snapshot.js'
import { Database } from '../../lib/store/database.js'
import { writeHello } from '../../lib/swarm/hello.js'
import type { Message, SnapshotEnd, SnapshotPiece } from '../../lib/swarm/messages.js'
import type { Link } from '../../lib/swarm/net/link.js'
import { PiecesHash } from '../../lib/swarm/snapshot.js'
import { SnapshotKeeper } from '../../lib/swarm/snapshot-keeper.js'
import { decode, encode } from '../../lib/swarm/wire.js'
import { freePort } from '../bench/sync-pairs.js'
import { until } from '../helpers/devices.js'
import { Liar, ZERO } from '../helpers/liar.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'
import { Device, first, joined, keepsAll, LOCAL, read, storing, write } from '../helpers/storing.js'

const LONG = { timeout: 180_000 }

/** Who gives a snapshot: over a link, or not. */
type Teller = Pick<Liar, 'device' | 'send'>

interface Recorded { pieces: SnapshotPiece[]; end: SnapshotEnd }

/** What a device gives to a stranger with the storage key who says that he holds `kind`. */
async function snapshotOf(t: Assert, d: Device, key: string, kind: 'full' | 'read-only' | 'storage'): Promise<Recorded> {
  const pieces: SnapshotPiece[] = []
  let end: SnapshotEnd | undefined
  const liar = await Liar.meet(t, key, d.address, `takes as ${kind}`, {
    kind,
    answer: (m, x) => {
      if (m.type === 'snapshotPiece') {
        pieces.push({ ...m, bytes: Buffer.from(m.bytes) })
        x.send({ type: 'snapshotCredit', creditBytes: m.bytes.length })
      }
      if (m.type === 'snapshotEnd') end = m
      return m.type.startsWith('snapshot')
    },
  })
  liar.send({ type: 'wantSnapshot', creditBytes: 4 << 20 })
  await liar.until('has a snapshot', () => end !== undefined)
  await liar.close()
  return { pieces, end: end! }
}

test('with the storage key a snapshot is had and not read, whatever is said of the key', LONG, async (t) => {
  const a = await first(t)
  await write(a.drive, '/a-telling-name', Buffer.alloc(123_456, 'NOBODY-SHALL-SEE '))
  await a.drive.sync()
  const key = await a.drive.key('storage')
  for (const kind of ['full', 'read-only', 'storage'] as const) {
    const { pieces, end } = await snapshotOf(t, a, key, kind)
    t.ok(pieces.length > 1)
    t.is(pieces.some((p) => p.kind === 'chunks'), kind === 'storage', `as ${kind}: ids of chunks`)
    const rows = Buffer.concat(pieces.filter((p) => p.kind === 'rows').map((p) => p.bytes))
    // In the rows there is the device's key, and the drive's order as text.
    for (const word of [a.drive.device.publicKey, 'causal', 'a-telling-name', 'NOBODY']) t.absent(rows.includes(word), `as ${kind}: ${word.toString().slice(0, 12)}`)
    const head = readHead(end.head, a.drive.keys.driveId)!
    t.ok(head.by.device.equals(a.drive.device.publicKey) && head.hash.equals(end.hash))
    const opener = new SnapshotSealer(a.drive.keys)
    const opened = pieces.filter((p) => p.kind === 'rows').map((p, n) => opener.open(head.id, n, p.bytes))
    t.ok(Buffer.concat(opened).includes('causal'), 'that are there for who may read')
  }
  t.is(await codeOf(() => new SnapshotSealer(DriveKeys.fromCapability(key))), 'KEY_KIND')
})

test('no entry that is not signed by its device is taken, nor is anybody taken for another', LONG, async (t) => {
  const a = await first(t)
  const b = await joined(t, a)
  await write(b.drive, '/by b', randomBytes(50_000))
  await until('a has it', async () => (await a.drive.stat('/by b').catch(() => undefined))?.size === 50_000)
  const key = await a.drive.key('storage')
  const s = await storing(t, key, [a.address])
  await keepsAll(s, b)
  const bKey = b.drive.device.publicKey
  for (const victim of [a, s] as Device[]) {
    const before = [...victim.drive.log.heads()].filter(([inc]) => victim.drive.log.deviceOf(inc).equals(bKey))
    const forging: ((x: Liar) => void)[] = [
      (x) => { const log = x.held.get(bKey.toString('hex'))!; x.push(log.seq + 1, [x.entry(log.seq + 1, log.hash, [], { incarnation: log.incarnation })], log) },
      (x) => { const log = x.held.get(bKey.toString('hex'))!; x.push(1, [x.entry(1, ZERO, [], { incarnation: log.incarnation })], { incarnation: log.incarnation, device: x.device.publicKey }) },
    ]
    for (const [i, forge] of forging.entries()) {
      const liar = await Liar.meet(t, key, victim.address, `forger ${i}`, { kind: 'storage' })
      await liar.until('is told of the logs', () => liar.held.has(bKey.toString('hex')))
      forge(liar)
      // In its own name it is a stranger, of whom nothing is taken; in that of another it is found out.
      if (i === 0) {
        await liar.until('is cut off', () => liar.cuts > 0)
        await until('it is said why', () => victim.notices.some((n) => n.includes(`forger ${i}`) || /was cut off: entry \d+ is not valid/.test(n)))
      } else {
        liar.push(1, [liar.entry(1, ZERO, [])])
        await liar.until('is answered', () => liar.counts.has('status'))
      }
      await liar.close()
    }
    // With the certificate of another it stays a guest.
    const poser = await Liar.meet(t, key, victim.address, 'poser', { kind: 'full', certificate: () => a.drive.members.bytesOf(bKey)! })
    await until('it is seen', () => victim.swarm.peers().length > 0)
    await until('as a guest', () => victim.swarm.peers().some((p) => p.name === 'poser' && p.role === 'guest'))
    poser.send({ type: 'snapshotBegin', meta: metaOfFresh(randomBytes(16)), totalBytes: 1 })
    poser.push(1, [poser.entry(1, ZERO, [])])
    await poser.close()
    t.alike([...victim.drive.log.heads()].filter(([inc]) => victim.drive.log.deviceOf(inc).equals(bKey)), before, 'nothing was added to the log of b')
    t.absent([...victim.drive.log.heads().keys()].some((inc) => victim.drive.log.deviceOf(inc).equals(poser.device.publicKey)))
  }
})

/** A storage peer that gives this snapshot as it likes; answers nothing else. */
function giving(t: Assert, key: string, port: number, lies: ((x: Teller) => void)[], onEnd: () => void = () => {}): Promise<Liar> {
  let n = 0
  return Liar.meet(t, key, undefined, 'gives', {
    port, kind: 'storage',
    answer: (m, x) => {
      if (m.type !== 'wantSnapshot') return m.type === 'snapshotCancel' || m.type === 'snapshotCredit'
      lies[n % lies.length]!(x)
      if (++n % lies.length === 0) onEnd()
      return true
    },
  })
}

/** What is wrong with a snapshot for who joins, asking over what is no network; undefined: it was taken. */
async function refusal(t: Assert, keys: DriveKeys, lie: (x: Teller) => void): Promise<string | undefined> {
  const db = Database.create(join(scratchDir(t), 'index.db'))
  const device = createDevice()
  let nowMs = 0
  const timers: Timers = { ...systemTimers, nowMs: () => nowMs, after: (ms, run) => systemTimers.after(0, () => { nowMs += ms; run() }) }
  const over = new AbortController()
  let why: string | undefined
  const net: Linked = { onLink: () => {}, links: [] }
  const intake = new SnapshotIntake(db, net, keys, timers, {
    signal: over.signal,
    onNotice: (text) => {
      why ??= text
      over.abort()
    },
  })
  const running = intake.run()
  const link = {
    peer: device.publicKey, hello: writeHello({ kind: 'storage', name: 'x', certificate: undefined }), onMessage: (_: Buffer) => {},
    send: (bytes: Buffer) => { if (decode(bytes).type === 'wantSnapshot') lie({ device, send: (m) => link.onMessage(encode(m)) }) },
  }
  net.onLink(link as unknown as Link)
  await running.catch(() => {})
  db.close()
  return why
}

function give(x: Teller, head: Buffer, pieces: SnapshotPiece[], change: { meta?: Buffer; end?: Partial<SnapshotEnd> } = {}): void {
  const hash = new PiecesHash()
  x.send({ type: 'snapshotBegin', meta: change.meta ?? metaOfKept(head), totalBytes: 1 }, 'bulk')
  for (const p of pieces) {
    hash.add(p.kind, p.bytes)
    x.send(p, 'bulk')
  }
  x.send({ type: 'snapshotEnd', hash: hash.digest(), head: Buffer.alloc(0), ...change.end }, 'bulk')
}

test('a snapshot that was forged, cut short, mixed up or made longer is not taken, by who joins and by who stores', LONG, async (t) => {
  const a = await first(t)
  for (let i = 0; i < 40; i++) await write(a.drive, `/file ${i}`, randomBytes(20_000))
  await a.drive.sync()
  const key = await a.drive.key('storage')
  const [one, two] = [await snapshotOf(t, a, key, 'storage'), await snapshotOf(t, a, key, 'storage')]
  const { pieces } = one
  const { head } = one.end
  const flipped = (b: Buffer, at: number) => { const out = Buffer.from(b); out[at % b.length]! ^= 1; return out }
  const other = DriveKeys.create()
  const anyone = DriveKeys.fromCapability(key)
  const read = readHead(head, anyone.driveId)!
  t.ok(pieces.length >= 2)
  /** By itself: signed by a device that nobody has enrolled, or as a reader was. */
  const selfMade = (x: Teller, certificate: Buffer) => writeHead(anyone.driveId, certificate, read, x.device.secretKey)
  const lies: Record<string, (x: Teller) => void> = {
    'no head': (x) => give(x, head, pieces, { meta: metaOfFresh(read.id), end: { head } }),
    'a head that was changed': (x) => give(x, flipped(head, 120), pieces),
    'a signature that was changed': (x) => give(x, flipped(head, head.length - 1), pieces),
    'a head of its own': (x) => give(x, selfMade(x, a.drive.members.bytesOf(a.drive.device.publicKey)!), pieces),
    'a head that a reader has signed': (x) => give(x, selfMade(x, certify(a.drive.keys, { device: x.device.publicKey, role: 'read-only', name: 'reader' })), pieces),
    'a head of another drive': (x) => give(x, writeHead(other.driveId, certify(other, { device: x.device.publicKey, role: 'full', name: 'x' }), read, x.device.secretKey), pieces),
    'a piece that was changed': (x) => give(x, head, pieces.map((p, i) => (i === 1 ? { ...p, bytes: flipped(p.bytes, 77) } : p))),
    'without its last piece': (x) => give(x, head, pieces.slice(0, -1)),
    'without its first piece': (x) => give(x, head, pieces.slice(1)),
    'with nothing in it': (x) => give(x, head, []),
    'in another order': (x) => give(x, head, [...pieces].reverse()),
    'with pieces of another': (x) => give(x, head, two.pieces),
    'with the end of another': (x) => give(x, head, pieces.slice(0, -1), { end: two.end }),
    'ids in place of rows': (x) => give(x, head, pieces.map((p) => ({ ...p, kind: 'chunks' }))),
    'far longer than it was signed for': (x) => give(x, head, [...pieces, ...Array.from({ length: 6 }, (): SnapshotPiece => ({ type: 'snapshotPiece', kind: 'chunks', bytes: randomBytes(500_000) }))]),
  }
  // Who joins, over a network: some of them, as each attempt waits for the one before.
  const some = ['no head', 'a head of its own', 'a piece that was changed', 'without its last piece', 'far longer than it was signed for']
  let rounds = 0
  const liar = await giving(t, key, await freePort(), some.map((what) => lies[what]!), () => { rounds++ })
  const dir = scratchDir(t)
  await prepareJoin(dir, await a.drive.key('full'), { peers: [liar.address] })
  const over = new AbortController()
  const why: string[] = []
  const joining = finishJoin(dir, { network: LOCAL, signal: over.signal, onNotice: (text) => why.push(text) })
  joining.catch(() => {})
  await until('it has told its lies, and is asked for the next', () => rounds > 0 && (liar.counts.get('wantSnapshot') ?? 0) > some.length)
  t.ok(why.some((text) => text.includes('that no device of the drive has signed')))
  over.abort()
  t.is(await codeOf(() => joining), 'EINTR')
  t.is(await codeOf(() => Drive.open(dir)), 'STORE_JOINING')
  // All of them.
  for (const [what, lie] of Object.entries(lies)) t.ok(await refusal(t, a.drive.keys, lie), what)
  t.is(await refusal(t, a.drive.keys, (x) => give(x, head, pieces)), undefined, 'the true one is taken')
  // The same store takes the true one, from a peer that is no more trusted.
  const honest = await giving(t, key, await freePort(), [(x) => give(x, head, pieces)])
  await liar.close()
  await finishJoin(dir, { network: { ...LOCAL, peers: [honest.address] } })
  await honest.close()
  const c = await new Device(t, dir, [a.address]).start()
  await until('it goes on from there', async () => (await c.drive.status()).chunks.owed === 0 && (await c.drive.stat('/file 39')).size === 20_000)
  t.alike((await c.drive.fsck({ data: true })).problems, [])
  await c.stop()

  // Who stores, and has nothing yet: it cannot open a piece, and finds the same by the hash. No waiting here.
  const s = await storing(t, key, [])
  const { kept } = s.drive
  let nowMs = 0
  const sent: Message[] = []
  const keeper = new SnapshotKeeper({ holder: kept, timers: { ...systemTimers, nowMs: () => nowMs }, keys: anyone, send: (_, m) => sent.push(m) })
  keeper.up('x', 'storage')
  const offer = (lie: (x: Teller) => void) => {
    nowMs += 100_000
    keeper.tick()
    t.is(sent.pop()!.type, 'wantSnapshot')
    lie({ device: createDevice(), send: (m) => keeper.message('x', m as SnapshotPiece) })
  }
  for (const [what, lie] of Object.entries(lies)) {
    offer(lie)
    t.absent(kept.head, what)
    sent.length = 0
  }
  offer((x) => give(x, head, pieces))
  t.ok(kept.head?.hash.equals(one.end.hash), 'the true one it takes')
})

test('an older snapshot is no more than lag: what is missing comes from whoever has it', LONG, async (t) => {
  const a = await first(t)
  await write(a.drive, '/early', randomBytes(30_000))
  await a.drive.sync()
  const key = await a.drive.key('storage')
  const old = await snapshotOf(t, a, key, 'storage')
  const s = await storing(t, key, [a.address])
  for (let i = 0; i < 10; i++) await write(a.drive, `/late ${i}`, randomBytes(30_000))
  await a.drive.rm('/early')
  await a.drive.sync()
  await keepsAll(s, a)
  const full = await a.drive.key('full')
  await a.stop()
  const liar = await giving(t, key, await freePort(), [(x) => give(x, old.end.head, old.pieces)])
  const dir = scratchDir(t)
  await prepareJoin(dir, full, { peers: [liar.address] })
  await finishJoin(dir, { network: LOCAL })
  await liar.close()
  const c = await new Device(t, dir, [s.address]).start()
  await until('it has caught up', async () => (await c.drive.stat('/late 9').catch(() => undefined))?.size === 30_000 && (await c.drive.status()).chunks.owed === 0)

  // Nor does a storage peer go back to it.
  const had = s.drive.kept.head!
  t.exception(() => s.drive.kept.begin({ id: had.id, head: readHead(old.end.head, a.drive.keys.driveId)!, signed: old.end.head }), /older/)
  t.is(s.drive.kept.head, had)
})

test('floods: claims, wants, pieces that nobody asked for, at a device that writes and at one that stores', LONG, async (t) => {
  const a = await first(t)
  await write(a.drive, '/file', randomBytes(400_000))
  await a.drive.sync()
  const key = await a.drive.key('storage')
  const s = await storing(t, key, [a.address])
  await keepsAll(s, a)
  const head = s.drive.kept.head!
  const before = process.memoryUsage.rss()
  for (const victim of [a, s] as Device[]) await flooded(t, key, victim)
  t.ok(process.memoryUsage.rss() - before < 200 << 20)
  t.is(s.drive.kept.head, head, 'no snapshot was fetched for it')
  // That it holds what this device has lost is looked into once, for a while; it can come as another, and is not believed again.
  const alarms = () => a.notices.filter((n) => n.includes('taken back first')).length
  await until('the device goes on', () => a.notices.some((n) => n.includes('going on without them')))
  t.is(alarms(), 1)
  await flooded(t, key, a)
  t.is(alarms(), 1)
  t.alike(s.notices, [])
  await write(a.drive, '/more', randomBytes(400_000))
  await a.drive.sync()
  await keepsAll(s, a)
  t.ok((await read(a.drive, '/more')).length === 400_000)
})

async function flooded(t: Assert, key: string, victim: Device): Promise<void> {
  const liar = await Liar.meet(t, key, victim.address, 'flood', { kind: 'storage' })
  await liar.until('is told of the log', () => liar.held.size > 0)
  const [log] = [...liar.held.values()]
  const messages: ((i: number) => Message)[] = [
    (i) => ({ type: 'have', isFull: false, logs: [{ ...log!, first: 1e6 + i, seq: 2e6 + i, hash: randomBytes(32) }] }),
    () => ({ type: 'wantSnapshot', creditBytes: 16 << 20 }),
    () => ({ type: 'snapshotPiece', kind: 'rows', bytes: randomBytes(100_000) }),
    () => ({ type: 'snapshotBegin', meta: metaOfFresh(randomBytes(16)), totalBytes: 2 ** 50 }),
    () => ({ type: 'haveChunks', copies: 0, ids: [randomBytes(32)] }),
  ]
  for (const message of messages) await liar.flood(300, (i) => encode(message(i)))
  await liar.until('it is answered', () => (liar.counts.get('snapshotRefused') ?? 0) > 0)
  await liar.close()
}
