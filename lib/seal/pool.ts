/**
 * The pool of sealing workers: bulk cutting, hashing, sealing and opening off the
 * main thread. Plaintext is handed over in SharedArrayBuffers, so that nothing is
 * copied and the main thread can go on serving reads from the same memory. It
 * must not *change* a range between cut() and the end of seal(): the nonce
 * follows from the hash that cut() took.
 *
 * Jobs for a waiting reader (open) go before the rest. Workers start when there
 * is work, and do not keep the process alive while there is none.
 *
 * Owns: its workers and the blocks that they seal into. Invariant: a job is in
 * exactly one of the queues or one slot's `running`, until it is settled.
 */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { DfsError, fail } from '../errors.js'
import type { WorkerKeys } from '../keys/derive.js'
import {
  MAX_ARENA_BYTES, MAX_BATCH_BYTES, MAX_CHUNK_BYTES, MAX_POOL_JOBS, MAX_WORKER_CRASHES, POOL_BLOCKS, POOL_JOBS_PER_WORKER,
} from '../limits.js'
import { BlockPool, type Block } from '../memory.js'
import { sealedLength } from './chunk.js'
import { chunkSizes } from './chunker.js'
import type { Answer, Job, WorkerSetup } from './jobs.js'

export interface CutRequest {
  arena: SharedArrayBuffer
  /** Byte ranges of the arena; each is cut by itself. */
  runs: { start: number; length: number }[]
  /** FastCDC average in bytes (see chunkSizes); 0 = one chunk a run, of at most MAX_CHUNK_BYTES. */
  average: number
}
export interface CutChunk { start: number; length: number; /** 32 bytes: keyed hash of the plaintext. */ h: Buffer }

export interface SealRequest {
  arena: SharedArrayBuffer
  chunks: CutChunk[]
  /** Bytes left free before each sealed chunk, for a header; default 0. */
  gap?: number
}
export interface SealResult {
  /** All sealed chunks one after another, each behind its gap, in shared memory. */
  sealed: Buffer
  /** `sealed` with free room behind it, as a whole block: set unless it was too much for one. */
  block: Buffer | undefined
  /** In the order asked for; offset and length within `sealed`; id: 32 bytes, BLAKE3 of the sealed bytes. */
  chunks: { offset: number; length: number; id: Buffer }[]
  /** Gives the memory of `sealed` back for the next job. Optional (without it, it is garbage like any other); `sealed` must not be used after. */
  release(): void
}

export interface OpenRequest {
  /** The segment file. */
  path: string
  reads: {
    /** Of the sealed chunk in the file. */
    offset: number
    plainLength: number
    h: Uint8Array
    /** Plaintext bytes wanted: from..to-1. */
    from: number
    to: number
  }[]
  /** Memory to open into, if there is room for all whole pieces; default: memory of their own. Not to be used again before it settles. */
  into?: Block
}

export interface PoolOptions {
  /** 1..; default CPUs - 1, but 2..4 (1 with a single CPU). */
  workers?: number
  /** Another worker script, for tests. */
  script?: URL
}

type NewJob = Job extends infer J ? (J extends Job ? Omit<J, 'id'> : never) : never
interface Pending { job: Job; resolve(a: Answer): void; reject(e: Error): void }
interface Slot { worker: Worker; running: Map<number, Pending> }

export class SealPool {
  readonly #setup: WorkerSetup
  readonly #limit: number
  readonly #script: URL
  readonly #slots: Slot[] = []
  /** Readers wait for these. */
  readonly #urgent: Pending[] = []
  readonly #bulk: Pending[] = []
  /** For sealed bytes. */
  readonly #blocks = new BlockPool(MAX_BATCH_BYTES, POOL_BLOCKS)
  #nextId = 1
  #crashes = 0
  #state: 'open' | 'failed' | 'closed' = 'open'
  #closing: Promise<void> | undefined

