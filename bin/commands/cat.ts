import type { Command } from 'commander'
import { run } from '../context.js'
import { write } from '../output.js'
import { contentOf } from '../../lib/transfer/content.js'

export function define(command: Command): void {
  command
    .description('Writes files of the drive to standard output, one after the other.')
    .addHelpText('after', `
Examples:
  dfs cat /notes.txt
  dfs cat /backup.tar | tar t`)
    .action((paths: string[]) => run(command, async (context) => {
      const drive = await context.drive()
      for (const path of paths) for await (const block of contentOf(drive, path)) await write(block)
    }))
}
