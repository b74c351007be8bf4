/** Completion scripts, made from the commands themselves so that they cannot fall behind. */
import type { Option } from 'commander'

export const SHELLS = ['bash', 'zsh', 'fish']

export interface CommandWords { name: string; summary: string; options: readonly Option[] }

/** Arguments that are files of this machine; those of the others are paths of the drive. */
const HOST_FILES: Record<string, 'folders' | 'files'> = { mount: 'folders', unmount: 'folders', put: 'files', get: 'files' }

/** First arguments that are words. */
const WORDS: Record<string, readonly string[]> = { completion: SHELLS, devices: ['add'], conflicts: ['resolve'], service: ['install', 'uninstall', 'status', 'logs', 'start', 'stop', 'restart'] }

export function completionScript(shell: string, globals: readonly Option[], commands: readonly CommandWords[]): string {
  switch (shell) {
    case 'bash': return bash(globals, commands)
    case 'zsh': return zsh(globals, commands)
    default: return fish(globals, commands)
  }
}

function flags(option: Option): string[] {
  return [option.short, option.long].filter((f) => f !== undefined)
}

function valueKind(option: Option): 'folders' | 'files' | 'words' | 'none' {
  if (!option.required && !option.optional) return 'none'
  if (option.argChoices) return 'words'
  return option.flags.includes('<dir>') ? 'folders' : option.flags.includes('<file>') ? 'files' : 'words'
}

function bash(globals: readonly Option[], commands: readonly CommandWords[]): string {
  const values = unique([...globals, ...commands.flatMap((c) => c.options)].filter((o) => valueKind(o) !== 'none'))
  const action = { folders: 'compgen -d -- "$cur"', files: 'compgen -f -- "$cur"' }
  const valueCase = values.map((o) => {
    const kind = valueKind(o)
    const generate = kind === 'folders' || kind === 'files' ? action[kind] : `compgen -W '${(o.argChoices ?? []).join(' ')}' -- "$cur"`
    return `    ${flags(o).join('|')}) mapfile -t COMPREPLY < <(${generate}); return ;;`
  })
  const optionCase = commands.map((c) => `      ${c.name}) words='${[...c.options, ...globals].map((o) => o.long ?? o.short).join(' ')} --help' ;;`)
  const fileCase = commands.flatMap(({ name }) => (HOST_FILES[name] ? [`    ${name}) mapfile -t COMPREPLY < <(${action[HOST_FILES[name]]}) ;;`] : []))
  return `# bash completion of dfs
_dfs() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command= words= i
  compopt -o filenames 2>/dev/null
  case $prev in
${valueCase.join('\n')}
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      ${globals.filter((o) => o.required).flatMap(flags).join('|')}) ((i++)) ;;
      -*) ;;
      *) command=\${COMP_WORDS[i]}; break ;;
    esac
  done
  if [[ -z $command ]]; then
    words='${[...commands.map((c) => c.name), ...globals.map((o) => o.long)].join(' ')} --help'
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    return
  fi
  if [[ $cur == -* ]]; then
    case $command in
${optionCase.join('\n')}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    return
  fi
  case $command in
${fileCase.join('\n')}
${Object.entries(WORDS).map(([name, words]) => `    ${name}) mapfile -t COMPREPLY < <(compgen -W '${words.join(' ')}' -- "$cur") ;;`).join('\n')}
  esac
}
complete -F _dfs dfs
`
}

function zsh(globals: readonly Option[], commands: readonly CommandWords[]): string {
  const spec = (o: Option) => {
    const kind = valueKind(o)
    const value = kind === 'none' ? '' : `:${o.attributeName()}:${kind === 'folders' ? '_files -/' : kind === 'files' ? '_files' : `(${(o.argChoices ?? []).join(' ')})`}`
    return flags(o).map((f) => `'${f}${quoteZsh(`[${o.description}]`)}${value}'`).join(' ')
  }
  const rest = (name: string) => (WORDS[name] ? `':word:(${WORDS[name].join(' ')})' '*: :'` : HOST_FILES[name] === 'folders' ? `':folder:_files -/'` : HOST_FILES[name] ? `'*:file:_files'` : `'*: :'`)
  return `#compdef dfs
# zsh completion of dfs
_dfs() {
  local state line
  local -a commands=(
${commands.map((c) => `    '${c.name}:${quoteZsh(c.summary)}'`).join('\n')}
  )
  _arguments -C ${globals.map(spec).join(' ')} '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument)
      case $line[1] in
${commands.map((c) => `        ${c.name}) _arguments ${[...c.options.map(spec), rest(c.name)].join(' ')} ;;`).join('\n')}
      esac ;;
  esac
}
if [ "$funcstack[1]" = _dfs ]; then _dfs "$@"; else compdef _dfs dfs; fi
`
}

function quoteZsh(text: string): string {
  return text.replaceAll("'", "'\\''").replaceAll(':', '\\:')
}

function fish(globals: readonly Option[], commands: readonly CommandWords[]): string {
  const option = (o: Option, condition: string) => {
    const kind = valueKind(o)
    const value = kind === 'none' ? '' : kind === 'words' ? ` -x -a '${(o.argChoices ?? []).join(' ')}'` : kind === 'folders' ? ` -x -a '(__fish_complete_directories)'` : ' -r -F'
    const names = [o.short && `-s ${o.short.slice(1)}`, o.long && `-l ${o.long.slice(2)}`].filter(Boolean).join(' ')
    return `complete -c dfs${condition} ${names}${value} -d '${quoteFish(o.description)}'`
  }
  return [
    '# fish completion of dfs',
    'complete -c dfs -f',
    ...globals.map((o) => option(o, '')),
    ...commands.map((c) => `complete -c dfs -n __fish_use_subcommand -a ${c.name} -d '${quoteFish(c.summary)}'`),
    ...commands.flatMap((c) => c.options.map((o) => option(o, ` -n '__fish_seen_subcommand_from ${c.name}'`))),
    ...Object.entries(HOST_FILES).map(([name, kind]) => `complete -c dfs -n '__fish_seen_subcommand_from ${name}' ${kind === 'folders' ? `-a '(__fish_complete_directories)'` : '-F'}`),
    ...Object.entries(WORDS).map(([name, words]) => `complete -c dfs -n '__fish_seen_subcommand_from ${name}' -a '${words.join(' ')}'`),
    '',
  ].join('\n')
}

function quoteFish(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")
}

function unique(options: Option[]): Option[] {
  return [...new Map(options.map((o) => [o.flags, o])).values()]
}
