/**
 * npm run bench:sync: what travels between two devices, in one run beside
 * syncthing (where installed), over loopback; both from the first byte written
 * on A to complete on B.
 */
import { createHash } from 'node:crypto'
import { spawn } from 'node:child_process'
import { closeSync, fsyncSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, readSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { randomFillSync } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { compile, hasProgram, must, sleep } from '../helpers/run.js'
import { CpuMeter } from './cpu.js'
import { bareRate, hyperswarmPair } from './hyperswarm.js'
import { writeSourceTar } from './source-tree.js'
import { countFiles, dfsPair, DfsNode, freePort, sizeOf, syncthingPair, until, type Pair } from './sync-pairs.js'

const MIB = 1024 * 1024
const CASES = ['latency', 'untar', 'big', 'hyperswarm', 'move', 'remote', 'busy', 'join'] as const
type Case = (typeof CASES)[number]
/** The transfer alone is measured for so long. */
const FREE_MS = 5000
/** Read from at random meanwhile. */
const NEAR_BYTES = 256 * MIB
const HELP = `npm run bench:sync -- [OPTION...]
  --rounds N      of each case (3); medians are printed
  --cases A,B     only these: ${CASES.join(' ')}
  --size MIB      the big file (1024)
  --files N       of the drive that is joined (1000000)
  --dir DIR       where stores and folders are made (${tmpdir()})
  --no-syncthing  dfs alone`

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' }, cases: { type: 'string' }, size: { type: 'string', default: '1024' }, files: { type: 'string', default: '1000000' },
    dir: { type: 'string', default: tmpdir() }, 'no-syncthing': { type: 'boolean', default: false }, help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(HELP)
  process.exit(0)
}
const rounds = Number(values.rounds)
const bigBytes = Number(values.size) * MIB
const cases = (values.cases?.split(',') ?? CASES) as Case[]

const median = (list: number[]) => list.slice().sort((x, y) => x - y)[Math.floor(list.length / 2)]!
const report = (what: string, who: string, figures: string) => console.log(`${what.padEnd(44)} ${who.padEnd(10)} ${figures}`)

