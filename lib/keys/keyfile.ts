/**
 * The key file of a store: the drive's key and the device's identity, in JSON,
 * sealed under a passphrase if there is one. docs/format.md, "Key file".
 *
 * 0600 in a 0700 directory, and refused otherwise. Always replaced as a whole
 * (temporary file, fsync, rename, fsync of the directory), so that a crash
 * leaves the old or the new one.
 */
import { constants } from 'node:fs'
import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import sodium from 'sodium-native'
import { fail, isDfsError } from '../errors.js'
import {
  ARGON2_MEMORY_BYTES, ARGON2_PASSES, MAX_ARGON2_MEMORY_BYTES, MAX_ARGON2_PASSES, MAX_KEY_FILE_BYTES
} from '../limits.js'
import { DriveKeys } from './derive.js'
import { deviceFromSeed, deviceSeed, type Device } from './device.js'

const VERSION = 1
const SALT_BYTES = 16
const NONCE_BYTES = 24
const TAG_BYTES = 16
const ALGORITHM = 'argon2id13'

export interface KeyFileContents {
  keys: DriveKeys
  device: Device
  /** Whether a passphrase was needed. */
  isSealed: boolean
}

/** What one Argon2id costs. Stored in the file. */
export interface PassphraseCost { passes: number; memoryBytes: number }

interface Kdf { algorithm: string; passes: number; memoryBytes: number; salt: string }
interface Secrets { key: string; deviceSeed: string }
interface KeyFile {
  format: 'dfs-key-file'
  version: number
  /** Hex. Not secret: every log entry names it. Outside of the sealed part, so that a new one needs no passphrase. */
  incarnation: string
  /** Without a passphrase. */
  secrets?: Secrets
  kdf?: Kdf
  /** base64 of nonce || XChaCha20-Poly1305 of the secrets' JSON. */
  sealed?: string
}

/**
 * Makes the key file at `path` and, if need be, its directory. STORE_EXISTS if there is one.
 * The passphrase is used as it is (1 or more bytes); the caller wipes it.
 */
export async function createKeyFile(path: string, { keys, device, passphrase, cost }: {
  keys: DriveKeys
  device: Device
  passphrase?: Buffer
  cost?: PassphraseCost
}): Promise<void> {
  const dir = dirname(path)
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const existing = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch(() => undefined)
  if (existing) {
    await existing.close()
    throw fail('STORE_EXISTS', `there is already a key file at ${path}`)
  }
  const secrets: Secrets = { key: keys.capability(), deviceSeed: deviceSeed(device).toString('hex') }
  await writeKeyFile(path, await pack(secrets, device.incarnation, passphrase, cost))
}

/**
 * Opens a key file. `passphrase` is asked once, and only if the file is sealed; what it gives is wiped.
 * STORE_MISSING, EACCES (readable by others: says which chmod to run), PASSPHRASE_NEEDED (sealed, and no way to ask),
 * PASSPHRASE_WRONG, STORE_NEWER, STORE_DAMAGED.
 */
export async function openKeyFile(path: string, options: { passphrase?: () => Promise<Buffer> } = {}): Promise<KeyFileContents> {
  const file = await readKeyFile(path)
  const secrets = await unpack(file, path, options.passphrase)
  const incarnation = hex(file.incarnation, 16, path)
  const seed = hex(secrets.deviceSeed, 32, path)
  try {
    return { keys: keysOf(secrets, path), device: deviceFromSeed(seed, incarnation), isSealed: file.sealed !== undefined }
  } finally {
    sodium.sodium_memzero(seed)
  }
}

/** Whether a passphrase is needed to open the file. Errors as openKeyFile. */
export async function isKeyFileSealed(path: string): Promise<boolean> {
  return (await readKeyFile(path)).sealed !== undefined
}

/** Seals the file under `next`, or leaves it open if there is none. `current` is asked if the file is sealed now. Errors as openKeyFile. */
export async function changePassphrase(path: string, { current, next, cost }: {
  current?: () => Promise<Buffer>
  next?: Buffer
  cost?: PassphraseCost
}): Promise<void> {
  const file = await readKeyFile(path)
  const secrets = await unpack(file, path, current)
  await writeKeyFile(path, await pack(secrets, hex(file.incarnation, 16, path), next, cost))
}

