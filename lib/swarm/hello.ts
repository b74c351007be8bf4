/**
 * What a device says of itself in the handshake: which key it holds, its name,
 * and its certificate if it has one.
 */
import type { KeyKind } from '../keys/capability.js'
import { Reader, Writer } from '../log/codec.js'
import { MAX_DEVICE_NAME_BYTES } from '../limits.js'
import { MAX_CERTIFICATE_BYTES } from './messages.js'

export interface Hello {
  kind: KeyKind
  name: string
  certificate: Buffer | undefined
}

const VERSION = 1
const KINDS: KeyKind[] = ['full', 'read-only', 'storage']

export function writeHello(h: Hello): Buffer {
  const w = new Writer(256)
  w.byte(VERSION)
  w.byte(KINDS.indexOf(h.kind))
  w.bytes(Buffer.from(h.name).subarray(0, MAX_DEVICE_NAME_BYTES))
  w.bytes(h.certificate ?? Buffer.alloc(0))
  return w.take()
}

/** Undefined for what no dfs writes. Later versions may add fields at the end. */
export function readHello(bytes: Buffer): Hello | undefined {
  try {
    const r = new Reader(bytes)
    if (r.byte() < VERSION) return undefined
    const kind = KINDS[r.byte()]
    const name = r.bytes(MAX_DEVICE_NAME_BYTES).toString()
    const certificate = r.bytes(MAX_CERTIFICATE_BYTES)
    return kind && { kind, name, certificate: certificate.length ? certificate : undefined }
  } catch {
    return undefined
  }
}
