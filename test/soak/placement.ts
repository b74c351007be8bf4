/**
 * npm run soak:placement: real daemons that lose two of their number, stores and all, while programs write and read; what remains must read
 * everything, restore all copies and be sound. Then two new ones join. Every few rounds a sixth comes and one is drained:
 * what moves is measured, and copies never become fewer. Stops at the first that fails and keeps its stores.
 */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bytesOf, holdingsOf } from '../helpers/copies.js'
import { closeMembers, removeAll, until, type Member } from '../helpers/member.js'
import { random } from '../helpers/tree.js'
import { must, sleep } from '../helpers/run.js'
import { SoakFiles, type SoakWriter } from './files.js'
import { SoakFleet } from './fleet.js'

const HELP = `npm run soak:placement -- [OPTION...]
  --rounds N     (20)
  --gib G        content at the start (5)
  --devices N    (5)
  --seed S       of victims and sizes
  --every N      every so many rounds a sixth comes and one is drained (4)
  --capacity C   of each device (the content and a half, at least 2G)
  --dir DIR      where stores are made (${tmpdir()})`
const COPIES = 3
const VICTIMS = 2
/** What is moved beyond content: metadata of the one that joins, questions, reports. */
const MOST_MOVED = 1.2
const MIB = 2 ** 20

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' }, gib: { type: 'string', default: '5' }, devices: { type: 'string', default: '5' }, seed: { type: 'string' },
    every: { type: 'string', default: '4' }, capacity: { type: 'string' }, dir: { type: 'string', default: tmpdir() }, help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(HELP)
  process.exit(0)
}
// A daemon that is killed holds the threads of all who wait for it; node makes them before this file is read.
if (Number(process.env.UV_THREADPOOL_SIZE ?? 0) < 32) throw new Error('it wants UV_THREADPOOL_SIZE=32, as npm run soak:placement sets it')
const seed = Number(values.seed ?? 1 + Math.floor(Math.random() * 1e6))
const bytes = Number(values.gib) * 2 ** 30
const capacity = values.capacity ?? `${Math.max(2, Math.ceil(Number(values.gib) * 1.5))}G`
const startMs = performance.now()
const log = (text: string) => console.log(`${((performance.now() - startMs) / 1000).toFixed(1).padStart(7)} s  ${text}`)

class Soak {
  readonly #writers = new Map<Member, SoakWriter>()
  readonly #files: SoakFiles

  constructor(readonly fleet: SoakFleet, readonly random: () => number) {
    this.#files = new SoakFiles(random)
  }

  async begin(): Promise<void> {
    const { fleet } = this
    await this.#files.writeBase(fleet.members, bytes, '0')
    for (const m of fleet.members) this.#write(m)
    log(`${this.#files.expected.size} files are written`)
    await fleet.synced()
    log(`placed; ${await this.#state()}`)
  }

  #write(m: Member): void { this.#writers.set(m, this.#files.writer(m)) }

  /** All writers stand still meanwhile. */
  async #quiet<T>(what: () => Promise<T>): Promise<T> {
    await Promise.all([...this.#writers.values()].map((w) => w.pause()))
    const result = await what()
    for (const w of this.#writers.values()) w.resume()
    return result
  }

  async #state(): Promise<string> {
    const { chunks, bytes: live, least, mean } = this.fleet.copies()
    return `${chunks} chunks, ${(live / MIB).toFixed(0)} MiB, ${least} to ${mean.toFixed(2)} copies; ${[...this.#writers.values()].reduce((n, w) => n + w.written, 0)} files by writers`
  }

  #whole(when: string, also: readonly Member[] = []): void {
    const { least, few } = this.fleet.copies(also)
    if (least < COPIES) throw new Error(`${when}: ${few.length} chunks have fewer than ${COPIES} copies, at least one has ${least}: ${few.slice(0, 5).join(', ')}`)
  }

