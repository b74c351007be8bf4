import type { Command } from 'commander'
import type { DriveStatus, Locality } from '../../lib/api.js'
import { Client } from '../../lib/client.js'
import { run, type GlobalOptions } from '../context.js'
import { formatStats, statsFields } from '../listing.js'
import { formatBytes, writeJson, writeLine, visible } from '../output.js'
import { discovery } from './peers.js'

interface Options extends GlobalOptions { json?: boolean }

export function define(command: Command): void {
  command
    .description(`Shows the drive: where it is kept and mounted, who is connected, how much is in it, and how much of
that is still to come from other devices (owed). With a path: that file, and how much of its content
is on this device, or of all below a folder.`)
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
        const locality = stats.type === 'file' || stats.type === 'directory' ? await drive.locality(path) : undefined
        if (options.json) return writeJson({ path, ...statsFields(stats), ...locality })
        writeLine(`${formatStats(stats)} ${visible(path)}`)
        return locality && writeLine(formatLocality(locality))
      }
      const status = await drive.status()
      const isRunning = drive instanceof Client
      return options.json ? writeJson({ ...status, daemon: isRunning }) : writeLine(formatStatus(status, isRunning))
    }))
}

const PINNED = { no: 'no', itself: 'yes', below: 'yes, with a folder above it' }

function formatLocality(l: Locality): string {
  return [
    ...(l.files === 1 ? [] : [['files', String(l.files)]]),
    ['here', formatBytes(l.bytesHere)],
    ['elsewhere', formatBytes(l.bytesElsewhere)],
    ['pinned', PINNED[l.pinned]],
  ].map(([label, value]) => `${`${label}:`.padEnd(14)}${value}`).join('\n')
}

function placementLines(p: NonNullable<DriveStatus['placement']>): string[][] {
  const left = p.secondsLeft === null ? '' : p.secondsLeft < 90 ? `, ${Math.ceil(p.secondsLeft)} s to go` : `, ${Math.ceil(p.secondsLeft / 60)} min to go`
  return [
    ['copies', `${p.wanted} of each chunk${p.possible < p.wanted ? `, of which only ${p.possible} can be: too few devices take part` : ''}; room for ${formatBytes(p.usableBytes)}`],
    ['holds', `${formatBytes(p.heldBytes)} of its share${p.lacking > 0 ? `, ${p.lacking} ${p.lacking === 1 ? 'chunk' : 'chunks'} still to come` : ''}${p.isFull ? '; its disk, or its capacity, is full' : ''}`],
    ['endangered', p.copiesOwed === 0 ? 'none: all copies are where they are to be' : `${p.chunksUnder} chunks have fewer copies than wanted; ${p.copiesOwed} copies, ${formatBytes(p.bytesOwed)} are owed${left}`],
    ...(p.silent.length > 0 ? [['not heard of', `${p.silent.join(', ')}: what they hold is not known`]] : []),
  ]
}

function formatScrub({ rate, last, running }: DriveStatus['scrub']): string {
  const parts = [last ? `ended ${new Date(last.endedMs).toISOString()}, ${last.found === 0 ? 'nothing found' : `${last.found} bad, ${last.mended} mended`}` : 'not done yet']
  if (running) parts.push(`${formatBytes(running.bytes)} of ${formatBytes(running.totalBytes)} of the next one done${running.isHurried || rate > 0 ? '' : ', stopped'}`)
  parts.push(rate > 0 ? `${formatBytes(rate)}/s in the background` : 'off in the background')
  return parts.join('; ')
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
    ['order', s.order || 'not known: it is sealed'],
    ['peers', s.peers.map((p) => `${visible(p.name)} (${p.via})`).join(', ') || 'none connected'],
    ['network', s.network ? `TCP port ${s.network.port}; ${discovery(s.network)}` : 'off'],
    ['files', s.keyKind === 'storage' ? 'not known: they are sealed' : `${s.files}, ${formatBytes(s.logicalBytes)}`],
    ['chunks here', `${chunks.here}, ${formatBytes(chunks.hereBytes)}`],
    [s.cache.limitBytes === null ? 'chunks owed' : 'elsewhere', `${chunks.owed}, ${formatBytes(chunks.owedBytes)}`],
    ...(s.placement ? placementLines(s.placement) : []),
    ...(s.network && s.network.wanted.readers > 0 ? [['waited for', `${s.network.wanted.readers} ${s.network.wanted.readers === 1 ? 'chunk' : 'chunks'} by programs, ${formatBytes(s.network.wanted.askedBytes)} asked for${s.network.wanted.nowhere > 0 ? `; ${s.network.wanted.nowhere} are with nobody who is connected` : ''}`]] : []),
    ['keeps', s.cache.limitBytes === null ? 'everything' : `a cache of ${formatBytes(s.cache.limitBytes)}, ${formatBytes(s.cache.usedBytes)} used${s.cache.pins > 0 ? `, and ${s.cache.pins} ${s.cache.pins === 1 ? 'pin' : 'pins'}` : ''}`],
    ...(s.damaged > 0 ? [['damaged', `${s.damaged} ${s.damaged === 1 ? 'chunk' : 'chunks'} here; dfs repair waits for them to be mended, and says which files are in danger`]] : []),
    ['scrub', formatScrub(s.scrub)],
    ['on disk', `${formatBytes(disk.segments + disk.index + disk.wal)}, ${formatBytes(disk.freeBytes)} free`],
    ['not yet safe', formatBytes(s.dirtyBytes)],
    ['log', `${s.log.entries} entries, ${formatBytes(s.log.bytes)}`],
    ...(s.snapshot === undefined ? [] : [['snapshot', s.snapshot ? `of ${new Date(s.snapshot.madeMs).toISOString()}, by ${visible(s.snapshot.name)}, ${formatBytes(s.snapshot.bytes)}` : 'none yet: no device with the full key was met']]),
  ].map(([label, value]) => `${`${label}:`.padEnd(14)}${value}`).join('\n')
}
