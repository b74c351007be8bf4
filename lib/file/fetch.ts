/**
 * A chunk that is known but not here, on its way from somewhere else.
 *
 * What comes is believed only if its BLAKE3 is the id that the op names: whoever
 * gave it may lie. Where the source has looked itself, to know whom to trust, it is not looked twice. A fetch ends when the bytes are there, when the source says
 * that they cannot be had, or when nobody wants them any more: the readers keep
 * the time (reading.ts), and one that was begun ahead of any is given up after
 * as long as a reader would wait.
 */
import { fail } from '../errors.js'
import { chunkId } from '../seal/chunk.js'
import { asError } from './files.js'

/** What a fetch is for; 'reader': a program waits for it now. */
export type Urgency = 'reader' | 'ahead'

/** Where sealed chunks can be had that are not in this store. */
export interface ChunkSource {
  /** What it gives is what was asked for: it has compared the hash. Otherwise whoever asks checks. */
  readonly isVerified?: boolean
  /** What it gives is kept here as far as there is room: whoever asks need not. Its bytes are good until the event loop turns. */
  readonly isKept?: boolean
  /**
   * The sealed bytes of the chunk `id` (32 bytes: their BLAKE3-256).
   * Takes its time as long as there is hope, since how long to wait is for the caller to say: `signal` is aborted
   * when the bytes are not wanted any more. Rejects once they cannot be had, which the reader gets as EIO at once: so
   * a source with several holders asks them all before it does.
   * A chunk that was asked for ahead and is now waited for is asked for again, with the greater urgency, while the
   * first call runs.
   */
  fetch(id: Buffer, how: { urgency: Urgency; signal: AbortSignal }): Promise<Buffer>
}

/** A source that comes and goes with the network. */
export class SourceSlot implements ChunkSource {
  provider: ChunkSource | null

  constructor(provider: ChunkSource | null) {
    this.provider = provider
  }

  get isVerified(): boolean { return this.provider?.isVerified ?? false }
  get isKept(): boolean { return this.provider?.isKept ?? false }

  fetch(id: Buffer, how: { urgency: Urgency; signal: AbortSignal }): Promise<Buffer> {
    return this.provider ? this.provider.fetch(id, how) : Promise.reject(fail('EIO', 'it is on other devices, and this one is not connected'))
  }
}

const OVER = fail('EIO', 'nobody waits for the chunk any more')

export class Fetch {
  /** The sealed bytes, verified. */
  readonly sealed: Promise<Buffer>
  readonly #source: ChunkSource
  readonly #id: Buffer
  readonly #length: number
  readonly #controller = new AbortController()
  #urgency: Urgency | null = null
  #asked = 0
  #timer: NodeJS.Timeout | undefined
  #settle!: { resolve: (sealed: Buffer) => void; reject: (error: Error) => void }

  /** `length`: of the sealed bytes. */
  constructor(source: ChunkSource, id: Buffer, length: number) {
    this.#source = source
    this.#id = id
    this.#length = length
    this.sealed = new Promise((resolve, reject) => { this.#settle = { resolve, reject } })
    this.sealed.catch(() => {})
  }

  /** Nobody waits yet. `onIdle` is called if nobody came within `forMs`. */
  ahead(forMs: number, onIdle: () => void): void {
    this.#timer = setTimeout(onIdle, forMs)
    this.#ask('ahead')
  }

  /** A program waits. */
  wanted(): void {
    clearTimeout(this.#timer)
    if (this.#urgency !== 'reader') this.#ask('reader')
  }

  /** Also if the source does not heed the signal. */
  giveUp(): void {
    this.#end()
    this.#settle.reject(fail('EIO', 'nobody waits for the chunk any more'))
  }

  #ask(urgency: Urgency): void {
    this.#urgency = urgency
    this.#asked++
    this.#one(urgency).then((sealed) => {
      this.#asked--
      this.#end()
      this.#settle.resolve(sealed)
    }, (error: unknown) => {
      if (--this.#asked > 0) return
      this.#end()
      this.#settle.reject(asError(error))
    })
  }

  async #one(urgency: Urgency): Promise<Buffer> {
    const { isVerified } = this.#source
    let sealed: Buffer
    try {
      sealed = await this.#source.fetch(this.#id, { urgency, signal: this.#controller.signal })
    } catch (error) {
      throw fail('EIO', `chunk ${this.#id.toString('hex', 0, 8)} cannot be had: ${asError(error).message}`, error)
    }
    if (sealed.length !== this.#length || !(isVerified || chunkId(sealed).equals(this.#id))) {
      throw fail('EIO', `what came for chunk ${this.#id.toString('hex', 0, 8)} is something else`)
    }
    return sealed
  }

  #end(): void {
    clearTimeout(this.#timer)
    // Without a reason of its own it would make one each time, with a stack.
    if (this.#asked > 0) this.#controller.abort(OVER)
  }
}
