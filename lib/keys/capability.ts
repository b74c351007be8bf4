/**
 * Key strings: what one gives away so that another may join a drive.
 * docs/format.md, "Key strings".
 *
 *   dfs1- z-base-32( version 4 bits | kind 4 bits, epoch u16 LE, secrets, checksum )
 *
 * The checksum is BLAKE2b of all before it, 5 or 8 bytes so that the whole is a
 * multiple of 5 bytes: no padding bits, 64 or 120 characters.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { MAX_KEY_TEXT_CHARS } from '../limits.js'
import { ALPHABET, decodeZ32, encodeZ32 } from './zbase32.js'

export type KeyKind = 'full' | 'read-only' | 'storage'

/** What a key string of each kind holds; every secret is 32 bytes. */
export interface KeySecrets {
  full: { root: Buffer }
  'read-only': { driveId: Buffer; readSecret: Buffer }
  storage: { driveId: Buffer; storageSecret: Buffer }
}

export type Capability =
  | ({ kind: 'full'; epoch: number } & KeySecrets['full'])
  | ({ kind: 'read-only'; epoch: number } & KeySecrets['read-only'])
  | ({ kind: 'storage'; epoch: number } & KeySecrets['storage'])

const PREFIX = 'dfs1-'
const VERSION = 1
const HEADER_BYTES = 3
const KINDS: KeyKind[] = ['full', 'read-only', 'storage']
const CHECK_CONTEXT = Buffer.from('dfs key string 1')

/**
 * The string of a key. `epoch`: 0..65535, of the root secret that it comes from.
 * KEY_INVALID if a secret is not 32 bytes.
 */
export function formatKey<K extends KeyKind>(kind: K, secrets: KeySecrets[K], epoch = 0): string {
  const parts = secretsOf(kind, secrets)
  if (parts.some((s) => s.length !== 32)) throw fail('KEY_INVALID', 'a secret of a key has 32 bytes')
  if (!Number.isInteger(epoch) || epoch < 0 || epoch > 0xffff) throw fail('KEY_INVALID', `the key epoch ${epoch} is out of range`)
  const body = Buffer.concat([Buffer.from([(VERSION << 4) | KINDS.indexOf(kind), epoch & 0xff, epoch >> 8]), ...parts])
  return PREFIX + encodeZ32(Buffer.concat([body, checksum(body)]))
}

/**
 * Reads a key string. Upper or lower case, spaces and dashes do not matter.
 * KEY_INVALID says what is wrong, without repeating the key.
 */
export function parseKey(text: string): Capability {
  if (text.length > MAX_KEY_TEXT_CHARS) throw fail('KEY_INVALID', 'this is too long for a key')
  const plain = text.toLowerCase().replace(/[\s-]/g, '')
  const match = /^dfs([0-9])(.*)$/.exec(plain)
  if (!match) throw fail('KEY_INVALID', `this is not a key: a key starts with ${PREFIX}`)
  if (match[1] !== '1') throw fail('KEY_INVALID', `a key starts with ${PREFIX}, this with dfs${match[1]}-; a mistype, or the key of a newer dfs`)
  const chars = match[2]!
  const stranger = [...chars].find((c) => !ALPHABET.includes(c))
  if (stranger !== undefined) throw fail('KEY_INVALID', `the character '${stranger}' is never part of a key${hint(stranger)}`)
  if (chars.length !== 64 && chars.length !== 120) {
    throw fail('KEY_INVALID', `the key has ${chars.length} characters after ${PREFIX}, but 64 or 120 are right: something is missing or doubled`)
  }
  const bytes = decodeZ32(chars)
  const checkBytes = chars.length === 64 ? 5 : 8
  const body = bytes.subarray(0, bytes.length - checkBytes)
  if (!checksum(body).equals(bytes.subarray(body.length))) {
    throw fail('KEY_INVALID', 'a character of the key is wrong or two are swapped (the checksum does not match); copy it again')
  }
  const version = body[0]! >> 4
  const kind = KINDS[body[0]! & 15]
  if (version !== VERSION || kind === undefined) throw fail('KEY_INVALID', 'the key was made by a newer dfs; update dfs')
  if (body.length !== HEADER_BYTES + (kind === 'full' ? 32 : 64)) throw fail('KEY_INVALID', `the key has the wrong length for a ${kind} key`)
  const epoch = body.readUInt16LE(1)
  const first = own(body.subarray(HEADER_BYTES, HEADER_BYTES + 32))
  const second = own(body.subarray(HEADER_BYTES + 32))
  sodium.sodium_memzero(bytes)
  if (kind === 'full') return { kind, epoch, root: first }
  if (kind === 'read-only') return { kind, epoch, driveId: first, readSecret: second }
  return { kind, epoch, driveId: first, storageSecret: second }
}

function secretsOf<K extends KeyKind>(kind: K, secrets: KeySecrets[K]): Buffer[] {
  const all = secrets as Partial<KeySecrets['full'] & KeySecrets['read-only'] & KeySecrets['storage']>
  const list = kind === 'full' ? [all.root] : kind === 'read-only' ? [all.driveId, all.readSecret] : [all.driveId, all.storageSecret]
  if (list.some((s) => s === undefined)) throw fail('KEY_INVALID', `a ${kind} key lacks one of its secrets`)
  return list as Buffer[]
}

function checksum(body: Buffer): Buffer {
  const sum = Buffer.alloc(32)
  sodium.crypto_generichash(sum, body, CHECK_CONTEXT)
  return sum.subarray(0, body.length < 64 ? 5 : 8)
}

function hint(char: string): string {
  const meant = { '0': 'o', l: '1', '2': 'z', v: 'u' }[char]
  return meant ? ` (is it '${meant}'?)` : ''
}

/** A copy with memory of its own: slices of Node's shared pool would leave secrets among other buffers. */
function own(bytes: Uint8Array): Buffer {
  const copy = Buffer.alloc(bytes.length)
  copy.set(bytes)
  return copy
}