function writeBig(path: string, bytes: number): void {
  const block = Buffer.alloc(4 * MIB)
  const fd = openSync(path, 'w')
  try {
    for (let at = 0; at < bytes; at += block.length) writeSync(fd, randomFillSync(block), 0, Math.min(block.length, bytes - at))
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

function copyBig(from: string, to: string): void {
  const block = Buffer.alloc(4 * MIB)
  const [source, target] = [openSync(from, 'r'), openSync(to, 'w')]
  try {
    for (let got; (got = readSync(source, block, 0, block.length, null)) > 0;) writeSync(target, block, 0, got)
    fsyncSync(target)
  } finally {
    closeSync(source)
    closeSync(target)
  }
}

async function latency(pair: Pair, n: number): Promise<void> {
  const times: number[] = []
  const count = pair.name === 'dfs' ? 30 : 5
  for (let i = 0; i < count; i++) {
    const content = randomFillSync(Buffer.alloc(4096))
    const name = `small-${n}-${i}`
    writeFileSync(join(pair.a, name), content)
    const start = performance.now()
    await until(() => sizeOf(join(pair.b, name)) === 4096 && readFileSync(join(pair.b, name)).equals(content), 60_000)
    times.push(performance.now() - start)
    await sleep(pair.name === 'dfs' ? 50 : 300)
  }
  report('close of 4 KiB on A, readable on B', pair.name, `median ${median(times).toFixed(1)} ms, worst of ${count} ${Math.max(...times).toFixed(0)}`)
}

async function untar(pair: Pair, n: number, tar: string, files: number): Promise<void> {
  const [a, b] = [join(pair.a, `tree-${n}`), join(pair.b, `tree-${n}`)]
  mkdirSync(a)
  const start = performance.now()
  await must('tar', ['-xf', tar, '-C', a])
  const ended = performance.now()
  await until(() => sizeOf(b) >= 0 && countFiles(b) >= files, 120_000, 5)
  const names = performance.now()
  await until(() => pair.isComplete(), 120_000, 5)
  const all = performance.now()
  report(`untar of ${files} files`, pair.name, `tar ${((ended - start) / 1000).toFixed(2)} s; names ${((names - ended) / 1000).toFixed(2)} s after it, content ${((all - ended) / 1000).toFixed(2)} s; in all ${((all - start) / 1000).toFixed(2)} s`)
  const sum = (dir: string) => must('/bin/sh', ['-c', `cd ${dir} && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum`])
  if (await sum(a) !== await sum(b)) throw new Error('the trees differ')
}

/** `source`: the file that is copied to A; else its bytes are made while they are written. */
async function big(pair: Pair, n: number, source?: string): Promise<number> {
  const name = `big-${n}`
  const start = performance.now()
  if (source === undefined) writeBig(join(pair.a, name), bigBytes)
  else copyBig(source, join(pair.a, name))
  const written = performance.now()
  // Asking is work for B's main thread, too.
  await until(async () => sizeOf(join(pair.b, name)) === bigBytes && await pair.isComplete(), 600_000, 50)
  const s = (performance.now() - start) / 1000
  report(`${bigBytes / MIB} MiB from A to B`, pair.name, `${(bigBytes / MIB / s).toFixed(0)} MiB/s (${s.toFixed(2)} s, of it writing ${((written - start) / 1000).toFixed(2)})`)
  const sha = (path: string) => {
    const hash = createHash('sha256')
    const fd = openSync(path, 'r')
    const block = Buffer.alloc(MIB)
    for (let got; (got = readSync(fd, block, 0, MIB, null)) > 0;) hash.update(block.subarray(0, got))
    closeSync(fd)
    return hash.digest('hex')
  }
  if (sha(join(pair.a, name)) !== sha(join(pair.b, name))) throw new Error('the file differs')
  rmSync(join(pair.a, name))
  return bigBytes / MIB / s
}

/** The big file over hyperswarm alone, beside a bare stream of it, in turns. */
async function hyperswarm(scratch: string): Promise<void> {
  const file = join(scratch, 'bare')
  const pair = await hyperswarmPair(values.dir)
  try {
    const ratios: number[] = []
    for (let n = 0; n < rounds; n++) {
      // Another one each time: a device does not send what the other has.
      writeBig(file, bigBytes)
      const { mibPerS, sendS, receiveS } = await bareRate(pair, file, bigBytes)
      report(`${bigBytes / MIB} MiB over hyperswarm`, 'bare', `${mibPerS.toFixed(0)} MiB/s; processor time ${(sendS + receiveS).toFixed(1)} s (sender ${sendS.toFixed(1)}, receiver ${receiveS.toFixed(1)})`)
      const meters = pair.nodes.map(({ pid }) => new CpuMeter(pid))
      ratios.push(await big(pair, n, file) / mibPerS)
      report('processor time of A and B', pair.name, meters.join(', '))
      report('of a bare stream', 'ratio', ratios.at(-1)!.toFixed(2))
    }
    report('over hyperswarm, median', 'ratio', `${median(ratios).toFixed(2)} x bare stream`)
  } finally {
    await pair.close()
    rmSync(file, { force: true })
  }
}

async function move(pair: Pair, n: number): Promise<void> {
  const from = join(pair.a, `tree-${n}`)
  const to = `moved-${n}`
  const start = performance.now()
  renameSync(from, join(pair.a, to))
  await until(() => sizeOf(join(pair.b, to)) >= 0 && sizeOf(join(pair.b, `tree-${n}`)) < 0, 120_000)
  const seen = performance.now() - start
  await until(() => countFiles(join(pair.b, to)) === countFiles(join(pair.a, to)), 120_000, 5)
  report('moving a directory of 5,247 files', pair.name, `seen after ${seen.toFixed(0)} ms, whole after ${(performance.now() - start).toFixed(0)}`)
}

/** A file of which B has nothing: it keeps a small cache. */
async function remote(n: number): Promise<void> {
  const pair = await dfsPair(values.dir, { joinArgs: ['--cache', '256M'] })
  try {
    writeBig(join(pair.a, 'big'), bigBytes)
    await until(() => sizeOf(join(pair.b, 'big')) === bigBytes, 120_000, 10)
    await sleep(1000)
    const fd = openSync(join(pair.b, 'big'), 'r')
    const block = Buffer.alloc(MIB)
    const start = performance.now()
    readSync(fd, block, 0, 4096, 0)
    const first = performance.now() - start
    const child = spawn('dd', [`if=${join(pair.b, 'big')}`, 'of=/dev/null', 'bs=1M', 'status=none'])
    const from = performance.now()
    await new Promise((done) => child.on('close', done))
    const s = (performance.now() - from) / 1000
    closeSync(fd)
    report('reading what is all on A', 'dfs', `first byte ${first.toFixed(1)} ms, ${(bigBytes / MIB / s).toFixed(0)} MiB/s; peak RSS ${pair.peaks().map((p) => Math.round(p / MIB)).join(' and ')} MiB`)
  } finally {
    await pair.close()
  }
  void n
}

/** The kernel keeps no page of it. */
const forget = (path: string) => must('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])

/**
 * Rates of a program on A's mount, alone and while B fetches from A all the time; and the rate of that, alone and meanwhile, by
 * the bytes that came to B: what a cache of B had does not count.
 */
async function busy(load: string): Promise<void> {
  const pair = await dfsPair(values.dir, { joinArgs: ['--cache', '256M'] })
  try {
    const [nodeA, nodeB] = pair.nodes
    const far = join(pair.b, 'big')
    const near = join(pair.a, 'near')
    mkdirSync(near)
    writeBig(join(near, 'big'), NEAR_BYTES)
    writeBig(join(pair.a, 'big'), bigBytes)
    const rates = async (tag: string) => {
      mkdirSync(join(pair.a, tag))
      const rate = async (what: string[], count: number) => {
        const start = performance.now()
        await must(load, what)
        return count / ((performance.now() - start) / 1000)
      }
      const created = await rate(['create', join(pair.a, tag), '10000', '4096', '7'], 10_000)
      // What the kernel has of it is no work for the daemon.
      await forget(join(near, 'big'))
      return [created, await rate(['random-read', near, '10000', String(NEAR_BYTES), '9'], 10_000)] as const
    }
    await until(() => sizeOf(far) === bigBytes, 60_000, 50)
    await rates('warm')
    const alone = await rates('alone')

    let isOver = false
    const fetching = (async () => {
      while (!isOver) {
        await forget(far)
        const child = spawn('dd', [`if=${far}`, 'of=/dev/null', 'bs=1M', 'status=none'])
        const end = setInterval(() => { if (isOver) child.kill() }, 50)
        await new Promise((done) => child.once('close', done))
        clearInterval(end)
      }
    })()
    const came = async () => (await nodeB.status()).peers.reduce((sum, p) => sum + p.bytesIn, 0)
    /** MiB/s that came to B meanwhile, and what it is about. */
    const transferDuring = async <T>(what: () => Promise<T>) => {
      const [before, start] = [await came(), performance.now()]
      const result = await what()
      return { result, mibPerS: (await came() - before) / MIB / ((performance.now() - start) / 1000) }
    }
    try {
      await sleep(1000)
      const free = await transferDuring(() => sleep(FREE_MS))
      const meters = [new CpuMeter(nodeA.pid), new CpuMeter(nodeB.pid)]
      const under = await transferDuring(() => rates('under'))
      report('A at work while B reads from it', 'dfs', `create ${(under.result[0] / alone[0]).toFixed(2)} of ${alone[0].toFixed(0)}/s, random 4K read ${(under.result[1] / alone[1]).toFixed(2)} of ${alone[1].toFixed(0)}/s; transfer ${(under.mibPerS / free.mibPerS).toFixed(2)} of ${free.mibPerS.toFixed(0)} MiB/s`)
      report('processor time of A and B meanwhile', 'dfs', meters.join(', '))
    } finally {
      isOver = true
      await fetching
    }
  } finally {
    await pair.close()
  }
}

async function join1(load: string): Promise<void> {
  const scratch = mkdtempSync(join(values.dir, 'dfs-join-'))
  const files = Number(values.files)
  const port = await freePort()
  const a = new DfsNode(scratch, 'a', port)
  const b = new DfsNode(scratch, 'b', await freePort())
  try {
    await a.mount()
    for (let made = 0, n = 0; made < files; made += 1000, n++) {
      const dir = join(a.dir, `group-${Math.floor(n / 100)}`, `folder-${n}`)
      mkdirSync(dir, { recursive: true })
      await must(load, ['create-empty', dir, String(Math.min(1000, files - made)), '0', '1'])
    }
    const key = (await a.dfs('key')).trim().split('\n').find((l) => l.includes('dfs1-'))!.trim()
    const start = performance.now()
    await b.dfs('join', key, '--peer', `127.0.0.1:${port}`)
    await b.mount()
    const mounted = (performance.now() - start) / 1000
    await until(async () => (await b.status()).chunks.owed === 0, 600_000, 50)
    const complete = (performance.now() - start) / 1000
    const groups = readdirSync(b.dir).length
    report(`joining a drive of ${files} files`, 'dfs', `mounted ${mounted.toFixed(1)} s, complete ${complete.toFixed(1)} s (${groups} folders at the top)`)
  } finally {
    await b.close()
    await a.close()
    rmSync(scratch, { recursive: true, force: true })
  }
}

async function main(): Promise<void> {
  const load = compile('test/bench/load.c')
  const scratch = mkdtempSync(join(values.dir, 'dfs-bench-'))
  const pairs: Pair[] = []
  try {
    const shared = cases.filter((c) => ['latency', 'untar', 'big', 'move'].includes(c))
    if (shared.length > 0) {
      pairs.push(await dfsPair(values.dir))
      if (!values['no-syncthing'] && hasProgram('syncthing')) pairs.push(await syncthingPair(values.dir))
    }
    const rates = new Map<string, number[]>()
    for (let n = 0; n < rounds; n++) {
      const tar = join(scratch, 'tree.tar')
      const { files } = writeSourceTar(tar, 1 + n)
      for (const pair of n % 2 ? pairs.slice().reverse() : pairs) {
        if (shared.includes('latency')) await latency(pair, n)
        if (shared.includes('untar') || shared.includes('move')) await untar(pair, n, tar, files)
        if (shared.includes('move')) await move(pair, n)
        if (shared.includes('big')) rates.set(pair.name, [...(rates.get(pair.name) ?? []), await big(pair, n)])
      }
    }
    const [ours, theirs] = [rates.get('dfs'), rates.get('syncthing')]
    if (ours && theirs) report('big file, medians', 'ratio', `${(median(ours) / median(theirs)).toFixed(2)} x syncthing`)
    for (const pair of pairs) report('peak RSS', pair.name, pair.peaks().map((p) => `${Math.round(p / MIB)} MiB`).join(', '))
    await Promise.all(pairs.splice(0).map((p) => p.close()))
    if (cases.includes('hyperswarm')) await hyperswarm(scratch)
    for (let n = 0; n < rounds; n++) {
      if (cases.includes('remote')) await remote(n)
      if (cases.includes('busy')) await busy(load)
    }
    if (cases.includes('join')) await join1(load)
  } finally {
    await Promise.allSettled(pairs.map((p) => p.close()))
    rmSync(scratch, { recursive: true, force: true })
  }
}

main().then(() => process.exit(0), (e: Error) => {
  console.error(e.stack ?? e)
  process.exit(1)
})
