import test, { type Assert } from 'brittle'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from '../../lib/client.js'
import { logPath, socketPath } from '../../lib/config.js'
import { Drive } from '../../lib/drive.js'
import { fail } from '../../lib/errors.js'
import { Daemon, type Mounted, type Mounter } from '../../lib/service/daemon.js'
import { DaemonLog } from '../../lib/service/log.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

/** Mounts nothing; notes what it was asked. A directory named busy is in use until it is unmounted lazily. */
class FakeMounter implements Mounter {
  readonly mounts = new Map<string, { end: () => void }>()
  readonly calls: string[] = []

  async mount({ dir }: { dir: string }): Promise<Mounted> {
    await sleep(10)
    if (dir.includes('missing')) throw fail('MOUNTPOINT_MISSING', `${dir} does not exist`)
    this.calls.push(`mount ${dir}`)
    let end!: () => void
    const closed = new Promise<void>((resolve) => (end = resolve))
    this.mounts.set(dir, { end })
    return {
      closed,
      unmount: async ({ lazy = false } = {}) => {
        this.calls.push(`unmount ${dir}${lazy ? ' lazily' : ''}`)
        if (dir.includes('busy') && !lazy) throw fail('MOUNTPOINT_BUSY', 'in use')
        // Its users stay for ever.
        if (!dir.includes('stuck')) end()
      },
      abandon: () => void this.calls.push(`abandon ${dir}`),
      abort: () => {
        this.calls.push(`abort ${dir}`)
        end()
      },
    }
  }

  async holders(): Promise<{ pid: number; command: string }[]> {
    return [{ pid: 42, command: 'vim' }]
  }
}

async function start(t: Assert, lifetime: 'while-mounted' | 'until-stopped') {
  const store = join(scratchDir(t), 'store')
  const drive = await Drive.create(store)
  const mounter = new FakeMounter()
  const own = { drive, isBroken: false, nowMs: 0 }
  const daemon = await Daemon.start({
    drive, mounter, socket: socketPath(store), log: new DaemonLog(logPath(store)), lifetime, now: () => own.nowMs,
    reopen: async () => {
      own.drive = await own.drive.reopen()
      if (own.isBroken) {
        await own.drive.close()
        throw fail('STORE_DAMAGED', 'the index cannot be read')
      }
      own.drive.onStop = (error) => void daemon.recover(error)
      return { drive: own.drive, mounter }
    },
  })
  drive.onStop = (error) => void daemon.recover(error)
  t.teardown(() => daemon.shutdown('the test is over'), { force: true })
  const client = (await Client.connect(store))!
  t.teardown(() => client.close(), { force: true, order: -1 })
  const mount = (dir: string) => client.mount({ dir, driver: 'fake', options: [] })
  return { store, daemon, mounter, client, mount, own }
}

test('started by a mount, it ends with the last one, and leaves the store free', async (t) => {
  const { store, daemon, client, mount } = await start(t, 'while-mounted')
  t.alike(await mount('/a'), { dir: '/a', already: false })
  t.alike(await mount('/a'), { dir: '/a', already: true })
  await mount('/b')
  t.alike((await client.status()).mountpoints.map((m) => m.dir), ['/a', '/b'])
  t.alike(await client.unmount('/a'), { ended: false })
  t.alike(await client.unmount('/b'), { ended: true })
  await client.closed
  await (await Drive.open(store)).close()
  await daemon.closed
  t.is(await Client.connect(store), undefined)
})

test('an unmount from outside counts too', async (t) => {
  const { daemon, mounter, client, mount } = await start(t, 'while-mounted')
  await mount('/a')
  const over = client.unmounted('/a')
  await client.status() // it has arrived
  mounter.mounts.get('/a')!.end()
  await over
  await daemon.closed
  await client.closed
  t.pass()
})

test('started to serve, it stays until it is stopped', async (t) => {
  const { store, daemon, client, mount } = await start(t, 'until-stopped')
  await mount('/a')
  await client.unmount('/a')
  t.ok((await client.status()).pid > 0)
  await client.stop()
  await client.closed
  await daemon.closed
  await (await Drive.open(store)).close()
  t.pass()
})

