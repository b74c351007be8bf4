import test from 'brittle'
import fc from 'fast-check'
import { DriveKeys } from '../../lib/keys/derive.js'
import { parseKey } from '../../lib/keys/capability.js'
import { decodeZ32, encodeZ32 } from '../../lib/keys/zbase32.js'
import { isDfsError } from '../../lib/errors.js'
import { ChunkSealer, PIECE, pieceRange, sealedLength } from '../../lib/seal/chunk.js'
import { NameSealer } from '../../lib/seal/name.js'
import { ValueSealer } from '../../lib/seal/value.js'

const keys = DriveKeys.create()
const sealer = new ChunkSealer(keys.contentKey(), keys.contentHashKey(), keys.driveId, 0)
const bytes = (max: number, min = 0) => fc.uint8Array({ minLength: min, maxLength: max }).map((a) => Buffer.from(a))
const root = bytes(32, 32)

test('any range of a chunk opens from its pieces alone', (t) => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 5 * PIECE }), fc.nat(), fc.nat(), fc.nat(255), (length, a, b, fill) => {
    const plain = Buffer.alloc(length)
    for (let i = 0; i < length; i++) plain[i] = (i * 31 + (i >> 8) + fill) & 255
    const h = sealer.contentHash(plain)
    const sealed = Buffer.alloc(sealedLength(length))
    if (sealer.seal(plain, h, sealed) !== sealed.length) return false
    const from = a % length
    const to = from + 1 + (b % (length - from))
    const range = pieceRange(length, from, to)
    const out = Buffer.alloc(range.plainBytes)
    sealer.openRange(h, length, sealed.subarray(range.sealedOffset, range.sealedOffset + range.sealedLength), range.firstPiece, out)
    return out.subarray(from - range.plainOffset, to - range.plainOffset).equals(plain.subarray(from, to)) &&
      range.lastPiece === Math.floor((to - 1) / PIECE)
  }), { numRuns: 200 })
  t.pass()
})

test('a flipped bit of a chunk, its h or its length is always noticed', (t) => {
  fc.assert(fc.property(bytes(300, 1), fc.nat(), fc.constantFrom('sealed', 'h', 'length'), (plain, where, what) => {
    const h = sealer.contentHash(plain)
    const sealed = Buffer.alloc(sealedLength(plain.length))
    sealer.seal(plain, h, sealed)
    // Of h, the first 20 bytes are the nonce; the rest is bound by the signed op.
    const target = what === 'h' ? h.subarray(0, 20) : sealed
    if (what !== 'length') target[(where >> 3) % target.length]! ^= 1 << (where & 7)
    try {
      sealer.openRange(h, plain.length + (what === 'length' ? 1 : 0), sealed, 0, Buffer.alloc(plain.length))
      return false
    } catch (e) {
      return isDfsError(e, 'EIO')
    }
  }), { numRuns: 300 })
  t.pass()
})

test('names and values of any bytes open again', (t) => {
  const names = new NameSealer(keys)
  const values = new ValueSealer(keys)
  fc.assert(fc.property(bytes(24), bytes(255, 1), (parent, name) => {
    const hash = names.hash(parent, name)
    return names.open(hash, names.seal(hash, name)).equals(name) &&
      values.openValue('xattr-name', parent, values.sealValue('xattr-name', parent, name)).equals(name)
  }), { numRuns: 300 })
  t.pass()
})

test('different (parent, name) have different hashes', (t) => {
  const names = new NameSealer(keys)
  fc.assert(fc.property(bytes(24), bytes(20, 1), bytes(24), bytes(20, 1), (p1, n1, p2, n2) =>
    names.hash(p1, n1).equals(names.hash(p2, n2)) === (p1.equals(p2) && n1.equals(n2))), { numRuns: 500 })
  t.pass()
})

test('any key survives its string form; any text is a key or KEY_INVALID', (t) => {
  fc.assert(fc.property(root, fc.constantFrom('full', 'read-only', 'storage'), (r, kind) => {
    const made = DriveKeys.fromRoot(r)
    const again = DriveKeys.fromCapability(made.capability(kind))
    return again.kind === kind && again.driveId.equals(made.driveId) && again.capability() === made.capability(kind)
  }))
  fc.assert(fc.property(fc.string({ maxLength: 150 }).map((s) => 'dfs1-' + s), (text) => {
    try { parseKey(text) } catch (e) { return isDfsError(e, 'KEY_INVALID') }
    return true
  }), { numRuns: 500 })
  fc.assert(fc.property(bytes(80), (b) => decodeZ32(encodeZ32(b)).equals(b)))
  t.pass()
})
