import test, { type Assert } from 'brittle'
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { appendFileSync, closeSync, mkdirSync, openSync, readFileSync, readdirSync, readlinkSync, statSync, truncateSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chunkId } from '../../lib/seal/chunk.js'
import { DfsError } from '../../lib/errors.js'
import { MAX_BATCH_BYTES } from '../../lib/limits.js'
import { BlockPool } from '../../lib/memory.js'
import type { SegmentRecord } from '../../lib/store/batch.js'
import { StoreLock } from '../../lib/store/lock.js'
import { HEADER_BYTES, RECORD_BYTES, segmentHeader } from '../../lib/store/record.js'
import { Reserve } from '../../lib/store/reserve.js'
import { SegmentStore, type Place, type SegmentOptions } from '../../lib/store/segments.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const driveId = Buffer.alloc(32, 5)
const CHILD = fileURLToPath(new URL('../helpers/store-child.js', import.meta.url))

function openStore(t: Assert, dir: string, options: Partial<SegmentOptions> = {}): SegmentStore {
  const store = SegmentStore.open(dir, { driveId, ...options })
  t.teardown(() => store.close().catch(() => undefined), { order: -1 })
  return store
}
function record(length: number, shared = false): SegmentRecord {
  const sealed = shared ? Buffer.from(new SharedArrayBuffer(length)) : Buffer.alloc(length)
  sealed.set(randomBytes(length))
  return { id: chunkId(sealed), plainLength: Math.max(1, length - 16), sealed }
}
function readBack(store: SegmentStore, place: Place, length: number): Buffer {
  const out = Buffer.alloc(length)
  store.readSync(place.segment, place.offset, length, out)
  return out
}
function patch(path: string, at: number, bytes: Buffer): void {
  const fd = openSync(path, 'r+')
  writeSync(fd, bytes, 0, bytes.length, at)
  closeSync(fd)
}

/** Puts /dev/null, which cannot be synced, in the place of this process's descriptor on `path`. */
function failSyncsOf(t: Assert, path: string): void {
  const isPath = (n: number) => { try { return readlinkSync(`/proc/self/fd/${n}`) === path } catch { return false } }
  const fd = readdirSync('/proc/self/fd').map(Number).find(isPath)!
  closeSync(fd)
  const others: number[] = []
  for (let n; (n = openSync('/dev/null', 'r')) !== fd;) others.push(n)
  others.forEach((n) => closeSync(n))
  t.absent(isPath(fd))
}

/** A file system of its own; `fill` takes all that is left of it. Nothing where one may not mount. */
function smallDisk(t: Assert, size: string): { dir: string; fill: () => void; clear: () => void } | undefined {
  const dir = join(scratchDir(t), 'tmpfs')
  mkdirSync(dir)
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'none', dir]).status !== 0) return undefined
  t.teardown(() => spawnSync('umount', [dir]), { order: 1, force: true })
  const filler = join(dir, 'filler')
  return {
    dir,
    fill: () => {
      const fd = openSync(filler, 'w')
      t.exception(() => { for (;;) writeSync(fd, Buffer.alloc(4096)) }, /ENOSPC/)
      closeSync(fd)
    },
    clear: () => unlinkSync(filler),
  }
}

test('what is appended is read back, now and after reopening', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  const records = [record(100), record(70000), record(17, true)]
  const large = [record(300_000), record(1), record(500_001, true)]
  const places = await store.append(records)
  const bulk = await store.append(large)
  t.not(places[0]!.segment, bulk[0]!.segment, 'bulk has a head of its own')
  for (const s of [store, await store.close().then(() => openStore(t, dir))]) {
    for (const [i, r] of records.entries()) {
      t.ok(readBack(s, places[i]!, r.sealed.length).equals(r.sealed))
      const l = large[i]!
      t.ok((await s.read(bulk[i]!.segment, bulk[i]!.offset, l.sealed.length)).equals(l.sealed))
    }
    t.alike(s.cut, [])
  }
  t.is(statSync(dir).mode & 0o777, 0o700)
  t.is(statSync(store.pathOf(1)).mode & 0o777, 0o600)
})

