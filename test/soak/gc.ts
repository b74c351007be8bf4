/**
 * npm run soak:gc: real daemons on a network of their own with two copies of each chunk and a retention of a minute: programs make, change
 * and remove files that share their chunks, hold removed ones open, bring back what was, on devices that are killed, stopped and cut
 * off, one of them without a mount; all collect what nobody needs all the time. What is read must be what was written. Every few
 * minutes all stand still and are compared, byte for byte. In the end half of everything goes, and the stores must shrink to what is left.
 */
import { promises as fs } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import Sqlite from 'better-sqlite3'
import { sealedLength } from '../../lib/seal/chunk.js'
import { RECORD_BYTES } from '../../lib/store/record.js'
import { until, type Member } from '../helpers/member.js'
import { Lan } from '../helpers/namespaces.js'
import { sleep } from '../helpers/run.js'
import { random } from '../helpers/tree.js'
import { Blocks, shaOfBytes } from './blocks.js'
import { Expected } from './expected.js'
import { runAlone, SoakFleet } from './fleet.js'
import { Program } from './programs.js'
import { Trouble } from './trouble.js'
import { readDirect, Reader, type ProgramParts } from './workers.js'

const HELP = `npm run soak:gc -- [OPTION...]
  --minutes N    of programs at work (60)
  --round N      minutes between looks at everything (6)
  --mib N        of files that are written at the start and stay (200)
  --seed S       of what is done
  --calm         nothing happens to the devices
  --keep         stores stay when it fails
  --dir DIR      where stores are made (${tmpdir()})`
const MOUNTS = 4
const COPIES = 2
const PROGRAMS = 2
const READERS = 2
const PACE_MS = 300
const RETENTION_MS = 60_000
/** Of the live size, in the end. */
const MOST_OVER = 1.15
/** What is removed goes from a device without a key after two answers, two minutes apart. */
const SHRUNK_MS = 900_000
const SAY_MS = 30_000
const FILE_BYTES = 1 << 20
const MIB = 2 ** 20

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' }, round: { type: 'string', default: '6' }, mib: { type: 'string', default: '200' }, seed: { type: 'string' },
    calm: { type: 'boolean', default: false }, keep: { type: 'boolean', default: false }, dir: { type: 'string', default: tmpdir() }, help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(HELP)
  process.exit(0)
}
// A daemon that is stopped holds the threads of all who wait for it; node makes them before this file is read.
if (Number(process.env.UV_THREADPOOL_SIZE ?? 0) < 64) throw new Error('it wants UV_THREADPOOL_SIZE=96, as npm run soak:gc sets it')
const seed = Number(values.seed ?? 1 + Math.floor(Math.random() * 1e6))
const startMs = performance.now()
const log = (text: string) => console.log(`${((performance.now() - startMs) / 1000).toFixed(1).padStart(7)} s  ${text}`)

class GcSoak {
  readonly #random = random(seed)
  readonly #blocks = new Blocks(random(seed + 1))
  readonly #expected = new Expected()
  readonly #counts = { written: 0, changed: 0, removed: 0, restored: 0, held: 0, reads: 0, excused: 0 }
  readonly #collected = { runs: 0, chunks: 0, bytes: 0 }
  readonly #trouble: Trouble
  readonly #programs: Program[] = []
  readonly #readers: Reader[] = []
  #failure: Error | undefined
  #isOver = false
  #isQuiet = false
  readonly #collecting = new Set<Member>()

