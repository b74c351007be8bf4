/** Starts the daemon on behalf of dfs mount and dfs serve. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { reachDaemon, type LaunchOptions, type Reached } from '../lib/service/launch.js'
import type { Client } from '../lib/client.js'
import { usage, type Context, type GlobalOptions } from './context.js'
import { progressLine } from './output.js'

const SCRIPT = fileURLToPath(new URL('./daemon.js', import.meta.url))

type Wishes = Pick<LaunchOptions, 'create' | 'lifetime' | 'mount' | 'foreground'> & { wantsPassphrase: boolean; cache: number | null | undefined }

export function startDaemon(context: Context, options: GlobalOptions, { wantsPassphrase, cache, ...wishes }: Wishes): Promise<Reached> {
  const { store, deviceName, network, replication } = context.config
  if (deviceName) process.env.NODE_ID = deviceName
  return reachDaemon({
    ...wishes, store, network, ...(cache !== undefined && { cache }), ...(replication !== undefined && { replication }), script: SCRIPT, signal: context.signal,
    onRunning: async (client) => {
      await tellRunning(client, options)
      if (cache !== undefined) await client.setCache(cache)
    },
    finishJoin: () => finishJoin(context),
    passphrase: () => context.passphrase(),
    newPassphrase: () => context.newPassphrase(wantsPassphrase),
  })
}

/** New addresses reach a daemon that runs; the rest of its network is as it was started. */
async function tellRunning(client: Client, { peer = [], port, bootstrap, discovery }: GlobalOptions): Promise<void> {
  const fixed = Object.entries({ port, bootstrap, discovery }).find(([, value]) => value !== undefined)
  if (fixed) throw usage(`the daemon (process ${client.pid}) runs already, and --${fixed[0]} is settled when it starts; end it with dfs stop first`)
  if (peer.length > 0) await client.addPeers(peer)
}

/** The first start of a store that was joined: takes in what the drive is, from a device that has it. */
async function finishJoin(context: Context): Promise<void> {
  const { store, network } = context.config
  const join = await import('../lib/join.js')
  const { swarmOptions } = await import('../lib/service/network.js')
  const progress = progressLine(context.quiet)
  process.umask(0o077)
  try {
    await join.finishJoin(store, {
      passphrase: () => context.passphrase(), signal: context.signal,
      network: { ...swarmOptions(network), ...(network.port !== undefined && { port: network.port }), peers: network.peers },
      onProgress: progress.update,
      onNotice: (text) => { if (!context.quiet) context.notice(text) },
    })
  } finally {
    progress.end()
  }
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
