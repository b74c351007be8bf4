import test from 'brittle'
import { chmodSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createDevice, newIncarnation } from '../../lib/keys/device.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { changePassphrase, createKeyFile, isKeyFileSealed, openKeyFile, setIncarnation } from '../../lib/keys/keyfile.js'
import { readPassphrase } from '../../lib/keys/passphrase.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const keys = DriveKeys.create()
const device = createDevice()
/** As cheap as libsodium allows. */
const cost = { passes: 1, memoryBytes: 8192 }
const say = (text: string) => async () => Buffer.from(text)

test('a key file gives back key and device, and is 0600 in a 0700 directory', async (t) => {
  const dir = join(scratchDir(t), 'store')
  const path = join(dir, 'key')
  await createKeyFile(path, { keys, device })
  const opened = await openKeyFile(path)
  t.is(opened.keys.capability(), keys.capability())
  t.alike(opened.device, device)
  t.is(opened.isSealed, false)
  t.is(statSync(path).mode & 0o777, 0o600)
  t.is(statSync(dir).mode & 0o777, 0o700)
  t.alike(readdirSync(dir), ['key'], 'no temporary file is left')
})

test('read-only and storage keys are kept too', async (t) => {
  const dir = scratchDir(t)
  for (const kind of ['read-only', 'storage'] as const) {
    await createKeyFile(join(dir, kind), { keys: DriveKeys.fromCapability(keys.capability(kind)), device })
    t.is((await openKeyFile(join(dir, kind))).keys.kind, kind)
  }
})

test('an existing key file is never overwritten', async (t) => {
  const path = join(scratchDir(t), 'key')
  await createKeyFile(path, { keys, device })
  t.is(await codeOf(() => createKeyFile(path, { keys: DriveKeys.create(), device })), 'STORE_EXISTS')
  t.is((await openKeyFile(path)).keys.capability(), keys.capability())
})

test('a key file that others may read is refused, with the remedy', async (t) => {
  const path = join(scratchDir(t), 'key')
  await createKeyFile(path, { keys, device })
  for (const mode of [0o640, 0o604, 0o620]) {
    chmodSync(path, mode)
    t.is(await codeOf(() => openKeyFile(path)), 'EACCES')
  }
  await t.exception(openKeyFile(path), /chmod 600/)
})

test('with a passphrase nothing secret is in the file, and only the right one opens it', async (t) => {
  const path = join(scratchDir(t), 'key')
  await createKeyFile(path, { keys, device, passphrase: Buffer.from('correct horse'), cost })
  const text = readFileSync(path, 'utf8')
  t.absent(text.includes(keys.capability()) || text.includes(device.secretKey.subarray(0, 32).toString('hex')))
  t.ok(await isKeyFileSealed(path))
  t.is(await codeOf(() => openKeyFile(path)), 'PASSPHRASE_NEEDED')
  t.is(await codeOf(() => openKeyFile(path, { passphrase: say('correct horsE') })), 'PASSPHRASE_WRONG')
  const opened = await openKeyFile(path, { passphrase: say('correct horse') })
  t.is(opened.keys.capability(), keys.capability())
  t.ok(opened.isSealed)
})

test('the passphrase can be changed, taken away and set again', async (t) => {
  const path = join(scratchDir(t), 'key')
  await createKeyFile(path, { keys, device, passphrase: Buffer.from('one'), cost })
  t.is(await codeOf(() => changePassphrase(path, { current: say('two'), next: Buffer.from('three'), cost })), 'PASSPHRASE_WRONG')
  await changePassphrase(path, { current: say('one'), next: Buffer.from('two'), cost })
  t.is(await codeOf(() => openKeyFile(path, { passphrase: say('one') })), 'PASSPHRASE_WRONG')
  await changePassphrase(path, { current: say('two') })
  t.is((await openKeyFile(path)).isSealed, false)
  await changePassphrase(path, { next: Buffer.from('three'), cost })
  t.alike((await openKeyFile(path, { passphrase: say('three') })).device, device)
  t.is(statSync(path).mode & 0o777, 0o600)
})

test('a new incarnation needs no passphrase', async (t) => {
  const path = join(scratchDir(t), 'key')
  await createKeyFile(path, { keys, device, passphrase: Buffer.from('one'), cost })
  const incarnation = newIncarnation()
  await setIncarnation(path, incarnation)
  t.alike((await openKeyFile(path, { passphrase: say('one') })).device, { ...device, incarnation })
})

test('newer, damaged, missing and greedy key files are told apart', async (t) => {
  const path = join(scratchDir(t), 'key')
  t.is(await codeOf(() => openKeyFile(path)), 'STORE_MISSING')
  await createKeyFile(path, { keys, device, passphrase: Buffer.from('one'), cost })
  const good = JSON.parse(readFileSync(path, 'utf8'))
  const put = (file: unknown) => writeFileSync(path, typeof file === 'string' ? file : JSON.stringify(file), { mode: 0o600 })
  const code = () => codeOf(() => openKeyFile(path, { passphrase: say('one') }))
  put({ ...good, version: 2 })
  t.is(await code(), 'STORE_NEWER')
  put({ ...good, kdf: { ...good.kdf, algorithm: 'argon3' } })
  t.is(await code(), 'STORE_NEWER')
  put({ ...good, kdf: { ...good.kdf, memoryBytes: 2 ** 40 } })
  t.is(await code(), 'STORE_DAMAGED', 'no terabyte for a planted file')
  put({ ...good, kdf: { ...good.kdf, passes: 1e9 } })
  t.is(await code(), 'STORE_DAMAGED')
  put({ ...good, kdf: { ...good.kdf, passes: 2 } })
  t.is(await code(), 'PASSPHRASE_WRONG', 'the parameters are authenticated')
  put({ ...good, incarnation: 'zz' })
  t.is(await code(), 'STORE_DAMAGED')
  for (const junk of ['', '{', 'null', '[]', '{"format":"dfs-key-file","version":1}', 'x'.repeat(20000)]) {
    put(junk)
    t.is(await code(), 'STORE_DAMAGED', junk.slice(0, 20))
  }
})

test('a passphrase from a file loses one newline and nothing else', async (t) => {
  const path = join(scratchDir(t), 'pass')
  for (const [text, expected] of [['abc\n', 'abc'], ['abc\r\n', 'abc'], [' a b ', ' a b '], ['a\n\n', 'a\n']] as const) {
    writeFileSync(path, text)
    t.is((await readPassphrase({ from: 'file', path })).toString(), expected)
  }
  writeFileSync(path, '\n')
  t.is(await codeOf(() => readPassphrase({ from: 'file', path })), 'PASSPHRASE_NEEDED')
  writeFileSync(path, 'x'.repeat(2000))
  t.is(await codeOf(() => readPassphrase({ from: 'file', path })), 'PASSPHRASE_WRONG')
  t.is(await codeOf(() => readPassphrase({ from: 'file', path: path + '-no' })), 'PASSPHRASE_NEEDED')
})
