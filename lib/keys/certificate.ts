/**
 * Device certificates: the drive's authority says that a device belongs to it.
 * A holder of the full key makes them, for itself (enrolment) and for others.
 * Anyone who knows the drive's id can verify one. docs/format.md, "Device certificate".
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { MAX_DEVICE_NAME_BYTES } from '../limits.js'
import type { KeyKind } from './capability.js'
import type { DriveKeys } from './derive.js'

export interface Certificate {
  /** 32 bytes: the device's public key. */
  device: Buffer
  role: KeyKind
  epoch: number
  /** Of the device, at most MAX_DEVICE_NAME_BYTES; for people. */
  name: string
}

const CONTEXT = Buffer.from('dfs device certificate 1\0')
const VERSION = 1
const ROLES: KeyKind[] = ['full', 'read-only', 'storage']
const SIGNATURE_BYTES = 64
const FIXED_BYTES = 1 + 32 + 32 + 1 + 2 + 1

/** KEY_KIND without the full key; EINVAL for a name that is too long. */
export function certify(keys: DriveKeys, of: { device: Buffer; role: KeyKind; name: string }): Buffer {
  if (!keys.authoritySecretKey) throw fail('KEY_KIND', 'only the full key can enrol a device')
  const name = Buffer.from(of.name)
  if (name.length > MAX_DEVICE_NAME_BYTES) throw fail('EINVAL', `the name of a device has at most ${MAX_DEVICE_NAME_BYTES} bytes`)
  const body = Buffer.concat([
    Buffer.from([VERSION]), keys.driveId, of.device, Buffer.from([ROLES.indexOf(of.role), keys.epoch & 255, keys.epoch >> 8, name.length]), name,
  ])
  const signature = Buffer.alloc(SIGNATURE_BYTES)
  sodium.crypto_sign_detached(signature, Buffer.concat([CONTEXT, body]), keys.authoritySecretKey)
  return Buffer.concat([body, signature])
}

/** Undefined unless the authority of this drive has signed it. */
export function readCertificate(bytes: Buffer, driveId: Buffer): Certificate | undefined {
  if (bytes.length < FIXED_BYTES + SIGNATURE_BYTES || bytes[0] !== VERSION) return undefined
  const body = bytes.subarray(0, bytes.length - SIGNATURE_BYTES)
  if (!body.subarray(1, 33).equals(driveId)) return undefined
  const role = ROLES[body[65]!]
  const length = body[68]!
  if (role === undefined || length > MAX_DEVICE_NAME_BYTES || body.length !== FIXED_BYTES + length) return undefined
  if (!sodium.crypto_sign_verify_detached(bytes.subarray(body.length), Buffer.concat([CONTEXT, body]), driveId)) return undefined
  return { device: Buffer.from(body.subarray(33, 65)), role, epoch: body.readUInt16LE(66), name: body.subarray(FIXED_BYTES).toString() }
}
