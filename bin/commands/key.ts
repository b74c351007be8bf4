import type { Command } from 'commander'
import { run, usage, type GlobalOptions } from '../context.js'
import { writeJson, writeLine } from '../output.js'

interface Options extends GlobalOptions { readOnly?: boolean; storage?: boolean; json?: boolean }

const MEANING = {
  full: 'Whoever has this key can read and change everything in the drive.',
  'read-only': 'Whoever has this key can read everything in the drive.',
  storage: 'Whoever has this key can keep and serve the sealed data, and read none of it.',
}

export function define(command: Command): void {
  command
    .description(`Prints the key of the drive. It opens the drive on its own: keep a copy in a safe place, and
give it only to those whom you trust with everything in the drive, or give a weaker one.`)
    .option('--read-only', 'the key that reads and cannot change')
    .option('--storage', 'the key that keeps sealed data and cannot read')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs key
  dfs key --read-only
  dfs key > /media/usb/drive.key`)
    .action((options: Options) => run(command, async (context) => {
      if (options.readOnly && options.storage) throw usage('choose one of --read-only and --storage')
      const kind = options.readOnly ? 'read-only' : options.storage ? 'storage' : 'full'
      const key = await (await context.drive()).key(kind)
      if (options.json) return writeJson({ kind, key })
      await writeLine(key)
      if (process.stdout.isTTY && !context.quiet) process.stderr.write(`${MEANING[kind]}\n`)
    }))
}
