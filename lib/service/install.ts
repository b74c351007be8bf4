/** Makes the daemon of a store a service of systemd's, and takes that back. */
import { existsSync, realpathSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Client } from '../client.js'
import { DISCOVERIES, type Config } from '../config.js'
import { fail } from '../errors.js'
import { isKeyFileSealed, openKeyFile } from '../keys/keyfile.js'
import { HEAP_FLAGS, POOL_THREADS, storeMissing } from './launch.js'
import { nameOfUser, removeUnit, Systemd, unitsIn, writeUnit, type Unit, type UnitState } from './manager.js'
import { canonicalDir } from './mountpoint.js'
import { unitName, unitText, type Limits, type Passphrase, type Scope } from './systemd.js'

export interface InstallOptions {
  config: Config
  scope: Scope
  /** Chosen by the user. */
  name?: string
  /** The script of the command line. */
  script: string
  mount?: { dir: string; options: readonly string[] }
  /** Nothing is ever mounted, so that the service can be shut in. */
  neverMounts: boolean
  /** As it was given. */
  cache?: string
  /** A file of systemd-creds(1). */
  encryptedPassphrase?: string
  limits: Limits
  /** Of the drive. */
  passphrase: () => Promise<Buffer>
}

export interface Plan {
  scope: Scope
  store: string
  name: string
  text: string
  /** Whom it runs as, where that is not who installs it. */
  user: string | undefined
  kind: 'open' | 'shut'
  mount: string | undefined
}

/**
 * The unit. Checks all that can be checked without systemd: the store and its passphrase are there and fit.
 * STORE_MISSING, PASSPHRASE_NEEDED, PASSPHRASE_WRONG, USAGE.
 */
export async function planInstall(options: InstallOptions): Promise<Plan> {
  const { config, scope, limits } = options
  checkLimits(limits, scope)
  const isDefault = config.storeFrom === 'default'
  const keys = join(config.store, 'keys')
  if (!existsSync(keys)) throw storeMissing(config.store)
  const store = realpathSync(config.store)
  const passphrase = await passphraseOf(options, keys)
  // What only stores can not be mounted. An encrypted passphrase is systemd's to open.
  const stores = !passphrase?.isEncrypted && (await openKeyFile(keys, { passphrase: options.passphrase })).keys.kind === 'storage'
  if (stores && options.mount) throw fail('KEY_KIND', 'this device only stores: it has the storage key, and cannot be mounted; install it without --mount')
  const kind = stores || options.neverMounts ? 'shut' : 'open'
  const owner = statSync(store).uid
  if (scope === 'user' && owner !== process.geteuid!()) throw fail('EACCES', `the store ${store} is of another user; install the service as ${await nameOfUser(owner)}`)
  const user = scope === 'system' && owner !== 0 ? await nameOfUser(owner) : undefined
  const mount = options.mount && (await canonicalDir(options.mount.dir))
  const text = unitText({
    scope, store, kind, limits,
    command: [process.execPath, ...HEAP_FLAGS, options.script, `--store=${store}`, 'serve', '--no-fork', ...serveArguments(options, mount, kind)],
    environment: {
      UV_THREADPOOL_SIZE: POOL_THREADS,
      ...(scope === 'user' && passphrase && { DFS_PASSPHRASE_FILE: passphrase.file }),
    },
    ...(user !== undefined && { user }),
    ...(mount !== undefined && { mount }),
    ...(scope === 'system' && passphrase && { passphrase }),
  })
  return { scope, store, name: unitName({ store, isDefault, ...(options.name !== undefined && { chosen: options.name }) }), text, user, kind, mount }
}

/** What the environment and a `.env` file say here does not reach a service: it is written out. */
function serveArguments({ config, mount: wish, cache }: InstallOptions, mount: string | undefined, kind: Plan['kind']): string[] {
  const { peers, port, bootstrap, discovery } = config.network
  return [
    ...(mount !== undefined ? [`--mount=${mount}`] : kind === 'shut' ? ['--no-mount'] : []),
    ...(wish && wish.options.length > 0 ? [`--options=${wish.options.join(',')}`] : []),
    ...peers.map((peer) => `--peer=${peer}`),
    ...(port !== undefined ? [`--port=${port}`] : []),
    ...(discovery.length < DISCOVERIES.length ? [`--discovery=${discovery.join(',') || 'none'}`] : []),
    ...(bootstrap && discovery.includes('dht') ? [`--bootstrap=${bootstrap.join(',')}`] : []),
    ...(cache !== undefined ? [`--cache=${cache}`] : []),
  ]
}