test('a full segment is followed by another, also inside a batch; numbers go on after reopening', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir, { segmentBytes: 4096 })
  const records = Array.from({ length: 10 }, () => record(1000))
  const places = await store.append(records)
  t.is(places.at(-1)!.segment, 4, '3 records fit')
  t.ok(records.every((r, i) => readBack(store, places[i]!, 1000).equals(r.sealed)))
  const large = await store.append([record(9000)])
  t.is(large[0]!.segment, 5, 'a record larger than a segment has one to itself')
  await store.close()
  const again = openStore(t, dir, { segmentBytes: 4096 })
  t.alike([...again.usage().keys()], [1, 2, 3, 4, 5])
  t.is(again.usage().get(1), HEADER_BYTES + 3 * (RECORD_BYTES + 1000))
  t.ok((await again.append([record(3000)]))[0]!.segment >= 4)
})

test('batches land in the order of the calls', async (t) => {
  const store = openStore(t, scratchDir(t))
  const batches = Array.from({ length: 20 }, () => [record(5000), record(300)])
  const places = (await Promise.all(batches.map((b) => store.append(b)))).flat()
  t.ok(places.every((p, i) => i === 0 || p.offset > places[i - 1]!.offset))
  t.ok(batches.flat().every((r, i) => readBack(store, places[i]!, r.sealed.length).equals(r.sealed)))
})

for (const isDirect of [true, false]) {
  test(`bulk ${isDirect ? 'past' : 'through'} the page cache: every record is found, in order, also after a crash`, async (t) => {
    const dir = scratchDir(t)
    const store = openStore(t, dir, { isDirect })
    const batches = Array.from({ length: 8 }, (_, i) => [record(400_000 + i), record(1 + i), record(200_000)])
    const places = (await Promise.all(batches.map((b) => store.append(b)))).flat()
    const small = await store.append([record(70)])
    await store.sync()
    const segment = places[0]!.segment
    t.ok(places.every((p, i) => p.segment === segment && (i === 0 || p.offset > places[i - 1]!.offset)))
    t.is(statSync(store.pathOf(segment)).size, store.usage().get(segment))
    if (isDirect) t.ok(places.every((p, i) => i % 3 !== 0 || (p.offset - RECORD_BYTES) % 4096 === 0), 'each batch begins on a page')
    t.alike([...store.scan(segment, { verify: true })].map((r) => [r.offset, r.ok]), places.map((p) => [p.offset, true]), 'and what fills the page is no record')
    await store.close()
    // As after a crash: no mark, and a torn batch behind the last.
    unlinkSync(join(dir, 'clean.json'))
    const size = statSync(store.pathOf(segment)).size
    const again = openStore(t, dir)
    t.alike(again.cut, [], 'zeros that fill a page are no torn write')
    t.is(again.usage().get(segment), size)
    await again.close()
    unlinkSync(join(dir, 'clean.json'))
    appendFileSync(store.pathOf(segment), randomBytes(10_000))
    const third = openStore(t, dir)
    t.alike(third.cut.map((c) => c.segment), [segment])
    const late = [record(600_000), record(3)]
    const next = await third.append(late)
    for (const [i, r] of [...batches.flat(), ...late].entries()) t.ok(readBack(third, [...places, ...next][i]!, r.sealed.length).equals(r.sealed))
    for (const n of [segment, small[0]!.segment]) t.ok([...third.scan(n, { verify: true })].every((r) => r.ok))
  })
}

test('a run of records is written where it lies', async (t) => {
  const store = openStore(t, scratchDir(t))
  const block = new BlockPool(MAX_BATCH_BYTES, 1).take()!
  block.bytes.fill(0xaa)
  const records: SegmentRecord[] = []
  for (let at = 0; records.length < 20;) {
    const r = record(50_000 + records.length)
    const sealed = block.bytes.subarray(at + RECORD_BYTES, at + RECORD_BYTES + r.sealed.length)
    sealed.set(r.sealed)
    records.push({ ...r, sealed })
    at += RECORD_BYTES + sealed.length
  }
  const places = [...await store.append({ bytes: block.bytes, records }), ...await store.append({ bytes: block.bytes, records: records.slice(0, 3) })]
  t.ok(places.every((p, i) => readBack(store, p, records[i % 20]!.sealed.length).equals(records[i % 20]!.sealed)))
  t.not(places[0]!.segment, places[20]!.segment, 'a short run is a small batch')
  for (const n of store.usage().keys()) t.ok([...store.scan(n, { verify: true })].every((r) => r.ok))
})

