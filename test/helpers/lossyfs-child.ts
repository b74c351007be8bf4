/**
 * The process of a disk that forgets (lossyfs.ts), mounted at argv[2] with the options of argv[3]. Obeys its parent's
 * messages: 'cut', and then { restore: Survival }; answers each. Gone with its parent.
 */
import { mountKernel } from '../../mount/kernel/mount.js'
import { LossyFs, type LossyOptions, type Survival } from './lossyfs.js'

const [dir = '', options = '{}'] = process.argv.slice(2)
const disk = new LossyFs(JSON.parse(options) as LossyOptions)
let mount = await mountKernel({ dir, operations: disk })

process.on('message', (message: 'cut' | { restore: Survival }) => {
  if (message === 'cut') {
    disk.cut()
    process.send!('cut')
  } else void restore(message.restore)
})
process.on('disconnect', () => void end())
process.send!('mounted')

async function restore(survival: Survival): Promise<void> {
  // The kernel must not remember anything of before.
  await mount.unmount({ lazy: true })
  await mount.closed
  const survived = disk.restore(survival)
  mount = await mountKernel({ dir, operations: disk })
  process.send!(survived)
}

async function end(): Promise<void> {
  disk.cut()
  await mount.unmount({ lazy: true })
  process.exit(0)
}
