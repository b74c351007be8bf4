/**
 * kill -9 of the daemon at random moments under load, and what must hold after
 * each: `dfs mount` recovers the dead mount by itself, fsck is clean, and the
 * writers' journals allow what is found (verify.ts).
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { DFS, isAlive, kill, processesOf, type TestMount } from '../helpers/mount.js'
import { sleep } from '../helpers/run.js'
import { random } from '../helpers/tree.js'
import { readJournal } from './journal.js'
import { verify } from './verify.js'

export interface KillOptions {
  kills: number
  seed: number
  /** Processes that write at the same time. */
  writers: number
  /** The daemon lives for up to this long under load. */
  maxLifeMs: number
  onRound?: (text: string) => void
}

export interface KillReport { kills: number; files: number; bytes: number; fsyncs: number; problems: string[] }

/** Rounds whose files stay and are checked again: what was recovered once must survive the next crashes too. */
const ROUNDS_KEPT = 3
/** A writer whose calls do not return after the daemon's death hangs. */
const WRITER_END_MS = 30_000
/** One kill in so many is followed by another while the next daemon starts and recovers. */
const KILL_AT_START_ONE_IN = 5

/** Stops at the first round with problems, so that the store can be looked at. */
export async function killLoop(mount: TestMount, options: KillOptions): Promise<KillReport> {
  const rand = random(options.seed)
  const report: KillReport = { kills: 0, files: 0, bytes: 0, fsyncs: 0, problems: [] }
  const journalOf = (round: number, id: number) => join(mount.scratch, `journal-${round}-${id}`)
  const folderOf = (round: number) => `r${round}`
  const problem = (text: string) => report.problems.push(`round ${report.kills}: ${text}`)

  for (let round = 0; round < options.kills && !report.problems.length; round++) {
    report.kills++
    makeDurable(mount.dir, folderOf(round))
    const writers = Array.from({ length: options.writers }, (_, id) => startWriter(join(mount.dir, folderOf(round)), journalOf(round, id), id, Math.floor(rand() * 2 ** 31)))
    for (let id = 0; id < options.writers; id++) await started(writers[id]!, journalOf(round, id))
    await sleep(rand() * options.maxLifeMs)
    await killDaemon(await mount.pid())
    for (const ended of await Promise.all(writers.map(endOf))) if (ended) problem(ended)
    if (Math.floor(rand() * KILL_AT_START_ONE_IN) === 0) await killWhileStarting(mount, rand() * 400)
    await mount.mount()
    const fsck = await mount.dfs('fsck')
    if (fsck.code !== 0) problem(`fsck: exit code ${fsck.code}\n${fsck.stdout}${fsck.stderr}`)
    for (let checked = Math.max(0, round - ROUNDS_KEPT); checked <= round; checked++) {
      for (let id = 0; id < options.writers; id++) {
        const journal = readJournal(journalOf(checked, id))
        const verified = verify(join(mount.dir, folderOf(checked)), `w${id}`, journal)
        for (const text of verified.problems) problem(`${folderOf(checked)}/${text}`)
        if (checked < round) continue
        report.files += verified.files
        report.bytes += verified.bytes
        report.fsyncs += journal.filter((l) => (l.op === 'fsync' || l.op === 'syncdir') && l.at === 'done').length
      }
    }
    if (round >= ROUNDS_KEPT) rmSync(join(mount.dir, folderOf(round - ROUNDS_KEPT)), { recursive: true })
    options.onRound?.(`kill ${report.kills}/${options.kills}: ${report.files} files, ${(report.bytes / 1e6).toFixed(0)} MB, ${report.fsyncs} fsyncs so far`)
  }
  return report
}

function makeDurable(root: string, folder: string): void {
  mkdirSync(join(root, folder))
  const fd = openSync(root, 'r')
  fsyncSync(fd)
  closeSync(fd)
}

interface Writer {
  child: ChildProcess
  /** '' or how it failed. */
  ended: Promise<string>
}

function startWriter(dir: string, journal: string, id: number, seed: number): Writer {
  const program = fileURLToPath(new URL('writer.js', import.meta.url))
  const child = spawn(process.execPath, [program, dir, journal, String(id), String(seed)], { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr.on('data', (b: Buffer) => { stderr += String(b) })
  return { child, ended: new Promise((resolve) => child.on('close', (code) => resolve(code === 0 ? '' : `a writer failed before the kill: ${stderr.slice(0, 1000)}`))) }
}

/** Its first fsync is done: from now on there is something to lose. */
async function started({ child }: Writer, journal: string): Promise<void> {
  while (child.exitCode === null && !(existsSync(journal) && readFileSync(journal, 'utf8').includes('"at":"done"'))) await sleep(5)
}

/** '' or what is wrong with how a writer ended, now that the daemon is dead. */
async function endOf({ child, ended }: Writer): Promise<string> {
  let timer: NodeJS.Timeout | undefined
  const hangs = new Promise<string>((resolve) => {
    timer = setTimeout(() => {
      resolve(`a writer hangs after the death of the daemon, in ${whereIs(child.pid!)}`)
      child.kill('SIGKILL')
    }, WRITER_END_MS)
  })
  const how = await Promise.race([ended, hangs])
  clearTimeout(timer)
  return how
}

/** What a process waits for, as the kernel tells. */
function whereIs(pid: number): string {
  return ['syscall', 'wchan', 'stack'].map((what) => {
    try {
      return `${what}: ${readFileSync(`/proc/${pid}/${what}`, 'utf8').trim()}`
    } catch {
      return `${what}: unknown`
    }
  }).join('\n')
}

async function killDaemon(pid: number): Promise<void> {
  kill(pid)
  while (isAlive(pid)) await sleep(5)
}

/** Whether the command fails or not does not matter: the next one must succeed. */
async function killWhileStarting(mount: TestMount, afterMs: number): Promise<void> {
  const mounting = mount.mount().catch(() => undefined)
  await sleep(afterMs)
  for (const pid of daemonsOf(mount)) await killDaemon(pid)
  await mounting
  // It may have been too early for the first.
  for (const pid of daemonsOf(mount)) await killDaemon(pid)
}

/** Those that have the store, or are about to; not the command that started them. */
const daemonsOf = (mount: TestMount): number[] => processesOf(mount.store!).filter((pid) => {
  try {
    return !readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(DFS)
  } catch {
    return false
  }
})
