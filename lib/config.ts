/**
 * Where things are: the store, its socket and log, and the few settings that
 * come from the environment. Options beat the environment, the environment
 * beats a `.env` file in the current directory, and that beats the default.
 */
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'
import { fail } from './errors.js'
import { formatAddress, parseAddress } from './swarm/net/address.js'

/** A `.env` file is a few lines; more is something else of that name. */
const MAX_ENV_FILE_BYTES = 64 * 1024
/** The credential by which systemd hands over a passphrase. */
export const PASSPHRASE_CREDENTIAL = 'passphrase'
/** Only these are taken from a `.env` file: the rest of it belongs to other programs. */
const VARIABLES = ['DFS_STORE', 'DFS_PASSPHRASE_FILE', 'DFS_BOOTSTRAP', 'DFS_DISCOVERY', 'NODE_ID', 'NODE_PORT', 'REPLICATION_FACTOR'] as const

export interface Config {
  /** Absolute path of the store directory, which need not exist. */
  store: string
  storeFrom: 'option' | 'environment' | '.env' | 'default'
  /** Absolute path, or '-' for standard input. */
  passphraseFile?: string
  /** NODE_ID: what this device is called in a drive that it makes; the host's name where absent. */
  deviceName?: string
  /** REPLICATION_FACTOR: copies of each chunk in a drive that is made here. */
  replication?: string
  network: NetworkConfig
}

/** How this device meets the others of its drive. What the store remembers (addresses, the last port) is not here. */
export interface NetworkConfig {
  /** 'HOST:PORT' of devices, given now. */
  peers: string[]
  /** Where to listen for TCP. Absent: where it listened last, or anywhere. */
  port?: number
  /** 'HOST:PORT' of the nodes of a private DHT. Absent: the public one. */
  bootstrap?: string[]
  /** Where to look for devices whose address is not known. */
  discovery: Discovery[]
}

export type Discovery = 'dht' | 'lan'
export const DISCOVERIES: readonly Discovery[] = ['dht', 'lan']

export interface ConfigOptions {
  store?: string
  passphraseFile?: string
  peer?: string[]
  port?: string
  bootstrap?: string
  discovery?: string
}

export interface ConfigSources {
  options?: ConfigOptions
  env?: NodeJS.ProcessEnv
  cwd?: string
}

/** Throws USAGE if a given path is empty, an address or a port is none, or a `.env` file is there but cannot be read. */
export function loadConfig({ options = {}, env = process.env, cwd = process.cwd() }: ConfigSources = {}): Config {
  const file = readEnvFile(join(cwd, '.env'))
  const pick = (option: string | undefined, name: (typeof VARIABLES)[number]) => {
    if (option !== undefined) return { value: option, from: 'option' as const }
    // An empty variable counts as unset, as the XDG specification asks of its own.
    if (env[name]) return { value: env[name], from: 'environment' as const }
    if (file[name]) return { value: file[name], from: '.env' as const }
    return undefined
  }
  const store = pick(options.store, 'DFS_STORE')
  if (store?.value === '') throw fail('USAGE', 'the store directory is empty; name one with --store DIR')
  const passphrase = pick(options.passphraseFile, 'DFS_PASSPHRASE_FILE')
  if (passphrase?.value === '') throw fail('USAGE', 'the passphrase file is empty; name one with --passphrase-file FILE')
  const deviceName = pick(undefined, 'NODE_ID')
  const replication = pick(undefined, 'REPLICATION_FACTOR')
  const port = pick(options.port, 'NODE_PORT')
  const bootstrap = pick(options.bootstrap, 'DFS_BOOTSTRAP')
  const discovery = pick(options.discovery, 'DFS_DISCOVERY')
  const ways = discovery ? discoveryIn(discovery.value, discovery.from === 'option' ? '--discovery' : 'DFS_DISCOVERY') : [...DISCOVERIES]
  if (options.bootstrap !== undefined && !ways.includes('dht')) throw fail('USAGE', '--bootstrap names nodes of a DHT, and discovery is without dht; add --discovery dht')
  return {
    store: store ? resolve(cwd, expandHome(store.value, env)) : defaultStore(env),
    storeFrom: store?.from ?? 'default',
    ...(passphrase ? { passphraseFile: passphrase.value === '-' ? '-' : resolve(cwd, expandHome(passphrase.value, env)) } : credential(env)),
    ...(deviceName && { deviceName: deviceName.value }),
    ...(replication && { replication: replication.value }),
    network: {
      peers: (options.peer ?? []).map((address) => addressIn(address, '--peer')),
      ...(port && { port: portIn(port.value, port.from === 'option' ? '--port' : 'NODE_PORT') }),
      ...(bootstrap && { bootstrap: listIn(bootstrap.value).map((address) => addressIn(address, bootstrap.from === 'option' ? '--bootstrap' : 'DFS_BOOTSTRAP')) }),
      discovery: ways,
    },
  }
}

