/**
 * Snapshots: pieces of rows, sealed, and the signature over what a snapshot is.
 * docs/format.md, "Snapshot".
 *
 * Piece: nonce (24 random bytes) || XChaCha20-Poly1305, associated data = drive
 * id || snapshot id || number of the piece, so that none can stand in for another.
 * Signature: Ed25519 over a domain prefix and the head.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import type { DriveKeys } from '../keys/derive.js'
import { openRandom, RANDOM_NONCE_OVERHEAD_BYTES, sealRandom } from './random-nonce.js'

export const SNAPSHOT_ID_BYTES = 16
export const SNAPSHOT_SIGNATURE_BYTES = 64
export const PIECE_OVERHEAD_BYTES = RANDOM_NONCE_OVERHEAD_BYTES
const DOMAIN = Buffer.from('dfs snapshot 1\0', 'latin1')

export class SnapshotSealer {
  readonly #key: Buffer
  readonly #driveId: Buffer

  /** KEY_KIND with a storage key: it keeps snapshots, and cannot read them. */
  constructor(keys: Pick<DriveKeys, 'snapshotKey' | 'driveId'>) {
    if (!keys.snapshotKey) throw fail('KEY_KIND', 'a storage key cannot read a snapshot')
    this.#key = keys.snapshotKey
    this.#driveId = keys.driveId
  }

  /** plain.length + 40 bytes. `n`: 0, 1, 2, ... within the snapshot. */
  seal(id: Buffer, n: number, plain: Buffer): Buffer {
    return sealRandom(this.#key, plain, this.#aad(id, n))
  }

  /** EIO unless a holder of the read secret has sealed it as this piece of this snapshot. */
  open(id: Buffer, n: number, sealed: Buffer): Buffer {
    try {
      return openRandom(this.#key, sealed, this.#aad(id, n))
    } catch (e) {
      throw fail('EIO', 'a piece of a snapshot is damaged', e)
    }
  }

  #aad(id: Buffer, n: number): Buffer {
    const at = Buffer.alloc(8)
    at.writeUIntLE(n, 0, 6)
    return Buffer.concat([this.#driveId, id, at])
  }
}

/** 64 bytes. `deviceSecretKey`: 64 bytes (Device.secretKey). */
export function signSnapshot(head: Buffer, deviceSecretKey: Buffer): Buffer {
  const signature = Buffer.allocUnsafe(SNAPSHOT_SIGNATURE_BYTES)
  sodium.crypto_sign_detached(signature, Buffer.concat([DOMAIN, head]), deviceSecretKey)
  return signature
}

/** Whether the device with this public key (32 bytes) signed the head. */
export function verifySnapshot(head: Buffer, signature: Buffer, devicePublicKey: Buffer): boolean {
  return signature.length === SNAPSHOT_SIGNATURE_BYTES && sodium.crypto_sign_verify_detached(signature, Buffer.concat([DOMAIN, head]), devicePublicKey)
}
