/**
 * The process of the daemon. Started by dfs mount and dfs serve, never by hand:
 * its order comes over standard input, its answer goes out over descriptor 3
 * (lib/service/launch.ts).
 */
import { logPath, socketPath } from '../lib/config.js'
import { Drive, type OpenOptions } from '../lib/drive.js'
import { ASIDE_UP_MS } from '../lib/limits.js'
import { openStore, type StoragePeer } from '../lib/storage-peer.js'
import { Daemon } from '../lib/service/daemon.js'
import { answerStart, readOrder, startFailure, type Order } from '../lib/service/launch.js'
import { DaemonLog } from '../lib/service/log.js'
import { ServedNetwork } from '../lib/service/network.js'
import { mounterOf } from './mounter.js'

// Whatever the daemon makes is its user's alone; the modes of files in the drive are given in full.
process.umask(0o077)
// Must not keep any file system busy.
process.chdir('/')

try {
  const { order, ended } = await readOrder(process.stdin)
  await serve(order, ended)
} catch (error) {
  answerStart(startFailure(error))
  process.exit(1)
}

async function serve(order: Order, starterEnded: Promise<void>): Promise<void> {
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
  const watch = (opened: Drive | StoragePeer) => {
    opened.onStop = (error) => {
      log.fault('syncing the store', error)
      void daemon.recover(error)
    }
    opened.onNotice = onNotice
    if (opened instanceof Drive) opened.onAnew = () => void daemon.renew('the metadata of the other devices is here: the store is opened again with it')
  }
  let current: Drive | StoragePeer = drive
  const daemon = await Daemon.start({
    drive, mounter: mounterOf(drive), socket: socketPath(order.store), log, lifetime: order.lifetime,
    reopen: async () => {
      current = await current.reopen()
      watch(current)
      const { network } = order
      // Where the others know it.
      await ServedNetwork.start(current, network, { onNotice, anyPort: true }).catch((error: unknown) => log.fault('connecting to the other devices again', error))
      return { drive: current, mounter: mounterOf(current) }
    },
  })
  watch(drive)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void daemon.shutdown(signal))
  if (order.foreground) void starterEnded.then(() => daemon.shutdown('its command has ended'))
  const onFault = (error: unknown) => {
    log.fault('the work of the daemon', error)
    void daemon.shutdown('a fault', error)
  }
  process.on('uncaughtException', onFault)
  process.on('unhandledRejection', onFault)

  try {
    await Promise.all([order.mount && daemon.mount(order.mount), ServedNetwork.start(drive, order.network, { onNotice })])
    answerStart({ ok: true, pid: process.pid, created })
  } catch (error) {
    answerStart(startFailure(error))
    await daemon.shutdown('its start failed', error)
  }
  // Sessions whose users would not go keep the event loop alive: they end here.
  await daemon.closed.then(() => process.exit(0), () => process.exit(1))
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
