/** The phases of the speed table, in the order in which they build on each other, with their bars. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { compile, must, run } from '../helpers/run.js'
import { TREE_FILES } from './source-tree.js'

export interface Round {
  /** The target's folder for this round. */
  dir: string
  seed: number
  /** Archive of the source tree, on the plain disk. */
  tar: string
  bigBytes: number
  files: number
}

/** In the phase's unit. */
export type Value = number

export interface Bar {
  /** The subject's value divided by this target's; or its own value, where absolute. */
  against: 'ext4' | 'gocryptfs' | 'absolute'
  /** Least ratio where more is better, greatest ratio or value where less is. */
  value: number
}

export interface Phase {
  id: string
  title: string
  unit: 'MiB/s' | 'op/s' | 'files/s' | 'ms' | 's'
  moreIsBetter: boolean
  bar: Bar
  /** What it works on is made by this phase. */
  after?: string
  /** Drop the page cache, dentries and inodes first. */
  cold?: boolean
  measure(round: Round): Promise<Value>
}

const rate = (id: string, title: string, unit: Phase['unit'], against: 'ext4' | 'gocryptfs', value: number, measure: Phase['measure'], more: { after?: string; cold?: boolean } = {}): Phase =>
  ({ id, title, unit, moreIsBetter: true, bar: { against, value }, measure, ...more })

/** One call of load.c in a subfolder of the round's. */
const load = (phase: string, folder: string, count: (r: Round) => number) => async (r: Round): Promise<Value> => {
  const dir = join(r.dir, folder)
  mkdirSync(dir, { recursive: true })
  const printed = await must(compile('test/bench/load.c'), [phase, dir, String(count(r)), String(r.bigBytes), String(r.seed)])
  return (JSON.parse(printed) as { rate: number }).rate
}

const seconds = async (action: () => Promise<unknown>): Promise<number> => {
  const start = performance.now()
  await action()
  return (performance.now() - start) / 1000
}

/** fsync of the folder and sync(2). */
const settle = (dir: string) => must(compile('test/bench/load.c'), ['settle', dir, '0', '0', '0'])

const GIT_ENV = {
  PATH: process.env.PATH, HOME: '/nonexistent', GIT_CONFIG_NOSYSTEM: '1', GIT_CONFIG_COUNT: '3',
  // A gc in the background would run into the next phase; the owner of a mount's root may differ.
  GIT_CONFIG_KEY_0: 'gc.auto', GIT_CONFIG_VALUE_0: '0', GIT_CONFIG_KEY_1: 'safe.directory', GIT_CONFIG_VALUE_1: '*', GIT_CONFIG_KEY_2: 'init.defaultBranch', GIT_CONFIG_VALUE_2: 'main',
  GIT_AUTHOR_NAME: 'bench', GIT_AUTHOR_EMAIL: 'bench@localhost', GIT_COMMITTER_NAME: 'bench', GIT_COMMITTER_EMAIL: 'bench@localhost',
}
const git = (r: Round, ...args: string[]) => must('git', args, { cwd: join(r.dir, 'tree'), env: GIT_ENV })

