/**
 * npm test: runs each test file as a process of its own and adds them up. The
 * last line is `N passed, N failed`, counting tests; the exit code is 1 if any
 * failed, or if a file crashed, hung, or held no test.
 *
 *   npm test                    everything
 *   npm test -- posix fsck      the files whose path holds one of these words
 *
 * Each has a folder of its own for temporary files, which goes when it ends, with mounts and processes that it left: also when it died.
 *
 * Several run at once, as many as the processors are likely to be busy with: files of unit, properties and sim compute, those of
 * network wait for each other much of the time. The longest are begun first, so that none of them is left over at the end.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mountpoints } from './helpers/mounts.js'

const BUILT = dirname(fileURLToPath(import.meta.url))
const SOURCES = join(BUILT, '../../test')

const MINUTE_MS = 60_000
/** `load`: of a processor, about. */
const SUITES = [
  { name: 'unit', load: 1, limitMs: 5 * MINUTE_MS },
  { name: 'properties', load: 1, limitMs: 5 * MINUTE_MS },
  { name: 'sim', load: 1, limitMs: 10 * MINUTE_MS },
  { name: 'posix', load: 0.75, limitMs: 8 * MINUTE_MS },
  { name: 'crash', load: 0.75, limitMs: 8 * MINUTE_MS },
  { name: 'network', load: 0.5, limitMs: 8 * MINUTE_MS },
]
/** On two processors: four of network; two that compute; one that does, one with a mount, one of network. */
const MAX_LOAD = availableParallelism() + 0.25
/** However many processors there are: a file of network has up to six daemons. */
const MAX_FILES = 8
/** Those that take longest, which the first come first of. */
const LONGEST = [
  'sim/devices', 'network/placement', 'network/hostile-peer', 'network/daemons', 'network/service', 'network/storage-peer', 'unit/cli', 'crash/bad-input-store', 'posix/cli-mount',
  'network/storage-hostile', 'network/scrub', 'network/staying', 'network/acks', 'network/releases', 'network/history', 'network/namespaces', 'network/storage-restore', 'crash/bad-input-calls', 'crash/power-cut', 'posix/drivers',
]
/** Of a file's output, its end: where a failure is explained. */
const KEPT_OUTPUT_CHARS = 200_000
/** Time for a file's own teardowns after SIGTERM. */
const GRACE_MS = 5000
const DRAIN_MS = 2000

interface Outcome { passed: number; failed: number; skipped: number; trouble: string | undefined; output: string; tookMs: number }

const running = new Set<ChildProcess>()
const totals = { passed: 0, failed: 0, skipped: 0 }
let isInterrupted = false

async function main(): Promise<void> {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (isInterrupted) return
      isInterrupted = true
      for (const child of running) kill(child, 'SIGTERM')
      setTimeout(() => running.forEach((child) => kill(child, 'SIGKILL')), GRACE_MS).unref()
    })
  }

  const words = process.argv.slice(2)
  const started = performance.now()
  const queue = SUITES.flatMap((suite) => testFiles(suite.name).map((file) => ({ file, ...suite }))).filter(({ file }) => words.length === 0 || words.some((word) => file.includes(word)))
  queue.sort((a, b) => rank(a.file) - rank(b.file))
  const files = queue.length
  let load = 0
  const under = new Set<Promise<void>>()
  while (!isInterrupted && queue.length + under.size > 0) {
    const next = under.size < MAX_FILES ? queue.findIndex((one) => load === 0 || load + one.load <= MAX_LOAD) : -1
    if (next < 0) {
      await Promise.race(under)
      continue
    }
    const [one] = queue.splice(next, 1)
    load += one!.load
    const run = runFile(one!.file, one!.limitMs).then((outcome) => {
      show(one!.file, outcome)
      load -= one!.load
      under.delete(run)
    })
    under.add(run)
  }
  await Promise.all(under)
  if (files === 0) console.log(words.length ? `no test file has ${words.join(' or ')} in its path` : 'there are no test files: run npm run build')
  console.log(`\n${files} files, ${((performance.now() - started) / 1000).toFixed(0)} s${totals.skipped ? `, ${totals.skipped} tests skipped` : ''}${isInterrupted ? ', interrupted' : ''}`)
  process.exitCode = isInterrupted ? 130 : totals.failed > 0 || totals.passed === 0 ? 1 : 0
  console.log(`${totals.passed} passed, ${totals.failed} failed`)
}

