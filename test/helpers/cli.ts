/** dfs as a user runs it: the built program, a store of its own, nothing from the environment. */
import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import type { Assert } from 'brittle'
import { Client } from '../../lib/client.js'
import { REPOSITORY, run, type Ran, type RunOptions } from './run.js'
import { scratchDir } from './scratch.js'

export const DFS = join(REPOSITORY, 'dist/bin/dfs.js')
const TIMEOUT_MS = 60_000

export interface Cli {
  readonly dir: string
  readonly store: string
  /** Whatever it ends with. */
  dfs(args: string[], options?: RunOptions): Promise<Ran>
  /** Its standard output; throws unless it ends with 0. */
  ok(...args: string[]): Promise<string>
  /** Its exit code and its one line of error, without the `dfs: `. */
  fails(...args: string[]): Promise<[code: number, message: string]>
  /** Runs `dfs serve` until the test is over. */
  serve(): Promise<void>
}

export function makeCli(t: Pick<Assert, 'teardown'>): Cli {
  const dir = scratchDir(t)
  const store = join(dir, 'store')
  const environment: NodeJS.ProcessEnv = { PATH: process.env.PATH, HOME: dir, DFS_STORE: store, DFS_DISCOVERY: 'none', TEST_RUN: process.env.TEST_RUN }
  const dfs = (args: string[], options: RunOptions = {}) =>
    run(process.execPath, [DFS, ...args], { cwd: dir, timeoutMs: TIMEOUT_MS, ...options, env: { ...environment, ...options.env } })
  return {
    dir, store, dfs,
    async ok(...args) {
      const { code, stdout, stderr } = await dfs(args)
      if (code !== 0 || stderr !== '') throw new Error(`dfs ${args.join(' ')}: exit code ${code}\n${stderr}`)
      return stdout
    },
    async fails(...args) {
      const { code, stdout, stderr } = await dfs(args)
      if (code === 0 || stdout !== '' || !/^dfs: [^\n]+\n$/.test(stderr)) throw new Error(`dfs ${args.join(' ')}: exit code ${code}, not one line of error\n${stdout}${stderr}`)
      return [code, stderr.slice(5, -1)]
    },
    async serve() {
      const child = spawn(process.execPath, [DFS, 'serve'], { cwd: dir, env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
      const ended = new Promise((resolve) => child.once('exit', resolve))
      t.teardown(async () => {
        child.kill('SIGTERM')
        await ended
      }, { force: true, order: 1 })
      let output = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (b: Buffer) => (output += b.toString()))
      while (!(await Client.connect(store).then((c) => c?.close().then(() => true), () => false))) {
        if (child.exitCode !== null) throw new Error(`dfs serve ended with ${child.exitCode}: ${output}`)
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    },
  }
}

/** What a `dfs bootstrap` says that devices are to be given as DFS_BOOTSTRAP. */
export function dhtOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = ''
    child.stdout!.setEncoding('utf8').on('data', (part: string) => {
      said += part
      const found = /DFS_BOOTSTRAP=(\S+)/.exec(said)
      if (found) resolve(found[1]!)
    })
    child.on('exit', () => reject(new Error('dfs bootstrap ended')))
  })
}
