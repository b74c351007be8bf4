import type { Command } from 'commander'
import { run, usage, type GlobalOptions } from '../context.js'
import { writeJson, writeLine } from '../output.js'

interface Options extends GlobalOptions { port?: string; host?: string; json?: boolean }

export function define(command: Command): void {
  command
    .description(`Runs a private DHT until ctrl-C: where devices meet that cannot, or shall not, use the public one.
It sees addresses and device keys, as any DHT does, never what a drive holds. It keeps nothing on disk and needs no drive.`)
    .option('--port <port>', 'the first of four UDP ports, one after another (default: 49737)')
    .option('--host <address>', 'the IPv4 address at which the devices reach this machine (default: its first one)')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Give each device the address that is printed, in its environment or in a .env file. Let its UDP ports through a firewall.

Examples:
  dfs bootstrap
  dfs bootstrap --host 10.0.0.5 --port 49737
  DFS_BOOTSTRAP=10.0.0.5:49737 dfs mount /mnt/dfs     on each device`)
    .action((options: Options) => run(command, async (context) => {
      const port = options.port === undefined ? undefined : Number(options.port)
      if (port !== undefined && !/^\d+$/.test(options.port!)) throw usage(`'${options.port}' is not a port`)
      const { Bootstrap } = await import('../../lib/swarm/net/bootstrap.js')
      const bootstrap = await Bootstrap.start({ ...(port !== undefined && { port }), ...(options.host !== undefined && { host: options.host }) })
      try {
        if (options.json) await writeJson({ address: bootstrap.address, host: bootstrap.host, ports: bootstrap.ports })
        else {
          await writeLine(`DFS_BOOTSTRAP=${bootstrap.address}`)
          context.say(`Set this for each device. UDP ports ${bootstrap.ports[0]} to ${bootstrap.ports.at(-1)} must be open; ctrl-C ends it.`)
        }
        if (!context.signal.aborted) await new Promise((resolve) => context.signal.addEventListener('abort', resolve))
        return 0
      } finally {
        await bootstrap.close()
      }
    }, { onInterrupt: 'command' }))
}
