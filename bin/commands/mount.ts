import { rmdir } from 'node:fs/promises'
import { Option, type Command } from 'commander'
import { Client } from '../../lib/client.js'
import { fail } from '../../lib/errors.js'
import type { MountRequest } from '../../lib/service/calls.js'
import type { Reached } from '../../lib/service/launch.js'
import { canonicalDir, makeMountpoint } from '../../lib/service/mountpoint.js'
import { mountOptionTable, parseMountOptions } from '../../mount/options.js'
import { run, type Context, type GlobalOptions } from '../context.js'
import { startDaemon, waitForForeground } from '../launch.js'
import { cacheOption, parseCache } from '../cache-option.js'
import { addNetworkOptions } from '../network-options.js'
import { writeJson } from '../output.js'

interface Options extends GlobalOptions { foreground?: boolean; options: string[]; driver: string; passphrase?: boolean; cache?: string; json?: boolean }

export function define(command: Command): void {
  addNetworkOptions(command)
    .description(`Mounts the drive of the store on the folder DIR. Makes a drive if the store has none, starts the
daemon if none runs (it ends with its last mount), makes the folder if it is missing, and clears
away a mount whose daemon died. Mounting where the drive is mounted already is no error. While the
daemon runs the other devices of the drive can reach this one, and what is written on one is on
all. After \`dfs join\` the first mount takes in what the drive is, from a device that has it.`)
    .addOption(cacheOption())
    .option('-f, --foreground', 'stay; ctrl-C unmounts')
    .addOption(new Option('-o, --options <options>', 'mount options, separated by commas (below)').argParser((value, all: string[]) => [...all, ...value.split(',').filter(Boolean)]).default([], 'none'))
    .addOption(new Option('--driver <driver>', 'how to speak to the kernel').choices(['kernel', 'fuse-native']).default('kernel'))
    .option('--passphrase', 'a drive that is made now gets a passphrase, asked for twice')
    .option('--json', 'print one JSON object')
    .addHelpText('after', () => `
Mount options:
${mountOptionTable.map(({ name, meaning, default: standard }) => `  ${name.padEnd(14)} ${meaning} (default: ${standard})`).join('\n')}

Examples:
  dfs mount /mnt/dfs
  dfs mount -o ro,noexec ~/drive
  dfs mount --peer 192.168.1.5:4977 /mnt/dfs
  dfs --store /srv/second mount -f /mnt/second`)
    .action((dir: string, options: Options) => run(command, (context) => mount(context, dir, options), { onInterrupt: 'command' }))
}

async function mount(context: Context, path: string, options: Options): Promise<number | void> {
  const request: MountRequest = { dir: await canonicalDir(path), driver: options.driver, options: options.options }
  const foreground = options.foreground ?? false
  const isNewFolder = await makeMountpoint(request.dir)
  let reached: Reached
  try {
    reached = await startDaemon(context, options, { create: true, lifetime: 'while-mounted', mount: request, foreground, wantsPassphrase: options.passphrase ?? false, cache: parseCache(options.cache) })
  } catch (error) {
    if (isNewFolder) await rmdir(request.dir).catch(() => {})
    throw error
  }
  const already = reached.state === 'running' && reached.already
  const created = reached.state === 'started' && reached.created
  await tell(context, request, { already, created, json: options.json ?? false })
  if (!foreground) return reached.state === 'running' ? reached.client.close() : undefined
  if (reached.state === 'started') return waitForForeground(context, reached.child)
  return waitForUnmount(context, reached.client, request.dir)
}

/** More than there are: it may be meant so, and no sync succeeds until there are. */
async function warnOfAcks(context: Context, options: string[]): Promise<void> {
  const { acks, timeout } = parseMountOptions(options)
  if (acks === 0) return
  const daemon = await context.daemon()
  if (!daemon) return
  const [devices, { placement }] = await Promise.all([daemon.devices(), daemon.status()])
  const others = devices.filter((d) => !d.isThisDevice && d.role !== 'guest').length
  if (others < acks) context.notice(`with acks=${acks} a sync waits for ${acks} other devices, and the drive has ${others}: until there are enough it fails after ${timeout} s`)
  else if (placement && placement.wanted <= acks) {
    context.notice(`with acks=${acks} a sync waits for ${acks} other devices, and each chunk is on ${placement.wanted} devices, this one often among them: where it is, it fails after ${timeout} s`)
  }
}

async function tell(context: Context, { dir, driver, options }: MountRequest, { already, created, json }: { already: boolean; created: boolean; json: boolean }): Promise<void> {
  const { store } = context.config
  if (json) {
    if (!already) await warnOfAcks(context, options)
    return writeJson({ dir, driver, store, created, already })
  }
  context.say(already ? `The drive is mounted on ${dir} already.` : `Mounted on ${dir}.`)
  context.say(`It is kept in ${store}${created ? ', made just now' : ''}; \`dfs unmount ${dir}\` unmounts.`)
  if (!already) await warnOfAcks(context, options)
  if (created) context.say('Share it: `dfs key` here shows its key, `dfs join KEY` and `dfs mount DIR` there make it the same drive. The key opens all of it: keep a copy, in a safe place.')
}

/** The daemon was there before us and stays after us. */
async function waitForUnmount(context: Context, client: Client, dir: string): Promise<void> {
  const interrupted = new Promise<true>((resolve) => context.signal.addEventListener('abort', () => resolve(true)))
  const over = client.unmounted(dir).then(() => false, () => false)
  try {
    if (!(await Promise.race([interrupted, over]))) return
    await client.unmount(dir)
  } finally {
    await client.close()
  }
  throw fail('EINTR', 'interrupted')
}
