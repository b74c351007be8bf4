import type { Command } from 'commander'
import type { GcReport } from '../../lib/api.js'
import { run, type GlobalOptions } from '../context.js'
import { formatBytes, progressLine, writeJson } from '../output.js'

type Options = GlobalOptions & { json?: boolean }

export function define(command: Command): void {
  command
    .description(`Gives the space of deleted and replaced data back to the disk. The daemon does so by itself when
it is idle; this does it now, and all of it.`)
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs gc`)
    .action((options: Options) => run(command, async (context) => {
      const drive = await context.drive()
      const progress = progressLine(context.quiet)
      let report: GcReport
      try {
        report = await drive.gc(progress.update)
      } finally {
        progress.end()
      }
      if (options.json) return writeJson(report)
      context.say(`${formatBytes(report.bytesFreed)} freed: ${report.chunksDropped} chunks, ${report.segmentsDropped} segments dropped, ${report.segmentsRewritten} rewritten`)
    }))
}
