/**
 * The thread of verifier.ts. Places that lie close together are read in one go,
 * past the page cache where the file system has that. What that shows to be bad is
 * read once more by itself.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import { MAX_CHUNK_BYTES } from '../limits.js'
import { BlockPool, PAGE_BYTES, pageEnd } from '../memory.js'
import { chunkId, sealedLength } from '../seal/chunk.js'
import type { VerifyAnswer, VerifyJob } from './verifier.js'
import { codeOf } from './write.js'

const [SOUND, DAMAGED, UNREADABLE] = [0, 1, 2]
/** Read in one go: two of the largest chunks. */
const RUN_BYTES = pageEnd(2 * sealedLength(MAX_CHUNK_BYTES) + 2 * PAGE_BYTES)
/** Bytes between two places that are read rather than skipped. */
const GAP_BYTES = 64 << 10

const block = new BlockPool(RUN_BYTES, 1).take()
// Without memory that begins on a page there is no direct I/O.
const buffer = block?.bytes ?? Buffer.alloc(RUN_BYTES)
let hasDirect = block !== undefined && constants.O_DIRECT !== undefined

interface File { fd: number; isDirect: boolean }

function open(path: string): File {
  if (hasDirect) {
    try {
      return { fd: openSync(path, constants.O_RDONLY | constants.O_DIRECT), isDirect: true }
    } catch (e) {
      if (codeOf(e) !== 'EINVAL') throw e
      hasDirect = false
    }
  }
  return { fd: openSync(path, 'r'), isDirect: false }
}

/** Bytes [from, to) of the file; fewer at its end. */
function read(file: File, from: number, to: number): Buffer {
  const start = file.isDirect ? from - from % PAGE_BYTES : from
  const end = file.isDirect ? pageEnd(to) : to
  let got = 0
  while (got < to - start) {
    // Direct I/O comes short at the end of the file alone, and then not on a page.
    const n = readSync(file.fd, buffer, got, end - start - got, start + got)
    got += n
    if (n === 0 || (file.isDirect && n % PAGE_BYTES !== 0)) break
  }
  return buffer.subarray(from - start, Math.max(from - start, Math.min(got, to - start)))
}

function verify({ path, places, ids }: VerifyJob): Uint8Array {
  const count = places.length / 2
  const verdicts = new Uint8Array(count).fill(UNREADABLE!)
  let file: File
  try { file = open(path) } catch { return verdicts }
  const offset = (i: number) => places[2 * i]!
  const length = (i: number) => places[2 * i + 1]!
  const check = (i: number, sealed: Buffer) => {
    verdicts[i] = sealed.length < length(i) ? UNREADABLE! : chunkId(sealed).equals(ids.subarray(32 * i, 32 * i + 32)) ? SOUND! : DAMAGED!
  }
  const one = (i: number) => {
    try { check(i, read(file, offset(i), offset(i) + length(i))) } catch { verdicts[i] = UNREADABLE! }
  }
  try {
    for (let first = 0; first < count;) {
      let last = first
      let end = offset(first) + length(first)
      for (let next = first + 1; next < count && offset(next) <= end + GAP_BYTES && offset(next) + length(next) - offset(first) <= RUN_BYTES - 2 * PAGE_BYTES; next++) {
        last = next
        end = Math.max(end, offset(next) + length(next))
      }
      try {
        const bytes = read(file, offset(first), end)
        for (let i = first; i <= last; i++) check(i, bytes.subarray(offset(i) - offset(first), offset(i) - offset(first) + length(i)))
      } catch (e) {
        // A file system that takes the flag and then not the read. Whatever else it is: each for itself.
        if (codeOf(e) === 'EINVAL' && file.isDirect) {
          hasDirect = false
          closeSync(file.fd)
          file = { fd: -1, isDirect: false }
          file.fd = openSync(path, 'r')
        }
      }
      for (let i = first; i <= last; i++) if (verdicts[i] !== SOUND) one(i)
      first = last + 1
    }
  } finally {
    if (file.fd >= 0) closeSync(file.fd)
  }
  return verdicts
}

parentPort!.on('message', (job: VerifyJob) => {
  let answer: VerifyAnswer
  try {
    answer = { token: job.token, verdicts: verify(job) }
  } catch (e) {
    answer = { token: job.token, verdicts: new Uint8Array(), error: `a segment cannot be verified (${codeOf(e)})` }
  }
  parentPort!.postMessage(answer)
})
