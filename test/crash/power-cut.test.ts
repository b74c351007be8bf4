/**
 * The power fails under a drive at work: its store lies on a disk that keeps only
 * what was synced, and of the rest whatever the seed says (helpers/lossyfs.ts).
 * Afterwards the promises of DESIGN 5 are checked (helpers/history.ts). Twice a
 * round: what was recovered once must outlast the next cut.
 *
 *   DFS_ROUNDS=200 npm test -- power-cut     more rounds; with DFS_OPERATIONS=20000 longer ones,
 *                                            in which the log is checkpointed and segments follow each other
 *   DFS_SEED=17 npm test -- power-cut        one round again
 */
import test, { type Assert } from 'brittle'
import { fork, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { mkdir, open, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { clearAway, clearedDir } from '../helpers/cleared.js'
import { brokenPromises, Writer } from '../helpers/history.js'
import { randomOf, type LossyOptions, type Survival, type Survived } from '../helpers/lossyfs.js'
import { dfs, isAlive, kill, processesOf } from '../helpers/mount.js'
import { sleep } from '../helpers/run.js'

const ROUNDS = Number(process.env.DFS_ROUNDS ?? 8)
const FIRST_SEED = Number(process.env.DFS_SEED ?? 1)
const WRITERS = 3
const CUTS = 2
/** Operations before a cut, at most; and milliseconds for them. */
const MAX_OPERATIONS = Number(process.env.DFS_OPERATIONS ?? 1500)
const MAX_WORK_MS = Math.max(4000, MAX_OPERATIONS * 3)

for (let seed = FIRST_SEED; seed < FIRST_SEED + (process.env.DFS_SEED ? 1 : ROUNDS); seed++) {
  test(`the power fails, seed ${seed}`, { timeout: 120_000 + 4 * MAX_WORK_MS }, async (t) => {
    const random = randomOf(seed)
    const { mount, disk, dir } = await machine(t, { seed, freeBytes: random() < 0.5 ? 64 * 2 ** 30 : 2 ** 29, syncMs: random() * 6, hasPlace: true })
    await mount()
    const seen = new Map<string, string>()
    for (let cut = 0; cut < CUTS; cut++) {
      const writers = Array.from({ length: WRITERS }, (_, i) => new Writer({ dir: join(dir, `cut${cut}-writer${i}`), id: cut * WRITERS + i, random: randomOf(seed * 1000 + cut * 10 + i) }))
      for (const w of writers) await mkdir(w.dir)
      await syncDirectory(dir)
      let isOver = false
      const ends = writers.map((w) => w.run(writers, () => isOver))
      // By their work, not by the clock: a busy machine must not make it an easier test.
      const target = 20 + random() ** 2 * MAX_OPERATIONS
      const begun = performance.now()
      const collectAt = random() < 0.5 ? random() * target : Infinity
      let collecting: Promise<unknown> | undefined
      while (workOf(writers) < target && performance.now() - begun < MAX_WORK_MS) {
        const early = await Promise.race([sleep(2), ...ends])
        if (early) throw new Error('a writer failed before the cut', { cause: early })
        if (workOf(writers) > collectAt) collecting ??= disk.collect()
      }
      await disk.cut()
      isOver = true
      const survival = surviving(random)
      await disk.killDaemon()
      await Promise.all([...ends, collecting])
      const survived = await disk.restore(survival)
      t.comment(`cut ${cut}: ${survival.mode}${survival.mode === 'subset' ? ` ${survival.share.toFixed(2)}` : ''}, ${survived.survived} of ${survived.pending} unsynced changes survived of ${workOf(writers)} operations`)

      await mount()
      t.is(await disk.fsck(), '', 'fsck --data finds nothing')
      const broken: string[] = []
      for (const w of writers) broken.push(...await brokenPromises(w))
      t.alike(broken, [], 'what was promised is there')
      for (const [path, digest] of seen) t.is(await digestOf(path), digest, `${path} is as it was recovered before`)
      for (const w of writers) seen.set(w.dir, await digestOf(w.dir))
    }
  })
}

// The name of the store's folder is never synced in the folder above it.
test('a drive that was just made is there after the cut, with what was fsynced', { timeout: 60_000 }, async (t) => {
  const { mount, disk, dir } = await machine(t, { seed: 1, syncMs: 0, hasPlace: false })
  await mount()
  await writeFile(join(dir, 'f'), 'kept')
  await syncDirectory(dir)
  await disk.cut()
  await disk.killDaemon()
  await disk.restore({ mode: 'none' })
  await mount()
  t.is(await readFile(join(dir, 'f'), 'utf8').catch(String), 'kept')
})

// Commits are synced when somebody asks; else the kernel writes them back after half a minute.
test('without an fsync the last seconds may be lost, and no more', { timeout: 60_000 }, async (t) => {
  const { mount, disk, dir } = await machine(t, { seed: 1, syncMs: 0, hasPlace: true })
  await mount()
  await writeFile(join(dir, 'small'), 'kept')
  await writeFile(join(dir, 'large'), Buffer.alloc(1_000_000, 'kept'))
  await sleep(6000)
  await disk.cut()
  await disk.killDaemon()
  await disk.restore({ mode: 'none' })
  await mount()
  t.is(await readFile(join(dir, 'small'), 'utf8').catch(String), 'kept')
  t.ok((await readFile(join(dir, 'large')).catch(() => Buffer.alloc(0))).equals(Buffer.alloc(1_000_000, 'kept')))
})

function workOf(writers: Writer[]): number {
  return writers.reduce((sum, w) => sum + w.names.length + w.files.reduce((n, f) => n + f.ops.length, 0), 0)
}

function surviving(random: () => number): Survival {
  const draw = random()
  if (draw < 0.25) return { mode: 'none' }
  if (draw < 0.35) return { mode: 'all' }
  if (draw < 0.6) return { mode: 'prefix' }
  return { mode: 'subset', share: [0.1, 0.5, 0.9][Math.floor(random() * 3)]! }
}

/** A disk that forgets, to hold a store (`hasPlace`: whose folder is there for good), and a place to mount. Gone with the test. */
async function machine(t: Assert, { hasPlace, ...options }: LossyOptions & { hasPlace: boolean }) {
  let child: ChildProcess | undefined
  const scratch = clearedDir(t, async (made) => {
    await clearAway(join(made, 'disk/store'), join(made, 'mnt'), join(made, 'disk'))
    child?.kill('SIGKILL')
  })
  const [disk, dir] = [join(scratch, 'disk'), join(scratch, 'mnt')]
  const store = join(disk, 'store')
  mkdirSync(disk)
  mkdirSync(dir)
  const forked = child = fork(fileURLToPath(new URL('../helpers/lossyfs-child.js', import.meta.url)), [disk, JSON.stringify(options)])
  const killDaemon = async () => {
    const pids = processesOf(store)
    for (const pid of pids) kill(pid)
    while (pids.some(isAlive)) await sleep(5)
  }
  await answerOf(forked)
  if (hasPlace) {
    await mkdir(store)
    await syncDirectory(disk)
  }
  const ask = (message: 'cut' | { restore: Survival }) => {
    forked.send(message)
    return answerOf(forked)
  }
  const ok = async (...args: string[]) => {
    const ran = await dfs(['--store', store, ...args], { cwd: scratch })
    if (ran.code !== 0) throw new Error(`dfs ${args.join(' ')}: exit code ${ran.code}\n${ran.stderr}${ran.stdout}`)
    return ran.stdout
  }
  return {
    dir,
    mount: () => ok('mount', dir),
    disk: {
      killDaemon,
      /** Whatever becomes of it. */
      collect: () => dfs(['--store', store, 'gc'], { cwd: scratch }),
      cut: () => ask('cut'),
      restore: (survival: Survival) => ask({ restore: survival }) as Promise<Survived>,
      /** The problems, in words. */
      async fsck(): Promise<string> {
        const { code, stdout, stderr } = await dfs(['--store', store, 'fsck', '--data', '--quiet'], { cwd: scratch })
        return code === 0 ? '' : `exit code ${code}: ${stdout.slice(0, 2000)}${stderr}`
      },
    },
  }
}

function answerOf(child: ChildProcess): Promise<unknown> {
  return new Promise((resolve, reject) => {
    child.once('message', resolve)
    child.once('exit', (code) => reject(new Error(`the disk ended with ${code}`)))
  })
}

async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r')
  await handle.sync().finally(() => handle.close())
}

async function digestOf(dir: string): Promise<string> {
  const hash = createHash('sha256')
  for (const name of (await readdir(dir)).sort()) hash.update(`${name}\0`).update(await readFile(join(dir, name)))
  return hash.digest('hex')
}
