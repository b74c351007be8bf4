/** The part of sodium-native 5 that dfs uses; the package has no types of its own. */
declare module 'sodium-native' {
  type Bytes = Uint8Array
  interface Sodium {
    readonly crypto_aead_xchacha20poly1305_ietf_ABYTES: number
    readonly crypto_pwhash_ALG_ARGON2ID13: number
    readonly crypto_pwhash_SALTBYTES: number
    readonly crypto_pwhash_MEMLIMIT_MIN: number
    randombytes_buf(out: Bytes): void
    sodium_memzero(buf: Bytes): void
    /** Equal length, or it throws. */
    sodium_memcmp(a: Bytes, b: Bytes): boolean
    crypto_generichash(out: Bytes, input: Bytes, key?: Bytes): void
    crypto_generichash_batch(out: Bytes, inputs: Bytes[], key?: Bytes): void
    crypto_kdf_derive_from_key(subkey: Bytes, subkeyId: number, context: Bytes, key: Bytes): void
    crypto_aead_xchacha20poly1305_ietf_encrypt(out: Bytes, plain: Bytes, ad: Bytes | null, nsec: null, nonce: Bytes, key: Bytes): number
    /** Throws when the tag does not match. */
    crypto_aead_xchacha20poly1305_ietf_decrypt(out: Bytes, nsec: null, sealed: Bytes, ad: Bytes | null, nonce: Bytes, key: Bytes): number
    crypto_sign_keypair(publicKey: Bytes, secretKey: Bytes): void
    crypto_sign_seed_keypair(publicKey: Bytes, secretKey: Bytes, seed: Bytes): void
    crypto_sign_detached(signature: Bytes, message: Bytes, secretKey: Bytes): void
    crypto_sign_verify_detached(signature: Bytes, message: Bytes, publicKey: Bytes): boolean
    crypto_pwhash_async(out: Bytes, password: Bytes, salt: Bytes, passes: number, memoryBytes: number, algorithm: number): Promise<void>
    readonly crypto_secretstream_xchacha20poly1305_ABYTES: number
    readonly crypto_secretstream_xchacha20poly1305_HEADERBYTES: number
    readonly crypto_secretstream_xchacha20poly1305_STATEBYTES: number
    readonly crypto_secretstream_xchacha20poly1305_TAG_MESSAGE: Bytes
    crypto_secretstream_xchacha20poly1305_init_push(state: Bytes, header: Bytes, key: Bytes): void
    crypto_secretstream_xchacha20poly1305_init_pull(state: Bytes, header: Bytes, key: Bytes): void
    crypto_secretstream_xchacha20poly1305_push(state: Bytes, sealed: Bytes, plain: Bytes, ad: Bytes | null, tag: Bytes): void
    /** Throws when the tag does not match. `plain` may lie in `sealed`, from its second byte on. */
    crypto_secretstream_xchacha20poly1305_pull(state: Bytes, plain: Bytes, tag: Bytes, sealed: Bytes, ad: Bytes | null): void
    crypto_stream_xor(out: Bytes, input: Bytes, nonce: Bytes, key: Bytes): void
  }
  const sodium: Sodium
  export default sodium
}
