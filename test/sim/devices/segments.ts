/**
 * Segments and sealing workers of a simulated device, as the flush engine, the
 * collector and the cache use them (SegmentStore and SealPool): small segments
 * that fill up, are closed off and removed; jobs that take their time.
 */
import type { Timers } from '../../../lib/clock.js'
import type { FlushHost } from '../../../lib/file/flush.js'
import type { ChunkSealer } from '../../../lib/seal/chunk.js'
import { chunkId, sealedLength } from '../../../lib/seal/chunk.js'
import type { CutChunk, CutRequest, SealRequest, SealResult } from '../../../lib/seal/pool.js'
import { HEADER_BYTES, RECORD_BYTES } from '../../../lib/store/record.js'
import type { RecordRun, SegmentRecord } from '../../../lib/store/batch.js'
import type { Place, SegmentStore } from '../../../lib/store/segments.js'
import type { SimDisk } from './disk.js'

/** A segment takes so many chunks: few, so that some are soon empty, or mostly dead. */
const SEGMENT_CHUNKS = 4

interface Segment { size: number; chunks: Map<number, Buffer> }

export class SimSegments {
  readonly #disk: SimDisk
  readonly #timers: Timers
  readonly #segments = new Map<number, Segment>()
  #head = 0
  #next = 1
  /** Not used: segments end by their count. */
  segmentBytes = Infinity
  onStop: (e: Error) => void = () => {}

  constructor(disk: SimDisk, timers: Timers) {
    this.#disk = disk
    this.#timers = timers
    for (const [at, { sealed }] of disk.chunks) {
      const [number, offset] = at.split(':').map(Number) as [number, number]
      const s = this.#segment(number)
      s.chunks.set(offset, sealed)
      s.size = Math.max(s.size, offset + sealed.length)
    }
    this.#next = Math.max(0, ...this.#segments.keys()) + 1
  }

  /** As what it stands for, whose private parts nobody can have. */
  get asStore(): SegmentStore { return this as unknown as SegmentStore }

  #segment(number: number): Segment {
    let s = this.#segments.get(number)
    if (!s) this.#segments.set(number, (s = { size: HEADER_BYTES, chunks: new Map() }))
    return s
  }

  append(batch: SegmentRecord[] | RecordRun): Promise<Place[]> {
    return Promise.resolve((Array.isArray(batch) ? batch : batch.records).map((r) => {
      if (this.#head === 0) this.#head = this.#next++
      const number = this.#head
      const s = this.#segment(number)
      const offset = s.size + RECORD_BYTES
      const sealed = Buffer.from(r.sealed)
      s.chunks.set(offset, sealed)
      s.size = offset + sealed.length
      this.#disk.chunks.set(`${number}:${offset}`, { sealed, isDurable: false })
      if (s.chunks.size >= SEGMENT_CHUNKS) this.#head = 0
      return { segment: number, offset }
    }))
  }

  sync(): Promise<void> {
    const fresh = [...this.#disk.chunks.values()].filter((c) => !c.isDurable)
    return new Promise((resolve) => {
      this.#timers.after(this.#disk.syncMs(), () => {
        for (const c of fresh) c.isDurable = true
        resolve()
      })
    })
  }

  async sealHeads(): Promise<number[]> {
    const sealed = this.#head === 0 ? [] : [this.#head]
    this.#head = 0
    await this.sync()
    return sealed
  }

  isHead(segment: number): boolean { return segment === this.#head }
  usage(): Map<number, number> { return new Map([...this.#segments].map(([n, s]) => [n, s.size])) }
  pathOf(segment: number): string { return String(segment) }

  holds(segment: number, offset: number, length: number): boolean {
    const s = this.#segments.get(segment)
    return s !== undefined && offset + length <= s.size
  }

  remove(segment: number): void {
    for (const offset of this.#segments.get(segment)?.chunks.keys() ?? []) this.#disk.chunks.delete(`${segment}:${offset}`)
    this.#segments.delete(segment)
    if (this.#head === segment) this.#head = 0
    this.onRemove(segment)
  }

  /** Told of a segment that is gone. */
  onRemove: (segment: number) => void = () => {}

  /** A chunk's sealed bytes. */
  at(segment: number, offset: number): Buffer | undefined { return this.#segments.get(segment)?.chunks.get(offset) }

  readSync(segment: number, offset: number, length: number, out: Buffer): void {
    for (const [from, sealed] of this.#segments.get(segment)?.chunks ?? []) {
      if (offset < from || offset + length > from + sealed.length) continue
      sealed.copy(out, 0, offset - from, offset - from + length)
      return
    }
    throw new Error('there is no such chunk')
  }

  read(segment: number, offset: number, length: number): Promise<Buffer> {
    const sealed = this.at(segment, offset)
    return sealed?.length === length ? Promise.resolve(Buffer.from(sealed)) : Promise.reject(new Error('there is no such chunk'))
  }
}

/** Cuts and seals as the workers do, `jobMs` later; runs are shorter than the smallest chunk that is cut. */
export class SimPool {
  readonly #sealer: ChunkSealer
  readonly #timers: Timers
  readonly #jobMs: () => number
  readonly pending = 0

  constructor(sealer: ChunkSealer, timers: Timers, jobMs: () => number) {
    this.#sealer = sealer
    this.#timers = timers
    this.#jobMs = jobMs
  }

  /** As SimSegments.asStore. */
  get asPool(): FlushHost['pool'] { return this as unknown as FlushHost['pool'] }

  #job(): Promise<void> { return new Promise((go) => void this.#timers.after(this.#jobMs(), go)) }

  async cut({ arena, runs }: CutRequest): Promise<CutChunk[]> {
    const all = Buffer.from(arena)
    const cut = runs.map(({ start, length }) => ({ start, length, h: this.#sealer.contentHash(all.subarray(start, start + length)) }))
    await this.#job()
    return cut
  }

  async seal({ arena, chunks, gap = 0 }: SealRequest): Promise<SealResult> {
    const all = Buffer.from(arena)
    const placed: SealResult['chunks'] = []
    const parts: Buffer[] = []
    let at = 0
    for (const { start, length, h } of chunks) {
      const sealed = Buffer.alloc(sealedLength(length))
      this.#sealer.seal(all.subarray(start, start + length), h, sealed)
      placed.push({ offset: at + gap, length: sealed.length, id: chunkId(sealed) })
      parts.push(Buffer.alloc(gap), sealed)
      at += gap + sealed.length
    }
    await this.#job()
    return { sealed: Buffer.concat(parts), block: undefined, chunks: placed, release: () => {} }
  }

  forget(): void { /* it keeps nothing open */ }
}
