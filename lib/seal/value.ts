/**
 * Small values in the index: symlink targets, names and values of extended
 * attributes. Sealed with a random 192-bit nonce: nonce (24) || ciphertext || tag (16).
 * The associated data names drive, purpose and context (what the value belongs
 * to), so that a value cannot be moved to another place.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import type { DriveKeys } from '../keys/derive.js'
import { openRandom, RANDOM_NONCE_OVERHEAD_BYTES, sealRandom } from './random-nonce.js'

/** Stored in the associated data: numbers are part of the format. */
const PURPOSES = { symlink: 1, 'xattr-name': 2, 'xattr-value': 3, meta: 4 } as const
export type ValuePurpose = keyof typeof PURPOSES

/** What sealing adds: nonce and tag. */
export const VALUE_OVERHEAD_BYTES = RANDOM_NONCE_OVERHEAD_BYTES

export class ValueSealer {
  readonly #key: Buffer
  readonly #hashKey: Buffer
  readonly #driveId: Buffer

  /** KEY_KIND with a storage key. */
  constructor(keys: Pick<DriveKeys, 'valueKey' | 'valueHashKey' | 'driveId'>) {
    if (!keys.valueKey || !keys.valueHashKey) throw fail('KEY_KIND', 'a storage key cannot read values')
    this.#key = keys.valueKey
    this.#hashKey = keys.valueHashKey
    this.#driveId = keys.driveId
  }

  /** `context`: what it belongs to, e.g. the inode's global id. plain.length + 40 bytes. */
  sealValue(purpose: ValuePurpose, context: Uint8Array, plain: Buffer): Buffer {
    return sealRandom(this.#key, plain, this.#ad(purpose, context))
  }

  /** EIO 'value damaged' unless it was sealed for this purpose and context. */
  openValue(purpose: ValuePurpose, context: Uint8Array, sealed: Buffer): Buffer {
    try {
      return openRandom(this.#key, sealed, this.#ad(purpose, context))
    } catch (e) {
      throw fail('EIO', 'value damaged', e)
    }
  }

  /** 16 bytes by which an attribute's name is found within `context`: keyed BLAKE2b. */
  hashValueName(context: Uint8Array, name: Uint8Array): Buffer {
    const out = Buffer.allocUnsafe(16)
    const message = Buffer.allocUnsafe(1 + context.length + name.length)
    message[0] = context.length
    message.set(context, 1)
    message.set(name, 1 + context.length)
    sodium.crypto_generichash(out, message, this.#hashKey)
    return out
  }

  #ad(purpose: ValuePurpose, context: Uint8Array): Buffer {
    const ad = Buffer.allocUnsafe(33 + context.length)
    ad[0] = PURPOSES[purpose]
    ad.set(this.#driveId, 1)
    ad.set(context, 33)
    return ad
  }
}