  async killed(): Promise<void> {
    const { fleet } = this
    const victims: Member[] = []
    while (victims.length < VICTIMS) {
      const victim = fleet.members[Math.floor(this.random() * fleet.members.length)]!
      if (!victims.includes(victim)) victims.push(victim)
    }
    // Only what is to be held is held: what is lost must come from others.
    const evictMs = performance.now()
    await this.#quiet(() => fleet.evict())
    log(`what nobody is to hold has left its devices in ${((performance.now() - evictMs) / 1000).toFixed(1)} s; ${await this.#state()}`)
    const before = new Set(victims.flatMap((v) => [...this.#files.of(v.name)]))
    await fleet.synced(victims)
    const killedMs = performance.now()
    for (const v of victims) void this.#writers.get(v)!.end()
    await fleet.wipe(victims)
    // What they wrote a moment ago nobody else may have.
    const unsure = victims.flatMap((v) => [...this.#files.of(v.name)]).filter((path) => !before.has(path))
    for (const path of unsure) this.#files.expected.delete(path)
    for (const v of victims) this.#writers.delete(v)
    log(`${victims.map((v) => v.name).join(' and ')} are killed and wiped`)
    const reading = Promise.all(fleet.members.map((m) => this.#files.verify(m)))
    const repairing = this.#repaired(victims, unsure, killedMs)
    // Both, so that neither goes on behind the other's failure.
    const ended = await Promise.allSettled([reading, repairing])
    for (const e of ended) if (e.status === 'rejected') throw e.reason
    const read = await reading
    log(`${fleet.members.map((m) => m.name).join(', ')} read everything: ${read.map((r) => `${r.files} files`).join(', ')}, ${(read[0]!.bytes / MIB).toFixed(0)} MiB each`)
    await this.#quiet(async () => {
      await fleet.settled()
      this.#whole('after the repair')
      await Promise.all(fleet.members.map(async (m) => {
        const { code, stdout, stderr } = await m.tried('fsck', '--data')
        if (code !== 0) throw new Error(`${m.name}: dfs fsck --data: ${code}\n${stdout}${stderr}`)
      }))
    })
    log(`all is sound; ${await this.#state()}`)
  }

  async #repaired(victims: readonly Member[], unsure: readonly string[], killedMs: number): Promise<void> {
    const { fleet } = this
    await fleet.lost(victims)
    const lostMs = performance.now()
    const [first] = fleet.members
    const parts = victims.flatMap((v) => [`live/${v.name}`]).map((dir) => `find '${first!.at(dir)}' -name '.part-*' -delete 2>/dev/null || true`)
    await must('sh', ['-c', parts.join('; ')])
    for (const path of unsure) await must('rm', ['-f', first!.at(path)])
    await fleet.synced()
    log(`all copies are back ${((performance.now() - lostMs) / 1000).toFixed(1)} s after the two counted as lost, ${((performance.now() - killedMs) / 1000).toFixed(1)} s after they were killed (${unsure.length} files of their last moment)`)
  }

  async joined(): Promise<void> {
    for (let i = 0; i < VICTIMS; i++) this.#write(await this.fleet.join())
    await this.#quiet(() => this.fleet.settled())
    this.#whole('after two have joined')
    log(`${this.fleet.members.map((m) => m.name).join(', ')} hold everything; ${await this.#state()}`)
    // What is stored changes too.
    await this.#files.removeBase(this.fleet.members[0]!, 0.05)
    await this.#files.writeBase(this.fleet.members, bytes * 0.05, `${this.fleet.members.at(-1)!.name}`)
  }

  /** While `isOver` says no: the fewest copies of what was there at the beginning. */
  async #watched(chunks: readonly string[], what: () => Promise<void>): Promise<{ least: number; looks: number }> {
    let isOver = false
    const all = [...this.fleet.members]
    let least = Infinity
    let looks = 0
    const watching = (async () => {
      for (;;) {
        const isLast = isOver
        const also = all.filter((m) => !this.fleet.members.includes(m))
        const now = this.fleet.copiesOf(chunks, also)
        looks++
        least = Math.min(least, now.least)
        if (now.least < COPIES) throw new Error(`${now.few.length} chunks have fewer than ${COPIES} copies: ${now.few.slice(0, 5).join(', ')}`)
        if (isLast) return
        await sleep(1000)
      }
    })()
    // Its error is thrown below.
    watching.catch(() => undefined)
    try {
      await what()
    } finally {
      isOver = true
    }
    await watching
    return { least, looks }
  }

  async added(): Promise<void> {
    const { fleet } = this
    await this.#quiet(async () => {
      await fleet.settled()
      await fleet.evict()
      const live = holdingsOf(fleet.members[0]!.store).live
      const [shares, start] = [await fleet.shares(), await fleet.bytesIn()]
      const { least, looks } = await this.#watched([...live.keys()], async () => {
        await fleet.join()
        await fleet.settled()
      })
      const end = await fleet.bytesIn()
      let gained = 0
      for (const [name, share] of await fleet.shares()) gained += Math.max(0, share - (shares.get(name) ?? 0))
      const ideal = gained * bytesOf(live)
      let moved = 0
      for (const [name, n] of end) moved += n - (start.get(name) ?? 0)
      log(`${fleet.members.at(-1)!.name} has joined: ${(moved / MIB).toFixed(1)} MiB came to all devices, ${(moved / ideal).toFixed(3)} of the ideal ${(ideal / MIB).toFixed(1)}; never fewer than ${least} copies in ${looks} looks`)
      if (moved > ideal * MOST_MOVED) throw new Error(`${moved} bytes were moved, ${ideal} must be: ${JSON.stringify([...start])}, ${JSON.stringify([...end])}`)
    })
    this.#write(fleet.members.at(-1)!)
  }

  async drained(): Promise<void> {
    const { fleet } = this
    await this.#quiet(() => fleet.settled())
    const leaving = fleet.members[Math.floor(this.random() * (fleet.members.length - 1))]!
    const live = holdingsOf(leaving.store).live
    const { least, looks } = await this.#watched([...live.keys()], async () => {
      await fleet.members.find((m) => m !== leaving)!.dfs('devices', 'drain', fleet.id(leaving))
      await fleet.synced()
      await this.#writers.get(leaving)!.pause()
      await fleet.synced([leaving])
      let left = { here: 0, inline: 0 }
      await until(`${leaving.name} is empty`, async () => {
        const { chunks } = await leaving.status()
        left = { here: chunks.hereBytes - chunks.inlineBytes, inline: chunks.inlineBytes }
        return left.here === 0
      }, 600_000, 500).catch((e: Error) => { throw new Error(`${e.message}: ${JSON.stringify(left)}`) })
      log(`${leaving.name} is empty, but for ${left.inline} bytes in its index`)
    })
    log(`it was drained while all wrote; never fewer than ${least} copies in ${looks} looks`)
    await this.#writers.get(leaving)!.end()
    this.#writers.delete(leaving)
    const id = fleet.id(leaving)
    await fleet.remove([leaving])
    await fleet.aside(id)
    await this.#quiet(() => fleet.settled())
    this.#whole('without the one that was drained')
    for (const m of fleet.members) await this.#files.verify(m)
    log(`without it all is read; ${await this.#state()}`)
  }

  async end(): Promise<void> {
    await Promise.all([...this.#writers.values()].map((w) => w.end()))
  }
}

const parent = mkdtempSync(join(values.dir, 'dfs-soak-'))
let isInterrupted = false
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void (isInterrupted = true, closeMembers()).then(() => removeAll(parent)).then(() => process.exit(130)))
}
try {
  log(`seed ${seed}, ${values.gib} GiB, ${capacity} for each device`)
  const soak = new Soak(await SoakFleet.make(Number(values.devices), { parent, copies: COPIES, capacity: () => capacity, log }), random(seed))
  await soak.begin()
  for (let round = 1; round <= Number(values.rounds); round++) {
    log(`round ${round}`)
    await soak.killed()
    await soak.joined()
    if (round % Number(values.every) !== 0) continue
    await soak.added()
    await soak.drained()
  }
  await soak.end()
  await closeMembers()
  await removeAll(parent)
  log(`${values.rounds} rounds passed`)
  process.exit(0)
} catch (e) {
  // What fails then fails since its daemons are gone; the handler ends the process.
  while (isInterrupted) await sleep(1000)
  log(`failed; stores in ${parent}`)
  console.log(e)
  await closeMembers()
  process.exit(1)
}
