import type { Command } from 'commander'
import { run, type GlobalOptions } from '../context.js'
import { formatBytes, progressLine, visible, writeJson } from '../output.js'

type Options = GlobalOptions & { json?: boolean }

export function define(command: Command): void {
  command
    .description(`Takes the content of files, or of all below a folder, off this device; it is fetched again when it is
read. Only what a connected device that keeps everything has just shown that it has goes; what is
pinned stays. For a device with a cache: see --cache of dfs mount.`)
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs evict /videos
  dfs evict /videos && dfs status /videos`)
    .action((paths: string[], options: Options) => run(command, async (context) => {
      const drive = await context.drive()
      const reports = []
      for (const path of paths) {
        const progress = progressLine(context.quiet)
        try {
          const report = await drive.evict(path, progress.update)
          reports.push({ path, ...report })
        } finally {
          progress.end()
        }
        const { bytesEvicted, bytesPinned, bytesUnconfirmed } = reports.at(-1)!
        if (!options.json) context.say(`${visible(path)}: ${formatBytes(bytesEvicted)} evicted${bytesPinned > 0 ? `, ${formatBytes(bytesPinned)} are pinned` : ''}`)
        if (bytesUnconfirmed > 0) context.warn(`${path}: ${formatBytes(bytesUnconfirmed)} stay, since no connected device that keeps everything has shown that it has them`)
      }
      if (options.json) writeJson(reports)
    }))
}
