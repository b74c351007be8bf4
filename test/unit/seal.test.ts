import test from 'brittle'
import sodium from 'sodium-native'
import { randomBytes } from 'node:crypto'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice } from '../../lib/keys/device.js'
import { MAX_CHUNK_BYTES } from '../../lib/limits.js'
import { ChunkSealer, PIECE, TAG_BYTES, chunkId, pieceRange, sealedLength } from '../../lib/seal/chunk.js'
import { EntrySealer, signEntry, verifyEntry } from '../../lib/seal/entry.js'
import { NameSealer } from '../../lib/seal/name.js'
import { ValueSealer } from '../../lib/seal/value.js'
import { codeOf } from '../helpers/scratch.js'

const keys = DriveKeys.fromRoot(Buffer.alloc(32, 3))
const sealerOf = (k: DriveKeys, epoch = 0) => new ChunkSealer(k.contentKey(), k.contentHashKey(), k.driveId, epoch)
const sealer = sealerOf(keys)
const PARENT = Buffer.alloc(20, 1)

function sealChunk(plain: Buffer, by = sealer) {
  const h = by.contentHash(plain)
  const sealed = Buffer.alloc(sealedLength(plain.length))
  by.seal(plain, h, sealed)
  return { h, sealed }
}
function openAll(h: Buffer, plainLength: number, sealed: Buffer, by = sealer): Buffer {
  const out = Buffer.alloc(plainLength)
  by.openRange(h, plainLength, sealed, 0, out)
  return out
}

test('a chunk opens to what was sealed, for all lengths around a piece', (t) => {
  for (const length of [1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE - 7, MAX_CHUNK_BYTES]) {
    const plain = randomBytes(length)
    const { h, sealed } = sealChunk(plain)
    t.ok(openAll(h, length, sealed).equals(plain), `${length} bytes`)
  }
})

test('the sealed form of a known chunk never changes (old chunks stay readable)', (t) => {
  const plain = Buffer.alloc(40000, 'dfs')
  const { h, sealed } = sealChunk(plain)
  t.is(h.toString('hex'), 'b9e244e8dae610d326e3dd604bb8853ce579a15eca0b3822d35e7de84ff2a8a5')
  t.is(chunkId(sealed).toString('hex'), '6e5abc18bd92e90342e3bbe219420bf0a894884f0c9af23b205730eee092f785')
})

test('lengths out of range are refused', async (t) => {
  const h = Buffer.alloc(32)
  t.is(await codeOf(() => sealer.seal(Buffer.alloc(0), h, Buffer.alloc(100))), 'EINVAL')
  t.is(await codeOf(() => sealer.seal(Buffer.alloc(MAX_CHUNK_BYTES + 1), h, Buffer.alloc(2 * MAX_CHUNK_BYTES))), 'EINVAL')
  t.is(await codeOf(() => sealer.seal(Buffer.alloc(10), h, Buffer.alloc(10))), 'EINVAL')
  t.is(await codeOf(() => pieceRange(100, 50, 101)), 'EINVAL')
  t.is(await codeOf(() => pieceRange(100, 50, 50)), 'EINVAL')
})

test('a flipped bit anywhere is noticed, and nothing is shown', (t) => {
  const plain = randomBytes(PIECE + 50)
  const { h, sealed } = sealChunk(plain)
  let missed = 0
  let shown = 0
  for (let i = 0; i < sealed.length; i += i < 100 || i > PIECE - 50 ? 1 : 97) {
    sealed[i]! ^= 1 << (i % 8)
    const out = Buffer.alloc(plain.length)
    try {
      sealer.openRange(h, plain.length, sealed, 0, out)
      missed++
    } catch {}
    if (out.some((b) => b !== 0)) shown++
    sealed[i]! ^= 1 << (i % 8)
  }
  t.is(missed, 0)
  t.is(shown, 0)
})

test('pieces swapped, repeated, cut off, or of another chunk are noticed', async (t) => {
  const plain = randomBytes(3 * PIECE)
  const { h, sealed } = sealChunk(plain)
  const other = sealChunk(randomBytes(3 * PIECE))
  const S = PIECE + TAG_BYTES
  const [a, b, c] = [sealed.subarray(0, S), sealed.subarray(S, 2 * S), sealed.subarray(2 * S)]
  const code = (parts: Buffer[], length = plain.length) => codeOf(() => openAll(h, length, Buffer.concat(parts)))
  t.is(await code([a, b, c]), 'none')
  t.is(await code([b, a, c]), 'EIO', 'swapped')
  t.is(await code([a, a, c]), 'EIO', 'repeated')
  t.is(await code([a, b], 2 * PIECE), 'EIO', 'truncated with the length to match: the last piece is not marked last')
  t.is(await code([a, b, c.subarray(0, 100)], 2 * PIECE + 84), 'EIO', 'truncated within a piece')
  t.is(await code([a, b, c, c], 4 * PIECE), 'EIO', 'extended')
  t.is(await code([a, other.sealed.subarray(S, 2 * S), c]), 'EIO', 'a piece of another chunk')
  t.is(await codeOf(() => openAll(other.h, plain.length, sealed)), 'EIO', 'a whole other chunk')
})

test('another drive, epoch or hash does not open a chunk', async (t) => {
  const plain = randomBytes(1000)
  const { h, sealed } = sealChunk(plain)
  const stranger = DriveKeys.create()
  t.is(await codeOf(() => openAll(h, 1000, sealed, sealerOf(stranger))), 'EIO')
  t.is(await codeOf(() => openAll(h, 1000, sealed, sealerOf(keys, 1))), 'EIO')
  t.is(await codeOf(() => openAll(h, 1000, sealed, new ChunkSealer(keys.contentKey(), keys.contentHashKey(), stranger.driveId, 0))), 'EIO')
  t.unlike(sealerOf(stranger).contentHash(plain), h, 'equal content has another hash in another drive')
})

