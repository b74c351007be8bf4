/**
 * Chunks: plaintext <-> sealed bytes. docs/format.md, "Sealed chunk".
 *
 * A chunk of 1 byte to 1 MiB is sealed in pieces of 4 KiB, each followed by its
 * 16-byte tag; nothing else is stored. Piece i has
 *   nonce = first 20 bytes of h || le32(i)      (XChaCha20-Poly1305, 24 bytes)
 *   associated data = drive id, epoch, format, codec, last-piece flag (40 bytes)
 * with h = keyed BLAKE3 of the whole plaintext. The same nonce therefore means
 * the same plaintext.
 *
 * Condition: the plaintext must not change between contentHash() and the end of
 * seal(); otherwise one nonce would serve two plaintexts.
 *
 * Not for concurrent use: scratch buffers are shared between calls of one instance.
 */
import blakeHash from '@napi-rs/blake-hash'
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { MAX_CHUNK_BYTES, PIECE_BYTES } from '../limits.js'

export const PIECE = PIECE_BYTES
export const TAG_BYTES = 16
const SEALED_PIECE = PIECE + TAG_BYTES
const FORMAT = 1
const CODEC_RAW = 0

const seal = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt
const open = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt

/** Bytes of the sealed chunk of `plainLength` (1..MAX_CHUNK_BYTES) bytes. */
export function sealedLength(plainLength: number): number {
  return plainLength + Math.ceil(plainLength / PIECE) * TAG_BYTES
}

/** Of a sealed chunk of `sealed` bytes; undefined if none has so many. */
export function plainLength(sealed: number): number | undefined {
  const plain = sealed - Math.ceil(sealed / SEALED_PIECE) * TAG_BYTES
  return plain >= 1 && plain <= MAX_CHUNK_BYTES && sealedLength(plain) === sealed ? plain : undefined
}

export interface PieceRange {
  firstPiece: number
  /** Inclusive. */
  lastPiece: number
  /** Of the first piece within the sealed chunk. */
  sealedOffset: number
  /** Of all pieces of the range, tags included. */
  sealedLength: number
  /** Of the first piece within the plaintext: from - plainOffset is where the wanted bytes start in openRange's out. */
  plainOffset: number
  /** Plaintext bytes of all pieces of the range: the size of openRange's out. */
  plainBytes: number
}

/** The pieces that hold plaintext bytes from..to-1. 0 <= from < to <= plainLength, or EINVAL. */
export function pieceRange(plainLength: number, from: number, to: number): PieceRange {
  if (!(from >= 0 && from < to && to <= plainLength)) throw fail('EINVAL', `bytes ${from}..${to} of a chunk of ${plainLength}`)
  const firstPiece = Math.floor(from / PIECE)
  const lastPiece = Math.floor((to - 1) / PIECE)
  const plainOffset = firstPiece * PIECE
  const plainBytes = Math.min(plainLength, (lastPiece + 1) * PIECE) - plainOffset
  return {
    firstPiece,
    lastPiece,
    sealedOffset: firstPiece * SEALED_PIECE,
    sealedLength: plainBytes + (lastPiece - firstPiece + 1) * TAG_BYTES,
    plainOffset,
    plainBytes
  }
}

/** The chunk's id: BLAKE3-256 of its sealed bytes. Anyone can compute it. */
export function chunkId(sealed: Buffer): Buffer {
  return blakeHash.blake3(sealed)
}

export class ChunkSealer {
  readonly #key: Buffer
  readonly #hasher: InstanceType<typeof blakeHash.Blake3Hasher>
  readonly #nonce = Buffer.alloc(24)
  readonly #ad: Buffer
  readonly #adLast: Buffer

