/**
 * npm run bench: the phases of the speed table on a plain directory, a dfs mount
 * and gocryptfs (where installed), interleaved: each round runs each phase on
 * every target in turn, in an order that rotates, so that a slow minute of the
 * machine hits all of them. What counts are the ratios within a round.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { must, need } from '../helpers/run.js'
import { PHASES, phasesFor, type Round } from './phases.js'
import { recordWhile } from './profile.js'
import { rowOf, table, type Values } from './report.js'
import { writeSourceTar } from './source-tree.js'
import { defaultTargets, openTarget, type Target } from './targets.js'

const HELP = `npm run bench -- [OPTION...]
  --rounds N         rounds, each with its own random data (5)
  --phases A,B       only these: ${PHASES.map((p) => p.id).join(' ')}
  --targets A,B      ext4, dfs, gocryptfs, NAME=DIR (${defaultTargets().join(',')})
  --subject NAME     the target that the bars are for (dfs)
  --size MIB         the big file (1024)
  --files N          small files (10000)
  --dir DIR          on the disk that all targets end up on (${tmpdir()})
  --seed N           of the random data (the time)
  --profile DIR      CPU profiles of the dfs daemon's main thread, one a phase, in DIR
  --json             the rows and all values, as JSON
Needs root, to drop the kernel's caches.`

interface Settings { rounds: number; phases: string[] | undefined; targets: string[]; subject: string; bigBytes: number; files: number; dir: string; seed: number; profile: string | undefined; json: boolean }

function settings(): Settings {
  const { values: v } = parseArgs({
    options: {
      rounds: { type: 'string', default: '5' }, phases: { type: 'string' }, targets: { type: 'string' }, subject: { type: 'string', default: 'dfs' }, size: { type: 'string', default: '1024' },
      files: { type: 'string', default: '10000' }, dir: { type: 'string', default: tmpdir() }, seed: { type: 'string', default: String(Date.now() % 1e9) }, profile: { type: 'string' },
      json: { type: 'boolean', default: false }, help: { type: 'boolean', default: false },
    },
  })
  if (v.help) {
    console.log(HELP)
    process.exit(0)
  }
  const count = (name: 'rounds' | 'size' | 'files' | 'seed') => {
    const n = Number(v[name])
    if (!Number.isSafeInteger(n) || n < 1) throw new Error(`--${name} takes a whole number above 0`)
    return n
  }
  return {
    rounds: count('rounds'), phases: v.phases?.split(','), targets: v.targets?.split(',') ?? defaultTargets(), subject: v.subject,
    bigBytes: count('size') * 1024 * 1024, files: count('files'), dir: v.dir, seed: count('seed'), profile: v.profile, json: v.json,
  }
}

/** Clean pages and unused dentries and inodes go; the caller has synced, so nothing is dirty. */
function dropCaches(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '3')
}

async function main(): Promise<number> {
  const s = settings()
  if (process.getuid?.() !== 0) throw new Error('the cold phases drop the kernel\'s caches: run it as root')
  need(['git', 'git'], ['tar', 'tar'], ['cc', 'gcc'])
  const { phases, reported } = phasesFor(s.phases)
  const scratch = mkdtempSync(join(s.dir, 'dfs-bench-'))
  if (s.profile) mkdirSync(s.profile, { recursive: true })
  const targets: Target[] = []
  const values: Record<string, Values> = {}
  try {
    for (const name of s.targets) targets.push(await openTarget(name, s.dir, s.profile))
    for (let n = 0; n < s.rounds; n++) {
      const seed = s.seed + n * 1000
      const tar = join(scratch, 'tree.tar')
      writeSourceTar(tar, seed)
      const rounds = targets.map((target, i): Round => ({ dir: join(target.dir, `round-${n}`), seed: seed + i, tar, bigBytes: s.bigBytes, files: s.files }))
      for (const { dir } of rounds) mkdirSync(dir)
      for (const [p, phase] of phases.entries()) {
        for (let k = 0; k < targets.length; k++) {
          const i = (k + n + p) % targets.length
          const target = targets[i]!
          await must('sync', [])
          if (phase.cold) dropCaches()
          const measure = () => phase.measure(rounds[i]!)
          const value = s.profile && target.pid && reported.has(phase.id) ? await recordWhile(target.pid, s.profile, `${phase.id}-${n}`, measure) : await measure()
          ;((values[phase.id] ??= {})[target.name] ??= []).push(value)
          process.stderr.write(`round ${n + 1}/${s.rounds}  ${phase.id.padEnd(18)} ${target.name.padEnd(10)} ${value.toPrecision(5)} ${phase.unit}\n`)
        }
      }
      for (const { dir } of rounds) rmSync(dir, { recursive: true, force: true })
    }
  } finally {
    for (const target of targets) await target.close()
    rmSync(scratch, { recursive: true, force: true })
  }
  const rows = phases.filter((p) => reported.has(p.id)).map((p) => rowOf(p, values[p.id]!, s.subject))
  if (s.json) console.log(JSON.stringify({ rounds: s.rounds, seed: s.seed, bigBytes: s.bigBytes, files: s.files, subject: s.subject, rows, values }, null, 2))
  else {
    console.log(`medians of ${s.rounds} rounds; ratio: median of the rounds' ${s.subject} / reference\n\n${table(rows, targets.map((t) => t.name))}`)
    const measured = rows.filter((r) => r.score !== undefined)
    console.log(`\n${measured.filter((r) => r.verdict === 'pass').length} of ${measured.length} bars reached`)
  }
  return 0
}

main().then((code) => { process.exitCode = code }, (e: unknown) => {
  console.error(`bench: ${e instanceof Error ? e.message : String(e)}`)
  process.exitCode = 1
})
