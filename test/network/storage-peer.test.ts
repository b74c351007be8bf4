/** A device with the storage key: it keeps and gives what is sealed, believes only what the drive's devices have signed, and reads nothing. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, openSync, readdirSync, readFileSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { DeviceStatus, PeerStatus } from '../../lib/api.js'
import { Drive } from '../../lib/drive.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { certify } from '../../lib/keys/certificate.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice } from '../../lib/keys/device.js'
import { decodeHeader, encodeHeader, entryHash, hashOf, type EntryHeader } from '../../lib/log/entry.js'
import { chunkId, plainLength, sealedLength } from '../../lib/seal/chunk.js'
import { SIGNATURE_BYTES, signEntry } from '../../lib/seal/entry.js'
import { StoragePeer } from '../../lib/storage-peer.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { joinDrive, TestDevice, until } from '../helpers/devices.js'
import { scratchDir } from '../helpers/scratch.js'
import { Device, first, joined, keepsAll, read, storing, write } from '../helpers/storing.js'

const LONG = { timeout: 180_000 }

function filesOf(dir: string): string[] {
  return readdirSync(dir, { recursive: true }).map((name) => join(dir, name as string)).filter((path) => statSync(path).isFile())
}

test('what one device wrote reaches another by way of a storage peer alone, which holds no readable byte of it', LONG, async (t) => {
  const a = await first(t)
  const b = await joined(t, a)
  await b.stop()
  const key = await a.drive.key('storage')
  const s = await storing(t, key, [a.address])
  t.is(s.drive.keepsEverything, false, 'it knows of nothing yet')
  const marker = Buffer.from('PLAINTEXT-THAT-NOBODY-SHALL-SEE ')
  const text = Buffer.alloc(300_000, marker)
  const big = randomBytes(9_000_000)
  await a.drive.mkdir('/a-telling-name')
  await write(a.drive, '/a-telling-name/big', big)
  await write(a.drive, '/a-telling-name/text', text)
  await write(a.drive, '/small', marker)
  await a.drive.setXattr('/small', Buffer.from('user.telling'), marker)
  await a.drive.symlink('a-telling-target', '/link')
  await a.drive.sync()
  await keepsAll(s, a)
  t.ok(s.drive.keepsEverything)
  const status = await s.drive.status()
  t.ok(status.chunks.hereBytes > big.length && status.keyKind === 'storage' && status.log.entries > 0)
  await a.stop()

  // From its disk alone.
  await s.stop()
  for (const path of filesOf(s.dir)) {
    const bytes = readFileSync(path)
    for (const word of [marker.subarray(0, 12), 'a-telling-name', 'a-telling-target', 'user.telling', big.subarray(4_000_000, 4_000_016)]) t.absent(bytes.includes(word), path)
  }
  await s.start()
  b.peers = [s.address]
  await b.start()
  await until('the names are there', async () => (await b.drive.lstat('/link').catch(() => undefined)) !== undefined)
  await until('all of it has come', async () => (await b.drive.status()).chunks.owed === 0)
  t.ok((await read(b.drive, '/a-telling-name/big')).equals(big))
  t.ok((await read(b.drive, '/a-telling-name/text')).equals(text))
  t.ok((await read(b.drive, '/small')).equals(marker))
  t.is((await b.drive.readlink('/link')).toString(), 'a-telling-target')
  t.alike((await b.drive.fsck({ data: true })).problems, [])

  // And the other way round: it passes on what B writes while A is away.
  await write(b.drive, '/from b', big.subarray(0, 2_000_000))
  await b.drive.sync()
  await keepsAll(s, b)
  await b.stop()
  a.peers = [s.address]
  await a.start()
  await until('what B wrote is on A', async () => (await a.drive.stat('/from b').catch(() => undefined))?.size === 2_000_000)
  t.ok((await read(a.drive, '/from b')).equals(big.subarray(0, 2_000_000)))
  t.alike([...a.notices, ...b.notices, ...s.notices], [])
})

test('a storage peer takes no entry that a device of the drive has not written', LONG, async (t) => {
  const dir = scratchDir(t)
  const drive = await Drive.create(dir)
  t.teardown(() => drive.close(), { force: true })
  drive.share()
  for (let i = 0; i < 5; i++) {
    await write(drive, `/file ${i}`, randomBytes(50_000))
    await drive.sync()
    drive.journal.commit()
  }
  const { log, journal, device, keys } = drive
  const name = { incarnation: log.incarnationId(journal.incarnation), device: device.publicKey }
  const entries = log.stored(journal.incarnation, 1, Infinity)
  t.ok(entries.length >= 5)

  const storeDir = scratchDir(t)
  await prepareJoin(storeDir, keys.capability('storage'))
  const s = await StoragePeer.open(storeDir)
  t.teardown(() => s.close(), { force: true })
  const named: Buffer[] = []
  s.inbox.onNamed = (_, ids) => void named.push(...ids)
  t.alike(await s.inbox.deliver(name, 1, entries), { accepted: 0, then: 'later' }, 'a device without a certificate')
  const reader = createDevice()
  t.ok(s.members.add(certify(keys, { device: reader.publicKey, role: 'read-only', name: 'reader' })))
  t.alike(await s.inbox.deliver({ ...name, device: reader.publicKey }, 1, entries), { accepted: 0, then: 'later' }, 'a device that may not write')
  t.absent(s.members.add(certify((await other(t)).keys, { device: device.publicKey, role: 'full', name: 'x' })), 'a certificate of another drive')
  t.ok(s.members.add(drive.members.bytesOf(device.publicKey)!))

  const stranger = createDevice()
  const [one, two] = entries as [typeof entries[0], typeof entries[0], ...typeof entries]
  const resigned = (change: Partial<EntryHeader>, secret = device.secretKey) => {
    const header = encodeHeader({ ...decodeHeader(one!.signed.subarray(0, -SIGNATURE_BYTES)), ...change })
    return { signed: Buffer.concat([header, signEntry(header, secret)]), sealed: one!.sealed }
  }
  const flipped = (bytes: Buffer, at: number) => { const out = Buffer.from(bytes); out[at]! ^= 1; return out }
  const bad: Record<string, { signed: Buffer; sealed: Buffer }> = {
    'signed by another': resigned({}, stranger.secretKey),
    'a header changed on the way': { ...one!, signed: flipped(one!.signed, 90) },
    'a signature changed': { ...one!, signed: flipped(one!.signed, one!.signed.length - 1) },
    'other ops': { ...one!, sealed: flipped(one!.sealed, 50) },
    'no header at all': { ...one!, signed: Buffer.from('short') },
    'of another drive': resigned({ drive: randomBytes(32) }),
    'of another log': resigned({ incarnation: randomBytes(16) }),
    'of another place': resigned({ seq: 7 }),
    'ops that others number otherwise': resigned({ firstOp: 9 }),
    'a context that refers to nothing': resigned({ context: [[5, 1]] }),
  }
  for (const [what, entry] of Object.entries(bad)) t.alike(await s.inbox.deliver(name, 1, [entry]), { accepted: 0, then: 'invalid' }, what)
  t.alike(await s.inbox.deliver(name, 1, [resigned({ previous: randomBytes(32) })]), { accepted: 0, then: 'forked' })
  t.alike(await s.inbox.deliver(name, 2, [two!]), { accepted: 1, then: 'later' }, 'with a gap')
  t.is(s.log.heads().size, 0)
  t.is(named.length, 0, 'nor is any chunk known by them')

  t.alike(await s.inbox.deliver(name, 1, [one!, flippedSealed(two!)]), { accepted: 1, then: 'invalid' }, 'what is good before is kept')
  t.alike(await s.inbox.deliver(name, 1, entries), { accepted: entries.length })
  t.alike(await s.inbox.deliver(name, 1, [resigned({ clockMs: 1 })]), { accepted: 0, then: 'forked' }, 'another of a seq that is here')
  t.is(named.length, entries.flatMap((e) => decodeHeader(e.signed.subarray(0, -SIGNATURE_BYTES)).chunks).length)
  t.ok(named.every((id) => s.chunks.get(s.chunks.findById(id))!.seg === ELSEWHERE))
  t.alike((await s.fsck()).problems, [])

  function flippedSealed(e: { signed: Buffer; sealed: Buffer }) { return { ...e, sealed: flipped(e.sealed, 50) } }
})

test('an entry is taken, and said to be here, only after all that it has seen', LONG, async (t) => {
  const keys = DriveKeys.create()
  const storeDir = scratchDir(t)
  await prepareJoin(storeDir, keys.capability('storage'))
  const s = await StoragePeer.open(storeDir)
  t.teardown(() => s.close(), { force: true })
  const logs = [createDevice(), createDevice()].map((device) => ({ device: device.publicKey, incarnation: device.incarnation, secret: device.secretKey, previous: Buffer.alloc(32) as Buffer, seq: 0 }))
  for (const { device } of logs) s.members.add(certify(keys, { device, role: 'full', name: 'x' }))
  const [a, b] = logs as [typeof logs[0] & object, typeof logs[0] & object]
  const entry = (log: typeof a, seen: number) => {
    const sealed = randomBytes(100)
    const header = encodeHeader({
      drive: keys.driveId, incarnation: log.incarnation, seq: ++log.seq, previous: log.previous, clockMs: 1, firstOp: log.seq, opCount: 1, chunks: [], opsHash: hashOf(sealed),
      incarnations: seen > 0 ? [log.incarnation, (log === a ? b : a).incarnation] : [log.incarnation], context: seen > 0 ? [[1, seen]] : [],
    })
    const signed = Buffer.concat([header, signEntry(header, log.secret)])
    log.previous = entryHash(signed)
    return { signed, sealed }
  }
  const seqOf = (log: typeof a) => { const inc = s.log.find(log.incarnation); return inc < 0 ? 0 : s.log.head(inc).seq }
  const ofB = [entry(b, 0), entry(b, 0), entry(b, 0)]
  const ofA = [entry(a, 0), entry(a, 3), entry(a, 0)]
  let isJudged = false
  const verdict = s.inbox.deliver(a, 1, ofA)
  void verdict.then(() => { isJudged = true })
  t.alike(await s.inbox.deliver(b, 1, ofB.slice(0, 2)), { accepted: 2 })
  await new Promise((resolve) => setImmediate(resolve))
  t.is(seqOf(a), 1, 'the second has seen three of the other')
  t.absent(isJudged)
  t.alike(await s.inbox.deliver(b, 3, ofB.slice(2)), { accepted: 3 })
  t.alike(await verdict, { accepted: 3 })
  t.is(seqOf(a), 3)
  // What it has seen does not come: it is not held up for ever.
  t.alike(await s.inbox.deliver(a, 4, [entry(a, 9)]), { accepted: 3, then: 'later' })
  t.is(seqOf(a), 3)
  t.alike((await s.fsck()).problems, [])
})

test('from one storage peer to another, and from there to a new device; with entries that are longer than a piece of a snapshot', LONG, async (t) => {
  const a = await first(t)
  a.drive.share()
  await write(a.drive, '/file', randomBytes(700_000))
  const values = Array.from({ length: 25 }, () => randomBytes(60_000))
  for (const [i, value] of values.entries()) await a.drive.setXattr('/file', Buffer.from(`user.${i}`), value)
  await a.drive.sync()
  a.drive.journal.commit()
  const longest = a.drive.db.sql.prepare('SELECT max(length(ops)) AS n FROM log').get() as { n: number }
  t.ok(longest.n > 1 << 20, `an entry of ${longest.n} bytes`)
  const key = await a.drive.key('storage')
  const full = await a.drive.key('full')
  const s = await storing(t, key, [a.address])
  await keepsAll(s, a)
  t.ok(s.drive.kept.head!.pieces > 4)
  await a.stop()
  const s2 = await storing(t, key, [s.address])
  await until('it has all that the first has', async () => s2.drive.keepsEverything && (await s2.drive.status()).chunks.owed === 0 && [...s.drive.log.heads()].every(([inc, seq]) => {
    const there = s2.drive.log.find(s.drive.log.incarnationId(inc))
    return there >= 0 && s2.drive.log.head(there).seq === seq
  }))
  t.ok(s2.drive.kept.head!.id.equals(s.drive.kept.head!.id))
  await s.stop()
  const dir = scratchDir(t)
  await prepareJoin(dir, full)
  await finishJoin(dir, { network: { host: '127.0.0.1', dht: false, mdns: false, peers: [s2.address] } })
  const c = await new Device(t, dir, [s2.address]).start()
  await until('all of it has come', async () => (await c.drive.status()).chunks.owed === 0)
  for (const [i, value] of values.entries()) t.ok((await c.drive.getXattr('/file', Buffer.from(`user.${i}`)))?.equals(value))
  t.is((await read(c.drive, '/file')).length, 700_000)
  t.alike((await c.drive.fsck({ data: true })).problems, [])
  t.alike([...s.notices, ...s2.notices], [])
  t.alike(c.notices.map((n) => n.slice(0, 12)), ['changes wait'])
})

async function other(t: Assert): Promise<Drive> {
  const drive = await Drive.create(scratchDir(t))
  t.teardown(() => drive.close(), { force: true })
  return drive
}

test('a log of which the beginning is nowhere any more goes on after a snapshot, whose chunks are kept too', LONG, async (t) => {
  const a = await first(t)
  a.drive.share()
  for (let i = 0; i < 20; i++) {
    await write(a.drive, `/file ${i}`, randomBytes(40_000))
    await a.drive.sync()
    a.drive.journal.commit()
  }
  const { log, journal } = a.drive
  log.truncate(journal.incarnation, log.head(journal.incarnation).bytes / 2)
  journal.touched()
  await journal.durable()
  const { first: begin } = log.head(journal.incarnation)
  t.ok(begin > 2)
  const s = await storing(t, await a.drive.key('storage'), [a.address])
  await keepsAll(s, a)
  t.is(s.drive.log.head(s.drive.log.find(log.incarnationId(journal.incarnation))).first, begin)
  t.ok(s.drive.keepsEverything)
  t.is(s.drive.kept.head!.logs.length, 1)
  t.alike(missing(a.drive, s.drive), [], 'the chunks of what was dropped, too')
  t.alike(s.notices, [])
  // As it is on disk.
  await s.stop()
  await s.start()
  t.alike((await s.drive.fsck({ data: true })).problems, [])
  await write(a.drive, '/one more', randomBytes(40_000))
  await a.drive.sync()
  s.swarm.net.addPeer(a.address)
  await keepsAll(s, a)
})

/** Ids of chunks that the one has, and the other has not. */
function missing(a: Drive, s: StoragePeer): string[] {
  const ids = a.db.sql.prepare('SELECT id FROM chunk WHERE refs > 0').all() as { id: Buffer }[]
  return ids.filter(({ id }) => (s.chunks.get(s.chunks.findById(id))?.seg ?? ELSEWHERE) === ELSEWHERE).map(({ id }) => id.toString('hex'))
}