test('a file system that refuses a direct write gets a plain one', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  const large = [record(600_000)]
  await store.append(large)
  // Memory that begins on no page, as if the disk asked for more than a page.
  const bytes = Buffer.from(new SharedArrayBuffer(1 << 20)).subarray(8)
  const sealed = bytes.subarray(RECORD_BYTES, RECORD_BYTES + 600_000)
  sealed.set(large[0]!.sealed)
  const [place] = await store.append({ bytes, records: [{ ...large[0]!, sealed }] })
  t.ok(readBack(store, place!, 600_000).equals(sealed))
  const [next] = await store.append(large)
  t.is(next!.segment, place!.segment)
  await store.sync()
  t.ok([...store.scan(place!.segment, { verify: true })].every((r) => r.ok))
})

test('segments of version 1 are read, and not appended to', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  const r = record(1000)
  const [place] = await store.append([r])
  await store.close()
  const header = readFileSync(store.pathOf(1)).subarray(0, HEADER_BYTES)
  header.writeUInt32LE(1, 8)
  chunkId(header.subarray(0, 56)).copy(header, 56, 0, 8)
  patch(store.pathOf(1), 0, header)
  const again = openStore(t, dir)
  t.ok(readBack(again, place!, 1000).equals(r.sealed))
  t.is((await again.append([r]))[0]!.segment, 2)
  t.alike(again.damaged, [])
})

test('a batch of more buffers than one writev takes', async (t) => {
  const store = openStore(t, scratchDir(t))
  const records = Array.from({ length: 3000 }, () => record(40))
  const places = await store.append(records)
  t.ok(records.every((r, i) => readBack(store, places[i]!, 40).equals(r.sealed)))
})

test('scan gives all records, and finds the damaged one', async (t) => {
  const store = openStore(t, scratchDir(t))
  const records = [record(1000), record(2000), record(3000)]
  const places = await store.append(records)
  const scan = () => [...store.scan(1, { verify: true })]
  t.alike(scan().map((r) => [r.offset, r.sealedLength, r.ok]), places.map((p, i) => [p.offset, records[i]!.sealed.length, true]))
  t.ok(scan().every((r, i) => r.id!.equals(records[i]!.id) && r.plainLength === records[i]!.plainLength))
  patch(store.pathOf(1), places[1]!.offset + 10, Buffer.from([1, 2, 3]))
  t.alike(scan().map((r) => r.ok), [true, false, true])
  patch(store.pathOf(1), places[1]!.offset - 20, Buffer.from([1, 2, 3]))
  t.alike(scan().map((r) => [r.ok, r.id !== undefined]), [[true, true], [false, false], [true, true]], 'the scan finds its way past a damaged header')
})

test('a torn tail is cut at open, wherever it was torn', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  const first = record(5000)
  const [place] = await store.append([first])
  await store.append([record(4000)])
  await store.close()
  const path = store.pathOf(1)
  const whole = readFileSync(path)
  const good = place!.offset + 5000
  for (const size of [whole.length - 1, good + RECORD_BYTES + 1, good + RECORD_BYTES, good + 10, good + 1]) {
    writeFileSync(path, whole)
    truncateSync(path, size)
    const again = openStore(t, dir)
    t.alike(again.cut, [{ segment: 1, size: good, cutBytes: size - good }], `torn at ${size}`)
    const [next] = await again.append([record(50)])
    t.is(next!.offset, good + RECORD_BYTES, 'and is written over')
    t.ok(readBack(again, place!, 5000).equals(first.sealed))
    await again.close()
    t.ok([...again.scan(1, { verify: true })].every((r) => r.ok))
  }
})

