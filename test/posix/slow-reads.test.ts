/** Programs on a mount that read chunks which take their time: signals, the deadline, and changes that come meanwhile. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Drive, OpenOptions } from '../../lib/drive.js'
import { Filesystem } from '../../mount/filesystem.js'
import { mountKernel } from '../../mount/kernel/mount.js'
import { driveElsewhere, type Elsewhere } from '../helpers/elsewhere.js'
import { ended, mountpoint } from '../helpers/memmount.js'
import { scratchDir } from '../helpers/scratch.js'

const MIB = 1 << 20

async function setUp(t: Assert, content: Buffer, options: OpenOptions = {}): Promise<{ drive: Drive; source: Elsewhere; path: string }> {
  const { drive, source } = await driveElsewhere(scratchDir(t), { '/f': content }, options)
  t.teardown(() => drive.close(), { force: true, order: 3 })
  const dir = await mountpoint(t)
  const mount = await mountKernel({ dir, operations: new Filesystem(drive) })
  t.teardown(() => mount.unmount().catch(() => mount.unmount({ lazy: true })), { force: true, order: 2 })
  source.isSlow = true
  return { drive, source, path: join(dir, 'f') }
}

/** A program of its own: this process answers what it asks. */
function program(t: Assert, name: string, ...args: string[]): { child: ChildProcess; done: Promise<{ code: number | null; signal: string | null; out: Buffer; err: string }> } {
  const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } })
  t.teardown(() => ended(child, 'SIGKILL'), { force: true, order: 1 })
  const out: Buffer[] = []
  const err: Buffer[] = []
  child.stdout.on('data', (b: Buffer) => out.push(b))
  child.stderr.on('data', (b: Buffer) => err.push(b))
  const done = once(child, 'close').then(([code, signal]) => ({ code: code as number | null, signal: signal as string | null, out: Buffer.concat(out), err: Buffer.concat(err).toString() }))
  return { child, done }
}

/** Whoever asks is answered, now and later. */
function hurry(source: Elsewhere): void {
  source.isSlow = false
  for (const w of source.wanted) w.answer()
}

for (const signal of ['SIGINT', 'SIGKILL'] as const) {
  test(`a program that waits for a chunk ends on ${signal}, and the mount goes on`, { timeout: 60_000 }, async (t) => {
    const content = randomBytes(100_000)
    const { source, path } = await setUp(t, content)
    const { child, done } = program(t, 'cat', path)
    await source.asked(1)
    child.kill(signal)
    t.is((await done).signal, signal)
    hurry(source)
    t.alike((await program(t, 'cat', path).done).out, content)
  })
}

test('a program whose chunk does not come gets EIO after the deadline, and what is there when it comes', { timeout: 60_000 }, async (t) => {
  const content = randomBytes(100_000)
  const { source, path } = await setUp(t, content, { readDeadlineMs: 300 })
  const { code, err } = await program(t, 'cat', path).done
  t.is(code, 1)
  t.ok(/Input\/output error/.test(err), err)
  hurry(source)
  t.alike((await program(t, 'cat', path).done).out, content)
})

test('a program that waits for what is replaced meanwhile reads what replaced it', { timeout: 60_000 }, async (t) => {
  const { drive, source, path } = await setUp(t, randomBytes(MIB))
  const { done } = program(t, 'cat', path)
  await source.asked(1)
  const fresh = randomBytes(MIB)
  const f = await drive.open('/f', 'r+')
  await f.write(0, fresh)
  await f.close()
  t.alike((await done).out, fresh, 'without an answer for the old')
})

test('what the kernel reads ahead is not from before a change that came first', { timeout: 60_000 }, async (t) => {
  const old = randomBytes(2 * MIB)
  const { drive, source, path } = await setUp(t, old)
  const first = program(t, 'head', '-c', '4096', path)
  await source.asked(1)
  const fresh = randomBytes(MIB)
  const f = await drive.open('/f', 'r+')
  await f.write(64 << 10, fresh)
  await f.close()
  hurry(source)
  t.alike((await first.done).out, old.subarray(0, 4096))
  const now = Buffer.concat([old.subarray(0, 64 << 10), fresh, old.subarray((64 << 10) + MIB)])
  t.ok((await program(t, 'cat', path).done).out.equals(now))
})

test('put over a file that is being read: the reader keeps its file, the next gets the new one', { timeout: 60_000 }, async (t) => {
  const old = randomBytes(MIB)
  const { drive, source, path } = await setUp(t, old)
  const first = program(t, 'cat', path)
  await source.asked(1)
  const fresh = randomBytes(MIB)
  const f = await drive.open('/temporary', 'w')
  await f.write(0, fresh)
  await f.close()
  await drive.rename('/temporary', '/f')
  t.ok((await program(t, 'cat', path).done).out.equals(fresh))
  hurry(source)
  t.ok((await first.done).out.equals(old))
})
