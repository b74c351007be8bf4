import type { Command } from 'commander'
import { run, type GlobalOptions } from '../context.js'
import { writeJson } from '../output.js'

interface Options extends GlobalOptions { name?: string; order?: string; passphrase?: boolean; json?: boolean }

export function define(command: Command): void {
  command
    .description(`Makes a new drive in the store. Everything in it is sealed: contents, names, symlink targets and
extended attributes. Without a passphrase its key lies beside the data, so that whoever can
read the store directory can read the drive; with one, the key is sealed too, and every
command that opens the store asks for it.`)
    .option('--name <name>', 'a name for people')
    .option('--order <engine>', 'who decides the order of changes: causal (fixed for the life of the drive)', 'causal')
    .option('--passphrase', 'seal the key under a passphrase, asked for twice')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs create --name family
  dfs create --passphrase
  dfs --store /srv/dfs --passphrase-file /run/secrets/dfs create`)
    .action((options: Options) => run(command, async (context) => {
      const { Drive } = await import('../../lib/drive.js')
      const { fail } = await import('../../lib/errors.js')
      const { store, deviceName, replication } = context.config
      // Before anybody has to type.
      if (Drive.exists(store)) throw fail('STORE_EXISTS', `there is already a drive in ${store}; use another --store`)
      const passphrase = await context.newPassphrase(options.passphrase ?? false)
      if (deviceName) process.env.NODE_ID = deviceName
      process.umask(0o077)
      const drive = await Drive.create(store, {
        ...(options.name !== undefined && { name: options.name }),
        ...(options.order !== undefined && { order: options.order }),
        ...(passphrase && { passphrase }),
        ...(replication !== undefined && { replication }),
      })
      const status = await drive.status()
      await drive.close()
      if (options.json) return writeJson({ drive: status.drive, name: status.name, store, order: status.order, device: status.device, hasPassphrase: passphrase !== undefined })
      context.say(`Made a drive in ${store}.`)
      context.say(passphrase
        ? 'Its key is sealed under the passphrase. Keep a copy of what `dfs key` shows: without either, nobody can read the drive.'
        : 'Its key lies beside the data: whoever can read that directory can read the drive (see --passphrase). Keep a copy of what `dfs key` shows.')
      context.say('Next: dfs mount DIR')
    }))
}
