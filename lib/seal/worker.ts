/**
 * One worker of the sealing pool: cuts, hashes, seals and opens. Knows the
 * content keys and nothing else of the drive.
 *
 * Owns: its descriptors of segment files, closed when the thread ends.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { fail, isDfsError } from '../errors.js'
import { DIRECT_READ_BYTES, MAX_CHUNK_BYTES, OPEN_SEGMENTS, READ_RUN_BYTES } from '../limits.js'
import { BlockPool, PAGE_BYTES, pageEnd } from '../memory.js'
import { ChunkSealer, PIECE, chunkId, pieceRange, sealedLength, type PieceRange } from './chunk.js'
import { Chunker, chunkSizes } from './chunker.js'
import type { Answer, Job, Notice, WorkerSetup } from './jobs.js'

if (!parentPort) throw fail('EINVAL', 'the sealing worker runs as a worker thread only')
const port = parentPort
const { keys } = workerData as WorkerSetup
const sealer = new ChunkSealer(keys.contentKey, keys.contentHashKey, keys.driveId, keys.epoch)
const chunker = new Chunker(keys.contentHashKey)

/** Of the descriptors for direct I/O in `descriptors`. */
const DIRECT = 'direct:'

/** Sealed bytes of one read; a whole chunk at most. */
const scratch = Buffer.alloc(sealedLength(MAX_CHUNK_BYTES))

function cut(job: Extract<Job, { type: 'cut' }>): Answer {
  const arena = Buffer.from(job.arena)
  const { runs } = job
  const at: number[] = []
  for (let i = 0; i < runs.length; i += 2) {
    const end = runs[i]! + runs[i + 1]!
    if (job.average === 0) {
      at.push(runs[i]!, runs[i + 1]!)
      continue
    }
    const sizes = chunkSizes(job.average)
    for (let start = runs[i]!; start < end;) {
      const next = chunker.next(arena, start, end, sizes)
      at.push(start, next - start)
      start = next
    }
  }
  const h = new Uint8Array(at.length * 16)
  for (let i = 0; i < at.length; i += 2) h.set(sealer.contentHash(arena.subarray(at[i]!, at[i]! + at[i + 1]!)), i * 16)
  return { id: job.id, chunks: Uint32Array.from(at), h }
}

function seal(job: Extract<Job, { type: 'seal' }>): Answer {
  const arena = Buffer.from(job.arena)
  const out = Buffer.from(job.out, job.outStart)
  const { chunks, h, gap } = job
  const count = chunks.length / 2
  let idAt = 0
  for (let i = 0; i < count; i++) idAt += gap + sealedLength(chunks[2 * i + 1]!)
  let at = 0
  for (let i = 0; i < count; i++) {
    const start = chunks[2 * i]!
    at += gap
    const length = sealer.seal(arena.subarray(start, start + chunks[2 * i + 1]!), h.subarray(32 * i, 32 * i + 32), out.subarray(at))
    out.set(chunkId(out.subarray(at, at + length)), idAt + 32 * i)
    at += length
  }
  return { id: job.id, sealed: true }
}

function open(job: Extract<Job, { type: 'open' }>): Answer {
  const { reads, h } = job
  const count = reads.length / 4
  const ranges = []
  const starts = new Uint32Array(count)
  let total = 0
  for (let i = 0; i < count; i++) {
    const from = reads[4 * i + 2]!
    const range = pieceRange(reads[4 * i + 1]!, from, reads[4 * i + 3]!)
    ranges.push(range)
    starts[i] = total + from - range.plainOffset
    total += range.plainBytes
  }
  const isInto = job.into !== undefined && total <= job.room
  const plain = isInto ? Buffer.from(job.into!, job.intoStart, total) : Buffer.allocUnsafeSlow(total)
  const span = readSpan(job, ranges)
  let at = 0
  for (let i = 0; i < count; i++) {
    const range = ranges[i]!
    const from = reads[4 * i]! + range.sealedOffset
    let sealed: Buffer
    if (span) {
      sealed = span.bytes.subarray(from - span.from, from - span.from + range.sealedLength)
    } else {
      sealed = scratch.subarray(0, range.sealedLength)
      readAll(descriptor(job.path), sealed, from, job.path)
    }
    sealer.openRange(h.subarray(32 * i, 32 * i + 32), reads[4 * i + 1]!, sealed, range.plainOffset / PIECE, plain.subarray(at, at + range.plainBytes))
    at += range.plainBytes
  }
  return { id: job.id, plain: isInto ? null : plain, at: starts }
}