test('two mounts of one place at once are one', async (t) => {
  const { mounter, mount } = await start(t, 'while-mounted')
  const answers = await Promise.all([mount('/a'), mount('/a'), mount('/a')])
  t.alike(answers.map((a) => a.already).sort(), [false, true, true])
  t.alike(mounter.calls, ['mount /a'])
})

test('a mount that fails leaves nothing, and does not end the daemon', async (t) => {
  const { client, mount } = await start(t, 'while-mounted')
  t.is(await codeOf(() => mount('/missing')), 'MOUNTPOINT_MISSING')
  t.alike((await client.status()).mountpoints, [])
  t.is(await codeOf(() => client.unmount('/missing')), 'NOT_MOUNTED')
  t.is(await codeOf(() => client.unmounted('/missing')), 'NOT_MOUNTED')
})

test('a busy mount says who holds it; lazily it goes', async (t) => {
  const { client, mount } = await start(t, 'while-mounted')
  await mount('/busy')
  for (const attempt of [() => client.unmount('/busy'), () => client.stop()]) {
    try {
      await attempt()
      t.fail()
    } catch (error) {
      t.is((error as { code: string }).code, 'MOUNTPOINT_BUSY')
      t.ok((error as Error).message.includes('vim (process 42)'), (error as Error).message)
    }
  }
  await client.unmount('/busy', { lazy: true })
  await client.closed
})

test('a signal ends it whoever holds a mount, with all flushed', async (t) => {
  const { store, daemon, mounter, client, mount } = await start(t, 'until-stopped')
  await mount('/busy/stuck')
  const file = await client.open('/f', 'w')
  await file.write(0, Buffer.from('written'))
  await daemon.shutdown('SIGTERM')
  t.alike(mounter.calls, ['mount /busy/stuck', 'unmount /busy/stuck', 'unmount /busy/stuck lazily', 'abandon /busy/stuck'])
  await client.closed
  const drive = await Drive.open(store)
  t.is((await (await drive.open('/f')).read(0, 99)).toString(), 'written')
  await drive.close()
})

test('its log says what happened, and nothing of what is in the drive', async (t) => {
  const { store, daemon, client } = await start(t, 'until-stopped')
  t.is(statSync(logPath(store)).mode & 0o777, 0o600)
  const log = new DaemonLog(logPath(store))
  log.fault('a test', new Error('/secret/name: broke'))
  await codeOf(() => client.stat('/secret/name'))
  await daemon.shutdown('SIGTERM')
  const text = readFileSync(logPath(store), 'utf8')
  t.ok(text.includes('the daemon stops: SIGTERM'))
  t.ok(text.includes('fault during a test: Error'))
  t.absent(text.includes('secret'))
})

test('the log does not grow without end', (t) => {
  const path = join(scratchDir(t), 'log')
  const log = new DaemonLog(path)
  for (let i = 0; i < 3000; i++) log.line('x'.repeat(1000))
  log.line('last')
  log.close()
  t.ok(statSync(path).size + statSync(`${path}.1`).size < 2.2 * 1024 * 1024)
  t.ok(readFileSync(path, 'utf8').trimEnd().endsWith('last'))
})

