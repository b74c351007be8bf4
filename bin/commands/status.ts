import type { Command } from 'commander'
import type { DriveStatus } from '../../lib/api.js'
import { Client } from '../../lib/client.js'
import { run, type GlobalOptions } from '../context.js'
import { formatStats, statsFields } from '../listing.js'
import { formatBytes, writeJson, writeLine, visible } from '../output.js'
import { discovery } from './peers.js'

interface Options extends GlobalOptions { json?: boolean }

export function define(command: Command): void {
  command
    .description(`Shows the drive: where it is kept and mounted, who is connected, how much is in it, and how much of
that is still to come from other devices (owed). With a path: that file.`)
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs status
  dfs status --json | jq .mountpoints
  dfs status /photos/1.jpg`)
    .action((path: string | undefined, options: Options) => run(command, async (context) => {
      const drive = await context.drive()
      if (path !== undefined) {
        const stats = await drive.lstat(path)
        return options.json ? writeJson({ path, ...statsFields(stats) }) : writeLine(`${formatStats(stats)} ${visible(path)}`)
      }
      const status = await drive.status()
      const isRunning = drive instanceof Client
      return options.json ? writeJson({ ...status, daemon: isRunning }) : writeLine(formatStatus(status, isRunning))
    }))
}

function formatStatus(s: DriveStatus, isRunning: boolean): string {
  const { chunks, disk } = s
  return [
    ['drive', `${s.drive}${s.name ? ` (${visible(s.name)})` : ''}`],
    ['device', `${s.device} (${visible(s.deviceName)})`],
    ['store', s.store],
    ['daemon', isRunning ? `process ${s.pid}, ${formatBytes(s.rssBytes)} of memory` : 'not running'],
    ['mounted on', s.mountpoints.map(({ dir, driver }) => `${dir} (${driver})`).join(', ') || 'nowhere'],
    ['key', s.keyKind],
    ['order', s.order],
    ['peers', s.peers.map((p) => `${visible(p.name)} (${p.via})`).join(', ') || 'none connected'],
    ['network', s.network ? `TCP port ${s.network.port}; ${discovery(s.network)}` : 'off'],
    ['files', `${s.files}, ${formatBytes(s.logicalBytes)}`],
    ['chunks here', `${chunks.here}, ${formatBytes(chunks.hereBytes)}`],
    ['chunks owed', `${chunks.owed}, ${formatBytes(chunks.owedBytes)}`],
    ['on disk', `${formatBytes(disk.segments + disk.index + disk.wal)}, ${formatBytes(disk.freeBytes)} free`],
    ['not yet safe', formatBytes(s.dirtyBytes)],
    ['log', `${s.log.entries} entries, ${formatBytes(s.log.bytes)}`],
  ].map(([label, value]) => `${`${label}:`.padEnd(14)}${value}`).join('\n')
}
