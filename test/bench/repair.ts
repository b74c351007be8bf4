/**
 * npm run bench:repair: three devices, two copies of each chunk. One dies; the other two copy its share to each other. How fast, beside
 * what one of them sends to a device that has nothing; and what programs on a mount get done meanwhile, beside undisturbed.
 */
import { randomFillSync } from 'node:crypto'
import { closeSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bytesOf, holdingsOf } from '../helpers/copies.js'
import { removeAll, type Member } from '../helpers/member.js'
import { compile, must, sleep } from '../helpers/run.js'
import { runAlone, SoakFleet } from '../soak/fleet.js'

const HELP = `npm run bench:repair -- [OPTION...]
  --rounds N   (3); medians are printed
  --size MIB   of content (2048)
  --files N    created, and read from, while a repair is under way (10000)
  --dir DIR    where stores are made (${tmpdir()})`
const MIB = 2 ** 20
/** Of all that is to come: what comes before and after is not counted. */
const FROM = 0.05
const TO = 0.95
const POLL_MS = 50
const NEAR_BYTES = 256 * MIB
const FILE_BYTES = 64 * MIB
const RAW_BYTES = 1024 * MIB
const CAPACITY = '20G'

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '3' }, size: { type: 'string', default: '2048' }, files: { type: 'string', default: '10000' }, dir: { type: 'string', default: tmpdir() }, help: { type: 'boolean', default: false } },
})
if (values.help) {
  console.log(HELP)
  process.exit(0)
}
const files = Number(values.files)
const bytes = Number(values.size) * MIB
const median = (list: number[]) => list.slice().sort((x, y) => x - y)[Math.floor(list.length / 2)]!
const report = (what: string, figures: string) => console.log(`${what.padEnd(44)} ${figures}`)

function writeBig(path: string, length: number): void {
  const block = Buffer.alloc(4 * MIB)
  const fd = openSync(path, 'w')
  try {
    for (let at = 0; at < length; at += block.length) writeSync(fd, randomFillSync(block), 0, Math.min(block.length, length - at))
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** MiB that come to devices in a second, of `expected` bytes beyond those of `before`. */
async function rateOf(fleet: SoakFleet, members: () => readonly Member[], expected: number, before = new Map<string, number>()): Promise<number> {
  const seen: { atMs: number; bytes: number }[] = []
  for (;;) {
    const bytes = await cameTo(fleet, members(), before)
    if (bytes >= expected * FROM) seen.push({ atMs: performance.now(), bytes })
    if (bytes >= expected * TO) break
    await sleep(POLL_MS)
  }
  const [from, to] = [seen[0]!, seen.at(-1)!]
  return (to.bytes - from.bytes) / MIB / ((to.atMs - from.atMs) / 1000)
}

async function cameTo(fleet: SoakFleet, members: readonly Member[], before: ReadonlyMap<string, number>): Promise<number> {
  let bytes = 0
  for (const [name, n] of await fleet.bytesIn(members)) bytes += n - (before.get(name) ?? 0)
  return bytes
}

/** Files of 64 MiB. */
function writeMany(dir: string, length: number): void {
  for (let left = length, n = 0; left > 0; left -= FILE_BYTES, n++) writeBig(join(dir, `big-${n}`), Math.min(left, FILE_BYTES))
}

/** From one device to another that has nothing, of a drive of their own. */
async function raw(parent: string, bytes: number): Promise<number> {
  const fleet = await SoakFleet.make(1, { parent, copies: 2, capacity: () => CAPACITY, log: console.log })
  try {
    writeMany(fleet.members[0]!.dir, bytes)
    await fleet.members[0]!.dfs('sync')
    const [rate] = await Promise.all([rateOf(fleet, () => fleet.members.slice(1), bytes), fleet.join()])
    return rate
  } finally {
    await fleet.remove(fleet.members)
    await removeAll(parent)
  }
}

/** The kernel keeps no page of it. */
const forget = (path: string) => must('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])

async function main(parent: string): Promise<void> {
  const load = compile('test/bench/load.c')
  const fleet = await SoakFleet.make(2, { parent: join(parent, 'fleet'), copies: 2, capacity: () => CAPACITY, log: console.log })
  const [a, b] = fleet.members as [Member, Member]
  const folder = a.at('near')
  mkdirSync(folder)
  writeBig(join(folder, 'big'), NEAR_BYTES)
  await a.dfs('pin', '/near')
  writeMany(a.dir, bytes)
  await fleet.settled()

  let made = 0
  /** Operations a second: files created, and 4 KiB read at random from what is on this device. */
  const work = async () => {
    const dir = a.at(`work-${++made}`)
    mkdirSync(dir)
    const rate = async (...args: string[]) => (JSON.parse(await must(load, args)) as { rate: number }).rate
    const create = await rate('create', dir, String(files), '4096', String(made))
    // What the kernel has of it is no work for the daemon.
    await forget(join(folder, 'big'))
    return { create, read: await rate('random-read', folder, String(files), String(NEAR_BYTES), String(made)) }
  }
  /** A third comes, has its share, and dies: what a and b lack then, and what had come to them by then. */
  const third = async () => {
    const c = await fleet.join()
    await fleet.settled()
    await fleet.evict()
    return async () => {
      const lacked = [a, b].reduce((sum, m) => {
        const { live, here } = holdingsOf(m.store)
        return sum + bytesOf(live) - bytesOf(here)
      }, 0)
      await fleet.wipe([c])
      return { lacked, before: await fleet.bytesIn([a, b]) }
    }
  }
  const both = () => [a, b]
  await work()
  const raws: number[] = []
  const repairs: number[] = []
  const works: { create: number; read: number }[] = []
  for (let round = 1; round <= Number(values.rounds); round++) {
    raws.push(await raw(join(parent, `raw-${round}`), Math.min(bytes, RAW_BYTES)))
    const lost = await (await third())()
    const rate = await rateOf(fleet, both, lost.lacked, lost.before)
    await fleet.settled()
    repairs.push(rate / raws.at(-1)!)
    report('a lost share, copied between two devices', `${rate.toFixed(0)} MiB/s of ${(lost.lacked / MIB).toFixed(0)} MiB, ${repairs.at(-1)!.toFixed(2)} of ${raws.at(-1)!.toFixed(0)} from one device to an empty one`)

    const lose = await third()
    const alone = await work()
    await fleet.settled()
    const { lacked, before } = await lose()
    const repairing = rateOf(fleet, both, lacked, before)
    while (await cameTo(fleet, both(), before) < lacked * FROM) await sleep(POLL_MS)
    const under = await work()
    const part = await cameTo(fleet, both(), before) / lacked
    works.push({ create: under.create / alone.create, read: under.read / alone.read })
    report('a mount at work meanwhile', `create ${works.at(-1)!.create.toFixed(2)} of ${alone.create.toFixed(0)}/s, random 4K read ${works.at(-1)!.read.toFixed(2)} of ${alone.read.toFixed(0)}/s; ${(100 * part).toFixed(0)} % had come when it ended, at ${(await repairing).toFixed(0)} MiB/s`)
    await fleet.settled()
  }
  report('medians', `repair ${median(repairs).toFixed(2)} of ${median(raws).toFixed(0)} MiB/s; create ${median(works.map((w) => w.create)).toFixed(2)}, random 4K read ${median(works.map((w) => w.read)).toFixed(2)}`)
}

runAlone(join(values.dir, 'dfs-repair-'), main)