/** The next sync of its index fails, as of a disk that is going, and is due. */
async function breakDisk(drive: Drive): Promise<void> {
  const broken = () => { throw Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' }) }
  drive.db.syncWal = async () => broken()
  drive.db.syncWalNow = broken
  await drive.journal.settle().catch(() => {})
}

async function reconnected(store: string): Promise<Client> {
  for (;;) {
    const client = await Client.connect(store).catch(() => undefined)
    if (client) return client
    await sleep(10)
  }
}

test('a store that has to stop is opened again, and mounted where it was', async (t) => {
  const { store, daemon, mounter, client, mount, own } = await start(t, 'while-mounted')
  await mount('/a')
  await mount('/b')
  const waits = (await Client.connect(store))!
  t.teardown(() => waits.close(), { force: true, order: -1 })
  const over = waits.unmounted('/a')
  const durable = await client.open('/durable', 'w')
  await durable.write(0, Buffer.from('kept'))
  await durable.sync()
  const first = own.drive
  await client.mkdir('/x')
  await breakDisk(first)
  t.ok(first.journal.stopped)
  await client.closed
  t.pass('who had something open is cut off')

  const again = await reconnected(store)
  t.teardown(() => again.close(), { force: true, order: -1 })
  t.alike((await again.status()).mountpoints.map((m) => m.dir), ['/a', '/b'], 'calls wait until it is open')
  t.absent(own.drive === first)
  t.is((await (await again.open('/durable')).read(0, 9)).toString(), 'kept')
  t.alike(mounter.calls, ['mount /a', 'mount /b', 'abort /a', 'abort /b', 'mount /a', 'mount /b'])
  await again.mkdir('/goes-on')
  await again.sync()
  await again.unmount('/a')
  await over
  t.pass('who waits for an unmount was not told of one')
  await again.unmount('/b')
  await daemon.closed
})

test('a segment that cannot be synced stops the store too, and what follows goes on from what is durable', async (t) => {
  const { client, own, store } = await start(t, 'until-stopped')
  const kept = await client.open('/kept', 'w')
  await kept.write(0, Buffer.alloc(100_000, 'k'))
  await kept.sync()
  const first = own.drive
  first.store.sync = async () => { throw (first.store as unknown as { onStop: (e: Error) => void }).onStop(fail('STORE_STOPPED', 'segment 1 cannot be synced')) }
  await codeOf(async () => {
    const lost = await client.open('/lost', 'w')
    await lost.write(0, Buffer.alloc(100_000, 'l'))
    await lost.sync()
  })
  await client.closed
  const again = await reconnected(store)
  t.teardown(() => again.close(), { force: true, order: -1 })
  t.ok((await (await again.open('/kept')).read(0, 200_000)).equals(Buffer.alloc(100_000, 'k')))
  t.absent(own.drive === first)
  t.alike((await again.fsck({ data: true })).problems, [])
})

test('SQLite rolling back by itself is a crash', async (t) => {
  const { client, own, store } = await start(t, 'until-stopped')
  await client.mkdir('/durable')
  await client.sync()
  const first = own.drive
  await client.mkdir('/lost')
  first.db.sql.exec('ROLLBACK')
  t.is(await codeOf(() => client.mkdir('/next')), 'STORE_STOPPED', 'nothing is built on it')
  await client.closed
  const again = await reconnected(store)
  t.teardown(() => again.close(), { force: true, order: -1 })
  const names: string[] = []
  for await (const { name } of again.opendir('/')) names.push(name.toString())
  t.alike(names, ['durable'])
  t.alike((await again.fsck({ data: true })).problems, [])
})

test('a store that has to stop again soon after ends the daemon; one that ran for long does not', async (t) => {
  const { daemon, client, store, own } = await start(t, 'until-stopped')
  const stop = async (c: Client) => {
    await c.mkdir('/x', { recursive: true })
    await c.mkdir(`/${own.nowMs}`)
    await breakDisk(own.drive)
    await c.closed
  }
  await stop(client)
  let next = await reconnected(store)
  await next.stat('/')
  own.nowMs += 3_600_000
  await stop(next)
  next = await reconnected(store)
  await next.stat('/')
  own.nowMs += 1000
  await stop(next)
  await t.exception(daemon.closed, /EIO/)
  t.ok(readFileSync(logPath(store), 'utf8').includes('so soon after it was reopened'))
  await (await Drive.open(store)).close()
})

test('a store that cannot be opened again ends the daemon with what stopped it', async (t) => {
  const { daemon, client, store, own } = await start(t, 'until-stopped')
  own.isBroken = true
  await client.mkdir('/x')
  await breakDisk(own.drive)
  await t.exception(daemon.closed, /EIO/)
  t.ok(readFileSync(logPath(store), 'utf8').includes('the store cannot be opened again'))
})