/** Relative to dist/test, in order. A compiled file whose source is gone is left out. */
function testFiles(suite: string): string[] {
  const root = join(BUILT, suite)
  if (!existsSync(root)) return []
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.js') && existsSync(join(SOURCES, suite, name.replace(/\.js$/, '.ts'))))
    .map((name) => relative(BUILT, join(root, name)))
    .sort()
}

/** What is not named comes after, in the order of the suites. */
function rank(file: string): number {
  const place = LONGEST.indexOf(file.replace(/\.test\.js$/, ''))
  return place < 0 ? LONGEST.length : place
}

function runFile(file: string, limitMs: number): Promise<Outcome> {
  const startMs = performance.now()
  const mark = `TEST_RUN=${randomUUID()}`
  const scratch = mkdtempSync(join(realpathSync(tmpdir()), 'dfs-'))
  // Tests act as other users, too.
  chmodSync(scratch, 0o1777)
  const child = spawn(process.execPath, [join(BUILT, file)], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...environment(mark), TMPDIR: scratch }, detached: true })
  running.add(child)
  let output = ''
  const take = (part: string) => {
    output += part
    if (output.length > 2 * KEPT_OUTPUT_CHARS) output = output.slice(-KEPT_OUTPUT_CHARS)
  }
  // Counted as it comes: the beginning of a long output is not kept.
  const count = new Counter()
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    count.push(part)
    take(part)
  })
  child.stderr.setEncoding('utf8').on('data', take)
  let isLate = false
  const timer = setTimeout(() => {
    isLate = true
    take(`\nstill running after ${limitMs / MINUTE_MS} minutes:\n${processesOf(mark).map(describe).join('\n')}\n`)
    kill(child, 'SIGTERM')
    setTimeout(() => {
      kill(child, 'SIGKILL')
      // A process that waits for a daemon's answer dies when the daemon does: also one that was killed.
      killAll(mark)
    }, GRACE_MS).unref()
  }, limitMs)
  return new Promise((resolve) => {
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      running.delete(child)
      // What it left running, programs and daemons that it had started, must not outlive it.
      kill(child, 'SIGKILL')
      killAll(mark)
      // The rest of its output; but a daemon of a failed test may hold the pipe for ever.
      let isDone = false
      const done = () => {
        if (isDone) return
        isDone = true
        clear(scratch)
        resolve({ ...count.outcome(code, signal, isLate ? limitMs : undefined), output, tookMs: performance.now() - startMs })
      }
      child.once('close', done)
      setTimeout(done, DRAIN_MS).unref()
    })
  })
}

/** Reads brittle's TAP: one line of each test, without indentation, and a summary. */
class Counter {
  #rest = ''
  #passed = 0
  #failed = 0
  #skipped = 0
  #hasSummary = false

