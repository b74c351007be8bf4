/** Two folders that one program keeps alike: dfs with two daemons, or syncthing, over loopback. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Client } from '../../lib/client.js'
import { DFS } from '../helpers/mount.js'
import { must, run, sleep } from '../helpers/run.js'

export interface Pair {
  readonly name: string
  readonly a: string
  readonly b: string
  /** Whether B has the content of everything whose names it has. */
  isComplete(): Promise<boolean>
  /** Peak resident memory of each side so far, bytes. */
  peaks(): number[]
  close(): Promise<void>
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { port } = server.address() as { port: number }
  await new Promise((done) => server.close(done))
  return port
}

/** One device: its own store, daemon and mount. */
export class DfsNode {
  readonly dir: string
  readonly store: string
  readonly #env: NodeJS.ProcessEnv
  readonly #command: string[]
  #client: Client | undefined
  pid = 0

  /** `prefix`: what its commands are started with. */
  constructor(readonly scratch: string, name: string, readonly port: number, env: NodeJS.ProcessEnv = {}, prefix: readonly string[] = []) {
    this.dir = join(scratch, `${name}-mnt`)
    this.store = join(scratch, `${name}-store`)
    mkdirSync(this.dir)
    this.#env = { DFS_DISCOVERY: 'none', NODE_ID: name, NODE_PORT: String(port), ...env }
    this.#command = [...prefix, process.execPath, DFS, '--store', this.store]
  }

