/** A device of the drive that lies: it changes what it sends, each time in another way. */
import { signEntry } from '../../../lib/seal/entry.js'
import { SIGNATURE_BYTES } from '../../../lib/seal/entry.js'
import type { Message } from '../../../lib/swarm/messages.js'
import { encode } from '../../../lib/swarm/wire.js'
import type { SimDevice } from './device.js'
import type { World } from './world.js'

/** Messages that it may send again. */
const REMEMBERED = 40

export class Liar {
  readonly #world: World
  readonly #self: SimDevice
  readonly #sent: Buffer[] = []
  readonly #share: number
  /** Lies for which it must be caught. */
  provable = 0

  constructor(world: World, self: SimDevice) {
    this.#world = world
    this.#self = self
    this.#share = world.pick([0.02, 0.2, 0.6])
  }

  /** What it sends in place of `m`. */
  tamper(m: Message, bytes: Buffer): Buffer[] {
    const w = this.#world
    if (this.#sent.length >= REMEMBERED) this.#sent.splice(w.below(REMEMBERED), 1)
    this.#sent.push(Buffer.from(bytes))
    if (!w.chance(this.#share)) return [bytes]
    const lie = w.pick(['cut short', 'damaged', 'far too long', 'again', 'another', 'forged', 'forged', 'claimed', 'nothing'] as const)
    w.count(`lie: ${lie}`)
    switch (lie) {
      case 'nothing': return []
      case 'cut short': return [bytes.subarray(0, Math.max(1, w.below(bytes.length)))]
      case 'damaged': {
        const bad = Buffer.from(bytes)
        bad[w.below(bad.length)]! ^= 1 << w.below(8)
        return [bad]
      }
      case 'far too long': return [Buffer.concat([bytes, Buffer.alloc(1 << 18, w.below(256))])]
      case 'again': return [bytes, ...Array.from({ length: w.below(4) }, () => w.pick(this.#sent))]
      case 'another': return [w.pick(this.#sent)]
      case 'forged': return this.#forged(m, bytes)
      case 'claimed': return this.#claimed(m, bytes)
    }
  }

  /** Entries that their device has not written: other ops, another order, its own signature on them. */
  #forged(m: Message, bytes: Buffer): Buffer[] {
    const w = this.#world
    if (m.type === 'chunk') {
      const sealed = Buffer.from(m.sealed)
      sealed[w.below(sealed.length)]! ^= 1
      return [encode({ ...m, sealed })]
    }
    if (m.type !== 'entries') return [bytes]
    const how = w.below(4)
    const isOwn = m.device.equals(this.#self.publicKey)
    const entries = m.entries.map((e, i) => {
      if (i !== m.entries.length - 1) return e
      const sealed = Buffer.from(e.sealed)
      const signed = Buffer.from(e.signed)
      if (how === 0) sealed[w.below(sealed.length)]! ^= 1
      else if (how === 1) signed[w.below(signed.length)]! ^= 1
      else {
        // In the name of another: a signature by the wrong key.
        const header = signed.subarray(0, signed.length - SIGNATURE_BYTES)
        if (!isOwn) return { sealed, signed: Buffer.concat([header, signEntry(header, this.#self.device.secretKey)]) }
      }
      return { sealed, signed }
    })
    if (how === 3 && entries.length > 1) entries.reverse()
    this.provable++
    return [encode({ ...m, entries })]
  }

  /** It says that it holds what there is not. */
  #claimed(m: Message, bytes: Buffer): Buffer[] {
    const w = this.#world
    if (m.type === 'haveChunks') return [encode({ ...m, ids: m.ids.map(() => Buffer.from(Array.from({ length: 32 }, () => w.below(256)))) })]
    if (m.type !== 'have' || m.logs.length === 0) return [bytes]
    const logs = m.logs.map((log) => (w.chance(0.5) ? log : { ...log, seq: log.seq + w.below(5), hash: Buffer.from(Array.from({ length: 32 }, () => w.below(256))) }))
    return [encode({ ...m, logs })]
  }
}
