import { Option, type Command } from 'commander'
import type { Conflict, ConflictSide, Keep } from '../../lib/api.js'
import { run, usage, type GlobalOptions } from '../context.js'
import { formatBytes, nameFields, printable, visible, write, writeJson, writeLine } from '../output.js'

interface Options extends GlobalOptions { json?: boolean; keep?: Keep }

export function define(command: Command): void {
  command
    .description(`Lists what was changed on two devices at once, before they knew of each other: the later version has
the name, and the earlier stands beside it as \`name (conflict, DEVICE, DATE).ext\`. Nothing is lost,
and nothing has to be done: they are files like any other.

\`resolve\` chooses; PATH is either side. \`--keep mine\` keeps what this device wrote; where that does
not tell them apart (both or neither are from here), what has the plain name. \`--keep theirs\` keeps
the other. What is kept gets the plain name, the other is removed, on all devices. \`--keep both\`
gives what stands aside a name like any other (\`name (2).ext\`). To rename or remove one of them by
hand does as well.`)
    .addOption(new Option('--keep <side>', 'which to keep').choices(['mine', 'theirs', 'both']))
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs conflicts
  dfs conflicts resolve /report.odt --keep mine
  dfs conflicts resolve '/a (conflict, desk, 2026-05-01).txt' --keep both`)
    .action((action: string | undefined, path: string | undefined, options: Options) => run(command, async (context) => {
      if (action === undefined) {
        if (options.keep !== undefined) throw usage('--keep is for dfs conflicts resolve PATH')
        const conflicts = await (await context.drive()).conflicts()
        if (options.json) return writeJson({ conflicts: conflicts.map((c) => ({ ...fields(c.aside), with: c.plain && fields(c.plain) })) })
        if (conflicts.length === 0) return context.say('There are no conflicts.')
        for (const c of conflicts) await show(c)
        return
      }
      if (action !== 'resolve') throw usage(`there is no 'dfs conflicts ${action}'; there is dfs conflicts, and dfs conflicts resolve PATH --keep SIDE`)
      if (path === undefined || options.keep === undefined) throw usage('dfs conflicts resolve wants a path and a side: dfs conflicts resolve PATH --keep mine|theirs|both')
      const drive = await context.drive()
      const left = await drive.resolveConflict(path, options.keep)
      await drive.sync()
      if (options.json) return writeJson({ left: left.map(pathFields) })
      context.say(`Left: ${left.map((p) => visible(p)).join(', ')}`)
    }))
}

function pathFields(path: Buffer): { path: string; pathBase64?: string } {
  const { name, nameBase64 } = nameFields(path)
  return { path: name, ...(nameBase64 !== undefined && { pathBase64: nameBase64 }) }
}

function fields({ path, mtimeMs, ...rest }: ConflictSide) {
  return { ...pathFields(path), ...rest, mtime: new Date(mtimeMs).toISOString(), mtimeMs }
}

async function show({ aside, plain }: Conflict): Promise<void> {
  await line(aside, '')
  if (plain) await line(plain, '  beside ')
  else await writeLine('  what it stood beside is gone')
}

async function line(s: ConflictSide, indent: string): Promise<void> {
  const who = `${visible(s.deviceName || 'an unknown device')}${s.isThisDevice ? ' (this device)' : ''}`
  await write(Buffer.concat([Buffer.from(indent), Buffer.from(printable(s.path)), Buffer.from(`  ${s.type === 'file' ? formatBytes(s.size) : s.type}, ${who}, ${new Date(s.mtimeMs).toLocaleString('sv-SE')}\n`)]))
}
