import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { DriveKeys } from '../../lib/keys/derive.js'
import { MAX_CHUNK_BYTES } from '../../lib/limits.js'
import { ChunkSealer, chunkId, sealedLength } from '../../lib/seal/chunk.js'
import { SealPool, type PoolOptions } from '../../lib/seal/pool.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const keys = DriveKeys.create()
const sealer = new ChunkSealer(keys.contentKey(), keys.contentHashKey(), keys.driveId, 0)

function openPool(t: Assert, options: PoolOptions = { workers: 2 }): SealPool {
  const pool = new SealPool(keys.forWorkers(), options)
  t.teardown(() => pool.close())
  return pool
}
function arenaOf(length: number): { arena: SharedArrayBuffer; bytes: Buffer } {
  const arena = new SharedArrayBuffer(length)
  const bytes = Buffer.from(arena)
  bytes.set(randomBytes(length))
  return { arena, bytes }
}

test('cut, seal, write, open gives back every byte', async (t) => {
  const pool = openPool(t)
  const { arena, bytes } = arenaOf(3_000_000)
  const runs = [{ start: 5, length: 2_000_000 }, { start: 2_500_000, length: 333 }]
  const chunks = await pool.cut({ arena, runs, average: 65536 })
  t.is(chunks.reduce((n, c) => n + c.length, 0), 2_000_333)
  t.ok(chunks.every((c) => c.h.equals(sealer.contentHash(bytes.subarray(c.start, c.start + c.length)))))
  const result = await pool.seal({ arena, chunks })
  t.ok(result.chunks.every((c) => chunkId(result.sealed.subarray(c.offset, c.offset + c.length)).equals(c.id)))
  const own = Buffer.alloc(sealedLength(chunks[0]!.length))
  sealer.seal(bytes.subarray(5, 5 + chunks[0]!.length), chunks[0]!.h, own)
  t.ok(own.equals(result.sealed.subarray(0, own.length)), 'as sealed on the main thread')

  const path = join(scratchDir(t), 'segment')
  writeFileSync(path, Buffer.concat([Buffer.alloc(77), result.sealed]))
  const reads = chunks.map((c, i) => {
    const from = i % 3 === 0 ? 0 : Math.floor(c.length / 3)
    return { offset: 77 + result.chunks[i]!.offset, plainLength: c.length, h: c.h, from, to: i % 2 === 0 ? c.length : from + 1 }
  })
  const plain = await pool.open({ path, reads })
  t.ok(plain.every((p, i) => p.equals(bytes.subarray(chunks[i]!.start + reads[i]!.from, chunks[i]!.start + reads[i]!.to))))
})

test('average 0: a run is a chunk', async (t) => {
  const pool = openPool(t)
  const { arena } = arenaOf(MAX_CHUNK_BYTES + 1)
  const chunks = await pool.cut({ arena, runs: [{ start: 1, length: MAX_CHUNK_BYTES }], average: 0 })
  t.alike(chunks.map((c) => [c.start, c.length]), [[1, MAX_CHUNK_BYTES]])
  t.is(await codeOf(() => pool.cut({ arena, runs: [{ start: 0, length: MAX_CHUNK_BYTES + 1 }], average: 0 })), 'EINVAL')
})

test('many jobs at once all get their own answer', async (t) => {
  const pool = openPool(t)
  const { arena, bytes } = arenaOf(1_000_000)
  const jobs = Array.from({ length: 300 }, async (_, i) => {
    const [chunk] = await pool.cut({ arena, runs: [{ start: i * 1000, length: 1000 + i }], average: 0 })
    const { sealed, chunks, release } = await pool.seal({ arena, chunks: [chunk!] })
    const out = Buffer.alloc(1000 + i)
    sealer.openRange(chunk!.h, out.length, sealed, 0, out)
    const isSame = out.equals(bytes.subarray(i * 1000, i * 1000 + out.length)) && chunkId(sealed).equals(chunks[0]!.id)
    release()
    release()
    return isSame
  })
  t.ok((await Promise.all(jobs)).every(Boolean))
  t.is(pool.pending, 0)
})

test('ids outlive the release of the sealed bytes', async (t) => {
  const pool = openPool(t, { workers: 1 })
  const { arena } = arenaOf(10_000)
  const chunks = await pool.cut({ arena, runs: [{ start: 0, length: 5000 }, { start: 5000, length: 5000 }], average: 0 })
  const first = await pool.seal({ arena, chunks: [chunks[0]!] })
  const id = Buffer.from(first.chunks[0]!.id)
  first.release()
  const second = await pool.seal({ arena, chunks: [chunks[1]!] })
  t.ok(first.chunks[0]!.id.equals(id))
  t.is(second.sealed.buffer, first.sealed.buffer, 'and the memory is used again')
})