/** The device goes on as a new incarnation (16 bytes). Needs no passphrase. */
export async function setIncarnation(path: string, incarnation: Buffer): Promise<void> {
  const file = await readKeyFile(path)
  await writeKeyFile(path, { ...file, incarnation: incarnation.toString('hex') })
}

async function pack(secrets: Secrets, incarnation: Buffer, passphrase?: Buffer, cost?: PassphraseCost): Promise<KeyFile> {
  const head = { format: 'dfs-key-file', version: VERSION, incarnation: incarnation.toString('hex') } as const
  if (!passphrase) return { ...head, secrets }
  if (passphrase.length === 0) throw fail('PASSPHRASE_WRONG', 'the passphrase is empty')
  const salt = Buffer.alloc(SALT_BYTES)
  sodium.randombytes_buf(salt)
  const kdf = checkCost({
    algorithm: ALGORITHM,
    passes: cost?.passes ?? ARGON2_PASSES,
    memoryBytes: cost?.memoryBytes ?? ARGON2_MEMORY_BYTES,
    salt: salt.toString('base64')
  })
  const key = await stretch(passphrase, kdf)
  const plain = Buffer.from(JSON.stringify(secrets))
  const sealed = Buffer.alloc(NONCE_BYTES + plain.length + TAG_BYTES)
  const nonce = sealed.subarray(0, NONCE_BYTES)
  sodium.randombytes_buf(nonce)
  sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(sealed.subarray(NONCE_BYTES), plain, associated(kdf), null, nonce, key)
  sodium.sodium_memzero(key)
  sodium.sodium_memzero(plain)
  return { ...head, kdf, sealed: sealed.toString('base64') }
}

async function unpack(file: KeyFile, path: string, ask?: () => Promise<Buffer>): Promise<Secrets> {
  if (file.sealed === undefined) {
    if (!isSecrets(file.secrets)) throw damaged(path)
    return file.secrets
  }
  if (!file.kdf) throw damaged(path)
  const kdf = checkCost(file.kdf)
  const sealed = Buffer.from(file.sealed, 'base64')
  if (sealed.length < NONCE_BYTES + TAG_BYTES) throw damaged(path)
  if (!ask) throw fail('PASSPHRASE_NEEDED', `the key file ${path} is sealed: give its passphrase`)
  const passphrase = await ask()
  const key = await stretch(passphrase, kdf)
  sodium.sodium_memzero(passphrase)
  const plain = Buffer.alloc(sealed.length - NONCE_BYTES - TAG_BYTES)
  try {
    sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(plain, null, sealed.subarray(NONCE_BYTES), associated(kdf), sealed.subarray(0, NONCE_BYTES), key)
  } catch (e) {
    throw fail('PASSPHRASE_WRONG', `the passphrase does not open the key file ${path}`, e)
  } finally {
    sodium.sodium_memzero(key)
  }
  try {
    const secrets = JSON.parse(plain.toString('utf8')) as unknown
    if (!isSecrets(secrets)) throw damaged(path)
    return secrets
  } finally {
    sodium.sodium_memzero(plain)
  }
}

async function stretch(passphrase: Buffer, kdf: Kdf): Promise<Buffer> {
  const key = Buffer.alloc(32)
  try {
    await sodium.crypto_pwhash_async(key, passphrase, Buffer.from(kdf.salt, 'base64'), kdf.passes, kdf.memoryBytes, sodium.crypto_pwhash_ALG_ARGON2ID13)
  } catch (e) {
    throw fail('STORE_DAMAGED', `the passphrase could not be stretched; is there ${Math.ceil(kdf.memoryBytes / 1048576)} MiB of free memory?`, e)
  }
  return key
}

