/** Mounts a MemFs at argv[2] with the -o options argv[3]; SIGTERM unmounts. Prints "mounted", or the error's code and message. */
import { mountKernel } from '../../mount/kernel/mount.js'
import { parseMountOptions } from '../../mount/options.js'
import { isDfsError } from '../../lib/errors.js'
import { MemFs } from './memfs.js'

const [dir = '', options = ''] = process.argv.slice(2)
try {
  const mount = await mountKernel({ dir, operations: new MemFs(), options: parseMountOptions(options) })
  process.on('SIGTERM', () => void mount.unmount())
  console.log('mounted')
  await mount.closed
} catch (error) {
  console.log(isDfsError(error) ? `${error.code}: ${error.message}` : String(error))
  process.exitCode = 1
}
