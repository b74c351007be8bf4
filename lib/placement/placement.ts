/**
 * Which devices should hold a chunk: chunk id -> one of 2^16 groups -> devices. A pure function of the devices and the
 * replication factor, so all who know these agree without a word, whatever machine they run on. No I/O, no time, no chance.
 *
 * Invariants, for every group:
 * - as many different holders as the replication factor, or all that take part if these are fewer (`copies`);
 * - no two of them in one zone if there are as many zones as copies; else one at least in each zone;
 * - who is drained or has no capacity is not among them.
 * And over all groups the holders are as many as the capped ideal says (shares.ts): exactly in expectation.
 *
 * docs/decisions/021-placement.md says why it is done so.
 */
import blake from '@napi-rs/blake-hash'
import { fail } from '../errors.js'
import { PLACEMENT_GROUPS } from '../limits.js'
import { byZone, checkCopies, inOrder, type PlacedDevice } from './devices.js'
import { Race, type Entrant } from './race.js'
import { cappedShares, type Shares } from './shares.js'
import { fitWeights } from './weights.js'

export type { PlacedDevice } from './devices.js'

const CONTEXT = Buffer.from('dfs placement 1\0')
const CHUNK_ID_BYTES = 32
/** A zone's share this close to a whole number of copies is that number. */
const EPSILON = 1e-9
/** A device's share this close to 1 is 1; so much closer that those of MAX_COPIES devices together are within EPSILON. */
const DEVICE_EPSILON = 1e-12
/** In the table: not computed yet. */
const UNKNOWN = 0xffff

/** The group of a chunk: the first 16 bits of its id, which is a hash. */
export function groupOf(chunk: Buffer): number {
  if (chunk.length !== CHUNK_ID_BYTES) throw fail('EINVAL', `a chunk id has ${CHUNK_ID_BYTES} bytes, not ${chunk.length}`)
  return chunk.readUInt16BE(0)
}

interface Contest { race: Race; winners: number }

export class Placement<T extends PlacedDevice = PlacedDevice> {
  /** All that were given, by key. Holders are indices into this. */
  readonly devices: readonly T[]
  /** The replication factor that is wanted. */
  readonly wanted: number
  /** Copies that there can be: less than `wanted` when too few devices take part. */
  readonly copies: number
  /** Of those devices that take part; with fewer zones than copies some copies share one. */
  readonly zones: number
  /** Of each device: the part of everything that it is to hold, from 0 to 1; together `copies`. */
  readonly shares: Float64Array

  /** Holders in every group. */
  readonly #always: number[] = []
  /** Between the other devices of a zone that holds something of each group. */
  readonly #inZones: (Contest & { zone: number })[] = []
  /** Between all other zones; undefined if nothing is left to decide. */
  #between: Contest | undefined
  /** Whether `#between` names zones, which get one winner more, and not devices. */
  readonly #isCrowded: boolean
  readonly #table: Uint16Array

  /**
   * `devices`: in any order. `wanted`: copies of each chunk, from 1 to MAX_COPIES. EINVAL says what is wrong with either.
   * Computes weights, which takes time with the number of zones (milliseconds for ten); groups are computed when first asked for.
   */
  constructor(devices: readonly T[], wanted: number) {
    checkCopies(wanted)
    this.devices = inOrder(devices)
    this.wanted = wanted
    const zones = byZone(this.devices)
    this.zones = zones.length
    this.copies = Math.min(wanted, zones.reduce((n, zone) => n + zone.length, 0))
    this.shares = new Float64Array(this.devices.length)
    this.#table = new Uint16Array(PLACEMENT_GROUPS * this.copies).fill(UNKNOWN)
    if (this.copies === 0) {
      this.#isCrowded = false
      return
    }
    const shares = cappedShares(zones.map((zone) => zone.map((i) => this.devices[i]!.capacityBytes)), this.copies)
    zones.forEach((zone, z) => zone.forEach((i, d) => { this.shares[i] = shares.devices[z]![d]! }))
    this.#isCrowded = shares.isCrowded
    if (shares.isCrowded) this.#planCrowded(zones, shares)
    else this.#planApart(zones, shares)
  }

  /** Whether there are as many devices as copies wanted. */
  get isMet(): boolean { return this.copies === this.wanted }

  /** Bytes of chunks that fit, each as often as it is to be held, before the first device is full; 0 if none takes part. */
  get usableBytes(): number {
    if (this.copies === 0) return 0
    let usable = Infinity
    this.shares.forEach((share, i) => { if (share > 0) usable = Math.min(usable, this.devices[i]!.capacityBytes / share) })
    return Math.floor(usable)
  }

