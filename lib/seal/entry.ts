/**
 * Log entries: the sealed ops, and the signature over the header.
 *
 * Ops: nonce (24 random bytes) || XChaCha20-Poly1305, associated data = the
 * header's bytes as they are before the hash of the sealed ops joins them.
 * Signature: Ed25519 over a domain prefix and the whole header (which holds the
 * hash of the sealed ops), so that a signature over anything else of the drive
 * can never pass for an entry.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { MAX_ENTRY_OPS_BYTES } from '../limits.js'
import type { DriveKeys } from '../keys/derive.js'
import { openRandom, RANDOM_NONCE_OVERHEAD_BYTES, sealRandom } from './random-nonce.js'

export const SIGNATURE_BYTES = 64
export const OPS_OVERHEAD_BYTES = RANDOM_NONCE_OVERHEAD_BYTES
const DOMAIN = Buffer.from('dfs log entry 1\0', 'latin1')

export class EntrySealer {
  readonly #key: Buffer

  /** KEY_KIND with a storage key: it keeps entries, and cannot read them. */
  constructor(keys: Pick<DriveKeys, 'logKey'>) {
    if (!keys.logKey) throw fail('KEY_KIND', 'a storage key cannot read the log')
    this.#key = keys.logKey
  }

  /** plain.length + 40 bytes. E2BIG above MAX_ENTRY_OPS_BYTES. */
  sealOps(plain: Buffer, aad: Buffer): Buffer {
    if (plain.length > MAX_ENTRY_OPS_BYTES) throw fail('E2BIG', `the ops of an entry have at most ${MAX_ENTRY_OPS_BYTES} bytes, not ${plain.length}`)
    return sealRandom(this.#key, plain, aad)
  }

  /** EIO 'log entry damaged' unless it was sealed with this header by a holder of the log key. */
  openOps(sealed: Buffer, aad: Buffer): Buffer {
    const length = sealed.length - OPS_OVERHEAD_BYTES
    if (length < 0 || length > MAX_ENTRY_OPS_BYTES) throw fail('EIO', 'log entry damaged')
    try {
      return openRandom(this.#key, sealed, aad)
    } catch (e) {
      throw fail('EIO', 'log entry damaged', e)
    }
  }
}

/** 64 bytes. `deviceSecretKey`: 64 bytes (Device.secretKey). */
export function signEntry(headerBytes: Buffer, deviceSecretKey: Buffer): Buffer {
  const signature = Buffer.allocUnsafe(SIGNATURE_BYTES)
  sodium.crypto_sign_detached(signature, Buffer.concat([DOMAIN, headerBytes]), deviceSecretKey)
  return signature
}

/** Whether the device with this public key (32 bytes) signed the header. False for keys and signatures of a wrong length. */
export function verifyEntry(headerBytes: Buffer, signature: Buffer, devicePublicKey: Buffer): boolean {
  if (signature.length !== SIGNATURE_BYTES || devicePublicKey.length !== 32) return false
  return sodium.crypto_sign_verify_detached(signature, Buffer.concat([DOMAIN, headerBytes]), devicePublicKey)
}