test('no two pieces, of one chunk or of different ones, use one nonce', (t) => {
  // With equal plaintext in all pieces, equal nonces would give equal ciphertext.
  const seen = new Set<string>()
  let pieces = 0
  for (const plain of [Buffer.alloc(20 * PIECE), Buffer.alloc(19 * PIECE), Buffer.alloc(PIECE)]) {
    const { sealed } = sealChunk(plain)
    for (let at = 0; at < sealed.length; at += PIECE + TAG_BYTES, pieces++) seen.add(sealed.subarray(at, at + 16).toString('hex'))
  }
  t.is(seen.size, pieces)
})

test('names: deterministic, different for each parent, name and drive', (t) => {
  const names = new NameSealer(keys)
  const name = Buffer.from('README.md')
  const hash = names.hash(PARENT, name)
  t.is(hash.length, 16)
  t.alike(names.hash(PARENT, name, Buffer.alloc(16)), hash)
  t.alike(new NameSealer(keys).seal(hash, name), names.seal(hash, name))
  t.alike(names.open(hash, names.seal(hash, name)), name)
  t.is(names.seal(hash, name).length, name.length + 16)
  t.unlike(names.hash(Buffer.alloc(20, 2), name), hash)
  t.unlike(names.hash(PARENT, Buffer.from('README.mD')), hash)
  t.unlike(new NameSealer(DriveKeys.create()).hash(PARENT, name), hash)
  t.unlike(names.hash(Buffer.from('ab'), Buffer.from('c')), names.hash(Buffer.from('a'), Buffer.from('bc')), 'the border of parent and name counts')
  for (const length of [1, 255]) {
    const n = Buffer.alloc(length, 0xff)
    const k = names.hash(PARENT, n)
    t.alike(names.open(k, names.seal(k, n)), n, `${length} bytes`)
  }
})

test('names: a flipped bit, another hash and bad lengths are noticed', async (t) => {
  const names = new NameSealer(keys)
  const name = Buffer.from('secret.txt')
  const hash = names.hash(PARENT, name)
  const sealed = names.seal(hash, name)
  let missed = 0
  for (let i = 0; i < sealed.length * 8; i++) {
    sealed[i >> 3]! ^= 1 << (i & 7)
    if (await codeOf(() => names.open(hash, sealed)) !== 'EIO') missed++
    sealed[i >> 3]! ^= 1 << (i & 7)
  }
  t.is(missed, 0)
  t.is(await codeOf(() => names.open(Buffer.alloc(16), sealed)), 'EIO')
  t.is(await codeOf(() => names.open(hash, Buffer.alloc(5))), 'EIO')
  t.is(await codeOf(() => names.open(hash, Buffer.alloc(500))), 'EIO')
  t.is(await codeOf(() => names.hash(PARENT, Buffer.alloc(256))), 'ENAMETOOLONG')
  t.is(await codeOf(() => new NameSealer(DriveKeys.fromCapability(keys.capability('storage')))), 'KEY_KIND')
})

test('values: open for their purpose and place alone, also when empty', async (t) => {
  const values = new ValueSealer(keys)
  for (const plain of [Buffer.alloc(0), Buffer.from('../target'), randomBytes(65536)]) {
    const sealed = values.sealValue('symlink', PARENT, plain)
    t.alike(values.openValue('symlink', PARENT, sealed), plain)
    t.is(await codeOf(() => values.openValue('xattr-value', PARENT, sealed)), 'EIO')
    t.is(await codeOf(() => values.openValue('symlink', Buffer.alloc(20, 2), sealed)), 'EIO')
    sealed[sealed.length - 1]! ^= 1
    t.is(await codeOf(() => values.openValue('symlink', PARENT, sealed)), 'EIO')
  }
  t.is(await codeOf(() => values.openValue('symlink', PARENT, Buffer.alloc(39))), 'EIO')
  const plain = Buffer.from('same')
  t.unlike(values.sealValue('meta', PARENT, plain), values.sealValue('meta', PARENT, plain))
  t.alike(values.hashValueName(PARENT, plain), values.hashValueName(PARENT, plain))
  t.unlike(values.hashValueName(PARENT, plain), values.hashValueName(Buffer.alloc(20, 2), plain))
})

test('entries: ops open with their header alone; signatures are of one device and one header', async (t) => {
  const entries = new EntrySealer(keys)
  const header = Buffer.from('header')
  for (const plain of [Buffer.alloc(0), Buffer.from('ops')]) {
    const sealed = entries.sealOps(plain, header)
    t.alike(entries.openOps(sealed, header), plain)
    t.is(await codeOf(() => entries.openOps(sealed, Buffer.from('headeR'))), 'EIO')
    sealed[3]! ^= 1
    t.is(await codeOf(() => entries.openOps(sealed, header)), 'EIO')
  }
  const device = createDevice()
  const signature = signEntry(header, device.secretKey)
  t.ok(verifyEntry(header, signature, device.publicKey))
  t.absent(verifyEntry(Buffer.from('headeR'), signature, device.publicKey))
  t.absent(verifyEntry(header, signature, createDevice().publicKey))
  t.absent(verifyEntry(header, signature.subarray(1), device.publicKey))
  const bare = Buffer.alloc(64)
  sodium.crypto_sign_detached(bare, header, device.secretKey)
  t.absent(verifyEntry(header, bare, device.publicKey), 'a signature without the domain prefix is not one')
})