async function passphraseOf({ config, scope, encryptedPassphrase }: InstallOptions, keys: string): Promise<Passphrase | undefined> {
  const { passphraseFile } = config
  if (!(await isKeyFileSealed(keys))) {
    if (encryptedPassphrase !== undefined) throw fail('USAGE', 'the drive of this store has no passphrase; leave out --passphrase-credential')
    return undefined
  }
  if (encryptedPassphrase !== undefined) {
    if (scope === 'user') throw fail('USAGE', '--passphrase-credential is for services of the system; give --passphrase-file FILE')
    const file = resolve(encryptedPassphrase)
    if (!existsSync(file)) throw fail('PASSPHRASE_NEEDED', `there is no file ${file}; make it with: systemd-creds encrypt --name=passphrase - ${file}`)
    return { file, isEncrypted: true }
  }
  if (passphraseFile === undefined || passphraseFile === '-') {
    throw fail('PASSPHRASE_NEEDED', `the drive has a passphrase, and nobody is there to type it when the service starts; put it into a file of your own (chmod 600) and give --passphrase-file FILE${scope === 'system' ? ', or --passphrase-credential FILE of systemd-creds' : ''}`)
  }
  return { file: passphraseFile, isEncrypted: false }
}

/** Node and its libraries alone take 60 MiB, and an index wants its cache. */
const MIN_MEMORY_BYTES = 128 * 2 ** 20

function checkLimits({ memoryMaxBytes, cpuWeight, ioWeight, nice }: Limits, scope: Scope): void {
  const within = (name: string, value: number | undefined, least: number, most: number) => {
    if (value !== undefined && !(Number.isInteger(value) && value >= least && value <= most)) throw fail('USAGE', `${name} wants a number from ${least} to ${most}`)
  }
  if (memoryMaxBytes !== undefined && memoryMaxBytes < MIN_MEMORY_BYTES) throw fail('USAGE', '--memory-max wants 128M or more: with less it would be ended again and again')
  within('--cpu-weight', cpuWeight, 1, 10_000)
  within('--io-weight', ioWeight, 1, 10_000)
  within('--nice', nice, scope === 'user' ? 0 : -20, 19)
}

export type Installed = { path: string; change: 'written' | 'replaced' | 'none'; state: UnitState; lingers: boolean }

/** With everything that it waits for a unit is ready in less than this, or it is told what it waits for. */
const PATIENCE_MS = 30_000

/** Writes the unit, and has it run now and from each boot on. Nothing is changed if it runs like that already. */
export async function install({ scope, store, name, text }: Plan): Promise<Installed> {
  const systemd = await Systemd.reach(scope, { toChange: true })
  const units = [...unitsIn('user'), ...unitsIn('system')]
  const other = units.find((u) => u.store === store && (u.scope !== scope || u.name !== name))
  if (other) throw fail('USAGE', `the store ${store} has a service already: ${other.name} (${other.path}); take it away first, with dfs service uninstall --${other.scope} --name ${other.name}`)
  const present = units.find((u) => u.scope === scope && u.name === name)
  if (present && present.store !== store) throw fail('USAGE', `${present.path} is ${present.store === undefined ? 'not of dfs service install' : `the service of ${present.store}`}; choose another --name`)
  const before = await systemd.state(name)
  const client = await Client.connect(store).catch(() => undefined)
  await client?.close()
  if (client && client.pid !== before.pid) throw fail('STORE_LOCKED', `a daemon of ${store} runs already (process ${client.pid}), and not as this service; end it with dfs stop, then install`)
  const change = !present ? 'written' : present.text !== text ? 'replaced' : 'none'
  const path = change === 'none' ? present!.path : writeUnit(scope, name, text)
  await systemd.reload()
  await systemd.enable(name)
  if (before.active !== 'active' || change !== 'none') await systemd.start(name, before.active === 'inactive' || before.active === 'failed' ? 'start' : 'restart')
  return { path, change, state: await systemd.settled(name, PATIENCE_MS), lingers: scope === 'system' || Systemd.lingers() }
}

/** Ends the service, which flushes, and removes its unit. What the user has put beside it (drop-ins) stays. */
export async function uninstall(unit: Unit): Promise<void> {
  const systemd = await Systemd.reach(unit.scope, { toChange: true })
  await systemd.disableNow(unit.name)
  removeUnit(unit)
  await systemd.reload()
  await systemd.forget(unit.name)
}

/** The service of the store, or of that name. SERVICE_MISSING, naming those that there are. */
export function findUnit({ store, name, scope }: { store: string; name?: string; scope?: Scope }): Unit {
  const all = (scope ? [scope] : process.geteuid!() === 0 ? ['system', 'user'] as const : ['user', 'system'] as const).flatMap(unitsHere)
  const own = existsSync(store) ? realpathSync(store) : store
  const found = all.find((u) => (name === undefined ? u.store === own : u.name === name || u.name === `dfs-${name}`))
  if (found) return found
  const others = all.map((u) => `${u.name} (${u.store})`).join(', ')
  throw fail('SERVICE_MISSING', `there is no service ${name === undefined ? `of the store ${own}` : `named ${name}`}; ${others ? `there are: ${others}; name one with --name, or its store with --store` : 'dfs service install makes one'}`)
}

function unitsHere(scope: Scope): Unit[] {
  return unitsIn(scope).filter((u) => u.store !== undefined)
}
