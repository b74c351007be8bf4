/** Verifying what is here: all of it, at a rate, going on where it was, whatever moves meanwhile; and marks that last as long as the damage. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Timers } from '../../lib/clock.js'
import { Drive } from '../../lib/drive.js'
import { Scrubber, SCRUB_EVERY_MS, SCRUB_RATE, type ScrubParts } from '../../lib/store/scrub.js'
import { Verifier, type SealedPlace, type Verdict } from '../../lib/store/verifier.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'
import { spoil, spotsOf, type Spot } from '../helpers/spoil.js'
import { read, write } from '../helpers/storing.js'

const MIB = 1 << 20
const DAY_MS = 86_400_000

async function openDrive(t: Assert, files: Record<string, number>): Promise<Drive> {
  const drive = await Drive.create(scratchDir(t))
  t.teardown(() => drive.close(), { force: true })
  for (const [path, bytes] of Object.entries(files)) await write(drive, path, randomBytes(bytes))
  await drive.sync()
  drive.journal.commit()
  return drive
}

/** Chunks of one file. */
function spotsOfFile(drive: Drive, ino: number): Spot[] {
  drive.journal.commit()
  return spotsOf(drive.dir, `AND num IN (SELECT chunk FROM extent WHERE ino = ${ino})`)
}

/** A clock that goes on when somebody waits, and only then. */
class Waits implements Timers {
  ms = 0
  readonly ticks: (() => void)[] = []
  nowMs = () => this.ms
  after = (ms: number, run: () => void) => {
    const timer = setImmediate(() => {
      this.ms += ms
      run()
    })
    return () => clearImmediate(timer)
  }
  every = (_ms: number, run: () => void) => {
    this.ticks.push(run)
    return () => {}
  }
  soon = (run: () => void) => { setImmediate(run) }
}

/** Says that all is sound, and remembers what it was asked. */
class Asked {
  readonly offsets: string[] = []
  bytes = 0
  before: () => Promise<void> | void = () => {}
  async verify(path: string, places: readonly SealedPlace[]): Promise<Verdict[]> {
    await this.before()
    for (const { offset, length } of places) {
      this.offsets.push(`${path}:${offset}`)
      this.bytes += length
    }
    return places.map(() => 'sound')
  }
  async rest() { /* nothing to end */ }
  async close() { /* nothing to end */ }
}

/** In place of the one of the drive. */
async function scrubberOf(t: Assert, drive: Drive, parts: Partial<ScrubParts> = {}): Promise<Scrubber> {
  await drive.care.close()
  const { db, chunks, store, journal, timers, clock } = drive
  const scrubber = new Scrubber({ db, chunks, store, journal, timers, clock, verifier: new Asked(), ...parts })
  t.teardown(() => scrubber.close(), { force: true, order: -1 })
  return scrubber
}

test('what the disk has spoilt is found, in segments and in the index, with the paths that need it; and found again after a restart', async (t) => {
  const drive = await openDrive(t, { '/whole': 3 * MIB, '/spoilt': 2 * MIB, '/small': 3000, '/other': 3000 })
  await drive.mkdir('/dir')
  await drive.link('/spoilt', '/dir/again')
  await drive.sync()
  const [spot] = spotsOfFile(drive, (await drive.stat('/spoilt')).ino)
  spoil([spot!])
  const inline = drive.db.sql.prepare('SELECT i.num, i.data FROM chunk_inline i JOIN extent e ON e.chunk = i.num WHERE e.ino = ?').get((await drive.stat('/small')).ino) as { num: number; data: Buffer }
  inline.data[7]! ^= 1
  drive.db.sql.prepare('UPDATE chunk_inline SET data = ? WHERE num = ?').run(inline.data, inline.num)

  const report = await drive.scrub()
  t.is(report.found, 2)
  t.is(report.mended, 0)
  t.alike(report.left.paths, ['/dir/again', '/small', '/spoilt'])
  t.is(report.left.damaged, 2)
  t.alike(report.left.unnamed, [])
  const { here } = (await drive.status()).chunks
  t.is(report.chunks, here, 'all that is here was looked at')
  t.alike((await drive.status()).scrub.last?.found, 2)

  await drive.close()
  const again = await Drive.open(drive.dir)
  t.teardown(() => again.close(), { force: true })
  t.is((await again.status()).damaged, 2, 'known without a look')
  t.is((await again.status()).scrub.last?.endedMs, report.endedMs)
  t.alike((await again.fsck()).problems.map((p) => [p.kind, p.path]).sort(), [['chunk-damaged', '/dir/again'], ['chunk-damaged', '/small'], ['chunk-damaged', '/spoilt']])
  t.is(await codeOf(() => read(again, '/spoilt')), 'EIO')
  t.is((await read(again, '/whole')).length, 3 * MIB)

  // The disk gives the right bytes again: nobody else was needed.
  spoil([spot!])
  const repaired = await again.mend()
  t.is(repaired.mended, 1)
  t.alike(repaired.left.paths, ['/small'])
  t.is((await read(again, '/spoilt')).length, 2 * MIB)
  await again.rm('/small')
  await again.gc()
  t.alike((await again.fsck({ data: true })).problems, [])
  t.is((await again.status()).damaged, 0)
})

