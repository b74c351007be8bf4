/**
 * Settings that all devices of the drive agree on. Each is a reserved extended
 * attribute of the root directory, so that it goes the way of everything else in
 * the tree: through log and order (the last writer counts), undo and snapshots.
 * Programs neither see nor set them.
 *
 * What a value means is checked where it is set and where it is read: another
 * device may run another dfs, and what cannot be understood counts as not set.
 */
import type { Clock, Timers } from './clock.js'
import { parseBytes, parseDuration } from './quantities.js'
import { fail } from './errors.js'
import { encodeZ32 } from './keys/zbase32.js'
import { MAX_COPIES, MAX_SETTING_BYTES, MAX_XATTR_NAME_BYTES, MAX_ZONE_BYTES } from './limits.js'
import type { Op } from './log/ops.js'
import { HAS_XATTRS, ROOT_INO, type Inode } from './tree/inode.js'
import type { Tree } from './tree/tree.js'

/** Names of attributes that belong to dfs: in no list that programs get. */
const RESERVED = Buffer.from('dfs.')

export function isReservedXattr(name: Buffer): boolean {
  return name.subarray(0, RESERVED.length).equals(RESERVED)
}

export interface SettingRule {
  /** One line, for people. */
  about: string
  /** What it is while nobody has set it. */
  default: string
  /** As it is kept; throws USAGE with what it takes. */
  normal(text: string): string
}

const DAY_MS = 86_400_000
const MIN_RATE_BYTES = 64 << 10
const MAX_RETENTION_MS = 3650 * DAY_MS

/** Of the drive; `dfs config`. */
export const SETTINGS = {
  replication: {
    about: `copies of each chunk, on devices chosen by their capacity and zone: 1 to ${MAX_COPIES}, or "all" for a copy on every device that keeps everything`,
    default: 'all',
    normal: (text) => (text === 'all' ? text : String(whole(text, 1, MAX_COPIES, `replication is a number of copies from 1 to ${MAX_COPIES}, or "all"`))),
  },
  'lost-after': {
    about: 'a device that is silent for so long counts as lost, and what it held is copied to others: 1s to 60d, or "never"',
    default: '1h',
    normal: (text) => {
      if (text === 'never') return text
      const ms = parseDuration(text)
      if (ms === undefined || ms < 1000 || ms > 60 * DAY_MS) throw fail('USAGE', `lost-after is a time from 1s to 60d, or "never"; not "${text}"`)
      return text
    },
  },
  'repair-rate': {
    about: 'bytes a second at which a device fetches what it is to hold after a change, as 20M; new chunks are not held up; or "unlimited"',
    default: 'unlimited',
    normal: (text) => {
      if (text === 'unlimited') return text
      const bytes = parseBytes(text)
      if (bytes === undefined || bytes < MIN_RATE_BYTES) throw fail('USAGE', `repair-rate is a size for each second of at least 64K, as 20M, or "unlimited"; not "${text}"`)
      return text
    },
  },
  retention: {
    about: 'how long what was deleted or replaced can be had back (dfs log, dfs restore): 1s to 10y, or 0: not at all',
    default: '0',
    normal: (text) => {
      const ms = text === 'off' ? 0 : parseDuration(text)
      if (ms === undefined || (ms !== 0 && ms < 1000) || ms > MAX_RETENTION_MS) throw fail('USAGE', `retention is a time from 1s to 10y, such as 30d, or 0; not "${text}"`)
      return ms === 0 ? '0' : text
    },
  },
} satisfies Record<string, SettingRule>

export type SettingName = keyof typeof SETTINGS

/** What is said of one device. */
export const DEVICE_FIELDS = {
  /** Bytes that a person has given it. */
  capacity: (text: string) => String(bytesOf(text)),
  /** Bytes that it has offered by itself, of the disk that it found. */
  disk: (text: string) => String(bytesOf(text)),
  zone: (text: string) => {
    if (Buffer.byteLength(text) > MAX_ZONE_BYTES || /[\u0000-\u001f\u007f]/.test(text)) throw fail('USAGE', `a zone is a name of at most ${MAX_ZONE_BYTES} bytes`)
    return text
  },
  /** It is to hold nothing: it leaves. */
  drained: (text: string) => flagOf(text),
  /** It was silent for too long: nobody counts on it. */
  lost: (text: string) => flagOf(text),
  /** It has said that it holds what it could not show: nobody counts on it, until a person says otherwise. */
  doubted: (text: string) => flagOf(text),
} satisfies Record<string, (text: string) => string>

export type DeviceField = keyof typeof DEVICE_FIELDS

/** Where the index keeps what the device is to say of itself, once it is one of the drive; '': it has. */
export function ownMeta(field: DeviceField): string { return `own_${field}` }

export interface SettingsParts {
  tree: Tree
  clock: Pick<Clock, 'now'>
  timers: Timers
  /** An op of our own; '' when it is done. */
  submit(op: Op): unknown
}

export class Settings {
  readonly #p: SettingsParts
  #values: Map<string, string> | undefined
  /** Asked before each op. */
  #retentionMs: number | undefined
  #isTelling = false
  /** All of them, when it was last told that something was set. */
  #told = ''
  /** Something was set, here or elsewhere; in a turn of its own. */
  onChange: () => void = () => {}

