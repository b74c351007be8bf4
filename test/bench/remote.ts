/**
 * npm run bench:remote: the content of a drive between two devices, each a process of its own, over TCP on this machine.
 *
 *   --mib N      of the file (default 1024)
 *   --rounds N   of which the median counts (default 3)
 *   --profile D  CPU profiles of both processes into the directory D
 *   --json       one object
 *
 *   first   from open to the first byte of a file of which nothing is here
 *   read    the whole of it, in the order of its bytes; nothing is fetched but by the reader
 *   random  4 KiB at a time, at random places of another file of which nothing is here
 *   keep    all chunks, in the background, until they are durable
 */
import { fork, type ChildProcess } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Drive } from '../../lib/drive.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { Swarm } from '../../lib/swarm/swarm.js'

const MIB = 1 << 20
/** What the kernel asks for at a time when it reads ahead. */
const READ_BYTES = 128 << 10
const RANDOM_READS = 200

interface Setup { dir: string; mib: number; profile: string; key: string; port: number; what: What }
type What = 'read' | 'keep'
interface Figures { firstMs?: number; mibPerS: number; randomMs?: number; seconds: number; mainCpuS: number; cpuS: number; rssMiB: number }
type Request = 'cpu' | 'end'

async function main(): Promise<void> {
  const { values } = parseArgs({ options: {
    mib: { type: 'string', default: '1024' }, rounds: { type: 'string', default: '3' }, profile: { type: 'string', default: '' }, json: { type: 'boolean', default: false },
  } })
  const dir = mkdtempSync(join(tmpdir(), 'dfs-bench-remote-'))
  const giver = fork(fileURLToPath(import.meta.url), ['giver', JSON.stringify({ dir: join(dir, 'a'), mib: Number(values.mib), profile: values.profile })])
  const out: Record<What, (Figures & { giverCpuS: number })[]> = { read: [], keep: [] }
  try {
    const { key, port } = await answer<{ key: string; port: number }>(giver)
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const what of ['read', 'keep'] as const) {
        const before = await ask<number>(giver, 'cpu')
        const taker = fork(fileURLToPath(import.meta.url), ['taker', JSON.stringify({ dir: join(dir, `b-${what}`), mib: Number(values.mib), profile: values.profile, key, port, what })])
        const figures = await answer<Figures>(taker)
        out[what].push({ ...figures, giverCpuS: await ask<number>(giver, 'cpu') - before })
        await ended(taker)
        rmSync(join(dir, `b-${what}`), { recursive: true })
      }
    }
    giver.send('end')
    await ended(giver)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  if (values.json) return console.log(JSON.stringify(out))
  const line = (what: What) => {
    const of = (pick: (f: Figures & { giverCpuS: number }) => number | undefined) => median(out[what].map((f) => pick(f) ?? 0))
    const first = what === 'read' ? `first byte ${of((f) => f.firstMs).toFixed(1)} ms, random 4 KiB ${of((f) => f.randomMs).toFixed(2)} ms, ` : ''
    console.log(`${what.padEnd(6)}${of((f) => f.mibPerS).toFixed(0).padStart(5)} MiB/s   ${first}CPU seconds: main thread ${of((f) => f.mainCpuS).toFixed(1)}, all ${of((f) => f.cpuS).toFixed(1)}, giver ${of((f) => f.giverCpuS).toFixed(1)}; RSS ${of((f) => f.rssMiB).toFixed(0)} MiB`)
  }
  console.log(`${values.mib} MiB, median of ${values.rounds}\n`)
  line('read')
  line('keep')
}

async function giver({ dir, mib, profile }: Setup): Promise<void> {
  await (await Drive.create(dir, { name: 'bench' })).close()
  const drive = await Drive.open(dir)
  await fill(drive, '/large', mib)
  await fill(drive, '/other', 64)
  await drive.sync()
  drive.share()
  const swarm = new Swarm(drive, { host: '127.0.0.1', dht: false, mdns: false })
  await swarm.ready()
  const stop = profile ? await profiling(join(profile, 'giver.cpuprofile')) : undefined
  process.send!({ key: await drive.key('full'), port: swarm.net.port })
  for await (const request of requests()) {
    if (request === 'cpu') process.send!(cpu())
    else break
  }
  await stop?.()
  await swarm.close()
  await drive.close()
  process.disconnect()
}