  constructor(keys: WorkerKeys, options: PoolOptions = {}) {
    // Copies: a Buffer's clone would carry all of the memory that it is a slice of.
    this.#setup = {
      keys: { driveId: Uint8Array.from(keys.driveId), epoch: keys.epoch, contentKey: Uint8Array.from(keys.contentKey), contentHashKey: Uint8Array.from(keys.contentHashKey) }
    }
    this.#limit = options.workers ?? defaultWorkers()
    this.#script = options.script ?? new URL('./worker.js', import.meta.url)
  }

  get workers(): number { return this.#limit }

  /** Jobs that wait or run. */
  get pending(): number {
    let n = this.#urgent.length + this.#bulk.length
    for (const slot of this.#slots) n += slot.running.size
    return n
  }

  /** Cuts each run and hashes its chunks. EINVAL for ranges outside the arena, EBUSY when MAX_POOL_JOBS wait. */
  async cut({ arena, runs, average }: CutRequest): Promise<CutChunk[]> {
    if (average !== 0) chunkSizes(average)
    const limit = average === 0 ? MAX_CHUNK_BYTES : MAX_ARENA_BYTES
    const answer = await this.#submit({ type: 'cut', arena, runs: pack(arena, runs, limit), average })
    if (!('chunks' in answer)) throw fail('EIO', 'a sealing worker gave the wrong answer')
    const { chunks } = answer
    const h = Buffer.from(answer.h.buffer)
    const list: CutChunk[] = []
    for (let i = 0; i < chunks.length; i += 2) list.push({ start: chunks[i]!, length: chunks[i + 1]!, h: h.subarray(i * 16, i * 16 + 32) })
    return list
  }

  /** Seals chunks as cut() gave them. Errors as cut(). */
  async seal({ arena, chunks, gap = 0 }: SealRequest): Promise<SealResult> {
    const packed = pack(arena, chunks, MAX_CHUNK_BYTES)
    const h = new Uint8Array(chunks.length * 32)
    const placed: { offset: number; length: number; id: Buffer }[] = []
    let total = 0
    for (let i = 0; i < chunks.length; i++) {
      const chunk = chunks[i]!
      if (chunk.h.length !== 32) throw fail('EINVAL', 'a content hash has 32 bytes')
      h.set(chunk.h, i * 32)
      const length = sealedLength(chunk.length)
      placed.push({ offset: total + gap, length, id: NO_ID })
      total += gap + length
    }
    const bytes = total + chunks.length * 32
    const block = bytes <= this.#blocks.blockBytes ? this.#blocks.take() : undefined
    const out = block?.memory ?? new SharedArrayBuffer(bytes)
    const outStart = block?.start ?? 0
    let isReleased = false
    const release = () => {
      if (isReleased) return
      isReleased = true
      if (block) this.#blocks.release(block)
    }
    try {
      await this.#submit({ type: 'seal', arena, chunks: packed, h, out, outStart, gap })
    } catch (e) {
      // The worker has answered or ended: nobody writes there any more.
      if (this.#state === 'open') release()
      throw e
    }
    const all = block?.bytes ?? Buffer.from(out)
    // Ids outlive the shared memory.
    const ids = Buffer.alloc(chunks.length * 32)
    all.copy(ids, 0, total)
    for (let i = 0; i < placed.length; i++) placed[i]!.id = ids.subarray(i * 32, i * 32 + 32)
    return { sealed: all.subarray(0, total), block: block?.bytes, chunks: placed, release }
  }

  /**
   * Reads and opens ranges of sealed chunks; the result has one Buffer a read, of
   * to - from bytes. EIO if the file is gone or too short, or a chunk is damaged:
   * the whole job fails.
   */
  async open({ path, reads, into }: OpenRequest): Promise<Buffer[]> {
    const numbers = new Float64Array(reads.length * 4)
    const h = new Uint8Array(reads.length * 32)
    for (let i = 0; i < reads.length; i++) {
      const r = reads[i]!
      if (!(r.offset >= 0 && r.from >= 0 && r.from < r.to && r.to <= r.plainLength && r.plainLength <= MAX_CHUNK_BYTES) || r.h.length !== 32) {
        throw fail('EINVAL', `bytes ${r.from}..${r.to} of a chunk of ${r.plainLength} at ${r.offset}`)
      }
      numbers[4 * i] = r.offset
      numbers[4 * i + 1] = r.plainLength
      numbers[4 * i + 2] = r.from
      numbers[4 * i + 3] = r.to
      h.set(r.h, i * 32)
    }
    const answer = await this.#submit({
      type: 'open', path, reads: numbers, h, intoStart: into?.start ?? 0, room: into?.bytes.length ?? 0, ...(into ? { into: into.memory } : {}),
    })
    if (!('plain' in answer)) throw fail('EIO', 'a sealing worker gave the wrong answer')
    const plain = answer.plain ? Buffer.from(answer.plain.buffer, answer.plain.byteOffset, answer.plain.byteLength) : into!.bytes
    return reads.map((r, i) => plain.subarray(answer.at[i]!, answer.at[i]! + r.to - r.from))
  }

  /** Tells the workers to close a segment file that was deleted: an open descriptor would hold its space. */
  forget(path: string): void {
    for (const slot of this.#slots) slot.worker.postMessage({ type: 'forget', path })
  }

  /** Ends the workers; jobs that have not finished are rejected (EBADF). May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#end('closed', fail('EBADF', 'the sealing pool is closed'))
    return this.#closing
  }

  #submit(job: NewJob): Promise<Answer> {
    if (this.#state !== 'open') {
      return Promise.reject(this.#state === 'closed' ? fail('EBADF', 'the sealing pool is closed') : fail('EIO', 'the sealing workers keep crashing'))
    }
    if (this.#urgent.length + this.#bulk.length >= MAX_POOL_JOBS) return Promise.reject(fail('EBUSY', 'too many sealing jobs wait'))
    return new Promise((resolve, reject) => {
      const pending: Pending = { job: { ...job, id: this.#nextId++ } as Job, resolve, reject }
      ;(job.type === 'open' ? this.#urgent : this.#bulk).push(pending)
      this.#dispatch()
    })
  }

  #dispatch(): void {
    while (this.#state === 'open' && (this.#urgent.length > 0 || this.#bulk.length > 0)) {
      const slot = this.#freeSlot()
      if (!slot) return
      const pending = (this.#urgent.shift() ?? this.#bulk.shift())!
      slot.running.set(pending.job.id, pending)
      slot.worker.ref()
      slot.worker.postMessage(pending.job)
    }
  }

  /** An idle worker, else a new one while there may be more, else the least busy with room. */
  #freeSlot(): Slot | undefined {
    let best: Slot | undefined
    for (const slot of this.#slots) if (!best || slot.running.size < best.running.size) best = slot
    if (best && best.running.size === 0) return best
    if (this.#slots.length < this.#limit) return this.#start()
    return best && best.running.size < POOL_JOBS_PER_WORKER ? best : undefined
  }

  #start(): Slot {
    const worker = new Worker(this.#script, { workerData: this.#setup, name: 'dfs-seal' })
    const slot: Slot = { worker, running: new Map() }
    this.#slots.push(slot)
    let cause: unknown
    worker.on('message', (answer: Answer) => this.#settle(slot, answer))
    worker.on('error', (e) => { cause = e })
    worker.on('exit', () => this.#lost(slot, cause))
    return slot
  }

  #settle(slot: Slot, answer: Answer): void {
    const pending = slot.running.get(answer.id)
    if (!pending) return
    slot.running.delete(answer.id)
    this.#crashes = 0
    if (slot.running.size === 0) slot.worker.unref()
    if ('error' in answer) {
      const { code, message } = answer.error
      pending.reject(code === undefined ? new Error(message) : new DfsError(code, message))
    } else {
      pending.resolve(answer)
    }
    this.#dispatch()
  }

  /** A worker has ended: its jobs fail, and the next job starts another. */
  #lost(slot: Slot, cause: unknown): void {
    const at = this.#slots.indexOf(slot)
    if (at >= 0) this.#slots.splice(at, 1)
    for (const pending of slot.running.values()) pending.reject(fail('EIO', 'a sealing worker crashed', cause))
    slot.running.clear()
    if (this.#state !== 'open') return
    if (++this.#crashes >= MAX_WORKER_CRASHES) void this.#end('failed', fail('EIO', 'the sealing workers keep crashing', cause))
    else this.#dispatch()
  }

  async #end(state: 'closed' | 'failed', error: DfsError): Promise<void> {
    this.#state = state
    for (const pending of [...this.#urgent.splice(0), ...this.#bulk.splice(0)]) pending.reject(error)
    for (const slot of this.#slots) {
      for (const pending of slot.running.values()) pending.reject(error)
      slot.running.clear()
    }
    await Promise.all([...this.#slots].map((slot) => slot.worker.terminate()))
  }
}

/**
 * Two also on two CPUs: one cuts and seals 370 MiB/s, about what a disk takes, and two 730; the main thread
 * needs less than half a CPU to feed them. More than four outrun any disk.
 */
function defaultWorkers(): number {
  const cpus = availableParallelism()
  return cpus === 1 ? 1 : Math.max(2, Math.min(4, cpus - 1))
}

const NO_ID = Buffer.alloc(0)

/** Ranges as start, length pairs. EINVAL unless each lies in the arena and has 1..maxLength bytes. */
function pack(arena: SharedArrayBuffer, ranges: { start: number; length: number }[], maxLength: number): Uint32Array {
  if (arena.byteLength > MAX_ARENA_BYTES) throw fail('EINVAL', `an arena has at most ${MAX_ARENA_BYTES} bytes`)
  const packed = new Uint32Array(ranges.length * 2)
  for (let i = 0; i < ranges.length; i++) {
    const { start, length } = ranges[i]!
    if (!(start >= 0 && length >= 1 && length <= maxLength && start + length <= arena.byteLength)) {
      throw fail('EINVAL', `bytes ${start}+${length} of an arena of ${arena.byteLength}`)
    }
    packed[2 * i] = start
    packed[2 * i + 1] = length
  }
  return packed
}
