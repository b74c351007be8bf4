import type { Command } from 'commander'
import { Client } from '../../lib/client.js'
import { run, type GlobalOptions } from '../context.js'
import { chunks, isWhole, tellDanger } from '../danger.js'
import { EXIT } from '../exit-codes.js'
import { writeJson } from '../output.js'

type Options = GlobalOptions & { json?: boolean }

export function define(command: Command): void {
  command
    .description(`Brings back from other devices what is damaged on this one, or missing and should be here, and waits
for it as long as any of it comes. What is known to be damaged is looked at again; dfs scrub finds
what is not known yet. Ends with 5, naming the files in danger, if something could not be had.
ctrl-C stops the wait; the daemon goes on.`)
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs repair
  dfs repair --json | jq -r '.left.paths[]'`)
    .action(({ json = false }: Options) => run(command, async (context) => {
      const drive = await context.drive()
      const report = await context.working((onProgress) => drive.mend(onProgress))
      if (json) {
        await writeJson(report)
        return isWhole(report.left) ? EXIT.ok : EXIT.damaged
      }
      const { damaged, missing, mended, fetched } = report
      context.say(damaged + missing === 0 ? 'Nothing is damaged or missing.' : `${chunks(damaged)} damaged, ${mended} mended; ${chunks(missing)} missing, ${fetched} fetched.`)
      const code = await tellDanger(context, report.left)
      if (code !== EXIT.ok && !(drive instanceof Client)) context.notice('no daemon runs, so no other device was asked: run dfs mount or dfs serve first')
      return code
    }))
}
