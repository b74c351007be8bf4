/** Starts the daemon on behalf of dfs mount and dfs serve. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { LOCKED_TIMEOUT_MS, orderOf, reachDaemon, RETRY_INTERVAL_MS, type LaunchOptions, type Reached } from '../lib/service/launch.js'
import { Client } from '../lib/client.js'
import { fail, isDfsError } from '../lib/errors.js'
import { usage, type Context, type GlobalOptions } from './context.js'
import { progressLine } from './output.js'

const SCRIPT = fileURLToPath(new URL('./daemon.js', import.meta.url))

type Wishes = Pick<LaunchOptions, 'create' | 'lifetime' | 'mount' | 'foreground' | 'refuseMounts'> & { wantsPassphrase: boolean; cache: number | null | undefined }

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

/**
 * The daemon in this very process, for service managers: until it ends, true if all went well. STORE_LOCKED if something else
 * holds the store for long; whatever the start failed with.
 */
export async function serveHere(context: Context, wishes: Pick<Wishes, 'mount' | 'refuseMounts' | 'cache'>): Promise<boolean> {
  const { store, network } = context.config
  // Until the daemon has handlers of its own, a signal ends this process at once: there is nothing to flush.
  context.leaveSignals()
  if (context.signal.aborted) throw fail('EINTR', 'interrupted')
  // As daemon.ts.
  process.umask(0o077)
  process.chdir('/')
  const { serve } = await import('./serving.js')
  for (let deadlineMs = performance.now() + LOCKED_TIMEOUT_MS; ;) {
    try {
      const client = await Client.connect(store)
      await client?.close()
      if (client) throw runsAlready(store, client.pid)
      const { order, passphrase } = await orderOf({
        ...(wishes.mount && { mount: wishes.mount }), ...(wishes.cache !== undefined && { cache: wishes.cache }), refuseMounts: wishes.refuseMounts ?? false,
        store, network, create: false, lifetime: 'until-stopped', foreground: true,
        passphrase: () => context.passphrase(), newPassphrase: () => Promise.resolve(undefined),
      })
      passphrase?.fill(0)
      let failure: { error: unknown } | undefined
      const isWell = await serve(order, {
        started: () => context.say(`The daemon of ${store} runs (process ${process.pid}).`),
        failed: (error) => (failure = { error }),
      })
      if (failure) throw failure.error
      return isWell
    } catch (error) {
      if (isDfsError(error, 'STORE_JOINING')) {
        await finishJoin(context)
        deadlineMs = performance.now() + LOCKED_TIMEOUT_MS
      } else if (!isDfsError(error, 'STORE_LOCKED') || performance.now() > deadlineMs) {
        throw error
      } else {
        await sleep(RETRY_INTERVAL_MS)
      }
    }
  }
}

export function runsAlready(store: string, pid: number): Error {
  return fail('STORE_LOCKED', `the daemon of ${store} runs already (process ${pid}); end it with dfs stop`)
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
