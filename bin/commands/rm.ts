import type { Command } from 'commander'
import { fail, isDfsError } from '../../lib/errors.js'
import { run, type GlobalOptions } from '../context.js'

type Options = GlobalOptions & { recursive?: boolean; force?: boolean }

export function define(command: Command): void {
  command
    .description('Removes files of the drive, and with -r folders with all that is in them.')
    .option('-r, --recursive', 'folders too')
    .option('-f, --force', 'what is not there is no error')
    .addHelpText('after', `
Examples:
  dfs rm /old.txt
  dfs rm -rf /tmp /cache`)
    .action((paths: string[], { recursive = false, force = false }: Options) => run(command, async (context) => {
      const drive = await context.drive()
      for (const path of paths) {
        await drive.rm(path, { recursive, force }).catch((error: unknown) => {
          throw isDfsError(error, 'EISDIR') ? fail('EISDIR', `${path} is a directory; remove it with -r`) : error
        })
      }
      await drive.sync()
    }))
}
