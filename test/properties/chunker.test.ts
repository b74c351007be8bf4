import test from 'brittle'
import fc from 'fast-check'
import { createCipheriv, randomBytes, randomInt } from 'node:crypto'
import { Chunker, averageFor, chunkSizes } from '../../lib/seal/chunker.js'
import { Gear, WINDOW_BYTES } from '../../lib/seal/gear.js'
import { MAX_CHUNK_BYTES } from '../../lib/limits.js'

const chunker = new Chunker(Buffer.alloc(32, 1))

/** Random-looking bytes from a seed. */
function noise(seed: number, length: number): Buffer {
  const key = Buffer.alloc(16)
  key.writeUInt32LE(seed)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length))
}
function pieces(data: Buffer, average: number): string[] {
  let at = 0
  return chunker.cut(data, average).map((n) => data.subarray(at, at += n).toString('base64'))
}
const average = fc.constantFrom(4096, 8192, 16384)
const data = fc.record({ seed: fc.nat(), length: fc.integer({ min: 1, max: 300_000 }) }).map(({ seed, length }) => noise(seed, length))

test('the chunks are the data, within the bounds, and the same each time', (t) => {
  fc.assert(fc.property(data, average, (bytes, avg) => {
    const { min, max } = chunkSizes(avg)
    const lengths = chunker.cut(bytes, avg)
    const isWhole = lengths.reduce((a, b) => a + b, 0) === bytes.length
    const isBounded = lengths.every((n, i) => n >= 1 && n <= max && (i === lengths.length - 1 || n >= min))
    return isWhole && isBounded && JSON.stringify(new Chunker(Buffer.alloc(32, 1)).cut(bytes, avg)) === JSON.stringify(lengths)
  }), { numRuns: 100 })
  t.pass()
})

test('bytes before it do not change where a chunk ends', (t) => {
  fc.assert(fc.property(data, average, fc.integer({ min: 1, max: 5000 }), (bytes, avg, shift) => {
    const moved = Buffer.concat([noise(9, shift), bytes])
    return chunker.next(moved, shift, moved.length, chunkSizes(avg)) === shift + chunker.next(bytes, 0, bytes.length, chunkSizes(avg))
  }), { numRuns: 100 })
  t.pass()
})

test('an insertion changes few chunks', (t) => {
  const before = noise(1, 4_000_000)
  for (const at of [0, 1, 1_000_000, 3_999_999]) {
    const after = Buffer.concat([before.subarray(0, at), Buffer.from('x'), before.subarray(at)])
    const old = new Set(pieces(before, 16384))
    const fresh = pieces(after, 16384).filter((p) => !old.has(p))
    t.ok(fresh.length <= 6, `${fresh.length} new chunks of ${old.size} after an insertion at ${at}`)
  }
})

test('the mean is near the average asked for, and few chunks hit the maximum', (t) => {
  for (const avg of [16384, 131072]) {
    const lengths = chunker.cut(noise(2, 32_000_000), avg)
    const mean = 32_000_000 / lengths.length
    t.ok(mean > avg * 0.8 && mean < avg * 1.3, `mean ${Math.round(mean)} for ${avg}`)
    t.ok(lengths.filter((n) => n === chunkSizes(avg).max).length < lengths.length / 50)
  }
})

test('constant data is cut at the maximum', (t) => {
  t.is(chunker.cut(Buffer.alloc(1_000_000), 16384)[0], 65536)
})

test('another drive cuts elsewhere', (t) => {
  t.unlike(new Chunker(Buffer.alloc(32, 2)).cut(noise(3, 1_000_000), 16384), chunker.cut(noise(3, 1_000_000), 16384))
})

test('these cuts never change: chunks of an older dfs are found again', (t) => {
  t.alike(chunker.cut(noise(4, 200_000), 16384), GOLDEN)
})

test('the scan is the one that is written down, byte by byte, from any place in memory', (t) => {
  const table = Int32Array.from({ length: 256 }, () => randomBytes(4).readInt32LE())
  const gear = new Gear(table)
  for (let i = 0; i < 3000; i++) {
    const shared = Buffer.from(new SharedArrayBuffer(WINDOW_BYTES + 16))
    const start = i % 16
    const data = shared.subarray(start, start + (i % 7 === 0 ? WINDOW_BYTES : randomInt(300)))
    data.set(randomBytes(data.length))
    const mask = ((1 << (1 + (i % 20))) - 1) << (30 - (i % 20))
    let hash = randomBytes(4).readInt32LE()
    const got = gear.scan(data, hash, mask)
    let expected = -1
    for (let k = 0; k < data.length - (data.length % 2) && expected < 0; k++) {
      hash = ((hash << 1) + table[data[k]!]!) | 0
      if ((hash & mask) === 0) expected = k + 1
    }
    if (got !== expected || (got < 0 && gear.hash !== hash)) return t.fail(`${data.length} bytes from ${start}, mask ${mask}: ${got}, not ${expected}`)
  }
  t.pass()
})

test('averages for files are within the limits', (t) => {
  for (const size of [0, 1, 2 ** 28, 2 ** 32, 2 ** 50]) t.ok(chunkSizes(averageFor(size)).max <= MAX_CHUNK_BYTES)
})

const GOLDEN = [18540, 18711, 26768, 24791, 16890, 18384, 21581, 32669, 8886, 12780]
