/**
 * Holders are taken at their word, and now and then one is asked to show a chunk
 * that it has said it holds. One that cannot, time after time, is doubted: what it
 * was to hold is given to others (fleet.ts).
 *
 * A damaged disk fails once and is mended; a device that lost its chunks and
 * still speaks of them, or never kept them, fails each time.
 */
import type { Timers } from '../clock.js'
import type { ChunkTable } from '../store/chunks.js'
import type { Keeping } from './keeping.js'
import { isWhole } from './report.js'
import type { Reports } from './reports.js'

/** One chunk of one device in so long; sooner of one that has failed. */
const EVERY_MS = 30_000
const AGAIN_MS = 1000
/** In a row, of different chunks, what has failed counts together: who says no, or shows something else; and who does not answer in time, for it may be slow. */
const DOUBTED_AT = 25
const COUNTS = { refused: 5, silent: 1 }
/** Rows that are looked at for a chunk that we and it are to have. */
const LOOK_AT = 256

export interface AuditParts {
  chunks: ChunkTable
  timers: Timers
  keeping: Keeping
  reports: Reports
  random(): number
  /** Devices that are connected, their keys in hex. */
  connected(): string[]
  /** Whether it shows that it has the chunk, which is here; undefined: not known. */
  ask(device: string, id: Buffer): Promise<'shown' | 'refused' | 'silent' | undefined>
  /** Whether a file that is open here and has no name any more has the chunk: others need not have it. */
  isUnlinked(num: number): Promise<boolean>
  /** It has failed too often. */
  doubted(device: string): void
}

export class Audit {
  readonly #p: AuditParts
  readonly #failed = new Map<string, number>()
  #stop: () => void
  #isClosed = false

  constructor(parts: AuditParts) {
    this.#p = parts
    this.#stop = parts.timers.after(EVERY_MS, () => void this.#look())
  }

  async #look(): Promise<void> {
    const device = this.#pick()
    const chunk = device === undefined ? undefined : this.#chunkOf(device)
    let answer = chunk && await this.#p.ask(device!, chunk.id)
    if (answer === 'refused' && !this.#isClosed && await this.#p.isUnlinked(chunk!.num)) answer = undefined
    if (this.#isClosed) return
    if (answer === 'shown') this.#failed.delete(device!)
    if (answer === 'refused' || answer === 'silent') {
      const failed = (this.#failed.get(device!) ?? 0) + COUNTS[answer]
      this.#failed.set(device!, failed)
      if (failed >= DOUBTED_AT) {
        this.#failed.delete(device!)
        this.#p.doubted(device!)
      }
    }
    this.#stop = this.#p.timers.after(this.#failed.size > 0 ? AGAIN_MS : EVERY_MS, () => void this.#look())
  }

  /** One that has failed before the others. */
  #pick(): string | undefined {
    const { keeping: { plan }, connected, random } = this.#p
    if (!plan) return undefined
    const all = connected().filter((device) => plan.peers.includes(device))
    for (const device of this.#failed.keys()) if (!all.includes(device)) this.#failed.delete(device)
    const suspects = all.filter((device) => this.#failed.has(device))
    const from = suspects.length > 0 && random() < 0.8 ? suspects : all
    return from[Math.floor(random() * from.length)]
  }

  /** A chunk that is here, and that the device has said it has. */
  #chunkOf(device: string): { num: number; id: Buffer } | undefined {
    const { chunks, keeping: { plan }, reports, random } = this.#p
    const report = reports.of(device)
    if (!plan || !report) return undefined
    const rows = chunks.scan(Math.floor(random() * chunks.last), LOOK_AT)
    return rows.find(({ id, seg, refs }) => seg > 0 && refs > 0 && plan.holdersOf(id).includes(device) && isWhole(report, plan.groupOf(id), plan))
  }

  close(): void {
    this.#isClosed = true
    this.#stop()
  }
}
