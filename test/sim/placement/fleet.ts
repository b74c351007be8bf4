/** Devices as they are bought: a few sizes, the large ones rarer. */
import blake from '@napi-rs/blake-hash'
import { PLACEMENT_GROUPS } from '../../../lib/limits.js'
import type { PlacedDevice, Placement } from '../../../lib/placement/placement.js'

const TB = 1e12
const SIZES_BYTES = [2 * TB, 4 * TB, 4 * TB, 8 * TB, 8 * TB, 16 * TB]

export interface SimDevice extends PlacedDevice {
  /** Counted up as devices come; never used again. */
  readonly uid: number
}

export class Fleet {
  readonly #random: () => number
  #next = 0

  constructor(random: () => number) { this.#random = random }

  device(zone = '', capacityBytes = SIZES_BYTES[Math.floor(this.#random() * SIZES_BYTES.length)]!): SimDevice {
    const uid = this.#next++
    return { uid, key: blake.blake3(`device ${uid}`), capacityBytes, zone, isDrained: false }
  }

  /** `perZone`: devices of each zone; 0: each is a zone of its own. */
  devices(count: number, perZone = 0): SimDevice[] {
    return Array.from({ length: count }, (_, i) => this.device(perZone === 0 ? '' : `zone ${Math.floor(i / perZone)}`))
  }
}

/** Of each device: chunks that it holds, by the placement. */
export function loads(placement: Placement, chunks: Uint32Array): Float64Array {
  const held = new Float64Array(placement.devices.length)
  for (let g = 0; g < PLACEMENT_GROUPS; g++) for (const holder of placement.holders(g)) held[holder]! += chunks[g]!
  return held
}
