/**
 * A process that serves a mount, so that the test may touch it with synchronous calls. Arguments: store, directory,
 * driver, -o options. Makes the drive if there is none. Prints one line, "mounted" or an error's code and text; ends
 * when its input does: unmounts (lazily, should the mount be in use) and closes the drive.
 */
import { Drive } from '../../lib/drive.js'
import { isDfsError } from '../../lib/errors.js'
import { mountFuseNative } from '../../mount/fuse-native.js'
import { Filesystem } from '../../mount/filesystem.js'
import { withIdMap } from '../../mount/idmap.js'
import { mountKernel } from '../../mount/kernel/mount.js'
import { parseMountOptions } from '../../mount/options.js'

const [store, dir, driver, list = ''] = process.argv.slice(2) as [string, string, string, string?]
/** A test stuck in a call on the mount could not be ended otherwise. */
const LIFE_MS = Number(process.env['MOUNT_CHILD_LIFE_MS'] ?? 55_000)
setTimeout(() => {
  process.stderr.write(`mount-child: ${driver} still mounted after ${LIFE_MS} ms\n`)
  process.kill(process.pid, 'SIGKILL')
}, LIFE_MS).unref()

let drive: Drive | undefined
try {
  const options = parseMountOptions(list)
  drive = Drive.exists(store) ? await Drive.open(store) : await Drive.create(store)
  const mount = driver === 'kernel' ? mountKernel : mountFuseNative
  const filesystem = new Filesystem(drive)
  const mounted = await mount({ dir, operations: options.idMap ? withIdMap(filesystem, drive.creator) : filesystem, options })
  process.stdout.write('mounted\n')
  await Promise.race([mounted.closed, new Promise(end => process.stdin.on('end', end).resume())])
  await mounted.unmount().catch(() => mounted.unmount({ lazy: true }))
  await mounted.closed
  await drive.close()
  process.exit(0)
} catch (error) {
  process.stdout.write(`${isDfsError(error) ? error.code : 'ERROR'} ${String(error instanceof Error ? error.message : error)}\n`)
  if (!isDfsError(error)) process.stderr.write(`${error instanceof Error ? error.stack : error}\n`)
  await drive?.close().catch(() => {})
  process.exit(1)
}