  push(part: string): void {
    const lines = (this.#rest + part).split('\n')
    this.#rest = lines.pop()!
    for (const line of lines) {
      if (/^ok \d+ .*# (SKIP|TODO)/.test(line)) this.#skipped++
      else if (/^ok \d+ /.test(line)) this.#passed++
      else if (/^not ok \d+ /.test(line)) this.#failed++
      else if (/^# tests = +\d+\/\d+ pass/.test(line)) this.#hasSummary = true
    }
  }

  outcome(code: number | null, signal: NodeJS.Signals | null, limitMs: number | undefined): Omit<Outcome, 'output' | 'tookMs'> {
    const counts = { passed: this.#passed, failed: this.#failed, skipped: this.#skipped }
    const trouble = limitMs !== undefined ? `took more than ${limitMs / MINUTE_MS} minutes`
      : signal ? `was killed by ${signal}`
        : this.#passed + this.#failed + this.#skipped === 0 ? `ran no test (exit code ${code})`
          : !this.#hasSummary ? `ended before its last test (exit code ${code})`
            : code !== 0 && this.#failed === 0 ? `ended with exit code ${code}`
              : undefined
    if (trouble) counts.failed++
    return { ...counts, trouble }
  }
}

function show(file: string, { passed, failed, skipped, trouble, output, tookMs }: Outcome): void {
  totals.passed += passed
  totals.failed += failed
  totals.skipped += skipped
  const counts = [`${passed} passed`, failed && `${failed} failed`, skipped && `${skipped} skipped`].filter(Boolean).join(', ')
  const line = `${failed ? 'FAIL' : 'ok  '} ${file.replace(/\.test\.js$/, '')}: ${counts} (${(tookMs / 1000).toFixed(1)} s)${trouble ? `: ${trouble}` : ''}`
  if (failed) console.log(`\n${output.slice(-KEPT_OUTPUT_CHARS).trimEnd()}\n`)
  console.log(line)
  // A file that is skipped says why.
  if (skipped) for (const why of output.match(/^# skipped: .*$/gm) ?? []) console.log(`     ${why.slice(2)}`)
}

/** Of a file that has ended. */
function clear(scratch: string): void {
  for (const dir of mountsIn(scratch).reverse()) spawnSync('umount', ['-l', dir])
  // What is mounted still is not to be emptied.
  if (mountsIn(scratch).length > 0) return
  try {
    rmSync(scratch, { recursive: true, force: true, maxRetries: 3 })
  } catch (e) {
    console.log(`     ${scratch} stays: ${(e as Error).message}`)
  }
}

function mountsIn(dir: string): string[] { return mountpoints().filter((path) => path.startsWith(`${dir}/`)) }

/** The child and what it started: it leads a process group of its own. */
function kill(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, signal)
  } catch {
    // It has ended.
  }
}

/** Processes with this in their environment: what a test file started, daemons of their own sessions included. */
function processesOf(mark: string): number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name) && proc(name, 'environ').split('\0').includes(mark)).map(Number)
}

/** What it does: for whoever has to find out why it hangs. */
function describe(pid: number): string {
  const threads = proc(pid, 'task/').split('\n').map((tid) => `    ${proc(pid, `task/${tid}/comm`).trim()}: ${proc(pid, `task/${tid}/wchan`)} ${proc(pid, `task/${tid}/syscall`).trim()}`)
  return `  ${pid} ${proc(pid, 'cmdline').replaceAll('\0', ' ')}\n${[...new Set(threads)].join('\n')}\n${proc(pid, 'stack')}`
}

/** A file of a process, or a folder's names; '' if it has ended, or is not ours to read. */
function proc(pid: number | string, name: string): string {
  try {
    const path = `/proc/${pid}/${name}`
    return name.endsWith('/') ? readdirSync(path).join('\n') : readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function killAll(mark: string): void {
  for (const pid of processesOf(mark)) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It has ended.
    }
  }
}

/** Settings of the person who runs the tests are not the tests'. */
function environment(mark: string): NodeJS.ProcessEnv {
  const { DFS_STORE: _, DFS_PASSPHRASE_FILE: __, NODE_ID: ___, NODE_OPTIONS: ____, NODE_PORT: _____, DFS_BOOTSTRAP: ______, ...rest } = process.env
  const [name, value] = mark.split('=')
  // No test tells the world of its drives.
  return { ...rest, DFS_DISCOVERY: 'none', [name!]: value }
}

await main()