  constructor(readonly fleet: SoakFleet, readonly lan: Lan, readonly shed: Member) {
    const left = async (m: Member) => { await Promise.all([...this.#programs, ...this.#readers].filter((w) => w.p.member === m).map((w) => w.left())) }
    this.#trouble = new Trouble({ lan, members: fleet.members, shed, random: random(seed + 2), log, left })
  }

  get #all(): Member[] { return [...this.fleet.members, this.shed] }

  #failed(e: Error): void {
    if (!this.#failure) log(`FAILED: ${e.message}`)
    this.#failure ??= e
  }

  async begin(): Promise<void> {
    const { members } = this.fleet
    for (let left = Number(values.mib) * MIB, n = 0; left > 0; n++) {
      const content = this.#blocks.lasting(FILE_BYTES)
      left -= content.size
      const path = join('base', String(n))
      const member = members[n % MOUNTS]!
      await fs.mkdir(member.at('base'), { recursive: true })
      await fs.writeFile(member.at(path), content.bytes())
      this.#expected.changed(path, content, Date.now())
    }
    await this.fleet.settled()
    for (const [i, member] of members.entries()) {
      const p: ProgramParts = { member, fleet: this.fleet, blocks: this.#blocks, expected: this.#expected, trouble: this.#trouble, counts: this.#counts, random: random(seed + 10 + i), failed: (e) => this.#failed(e) }
      for (let n = 0; n < PROGRAMS; n++) this.#programs.push(new Program(p, `${member.name}-${n}`, PACE_MS))
      for (let n = 0; n < READERS; n++) this.#readers.push(new Reader(p, PACE_MS))
    }
    for (const member of this.#all) void this.#collect(member)
    if (!values.calm) this.#trouble.start((e) => this.#failed(e))
  }

  /** All the time. */
  async #collect(member: Member): Promise<void> {
    const random01 = random(seed + 100 + this.#all.indexOf(member))
    while (!this.#isOver) {
      await sleep(3000 + 10_000 * random01())
      if (this.#isQuiet || this.#trouble.isDown(member)) continue
      const sinceMs = Date.now()
      this.#collecting.add(member)
      try {
        await this.#gc(member)
        // What others have and this device need not: it is fetched again when it is read.
        if (member !== this.shed && random01() < 0.2) await this.fleet.ask(member, (d) => d.evict('/'))
      } catch (e) {
        if ((e as { code?: string }).code !== 'EBUSY' && !this.#trouble.excuses(e, sinceMs)) this.#failed(new Error(`gc of ${member.name}: ${(e as Error).message}`))
      }
      this.#collecting.delete(member)
    }
  }

  async #gc(member: Member): Promise<void> {
    const { chunksDropped, bytesFreed } = await this.fleet.ask(member, (d) => d.gc())
    this.#collected.runs++
    this.#collected.chunks += chunksDropped
    this.#collected.bytes += bytesFreed
  }

  async race(): Promise<void> {
    const endMs = performance.now() + Number(values.minutes) * 60_000
    let saidMs = performance.now()
    for (let round = 1; performance.now() < endMs && !this.#failure; round++) {
      const lookMs = Math.min(endMs, performance.now() + Number(values.round) * 60_000)
      while (performance.now() < lookMs && !this.#failure) {
        await sleep(200)
        if (performance.now() - saidMs < SAY_MS) continue
        saidMs = performance.now()
        log(this.#said())
      }
      if (this.#failure) break
      await this.#quiet()
      await this.#looked(`round ${round}`)
      if (performance.now() < endMs) this.#resume()
    }
    this.#throw()
  }

  #throw(): void {
    if (this.#failure) throw this.#failure
  }

  #said(): string {
    const { written, changed, removed, restored, held, reads, excused } = this.#counts
    const { kills, stops, cuts, splits } = this.#trouble.counts
    const { runs, chunks, bytes } = this.#collected
    return `${written} files written, ${changed} changed, ${removed} removed, ${restored} restored, ${reads} read, ${held} read after they were removed, ${excused} tries failed in trouble; ` +
      `${kills} kills, ${stops} stops, ${cuts} cuts, ${splits} splits; ${runs} gc: ${chunks} chunks, ${(bytes / MIB).toFixed(0)} MiB`
  }

  /** All is well with the devices, and nobody does anything. */
  async #quiet(): Promise<void> {
    await this.#trouble.pause()
    this.#isQuiet = true
    await Promise.all([...this.#programs, ...this.#readers].map((w) => w.pause()))
    while (this.#collecting.size > 0) await sleep(50)
    this.#throw()
    for (const program of this.#programs) await program.mend()
    await this.fleet.settled()
  }

  #resume(): void {
    this.#isQuiet = false
    this.#trouble.resume()
    for (const worker of [...this.#programs, ...this.#readers]) worker.resume()
  }

  /** Every device shows what was written, and is sound. */
  async #looked(when: string): Promise<void> {
    const { members } = this.fleet
    const there = this.#expected.there()
    let listings: string[] = []
    await until(`${when}: all mounts list the same`, async () => {
      listings = await Promise.all(members.map((m) => m.listing()))
      return listings.every((l) => l === listings[0])
    }, 120_000, 500).catch(async (e: Error) => { throw new Error(`${e.message}\n${await this.#differ(listings)}`) })
    const names = listings[0]!.split('\n').filter((line) => line.split('|')[1] === 'f').map((line) => line.split('|')[0]!.slice(2))
    const surplus = names.filter((n) => !there.has(n))
    const missing = [...there.keys()].filter((n) => !names.includes(n))
    if (surplus.length + missing.length > 0) throw new Error(`${when}: ${surplus.join(', ')} should not be there, ${missing.join(', ')} should`)
    await Promise.all(members.map(async (m) => {
      for (const [path, content] of there) {
        const found = await readDirect(m.at(path))
        if (!found || shaOfBytes(found) !== content.sha) throw new Error(`${when}: ${m.name}: ${path} is not as it was written\n${this.#expected.describe(path)}`)
      }
    }))
    const conflicts = await this.fleet.ask(members[0]!, (d) => d.conflicts())
    if (conflicts.length > 0) throw new Error(`${when}: ${conflicts.length} conflicts, though each file has one writer`)
    for (const m of this.#all) {
      const { code, stdout, stderr } = await m.tried('fsck', '--data')
      if (code !== 0) throw new Error(`${when}: ${m.name}: dfs fsck --data: ${code}\n${stdout}${stderr}`)
    }
    log(`${when}: ${there.size} files are the same on all, fsck is clean. ${this.#said()}`)
  }

  /** What the mounts list otherwise than the first; and what each lists otherwise than a mount of its own that has cached nothing. */
  async #differ(listings: string[]): Promise<string> {
    const out: string[] = []
    for (const [i, m] of this.fleet.members.entries()) {
      out.push(`${m.name} and ${this.fleet.members[0]!.name}: ${difference(listings[0]!, listings[i]!)}`)
      const fresh = `${m.dir}-fresh`
      await fs.mkdir(fresh, { recursive: true })
      await m.dfs('mount', fresh)
      out.push(`${m.name} without what its kernel has cached: ${difference(await m.listing(fresh), await m.listing())}`)
      await m.dfs('unmount', fresh)
    }
    return out.join('\n')
  }

  /** Half of everything goes, and with it, after the retention, what it took. */
  async shrink(): Promise<void> {
    const { members } = this.fleet
    const all = [...this.#expected.there()].sort(() => this.#random() - 0.5)
    const before = await this.#taken()
    const removed = all.slice(0, Math.ceil(all.length / 2))
    for (const [n, [path]] of removed.entries()) {
      const fromMs = this.#expected.changing([path])
      await fs.rm(members[n % MOUNTS]!.at(path)).catch(async (e: NodeJS.ErrnoException) => {
        if (e.code !== 'ENOENT') throw e
        // Others hear of the last moment's first.
        await until(`${path} is there`, () => fs.rm(members[n % MOUNTS]!.at(path)).then(() => true, () => false))
      })
      this.#expected.changed(path, null, fromMs)
    }
    log(`${removed.length} of ${all.length} files are removed`)
    await this.fleet.settled()
    await sleep(RETENTION_MS)
    const untilMs = performance.now() + SHRUNK_MS
    for (let saidMs = performance.now(); ;) {
      await this.fleet.evict()
      for (const m of this.#all) await this.#gc(m).catch((e: { code?: string }) => { if (e.code !== 'EBUSY') throw e })
      const after = await this.#taken()
      const isDone = after.every((d) => d.segments <= d.needed * MOST_OVER)
      if (!isDone && performance.now() < untilMs) {
        if (performance.now() - saidMs > SAY_MS) {
          saidMs = performance.now()
          log(`MiB in segments, and of what is to be held: ${after.map((d) => `${d.name} ${(d.segments / MIB).toFixed(1)}, ${(d.needed / MIB).toFixed(1)}`).join('; ')}`)
        }
        await sleep(5000)
        continue
      }
      log(`| device | before MiB | after MiB | is to hold MiB | after / is to hold |\n|---|---|---|---|---|\n${after.map((d, i) => `| ${d.name} | ${(before[i]!.segments / MIB).toFixed(1)} | ${(d.segments / MIB).toFixed(1)} | ${(d.needed / MIB).toFixed(1)} | ${(d.segments / d.needed).toFixed(3)} |`).join('\n')}`)
      if (!isDone) throw new Error('the stores are not within 15 % of what they are to hold')
      break
    }
    await this.#looked('in the end')
  }

  /** What segments take, and would take with nothing but chunks of files that are there, on each device. */
  async #taken(): Promise<{ name: string; segments: number; needed: number }[]> {
    const live = read(this.fleet.members[0]!, 'SELECT DISTINCT c.id, c.len FROM extent e JOIN dentry d ON d.ino = e.ino JOIN chunk c ON c.num = e.chunk WHERE e.chunk > 0')
    return Promise.all(this.#all.map(async (m) => {
      let needed = 0
      for (const [id, len] of read(m, 'SELECT id, len FROM chunk WHERE seg > 0')) if (live.has(id)) needed += sealedLength(len) + RECORD_BYTES
      return { name: m.name, segments: (await m.status()).disk.segments, needed }
    }))
  }

  async end(): Promise<void> {
    this.#isOver = true
    await this.#trouble.end()
    await Promise.all([...this.#programs, ...this.#readers].map((w) => w.end()))
    log(`passed: ${this.#said()}`)
  }
}

function difference(one: string, other: string): string {
  const [a, b] = [new Set(one.split('\n')), new Set(other.split('\n'))]
  return ['', ...[...a].filter((l) => !b.has(l)).map((l) => `< ${l}`), ...[...b].filter((l) => !a.has(l)).map((l) => `> ${l}`)].slice(0, 20).join('\n')
}

/** Chunks by id (latin1): plaintext bytes. */
function read(m: Member, query: string): Map<string, number> {
  const db = new Sqlite(join(m.store, 'index.db'), { readonly: true, fileMustExist: true, timeout: 30_000 })
  try {
    return new Map((db.prepare(query).raw(true).all() as [Buffer, number][]).map(([id, len]) => [id.toString('latin1'), len]))
  } finally {
    db.close()
  }
}

runAlone(join(values.dir, 'dfs-gc-'), async (parent) => {
  log(`seed ${seed}, ${values.minutes} minutes`)
  const lan = await Lan.make()
  const fleet = await SoakFleet.make(MOUNTS, { parent, copies: COPIES, capacity: () => '4G', lan, log })
  await fleet.members[0]!.dfs('config', 'set', 'lost-after', '20s')
  await fleet.members[0]!.dfs('config', 'set', 'retention', `${RETENTION_MS / 1000}s`)
  const soak = new GcSoak(fleet, lan, await fleet.storing())
  await soak.begin()
  log('all hold what was written at the start')
  await soak.race()
  await soak.shrink()
  await soak.end()
}, values.keep)
