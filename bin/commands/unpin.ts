import type { Command } from 'commander'
import { run, type GlobalOptions } from '../context.js'
import { visible } from '../output.js'

export function define(command: Command): void {
  command
    .description(`Takes dfs pin back. What is here stays until the cache needs its room; dfs evict takes it off at once.`)
    .addHelpText('after', `
Examples:
  dfs unpin /projects`)
    .action((paths: string[], _options: GlobalOptions) => run(command, async (context) => {
      const drive = await context.drive()
      for (const path of paths) {
        await drive.unpin(path)
        context.say(`${visible(path)} is not pinned any more`)
      }
    }))
}
