import type { Command } from 'commander'
import { run } from '../context.js'

export function define(command: Command): void {
  command
    .description('Returns when everything that was written to the drive so far survives a power cut.')
    .addHelpText('after', `
Examples:
  dfs sync`)
    .action(() => run(command, async (context) => (await context.drive()).sync()))
}
