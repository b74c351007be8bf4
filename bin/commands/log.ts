import { InvalidArgumentError, type Command } from 'commander'
import type { VersionEvent } from '../../lib/api.js'
import { run, type GlobalOptions } from '../context.js'
import { formatBytes, nameFields, printable, visible, write, writeJson } from '../output.js'
import { formatSpan, formatTime } from '../time.js'

interface Options extends GlobalOptions { json?: boolean; n: number }

export function define(command: Command): void {
  command
    .description(`Shows what happened to a file, the last first: when it was made, written, renamed and deleted, and on
which device. Of a directory: what was made, renamed and deleted in it. Also of what is there no more.
It goes back as far as the drive's retention (\`dfs config set retention 30d\`); \`dfs restore\` brings
back what was.`)
    .option('-n <count>', 'at most so many', (value) => {
      if (!/^\d{1,9}$/.test(value) || Number(value) === 0) throw new InvalidArgumentError('a number from 1 is wanted')
      return Number(value)
    }, 100)
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs log /report.odt
  dfs log -n 20 /photos`)
    .action((path: string, options: Options) => run(command, async (context) => {
      const log = await (await context.drive()).versions(path, { limit: options.n })
      if (options.json) {
        return writeJson({ retentionMs: log.retentionMs, from: log.fromMs === null ? null : new Date(log.fromMs).toISOString(), events: log.events.map(fields) })
      }
      for (const e of log.events) await line(e)
      if (log.fromMs === null) context.notice('nothing is kept of what was, for the drive has no retention; dfs config set retention 30d')
      else if (log.events.length === 0) context.say(`Nothing has happened since ${formatTime(log.fromMs)}; what was before is not known (retention ${formatSpan(log.retentionMs)}).`)
    }))
}

function fields({ path, from, timeMs, ...rest }: VersionEvent) {
  const { name, nameBase64 } = nameFields(path)
  const was = from && nameFields(from)
  return {
    time: new Date(timeMs).toISOString(), timeMs, path: name, ...(nameBase64 !== undefined && { pathBase64: nameBase64 }),
    ...(was && { from: was.name, ...(was.nameBase64 !== undefined && { fromBase64: was.nameBase64 }) }), ...rest,
  }
}

async function line(e: VersionEvent): Promise<void> {
  const who = `${visible(e.deviceName || 'an unknown device')}${e.isThisDevice ? ' (this device)' : ''}`
  const size = e.size === null ? '' : `  ${formatBytes(e.size)}`
  const from = e.from ? [Buffer.from('  from '), Buffer.from(printable(e.from))] : []
  await write(Buffer.concat([Buffer.from(`${formatTime(e.timeMs)}  ${WORDS[e.what].padEnd(8)}  `), Buffer.from(printable(e.path)), ...from, Buffer.from(`${size}  ${who}\n`)]))
}

const WORDS: Record<VersionEvent['what'], string> = { created: 'created', written: 'written', renamed: 'renamed', linked: 'linked', deleted: 'deleted', aside: 'put aside' }
