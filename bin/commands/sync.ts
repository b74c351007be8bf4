import { Option, type Command } from 'commander'
import { MAX_ACKS } from '../../lib/acknowledged.js'
import { READ_DEADLINE_MS } from '../../lib/limits.js'
import { run, usage, type GlobalOptions } from '../context.js'

type Options = GlobalOptions & { wait?: boolean; acks?: string; timeout: string }

export function define(command: Command): void {
  command
    .description(`Returns when everything that was written to the drive so far survives a power cut. With --wait, when it
is also on all devices that are to hold it: as many as the replication factor asks for, or without
one all that keep everything. Ctrl-C stops waiting, and nothing else. With --acks N, or where a mount
has -o acks=N, when N other devices have made durable what this one has written; it fails when they
do not say so in time.`)
    .option('--wait', 'wait for the other devices too')
    .addOption(new Option('--acks <n>', 'wait until so many others have what was written here').default(undefined, 'as the mounts'))
    .addOption(new Option('--timeout <seconds>', 'with --acks: fail when for so long none of it came to them').default(String(READ_DEADLINE_MS / 1000)))
    .addHelpText('after', `
Examples:
  dfs sync
  dfs sync --wait
  dfs sync --acks 2`)
    .action((options: Options) => run(command, async (context) => {
      const acks = options.acks === undefined ? 'mounts' as const : number('--acks', options.acks, 0, MAX_ACKS)
      const timeoutMs = number('--timeout', options.timeout, 1, 86_400) * 1000
      const drive = await context.drive()
      if (!options.wait || acks !== 'mounts') await drive.sync({ acks, timeoutMs })
      if (options.wait) await context.working((onProgress) => drive.waitPlaced(onProgress))
    }))
}

function number(name: string, text: string, least: number, most: number): number {
  if (!/^\d{1,6}$/.test(text) || Number(text) < least || Number(text) > most) throw usage(`${name} wants a number from ${least} to ${most}`)
  return Number(text)
}