  /** Keys and drive id: 32 bytes each (see WorkerKeys). */
  constructor(contentKey: Uint8Array, contentHashKey: Uint8Array, driveId: Uint8Array, epoch: number) {
    this.#key = Buffer.from(contentKey.buffer, contentKey.byteOffset, contentKey.byteLength)
    this.#hasher = blakeHash.Blake3Hasher.newKeyed(Buffer.from(contentHashKey.buffer, contentHashKey.byteOffset, contentHashKey.byteLength))
    this.#ad = Buffer.alloc(40)
    this.#ad.set(driveId, 0)
    this.#ad.writeUInt32LE(epoch, 32)
    this.#ad[36] = FORMAT
    this.#ad[37] = CODEC_RAW
    this.#adLast = Buffer.alloc(40)
    this.#adLast.set(this.#ad)
    this.#adLast[38] = 1
  }

  /** h: keyed BLAKE3-256 of the plaintext. The deduplication key, and the source of the nonces. 32 bytes. */
  contentHash(plain: Buffer): Buffer {
    this.#hasher.reset()
    this.#hasher.update(plain)
    return this.#hasher.digestBuffer()
  }

  /**
   * Seals a whole chunk into the start of `out` and gives the bytes written
   * (sealedLength). `h` must be contentHash(plain). EINVAL for lengths out of range.
   */
  seal(plain: Buffer, h: Uint8Array, out: Buffer): number {
    const total = plain.length
    if (total < 1 || total > MAX_CHUNK_BYTES) throw fail('EINVAL', `a chunk has 1..${MAX_CHUNK_BYTES} bytes, not ${total}`)
    const length = sealedLength(total)
    if (out.length < length) throw fail('EINVAL', `no room for ${length} sealed bytes in ${out.length}`)
    this.#setNonce(h)
    let at = 0
    for (let from = 0, piece = 0; from < total; from += PIECE, piece++) {
      const to = Math.min(from + PIECE, total)
      this.#nonce.writeUInt32LE(piece, 20)
      seal(out.subarray(at, at + to - from + TAG_BYTES), plain.subarray(from, to), to === total ? this.#adLast : this.#ad, null, this.#nonce, this.#key)
      at += to - from + TAG_BYTES
    }
    return length
  }

  /**
   * Opens consecutive pieces, from `firstPiece` on; `sealed` holds exactly these
   * pieces (see pieceRange) and `out` has exactly room for their plaintext.
   * EIO 'chunk damaged' unless every piece is what was sealed under this h, at
   * this place, in a chunk that ends where this one does; `out` is then zeroed.
   */
  openRange(h: Uint8Array, plainLength: number, sealed: Buffer, firstPiece: number, out: Buffer): void {
    const plainOffset = firstPiece * PIECE
    const pieces = Math.ceil(sealed.length / SEALED_PIECE)
    const plainBytes = sealed.length - pieces * TAG_BYTES
    const plainEnd = plainOffset + plainBytes
    // A range ends with a whole piece or with the chunk.
    if (plainBytes < 1 || plainEnd > plainLength || (plainEnd < plainLength && plainBytes % PIECE !== 0)) throw damaged()
    if (out.length !== plainBytes) throw fail('EINVAL', `the pieces hold ${plainBytes} bytes, not ${out.length}`)
    this.#setNonce(h)
    let at = 0
    try {
      for (let from = 0, piece = firstPiece; from < plainBytes; from += PIECE, piece++) {
        const to = Math.min(from + PIECE, plainBytes)
        this.#nonce.writeUInt32LE(piece, 20)
        const ad = plainOffset + to === plainLength ? this.#adLast : this.#ad
        open(out.subarray(from, to), null, sealed.subarray(at, at + to - from + TAG_BYTES), ad, this.#nonce, this.#key)
        at += to - from + TAG_BYTES
      }
    } catch (e) {
      out.fill(0)
      throw damaged(e)
    }
  }

  #setNonce(h: Uint8Array): void {
    if (h.length !== 32) throw fail('EINVAL', 'a content hash has 32 bytes')
    const nonce = this.#nonce
    for (let i = 0; i < 20; i++) nonce[i] = h[i]!
  }
}

function damaged(cause?: unknown) {
  return fail('EIO', 'chunk damaged', cause)
}