async function taker({ dir, mib, profile, key, port, what }: Setup): Promise<void> {
  const network = { peers: [`127.0.0.1:${port}`], host: '127.0.0.1', dht: false, mdns: false }
  await prepareJoin(dir, key, { deviceName: 'taker', cacheBytes: what === 'read' ? 64 * 1024 * MIB : null })
  await finishJoin(dir, { network })
  const drive = await Drive.open(dir)
  const swarm = new Swarm(drive, network)
  const stop = profile ? await profiling(join(profile, `${what}.cpuprofile`)) : undefined
  await swarm.ready()
  while (swarm.peers().length === 0) await sleep(1)
  const startCpu = cpu()
  const startMain = mainCpu()
  const startMs = performance.now()
  const figures: Partial<Figures> = {}
  if (what === 'read') {
    const file = await drive.open('/large')
    for (let at = 0; at < mib * MIB; at += READ_BYTES) {
      const got = await file.read(at, READ_BYTES)
      if (got.length !== READ_BYTES) throw new Error(`${got.length} bytes at ${at}`)
      if (at === 0) figures.firstMs = performance.now() - startMs
    }
    await file.close()
  } else {
    const left = drive.db.sql.prepare('SELECT count(*) FROM chunk WHERE seg < 0').pluck()
    while ((left.get() as number) > 0) await sleep(100)
  }
  figures.seconds = (performance.now() - startMs) / 1000
  figures.mibPerS = (mib + (what === 'keep' ? 64 : 0)) / figures.seconds
  figures.mainCpuS = mainCpu() - startMain
  figures.cpuS = cpu() - startCpu
  if (what === 'read') {
    const file = await drive.open('/other')
    const times: number[] = []
    for (let i = 0; i < RANDOM_READS; i++) {
      const atMs = performance.now()
      await file.read(Math.floor(Math.random() * 64 * MIB / 4096) * 4096, 4096)
      times.push(performance.now() - atMs)
    }
    figures.randomMs = median(times)
    await file.close()
  }
  figures.rssMiB = process.memoryUsage.rss() / MIB
  await stop?.()
  process.send!(figures)
  await swarm.close()
  await drive.close()
  process.disconnect()
}

async function fill(drive: Drive, path: string, mib: number): Promise<void> {
  const file = await drive.open(path, 'w')
  const block = Buffer.alloc(MIB)
  for (let at = 0; at < mib; at++) await file.write(at * MIB, randomFillSync(block))
  await file.close()
}

/** Seconds of all threads of this process. */
function cpu(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** Seconds in which the main thread's loop was not idle. */
function mainCpu(): number {
  return performance.eventLoopUtilization().active / 1000
}

async function profiling(path: string): Promise<() => Promise<void>> {
  const session = new Session()
  session.connect()
  await session.post('Profiler.enable')
  await session.post('Profiler.start')
  return async () => {
    const { profile } = await session.post('Profiler.stop')
    writeFileSync(path, JSON.stringify(profile))
  }
}

async function* requests(): AsyncGenerator<Request> {
  for (;;) yield await new Promise<Request>((resolve) => process.once('message', resolve as (m: unknown) => void))
}

function answer<T>(child: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    child.once('message', (m) => resolve(m as T))
    child.once('exit', (code) => reject(new Error(`a process of the benchmark ended with ${code}`)))
  })
}

function ask<T>(child: ChildProcess, request: Request): Promise<T> {
  const got = answer<T>(child)
  child.send(request)
  return got
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null) await new Promise((resolve) => child.once('exit', resolve))
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

const role = process.argv[2]
if (role === 'giver') await giver(JSON.parse(process.argv[3]!) as Setup)
else if (role === 'taker') await taker(JSON.parse(process.argv[3]!) as Setup)
else await main()
