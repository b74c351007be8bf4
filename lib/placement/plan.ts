/**
 * Where the chunks of a drive are to be, as its state says now: the placement of
 * its devices, seen by one of them. A value: another state is another plan.
 *
 * Devices tell each other the digest of theirs, so that each knows whether they
 * speak of the same; who cannot read the drive's state is given the plan as bytes.
 */
import blake from '@napi-rs/blake-hash'
import { fail } from '../errors.js'
import { MAX_COPIES, MAX_FACTORS, MAX_PLACED_DEVICES, MAX_ZONE_BYTES, PLACEMENT_GROUPS } from '../limits.js'
import { Reader, Writer } from '../log/codec.js'
import type { ChunkFactor } from '../store/factor-table.js'
import { inOrder, type PlacedDevice } from './devices.js'
import { groupOf, Placement } from './placement.js'

const VERSION = 2
const KEY_BYTES = 32

export interface PlanParts {
  devices: readonly PlacedDevice[]
  /** Copies of each chunk, from 1 to MAX_COPIES. */
  wanted: number
  /** Other numbers of copies that directories want of what is below them; what is more than MAX_FACTORS allows counts as the next larger. */
  others?: readonly number[]
  /** The key of the device that asks. */
  self: Buffer
  /** What directories want of a chunk: changes while the plan is the same. */
  factors?: { of(chunk: Buffer): ChunkFactor | undefined }
}

/**
 * Groups are numbered on from factor to factor: group g of the k-th factor is k * PLACEMENT_GROUPS + g.
 */
export class Plan {
  /** By the drive's factor. */
  readonly placement: Placement
  /** How many copies there are to be: the drive's factor, then the others, ascending. */
  readonly factors: readonly number[]
  /** 32 bytes. */
  readonly digest: Buffer
  /** What `decode` takes. */
  readonly bytes: Buffer
  /** Index into the placement's devices; -1: this device is not among them. */
  readonly self: number
  /** Of each device of the placement: its key, in hex. */
  readonly peers: readonly string[]
  readonly #placements: readonly Placement[]
  readonly #factorOf: (chunk: Buffer) => ChunkFactor | undefined
  /** Of each device, once somebody has asked for one. */
  #groups: Uint32Array[] | undefined
  /** 1 where the group is this device's. */
  #mine: Uint8Array | undefined

  /** EINVAL as Placement. */
  constructor({ devices, wanted, others = [], self, factors }: PlanParts) {
    const most = [...new Set(others)].filter((copies) => copies !== wanted).sort((a, b) => b - a).slice(0, MAX_FACTORS - 1)
    this.factors = [wanted, ...most.reverse()]
    this.#placements = this.factors.map((copies) => new Placement(devices, copies))
    this.placement = this.#placements[0]!
    this.#factorOf = this.factors.length > 1 && factors ? (chunk) => factors.of(chunk) : () => undefined
    const all = this.placement.devices
    this.self = all.findIndex((d) => d.key.equals(self))
    this.peers = all.map((d) => d.key.toString('hex'))
    this.bytes = encode(all, this.factors)
    this.digest = Buffer.from(blake.blake3(this.bytes))
  }

  /** EIO for what no plan is encoded as. */
  static decode(bytes: Buffer, self: Buffer, factors?: PlanParts['factors']): Plan {
    const r = new Reader(bytes)
    if (r.byte() !== VERSION) throw fail('EIO', 'a plan of another version')
    const copies: number[] = []
    for (let n = r.count(MAX_FACTORS); n > 0; n--) copies.push(r.byte())
    const devices: PlacedDevice[] = []
    for (let n = r.count(MAX_PLACED_DEVICES); n > 0; n--) {
      devices.push({ key: r.fixed(KEY_BYTES), capacityBytes: r.uint(), zone: r.bytes(MAX_ZONE_BYTES).toString(), isDrained: r.byte() === 1 })
    }
    const [wanted, ...others] = copies
    if (r.left !== 0 || wanted === undefined || copies.some((n) => n < 1 || n > MAX_COPIES) || !inOrder(devices).every((d, i) => d === devices[i])) throw fail('EIO', 'a plan that nobody has made')
    const plan = new Plan({ devices, wanted, others, self, ...(factors && { factors }) })
    if (!plan.bytes.equals(bytes)) throw fail('EIO', 'a plan that nobody has made')
    return plan
  }

  /** What this device offers; 0 if it takes no part. */
  get capacityBytes(): number { return this.isTakingPart ? this.placement.devices[this.self]!.capacityBytes : 0 }

  get isTakingPart(): boolean { return this.self >= 0 && !this.isDrained && this.placement.devices[this.self]!.capacityBytes > 0 }

  get isDrained(): boolean { return this.self >= 0 && this.placement.devices[this.self]!.isDrained }

  get groupCount(): number { return this.factors.length * PLACEMENT_GROUPS }

  groupOf(chunk: Buffer): number {
    const group = groupOf(chunk)
    const wanted = this.#factorOf(chunk)
    return wanted ? this.#indexOf(wanted) * PLACEMENT_GROUPS + group : group
  }

  #indexOf({ copies, isPlain }: ChunkFactor): number {
    const { factors } = this
    const wanted = isPlain ? Math.max(copies, factors[0]!) : copies
    // One that the plan does not know, for it changes a moment later: no fewer copies than that.
    let best = -1
    for (const [i, n] of factors.entries()) if (n >= wanted && (best < 0 || n < factors[best]!)) best = i
    return best >= 0 ? best : factors.length - 1
  }

  /** Copies that are wanted of the chunk. */
  copiesOf(chunk: Buffer): number { return this.factors[Math.floor(this.groupOf(chunk) / PLACEMENT_GROUPS)]! }

  /** Whether this device is to hold the chunk. */
  isMine(chunk: Buffer): boolean { return this.isMyGroup(this.groupOf(chunk)) }

  isMyGroup(group: number): boolean {
    if (!this.isTakingPart) return false
    if (!this.#mine) {
      this.#mine = new Uint8Array(this.groupCount)
      for (const mine of this.groupsOf(this.self)) this.#mine[mine] = 1
    }
    return this.#mine[group] === 1
  }

  /** As Placement.holders. */
  holders(group: number): number[] { return this.#placements[Math.floor(group / PLACEMENT_GROUPS)]!.holders(group % PLACEMENT_GROUPS) }

  /** All groups that a device of the placement is to hold, ascending. Computes the holders of all, the first time: 45 ms for ten devices. */
  groupsOf(device: number): Uint32Array {
    this.#groups ??= this.#byDevice()
    return this.#groups[device]!
  }

  #byDevice(): Uint32Array[] {
    const groups: number[][] = this.placement.devices.map(() => [])
    for (let group = 0; group < this.groupCount; group++) for (const i of this.holders(group)) groups[i]!.push(group)
    return groups.map((list) => Uint32Array.from(list))
  }

  /** The devices that are to hold the chunk, in hex. */
  holdersOf(chunk: Buffer): string[] { return this.holders(this.groupOf(chunk)).map((i) => this.peers[i]!) }
}

function encode(devices: readonly PlacedDevice[], factors: readonly number[]): Buffer {
  const w = new Writer(64 + devices.length * 64)
  w.byte(VERSION)
  w.uint(factors.length)
  for (const copies of factors) w.byte(copies)
  w.uint(devices.length)
  for (const d of devices) {
    w.fixed(d.key)
    w.uint(d.capacityBytes)
    w.bytes(Buffer.from(d.zone))
    w.byte(d.isDrained ? 1 : 0)
  }
  return w.take()
}
