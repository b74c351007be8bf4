import type { Command } from 'commander'
import { run, usage, type GlobalOptions } from '../context.js'
import { visible, writeJson, writeLine } from '../output.js'
import { writeTable } from '../table.js'

interface Options extends GlobalOptions { json?: boolean; dir?: string }

export function define(command: Command): void {
  command
    .description(`Settings that all devices of the drive agree on. Without an action it lists them; \`get NAME\` prints
one, \`set NAME VALUE\` sets it on every device, now or when they meet, and \`unset NAME\` takes that back.
With --dir, replication is that of one directory and all below it; a directory below it can have its own.`)
    .option('--dir <path>', 'of this directory of the drive')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs config
  dfs config set replication 3
  dfs config set replication 1 --dir /scratch
  dfs config get lost-after`)
    .action((action: string | undefined, name: string | undefined, value: string | undefined, options: Options) => run(command, async (context) => {
      const drive = await context.drive()
      if (action === undefined || action === 'list') {
        const settings = await drive.config(options.dir)
        if (options.json) return writeJson({ settings })
        return writeTable([['NAME', 'VALUE', 'WHAT IT IS'], ...settings.map((s) => [s.path === undefined ? s.name : `${s.name} of ${visible(s.path)}`, s.value ?? `${s.default} (default)`, s.about])])
      }
      if (name === undefined) throw usage(`dfs config ${action} wants the name of a setting; dfs config lists them`)
      switch (action) {
        case 'get': {
          const setting = (await drive.config(options.dir)).find((s) => s.name === name)
          if (!setting) throw usage(`there is no setting "${name}"; dfs config lists them`)
          return options.json ? writeJson(setting) : writeLine(setting.value ?? setting.default)
        }
        case 'set':
          if (value === undefined) throw usage(`dfs config set ${name} wants a value`)
          await drive.setConfig(name, value, options.dir)
          break
        case 'unset':
          await drive.setConfig(name, null, options.dir)
          break
        default:
          throw usage(`there is no 'dfs config ${action}'; there is get, set, unset and list`)
      }
      const setting = (await drive.config(options.dir)).find((s) => s.name === name)!
      if (options.json) return writeJson(setting)
      const { placement } = await drive.status()
      if (name === 'replication' && placement && placement.possible < placement.wanted) {
        context.notice(`${placement.wanted} copies are wanted, and ${placement.possible === 0 ? 'no device takes' : placement.possible === 1 ? 'only one device takes' : `only ${placement.possible} devices take`} part so far: there will be as many copies as there are devices`)
      }
      const where = options.dir === undefined ? '' : ` of ${visible(options.dir)}`
      if (options.dir !== undefined && !placement) context.notice('it counts as soon as the drive has a replication factor (dfs config set replication 2): without one everything is on every device')
      context.say(`${name}${where} is ${setting.value ?? `${setting.default}, the default`}.`)
    }))
}
