/**
 * Units of systemd: where they are, and what systemd makes of them. The user's
 * own manager, or the system's, which is root's to change.
 */
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, mkdirSync, writeFileSync } from 'node:fs'
import { homedir, userInfo } from 'node:os'
import { isAbsolute, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fail } from '../errors.js'
import { storeOfUnit, type Scope } from './systemd.js'

export interface Unit {
  scope: Scope
  /** Without `.service`. */
  name: string
  path: string
  /** Undefined: the file is none of ours. */
  store: string | undefined
  text: string
}

/** systemd's own words (systemctl(1), "show"). */
export interface UnitState {
  /** active, activating, deactivating, inactive, failed */
  active: string
  /** running, auto-restart, ... */
  sub: string
  /** enabled, disabled, ... */
  enabled: string
  /** Why it ended last; 'success' if well. */
  result: string
  exitStatus: number
  pid: number | null
  restarts: number
  memoryBytes: number | null
  /** What the daemon says of itself. */
  status: string
  since: string
}

/** Changes of state are seen within this. */
const POLL_MS = 100

export function unitDir(scope: Scope, env: NodeJS.ProcessEnv = process.env): string {
  if (scope === 'system') return '/etc/systemd/system'
  const config = env['XDG_CONFIG_HOME']
  return join(config && isAbsolute(config) ? config : join(env['HOME'] || homedir(), '.config'), 'systemd', 'user')
}

/** Those that `dfs service install` wrote, and whatever else bears such a name. */
export function unitsIn(scope: Scope): Unit[] {
  const dir = unitDir(scope)
  let names: string[]
  try {
    names = readdirSync(dir).filter((name) => /^dfs(-.+)?\.service$/.test(name))
  } catch {
    return []
  }
  return names.sort().flatMap((file) => {
    const path = join(dir, file)
    try {
      const text = readFileSync(path, 'utf8')
      return [{ scope, name: file.slice(0, -'.service'.length), path, store: storeOfUnit(text), text }]
    } catch {
      return []
    }
  })
}

/** Replaced as a whole. EACCES. */
export function writeUnit(scope: Scope, name: string, text: string): string {
  const dir = unitDir(scope)
  const path = join(dir, `${name}.service`)
  try {
    mkdirSync(dir, { recursive: true })
    // A name that systemd does not read.
    writeFileSync(`${path}.new`, text, { mode: 0o644 })
    renameSync(`${path}.new`, path)
  } catch (error) {
    throw fail('EACCES', `${path} cannot be written (${(error as NodeJS.ErrnoException).code}); ${scope === 'system' ? 'run it as root' : 'is the folder yours?'}`, error)
  }
  return path
}

export class Systemd {
  readonly scope: Scope
  readonly #env: NodeJS.ProcessEnv

  private constructor(scope: Scope, env: NodeJS.ProcessEnv) {
    this.scope = scope
    this.#env = env
  }