test('zeros and garbage at the end are cut; a hole before an intact record is not', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  const places = await store.append([record(5000), record(5000), record(5000)])
  await store.close()
  const path = store.pathOf(1)
  const good = statSync(path).size
  for (const tail of [Buffer.alloc(10000), randomBytes(10000), Buffer.concat([readFileSync(path).subarray(HEADER_BYTES, HEADER_BYTES + 9000)])]) {
    appendFileSync(path, tail)
    const again = openStore(t, dir)
    t.is(again.usage().get(1), good)
    await again.close()
  }
  unlinkSync(join(dir, 'clean.json'))
  patch(path, places[1]!.offset, Buffer.alloc(5000))
  const again = openStore(t, dir)
  t.is(again.usage().get(1), good)
  t.alike(again.cut, [])
})

test('a segment without its header is dropped when empty, kept when it has records', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  const r = record(1000)
  const [place] = await store.append([r])
  await store.close()
  writeFileSync(store.pathOf(2), '')
  writeFileSync(store.pathOf(3), Buffer.alloc(5000))
  patch(store.pathOf(1), 0, Buffer.alloc(HEADER_BYTES))
  const again = openStore(t, dir)
  t.alike(readdirSync(dir).filter((f) => f.endsWith('.seg')), ['00000001.seg'])
  t.alike(again.damaged, [1])
  t.ok(readBack(again, place!, 1000).equals(r.sealed))
  t.is((await again.append([record(10)]))[0]!.segment, 4, 'it is not appended to')
})

test('segments of another drive, of a newer format, or no segments are refused', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  await store.append([record(1000)])
  await store.close()
  t.is(await codeOf(() => SegmentStore.open(dir, { driveId: Buffer.alloc(32, 6) })), 'STORE_DAMAGED')
  patch(store.pathOf(1), 8, Buffer.from([9]))
  t.is(await codeOf(() => SegmentStore.open(dir, { driveId })), 'STORE_NEWER')
  writeFileSync(store.pathOf(1), randomBytes(2000))
  t.is(await codeOf(() => SegmentStore.open(dir, { driveId })), 'STORE_DAMAGED')
})

test('a full disk leaves nothing half-written, and the store goes on when there is room', async (t) => {
  const disk = smallDisk(t, '2m')
  if (!disk) return t.comment('skipped: may not mount a tmpfs')
  const { dir } = disk
  const store = openStore(t, join(dir, 'segments'))
  const kept = record(400_000)
  const [place] = await store.append([kept])
  await store.append([record(530_000)])
  const before = store.usage()
  t.is(before.size, 2)
  t.is(await codeOf(() => store.append([record(600_000), record(900_000)])), 'ENOSPC', 'past the page cache')
  t.is(await codeOf(() => store.append(Array.from({ length: 5 }, () => record(1_000_000)))), 'ENOSPC', 'and through it: too much for one direct write')
  t.alike(store.usage(), before)
  for (const [n, size] of before) t.is(statSync(store.pathOf(n)).size, size)
  t.absent(store.stopped)
  t.ok(readBack(store, place!, 400_000).equals(kept.sealed))
  const small = record(100_000)
  disk.fill()
  store.remove(2)
  await t.exception(store.append([record(800_000)]), DfsError, 'also where not even a segment can be made')
  disk.clear()
  const [next] = await store.append([small])
  t.ok(readBack(store, next!, 100_000).equals(small.sealed))
  await store.sync()
  await store.close()
})