function listIn(text: string): string[] {
  return text.split(',').map((part) => part.trim()).filter(Boolean)
}

function addressIn(text: string, name: string): string {
  try {
    return formatAddress(parseAddress(text))
  } catch {
    throw fail('USAGE', `${name} wants HOST:PORT (IPv6 as [ADDRESS]:PORT), not '${text}'`)
  }
}

function portIn(text: string, name: string): number {
  const port = Number(text)
  if (!/^\d{1,5}$/.test(text) || port > 65535) throw fail('USAGE', `${name} wants a port of 0 to 65535 (0: any), not '${text}'`)
  return port
}

function discoveryIn(text: string, name: string): Discovery[] {
  const words = listIn(text)
  if (words.length === 1 && words[0] === 'none') return []
  if (words.length === 0 || !words.every((word): word is Discovery => (DISCOVERIES as readonly string[]).includes(word))) {
    throw fail('USAGE', `${name} wants dht, lan, dht,lan or none, not '${text}'`)
  }
  return DISCOVERIES.filter((d) => words.includes(d))
}

/** A passphrase that the service manager hands over: systemd.exec(5), LoadCredential=. */
function credential(env: NodeJS.ProcessEnv): Pick<Config, 'passphraseFile'> {
  const dir = env.CREDENTIALS_DIRECTORY
  const file = dir && isAbsolute(dir) ? join(dir, PASSPHRASE_CREDENTIAL) : undefined
  return file && existsSync(file) ? { passphraseFile: file } : {}
}

/** XDG Base Directory specification: a relative XDG_DATA_HOME is invalid and ignored. */
function defaultStore(env: NodeJS.ProcessEnv): string {
  const data = env.XDG_DATA_HOME
  return data && isAbsolute(data) ? join(data, 'dfs') : join(env.HOME || homedir(), '.local', 'share', 'dfs')
}

/** A shell does not expand ~ inside a `.env` file, nor after `--store=`. */
function expandHome(path: string, env: NodeJS.ProcessEnv): string {
  return path === '~' || path.startsWith('~/') ? join(env.HOME || homedir(), path.slice(2)) : path
}

function readEnvFile(path: string): Partial<Record<(typeof VARIABLES)[number], string>> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EISDIR') return {}
    throw fail('USAGE', `cannot read ${path} (${code}); make it readable or move it away`, error)
  }
  if (text.length > MAX_ENV_FILE_BYTES) return {}
  return parseEnv(text)
}

/** `NAME=value` lines, `export` and quotes allowed, `#` starts a comment. Unknown names are skipped. */
export function parseEnv(text: string): Partial<Record<(typeof VARIABLES)[number], string>> {
  const found: Partial<Record<(typeof VARIABLES)[number], string>> = {}
  for (const line of text.split(/\r?\n/)) {
    const match = /^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$/.exec(line)
    const name = VARIABLES.find((v) => v === match?.[1])
    if (!name) continue
    const quoted = /^(["'])(.*?)\1\s*(?:#.*)?$/.exec(match![2]!)
    found[name] = quoted ? quoted[2]! : match![2]!.replace(/(^|\s+)#.*$/, '')
  }
  return found
}

/** The daemon's control socket, mode 0600 in the store's 0700 directory. */
export function socketPath(store: string): string {
  return join(store, 'control.sock')
}

/** The daemon's log. Holds no names of files in the drive: it lies beside sealed data. */
export function logPath(store: string): string {
  return join(store, 'daemon.log')
}