/** A planted file must not make us spend all memory, or an hour. */
function checkCost(kdf: Kdf): Kdf {
  const { algorithm, passes, memoryBytes, salt } = kdf
  if (algorithm !== ALGORITHM) throw fail('STORE_NEWER', `the key file uses ${JSON.stringify(algorithm)}, which this dfs does not know; update dfs`)
  if (!Number.isSafeInteger(passes) || passes < 1 || passes > MAX_ARGON2_PASSES ||
      !Number.isSafeInteger(memoryBytes) || memoryBytes < sodium.crypto_pwhash_MEMLIMIT_MIN || memoryBytes > MAX_ARGON2_MEMORY_BYTES ||
      typeof salt !== 'string' || Buffer.from(salt, 'base64').length !== SALT_BYTES) {
    throw fail('STORE_DAMAGED', 'the key file asks for more work on the passphrase than is allowed, or for none')
  }
  return { algorithm, passes, memoryBytes, salt }
}

function associated(kdf: Kdf): Buffer {
  return Buffer.from(`dfs-key-file ${VERSION} ${kdf.algorithm} ${kdf.passes} ${kdf.memoryBytes} ${kdf.salt}`)
}

async function readKeyFile(path: string): Promise<KeyFile> {
  let handle: FileHandle
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') throw fail('STORE_MISSING', `there is no key file at ${path}`, e)
    throw fail('EACCES', `the key file ${path} cannot be opened (${code ?? String(e)})`, e)
  }
  let text: string
  try {
    const stat = await handle.stat()
    if (!stat.isFile() || stat.size > MAX_KEY_FILE_BYTES) throw damaged(path)
    if ((stat.mode & 0o077) !== 0) throw fail('EACCES', `others may read the key file; run: chmod 600 ${path}`)
    text = await handle.readFile('utf8')
  } finally {
    await handle.close()
  }
  let file: Partial<KeyFile>
  try {
    file = JSON.parse(text) as Partial<KeyFile>
  } catch (e) {
    throw damaged(path, e)
  }
  if (file === null || typeof file !== 'object' || file.format !== 'dfs-key-file' || typeof file.version !== 'number') throw damaged(path)
  if (file.version > VERSION) throw fail('STORE_NEWER', `the key file has format ${file.version}, this dfs knows ${VERSION}; update dfs`)
  if (typeof file.incarnation !== 'string' || (file.sealed !== undefined && typeof file.sealed !== 'string') || (file.kdf !== undefined && (file.kdf === null || typeof file.kdf !== 'object'))) throw damaged(path)
  return file as KeyFile
}

async function writeKeyFile(path: string, file: KeyFile): Promise<void> {
  const temporary = `${path}.new`
  await rm(temporary, { force: true })
  try {
    const handle = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600)
    try {
      await handle.writeFile(JSON.stringify(file, null, 2) + '\n')
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, path)
  } catch (e) {
    await rm(temporary, { force: true }).catch(() => undefined)
    const code = (e as NodeJS.ErrnoException).code
    throw fail(code === 'ENOSPC' ? 'ENOSPC' : 'EIO', `the key file ${path} cannot be written (${code ?? String(e)})`, e)
  }
  const dir = await open(dirname(path), constants.O_RDONLY)
  try {
    await dir.sync()
  } finally {
    await dir.close()
  }
}

function keysOf(secrets: Secrets, path: string): DriveKeys {
  try {
    return DriveKeys.fromCapability(secrets.key)
  } catch (e) {
    throw isDfsError(e, 'KEY_INVALID') ? fail('STORE_DAMAGED', `the key in ${path} is not valid: ${e.message}`, e) : e
  }
}

function isSecrets(value: unknown): value is Secrets {
  const s = value as Partial<Secrets> | null | undefined
  return typeof s === 'object' && s !== null && typeof s.key === 'string' && typeof s.deviceSeed === 'string'
}

function hex(text: string, bytes: number, path: string): Buffer {
  if (!/^[0-9a-f]*$/.test(text) || text.length !== bytes * 2) throw damaged(path)
  const out = Buffer.alloc(bytes)
  out.write(text, 'hex')
  return out
}

function damaged(path: string, cause?: unknown) {
  return fail('STORE_DAMAGED', `the key file ${path} is damaged; restore it from a copy, or join the drive again`, cause)
}
