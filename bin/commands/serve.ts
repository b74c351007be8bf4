import { rmdir } from 'node:fs/promises'
import { Option, type Command } from 'commander'
import { Client } from '../../lib/client.js'
import type { MountRequest } from '../../lib/service/calls.js'
import { canonicalDir, makeMountpoint } from '../../lib/service/mountpoint.js'
import { run, usage, type Context, type GlobalOptions } from '../context.js'
import { runsAlready, serveHere, startDaemon, waitForForeground } from '../launch.js'
import { cacheOption, parseCache } from '../cache-option.js'
import { EXIT } from '../exit-codes.js'
import { addNetworkOptions } from '../network-options.js'

interface Options extends GlobalOptions { cache?: string; mount?: string | false; options?: string[]; fork: boolean }

export function mountOption(): Option {
  return new Option('-o, --options <options>', 'its mount options, as those of dfs mount').argParser((value, all: string[] | undefined) => [...(all ?? []), ...value.split(',').filter(Boolean)])
}

export function define(command: Command): void {
  addNetworkOptions(command)
    .description(`Runs the daemon in the foreground until ctrl-C, SIGTERM or dfs stop. It stays when nothing is
mounted; dfs mount and the other commands use it, and the other devices of the drive reach this
one. For service managers (dfs service install writes systemd's unit), and for a device that keeps
the drive for others.`)
    .addOption(cacheOption())
    .option('--mount <dir>', 'mount the drive there; when that is unmounted the daemon stays')
    .option('--no-mount', 'mount nothing, whoever asks')
    .addOption(mountOption())
    .option('--no-fork', 'be the daemon, not its parent; it then tells systemd how it goes, if that has started it')
    .addHelpText('after', `
Examples:
  dfs serve
  dfs serve --mount /mnt/dfs
  dfs serve --port 4977 --discovery lan
  dfs --store /srv/dfs --passphrase-file /run/secrets/dfs serve`)
    .action((options: Options) => run(command, (context) => serve(context, options), { onInterrupt: 'command' }))
}

async function serve(context: Context, options: Options): Promise<number> {
  const running = await Client.connect(context.config.store).catch(() => undefined)
  await running?.close()
  if (running) throw runsAlready(context.config.store, running.pid)
  const mount = await requestOf(options)
  const wishes = { ...(mount && { mount: mount.request }), refuseMounts: options.mount === false, cache: parseCache(options.cache) }
  try {
    if (!options.fork) return (await serveHere(context, wishes)) ? EXIT.ok : EXIT.failure
    const reached = await startDaemon(context, options, { ...wishes, create: false, lifetime: 'until-stopped', foreground: true, wantsPassphrase: false })
    if (reached.state === 'running') {
      await reached.client.close()
      throw runsAlready(context.config.store, reached.client.pid)
    }
    context.say(`The daemon of ${context.config.store} runs (process ${reached.pid}).`)
    return await waitForForeground(context, reached.child)
  } catch (error) {
    if (mount?.isNewFolder) await rmdir(mount.request.dir).catch(() => {})
    throw error
  }
}

async function requestOf({ mount, options }: Options): Promise<{ request: MountRequest; isNewFolder: boolean } | undefined> {
  if (typeof mount !== 'string') {
    if (options) throw usage('-o is about a mount; add --mount DIR')
    return undefined
  }
  const dir = await canonicalDir(mount)
  return { request: { dir, driver: 'kernel', options: options ?? [] }, isNewFolder: await makeMountpoint(dir) }
}
