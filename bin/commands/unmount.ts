import type { Command } from 'commander'
import { fail } from '../../lib/errors.js'
import { canonicalDir } from '../../lib/service/mountpoint.js'
import { run, type GlobalOptions } from '../context.js'

interface Options extends GlobalOptions { lazy?: boolean }

export function define(command: Command): void {
  command
    .description(`Unmounts the folder DIR, and returns when all that was written to it is safe on the disk. If
programs still use it, it says which. The daemon that dfs mount started ends with its last mount.`)
    .option('--lazy', 'take the folder away now, although programs use it; they may go on with the files they have open')
    .addHelpText('after', `
Examples:
  dfs unmount /mnt/dfs
  dfs unmount --lazy /mnt/dfs`)
    .action((path: string, options: Options) => run(command, async (context) => {
      const dir = await canonicalDir(path)
      const daemon = await context.daemon()
      // A daemon that cannot tell, for its index is damaged, is asked all the same: unmounting must work.
      const isOurs = daemon && await daemon.status().then((s) => s.mountpoints.some((m) => m.dir === dir), () => true)
      if (!daemon || !isOurs) {
        const { clearDeadMount } = await import('../recover.js')
        if (await clearDeadMount(dir)) return context.say(`Cleared away the mount on ${dir}, whose daemon had died.`)
        throw fail('NOT_MOUNTED', `the drive in ${context.config.store} is not mounted on ${dir}; name its store with --store, or see dfs status`)
      }
      const { ended } = await daemon.unmount(dir, { lazy: options.lazy ?? false })
      // The end of the connection says that the store is free, for a mount or a copy right after this.
      if (ended) await daemon.closed
      context.say(`Unmounted ${dir}.`)
    }))
}
