/**
 * npm run bench:retention -- [--pairs N] [--files N] [--big MIB] [--dir DIR]: what a retention of 30 days costs against none, on two mounts
 * of their own, phase by phase in turn, so that what else the machine does falls on both: rates, and processor time of the daemons.
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { makeMount, type TestMount } from '../helpers/mount.js'
import { compile, must } from '../helpers/run.js'

const { values } = parseArgs({ options: { pairs: { type: 'string', default: '5' }, files: { type: 'string', default: '3000' }, big: { type: 'string', default: '64' }, dir: { type: 'string', default: tmpdir() } } })
const BLOCKS = 10_000
/** USER_HZ. */
const TICKS_A_SECOND = 100
/** In their order: each works on what those before have left. */
const PHASES: [phase: string, folder: string, title: string][] = [
  ['create', 'files', 'create + write 4K + close'], ['overwrite', 'files', 'truncate + write 4K + close'], ['rename', 'files', 'rename'], ['unlink', 'files', 'unlink'], ['random-overwrite', 'big', 'random 4K overwrite, one fsync'],
]

interface Took { rate: number; cpuUs: number }

/** Of a process, user and system. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 1000 / TICKS_A_SECOND
}

async function main(): Promise<void> {
  const load = compile('test/bench/load.c')
  const mounts: TestMount[] = []
  const took = new Map<string, Took[][]>(PHASES.map(([phase]) => [phase, [[], []]]))
  try {
    for (const retention of ['0', '30d']) {
      const mount = await makeMount({ parent: values.dir })
      mounts.push(mount)
      const { code, stderr } = await mount.dfs('config', 'set', 'retention', retention)
      if (code !== 0) throw new Error(stderr)
    }
    const pids = await Promise.all(mounts.map((m) => m.pid()))
    for (let n = 0; n < Number(values.pairs); n++) {
      for (const [phase, folder] of PHASES) {
        // Who is first has the other's writes to wait for less often.
        for (const i of n % 2 === 0 ? [0, 1] : [1, 0]) {
          const dir = join(mounts[i]!.dir, `${folder}${folder === 'big' ? '' : n}`)
          mkdirSync(dir, { recursive: true })
          const ops = folder === 'big' ? BLOCKS : Number(values.files)
          const args = [dir, String(ops), String(Number(values.big) << 20), String(n)]
          if (folder === 'big' && n === 0) await must(load, ['big-write', ...args])
          const before = cpuMs(pids[i]!)
          const { rate } = JSON.parse(await must(load, [phase, ...args])) as { rate: number }
          took.get(phase)![i]!.push({ rate, cpuUs: (cpuMs(pids[i]!) - before) * 1000 / ops })
        }
      }
    }
  } finally {
    await Promise.all(mounts.map((m) => m.close()))
  }
  const median = (all: number[]) => [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)]!
  console.log('| | op/s, none | op/s, 30d | of it (median of pairs) | daemon us/op, none | 30d | of it |\n|---|---|---|---|---|---|---|')
  for (const [phase, , title] of PHASES) {
    const [none, kept] = took.get(phase)! as [Took[], Took[]]
    const of = (what: 'rate' | 'cpuUs') => median(kept.map((k, i) => k[what] / none[i]![what])).toFixed(2)
    console.log(`| ${title} | ${median(none.map((x) => x.rate)).toFixed(0)} | ${median(kept.map((x) => x.rate)).toFixed(0)} | ${of('rate')} | ${median(none.map((x) => x.cpuUs)).toFixed(0)} | ${median(kept.map((x) => x.cpuUs)).toFixed(0)} | ${of('cpuUs')} |`)
  }
}

await main()
