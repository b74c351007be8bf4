/**
 * Where the chunks of a drive are to be, as its state says now: the placement of
 * its devices, seen by one of them. A value: another state is another plan.
 *
 * Devices tell each other the digest of theirs, so that each knows whether they
 * speak of the same; who cannot read the drive's state is given the plan as bytes.
 */
import blake from '@napi-rs/blake-hash'
import { fail } from '../errors.js'
import { MAX_COPIES, MAX_PLACED_DEVICES, MAX_ZONE_BYTES, PLACEMENT_GROUPS } from '../limits.js'
import { Reader, Writer } from '../log/codec.js'
import { inOrder, type PlacedDevice } from './devices.js'
import { groupOf, Placement } from './placement.js'

const VERSION = 1
const KEY_BYTES = 32

export class Plan {
  readonly placement: Placement
  /** 32 bytes. */
  readonly digest: Buffer
  /** What `decode` takes. */
  readonly bytes: Buffer
  /** Index into the placement's devices; -1: this device is not among them. */
  readonly self: number
  /** Of each device of the placement: its key, in hex. */
  readonly peers: readonly string[]
  /** Of each device, once somebody has asked for one. */
  #groups: Uint16Array[] | undefined
  /** 1 where the group is this device's. */
  #mine: Uint8Array | undefined

  /** As Placement. `self`: the key of the device that asks. */
  constructor(devices: readonly PlacedDevice[], wanted: number, self: Buffer) {
    this.placement = new Placement(devices, wanted)
    const all = this.placement.devices
    this.self = all.findIndex((d) => d.key.equals(self))
    this.peers = all.map((d) => d.key.toString('hex'))
    this.bytes = encode(all, wanted)
    this.digest = Buffer.from(blake.blake3(this.bytes))
  }

  /** EIO for what no plan is encoded as. */
  static decode(bytes: Buffer, self: Buffer): Plan {
    const r = new Reader(bytes)
    if (r.byte() !== VERSION) throw fail('EIO', 'a plan of another version')
    const wanted = r.byte()
    const devices: PlacedDevice[] = []
    for (let n = r.count(MAX_PLACED_DEVICES); n > 0; n--) {
      devices.push({ key: r.fixed(KEY_BYTES), capacityBytes: r.uint(), zone: r.bytes(MAX_ZONE_BYTES).toString(), isDrained: r.byte() === 1 })
    }
    if (r.left !== 0 || wanted < 1 || wanted > MAX_COPIES || !inOrder(devices).every((d, i) => d === devices[i])) throw fail('EIO', 'a plan that nobody has made')
    const plan = new Plan(devices, wanted, self)
    if (!plan.bytes.equals(bytes)) throw fail('EIO', 'a plan that nobody has made')
    return plan
  }

  /** What this device offers; 0 if it takes no part. */
  get capacityBytes(): number { return this.isTakingPart ? this.placement.devices[this.self]!.capacityBytes : 0 }

  get isTakingPart(): boolean { return this.self >= 0 && !this.isDrained && this.placement.devices[this.self]!.capacityBytes > 0 }

  get isDrained(): boolean { return this.self >= 0 && this.placement.devices[this.self]!.isDrained }

  /** Whether this device is to hold the chunk. */
  isMine(chunk: Buffer): boolean { return this.isMyGroup(groupOf(chunk)) }

  isMyGroup(group: number): boolean {
    if (!this.isTakingPart) return false
    if (!this.#mine) {
      this.#mine = new Uint8Array(PLACEMENT_GROUPS)
      for (const mine of this.groupsOf(this.self)) this.#mine[mine] = 1
    }
    return this.#mine[group] === 1
  }

  /** All groups that a device of the placement is to hold, ascending. Computes the holders of all, the first time: 45 ms for ten devices. */
  groupsOf(device: number): Uint16Array {
    this.#groups ??= this.#byDevice()
    return this.#groups[device]!
  }

  #byDevice(): Uint16Array[] {
    const { placement } = this
    const groups: number[][] = placement.devices.map(() => [])
    for (let group = 0; group < PLACEMENT_GROUPS; group++) for (const i of placement.holders(group)) groups[i]!.push(group)
    return groups.map((list) => Uint16Array.from(list))
  }

  /** The devices that are to hold the chunk, in hex. */
  holdersOf(chunk: Buffer): string[] { return this.placement.holders(groupOf(chunk)).map((i) => this.peers[i]!) }
}

function encode(devices: readonly PlacedDevice[], wanted: number): Buffer {
  const w = new Writer(64 + devices.length * 64)
  w.byte(VERSION)
  w.byte(wanted)
  w.uint(devices.length)
  for (const d of devices) {
    w.fixed(d.key)
    w.uint(d.capacityBytes)
    w.bytes(Buffer.from(d.zone))
    w.byte(d.isDrained ? 1 : 0)
  }
  return w.take()
}
