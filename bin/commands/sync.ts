import type { Command } from 'commander'
import { run, type GlobalOptions } from '../context.js'
import { progressLine } from '../output.js'

type Options = GlobalOptions & { wait?: boolean }

export function define(command: Command): void {
  command
    .description(`Returns when everything that was written to the drive so far survives a power cut. With --wait, when it
is also on all devices that are to hold it: as many as the replication factor asks for, or without
one all that keep everything. Ctrl-C stops waiting, and nothing else.`)
    .option('--wait', 'wait for the other devices too')
    .addHelpText('after', `
Examples:
  dfs sync
  dfs sync --wait`)
    .action((options: Options) => run(command, async (context) => {
      const drive = await context.drive()
      if (!options.wait) return drive.sync()
      const progress = progressLine(context.quiet)
      try {
        await drive.waitPlaced((p) => {
          context.signal.throwIfAborted()
          progress.update(p)
        })
      } finally {
        progress.end()
      }
    }))
}
