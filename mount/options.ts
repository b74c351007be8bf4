/** The -o options of a mount: one table, from which they are parsed and explained. */
import { MAX_ACKS } from '../lib/acknowledged.js'
import { fail } from '../lib/errors.js'
import { READ_DEADLINE_MS } from '../lib/limits.js'

export interface MountOptions {
  /** Other users than the mounting one may enter. */
  allowOther: boolean
  suid: boolean
  dev: boolean
  readOnly: boolean
  noExec: boolean
  noAtime: boolean
  /** The kernel gathers writes; only for a mount that is the drive's only writer. */
  writeback: boolean
  /** KiB. */
  readahead: number
  /** Ask the kernel for a FLUSH at each close(2), which then waits for the content. */
  flush: boolean
  /** A mount that is not root's shows the drive's creator as the mounting user (idmap.ts). */
  idMap: boolean
  /** How long a read waits for content that is on other devices, and a sync for their acknowledgements, seconds. */
  timeout: number
  /** Other devices that must have made durable what fsync(2) covers before it returns. */
  acks: number
  /** How long to look for the next request before sleeping, microseconds. */
  spin: number
}

interface Option {
  name: string
  meaning: string
  /** As a person would write it. */
  default: string
  apply(options: MountOptions, value: string | undefined): void
}

const flag = (name: string, meaning: string, on: string, set: (o: MountOptions) => void): Option =>
  ({ name, meaning, default: on, apply: set })

const number = (name: string, meaning: string, initial: number, [least, most]: [number, number], set: (o: MountOptions, value: number) => void): Option => ({
  name: `${name}=N`, meaning, default: String(initial),
  apply(options, value) {
    if (value === undefined || !/^\d{1,9}$/.test(value) || Number(value) < least || Number(value) > most) {
      throw fail('USAGE', `mount option ${name} wants a number from ${least} to ${most}`)
    }
    set(options, Number(value))
  },
})

const READAHEAD_KIB = 1024
const SPIN_US = 50
const TIMEOUT_S = READ_DEADLINE_MS / 1000

/** In the order in which help shows them. */
export const mountOptionTable: readonly Option[] = [
  flag('ro', 'no changes through this mount', 'rw', o => (o.readOnly = true)),
  flag('rw', 'changes allowed', 'rw', o => (o.readOnly = false)),
  flag('allow_other', 'other users may enter, as file modes allow', 'for root', o => (o.allowOther = true)),
  flag('noallow_other', 'only the mounting user may enter', 'for others', o => (o.allowOther = false)),
  flag('suid', 'obey set-user-id and set-group-id bits', 'nosuid', o => (o.suid = true)),
  flag('nosuid', 'ignore them', 'nosuid', o => (o.suid = false)),
  flag('dev', 'device files work', 'nodev', o => (o.dev = true)),
  flag('nodev', 'device files do not', 'nodev', o => (o.dev = false)),
  flag('exec', 'programs may be run', 'exec', o => (o.noExec = false)),
  flag('noexec', 'no programs may be run', 'exec', o => (o.noExec = true)),
  flag('noatime', 'reading leaves access times alone', 'relatime', o => (o.noAtime = true)),
  flag('writeback', 'the kernel gathers writes: fast small writes, but only when no other device writes to the drive', 'off', o => (o.writeback = true)),
  number('readahead', 'how far the kernel reads ahead, KiB', READAHEAD_KIB, [0, 1 << 20], (o, value) => (o.readahead = value)),
  flag('flush', 'close(2) waits until the content is in the store, and tells errors', 'off', o => (o.flush = true)),
  {
    name: 'idmap=on|off', meaning: "for others than root: the drive's creator and first group are shown as the mounting user's, and back", default: 'on',
    apply(options, value) {
      if (value !== 'on' && value !== 'off') throw fail('USAGE', 'mount option idmap wants on or off')
      options.idMap = value === 'on'
    },
  },
  number('acks', 'fsync(2) returns when so many other devices have made durable what it covers, too; 0: when this one has', 0, [0, MAX_ACKS], (o, value) => (o.acks = value)),
  number('timeout', 'how long a read waits for content that is on other devices, or with acks a sync until they have more of it, seconds; then it fails with EIO', TIMEOUT_S, [1, 86_400], (o, value) => (o.timeout = value)),
  number('spin', 'how long to look for the next request before sleeping, microseconds; 0 also lets processors halt between requests', SPIN_US, [0, 10_000], (o, value) => (o.spin = value)),
]

/** What holds without any option, for the user who mounts. */
export function defaultMountOptions(uid = process.getuid?.() ?? 0): MountOptions {
  return {
    allowOther: uid === 0, suid: false, dev: false, readOnly: false, noExec: false, noAtime: false, writeback: false,
    readahead: READAHEAD_KIB, flush: false, idMap: true, timeout: TIMEOUT_S, acks: 0, spin: SPIN_US,
  }
}

/**
 * Reads `-o` values: each a list separated by commas; a later option wins.
 * Throws USAGE for an unknown option or a bad value.
 */
export function parseMountOptions(values: string | readonly string[], uid?: number): MountOptions {
  const options = defaultMountOptions(uid)
  for (const text of (typeof values === 'string' ? [values] : values).flatMap(value => value.split(','))) {
    if (text === '') continue
    const [name = '', ...rest] = text.split('=')
    const value = rest.length > 0 ? rest.join('=') : undefined
    const option = mountOptionTable.find(o => o.name.split('=')[0] === name)
    if (option === undefined) throw fail('USAGE', `unknown mount option '${name}'; 'dfs mount --help' lists them`)
    if (value !== undefined && !option.name.includes('=')) throw fail('USAGE', `mount option ${name} takes no value`)
    option.apply(options, value)
  }
  // fusermount3 always mounts with both off for an ordinary user.
  if ((uid ?? process.getuid?.() ?? 0) !== 0 && (options.suid || options.dev)) throw fail('USAGE', 'mount options suid and dev are for root')
  return options
}
