/**
 * Who a device is: an Ed25519 key pair for life, and an incarnation: the author
 * of one unbroken log. A device that lost some of its own log (power loss, a
 * restored backup) goes on as a new incarnation under the same key.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'

export interface Device {
  /** 32 bytes; also the device's Noise static key. */
  publicKey: Buffer
  /** 64 bytes. */
  secretKey: Buffer
  /** 16 random bytes. */
  incarnation: Buffer
}

export function createDevice(): Device {
  const seed = Buffer.alloc(32)
  sodium.randombytes_buf(seed)
  const device = deviceFromSeed(seed, newIncarnation())
  sodium.sodium_memzero(seed)
  return device
}

/** 16 random bytes. */
export function newIncarnation(): Buffer {
  const id = Buffer.alloc(16)
  sodium.randombytes_buf(id)
  return id
}

/** `seed`: 32 bytes, as deviceSeed gives it; `incarnation`: 16 bytes. STORE_DAMAGED for other lengths. */
export function deviceFromSeed(seed: Uint8Array, incarnation: Buffer): Device {
  if (seed.length !== 32 || incarnation.length !== 16) throw fail('STORE_DAMAGED', 'the stored device identity has a wrong length')
  const publicKey = Buffer.alloc(32)
  const secretKey = Buffer.alloc(64)
  sodium.crypto_sign_seed_keypair(publicKey, secretKey, seed)
  return { publicKey, secretKey, incarnation }
}

/** The 32 bytes that the key pair follows from; a view into the secret key. */
export function deviceSeed(device: Device): Buffer {
  return device.secretKey.subarray(0, 32)
}
