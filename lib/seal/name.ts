/**
 * Names: found by a keyed hash of (parent, name), stored sealed.
 *
 * Sealing is deterministic: the nonce is the 16-byte keyed BLAKE2b of the
 * parent's id and the name, then 8 zero bytes, as in SIV (RFC 5297): the nonce is
 * a PRF of the whole message under a key of its own. Two sealings share a nonce
 * only if the hash is the same, which is the same name in the same directory and
 * thus the same ciphertext; it betrays no more than the hash itself, which is the
 * index key anyway. By accident: 2^40 names collide with odds below 2^-48.
 * So neither nonce nor hash is repeated beside the ciphertext.
 *
 * Called for every lookup: scratch buffers and views of them are kept.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { MAX_GLOBAL_ID_BYTES, MAX_NAME_BYTES } from '../limits.js'
import type { DriveKeys } from '../keys/derive.js'

export const NAME_HASH_BYTES = 16
const TAG_BYTES = 16
const hash = sodium.crypto_generichash
const seal = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt
const open = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt

export class NameSealer {
  readonly #nameKey: Buffer
  readonly #hashKey: Buffer
  readonly #nonce = Buffer.alloc(24)
  /** len(parent) || parent || name */
  readonly #message = Buffer.alloc(1 + MAX_GLOBAL_ID_BYTES + MAX_NAME_BYTES)
  /** #views[n]: the first n bytes of #message; subarray() costs a third of the hash. */
  readonly #views: Buffer[] = []

  /** KEY_KIND with a storage key. */
  constructor(keys: Pick<DriveKeys, 'nameKey' | 'nameHashKey'>) {
    if (!keys.nameKey || !keys.nameHashKey) throw fail('KEY_KIND', 'a storage key cannot read names')
    this.#nameKey = keys.nameKey
    this.#hashKey = keys.nameHashKey
    for (let n = 0; n <= this.#message.length; n++) this.#views.push(this.#message.subarray(0, n))
  }

  /**
   * The index key of `name` under the directory `parentId` (its global id, at
   * most 24 bytes): 16 bytes, into `out` if given. ENAMETOOLONG above 255 bytes.
   */
  hash(parentId: Uint8Array, name: Uint8Array, out: Buffer = Buffer.allocUnsafe(NAME_HASH_BYTES)): Buffer {
    if (name.length > MAX_NAME_BYTES) throw fail('ENAMETOOLONG', `a name has at most ${MAX_NAME_BYTES} bytes`)
    const parentLength = parentId.length
    if (parentLength > MAX_GLOBAL_ID_BYTES) throw fail('EINVAL', `an inode id has at most ${MAX_GLOBAL_ID_BYTES} bytes`)
    const message = this.#message
    message[0] = parentLength
    message.set(parentId, 1)
    message.set(name, 1 + parentLength)
    hash(out, this.#views[1 + parentLength + name.length]!, this.#hashKey)
    return out
  }

  /** Ciphertext and tag: name.length + 16 bytes. `nameHash` must be hash(parent, name). */
  seal(nameHash: Uint8Array, name: Buffer): Buffer {
    const out = Buffer.allocUnsafe(name.length + TAG_BYTES)
    this.#setNonce(nameHash)
    seal(out, name, null, null, this.#nonce, this.#nameKey)
    return out
  }

  /** EIO 'name damaged' unless it is what was sealed under this hash. */
  open(nameHash: Uint8Array, sealed: Uint8Array): Buffer {
    const length = sealed.length - TAG_BYTES
    if (length < 0 || length > MAX_NAME_BYTES) throw fail('EIO', 'name damaged')
    const out = Buffer.allocUnsafe(length)
    this.#setNonce(nameHash)
    try {
      open(out, null, sealed, null, this.#nonce, this.#nameKey)
    } catch (e) {
      throw fail('EIO', 'name damaged', e)
    }
    return out
  }

  #setNonce(nameHash: Uint8Array): void {
    if (nameHash.length !== NAME_HASH_BYTES) throw fail('EINVAL', 'a name hash has 16 bytes')
    // A loop is faster than set() at this size.
    const nonce = this.#nonce
    for (let i = 0; i < NAME_HASH_BYTES; i++) nonce[i] = nameHash[i]!
  }
}
