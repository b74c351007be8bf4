import type { Command } from 'commander'
import type { FsckReport } from '../../lib/api.js'
import { run, type GlobalOptions } from '../context.js'
import { EXIT } from '../exit-codes.js'
import { formatBytes, progressLine, visible, writeJson, writeLine } from '../output.js'

type Options = GlobalOptions & { data?: boolean; repair?: boolean; json?: boolean }

export function define(command: Command): void {
  command
    .description(`Checks that the drive is sound: the tree, the log, and that every chunk is where the index says.
Names the files that are damaged. Works while the drive is mounted. Ends with 5 if it finds
damage that it did not mend.`)
    .option('--data', 'read and verify every byte too')
    .option('--repair', 'mend what can be mended')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs fsck
  dfs fsck --data
  dfs fsck --json | jq -r '.problems[].path'`)
    .action(({ data = false, repair = false, json = false }: Options) => run(command, async (context) => {
      const drive = await context.drive()
      const progress = progressLine(context.quiet)
      let report: FsckReport
      try {
        report = await drive.fsck({ data, repair }, (p) => {
          context.signal.throwIfAborted()
          progress.update(p)
        })
      } finally {
        progress.end()
      }
      const left = report.problems.filter((p) => !p.mended).length
      if (json) await writeJson(report)
      else {
        for (const { kind, path, detail, mended } of report.problems) {
          await writeLine(`${kind}: ${path === undefined ? '' : `${visible(path)}: `}${visible(detail)}${mended ? ' (mended)' : ''}`)
        }
        const { inodes, chunks, entries, bytesRead } = report
        context.say(`${inodes} inodes, ${chunks} chunks, ${entries} log entries${data ? `, ${formatBytes(bytesRead)} read` : ''}: ` +
          (report.problems.length === 0 ? 'sound' : `${report.problems.length} problems, ${report.problems.length - left} mended`))
      }
      return left > 0 ? EXIT.damaged : EXIT.ok
    }))
}
