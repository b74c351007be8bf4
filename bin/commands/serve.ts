import type { Command } from 'commander'
import { fail } from '../../lib/errors.js'
import { run, type GlobalOptions } from '../context.js'
import { startDaemon, waitForForeground } from '../launch.js'
import { cacheOption, parseCache } from '../cache-option.js'
import { addNetworkOptions } from '../network-options.js'

export function define(command: Command): void {
  addNetworkOptions(command)
    .description(`Runs the daemon in the foreground until ctrl-C, SIGTERM or dfs stop. It stays when nothing is
mounted; dfs mount and the other commands use it, and the other devices of the drive reach this
one. For service managers such as systemd, and for a device that keeps the drive for others.`)
    .addOption(cacheOption())
    .addHelpText('after', `
Examples:
  dfs serve
  dfs serve --port 4977 --discovery lan
  dfs --store /srv/dfs --passphrase-file /run/secrets/dfs serve`)
    .action((options: GlobalOptions & { cache?: string }) => run(command, async (context) => {
      const reached = await startDaemon(context, options, { create: false, lifetime: 'until-stopped', foreground: true, wantsPassphrase: false, cache: parseCache(options.cache) })
      if (reached.state === 'running') {
        await reached.client.close()
        throw fail('STORE_LOCKED', `the daemon of ${context.config.store} runs already (process ${reached.client.pid}); end it with dfs stop`)
      }
      context.say(`The daemon of ${context.config.store} runs (process ${reached.pid}).`)
      return waitForForeground(context, reached.child)
    }, { onInterrupt: 'command' }))
}
