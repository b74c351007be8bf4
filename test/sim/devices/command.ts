/**
 * npm run sim -- [--seeds N] [--seed S] [--crowded] [--away] [--newcomers] [--placed] [--race] [--retention SECONDS] [--all] [--verbose]
 *
 * Runs N seeds from S on (default: 200 from 1); the first that fails ends it and is named.
 * With --away some devices are away for months, or for ever (runAway in scenario.ts).
 * With --newcomers devices join from a storage-only device while those that write are out of its reach (newcomers.ts).
 * With --placed chunks are on some devices and not on all, are dropped and let go of, and a device is gone for good (placed.ts).
 * With --race all that collects garbage is raced by all that names chunks (race.ts).
 * With --retention what was is kept for so long, and looked at.
 * With --crowded programs get in each other's way as much as they can; with --all it goes on after a failure;
 * with --verbose everything that happens is printed. After SIGINT the seed that runs is the last.
 */
import { parseArgs } from 'node:util'
import { runNewcomers } from './newcomers.js'
import { runPlaced } from './placed.js'
import { runRace } from './race.js'
import { run, runAway } from './scenario.js'

const { values } = parseArgs({ options: { seeds: { type: 'string' }, seed: { type: 'string' }, verbose: { type: 'boolean' }, all: { type: 'boolean' }, crowded: { type: 'boolean' }, retention: { type: 'string' }, away: { type: 'boolean' }, newcomers: { type: 'boolean' }, placed: { type: 'boolean' }, race: { type: 'boolean' } } })
const first = Number(values.seed ?? 1)
const seeds = Number(values.seeds ?? (values.seed === undefined ? 200 : 1))
const total: Record<string, number> = {}
let simulatedMs = 0
let events = 0
let failed = 0
const started = Date.now()
let isOver = false
process.once('SIGINT', () => { isOver = true })
let last = first - 1
for (let seed = first; seed < first + seeds && !isOver; seed++) {
  last = seed
  try {
    const r = await (values.away ? runAway : values.newcomers ? runNewcomers : values.placed ? runPlaced : values.race ? runRace : run)(seed, { isVerbose: values.verbose ?? false, isCrowded: values.crowded ?? false, retentionMs: Number(values.retention ?? 0) * 1000 })
    simulatedMs += r.simulatedMs
    events += r.events
    for (const [what, n] of Object.entries({ ...r.counts, 'synced writes': r.synced })) total[what] = (total[what] ?? 0) + n
  } catch (e) {
    failed++
    console.error(`seed ${seed} failed: ${(e as Error).message}`)
    if (!values.all) break
  }
}
console.log(Object.entries(total).sort().map(([what, n]) => `${what} ${n}`).join(', '))
console.log(`${last - first + 1} seeds, ${failed} failed, ${events} events, ${(simulatedMs / 3_600_000).toFixed(1)} hours simulated in ${((Date.now() - started) / 1000).toFixed(1)} s`)
process.exitCode = failed > 0 ? 1 : 0
