import test from 'brittle'
import { DriveKeys } from '../../lib/keys/derive.js'
import { formatKey, parseKey, type KeyKind } from '../../lib/keys/capability.js'
import { ALPHABET, decodeZ32, encodeZ32 } from '../../lib/keys/zbase32.js'
import { createDevice, deviceFromSeed, deviceSeed } from '../../lib/keys/device.js'
import { codeOf } from '../helpers/scratch.js'

const ROOT = Buffer.alloc(32, 7)
const KINDS: KeyKind[] = ['full', 'read-only', 'storage']

test('z-base-32 matches the examples of its specification', (t) => {
  t.is(encodeZ32(Buffer.from([240, 191, 199])), '6n9hq')
  t.is(encodeZ32(Buffer.from([212, 122, 4])), '4t7ye')
  t.alike(decodeZ32('6n9hq'), Buffer.from([240, 191, 199]))
})

test('a key string gives back what it was made of', (t) => {
  const keys = DriveKeys.fromRoot(ROOT)
  const full = parseKey(keys.capability('full'))
  t.alike(full, { kind: 'full', epoch: 0, root: ROOT })
  const readOnly = parseKey(keys.capability('read-only'))
  t.is(readOnly.kind, 'read-only')
  if (readOnly.kind === 'read-only') t.alike(readOnly.driveId, keys.driveId)
  const storage = parseKey(keys.capability('storage'))
  if (storage.kind === 'storage') t.alike(storage.storageSecret, keys.storageSecret)
  t.is(keys.capability('full').length, 5 + 64)
  t.is(keys.capability('storage').length, 5 + 120)
  t.is(parseKey(formatKey('full', { root: ROOT }, 513)).epoch, 513)
})

test('a key string of this root never changes (old keys stay valid)', (t) => {
  t.is(DriveKeys.fromRoot(ROOT).capability('full'), FULL)
  t.is(DriveKeys.fromRoot(ROOT).driveName, DRIVE)
  t.is(DriveKeys.fromRoot(ROOT).contentKey().toString('hex'), CONTENT)
  t.is(DriveKeys.fromRoot(ROOT).topic.toString('hex'), TOPIC)
})

test('case, spaces, dashes and line ends in a key string do not matter', (t) => {
  const key = DriveKeys.fromRoot(ROOT).capability('read-only')
  const spread = key.toUpperCase().replace(/(.{7})/g, '$1 - ') + '\n'
  t.alike(parseKey(spread), parseKey(key))
})

test('every mistyped character is noticed', async (t) => {
  for (const kind of KINDS) {
    const key = DriveKeys.fromRoot(ROOT).capability(kind)
    let missed = 0
    for (let i = 0; i < key.length; i++) {
      for (const c of ALPHABET) if (c !== key[i] && key[i] !== '-' && await codeOf(() => parseKey(key.slice(0, i) + c + key.slice(i + 1))) !== 'KEY_INVALID') missed++
    }
    t.is(missed, 0, kind)
  }
})

test('every swap of two characters, omission and doubling is noticed', async (t) => {
  for (const kind of KINDS) {
    const key = DriveKeys.fromRoot(ROOT).capability(kind)
    let missed = 0
    for (let i = 5; i < key.length; i++) {
      const tries = [key.slice(0, i) + key.slice(i + 1), key.slice(0, i) + key[i] + key.slice(i)]
      for (let j = i + 1; j < Math.min(key.length, i + 4); j++) {
        if (key[i] !== key[j]) tries.push(key.slice(0, i) + key[j] + key.slice(i + 1, j) + key[i] + key.slice(j + 1))
      }
      for (const text of tries) if (await codeOf(() => parseKey(text)) !== 'KEY_INVALID') missed++
    }
    t.is(missed, 0, kind)
  }
})

test('what is wrong with a key is said, without the key', async (t) => {
  const key = DriveKeys.fromRoot(ROOT).capability('full')
  await t.exception(() => parseKey('hello'), /starts with dfs1-/)
  await t.exception(() => parseKey(key.replace('dfs1', 'dfs2')), /newer/)
  await t.exception(() => parseKey(key.slice(0, -1)), /63 characters/)
  await t.exception(() => parseKey(key.slice(0, -1) + '0'), /'0' is never part of a key \(is it 'o'\?\)/)
  await t.exception(() => parseKey(key.slice(0, 20) + (key[20] === 'y' ? 'b' : 'y') + key.slice(21)), /checksum/)
  await t.exception(() => parseKey(key.repeat(10)), /too long/)
})

test('each kind of key derives the kinds below it and no other', async (t) => {
  const full = DriveKeys.fromRoot(Buffer.alloc(32, 9))
  const reader = DriveKeys.fromCapability(full.capability('read-only'))
  const storage = DriveKeys.fromCapability(reader.capability('storage'))
  t.alike(reader.driveId, full.driveId)
  t.alike(storage.driveId, full.driveId)
  t.alike(reader.contentKey(), full.contentKey())
  t.alike(storage.proofKey, full.proofKey)
  t.ok(full.authoritySecretKey)
  t.absent(reader.authoritySecretKey)
  t.absent(storage.nameKey ?? storage.nameHashKey ?? storage.valueKey ?? storage.valueHashKey ?? storage.logKey)
  t.is(await codeOf(() => reader.capability('full')), 'KEY_KIND')
  t.is(await codeOf(() => storage.capability('read-only')), 'KEY_KIND')
  t.is(await codeOf(() => storage.contentKey()), 'KEY_KIND')
  t.is(await codeOf(() => storage.forWorkers()), 'KEY_KIND')
  t.is(await codeOf(() => full.contentKey(1)), 'KEY_KIND')
})

test('no two purposes, and no two drives, share a key', (t) => {
  const all = [DriveKeys.create(), DriveKeys.create()].flatMap((k) => [
    k.contentKey(), k.contentHashKey(), k.nameKey!, k.nameHashKey!, k.valueKey!, k.valueHashKey!, k.logKey!, k.storageSecret, k.topic, k.proofKey
  ]).map((b) => b.toString('hex'))
  t.is(new Set(all).size, 20)
})

test('what a worker gets has memory of its own, with no other secret in it', (t) => {
  const w = DriveKeys.fromCapability(DriveKeys.create().capability()).forWorkers()
  for (const b of [w.contentKey, w.contentHashKey]) t.is(b.buffer.byteLength, 32)
})

test('a device is its seed', (t) => {
  const device = createDevice()
  const again = deviceFromSeed(deviceSeed(device), device.incarnation)
  t.alike(again, device)
  t.is(device.incarnation.length, 16)
})

const FULL = 'dfs1-nyyyyba8yhdoqba8yhdoqba8yhdoqba8yhdoqba8yhdoqba8yhdoqba86n3pz9bu'
const DRIVE = 'u7rmr4r5cpfqe11qbqykmet1s5eh3c1eat9xchioxch7691fuwao'
const CONTENT = 'ce74c221b71cd4d617d7d780b31651d1c2352f22f50937c6c6600bfbc377719d'
const TOPIC = '54ae3f5c76aeab6c77fecc616b12151f269b7f1cc8a621b70f64f90d746a5324'