test('a full disk has blocks for what was promised, which nobody else comes by', async (t) => {
  const disk = smallDisk(t, '16m')
  if (!disk) return t.comment('skipped: may not mount a tmpfs')
  const { dir } = disk
  const store = openStore(t, join(dir, 'segments'))
  const blocks = new Reserve(join(dir, 'kept'), 3 << 20)
  await blocks.fill()
  t.is(blocks.held, 3 << 20)
  store.keptBlocks = blocks
  const kept = record(1000)
  const [place] = await store.append([kept])
  await store.sync()
  disk.fill()
  t.is(await codeOf(() => store.append([record(900_000)])), 'ENOSPC', 'not for what was not')
  const promised = [record(5000), record(1_000_000), record(700_000)]
  const places = [...await store.append(promised.slice(0, 1), true), ...await store.append(promised.slice(1), true)]
  await store.sync()
  t.is(await codeOf(() => store.append([record(1_000_000), record(1_000_000)], true)), 'ENOSPC', 'when it is used up')
  const late = record(300_000)
  promised.push(late)
  places.push(...await store.append([late], true))
  await store.sync()
  t.is(places[3]!.segment, places[0]!.segment)
  t.is(statSync(store.pathOf(places[0]!.segment)).size, 3 << 20)

  disk.clear()
  // As a crash leaves it, with many segments after it.
  const crashed = join(dir, 'crashed')
  mkdirSync(crashed)
  for (const n of store.usage().keys()) writeFileSync(join(crashed, basename(store.pathOf(n))), readFileSync(store.pathOf(n)))
  for (let n = 8; n < 16; n++) writeFileSync(join(crashed, `${String(n).padStart(8, '0')}.seg`), segmentHeader(n, driveId))
  const isThere = (s: SegmentStore) => promised.every((r, i) => readBack(s, places[i]!, r.sealed.length).equals(r.sealed)) && readBack(s, place!, 1000).equals(kept.sealed)
  const again = openStore(t, crashed)
  t.ok(isThere(again), 'after a crash')
  for (const s of [store, again]) t.is([...s.scan(places[0]!.segment, { verify: true })].filter((r) => !r.ok).length, 0, 'nothing of what was not')
  t.is(statSync(again.pathOf(places[0]!.segment)).size, again.usage().get(places[0]!.segment), 'what it did not use is cut')

  await store.endKept()
  t.is(statSync(store.pathOf(places[0]!.segment)).size, store.usage().get(places[0]!.segment), 'and with room again')
  t.absent(store.isHead(places[0]!.segment))
  await blocks.fill()
  t.is(blocks.held, 3 << 20)
  await blocks.close()
  await store.close()
  t.ok(isThere(openStore(t, join(dir, 'segments'))))
})

test('sync covers what was appended before the call, also when syncs overlap', async (t) => {
  const store = openStore(t, scratchDir(t))
  const syncs: Promise<void>[] = []
  for (let i = 0; i < 50; i++) {
    await store.append([record(1000)])
    syncs.push(store.sync())
  }
  await Promise.all(syncs)
  t.absent(store.isDirty)
  await store.append([record(100)])
  t.ok(store.isDirty)
  await store.sync()
  t.absent(store.isDirty)
})

test('writeback is started while bulk comes in', async (t) => {
  const ranges: [number, number][] = []
  const store = openStore(t, scratchDir(t), { startWriteback: (_fd, offset, length) => ranges.push([offset, length]), isDirect: false })
  for (let i = 0; i < 20; i++) await store.append([record(1_000_000)])
  t.is(ranges.length, 2)
  t.is(ranges[1]![0], ranges[0]![0] + ranges[0]![1], 'ranges follow one another')
})

test('after a failed sync the store stops, and still reads', async (t) => {
  const store = openStore(t, scratchDir(t))
  const r = record(1000)
  const [place] = await store.append([r])
  let stops = 0
  store.onStop = () => { stops++ }
  failSyncsOf(t, store.pathOf(1))
  t.is(await codeOf(() => store.sync()), 'STORE_STOPPED')
  t.is(await codeOf(() => store.sync()), 'STORE_STOPPED')
  t.is(await codeOf(() => store.append([r])), 'STORE_STOPPED')
  t.is(await codeOf(() => store.append([r])), 'STORE_STOPPED')
  t.ok(readBack(store, place!, 1000).equals(r.sealed))
  t.is(stops, 1, 'told once')
})

test('heads that are sealed take no more, but what was on its way', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir)
  const [first] = await store.append([record(1000)])
  const r = record(1_000_000)
  const underWay = store.append([r])
  const sealed = await store.sealHeads()
  const [bulk] = await underWay
  t.alike(sealed.sort(), [first!.segment, bulk!.segment].sort())
  t.absent(store.isDirty)
  for (const place of [(await store.append([record(1000)]))[0]!, (await store.append([record(1_000_000)]))[0]!]) t.absent(sealed.includes(place.segment))
  t.ok(readBack(store, bulk!, r.sealed.length).equals(r.sealed))
  for (const n of sealed) store.remove(n)
  t.alike(await store.close().then(() => openStore(t, dir).cut), [])
})

