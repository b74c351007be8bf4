import type { Command } from 'commander'
import { fail } from '../../lib/errors.js'
import { run, usage, type Context, type GlobalOptions } from '../context.js'
import { cacheOption, parseCache } from '../cache-option.js'
import { peerOption } from '../network-options.js'
import { writeJson } from '../output.js'

interface Options extends GlobalOptions { passphrase?: boolean; cache?: string; capacity?: string; zone?: string; json?: boolean }

/** A key has about 70 characters. */
const MAX_KEY_CHARS = 1000

const MEANING = {
  full: 'This device will read and write it, and enrols itself.',
  'read-only': 'The key is one for reading: nothing can be changed here.',
  storage: 'The key is one for storage: this device keeps sealed data for the others, and reads none of it.',
}

export function define(command: Command): void {
  command
    .description(`Makes a store for a drive that other devices have. KEY is what \`dfs key\` shows on one of them, or -
to read it from standard input, where no other user of this machine can see it. What is in the
drive comes with the first \`dfs mount\` or \`dfs serve\`, while another of its devices runs; from
then on this one is as good as any. With the key of \`dfs key --read-only\` it reads and never
changes the drive; with that of \`dfs key --storage\` it keeps sealed data under \`dfs serve\`, for the
others, and cannot be mounted.`)
    .addOption(peerOption())
    .addOption(cacheOption())
    .option('--capacity <size>', 'with a replication factor: what it offers of its disk, as 500G')
    .option('--zone <zone>', 'with a replication factor: where it stands; copies are in different zones')
    .option('--passphrase', 'seal the key under a passphrase, asked for twice')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Devices find each other over the public DHT and on the local network; --peer is for where neither
works. In a closed network see dfs bootstrap.

Examples:
  dfs join dfs1-...
  dfs join - < drive.key
  dfs join dfs1-... --cache 20G
  dfs join dfs1-... --capacity 500G --zone attic
  dfs join - --peer 192.168.1.5:4977 < drive.key
  ssh desk dfs key | dfs join - && dfs mount ~/drive`)
    .action((key: string, options: Options) => run(command, async (context) => {
      const { store, deviceName, network } = context.config
      const cache = parseCache(options.cache)
      const { existsSync } = await import('node:fs')
      const { join } = await import('node:path')
      // Before anybody has to type.
      if (existsSync(join(store, 'keys'))) throw fail('STORE_EXISTS', `there is already a drive in ${store}; use another --store`)
      const text = key === '-' ? await keyFromInput(context) : key
      const passphrase = await context.newPassphrase(options.passphrase ?? false)
      const { prepareJoin } = await import('../../lib/join.js')
      process.umask(0o077)
      const { drive, kind } = await prepareJoin(store, text.trim(), {
        peers: network.peers, ...(cache !== undefined && { cacheBytes: cache }), ...(options.capacity !== undefined && { capacity: options.capacity }), ...(options.zone !== undefined && { zone: options.zone }), ...(passphrase && { passphrase }), ...(deviceName && { deviceName }),
      })
      if (options.json) return writeJson({ drive, store, keyKind: kind, peers: network.peers, hasPassphrase: passphrase !== undefined })
      context.say(`Joined the drive ${drive} in ${store}. ${MEANING[kind as keyof typeof MEANING]}`)
      if (kind === 'storage') context.say('Next: dfs serve, for as long as it shall keep and give')
      else context.say('Next: dfs mount DIR, while another of its devices runs `dfs mount` or `dfs serve`')
    }))
}

async function keyFromInput(context: Context): Promise<string> {
  if (context.config.passphraseFile === '-') throw usage('standard input holds either the key or the passphrase; put the passphrase into a file')
  if (process.stdin.isTTY) process.stderr.write('Key of the drive: ')
  process.stdin.setEncoding('utf8')
  let text = ''
  for await (const part of process.stdin) {
    text += part
    if (text.length > MAX_KEY_CHARS || text.trim().includes('\n') || (process.stdin.isTTY && text.includes('\n'))) break
  }
  const key = text.trim().split('\n')[0]!
  if (key === '' || text.length > MAX_KEY_CHARS) throw fail('KEY_INVALID', 'standard input holds no key; it is what `dfs key` prints on a device of the drive')
  return key
}
