/** Programs run by tests and benchmarks: found or named by their package, compiled from our own C, and their output kept. */
import { spawn, spawnSync, type SpawnOptions } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The checkout: this file runs from dist/test/helpers. */
export const REPOSITORY = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '')

export interface Ran { code: number; signal: NodeJS.Signals | null; stdout: string; stderr: string }
export interface RunOptions {
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** Written to standard input, which is empty otherwise. */
  input?: string | Buffer
  uid?: number
  gid?: number
  /** Milliseconds after which the program is killed; none by default. */
  timeoutMs?: number
}

/** Runs a program to its end and gives what it printed, whatever its exit code. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const { input, timeoutMs, ...rest } = options
  const spawnOptions: SpawnOptions = { ...rest, stdio: ['pipe', 'pipe', 'pipe'], ...(timeoutMs ? { timeout: timeoutMs, killSignal: 'SIGKILL' as const } : {}) }
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, spawnOptions)
    const out: Buffer[] = []
    const err: Buffer[] = []
    child.stdout!.on('data', (b: Buffer) => out.push(b))
    child.stderr!.on('data', (b: Buffer) => err.push(b))
    child.stdin!.on('error', () => undefined) // it may close its input before it has read all
    child.stdin!.end(input)
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code: code ?? -1, signal, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }))
  })
}

/** As run(), but throws when the program fails; gives its standard output. */
export async function must(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const ran = await run(program, args, options)
  if (ran.code !== 0) throw new Error(`${[program, ...args].join(' ').slice(0, 300)}: ${ran.signal ?? `exit code ${ran.code}`}\n${(ran.stderr || ran.stdout).slice(-2000)}`)
  return ran.stdout
}

export const shell = (script: string, options: RunOptions = {}): Promise<string> => must('/bin/sh', ['-euc', script], options)

export function hasProgram(name: string): boolean {
  return (process.env.PATH ?? '').split(':').some((dir) => existsSync(join(dir, name)))
}

/** Fails, naming the Debian package, when this machine lacks a program: nothing is skipped in silence. */
export function need(...programs: (readonly [program: string, debianPackage: string])[]): void {
  const lacking = programs.filter(([program]) => !hasProgram(program))
  if (lacking.length) throw new Error(`this machine lacks ${lacking.map(([p]) => p).join(', ')}: apt-get install ${[...new Set(lacking.map(([, d]) => d))].join(' ')}`)
}

/**
 * Compiles one of our C sources (a path within the repository) beside the
 * compiled tests, unless that is newer, and gives the program's path.
 */
export function compile(source: string, ...libraries: string[]): string {
  need(['cc', 'gcc'], ['ld', 'binutils'])
  const from = join(REPOSITORY, source)
  const to = join(REPOSITORY, 'dist', source.replace(/\.c$/, ''))
  if (existsSync(to) && statSync(to).mtimeMs > statSync(from).mtimeMs) return to
  mkdirSync(dirname(to), { recursive: true })
  const temporary = `${to}.${process.pid}`
  const ran = spawnSync('cc', ['-O2', '-Wall', '-Wextra', '-D_GNU_SOURCE', '-D_FILE_OFFSET_BITS=64', '-o', temporary, from, ...libraries], { encoding: 'utf8' })
  if (ran.status !== 0) {
    rmSync(temporary, { force: true })
    throw new Error(`cannot compile ${source} (headers: apt-get install libc6-dev):\n${ran.stderr}`)
  }
  renameSync(temporary, to) // several test files may compile it at once
  return to
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
