import type { Command } from 'commander'
import { addAbortSignal } from 'node:stream'
import { Copier } from '../../lib/transfer/copy.js'
import { HostFiles } from '../../lib/transfer/host.js'
import { run, usage, type GlobalOptions } from '../context.js'
import { hostXattrs, putsXattr } from '../xattrs.js'
import { progressLine, writeJson } from '../output.js'

type Options = GlobalOptions & { recursive?: boolean; json?: boolean }

export function define(command: Command): void {
  command
    .usage('[options] SOURCE... TARGET')
    .description(`Copies files and folders of this machine to TARGET in the drive: into it if it is a folder, else
under that name. Keeps modes, times, ACLs and extended attributes, symlinks, hard links and holes;
as root owners too. Each file (a folder that is not there yet: as a whole) appears when it is
complete; ctrl-C leaves nothing half. When it returns, everything survives a power cut.`)
    .option('-r, --recursive', 'folders with all that is below')
    .option('--json', 'print one JSON object with what was copied')
    .addHelpText('after', `
Examples:
  dfs put report.pdf /
  dfs put -r photos /2024
  tar c src | dfs put - /backup.tar`)
    .action((args: string[], options: Options) => run(command, async (context) => {
      const target = args.at(-1)!
      const sources = args.slice(0, -1)
      if (sources.length === 0) throw usage('put wants a source and a target; see dfs put --help')
      if (sources.includes('-') && sources.length > 1) throw usage('standard input goes to a file of its own; give - alone')
      const drive = await context.drive()
      const progress = progressLine(context.quiet)
      const copier = new Copier(new HostFiles(hostXattrs()), drive, {
        isRecursive: options.recursive ?? false, keepOwners: process.geteuid?.() === 0, modeMask: 0o7777,
        signal: context.signal, onProgress: progress.update, onSkip: (path, why) => context.warn(`${path.toString()} ${why}; left out`),
        keepsXattr: putsXattr, onXattrsLost: (why) => context.notice(`${why}; it and others like it are left out`),
      })
      try {
        const report = sources[0] === '-'
          ? await copier.fromStream(addAbortSignal(context.signal, process.stdin), target)
          : await copier.copy(sources, target)
        await drive.sync()
        if (options.json) await writeJson(report)
      } finally {
        progress.end()
      }
    }, { onInterrupt: 'command' }))
}
