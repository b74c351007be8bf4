/** The store of a mounted drive has to stop: the daemon opens it again and mounts it where it was; programs that had files open get errors. */
import test from 'brittle'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, promises as fs, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { mounterOf } from '../../bin/mounter.js'
import { logPath, socketPath } from '../../lib/config.js'
import { Drive } from '../../lib/drive.js'
import { fail } from '../../lib/errors.js'
import { Daemon } from '../../lib/service/daemon.js'
import { DaemonLog } from '../../lib/service/log.js'
import { ended, mountpoint } from '../helpers/memmount.js'
import { isMounted } from '../helpers/mount.js'
import { errnoOf } from '../helpers/refused.js'
import { scratchDir } from '../helpers/scratch.js'

/** Reads a line, writes and syncs, and says how that went; for ever. */
const PROGRAM = `
const fs = require('fs')
const fd = fs.openSync(process.argv[1], 'w')
console.log('open')
process.stdin.on('data', () => {
  try { fs.writeSync(fd, 'more'); fs.fsyncSync(fd); console.log('ok') } catch (e) { console.log(e.code) }
})`

test('a failed sync: the mount comes back with what is durable', { timeout: 120_000 }, async (t) => {
  const store = join(scratchDir(t), 'store')
  const [a, b] = [await mountpoint(t), await mountpoint(t)]
  let drive = await Drive.create(store)
  let onReopened = () => {}
  const daemon = await Daemon.start({
    drive, mounter: mounterOf(drive), socket: socketPath(store), log: new DaemonLog(logPath(store)), lifetime: 'until-stopped',
    reopen: async () => {
      drive = await drive.reopen()
      onReopened()
      return { drive, mounter: mounterOf(drive) }
    },
  })
  drive.onStop = (error) => void daemon.recover(error)
  t.teardown(() => daemon.shutdown('the test is over'), { force: true })
  await daemon.mount({ dir: a, driver: 'kernel', options: [] })
  await daemon.mount({ dir: b, driver: 'kernel', options: ['ro'] })

  const durable = randomBytes(300_000)
  await fs.writeFile(join(a, 'durable'), durable, { flush: true } as object)
  const child = spawn(process.execPath, ['-e', PROGRAM, join(a, 'held')], { stdio: ['pipe', 'pipe', 'inherit'], cwd: '/' })
  t.teardown(() => ended(child, 'SIGKILL'), { force: true, order: -1 })
  const said = async (): Promise<string> => String((await once(child.stdout, 'data'))[0]).trim()
  t.is(await said(), 'open')
  child.stdin.write('1\n')
  t.is(await said(), 'ok')

  // The disk refuses one sync of a segment.
  const reopened = new Promise<void>((resolve) => { onReopened = resolve })
  const { store: segments } = drive
  segments.sync = async () => {
    const why = fail('STORE_STOPPED', 'segment 1 cannot be synced (EIO)')
    segments.onStop(why)
    throw why
  }
  const lost = await errnoOf(fs.writeFile(join(a, 'lost'), randomBytes(300_000), { flush: true } as object))
  t.ok(['EIO', 'ENOTCONN', 'ECONNABORTED'].includes(lost), `the program is told: ${lost}`)
  await reopened
  await daemon.ready()

  child.stdin.write('2\n')
  t.is(await said(), 'ENOTCONN', 'what was open stays an error')
  t.ok(isMounted(a) && isMounted(b))
  t.ok((await fs.readFile(join(a, 'durable'))).equals(durable))
  t.ok((await fs.readFile(join(b, 'durable'))).equals(durable))
  t.is((await fs.readFile(join(a, 'held'), 'utf8')), 'more', 'what was synced')
  await fs.writeFile(join(a, 'after'), 'after', { flush: true } as object)
  t.is(await errnoOf(fs.writeFile(join(b, 'no'), '')), 'EROFS', 'with the options that it had')
  t.is(readFileSync('/proc/self/mountinfo', 'utf8').split('\n').filter((line) => line.split(' ')[4] === a).length, 1, 'no dead mount lies below')
  t.alike((await drive.fsck({ data: true })).problems, [])
  await daemon.shutdown('the test is over')
  const last = await Drive.open(store)
  t.is((await (await last.open('/after')).read(0, 9)).toString(), 'after')
  await last.close()
})

test('reads that wait for a chunk are told when the store stops', { timeout: 60_000 }, async (t) => {
  const { driveElsewhere } = await import('../helpers/elsewhere.js')
  const dir = scratchDir(t)
  mkdirSync(join(dir, 'store'))
  const made = await driveElsewhere(join(dir, 'store'), { '/f': randomBytes(100_000) })
  let { drive } = made
  made.source.isSlow = true
  const at = await mountpoint(t)
  const daemon = await Daemon.start({
    drive, mounter: mounterOf(drive), socket: socketPath(drive.dir), log: new DaemonLog(logPath(drive.dir)), lifetime: 'until-stopped',
    reopen: async () => {
      drive = await drive.reopen()
      return { drive, mounter: mounterOf(drive) }
    },
  })
  drive.onStop = (error) => void daemon.recover(error)
  t.teardown(() => daemon.shutdown('the test is over'), { force: true })
  await daemon.mount({ dir: at, driver: 'kernel', options: [] })
  const read = errnoOf(fs.readFile(join(at, 'f')))
  await made.source.asked(1)
  drive.onStop = (error) => void daemon.recover(error)
  drive.journal.stop(new Error('the disk'))
  t.ok(['EIO', 'ENOTCONN', 'ECONNABORTED'].includes(await read))
  await daemon.ready()
  made.source.isSlow = false
  t.is((await fs.readFile(join(at, 'f'))).length, 100_000, 'the source is the same')
})
