/**
 * The unit by which systemd keeps the daemon of a store running: its text, its
 * name, and what such a text says of itself. Pure. The words of the unit are
 * those of systemd.service(5), systemd.exec(5) and systemd.resource-control(5);
 * why it is as it is: docs/decisions/022-service.md.
 */
import { createHash } from 'node:crypto'
import { PASSPHRASE_CREDENTIAL } from '../config.js'
import { fail } from '../errors.js'

export interface UnitOptions {
  scope: Scope
  /** Absolute. */
  store: string
  /** The program and all its arguments, as they are to arrive. */
  command: readonly string[]
  environment: Readonly<Record<string, string>>
  /** Whom a system unit runs as; root where absent. */
  user?: string
  /** `open`: mounts come and go, so what it mounts has to be seen by all. `shut`: it mounts nothing, and is shut in. */
  kind: 'open' | 'shut'
  /** Where it mounts. */
  mount?: string
  passphrase?: Passphrase
  limits: Limits
}

export type Scope = 'user' | 'system'

/** A file that systemd hands over for a system unit, which alone may read it there. A user unit reads its file itself (DFS_PASSPHRASE_FILE). */
export interface Passphrase { file: string; isEncrypted: boolean }

export interface Limits {
  memoryMaxBytes?: number
  /** 1 to 10,000; others have 100. */
  cpuWeight?: number
  ioWeight?: number
  /** -20 to 19. */
  nice?: number
}

/** Exit codes (bin/exit-codes.ts) that the same start will end with again: usage, nothing there, damage, passphrase. */
const LASTING_EXITS = [2, 3, 5, 6]

/** The whole text. USAGE if a path cannot be said in a unit. */
export function unitText(options: UnitOptions): string {
  const { scope, store, command, environment, user, kind, mount, passphrase, limits } = options
  const isSystem = scope === 'system'
  // A mount point is above nothing that it needs: only what holds it.
  const needed = [store, ...(mount === undefined ? [] : [parentOf(mount)])]
  return [
    '# Written by dfs service install, which replaces it. Changes of yours belong into a drop-in: systemctl edit.',
    '[Unit]',
    `Description=dfs, the drive in ${specifiers(plain(store))}`,
    // Where the network ends after us, the last changes still reach the others.
    ...(isSystem ? ['After=network.target'] : []),
    `RequiresMountsFor=${needed.map(word).join(' ')}`,
    'StartLimitIntervalSec=5min',
    'StartLimitBurst=10',
    '',
    '[Service]',
    'Type=notify',
    // systemd-notify is a process of its own.
    'NotifyAccess=all',
    ...(isSystem && user !== undefined ? [`User=${user}`] : []),
    // ':' leaves $ alone.
    `ExecStart=${execWords(command)}`,
    ...Object.entries(environment).map(([name, value]) => `Environment=${word(`${name}=${value}`)}`),
    ...(passphrase ? [`LoadCredential${passphrase.isEncrypted ? 'Encrypted' : ''}=${PASSPHRASE_CREDENTIAL}:${specifiers(restOfLine(passphrase.file))}`] : []),
    'WorkingDirectory=/',
    'UMask=0077',
    'Restart=on-failure',
    'RestartSec=5',
    `RestartPreventExitStatus=${LASTING_EXITS.join(' ')}`,
    // A large store after a crash, or a drive that was joined and whose devices are away.
    'TimeoutStartSec=infinity',
    'TimeoutStopSec=5min',
    'WatchdogSec=10min',
    // The daemon alone is asked to end: it needs its helpers to unmount.
    'KillMode=mixed',
    'LimitNOFILE=65536',
    'OOMPolicy=stop',
    ...limitLines(limits),
    ...(kind === 'shut' ? shutLines(options) : isSystem && user === undefined ? ROOT_LINES : []),
    '',
    '[Install]',
    `WantedBy=${isSystem ? 'multi-user.target' : 'default.target'}`,
    '',
    // Ignored by systemd.
    '[X-Dfs]',
    `Store=${JSON.stringify(store)}`,
    '',
  ].join('\n')
}

function limitLines({ memoryMaxBytes, cpuWeight, ioWeight, nice }: Limits): string[] {
  return [
    // Made to give back what it can before it is ended.
    ...(memoryMaxBytes === undefined ? [] : [`MemoryHigh=${Math.floor(memoryMaxBytes / 8) * 7}`, `MemoryMax=${memoryMaxBytes}`]),
    ...(cpuWeight === undefined ? [] : [`CPUWeight=${cpuWeight}`]),
    ...(ioWeight === undefined ? [] : [`IOWeight=${ioWeight}`]),
    ...(nice === undefined ? [] : [`Nice=${nice}`]),
  ]
}

