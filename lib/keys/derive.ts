/**
 * The keys of a drive, each derived for one purpose (DESIGN: "Keys").
 *
 *   root ─┬─ authority key pair (Ed25519; the public half is the drive's id)
 *         └─ read secret ─┬─ content, content hash   (per epoch)
 *                         ├─ name, name hash, value, value hash, log, snapshot
 *                         └─ storage secret ── topic, proof
 *
 * Derivation: crypto_kdf (BLAKE2b with the subkey id as salt and the context as
 * personalization), subkey id = epoch where the key has one, else 0.
 *
 * All buffers own their memory (never slices of Node's pool), so that handing
 * one to a worker does not hand over its neighbours.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { formatKey, parseKey, type Capability, type KeyKind } from './capability.js'
import { encodeZ32 } from './zbase32.js'

/** Plain and structured-cloneable: all that a sealing worker gets to know. */
export interface WorkerKeys {
  driveId: Uint8Array
  epoch: number
  contentKey: Uint8Array
  contentHashKey: Uint8Array
}

interface Secrets { root?: Buffer; read?: Buffer; storage: Buffer }

export class DriveKeys {
  readonly kind: KeyKind
  /** Of the root secret in use; 0 until a device is removed. */
  readonly epoch: number
  /** 32 bytes: the Ed25519 public key of the drive's authority. */
  readonly driveId: Buffer
  /** 64 bytes: signs device enrolments. With the full key alone. */
  readonly authoritySecretKey?: Buffer
  /** 32 bytes each; absent with a storage key. */
  readonly nameKey?: Buffer
  readonly nameHashKey?: Buffer
  readonly valueKey?: Buffer
  readonly valueHashKey?: Buffer
  readonly logKey?: Buffer
  readonly snapshotKey?: Buffer
  /** 32 bytes each, with every kind of key. */
  readonly storageSecret: Buffer
  /** Announced on the DHT; a hash, so it gives nothing away but itself. */
  readonly topic: Buffer
  /** Proves membership to a peer: a MAC with it over the handshake's hash. */
  readonly proofKey: Buffer

  readonly #secrets: Secrets
  readonly #content: Buffer | undefined
  readonly #contentHash: Buffer | undefined

  private constructor(kind: KeyKind, epoch: number, driveId: Buffer, secrets: Secrets, authoritySecretKey?: Buffer) {
    this.kind = kind
    this.epoch = epoch
    this.driveId = driveId
    this.#secrets = secrets
    if (authoritySecretKey) this.authoritySecretKey = authoritySecretKey
    if (secrets.read) {
      this.#content = subkey(secrets.read, 'dfs-cont', epoch)
      this.#contentHash = subkey(secrets.read, 'dfschash', epoch)
      this.nameKey = subkey(secrets.read, 'dfs-name')
      this.nameHashKey = subkey(secrets.read, 'dfsnhash')
      this.valueKey = subkey(secrets.read, 'dfsvalue')
      this.valueHashKey = subkey(secrets.read, 'dfsvhash')
      this.logKey = subkey(secrets.read, 'dfs-logs')
      this.snapshotKey = subkey(secrets.read, 'dfs-snap')
    }
    this.storageSecret = secrets.storage
    this.topic = subkey(secrets.storage, 'dfstopic')
    this.proofKey = subkey(secrets.storage, 'dfsproof')
  }

  /** A new drive: 32 random bytes as its root secret. */
  static create(): DriveKeys {
    const root = Buffer.alloc(32)
    sodium.randombytes_buf(root)
    return DriveKeys.fromRoot(root)
  }

  /** `root`: 32 bytes. The buffer is kept. */
  static fromRoot(root: Buffer): DriveKeys {
    return DriveKeys.fromCapability({ kind: 'full', epoch: 0, root })
  }

  /** Takes a key string or what parseKey gave. KEY_INVALID as parseKey, or for an epoch that this version cannot derive. */
  static fromCapability(key: Capability | string): DriveKeys {
    const cap = typeof key === 'string' ? parseKey(key) : key
    // From epoch 1 on the root is a new random one, and the drive's id no longer follows from it.
    if (cap.epoch !== 0) throw fail('KEY_INVALID', 'the key belongs to a later epoch of the drive; update dfs')
    if (cap.kind === 'full') {
      if (cap.root.length !== 32) throw fail('KEY_INVALID', 'a root secret has 32 bytes')
      const publicKey = Buffer.alloc(32)
      const secretKey = Buffer.alloc(64)
      const seed = subkey(cap.root, 'dfsauthr')
      sodium.crypto_sign_seed_keypair(publicKey, secretKey, seed)
      sodium.sodium_memzero(seed)
      const read = subkey(cap.root, 'dfs-read')
      return new DriveKeys('full', 0, publicKey, { root: cap.root, read, storage: subkey(read, 'dfs-stor') }, secretKey)
    }
    if (cap.kind === 'read-only') {
      return new DriveKeys('read-only', 0, cap.driveId, { read: cap.readSecret, storage: subkey(cap.readSecret, 'dfs-stor') })
    }
    return new DriveKeys('storage', 0, cap.driveId, { storage: cap.storageSecret })
  }

  get canRead(): boolean { return this.#secrets.read !== undefined }
  get canWrite(): boolean { return this.kind === 'full' }

  /** The drive's id as people see it: z-base-32 of 32 bytes, 52 characters. */
  get driveName(): string { return encodeZ32(this.driveId) }

  /** Seals chunks. 32 bytes. KEY_KIND with a storage key, or for an epoch whose secret is not held. */
  contentKey(epoch = this.epoch): Buffer { return this.#ofEpoch(this.#content, epoch) }

  /** Hashes plaintext chunks and shapes their boundaries. As contentKey. */
  contentHashKey(epoch = this.epoch): Buffer { return this.#ofEpoch(this.#contentHash, epoch) }

  /** For sealing workers. KEY_KIND with a storage key. */
  forWorkers(epoch = this.epoch): WorkerKeys {
    return { driveId: this.driveId, epoch, contentKey: this.contentKey(epoch), contentHashKey: this.contentHashKey(epoch) }
  }

  /** The string to give away for this kind of access (default: all that is held). KEY_KIND if this key does not include it. */
  capability(kind: KeyKind = this.kind): string {
    const { root, read, storage } = this.#secrets
    if (kind === 'full' && root) return formatKey('full', { root }, this.epoch)
    if (kind === 'read-only' && read) return formatKey('read-only', { driveId: this.driveId, readSecret: read }, this.epoch)
    if (kind === 'storage') return formatKey('storage', { driveId: this.driveId, storageSecret: storage }, this.epoch)
    throw fail('KEY_KIND', `this store holds the ${this.kind} key; the ${kind} key cannot be made from it`)
  }

  #ofEpoch(key: Buffer | undefined, epoch: number): Buffer {
    if (!key) throw fail('KEY_KIND', 'a storage key cannot read the drive')
    if (epoch !== this.epoch) throw fail('KEY_KIND', `this store does not hold the keys of epoch ${epoch}`)
    return key
  }
}

function subkey(key: Buffer, context: string, id = 0): Buffer {
  const out = Buffer.alloc(32)
  sodium.crypto_kdf_derive_from_key(out, id, Buffer.from(context, 'latin1'), key)
  return out
}