  /** Indices of the group's holders, ascending: `copies` of them. The order says nothing. */
  holders(group: number): number[] {
    if (!Number.isInteger(group) || group < 0 || group >= PLACEMENT_GROUPS) throw fail('EINVAL', `a placement group is a whole number below ${PLACEMENT_GROUPS}, not ${group}`)
    if (this.copies === 0) return []
    const at = group * this.copies
    if (this.#table[at] === UNKNOWN) this.#compute(group, at)
    const holders: number[] = []
    for (let c = 0; c < this.copies; c++) holders.push(this.#table[at + c]!)
    return holders
  }

  /** Those that should hold the chunk. */
  holdersOf(chunk: Buffer): T[] { return this.holders(groupOf(chunk)).map((i) => this.devices[i]!) }

  /** Into the table from `at` on, ascending. */
  #compute(group: number, at: number): void {
    let found = 0
    for (const device of this.#always) this.#insert(device, at, found++)
    const between = this.#between?.race.winners(group, this.#between.winners)
    if (between && !this.#isCrowded) for (const device of between) this.#insert(device, at, found++)
    for (const contest of this.#inZones) {
      const winners = contest.winners + (this.#isCrowded && between?.includes(contest.zone) ? 1 : 0)
      if (winners > 0) for (const device of contest.race.winners(group, winners)) this.#insert(device, at, found++)
    }
    if (found !== this.copies) throw this.#broken(at, `a group has ${found} holders, not ${this.copies}`)
  }

  /** The next holder of the group whose first `found` are in the table from `at` on. */
  #insert(device: number, at: number, found: number): void {
    if (found === this.copies) throw this.#broken(at, `a group has more than ${found} holders`)
    let to = at + found
    for (; to > at && this.#table[to - 1]! >= device; to--) {
      if (this.#table[to - 1] === device) throw this.#broken(at, `device ${device} holds a group twice`)
      this.#table[to] = this.#table[to - 1]!
    }
    this.#table[to] = device
  }

  /** An invariant does not hold: half a row must not be taken for holders. */
  #broken(at: number, what: string): Error {
    this.#table[at] = UNKNOWN
    return new Error(what)
  }

  /** No two copies in one zone: zones race for them, those that always win apart. */
  #planApart(zones: number[][], shares: Shares): void {
    const open: number[] = []
    zones.forEach((zone, z) => {
      if (shares.zones[z]! < 1 - EPSILON) open.push(z)
      else this.#contest(zone, z, shares.devices[z]!, 1, 0)
    })
    const winners = this.copies - (zones.length - open.length)
    if (winners === 0) return
    const weights = fitWeights(Float64Array.from(open, (z) => shares.zones[z]!), winners, 0)
    const entrants = open.flatMap((z, o) => zones[z]!.map((i, d) => this.#entrant(i, weights[o]! * (shares.devices[z]![d]! / shares.zones[z]!), z)))
    this.#between = { race: new Race(byId(entrants)), winners }
  }

  /** A copy in each zone at least: the whole part of its share always, and the rest of it by a race between zones. */
  #planCrowded(zones: number[][], shares: Shares): void {
    const wholes = shares.zones.map((share) => Math.floor(share + EPSILON))
    const rests = shares.zones.map((share, z) => share - wholes[z]! < EPSILON ? 0 : share - wholes[z]!)
    const winners = this.copies - wholes.reduce((a, b) => a + b, 0)
    const open = winners === 0 ? [] : [...zones.keys()].filter((z) => rests[z]! > 0)
    zones.forEach((zone, z) => this.#contest(zone, z, shares.devices[z]!, wholes[z]!, open.includes(z) ? rests[z]! : 0))
    if (winners === 0) return
    const weights = fitWeights(Float64Array.from(open, (z) => rests[z]!), winners, 0)
    // Numbers of their own: the race within a zone must not depend on whether the zone has won this one.
    const entrants = open.flatMap((z, o) => zones[z]!.map((i, d) => this.#entrant(i, weights[o]! * (shares.devices[z]![d]! / shares.zones[z]!), z, 1)))
    this.#between = { race: new Race(byId(entrants).map((e) => ({ ...e, id: e.bucket }))), winners }
  }

  /** A zone's devices, of which `winners` hold each group, and with the chance `extra` one more. */
  #contest(zone: number[], z: number, shares: Float64Array, winners: number, extra: number): void {
    const open: number[] = []
    zone.forEach((i, d) => {
      if (shares[d]! < 1 - DEVICE_EPSILON) open.push(d)
      else this.#always.push(i)
    })
    const left = winners - (zone.length - open.length)
    if (left + extra === 0) return
    const weights = fitWeights(Float64Array.from(open, (d) => shares[d]!), left, extra)
    this.#inZones.push({ zone: z, race: new Race(open.map((d, o) => this.#entrant(zone[d]!, weights[o]!, d))), winners: left })
  }

  /** `lane`: 0 or 1, numbers that have nothing to do with each other. */
  #entrant(i: number, weight: number, bucket: number, lane = 0): Entrant {
    const hash = blake.blake3(Buffer.concat([CONTEXT, this.devices[i]!.key]))
    return { id: i, seed: [hash.readInt32LE(12 * lane), hash.readInt32LE(12 * lane + 4), hash.readInt32LE(12 * lane + 8)], weight, bucket }
  }
}

/** In the order of keys, which is the same everywhere. */
function byId(entrants: Entrant[]): Entrant[] { return entrants.sort((a, b) => a.id - b.id) }
