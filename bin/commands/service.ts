import { userInfo } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Option, type Command } from 'commander'
import { logPath } from '../../lib/config.js'
import { fail } from '../../lib/errors.js'
import { findUnit, install, planInstall, uninstall, type Installed, type Plan } from '../../lib/service/install.js'
import { Systemd, type Unit, type UnitState } from '../../lib/service/manager.js'
import type { Scope } from '../../lib/service/systemd.js'
import { cacheOption, parseCache, parseSize } from '../cache-option.js'
import { run, usage, type Context, type GlobalOptions } from '../context.js'
import { addNetworkOptions } from '../network-options.js'
import { formatBytes, write, writeJson, writeLine } from '../output.js'
import { mountOption } from './serve.js'

const DFS = fileURLToPath(new URL('../dfs.js', import.meta.url))
/** A service that ends flushes first; one that begins may have much to read. */
const PATIENCE_MS = 30_000

interface Which extends GlobalOptions { user?: boolean; system?: boolean; name?: string }
interface InstallWords extends Which {
  mount?: string | false
  options?: string[]
  cache?: string
  passphraseCredential?: string
  memoryMax?: string
  cpuWeight?: string
  ioWeight?: string
  nice?: string
  print?: boolean
}

export function define(command: Command): void {
  command.helpCommand(false)
    .description(`The daemon of the store as a service of systemd: it runs from boot (or login) on, comes back when
it fails, and ends in order. Each store has a service of its own. docs/service.md says more.`)
    .addHelpText('after', `
Examples:
  dfs service install                            of your own: while you are logged in, or lingering
  dfs service install --mount ~/drive
  sudo dfs --store /srv/dfs service install      of the system: from boot to shutdown
  dfs service install --print
  dfs service status
  dfs service logs -f
  dfs service uninstall`)

  addNetworkOptions(which(command.command('install')))
    .summary('write its unit, and run it now and from each boot on')
    .description(`Writes the unit of the store's service, enables and starts it. Done again it changes what is given
otherwise, and restarts the service only for that. A system service runs as the user who owns the
store.`)
    .option('--mount <dir>', 'mount the drive there, as long as the service runs')
    .option('--no-mount', 'nothing is ever mounted here: the service is shut in, and has its store alone (always so with a storage key)')
    .addOption(mountOption())
    .addOption(cacheOption())
    .option('--passphrase-credential <file>', 'the passphrase, encrypted by systemd-creds as "passphrase"')
    .option('--memory-max <size>', 'end and restart it rather than let it take more memory, as 512M')
    .option('--cpu-weight <n>', 'its share of a busy processor, 1 to 10000; others have 100')
    .option('--io-weight <n>', 'its share of a busy disk, 1 to 10000; others have 100')
    .option('--nice <n>', 'its priority, -20 to 19 (least)')
    .option('--print', 'print the unit, and do nothing')
    .action((_: unknown, own: Command) => run(own, (context) => doInstall(context, own.optsWithGlobals<InstallWords>())))

  which(command.command('uninstall')).summary('end it and remove its unit').description('Ends the service, flushed and unmounted, and removes its unit. The store stays as it is.')
    .action(on(async (context, unit) => {
      await uninstall(unit)
      context.say(`Removed ${unit.path}. The store ${unit.store} is as it was; nothing serves it now.`)
    }))
  which(command.command('status')).summary('how it does').description('How the service does, in the words of systemd, and what the daemon says of itself.')
    .option('--json', 'print one JSON object')
    .action(on((_, unit, options) => status(unit, options.json ?? false)))
  which(command.command('logs')).summary('what it has said').description('What the service has said, from the journal. The last weeks of it are in daemon.log in the store, too.')
    .option('-f, --follow', 'go on as more comes')
    .option('-n, --lines <n>', 'the last so many lines', '50')
    .action(on(async (context, unit, { lines = '50', follow }) => {
      if (!/^\d{1,9}$/.test(lines)) throw usage(`--lines wants a number, not '${lines}'`)
      const code = await (await Systemd.reach(unit.scope, { toChange: false })).journal(unit.name, [`--lines=${lines}`, ...(follow ? ['--follow'] : ['--no-pager'])], context.signal)
      if (code !== 0 && !context.signal.aborted) throw fail('EACCES', `the journal cannot be read; what the daemon has said is in ${logPath(unit.store!)} too`)
      return code
    }))
  for (const verb of ['start', 'restart'] as const) {
    which(command.command(verb)).summary(verb === 'start' ? 'run it now' : 'end it and run it anew')
      .action(on(async (context, unit) => {
        const systemd = await Systemd.reach(unit.scope, { toChange: true })
        await systemd.start(unit.name, verb)
        tellState(context, unit, await systemd.settled(unit.name, PATIENCE_MS))
      }))
  }
  which(command.command('stop')).summary('end it; it comes back with the next boot')
    .action(on(async (context, unit) => {
      await (await Systemd.reach(unit.scope, { toChange: true })).stop(unit.name)
      context.say(`Stopped ${unit.name}. dfs service start runs it again, and so does the next ${unit.scope === 'system' ? 'boot' : 'login'}.`)
    }))
}

