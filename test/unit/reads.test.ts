/** A READ that waits for a slow chunk while the file is changed by others, through the operations of a mount. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import type { Drive } from '../../lib/drive.js'
import { Filesystem } from '../../mount/filesystem.js'
import { PendingCall } from '../../mount/kernel/interrupt.js'
import type { Attr, Caller, Notifier } from '../../mount/operations.js'
import { driveElsewhere, type Elsewhere } from '../helpers/elsewhere.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const caller: Caller = { uid: 0, gid: 0, pid: 1 }
const notifier: Notifier = { invalInode: () => {}, invalEntry: () => {}, deleted: () => {}, drained: async () => {} }
const turn = () => new Promise((resolve) => setImmediate(resolve))

interface Bench { drive: Drive; source: Elsewhere; fs: Filesystem; ino: number; close(): Promise<void>; read(offset: number, size: number, signal?: PendingCall): Promise<Buffer> }

/** With a file `f` of this content; and with others, of which each has its own. */
async function setUp(t: Assert, content: Buffer, others: Record<string, Buffer> = {}): Promise<Bench> {
  const { drive, source } = await driveElsewhere(scratchDir(t), { '/f': content, ...others })
  const fs = new Filesystem(drive, { noAtime: true })
  fs.init(notifier)
  let closing: Promise<void> | undefined
  const close = () => (closing ??= fs.destroy().finally(() => drive.close()))
  t.teardown(close, { force: true })
  const { ino } = (await fs.lookup(1, Buffer.from('f'), caller)) as Attr
  source.isSlow = true
  return {
    drive, source, fs, ino, close,
    async read(offset, size, signal = new PendingCall()) {
      const answer = await fs.read(ino, 0, offset, size, signal)
      return typeof answer === 'number' ? Buffer.from(`errno ${answer}`) : Buffer.concat(Array.isArray(answer) ? answer : [answer])
    },
  }
}

test('a READ whose bytes are replaced while it waits gives the new ones, and waits for the old no longer', async (t) => {
  const { drive, source, read } = await setUp(t, randomBytes(40_000))
  const answer = read(0, 8192)
  await source.asked(1)
  const fresh = randomBytes(40_000)
  const f = await drive.open('/f', 'r+')
  await f.write(0, fresh)
  t.alike(await answer, fresh.subarray(0, 8192), 'though nobody gave the old chunk')
  t.ok(source.wanted[0]!.signal.aborted)
  await f.close()
})

test('a READ that is answered after a change gives nothing from before it', async (t) => {
  const old = randomBytes(40_000)
  const { drive, source, read } = await setUp(t, old)
  const answer = read(0, 8192)
  await source.asked(1)
  const f = await drive.open('/f', 'r+')
  await f.write(4096, Buffer.alloc(4096, 'new'))
  source.wanted[0]!.answer()
  t.alike(await answer, Buffer.concat([old.subarray(0, 4096), Buffer.alloc(4096, 'new')]))
  t.is(source.wanted.length, 1, 'what is still needed was not asked for again')
  await f.close()
})

test('one that waits for a file that is cut short ends where the file ends now', async (t) => {
  const { drive, source, read } = await setUp(t, randomBytes(40_000))
  const answer = read(20_000, 4096)
  await source.asked(1)
  const f = await drive.open('/f', 'r+')
  await f.truncate(10_000)
  t.is((await answer).length, 0)
  await f.close()
})

test('a change elsewhere in the file, or of its attributes, is no reason to begin again', async (t) => {
  const old = randomBytes(900_000)
  const { drive, source, read } = await setUp(t, old)
  const answer = read(0, 4096)
  await source.asked(1)
  await drive.chmod('/f', 0o600)
  const f = await drive.open('/f', 'r+')
  await f.write(800_000, Buffer.alloc(100, 1))
  source.wanted[0]!.answer()
  t.alike(await answer, old.subarray(0, 4096))
  t.is(source.wanted.length, 1)
  await f.close()
})

test('content that comes in the very moment of the change is not given', async (t) => {
  const HOPS = 24
  const files = Object.fromEntries(Array.from({ length: HOPS }, (_, hops) => [`/f${hops}`, randomBytes(10_000)]))
  const { drive, source, fs } = await setUp(t, randomBytes(10_000), files)
  let late = 0
  for (let hops = 0; hops < HOPS; hops++) {
    const { ino } = (await fs.lookup(1, Buffer.from(`f${hops}`), caller)) as Attr
    const f = await drive.open(`/f${hops}`, 'r+')
    // One microtask after it settles, as the session does.
    let isSent = false
    const answer = (fs.read(ino, 0, 0, 4096, new PendingCall()) as Promise<Buffer[]>).then((bytes) => {
      isSent = true
      return Buffer.concat(bytes)
    })
    await source.asked(hops + 1)
    source.wanted[hops]!.answer()
    for (let i = 0; i < hops; i++) await null
    const wasSent = await f.write(0, Buffer.alloc(10_000, 'x')).then(() => isSent)
    const isOld = !(await answer).equals(Buffer.alloc(4096, 'x'))
    if (isOld && !wasSent) t.fail(`the old bytes after the change was reported (${hops})`)
    if (!isOld) late++
    await f.close()
  }
  t.ok(late > 0 && late < HOPS, 'changes came before and after the content')
})

test('an interrupt ends the wait, and the fetch', async (t) => {
  const { source, read } = await setUp(t, randomBytes(40_000))
  const signal = new PendingCall()
  const answer = read(0, 4096, signal)
  await source.asked(1)
  signal.interrupt()
  t.is(await codeOf(() => answer), 'EINTR')
  await turn()
  t.ok(source.wanted[0]!.signal.aborted)
})

test('several that wait for one file all begin again', async (t) => {
  const { drive, source, read } = await setUp(t, randomBytes(2 << 20))
  const answers = Array.from({ length: 16 }, (_, i) => read(i * 131072, 131072))
  await source.asked(1)
  const fresh = randomBytes(2 << 20)
  const f = await drive.open('/f', 'r+')
  for (let at = 0; at < fresh.length; at += 1 << 20) await f.write(at, fresh.subarray(at, at + (1 << 20)))
  t.alike(Buffer.concat(await Promise.all(answers)), fresh)
  await f.close()
})