export const PHASES: readonly Phase[] = [
  rate('big-write', '1 GiB write + fsync', 'MiB/s', 'ext4', 0.85, load('big-write', 'big', () => 1)),
  rate('big-read-cold', '1 GiB read, cold', 'MiB/s', 'gocryptfs', 1, load('big-read', 'big', () => 1), { after: 'big-write', cold: true }),
  rate('big-read-warm', '1 GiB read, warm', 'MiB/s', 'ext4', 0.8, load('big-read', 'big', () => 3), { after: 'big-write' }),
  rate('random-read', 'random 4K read, cold', 'op/s', 'gocryptfs', 0.8, load('random-read', 'big', () => 10_000), { after: 'big-write', cold: true }),
  rate('random-overwrite', 'random 4K overwrite, one fsync', 'op/s', 'gocryptfs', 5, load('random-overwrite', 'big', () => 20_000), { after: 'big-write' }),
  rate('append-fsync', '4K append + fsync each', 'op/s', 'gocryptfs', 1, load('append-fsync', 'big', () => 2000)),
  {
    id: 'fsync-latency', title: 'fsync of 4 KiB during a 1 GiB copy, p99', unit: 'ms', moreIsBetter: false, bar: { against: 'absolute', value: 50 },
    measure: load('fsync-latency', 'big', () => 1),
  },
  rate('create', 'create + write 4K + close', 'files/s', 'gocryptfs', 2.5, load('create', 'files', (r) => r.files)),
  rate('scan-stat', 'scandir + stat, cold', 'files/s', 'gocryptfs', 1, load('scan-stat', 'files', (r) => r.files), { after: 'create', cold: true }),
  rate('stat-warm', 'stat, warm', 'files/s', 'ext4', 0.9, load('stat-warm', 'files', (r) => r.files), { after: 'create' }),
  rate('open-read', 'open + read 4K, cold', 'files/s', 'gocryptfs', 1.5, load('open-read', 'files', (r) => r.files), { after: 'create', cold: true }),
  rate('rename', 'rename', 'files/s', 'gocryptfs', 1, load('rename', 'files', (r) => r.files), { after: 'create' }),
  rate('unlink', 'unlink', 'files/s', 'gocryptfs', 1.5, load('unlink', 'files', (r) => r.files), { after: 'rename' }),
  rate('untar', `untar ${TREE_FILES} source files`, 'files/s', 'gocryptfs', 3, async (r) => TREE_FILES / await seconds(async () => {
    await must('tar', ['-xf', r.tar, '-C', r.dir])
    await settle(r.dir)
  })),
  {
    id: 'git-commit', title: 'git init + add + commit of them', unit: 's', moreIsBetter: false, bar: { against: 'ext4', value: 2 }, after: 'untar',
    measure: (r) => seconds(async () => {
      await git(r, 'init', '-q')
      await git(r, 'add', '-A')
      await git(r, 'commit', '-qm', 'all')
      await settle(join(r.dir, 'tree'))
    }),
  },
  {
    id: 'git-status', title: 'git status, warm', unit: 'ms', moreIsBetter: false, bar: { against: 'ext4', value: 2 }, after: 'git-commit',
    measure: async (r) => {
      // The first ones refresh git's index and warm the caches.
      for (let i = 0; i < 3; i++) await git(r, 'status', '--porcelain')
      return await seconds(async () => { for (let i = 0; i < 5; i++) await git(r, 'status', '--porcelain') }) / 5 * 1000
    },
  },
  rate('rm-rf', 'rm -rf of them', 'files/s', 'gocryptfs', 2, async (r) => {
    // The figure is of the source tree alone.
    await run('rm', ['-rf', join(r.dir, 'tree', '.git')])
    await settle(r.dir)
    return TREE_FILES / await seconds(async () => {
      await must('rm', ['-rf', join(r.dir, 'tree')])
      await settle(r.dir)
    })
  }, { after: 'untar' }),
]

/** The named phases and those that make what they work on, in order. Throws on a name that is none. */
export function phasesFor(ids: readonly string[] | undefined): { phases: Phase[]; reported: Set<string> } {
  const reported = new Set(ids ?? PHASES.map((p) => p.id))
  const byId = new Map(PHASES.map((p) => [p.id, p]))
  const wanted = new Set<string>()
  for (const id of reported) {
    if (!byId.has(id)) throw new Error(`no phase '${id}': ${PHASES.map((p) => p.id).join(', ')}`)
    for (let p = byId.get(id); p; p = p.after === undefined ? undefined : byId.get(p.after)) wanted.add(p.id)
  }
  return { phases: PHASES.filter((p) => wanted.has(p.id)), reported }
}