test('a segment that ends early, or is gone, is found without reading', async (t) => {
  const drive = await openDrive(t, { '/a': 2 * MIB, '/b': 20_000 })
  const spots = spotsOf(drive.dir)
  await drive.close()
  for (const path of new Set(spots.map((s) => s.path))) rmSync(path)
  const again = await Drive.open(drive.dir)
  t.teardown(() => again.close(), { force: true })
  const report = await again.mend()
  t.is(report.damaged, spots.length)
  t.is(report.mended, 0)
  t.alike(report.left.paths, ['/a', '/b'])
})

test('what is damaged is not deduplicated against: the same content, written once more, mends it', async (t) => {
  const drive = await openDrive(t, {})
  const content = randomBytes(300_000)
  await write(drive, '/f', content)
  drive.journal.commit()
  const spots = spotsOf(drive.dir)
  spoil(spots)
  t.is((await drive.scrub()).found, spots.length)
  await write(drive, '/g', content)
  t.is((await drive.status()).damaged, 0)
  for (const path of ['/f', '/g']) t.ok((await read(drive, path)).equals(content), path)
  t.alike((await drive.fsck({ data: true })).problems, [])
  t.is((await drive.status()).scrub.last?.mended, spots.length)
})

test('in the background it keeps to its rate, lets readers go first, and rests until the next is due', async (t) => {
  const drive = await openDrive(t, { '/f': 6 * MIB })
  // As if it were served for the first time from here on, by another clock.
  await drive.care.close()
  drive.db.setMeta('scrub', '{}')
  const timers = new Waits()
  const verifier = new Asked()
  let nowMs = 1e12
  let isBusy = true
  const scrubber = await scrubberOf(t, drive, { timers, verifier, clock: { nowMs: () => nowMs }, isBusy: () => (isBusy = !isBusy) })
  const tick = async () => {
    timers.ticks.forEach((run) => run())
    for (let i = 0; i < 2000; i++) await new Promise((resolve) => setImmediate(resolve))
  }
  t.is(scrubber.rate, SCRUB_RATE)
  await scrubber.setRate(256 << 10)
  await tick()
  t.absent(scrubber.pass, 'a new store is not scrubbed at once')
  nowMs += DAY_MS
  await tick()
  t.is(scrubber.last?.bytes, 6 * MIB)
  t.is(scrubber.last?.found, 0)
  const least = 6 * MIB / (256 << 10) * 1000
  t.ok(timers.ms >= least && timers.ms < least * 1.2, `${timers.ms} ms for ${least}`)
  const read = verifier.bytes
  nowMs += SCRUB_EVERY_MS - 1000
  await tick()
  t.is(verifier.bytes, read)
  await scrubber.setRate(0)
  nowMs += 2000
  await tick()
  t.is(verifier.bytes, read, 'it is off')
  await scrubber.setRate(SCRUB_RATE)
  await tick()
  t.is(verifier.bytes, 2 * read)
  t.is(await codeOf(() => scrubber.setRate(-1)), 'EINVAL')
  t.is(drive.db.getMeta('scrub_rate'), SCRUB_RATE)
})