  constructor(parts: SettingsParts) {
    this.#p = parts
    parts.tree.rows.onRootXattr = () => {
      this.#values = this.#retentionMs = undefined
      if (this.#isTelling) return
      this.#isTelling = true
      parts.timers.soon(() => {
        this.#isTelling = false
        // Programs set attributes of the root too, and a value may be set again.
        const now = JSON.stringify([...this.#all()].sort())
        if (now === this.#told) return
        this.#told = now
        this.onChange()
      })
    }
  }

  /** As it is kept; undefined: not set, or not understood. */
  get(name: SettingName): string | undefined { return checked(SETTINGS[name].normal, this.#all().get(name)) }

  ofDevice(device: Buffer, field: DeviceField): string | undefined {
    return checked(DEVICE_FIELDS[field], this.#all().get(deviceName(device, field)))
  }

  /** null: as if it had never been set. USAGE for what it does not take. */
  set(name: SettingName, value: string | null): void {
    this.#put(name, value === null ? null : SETTINGS[name].normal(value))
  }

  setOfDevice(device: Buffer, field: DeviceField, value: string | null): void {
    this.#put(deviceName(device, field), value === null ? null : DEVICE_FIELDS[field](value))
  }

  /** The attribute by which a directory says it. */
  static readonly REPLICATION = Buffer.from('dfs.replication')

  /** Copies that a directory wants of what is below it; undefined: as the one above it. */
  replicationBelow(dir: Inode): number | undefined {
    if (!dir.isDir || dir.ino === ROOT_INO) return undefined
    const value = this.#p.tree.getXattr(dir, Settings.REPLICATION)
    const text = value && value.length <= MAX_SETTING_BYTES ? checked(SETTINGS.replication.normal, value.toString()) : undefined
    return text === undefined || text === 'all' ? undefined : Number(text)
  }

  /** null: as the directory above it. USAGE for what it does not take. */
  setBelow(dir: Inode, value: string | null): void {
    const text = value === null ? null : SETTINGS.replication.normal(value)
    if (text === 'all') throw fail('USAGE', `of a directory replication is a number of copies from 1 to ${MAX_COPIES}; "all" is of the whole drive`)
    const { submit, clock } = this.#p
    submit({ type: 'xattr', ino: dir.ino, name: Settings.REPLICATION, value: text === null ? null : Buffer.from(text), ctime: clock.now() })
  }

  /** Milliseconds; 0: nothing is kept. */
  get retentionMs(): number { return (this.#retentionMs ??= parseDuration(this.get('retention') ?? SETTINGS.retention.default)!) }

  /** Milliseconds; Infinity: never. */
  get lostAfterMs(): number {
    const text = this.get('lost-after') ?? SETTINGS['lost-after'].default
    return text === 'never' ? Infinity : parseDuration(text)!
  }

  /** Bytes a second; Infinity: as many as there can be. */
  get repairRate(): number {
    const text = this.get('repair-rate')
    return text === undefined || text === 'unlimited' ? Infinity : parseBytes(text)!
  }

  /** Copies of each chunk; undefined: everything is on every device that keeps everything. */
  get replication(): number | undefined {
    const text = this.get('replication')
    return text === undefined || text === 'all' ? undefined : Number(text)
  }

  #put(name: string, value: string | null): void {
    if (this.#all().get(name) === (value ?? undefined)) return
    if (value !== null && Buffer.byteLength(value) > MAX_SETTING_BYTES) throw fail('USAGE', `a setting has at most ${MAX_SETTING_BYTES} bytes`)
    const { submit, clock } = this.#p
    submit({ type: 'xattr', ino: ROOT_INO, name: Buffer.concat([RESERVED, Buffer.from(name)]), value: value === null ? null : Buffer.from(value), ctime: clock.now() })
  }

  #all(): Map<string, string> {
    if (this.#values) return this.#values
    const { tree } = this.#p
    const values = this.#values = new Map<string, string>()
    const root = tree.get(ROOT_INO)
    if (!root || !(root.flags & HAS_XATTRS)) return values
    for (const name of tree.xattrNames(root)) {
      if (!isReservedXattr(name) || name.length > MAX_XATTR_NAME_BYTES) continue
      const value = tree.getXattr(root, name)
      if (value && value.length <= MAX_SETTING_BYTES) values.set(name.subarray(RESERVED.length).toString(), value.toString())
    }
    return values
  }
}

export function isSetting(name: string): name is SettingName { return Object.hasOwn(SETTINGS, name) }

function deviceName(device: Buffer, field: DeviceField): string { return `device.${encodeZ32(device)}.${field}` }

function checked(normal: (text: string) => string, text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  try {
    return normal(text)
  } catch {
    return undefined
  }
}

function whole(text: string, min: number, max: number, wants: string): number {
  const n = /^\d{1,9}$/.test(text) ? Number(text) : NaN
  if (!(n >= min && n <= max)) throw fail('USAGE', `${wants}; not "${text}"`)
  return n
}

function bytesOf(text: string): number {
  const bytes = parseBytes(text)
  if (bytes === undefined) throw fail('USAGE', `a capacity is a size such as 500G or 2T, or 0; not "${text}"`)
  return bytes
}

function flagOf(text: string): string {
  if (text !== 'yes') throw fail('USAGE', `"yes", not "${text}"`)
  return text
}
