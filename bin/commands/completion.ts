import { Argument, type Command, type Option } from 'commander'
import { completionScript, SHELLS, type CommandWords } from '../completion.js'
import { run } from '../context.js'
import { write } from '../output.js'
import { COMMANDS } from './index.js'

export function define(command: Command): void {
  const [shell] = command.registeredArguments as [Argument]
  shell.choices(SHELLS)
  command
    .description('Prints a script that completes commands, options and files for bash, zsh or fish.')
    .addHelpText('after', `
Examples:
  dfs completion bash > /etc/bash_completion.d/dfs     (or ~/.local/share/bash-completion/completions/dfs)
  dfs completion zsh  > ~/.zfunc/_dfs                  (with ~/.zfunc in fpath)
  dfs completion fish > ~/.config/fish/completions/dfs.fish`)
    .action((name: string) => run(command, async () => {
      const { Command } = await import('commander')
      const commands: CommandWords[] = []
      for (const entry of COMMANDS) {
        const defined = new Command(entry.name)
        if (entry.name === 'completion') defined.argument('<shell>')
        else (await entry.load()).define(defined)
        commands.push({ name: entry.name, summary: entry.summary, options: unique([...defined.options, ...defined.commands.flatMap((c) => c.options)]) })
      }
      await write(completionScript(name, command.parent!.options, commands))
    }))
}

/** Commands of a command share options. */
function unique(options: readonly Option[]): Option[] {
  return [...new Map(options.map((o) => [o.long, o])).values()]
}
