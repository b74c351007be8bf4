/**
 * Mounts of a drive, each served by a process of its own (mount-child.ts) without the command line: for tests that
 * choose the driver. Gone when the test is over, also when it fails.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Assert } from 'brittle'
import { isMounted } from './mount.js'
import { run } from './run.js'

export type DriverName = 'kernel' | 'fuse-native'
export interface ServedOptions { store: string; dir: string; driver: DriverName; options?: string; /** Runs it: a command and its first arguments. */ prefix?: string[] }

const END_MS = 10_000

export class ServedMount {
  readonly #dir: string
  readonly #child: ChildProcess
  /** The exit code; null after a signal. */
  readonly ended: Promise<number | null>

  private constructor({ store, dir, driver, options = '', prefix = [] }: ServedOptions) {
    this.#dir = dir
    const script = fileURLToPath(new URL('mount-child.js', import.meta.url))
    const [command, ...args] = [...prefix, process.execPath, script, store, dir, driver, options]
    this.#child = spawn(command!, args, { stdio: ['pipe', 'pipe', 'inherit'], cwd: '/' })
    this.ended = new Promise(resolve => this.#child.on('close', resolve))
  }

  /** Mounts; rejects with "CODE text" as the child said it. The directories must be the test's own. */
  static async start(t: Pick<Assert, 'teardown'>, options: ServedOptions): Promise<ServedMount> {
    const mount = new ServedMount(options)
    t.teardown(() => mount.end(), { force: true })
    const line = await new Promise<string>(resolve => {
      let said = ''
      mount.#child.stdout!.setEncoding('utf8').on('data', (text: string) => {
        said += text
        if (said.includes('\n')) resolve(said.trim())
      })
      void mount.ended.then(() => resolve(said.trim() || 'ERROR the child ended without a word'))
    })
    if (line === 'mounted') return mount
    await mount.ended
    throw new Error(line)
  }

  /** Unmounts and closes the drive; rejects if that went wrong. */
  async stop(): Promise<void> {
    this.#child.stdin!.end()
    const code = await this.ended
    if (code !== 0) throw new Error(`the process of the mount ended with ${code}`)
  }

  /** Leaves a dead mount behind. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.ended
  }

  /** Whatever state it is in. May be called twice. */
  async end(): Promise<void> {
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), END_MS)
    this.#child.stdin!.end()
    await this.ended
    clearTimeout(timer)
    while (isMounted(this.#dir) && (await run('umount', ['-l', this.#dir])).code === 0);
  }
}