/** Pages of a segment, past the page cache: read once and for all, they would only push others out of it. */
const pages = new BlockPool(READ_RUN_BYTES, 1).take()
let isDirect = pages !== undefined && constants.O_DIRECT !== undefined

/** All ranges in one read past the page cache, where they lie close together and are worth it; undefined where that does not work. */
function readSpan(job: Extract<Job, { type: 'open' }>, ranges: PieceRange[]): { from: number; bytes: Buffer } | undefined {
  if (!isDirect) return undefined
  let from = Infinity
  let to = 0
  let wanted = 0
  for (let i = 0; i < ranges.length; i++) {
    const at = job.reads[4 * i]! + ranges[i]!.sealedOffset
    from = Math.min(from, at)
    to = Math.max(to, at + ranges[i]!.sealedLength)
    wanted += ranges[i]!.sealedLength
  }
  from -= from % PAGE_BYTES
  const length = pageEnd(to) - from
  if (wanted < DIRECT_READ_BYTES || wanted < length / 2 || length > READ_RUN_BYTES) return undefined
  try {
    const fd = descriptor(job.path, true)
    // Short at the end of the file alone, where a page is not full.
    const n = readSync(fd, pages!.bytes, 0, length, from)
    if (n >= to - from) return { from, bytes: pages!.bytes }
  } catch (e) {
    // Whatever it is, the plain read works or tells. EINVAL: the file system has no direct I/O.
    if (codeOf(e) === 'EINVAL') isDirect = false
  }
  return undefined
}

/** Least recently used first. */
const descriptors = new Map<string, number>()

function descriptor(path: string, isDirect = false): number {
  const key = isDirect ? DIRECT + path : path
  let fd = descriptors.get(key)
  if (fd !== undefined) {
    descriptors.delete(key)
  } else {
    try {
      fd = openSync(path, isDirect ? constants.O_RDONLY | constants.O_DIRECT : 'r')
    } catch (e) {
      if (isDirect) throw e
      throw fail('EIO', `segment ${path} cannot be opened (${codeOf(e)})`, e)
    }
    if (descriptors.size >= OPEN_SEGMENTS) close(descriptors.keys().next().value!)
  }
  descriptors.set(key, fd)
  return fd
}

function forget(path: string): void {
  close(path)
  close(DIRECT + path)
}

function close(key: string): void {
  const fd = descriptors.get(key)
  if (fd === undefined) return
  descriptors.delete(key)
  closeSync(fd)
}

function readAll(fd: number, out: Buffer, position: number, path: string): void {
  for (let done = 0; done < out.length;) {
    let n: number
    try {
      n = readSync(fd, out, done, out.length - done, position + done)
    } catch (e) {
      throw fail('EIO', `segment ${path} cannot be read (${codeOf(e)})`, e)
    }
    if (n === 0) throw fail('EIO', `segment ${path} ends before the chunk`)
    done += n
  }
}

function codeOf(e: unknown): string {
  return (e as NodeJS.ErrnoException).code ?? String(e)
}

function work(job: Job): Answer {
  switch (job.type) {
    case 'cut': return cut(job)
    case 'seal': return seal(job)
    case 'open': return open(job)
  }
}

port.on('message', (message: Job | Notice) => {
  if (message.type === 'forget') return forget(message.path)
  let answer: Answer
  try {
    answer = work(message)
  } catch (e) {
    // A native module's complaint (a range outside the arena, say) is the caller's mistake, not an I/O error: it keeps no code.
    answer = { id: message.id, error: { code: isDfsError(e) ? e.code : undefined, message: e instanceof Error ? e.message : String(e) } }
  }
  const moved: ArrayBuffer[] = []
  if ('plain' in answer && answer.plain) moved.push(answer.plain.buffer as ArrayBuffer)
  if ('h' in answer) moved.push(answer.h.buffer as ArrayBuffer)
  port.postMessage(answer, moved)
})