function which(command: Command): Command {
  return command
    .addOption(new Option('--user', 'a service of your own').conflicts('system'))
    .addOption(new Option('--system', 'a service of the system (default for root)').conflicts('user'))
    .option('--name <name>', 'of the service, after "dfs-" (default: dfs, or made from the path of --store)')
}

function scopeOf({ user, system }: Which): Scope | undefined {
  return user ? 'user' : system ? 'system' : undefined
}

type Words = Which & { json?: boolean; follow?: boolean; lines?: string }

function on(work: (context: Context, unit: Unit, options: Words) => Promise<number | void>) {
  return (_: unknown, own: Command) => run(own, (context) => {
    const options = own.optsWithGlobals<Words>()
    const scope = scopeOf(options)
    return work(context, findUnit({ store: context.config.store, ...(options.name !== undefined && { name: options.name }), ...(scope && { scope }) }), options)
  })
}

async function doInstall(context: Context, options: InstallWords): Promise<void> {
  parseCache(options.cache)
  if (options.options && typeof options.mount !== 'string') throw usage('-o is about a mount; add --mount DIR')
  if (options.options) (await import('../../mount/options.js')).parseMountOptions(options.options)
  const number = (name: string, text: string | undefined) => {
    if (text !== undefined && !/^-?\d{1,9}$/.test(text)) throw usage(`${name} wants a number, not '${text}'`)
    return text === undefined ? undefined : Number(text)
  }
  const [cpuWeight, ioWeight, nice] = [number('--cpu-weight', options.cpuWeight), number('--io-weight', options.ioWeight), number('--nice', options.nice)]
  const plan = await planInstall({
    config: context.config, scope: scopeOf(options) ?? (process.geteuid!() === 0 ? 'system' : 'user'), script: DFS,
    ...(options.name !== undefined && { name: options.name }),
    ...(typeof options.mount === 'string' && { mount: { dir: options.mount, options: options.options ?? [] } }),
    neverMounts: options.mount === false,
    ...(options.cache !== undefined && { cache: options.cache }),
    ...(options.passphraseCredential !== undefined && { encryptedPassphrase: options.passphraseCredential }),
    limits: {
      ...(options.memoryMax !== undefined && { memoryMaxBytes: parseSize('--memory-max', options.memoryMax) }),
      ...(cpuWeight !== undefined && { cpuWeight }), ...(ioWeight !== undefined && { ioWeight }), ...(nice !== undefined && { nice }),
    },
    passphrase: () => context.passphrase(),
  })
  if (options.print) return write(plan.text)
  tellInstalled(context, plan, await install(plan))
}

function tellInstalled(context: Context, plan: Plan, { path, change, state, lingers }: Installed): void {
  const whose = plan.scope === 'system' ? `system service, as ${plan.user ?? 'root'}` : 'service of your own'
  context.say({ written: `Wrote ${path} (${whose}).`, replaced: `Replaced ${path} (${whose}).`, none: `${path} is as it should be (${whose}).` }[change])
  tellState(context, plan, state)
  if (plan.kind === 'shut') context.say('It mounts nothing: it sees its store alone.')
  if (!lingers) context.say(`It runs while you are logged in. To have it run from boot on, without a login: loginctl enable-linger ${userInfo().username}`)
}

/** Says how it does. SERVICE_FAILED if badly. */
function tellState(context: Context, { name }: { name: string }, state: UnitState): void {
  if (state.active === 'active') return context.say(`${name} runs (process ${state.pid}): ${state.status}.`)
  if (state.active === 'activating' && state.sub !== 'auto-restart') return context.say(`${name} is still starting; dfs service logs says what it waits for.`)
  throw fail('SERVICE_FAILED', `${name} does not run (${state.active}: ${state.result}, exit code ${state.exitStatus}); dfs service logs says why`)
}

async function status(unit: Unit, asJson: boolean): Promise<void> {
  const state = await (await Systemd.reach(unit.scope, { toChange: false })).state(unit.name)
  const lingers = unit.scope === 'system' || Systemd.lingers()
  if (asJson) return writeJson({ name: unit.name, scope: unit.scope, path: unit.path, store: unit.store, lingers, ...state })
  const lines = [
    ['service', `${unit.name} (${unit.scope}), ${unit.path}`],
    ['store', unit.store ?? ''],
    ['state', `${state.active}${state.sub === state.active ? '' : ` (${state.sub})`}${state.since ? `, since ${state.since}` : ''}`],
    ...(state.status && state.active === 'active' ? [['says', state.status]] : []),
    ...(state.pid === null ? [] : [['process', `${state.pid}${state.memoryBytes === null ? '' : `, ${formatBytes(state.memoryBytes)} of memory`}`]]),
    ...(state.result === 'success' ? [] : [['ended', `${state.result}, exit code ${state.exitStatus}`]]),
    ['restarts', String(state.restarts)],
    ['from', `${unit.scope === 'system' || lingers ? 'boot' : 'login'}: ${state.enabled}`],
  ]
  for (const [name, text] of lines) await writeLine(`${name!.padEnd(9)} ${text}`)
}
