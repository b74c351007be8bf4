/** The daemon at work: a process of its own (daemon.ts), or that of the command (`dfs serve --no-fork`). */
import { logPath, socketPath } from '../lib/config.js'
import { Drive, type OpenOptions } from '../lib/drive.js'
import { fail } from '../lib/errors.js'
import { ASIDE_UP_MS } from '../lib/limits.js'
import { openStore, type StoragePeer } from '../lib/storage-peer.js'
import { Daemon, type Mounter } from '../lib/service/daemon.js'
import type { Order } from '../lib/service/launch.js'
import { DaemonLog } from '../lib/service/log.js'
import { ServedNetwork } from '../lib/service/network.js'
import { notifierOf, SILENT } from '../lib/service/notify.js'
import { mounterOf } from './mounter.js'

export interface Starter {
  /** It serves. */
  started(answer: { created: boolean }): void
  /** It does not, and is about to end. */
  failed(error: unknown): void
  /** Resolves when whoever started it in the foreground has ended: it is to end, too. */
  ended?: Promise<void>
}

/** So often the service manager is told who is connected, if that is another number. */
const STATUS_MS = 60_000

/** Until it ends, and the store is free: true if all went well. Throws what kept the store from being opened; the starter is told the rest. */
export async function serve(order: Order, starter: Starter): Promise<boolean> {
  const passphrase = order.passphrase === undefined ? undefined : Buffer.from(order.passphrase, 'base64')
  delete order.passphrase
  const created = order.create && !Drive.exists(order.store)
  const times = { ...setAsideAfter(process.env['DFS_ASIDE_AFTER_MS']), ...evictAfter(process.env['DFS_EVICT_AFTER_MS']) }
  const drive = created
    ? await Drive.create(order.store, { ...(passphrase && { passphrase }), ...(order.replication !== undefined && { replication: order.replication }), ...times })
    : await openStore(order.store, { ...(passphrase && { passphrase: () => Promise.resolve(passphrase) }), ...times })
  if (order.cache !== undefined) await drive.setCache(order.cache)
  const log = new DaemonLog(logPath(order.store), order.foreground ? process.stderr : undefined)
  const onNotice = (text: string) => log.line(text)
  const notifier = notifierOf(process.env, (error) => log.fault('telling the service manager', error)) ?? SILENT
  const watch = (opened: Drive | StoragePeer) => {
    opened.onStop = (error) => {
      log.fault('syncing the store', error)
      void daemon.recover(error)
    }
    opened.onNotice = onNotice
    if (opened instanceof Drive) opened.onAnew = () => void daemon.renew('the metadata of the other devices is here: the store is opened again with it')
  }
  const mounterFor = (opened: Drive | StoragePeer) => (order.refuseMounts ? REFUSING : mounterOf(opened))
  let current: Drive | StoragePeer = drive
  const daemon = await Daemon.start({
    drive, mounter: mounterFor(drive), socket: socketPath(order.store), log, lifetime: order.lifetime,
    reopen: async () => {
      current = await current.reopen()
      watch(current)
      const { network } = order
      // Where the others know it.
      await ServedNetwork.start(current, network, { onNotice, anyPort: true }).catch((error: unknown) => log.fault('connecting to the other devices again', error))
      return { drive: current, mounter: mounterFor(current) }
    },
    onMounts: () => notifier.status(status()),
    onStopping: () => notifier.stopping(),
  })
  const status = () => {
    const dirs = daemon.mountpoints().map(({ dir }) => dir)
    const devices = current.network?.peers().length ?? 0
    return `serves ${order.store}, ${dirs.length > 0 ? `mounted on ${dirs.join(', ')}` : 'not mounted'}, ${devices === 1 ? '1 device' : `${devices} devices`} connected`
  }
  watch(drive)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void daemon.shutdown(signal))
  void starter.ended?.then(() => daemon.shutdown('its command has ended'))
  const onFault = (error: unknown) => {
    log.fault('the work of the daemon', error)
    void daemon.shutdown('a fault', error)
  }
  process.on('uncaughtException', onFault)
  process.on('unhandledRejection', onFault)

  try {
    await Promise.all([order.mount && daemon.mount(order.mount), ServedNetwork.start(drive, order.network, { onNotice })])
    starter.started({ created })
    notifier.ready(status())
    setInterval(() => notifier.status(status()), STATUS_MS).unref()
  } catch (error) {
    starter.failed(error)
    await daemon.shutdown('its start failed', error)
  }
  return daemon.closed.then(() => true, () => false)
}

/** A service that is shut in would mount where nobody sees it. */
const REFUSING: Mounter = {
  mount: () => Promise.reject(fail('MOUNT_DENIED', 'the daemon of this store was started with --no-mount; as a service, install it again with dfs service install --mount DIR')),
  holders: () => Promise.resolve([]),
}

/** For tests: so long after a change of plan nothing goes that others may count on. */
function evictAfter(text: string | undefined): Pick<OpenOptions, 'graceMs'> {
  const ms = Number(text)
  return text && ms > 0 ? { graceMs: ms } : {}
}

/** For tests: a device is silent for long enough after so many milliseconds. */
function setAsideAfter(text: string | undefined): Pick<OpenOptions, 'aside'> {
  const ms = Number(text)
  return text && ms > 0 ? { aside: { afterMs: ms, upMs: Math.min(ms, ASIDE_UP_MS) } } : {}
}