test('errors keep their code: damaged, short and missing files, bad ranges', async (t) => {
  const pool = openPool(t)
  const { arena } = arenaOf(50_000)
  const [chunk] = await pool.cut({ arena, runs: [{ start: 0, length: 50_000 }], average: 0 })
  const { sealed } = await pool.seal({ arena, chunks: [chunk!] })
  const path = join(scratchDir(t), 'segment')
  const damaged = Buffer.from(sealed)
  damaged[20_000]! ^= 1
  writeFileSync(path, Buffer.concat([sealed, damaged]))
  const read = (offset: number, from: number, to: number) => codeOf(() => pool.open({ path, reads: [{ offset, plainLength: 50_000, h: chunk!.h, from, to }] }))
  t.is(await read(0, 0, 50_000), 'none')
  t.is(await read(sealed.length, 0, 50_000), 'EIO')
  t.is(await read(sealed.length, 0, 100), 'none', 'a piece beside the damaged one is good')
  t.is(await read(sealed.length + 10, 0, 50_000), 'EIO', 'the file ends')
  t.is(await read(0, 10, 50_001), 'EINVAL')
  t.is(await codeOf(() => pool.open({ path: path + '-no', reads: [{ offset: 0, plainLength: 10, h: chunk!.h, from: 0, to: 10 }] })), 'EIO')
  t.is(await codeOf(() => pool.cut({ arena, runs: [{ start: 0, length: 50_001 }], average: 0 })), 'EINVAL')
  t.is(await codeOf(() => pool.cut({ arena, runs: [], average: 100 })), 'EINVAL')
  t.is(await codeOf(() => pool.seal({ arena, chunks: [{ ...chunk!, h: Buffer.alloc(5) }] })), 'EINVAL')
})

test('a deleted segment is EIO once forgotten', async (t) => {
  const pool = openPool(t, { workers: 1 })
  const { arena, bytes } = arenaOf(100)
  const [chunk] = await pool.cut({ arena, runs: [{ start: 0, length: 100 }], average: 0 })
  const { sealed } = await pool.seal({ arena, chunks: [chunk!] })
  const path = join(scratchDir(t), 'segment')
  writeFileSync(path, sealed)
  const open = () => pool.open({ path, reads: [{ offset: 0, plainLength: 100, h: chunk!.h, from: 0, to: 100 }] })
  t.ok((await open())[0]!.equals(bytes))
  unlinkSync(path)
  pool.forget(path)
  t.is(await codeOf(open), 'EIO')
})

test('a crashed worker fails its jobs and is replaced', { timeout: 20_000 }, async (t) => {
  const dir = scratchDir(t)
  const flag = join(dir, 'crash')
  const script = join(dir, 'worker.mjs')
  const real = new URL('../../lib/seal/worker.js', import.meta.url).href
  writeFileSync(script, `
    import { existsSync } from 'node:fs'
    import { parentPort } from 'node:worker_threads'
    const on = parentPort.on.bind(parentPort)
    parentPort.on = (event, action) => on(event, (message) => {
      if (existsSync(${JSON.stringify(flag)})) process.exit(1)
      action(message)
    })
    await import(${JSON.stringify(real)})
  `)
  const pool = openPool(t, { workers: 1, script: pathToFileURL(script) })
  const { arena } = arenaOf(1000)
  const cut = () => codeOf(() => pool.cut({ arena, runs: [{ start: 0, length: 1000 }], average: 0 }))
  t.is(await cut(), 'none')
  writeFileSync(flag, '')
  t.is(await cut(), 'EIO')
  unlinkSync(flag)
  t.is(await cut(), 'none')
  writeFileSync(flag, '')
  for (let i = 0; i < 5; i++) t.is(await cut(), 'EIO')
  unlinkSync(flag)
  await t.exception(pool.cut({ arena, runs: [{ start: 0, length: 1000 }], average: 0 }), /keep crashing/)
})

test('close may be called twice, and rejects what has not finished', async (t) => {
  const pool = openPool(t, { workers: 1 })
  const { arena } = arenaOf(1_000_000)
  const jobs = Array.from({ length: 10 }, () => codeOf(() => pool.cut({ arena, runs: [{ start: 0, length: 1_000_000 }], average: 65536 })))
  await pool.close()
  await pool.close()
  t.ok((await Promise.all(jobs)).every((c) => c === 'EBADF'))
  t.is(await codeOf(() => pool.cut({ arena, runs: [], average: 0 })), 'EBADF')
})
