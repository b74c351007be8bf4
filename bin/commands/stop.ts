import type { Command } from 'commander'
import { fail } from '../../lib/errors.js'
import { serviceOf } from '../../lib/service/manager.js'
import { run, type GlobalOptions } from '../context.js'

interface Options extends GlobalOptions { lazy?: boolean }

export function define(command: Command): void {
  command
    .description('Unmounts everything that the daemon of the store has mounted, flushes, and ends it.')
    .option('--lazy', 'also if programs still use a mount; they get errors on the files they have open')
    .addHelpText('after', `
Examples:
  dfs stop
  dfs --store /srv/dfs stop`)
    .action((options: Options) => run(command, async (context) => {
      const daemon = await context.daemon()
      if (!daemon) throw fail('NOT_MOUNTED', `no daemon runs for ${context.config.store}; there is nothing to stop`)
      const service = serviceOf(daemon.pid)
      await daemon.stop({ lazy: options.lazy ?? false })
      await daemon.closed
      context.say(service === undefined ? 'Stopped.' : `Stopped. It was the service ${service}: dfs service start runs it again, and so does its next boot or login.`)
    }))
}
