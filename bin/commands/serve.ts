import type { Command } from 'commander'
import { fail } from '../../lib/errors.js'
import { run } from '../context.js'
import { startDaemon, waitForForeground } from '../launch.js'

export function define(command: Command): void {
  command
    .description(`Runs the daemon in the foreground until ctrl-C, SIGTERM or dfs stop. It stays when nothing is
mounted; dfs mount and the other commands use it. For service managers such as systemd.`)
    .addHelpText('after', `
Examples:
  dfs serve
  dfs --store /srv/dfs --passphrase-file /run/secrets/dfs serve`)
    .action(() => run(command, async (context) => {
      const reached = await startDaemon(context, { create: false, lifetime: 'until-stopped', foreground: true, wantsPassphrase: false })
      if (reached.state === 'running') {
        await reached.client.close()
        throw fail('STORE_LOCKED', `the daemon of ${context.config.store} runs already (process ${reached.client.pid}); end it with dfs stop`)
      }
      context.say(`The daemon of ${context.config.store} runs (process ${reached.pid}).`)
      return waitForForeground(context, reached.child)
    }, { onInterrupt: 'command' }))
}
