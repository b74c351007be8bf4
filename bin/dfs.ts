#!/usr/bin/env node
/**
 * The command line. Loads the one command that is asked for: starting up is
 * most of the time of `dfs ls`.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { COMMANDS, GROUPS } from './commands/index.js'
import { EXIT, EXIT_TEXT } from './exit-codes.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

const program = new Command('dfs')
  .description('An encrypted drive that mounts as a folder, the same on all your devices.')
  .usage('COMMAND [options]')
  .version(version, '-V, --version', 'show the version')
  .helpOption('-h, --help', 'show this help; dfs COMMAND --help says more')
  .helpCommand(false)
  .option('--store <dir>', 'where the drive is kept (default: DFS_STORE, else dfs in the XDG data directory)')
  .option('--passphrase-file <file>', 'read the passphrase from this file, or - for standard input (default: DFS_PASSPHRASE_FILE)')
  .option('-q, --quiet', 'say nothing but errors')
  .configureHelp({ showGlobalOptions: true, helpWidth: Math.min(process.stdout.columns ?? 100, 100), commandDescription: (command) => flowing(command.description()) })
  .configureOutput({ outputError: (text, write) => write(usageLine(text)) })
  .exitOverride()
  .addHelpText('after', `
Examples:
  dfs mount /mnt/dfs          mount the drive; makes one if there is none yet
  dfs key                     its key: whoever joins with it has the same drive
  dfs join KEY                on another machine; then dfs mount there
  dfs status                  what is here, and where it is mounted
  dfs put -r photos /         copy a folder in, mounted or not
  dfs ls -l /photos
  dfs unmount /mnt/dfs

${EXIT_TEXT}

Settings, also from a .env file in the current directory: DFS_STORE, DFS_PASSPHRASE_FILE, NODE_ID (this device's name),
NODE_PORT (its TCP port), DFS_DISCOVERY (dht,lan or none), DFS_BOOTSTRAP (nodes of a private DHT).`)

const wanted = commandOf(process.argv.slice(2))
for (const { name, summary, arguments: args, load, group } of COMMANDS) {
  const command = program.command(`${name} ${args}`.trim()).helpGroup(GROUPS[group]).summary(summary).description(summary)
  // Lines of its own after the message say what to do: here it is part of the line.
  command.showHelpAfterError(false).allowExcessArguments(false)
  if (name === wanted) (await load()).define(command)
}

// `dfs mount --help | head`: commands watch their output themselves (context.ts).
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.outputGone)
})
try {
  if (process.argv.length <= 2) program.help({ error: true })
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage
}

/** A text of which long lines go on in the next: commander wraps it to the terminal, and would break each by itself. */
function flowing(text: string): string { return text.replace(/^(.{80,})\n(?=\S)/gm, '$1 ') }

/** Commander's message as one line that says what to do. */
function usageLine(text: string): string {
  const line = text.trim().replace(/^error: /, '').replace(/\s*\n\s*/g, ' ')
  const command = COMMANDS.some(({ name }) => name === wanted) ? ` ${wanted}` : ''
  return `dfs: ${line}; see dfs${command} --help\n`
}

/** The first argument that is neither an option nor the value of one. */
function commandOf(args: string[]): string | undefined {
  const takesValue = new Set(program.options.filter((o) => o.required).map((o) => o.long))
  for (let i = 0; i < args.length; i++) {
    if (!args[i]!.startsWith('-')) return args[i]
    if (takesValue.has(args[i]!)) i++
  }
  return undefined
}
