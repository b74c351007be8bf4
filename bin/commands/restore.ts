import type { Command } from 'commander'
import type { RestoreReport } from '../../lib/api.js'
import { run, type GlobalOptions } from '../context.js'
import { formatBytes, progressLine, visible, writeJson } from '../output.js'
import { formatTime, parseTime } from '../time.js'

interface Options extends GlobalOptions { json?: boolean; at: string; to?: string; force?: boolean }

export function define(command: Command): void {
  command
    .description(`Brings a file back as it was at a time, or a directory with all that was in it, within the drive's
retention (\`dfs config set retention 30d\`). A file that was deleted comes back under its name; one that
is there gets its former content as its next version, which the log keeps like any other. Of a directory,
what was made in it since stays. No content is copied, nor has it to be on this device. Ctrl-C ends it
between two files, and says how many had come back.

TIME is a date, with or without a time of day, or how long ago: 3d, 2h, 90s.`)
    .requiredOption('--at <time>', 'when it was as it shall be')
    .option('--to <path>', 'put it there, and leave alone what is at its place')
    .option('--force', 'remove what stands in the way: a directory where a file was, or what is at --to')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs log /report.odt
  dfs restore /report.odt --at '2026-05-01 14:30'
  dfs restore /photos --at 3d --to /photos-before`)
    .action((path: string, options: Options) => run(command, async (context) => {
      const atMs = parseTime(options.at, Date.now())
      const drive = await context.drive()
      const progress = progressLine(context.quiet)
      let report: RestoreReport
      try {
        report = await drive.restore(path, { atMs, ...(options.to !== undefined && { to: options.to }), ...(options.force && { force: true }), signal: context.signal }, progress.update)
      } finally {
        progress.end()
      }
      await drive.sync()
      if (options.json) return writeJson(report)
      const where = visible(options.to ?? path)
      if (report.files + report.directories === 0) return context.say(`${where} is as it was at ${formatTime(atMs)}`)
      const parts = [`${count(report.files, 'file')}`, ...(report.directories ? [count(report.directories, 'folder')] : []), ...(report.unchanged ? [`${report.unchanged} unchanged`] : [])]
      context.say(`${where} as it was at ${formatTime(atMs)}: ${parts.join(', ')}, ${formatBytes(report.bytes)}`)
    }, { onInterrupt: 'command' }))
}

function count(n: number, what: string): string { return `${n} ${what}${n === 1 ? '' : 's'}` }