test('a pass that is stopped goes on where it was, in this session and the next, and after a crash with what it had found', async (t) => {
  const drive = await openDrive(t, { '/f': 24 * MIB })
  const verifier = new Asked()
  const stopped = new Error('ctrl-C')
  const scrubber = await scrubberOf(t, drive, { verifier })
  await scrubber.setRate(1)
  await t.exception(scrubber.run({}, () => { throw stopped }), /ctrl-C/)
  const first = new Set(verifier.offsets)
  t.ok(first.size > 0 && scrubber.pass !== undefined)
  drive.chunks.bad.add(1)
  await scrubber.close()
  drive.journal.commit()

  // A copy of its files is what a crash leaves.
  const copy = join(scratchDir(t), 'copy')
  cpSync(drive.dir, copy, { recursive: true, filter: (path) => !/lock|sock/.test(path) })
  const crashed = await Drive.open(copy)
  t.teardown(() => crashed.close(), { force: true })
  t.alike([...crashed.chunks.bad], [1])
  for (const one of [drive, crashed]) {
    const rest = new Asked()
    const next = await scrubberOf(t, one, { verifier: rest })
    t.is(next.pass?.bytes, scrubber.pass!.bytes)
    const { chunks } = await next.run()
    const names = (list: Iterable<string>) => [...list].map((s) => s.slice(s.lastIndexOf('/')))
    const before = new Set(names(first))
    t.is(names(rest.offsets).filter((name) => before.has(name)).length, 1, 'only what was in doubt is looked at again')
    t.is(new Set([...before, ...names(rest.offsets)]).size, chunks, 'and all of it was')
    const { n } = one.db.sql.prepare('SELECT count(*) AS n FROM chunk WHERE seg > 0').get() as { n: number }
    t.is(chunks, n)
    const anew = new Asked()
    const from = await scrubberOf(t, one, { verifier: anew })
    await from.run({ restart: true })
    t.is(anew.offsets.length, n, 'begun anew')
  }
})

test('several wait for one pass; what is written meanwhile is the next one\'s', async (t) => {
  const drive = await openDrive(t, { '/f': 12 * MIB })
  const verifier = new Asked()
  let isFirst = true
  verifier.before = async () => {
    if (!isFirst) return
    isFirst = false
    await write(drive, '/later', randomBytes(2 * MIB))
  }
  const scrubber = await scrubberOf(t, drive, { verifier })
  const [one, two] = await Promise.all([scrubber.run(), scrubber.run()])
  t.alike(one, two)
  t.is(one.bytes, 12 * MIB)
  t.is((await scrubber.run()).bytes, 14 * MIB)
  await scrubber.close()
  t.is(await codeOf(() => scrubber.run()), 'STORE_STOPPED')
})

test('chunks that are removed, or moved by compaction, while they are looked at are no damage', async (t) => {
  const files = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`/f${i}`, 300_000]))
  const drive = await openDrive(t, files)
  const real = new Verifier()
  let rounds = 0
  const verifier = {
    // Every second file goes, and the segments are written anew, before the disk is read at the place of before.
    async verify(path: string, places: readonly SealedPlace[]): Promise<Verdict[]> {
      if (rounds++ === 0) {
        for (let i = 0; i < 40; i += 2) await drive.rm(`/f${i}`)
        await drive.gc()
      }
      return real.verify(path, places)
    },
    rest: () => real.rest(), close: () => real.close(),
  }
  const scrubber = await scrubberOf(t, drive, { verifier })
  const pass = await scrubber.run()
  t.ok(rounds > 1)
  t.is(pass.found, 0)
  t.is(drive.chunks.bad.size, 0)
  t.alike((await drive.fsck({ data: true })).problems, [])
})

test('compaction keeps what is known to be damaged, finds what is not, and leaves what it cannot read', async (t) => {
  const files = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`/f${i}`, 300_000]))
  const drive = await openDrive(t, files)
  const [known] = spotsOfFile(drive, (await drive.stat('/f1')).ino)
  const [unknown] = spotsOfFile(drive, (await drive.stat('/f3')).ino)
  spoil([known!, unknown!])
  drive.chunks.bad.add(known!.num)
  for (let i = 0; i < 40; i += 2) await drive.rm(`/f${i}`)
  t.ok((await drive.gc()).segmentsRewritten > 0)
  t.alike([...drive.chunks.bad].sort(), [known!.num, unknown!.num].sort())
  t.alike((await drive.scrub()).left.paths, ['/f1', '/f3'])
  // Of the damaged file all but the piece that is damaged can still be read.
  const f = await drive.open('/f1')
  t.is((await f.read(0, 4096)).length, 4096)
  await f.close()
})

test('the paths of many chunks: every name, with names of names, in one go', async (t) => {
  const drive = await openDrive(t, { '/top': 20_000 })
  await drive.mkdir('/a/b/c', { recursive: true })
  const names: string[] = []
  for (let i = 0; i < 300; i++) {
    names.push(`/a/b/c/${i}`)
    await write(drive, names.at(-1)!, randomBytes(9000))
  }
  await drive.sync()
  for (const { num } of spotsOf(drive.dir)) drive.chunks.bad.add(num)
  drive.journal.commit()
  for (const { num } of spotsOf(drive.dir)) drive.chunks.bad.add(num)
  const { left } = await drive.mend()
  t.alike(left.paths, [], 'they were marked, and are sound')
  for (const { num } of spotsOf(drive.dir)) drive.chunks.bad.add(num)
  t.alike((await drive.care.mending.danger()).paths, ['/top', ...names].sort())
})