  /** SYSTEMD_MISSING if there is none to talk to; EACCES if it is not ours to change. */
  static async reach(scope: Scope, { toChange }: { toChange: boolean }): Promise<Systemd> {
    if (!existsSync('/run/systemd/system')) throw fail('SYSTEMD_MISSING', 'this machine was not started by systemd; let another service manager run dfs serve (docs/service.md)')
    if (scope === 'system' && toChange && process.geteuid!() !== 0) throw fail('EACCES', 'services of the system are root\'s; run it with sudo, or with --user for one of your own')
    const env = { ...process.env }
    if (scope === 'user') {
      const own = `/run/user/${process.geteuid!()}`
      if (!env['XDG_RUNTIME_DIR'] && existsSync(own)) env['XDG_RUNTIME_DIR'] = own
    }
    const systemd = new Systemd(scope, env)
    const { code, stderr } = await systemd.#run('systemctl', ['show', '--property=Version'])
    if (code !== 0) {
      throw fail('SYSTEMD_MISSING', scope === 'user'
        ? `there is no systemd of user ${userName()} to talk to (${lastLine(stderr)}); log in as that user (not by su or sudo), or: loginctl enable-linger ${userName()}`
        : `systemd cannot be reached (${lastLine(stderr)})`)
    }
    if (toChange && (await systemd.#run('systemd-notify', ['--version'])).code !== 0) throw fail('SYSTEMD_MISSING', 'systemd-notify, by which the daemon tells that it runs, cannot be run')
    return systemd
  }

  /** Whether the user's manager runs without a login. */
  static lingers(user = userName()): boolean {
    return existsSync(join('/var/lib/systemd/linger', user))
  }

  reload(): Promise<void> { return this.#must('daemon-reload') }
  /** From the next boot (or login) on. */
  enable(name: string): Promise<void> { return this.#must('enable', unit(name)) }
  /** Ends it, and waits for that. */
  disableNow(name: string): Promise<void> { return this.#must('disable', '--now', unit(name)) }
  stop(name: string): Promise<void> { return this.#must('stop', unit(name)) }

  /** Begins, as if it had never failed. Does not wait: see `settled`. */
  async start(name: string, verb: 'start' | 'restart' = 'start'): Promise<void> {
    await this.#run('systemctl', ['reset-failed', unit(name)])
    await this.#must(verb, '--no-block', unit(name))
  }

  /** Forgets a failure of a unit that is gone. */
  async forget(name: string): Promise<void> {
    await this.#run('systemctl', ['reset-failed', unit(name)])
  }

  async state(name: string): Promise<UnitState> {
    const wanted = ['ActiveState', 'SubState', 'UnitFileState', 'Result', 'ExecMainStatus', 'MainPID', 'NRestarts', 'MemoryCurrent', 'StatusText', 'StateChangeTimestamp', 'Job']
    const { code, stdout, stderr } = await this.#run('systemctl', ['show', `--property=${wanted.join(',')}`, unit(name)])
    if (code !== 0) throw fail('SERVICE_FAILED', `systemd does not tell of ${name}: ${lastLine(stderr)}`)
    const said = new Map(stdout.split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
    const text = (key: string) => said.get(key) ?? ''
    const memory = /^\d{1,15}$/.test(text('MemoryCurrent')) ? Number(text('MemoryCurrent')) : null
    // What waits in systemd's queue is not what it was told to be yet.
    const isQueued = text('Job') !== '' && text('Job') !== '0'
    return {
      active: isQueued && text('ActiveState') !== 'deactivating' ? 'activating' : text('ActiveState'), sub: text('SubState'),
      enabled: text('UnitFileState') || 'disabled', result: text('Result'), exitStatus: Number(text('ExecMainStatus')),
      pid: Number(text('MainPID')) || null, restarts: Number(text('NRestarts')), memoryBytes: memory, status: text('StatusText'), since: text('StateChangeTimestamp'),
    }
  }

  /** Its state when it runs, or has failed and waits for its next try; after `patienceMs` whatever it is then. */
  async settled(name: string, patienceMs: number): Promise<UnitState> {
    for (const start = performance.now(); ; await sleep(POLL_MS)) {
      const state = await this.state(name)
      const isUnderWay = (state.active === 'activating' && state.sub !== 'auto-restart') || state.active === 'deactivating'
      if (!isUnderWay || performance.now() - start > patienceMs) return state
    }
  }

  /** journalctl, on our own output; its exit code. */
  async journal(name: string, args: readonly string[], signal: AbortSignal): Promise<number> {
    const child = spawn('journalctl', [this.scope === 'user' ? `--user-unit=${unit(name)}` : `--unit=${unit(name)}`, ...args], { env: this.#env, stdio: ['ignore', 'inherit', 'inherit'] })
    const abort = () => child.kill('SIGTERM')
    signal.addEventListener('abort', abort)
    return new Promise((resolve, reject) => {
      child.once('error', (error) => reject(fail('SYSTEMD_MISSING', `journalctl cannot be run (${(error as NodeJS.ErrnoException).code})`, error)))
      child.once('exit', (code) => resolve(signal.aborted ? signal.reason as number : code ?? 1))
    })
  }

  async #must(...args: string[]): Promise<void> {
    const { code, stderr } = await this.#run('systemctl', args)
    if (code !== 0) throw fail('SERVICE_FAILED', `systemctl ${args.join(' ')}: ${lastLine(stderr) || `exit code ${code}`}`)
  }

  #run(program: string, args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const all = program === 'systemctl' ? [...(this.scope === 'user' ? ['--user'] : []), '--no-ask-password', '--no-pager', ...args] : args
    return capture(program, all, this.#env)
  }
}

/** Never rejects: a program that is not there ends with 127. */
function capture(program: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { env: { ...env, LC_ALL: 'C.UTF-8' }, stdio: ['ignore', 'pipe', 'pipe'] })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (part: string) => (stdout += part))
    child.stderr.setEncoding('utf8').on('data', (part: string) => (stderr += part))
    child.once('error', (error) => resolve({ code: 127, stdout, stderr: error.message }))
    child.once('close', (code) => resolve({ code: code ?? 1, stdout, stderr }))
  })
}

function unit(name: string): string {
  return `${name}.service`
}

function lastLine(text: string): string {
  return text.trim().split('\n').pop()!.trim()
}

function userName(): string {
  try {
    return userInfo().username
  } catch {
    return String(process.geteuid!())
  }
}

/** As unit files name users: a number if it has no name. */
export async function nameOfUser(uid: number): Promise<string> {
  const { code, stdout } = await capture('id', ['-un', String(uid)], process.env)
  return code === 0 ? stdout.trim() : String(uid)
}

/** Which service a process is of: `dfs` of `.../dfs.service`. */
export function serviceOf(pid: number): string | undefined {
  try {
    return /\/(dfs(?:-[^/\n]+)?)\.service(?:\/|$)/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))?.[1]
  } catch {
    return undefined
  }
}

export function removeUnit(unit: Unit): void {
  try {
    rmSync(unit.path)
  } catch (error) {
    throw fail('EACCES', `${unit.path} cannot be removed (${(error as NodeJS.ErrnoException).code})`, error)
  }
}
