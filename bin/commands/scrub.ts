import type { Command } from 'commander'
import { Client } from '../../lib/client.js'
import { run, usage, type GlobalOptions } from '../context.js'
import { chunks, isWhole, tellDanger } from '../danger.js'
import { EXIT } from '../exit-codes.js'
import { formatBytes, writeJson } from '../output.js'
import { parseBytes } from '../../lib/quantities.js'

type Options = GlobalOptions & { rate?: string; restart?: boolean; json?: boolean }

export function define(command: Command): void {
  command
    .description(`Reads all that this device holds and compares it with what was stored. What the disk has spoilt is
fetched from other devices; what none of them has is named, and the command ends with 5. Works while
the drive is mounted. ctrl-C stops it, and the next one goes on from there.
The daemon does the same in the background every 30 days, slowly: --rate.`)
    .option('--rate <size>', 'bytes a second for the background, as 20M, remembered for this device; 0 turns it off. Starts nothing')
    .option('--restart', 'begin anew, not where the last one stopped')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs scrub
  dfs scrub --rate 20M
  dfs scrub --json | jq -r '.left.paths[]'`)
    .action(({ rate, restart = false, json = false }: Options) => run(command, async (context) => {
      if (rate !== undefined) {
        if (restart) throw usage('--rate starts no scrub; leave out --restart')
        const bytesPerS = parseBytes(rate)
        if (bytesPerS === undefined) throw usage(`--rate takes bytes a second such as 20M, or 0; not "${rate}"`)
        await (await context.drive()).setScrubRate(bytesPerS)
        if (json) return writeJson({ rate: bytesPerS })
        return context.say(bytesPerS === 0 ? 'The scrub in the background is off.' : `The scrub in the background reads ${formatBytes(bytesPerS)}/s.`)
      }
      const drive = await context.drive()
      const report = await context.working((onProgress) => drive.scrub({ restart }, onProgress))
      if (json) {
        await writeJson(report)
        return isWhole(report.left) ? EXIT.ok : EXIT.damaged
      }
      context.say(`${chunks(report.chunks)} verified, ${formatBytes(report.bytes)}: ${report.found === 0 ? 'sound' : `${report.found} found bad, ${report.mended} mended`}`)
      const code = await tellDanger(context, report.left)
      if (code !== EXIT.ok && !(drive instanceof Client)) context.notice('no daemon runs, so no other device was asked: run dfs mount or dfs serve, then dfs repair')
      return code
    }))
}
