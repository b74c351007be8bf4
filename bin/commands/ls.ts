import type { Command } from 'commander'
import { run, type GlobalOptions } from '../context.js'
import { list, type ListOptions } from '../listing.js'

type Options = GlobalOptions & { long?: boolean; recursive?: boolean; json?: boolean }

export function define(command: Command): void {
  command
    .description(`Lists files of the drive; without a path, its root. Names are sorted, but for folders of more
than 10,000, which are listed as they come.`)
    .option('-l, --long', 'with type, mode, links, owner, size and time')
    .option('-R, --recursive', 'with all that is below')
    .option('--json', 'print one JSON object a line')
    .addHelpText('after', `
Examples:
  dfs ls
  dfs ls -l /photos
  dfs ls -R --json / | jq -r 'select(.size > 1000000) | .path'`)
    .action((paths: string[], { long = false, recursive = false, json = false }: Options) => run(command, async (context) => {
      const options: ListOptions = { long, recursive, json, signal: context.signal }
      await list(await context.drive(), paths.length ? paths : ['/'], options, (error) => context.warn(error))
    }))
}
