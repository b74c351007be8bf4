import type { Command } from 'commander'
import { run, type GlobalOptions } from '../context.js'
import { formatBytes, visible, writeJson } from '../output.js'

type Options = GlobalOptions & { json?: boolean }

export function define(command: Command): void {
  command
    .description(`Keeps the content of files on this device, whatever the size of its cache: what is elsewhere is
fetched, and nothing of it is evicted. Of a folder, that holds for all below it, and for what is
created there later. Remembered until dfs unpin.`)
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs pin /projects
  dfs status /projects`)
    .action((paths: string[], options: Options) => run(command, async (context) => {
      const drive = await context.drive()
      const pinned = []
      for (const path of paths) {
        const locality = await drive.pin(path)
        pinned.push({ path, ...locality })
        if (!options.json) context.say(`${visible(path)} is pinned: ${formatBytes(locality.bytesHere)} are here, ${formatBytes(locality.bytesElsewhere)} are still to be fetched`)
      }
      if (options.json) writeJson(pinned)
    }))
}