  dfs(...args: string[]): Promise<string> {
    return must(this.#command[0]!, [...this.#command.slice(1), ...args], { env: { ...process.env, ...this.#env } })
  }

  async mount(...args: string[]): Promise<void> {
    await this.dfs('mount', ...args, this.dir)
    this.pid = (await this.status()).pid
  }

  async status(): Promise<Awaited<ReturnType<Client['status']>>> {
    this.#client ??= await Client.connect(this.store)
    return this.#client!.status()
  }

  async unmount(): Promise<void> {
    await this.#client?.close()
    this.#client = undefined
    await run(this.#command[0]!, [...this.#command.slice(1), 'unmount', this.dir], { env: { ...process.env, ...this.#env } })
  }

  async close(): Promise<void> {
    await this.unmount()
    if (this.pid > 0) for (let i = 0; i < 100 && isAlive(this.pid); i++) await sleep(50)
    if (this.pid > 0 && isAlive(this.pid)) process.kill(this.pid, 'SIGKILL')
    await run('umount', ['-l', this.dir])
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

function peakOf(pid: number): number {
  const line = /VmHWM:\s+(\d+)/.exec(readText(`/proc/${pid}/status`))
  return Number(line?.[1] ?? 0) * 1024
}

function readText(path: string): string {
  try { return readFileSync(path, 'utf8') } catch { return '' }
}

/** `joinArgs`: of `dfs join`, as --cache. `args`: of both mounts. */
export async function dfsPair(parent: string, options: { joinArgs?: string[]; env?: NodeJS.ProcessEnv } = {}): Promise<Pair & { nodes: [DfsNode, DfsNode] }> {
  const scratch = mkdtempSync(join(parent, 'dfs-sync-'))
  const [portA, portB] = [await freePort(), await freePort()]
  const a = new DfsNode(scratch, 'a', portA, options.env)
  const b = new DfsNode(scratch, 'b', portB, options.env)
  return dfsNodes(a, b, ['--peer', `127.0.0.1:${portA}`, ...(options.joinArgs ?? [])], async () => rmSync(scratch, { recursive: true, force: true }))
}

/** Starts both, the second joins. `clear` is called in the end, also if that fails. */
export async function dfsNodes(a: DfsNode, b: DfsNode, joinArgs: string[], clear: () => Promise<void>): Promise<Pair & { nodes: [DfsNode, DfsNode] }> {
  const close = async () => {
    await Promise.allSettled([b.close(), a.close()])
    await clear()
  }
  try {
    await a.mount()
    const key = (await a.dfs('key')).trim().split('\n').find((l) => l.includes('dfs1-'))!.trim()
    await b.dfs('join', key, ...joinArgs)
    await b.mount()
  } catch (e) {
    await close()
    throw e
  }
  return {
    name: 'dfs', a: a.dir, b: b.dir, nodes: [a, b],
    isComplete: async () => (await b.status()).chunks.owed === 0,
    peaks: () => [peakOf(a.pid), peakOf(b.pid)],
    close,
  }
}

export async function syncthingPair(parent: string): Promise<Pair> {
  const scratch = mkdtempSync(join(parent, 'syncthing-'))
  const sides = await Promise.all(['a', 'b'].map(async (name) => {
    const home = join(scratch, `${name}-home`)
    const dir = join(scratch, name)
    mkdirSync(join(dir, '.stfolder'), { recursive: true })
    await must('syncthing', ['generate', `--home=${home}`, '--no-default-folder', '--skip-port-probing'])
    const stdout = await must('syncthing', ['--device-id', `--home=${home}`])
    return { home, dir, id: stdout.trim().split('\n').pop()!, port: await freePort(), gui: await freePort() }
  }))
  const children: ChildProcess[] = []
  const close = async () => {
    for (const child of children) child.kill('SIGTERM')
    await Promise.all(children.map((c) => (c.exitCode === null ? new Promise((done) => c.once('exit', done)) : null)))
    rmSync(scratch, { recursive: true, force: true })
  }
  try {
    for (const s of sides) {
      writeFileSync(join(s.home, 'config.xml'), `<configuration version="35">
<folder id="bench" label="bench" path="${s.dir}" type="sendreceive" rescanIntervalS="3600" fsWatcherEnabled="true" fsWatcherDelayS="1" ignorePerms="false" autoNormalize="true">
${sides.map((o) => `<device id="${o.id}"></device>`).join('\n')}</folder>
${sides.map((o) => `<device id="${o.id}" name="${o.home.slice(-6, -5)}" compression="metadata"><address>tcp://127.0.0.1:${o.port}</address></device>`).join('\n')}
<gui enabled="true" tls="false"><address>127.0.0.1:${s.gui}</address><apikey>bench</apikey></gui>
<options><listenAddress>tcp://127.0.0.1:${s.port}</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled>
<relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><urAccepted>-1</urAccepted><startBrowser>false</startBrowser><crashReportingEnabled>false</crashReportingEnabled>
<setLowPriority>false</setLowPriority><reconnectionIntervalS>5</reconnectionIntervalS></options></configuration>`)
      children.push(spawn('syncthing', ['serve', `--home=${s.home}`, '--no-browser', '--no-restart', '--no-upgrade', '--logfile=-'], { stdio: 'ignore' }))
    }
    // Connected, and the first scans are over, when a file has come across.
    writeFileSync(join(sides[0]!.dir, 'first'), 'x')
    await until(() => sizeOf(join(sides[1]!.dir, 'first')) === 1, 60_000)
  } catch (e) {
    await close()
    throw e
  }
  return {
    name: 'syncthing', a: sides[0]!.dir, b: sides[1]!.dir,
    isComplete: async () => true, // a file has its name when it is complete
    peaks: () => children.map((c) => peakOf(c.pid!)),
    close,
  }
}

export function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? -1
}

/** Regular files below `dir` that are no one's temporaries. */
export function countFiles(dir: string): number {
  let n = 0
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    if (e.isDirectory()) n += e.name.startsWith('.st') ? 0 : countFiles(join(dir, e.name))
    else if (!e.name.startsWith('.syncthing') && !e.name.startsWith('~syncthing')) n++
  }
  return n
}

/** Seconds until `is`. */
export async function until(is: () => boolean | Promise<boolean>, limitMs: number, everyMs = 1): Promise<number> {
  const start = performance.now()
  for (;;) {
    if (await is()) return (performance.now() - start) / 1000
    if (performance.now() - start > limitMs) throw new Error(`not so after ${limitMs} ms: ${String(is)}`)
    await sleep(everyMs)
  }
}