test('a removed segment is EIO, and its space is free', async (t) => {
  const dir = scratchDir(t)
  const store = openStore(t, dir, { segmentBytes: 4096 })
  const places = await store.append([record(3000), record(3000)])
  await store.sync()
  readBack(store, places[0]!, 3000)
  store.remove(1)
  store.remove(1)
  t.is(await codeOf(() => readBack(store, places[0]!, 3000)), 'EIO')
  t.is(await codeOf(() => store.read(1, 0, 10)), 'EIO')
  t.alike([...store.usage().keys()], [2])
  store.remove(2)
  t.is((await store.append([record(10)]))[0]!.segment, 3, 'a removed head is not written to')
})

test('no descriptor is left open', async (t) => {
  const count = () => readdirSync('/proc/self/fd').length
  const dir = scratchDir(t)
  const before = count()
  const store = openStore(t, dir, { segmentBytes: 8192 })
  for (let i = 0; i < 30; i++) {
    await store.append([record(3000), record(3000)])
    await store.append([record(3000), record(3000)])
    if (i % 3 === 0) await store.sync()
    if (i % 5 === 0) store.remove(i + 1)
  }
  await store.sync()
  t.ok(count() <= before + 4, 'the directory and the heads')
  await store.close()
  await store.close()
  t.is(count(), before)
  t.is(await codeOf(() => store.append([record(10)])), 'STORE_STOPPED')
})

test('records of a wrong shape are refused', async (t) => {
  const store = openStore(t, scratchDir(t))
  const r = record(100)
  for (const bad of [{ ...r, id: Buffer.alloc(31) }, { ...r, plainLength: 0 }, { ...r, sealed: Buffer.alloc(0) }]) {
    t.is(await codeOf(() => store.append([bad])), 'EINVAL')
  }
  t.is([...store.scan((await store.append([r]))[0]!.segment, { verify: true })].length, 1)
})

test('kill -9 while appending: what was synced is there, and the rest is whole or cut', { timeout: 60_000 }, async (t) => {
  const dir = scratchDir(t)
  const child = spawn(process.execPath, [CHILD, 'append', dir], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'), { force: true })
  let text = ''
  await new Promise<void>((resolve) => child.stdout.on('data', (d: Buffer) => { text += d.toString(); if (text.split('\n').length > 15) resolve() }))
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('exit', resolve))
  const promised = text.split('\n').slice(0, -1).map((l) => JSON.parse(l) as { segment: number; offset: number; length: number; id: string })
  const store = openStore(t, dir)
  t.ok(promised.every((p) => chunkId(readBack(store, p, p.length)).toString('hex') === p.id), `${promised.length} promised records`)
  t.ok([...store.usage().keys()].every((n) => [...store.scan(n, { verify: true })].every((r) => r.ok)))
})

test('the lock keeps others out, in this process and another, and ends with its holder', { timeout: 30_000 }, async (t) => {
  const dir = scratchDir(t)
  const lock = StoreLock.acquire(dir)
  t.is(await codeOf(() => StoreLock.acquire(dir)), 'STORE_LOCKED')
  await t.exception(() => StoreLock.acquire(dir), new RegExp(`process ${process.pid}`))
  const tryOther = () => spawnSync(process.execPath, [CHILD, 'try-lock', dir]).stdout.toString()
  t.is(tryOther(), 'STORE_LOCKED')
  lock.release()
  lock.release()
  t.is(StoreLock.holder(dir), undefined)
  t.is(tryOther(), 'none')
  const child = spawn(process.execPath, [CHILD, 'hold-lock', dir], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'), { force: true })
  await new Promise((resolve) => child.stdout.once('data', resolve))
  t.is(StoreLock.holder(dir), child.pid)
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('exit', resolve))
  t.is(StoreLock.holder(dir), undefined)
  StoreLock.acquire(dir).release()
  t.is(await codeOf(() => StoreLock.acquire(join(dir, 'nowhere'))), 'STORE_MISSING')
})
