import type { Command } from 'commander'
import { contentOf } from '../../lib/transfer/content.js'
import { Copier } from '../../lib/transfer/copy.js'
import { HostFiles } from '../../lib/transfer/host.js'
import { run, usage, type GlobalOptions } from '../context.js'
import { hostXattrs, getsXattr } from '../xattrs.js'
import { progressLine, write, writeJson } from '../output.js'

type Options = GlobalOptions & { recursive?: boolean; json?: boolean }

export function define(command: Command): void {
  command
    .usage('[options] SOURCE... TARGET')
    .description(`Copies files and folders of the drive to TARGET on this machine: into it if it is a folder, else
under that name. Keeps modes (but not set-user-id and set-group-id), times, ACLs and extended
attributes (those of users: user.*), symlinks, hard links and holes; as root owners too. Each file
(a folder that is not there yet: as a whole) appears when it is complete; ctrl-C leaves nothing half.`)
    .option('-r, --recursive', 'folders with all that is below')
    .option('--json', 'print one JSON object with what was copied')
    .addHelpText('after', `
Examples:
  dfs get /report.pdf .
  dfs get -r /2024 ~/photos
  dfs get /backup.tar - | tar x`)
    .action((args: string[], options: Options) => run(command, async (context) => {
      const target = args.at(-1)!
      const sources = args.slice(0, -1)
      if (sources.length === 0) throw usage('get wants a source and a target; see dfs get --help')
      const drive = await context.drive()
      if (target === '-') {
        if (options.json) throw usage('standard output is taken by the file; leave --json away')
        for (const source of sources) {
          for await (const block of contentOf(drive, source)) {
            context.signal.throwIfAborted()
            await write(block)
          }
        }
        return
      }
      const progress = progressLine(context.quiet)
      const copier = new Copier(drive, new HostFiles(hostXattrs()), {
        // A drive may be shared: others must not be able to place programs that run as root.
        isRecursive: options.recursive ?? false, keepOwners: process.geteuid?.() === 0, modeMask: 0o1777,
        signal: context.signal, onProgress: progress.update, onSkip: (path, why) => context.warn(`${path.toString()} ${why}; left out`),
        keepsXattr: getsXattr, onXattrsLost: (why) => context.notice(`${why}; it and others like it are left out`),
      })
      try {
        const report = await copier.copy(sources, target)
        if (options.json) await writeJson(report)
      } finally {
        progress.end()
      }
    }, { onInterrupt: 'command' }))
}
