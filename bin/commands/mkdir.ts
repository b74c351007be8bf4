import type { Command } from 'commander'
import { run, type GlobalOptions } from '../context.js'

type Options = GlobalOptions & { parents?: boolean }

export function define(command: Command): void {
  command
    .description('Makes folders in the drive.')
    .option('-p, --parents', 'with those above it; one that is there is no error')
    .addHelpText('after', `
Examples:
  dfs mkdir /photos
  dfs mkdir -p /photos/2024/07`)
    .action((paths: string[], { parents = false }: Options) => run(command, async (context) => {
      const drive = await context.drive()
      for (const path of paths) await drive.mkdir(path, { recursive: parents })
      await drive.sync()
    }))
}
