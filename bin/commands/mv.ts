import type { Command } from 'commander'
import { destinations } from '../../lib/transfer/copy.js'
import { run, usage } from '../context.js'

export function define(command: Command): void {
  command
    .usage('[options] SOURCE... TARGET')
    .description(`Moves or renames files and folders of the drive: into TARGET if it is a folder, else to that name,
replacing a file that has it. Takes no time however large they are.`)
    .addHelpText('after', `
Examples:
  dfs mv /draft.txt /final.txt
  dfs mv /a.jpg /b.jpg /photos`)
    .action((args: string[]) => run(command, async (context) => {
      const sources = args.slice(0, -1)
      if (sources.length === 0) throw usage('mv wants a source and a target; see dfs mv --help')
      const drive = await context.drive()
      for (const { source, to } of await destinations(drive, drive, sources, args.at(-1)!)) await drive.rename(source, to)
      await drive.sync()
    }))
}
