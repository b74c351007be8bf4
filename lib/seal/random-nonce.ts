/** XChaCha20-Poly1305 with a random 192-bit nonce: nonce (24) || ciphertext || tag (16). Keys and associated data are the caller's. */
import sodium from 'sodium-native'

const NONCE_BYTES = 24
/** What sealing adds: nonce and tag. */
export const RANDOM_NONCE_OVERHEAD_BYTES = NONCE_BYTES + 16

export function sealRandom(key: Buffer, plain: Buffer, ad: Buffer): Buffer {
  const out = Buffer.allocUnsafe(plain.length + RANDOM_NONCE_OVERHEAD_BYTES)
  const nonce = out.subarray(0, NONCE_BYTES)
  sodium.randombytes_buf(nonce)
  sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(out.subarray(NONCE_BYTES), plain, ad, null, nonce, key)
  return out
}

/** Throws unless it was sealed with this key and associated data. */
export function openRandom(key: Buffer, sealed: Buffer, ad: Buffer): Buffer {
  if (sealed.length < RANDOM_NONCE_OVERHEAD_BYTES) throw new Error('it is too short')
  const out = Buffer.allocUnsafe(sealed.length - RANDOM_NONCE_OVERHEAD_BYTES)
  sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(out, null, sealed.subarray(NONCE_BYTES), ad, sealed.subarray(0, NONCE_BYTES), key)
  return out
}
