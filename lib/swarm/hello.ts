/**
 * What a device says of itself in the handshake: which key it holds, its name,
 * and its certificate if it has one.
 */
import type { KeyKind } from '../keys/capability.js'
import { MAX_TOLD_ENDED, type DeviceView } from '../log/asides.js'
import { Reader, Writer } from '../log/codec.js'
import { MAX_DEVICE_NAME_BYTES } from '../limits.js'
import { MAX_CERTIFICATE_BYTES } from './messages.js'

export interface Hello {
  kind: KeyKind
  name: string
  certificate: Buffer | undefined
  /** Of a device that may write. */
  view?: DeviceView
}

const VERSION = 1
const KINDS: KeyKind[] = ['full', 'read-only', 'storage']

export function writeHello(h: Hello): Buffer {
  const w = new Writer(256)
  w.byte(VERSION)
  w.byte(KINDS.indexOf(h.kind))
  w.bytes(Buffer.from(h.name).subarray(0, MAX_DEVICE_NAME_BYTES))
  w.bytes(h.certificate ?? Buffer.alloc(0))
  if (h.view) {
    w.uint(h.view.writers)
    w.fixed(h.view.first)
    const ended = h.view.ended.slice(0, MAX_TOLD_ENDED)
    w.uint(ended.length)
    for (const id of ended) w.fixed(id)
  }
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
    const view = r.left > 0 ? readView(r) : undefined
    return kind && { kind, name, certificate: certificate.length ? certificate : undefined, ...(view && { view }) }
  } catch {
    return undefined
  }
}

function readView(r: Reader): DeviceView {
  const writers = r.uint()
  const first = r.fixed(32)
  const ended: Buffer[] = []
  for (let n = r.count(MAX_TOLD_ENDED); n > 0; n--) ended.push(r.fixed(16))
  return { writers, first, ended }
}
