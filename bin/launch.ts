/** Starts the daemon on behalf of dfs mount and dfs serve. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { reachDaemon, type LaunchOptions, type Reached } from '../lib/service/launch.js'
import type { Context } from './context.js'

const SCRIPT = fileURLToPath(new URL('./daemon.js', import.meta.url))

type Wishes = Pick<LaunchOptions, 'create' | 'lifetime' | 'mount' | 'foreground'> & { wantsPassphrase: boolean }

export function startDaemon(context: Context, { wantsPassphrase, ...wishes }: Wishes): Promise<Reached> {
  const { store, deviceName } = context.config
  if (deviceName) process.env.NODE_ID = deviceName
  return reachDaemon({
    ...wishes, store, script: SCRIPT, signal: context.signal,
    passphrase: () => context.passphrase(),
    newPassphrase: () => context.newPassphrase(wantsPassphrase),
  })
}

/** Until it ends. Ctrl-C and SIGTERM reach this process alone: they are passed on, and all is flushed before this returns. */
export async function waitForForeground(context: Context, child: ChildProcess): Promise<number> {
  const stop = () => child.kill('SIGTERM')
  if (context.signal.aborted) stop()
  context.signal.addEventListener('abort', stop)
  const [code] = child.exitCode === null && child.signalCode === null ? ((await once(child, 'exit')) as [number | null]) : [child.exitCode]
  if (context.signal.aborted && code === 0) return context.signal.reason as number
  return code ?? 1
}