test('the length of a plaintext follows from that of its sealed bytes', (t) => {
  for (const n of [1, 100, 4095, 4096, 4097, 8192, 100_000, 1 << 20]) t.is(plainLength(sealedLength(n)), n)
  for (const n of [0, 1, 16, 4096 + 16 + 16, sealedLength(1 << 20) + 1]) t.is(plainLength(n), undefined, String(n))
})

test('a chunk or a snapshot that the disk of a storage peer has spoilt is found, and fetched again', LONG, async (t) => {
  const a = await first(t)
  const s = await storing(t, await a.drive.key('storage'), [a.address])
  await write(a.drive, '/file', randomBytes(3_000_000))
  await a.drive.sync()
  await keepsAll(s, a)
  const row = s.drive.db.sql.prepare('SELECT seg, off, id FROM chunk WHERE seg > 0 AND len > 1000 LIMIT 1').get() as { seg: number; off: number; id: Buffer }
  const fd = openSync(s.drive.store.pathOf(row.seg), 'r+')
  writeSync(fd, Buffer.from('spoilt'), 0, 6, row.off + 100)
  closeSync(fd)
  t.is((await s.drive.fsck()).problems.length, 0)
  t.alike((await s.drive.fsck({ data: true, repair: true })).problems.map((p) => [p.kind, p.mended]), [['chunk-damaged', true]])
  s.swarm.chunks.moreMissing()
  await keepsAll(s, a)
  const now = s.drive.chunks.get(s.drive.chunks.findById(row.id))!
  t.ok(chunkId(await s.drive.store.read(now.seg, now.off, sealedLength(now.len))).equals(row.id))
  t.is((await s.drive.fsck({ data: true })).problems.length, 0)

  const { id } = s.drive.kept.head!
  const piece = s.drive.db.sql.prepare('SELECT rowid AS at, bytes FROM snapshot_piece LIMIT 1').get() as { at: number; bytes: Buffer }
  piece.bytes[20]! ^= 1
  s.drive.db.sql.prepare('UPDATE snapshot_piece SET bytes = ? WHERE rowid = ?').run(piece.bytes, piece.at)
  t.alike((await s.drive.fsck({ data: true, repair: true })).problems.map((p) => [p.kind, p.mended]), [['snapshot-damaged', true]])
  await keepsAll(s, a)
  t.absent(s.drive.kept.head!.id.equals(id), 'another snapshot')
  t.is((await s.drive.fsck({ data: true })).problems.length, 0)
})

