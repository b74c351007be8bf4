/**
 * Content-defined chunking: FastCDC (Xia et al., USENIX ATC 2016; the rolling of
 * two bytes from its 2020 revision, IEEE TPDS 31(9)), with normalized chunking
 * at level 2: a stricter mask before the average and a laxer one after it.
 *
 * Sizes: average / 2 .. average * 4, and never above MAX_CHUNK_BYTES. What lies below the minimum is not
 * looked at, so a high minimum is speed (the 2020 revision, section 4.3); it costs little deduplication.
 * The gear table is keyed by the drive, so that cut points of a known file differ
 * between drives. This does not hide boundaries from one who knows the plaintext
 * and sees the lengths (docs/threat-model.md).
 *
 * The hash is 32 bits wide; the masks use its high bits, which depend on the most
 * bytes. The scan itself is in gear.ts.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { Gear, WINDOW_BYTES } from './gear.js'
import { CHUNK_AVERAGE_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_AVERAGE_BYTES } from '../limits.js'

export interface ChunkSizes { min: number; average: number; max: number }

/** Bounds for an average of MIN_CHUNK_AVERAGE_BYTES..MAX_CHUNK_BYTES, rounded down to a power of two. EINVAL outside. */
export function chunkSizes(average: number): ChunkSizes {
  if (!(average >= MIN_CHUNK_AVERAGE_BYTES && average <= MAX_CHUNK_BYTES)) throw fail('EINVAL', `a chunk average of ${average} bytes`)
  const power = 2 ** Math.floor(Math.log2(average))
  return { min: power / 2, average: power, max: Math.min(power * 4, MAX_CHUNK_BYTES) }
}

/** The average for a file of this size: larger files get fewer, larger chunks, since their records cost on every device. */
export function averageFor(fileBytes: number): number {
  if (fileBytes < 256 * 1024 * 1024) return CHUNK_AVERAGE_BYTES
  return fileBytes < 4 * 1024 ** 3 ? CHUNK_AVERAGE_BYTES * 2 : CHUNK_AVERAGE_BYTES * 4
}

export class Chunker {
  readonly #gear: Gear

  /** `contentHashKey`: 32 bytes; the same key gives the same cuts. */
  constructor(contentHashKey: Uint8Array) {
    const seed = Buffer.alloc(32)
    sodium.crypto_kdf_derive_from_key(seed, 0, Buffer.from('dfs-gear', 'latin1'), contentHashKey)
    const bytes = Buffer.alloc(256 * 4)
    sodium.crypto_stream_xor(bytes, bytes, Buffer.alloc(24), seed)
    this.#gear = new Gear(Int32Array.from({ length: 256 }, (_, i) => bytes.readInt32LE(i * 4)))
  }

  /** Lengths of the chunks of `data`, in order; they sum to its length. The last may be below the minimum. */
  cut(data: Uint8Array, average: number): number[] {
    const sizes = chunkSizes(average)
    const lengths: number[] = []
    for (let at = 0; at < data.length;) {
      const next = this.next(data, at, data.length, sizes)
      lengths.push(next - at)
      at = next
    }
    return lengths
  }

  /** The end of the chunk that starts at `start`; at most `end`. */
  next(data: Uint8Array, start: number, end: number, sizes: ChunkSizes): number {
    const length = end - start
    if (length <= sizes.min) return end
    const bits = Math.log2(sizes.average)
    const normal = start + Math.min(sizes.average, length)
    const limit = start + Math.min(sizes.max, length)
    const cut = this.#scan(data, start + sizes.min, normal, 0, mask(bits + 2))
    return cut >= 0 ? cut : this.#scan(data, normal, limit, this.#gear.hash, mask(bits - 2), limit)
  }

  /** Min, average and max are even, so that both scans go over whole pairs; an odd last byte of the data needs no test. */
  #scan(data: Uint8Array, from: number, to: number, hash: number, mask: number, otherwise = -1): number {
    for (let at = from; at < to; at += WINDOW_BYTES) {
      const cut = this.#gear.scan(data.subarray(at, Math.min(at + WINDOW_BYTES, to)), hash, mask)
      if (cut >= 0) return at + cut
      hash = this.#gear.hash
    }
    return otherwise
  }
}

/** `bits` ones from bit 30 down: bit 31 must stay free, for the first hash of each pair is tested one bit higher. */
function mask(bits: number): number {
  return ((1 << bits) - 1) << (31 - bits)
}
