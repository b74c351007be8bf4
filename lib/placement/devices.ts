/** What placement is computed from: the devices of the drive as its state has them, checked and in one order. */
import { fail } from '../errors.js'
import { encodeZ32 } from '../keys/zbase32.js'
import { MAX_COPIES, MAX_PLACED_DEVICES, MAX_ZONE_BYTES } from '../limits.js'

export interface PlacedDevice {
  /** 32 bytes: its public key. */
  readonly key: Buffer
  /** What it offers to the drive, in bytes; 0: nothing. Only ratios count. */
  readonly capacityBytes: number
  /** What may fail together: a house, a rack. '': nobody has said, so it is a zone of its own. Compared byte by byte. */
  readonly zone: string
  /** It is to hold nothing: it leaves, or was silent for too long. */
  readonly isDrained: boolean
}

const KEY_BYTES = 32

/** By key, whatever the order was. EINVAL for what no drive's state can say. */
export function inOrder<T extends PlacedDevice>(devices: readonly T[]): T[] {
  if (devices.length > MAX_PLACED_DEVICES) throw fail('EINVAL', `chunks can be placed on ${MAX_PLACED_DEVICES} devices at most, not on ${devices.length}`)
  for (const d of devices) {
    if (!Buffer.isBuffer(d.key) || d.key.length !== KEY_BYTES) throw fail('EINVAL', `the key of a device has ${KEY_BYTES} bytes`)
    const name = nameOf(d)
    if (!Number.isSafeInteger(d.capacityBytes) || d.capacityBytes < 0) throw fail('EINVAL', `the capacity of device ${name} is a whole number of bytes from 0 to 2^53 - 1, not ${d.capacityBytes}`)
    if (typeof d.zone !== 'string' || Buffer.byteLength(d.zone) > MAX_ZONE_BYTES) throw fail('EINVAL', `the zone of device ${name} is a name of at most ${MAX_ZONE_BYTES} bytes`)
    if (typeof d.isDrained !== 'boolean') throw fail('EINVAL', `device ${name} is either drained or not`)
  }
  const sorted = [...devices].sort((a, b) => a.key.compare(b.key))
  for (let i = 1; i < sorted.length; i++) {
    if (sorted[i]!.key.equals(sorted[i - 1]!.key)) throw fail('EINVAL', `device ${nameOf(sorted[i]!)} is there twice`)
  }
  return sorted
}

export function checkCopies(copies: number): void {
  if (!Number.isInteger(copies) || copies < 1 || copies > MAX_COPIES) throw fail('EINVAL', `the replication factor is a whole number from 1 to ${MAX_COPIES}, not ${copies}`)
}

/** Indices into `devices` of those that take part, by zone; zones in the order of their first device. */
export function byZone(devices: readonly PlacedDevice[]): number[][] {
  const zones: number[][] = []
  const named = new Map<string, number[]>()
  devices.forEach((d, i) => {
    if (d.isDrained || d.capacityBytes === 0) return
    const known = d.zone === '' ? undefined : named.get(d.zone)
    if (known) return void known.push(i)
    const zone = [i]
    zones.push(zone)
    if (d.zone !== '') named.set(d.zone, zone)
  })
  return zones
}

function nameOf(d: PlacedDevice): string { return encodeZ32(d.key).slice(0, 8) }
