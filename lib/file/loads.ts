/**
 * Whole chunks on their way into memory as plaintext, one load a chunk for all
 * who wait for it: read and opened by a worker where the chunk is here, fetched
 * from the source where it is not, or is damaged.
 */
import { fail } from '../errors.js'
import { DIRECT_READ_BYTES } from '../limits.js'
import type { ChunkSealer } from '../seal/chunk.js'
import { sealedLength } from '../seal/chunk.js'
import type { SealPool } from '../seal/pool.js'
import { ELSEWHERE, type ChunkTable } from '../store/chunks.js'
import type { SegmentStore } from '../store/segments.js'
import type { ReadExtent } from '../tree/rows.js'
import { Fetch, type ChunkSource, type Urgency } from './fetch.js'
import { Plain, PlainMemory } from './plain.js'

export interface LoadHost {
  readonly chunks: ChunkTable
  readonly store: SegmentStore
  readonly pool: SealPool
  readonly sealer: ChunkSealer
  /** For chunks that are not here. */
  readonly source?: ChunkSource | undefined
  /** How long a reader waits, milliseconds. */
  readonly deadlineMs: number
  /** A chunk that was fetched, verified: to be kept here if there is room. */
  arrived(chunk: number, sealed: Buffer): void
  /** A reader uses it. */
  used?(chunk: number): void
}

export class Load {
  /** The chunk's plaintext; to be held by then by whoever does not use it at once. */
  readonly bytes: Promise<Plain>
  readonly #abandoned: () => void
  #readers = 0
  /** Somebody waited, and nobody does any more. */
  #isAbandoned = false
  #fetch: Fetch | null = null

  constructor(run: (load: Load) => Promise<Plain>, abandoned: () => void) {
    this.#abandoned = abandoned
    this.bytes = run(this)
    // Its failure is for whoever waits for it; it may have been begun ahead of anybody.
    this.bytes.catch(() => {})
  }

  join(): void {
    this.#readers++
    this.#isAbandoned = false
    this.#fetch?.wanted()
  }

  /** A fetch that nobody waits for any more is given up; what is read here goes on into the cache. */
  leave(): void {
    if (--this.#readers > 0) return
    this.#isAbandoned = true
    if (this.#fetch) this.giveUp(this.#fetch)
  }

  giveUp(fetch = this.#fetch): void {
    this.#abandoned()
    fetch?.giveUp()
  }

  /** The sealed bytes, as long as somebody may want them. `forMs`: how long to wait for somebody. */
  through(fetch: Fetch, forMs: number): Promise<Buffer> {
    this.#fetch = fetch
    if (this.#isAbandoned) this.giveUp()
    else if (this.#readers > 0) fetch.wanted()
    else fetch.ahead(forMs, () => this.giveUp())
    return fetch.sealed.finally(() => { this.#fetch = null })
  }
}

export class Loads {
  readonly #host: LoadHost
  readonly #keep: (chunk: number, plain: Plain) => void
  readonly #memory = new PlainMemory()
  readonly #loading = new Map<number, Load>()
  #isClosed = false

  /** `keep` takes over what was loaded. */
  constructor(host: LoadHost, keep: (chunk: number, plain: Plain) => void) {
    this.#host = host
    this.#keep = keep
  }

  /** Fetches under way are given up, and there are no more. */
  close(): void {
    this.#isClosed = true
    for (const load of [...this.#loading.values()]) load.giveUp()
  }

  find(chunk: number): Load | undefined { return this.#loading.get(chunk) }

  /** 'reader': whoever calls joins the load at once. */
  start(e: ReadExtent, urgency: Urgency): Load {
    const known = this.#loading.get(e.chunk)
    if (known) {
      if (urgency === 'reader') known.join()
      return known
    }
    const load = this.#load(e, (own) => this.#plain(own, e))
    if (urgency === 'reader') load.join()
    return load
  }

  /**
   * Ahead of any reader: chunks that lie one behind the other in a segment, of which none is being loaded, in one read of the
   * disk. At most RUN_BYTES of plaintext.
   */
  ahead(run: ReadExtent[]): void {
    const together = this.#openRun(run)
    run.forEach((e, i) => this.#load(e, async (own) => {
      // One that is damaged or has moved must not take the others along: each for itself then.
      try { return (await together)[i]! } catch { return this.#plain(own, e) }
    }))
  }

  #load(e: ReadExtent, run: (own: Load) => Promise<Plain>): Load {
    const gone = () => { if (this.#loading.get(e.chunk) === load) this.#loading.delete(e.chunk) }
    const load: Load = new Load(async (own) => {
      // After the caller has joined.
      await null
      try {
        const plain = await run(own)
        this.#keep(e.chunk, plain)
        return plain
      } finally {
        gone()
      }
    }, gone)
    this.#loading.set(e.chunk, load)
    return load
  }

  async #openRun(run: ReadExtent[]): Promise<Plain[]> {
    const { pool, store } = this.#host
    let bytes = 0
    for (const e of run) bytes += e.clen
    const home = bytes >= DIRECT_READ_BYTES ? this.#memory.take() : undefined
    try {
      const plain = await pool.open({
        path: store.pathOf(run[0]!.seg),
        reads: run.map((e) => ({ offset: e.soff, plainLength: e.clen, h: e.h, from: 0, to: e.clen })),
        ...(home ? { into: home.block } : {}),
      })
      return plain.map((b) => new Plain(b, home))
    } finally {
      home?.leave()
    }
  }

  async #plain(load: Load, e: ReadExtent): Promise<Plain> {
    const { chunks, source } = this.#host
    if (e.seg > 0 && !(source && chunks.bad.has(e.chunk))) {
      try { return new Plain(await this.#open(e.chunk, e.seg, e.soff, e.clen, e.h)) } catch (error) {
        if (!source) throw error
      }
    }
    return this.#fetched(load, e)
  }

  async #open(num: number, seg: number, off: number, len: number, h: Buffer): Promise<Buffer> {
    const { pool, store, chunks } = this.#host
    try {
      return (await pool.open({ path: store.pathOf(seg), reads: [{ offset: off, plainLength: len, h, from: 0, to: len }] }))[0]!
    } catch (error) {
      // Compaction may have moved it between the look-up and the read.
      const now = chunks.get(num)
      if (!now || now.seg <= 0 || (now.seg === seg && now.off === off)) {
        if (now?.seg !== ELSEWHERE) chunks.bad.add(num)
        throw error
      }
      return this.#open(num, now.seg, now.off, len, h)
    }
  }

  async #fetched(load: Load, { chunk, clen, h }: ReadExtent): Promise<Plain> {
    const { chunks, source, sealer, deadlineMs } = this.#host
    if (!source || this.#isClosed) throw fail('EIO', `chunk ${chunk} is not here`)
    const known = chunks.identity(chunk)
    if (!known) throw fail('EIO', `chunk ${chunk} is not in the index; run dfs fsck`)
    const sealed = await load.through(new Fetch(source, known.id, sealedLength(clen)), deadlineMs)
    const plain = this.#memory.place(clen)
    try {
      sealer.openRange(h, clen, sealed, 0, plain.bytes)
    } catch (error) {
      plain.release()
      throw error
    }
    if (!source.isKept) this.#host.arrived(chunk, sealed)
    return plain
  }
}