/** No new privileges: not for others than root that mount, as fusermount3 is setuid; and each of these that filters calls brings it for them. */
const NO_PRIVILEGES = [
  'NoNewPrivileges=yes',
  'LockPersonality=yes',
  'RestrictRealtime=yes',
  'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK',
  'SystemCallArchitectures=native',
]

/** Of a mount namespace nobody else sees the mounts: nothing that makes one. */
const ROOT_LINES = NO_PRIVILEGES

/** A manager of a user can make no namespaces on many systems: there only what needs none. */
function shutLines({ scope, store, command, passphrase }: UnitOptions): string[] {
  const own = [...NO_PRIVILEGES, 'RestrictSUIDSGID=yes', 'RestrictNamespaces=yes', 'SystemCallFilter=@system-service', 'SystemCallErrorNumber=EPERM']
  if (scope === 'user') return own
  const isTemporary = [store, ...command, ...(passphrase ? [passphrase.file] : [])].some((path) => /^\/(var\/)?tmp(\/|$)/.test(path))
  return [
    ...own,
    'CapabilityBoundingSet=',
    'ProtectSystem=strict',
    'ProtectHome=read-only',
    `ReadWritePaths=${word(store)}`,
    ...(isTemporary ? [] : ['PrivateTmp=yes']),
    'PrivateDevices=yes',
    'ProtectClock=yes',
    'ProtectControlGroups=yes',
    'ProtectHostname=yes',
    'ProtectKernelLogs=yes',
    'ProtectKernelModules=yes',
    'ProtectKernelTunables=yes',
  ]
}

/** The store that a unit says it is for; undefined if it is not one of these. */
export function storeOfUnit(text: string): string | undefined {
  const match = /^\[X-Dfs\]\nStore=(.*)$/m.exec(text)
  try {
    const store: unknown = match ? JSON.parse(match[1]!) : undefined
    return typeof store === 'string' ? store : undefined
  } catch {
    return undefined
  }
}

/**
 * The unit's name without `.service`: `dfs` for the default store, else one that tells stores apart. A name that was chosen: 1 to 64
 * letters, digits and `_ . -`.
 */
export function unitName({ store, isDefault, chosen }: { store: string; isDefault: boolean; chosen?: string }): string {
  if (chosen !== undefined) {
    if (!/^[A-Za-z0-9_.-]{1,64}$/.test(chosen)) throw fail('USAGE', `--name wants at most 64 letters, digits and _ . -, not '${chosen}'`)
    return `dfs-${chosen}`
  }
  if (isDefault) return 'dfs'
  const readable = store.slice(1).replace(/[^A-Za-z0-9_.]+/g, '-').slice(0, 64)
  // Where it does not say the whole path.
  const isExact = /^(\/[A-Za-z0-9_.]+)+$/.test(store) && store.length <= 64
  return `dfs-${readable}${isExact ? '' : `-${createHash('sha256').update(store).digest('hex').slice(0, 8)}`}`
}

/** The command line of ExecStart=. USAGE if systemd would not run a program of that name. */
export function execWords([program, ...args]: readonly string[]): string {
  // eslint-disable-next-line no-control-regex
  if (/["'\\\u0000-\u001f\u007f]/.test(program!)) throw fail('USAGE', `systemd runs no program with quotes or backslashes in its path: '${plain(program!)}'`)
  return [word(`:${program}`), ...args.map(word)].join(' ')
}

/** One word of a list, so that systemd takes it as it is. */
export function word(text: string): string {
  if (text.includes('\0')) throw fail('USAGE', 'a path with a zero byte cannot be')
  const escaped = specifiers(text)
  if (/^[A-Za-z0-9_./=:@,+%-]+$/.test(escaped)) return escaped
  // eslint-disable-next-line no-control-regex
  return `"${escaped.replace(/["\\]/g, '\\$&').replace(/[\u0000-\u001f\u007f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`)}"`
}

function specifiers(text: string): string {
  return text.replaceAll('%', '%%')
}

/** For eyes: a line can hold no other line. */
function plain(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u001f\u007f]/g, '?').replace(/\\+$/, '?')
}

/** A setting whose rest of the line is the path as it is: it knows no quotes. */
function restOfLine(path: string): string {
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f]|\\$|\s$/.test(path)) throw fail('USAGE', `systemd cannot be given the file '${plain(path)}'; choose a name without control characters that ends in no space or backslash`)
  return path
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf('/')))
}