test('by the command line: join with the storage key and serve; what needs to read says why it cannot', LONG, async (t) => {
  const a = new TestDevice(t, 'anna')
  await a.mount()
  await a.dfs(['put', '-', '/file'], { input: randomBytes(200_000).toString('hex') })
  const s = new TestDevice(t, 'shed')
  const key = await a.ok('key', '--storage')
  t.is((await s.dfs(['join', '-', '--cache', '20G'], { input: key })).code, 2)
  await joinDrive(a, s, 'storage')
  const refused = async (...args: string[]) => {
    const { code, stderr } = await s.dfs(args)
    t.is(code, 6, `dfs ${args[0]}: ${stderr}`)
    t.ok(/^dfs: this device keeps the drive for others, sealed, .*\n$/.test(stderr), stderr)
  }
  const reading = [['ls'], ['cat', '/file'], ['mount', s.dir], ['mount', join(s.scratch, 'new')], ['mkdir', '/x'], ['conflicts'], ['pin', '/'], ['get', '/file', '.'], ['status', '/file']]
  for (const args of reading) await refused(...args)
  t.absent(existsSync(join(s.scratch, 'new')))
  t.is((await s.status()).daemon, false, 'status without a daemon')
  t.is((await s.json<{ devices: DeviceStatus[] }>('devices')).devices[0]!.role, 'guest')
  t.ok((await s.dfs(['gc'])).stderr.includes('no device that can read the drive is connected'))

  const served = s.start('serve', '--peer', await a.address())
  const status = await until('nothing is owed', async () => {
    const now = await s.status()
    return now.daemon && now.chunks.here > 0 && now.chunks.owed === 0 && now
  })
  t.is(status.keyKind, 'storage')
  t.ok(status.chunks.hereBytes >= 400_000)
  for (const args of reading) await refused(...args)
  t.is((await s.json<{ peers: PeerStatus[] }>('peers')).peers[0]!.name, 'anna')
  t.ok((await s.ok('status')).includes('not known: they are sealed'))
  t.ok((await s.ok('fsck', '--data')).length > 0)
  await a.ok('devices', 'add', status.device, '--role', 'storage', '--name', 'shed')
  await until('it is enrolled', async () => (await s.json<{ devices: DeviceStatus[] }>('devices')).devices[0]!.role === 'storage')
  t.is((await a.json<{ peers: PeerStatus[] }>('peers')).peers[0]!.role, 'storage')
  t.ok((await s.ok('gc')).includes('0 chunks'), 'all of it is needed')
  await s.ok('stop')
  t.is(await served.ended, 0)
})
