/** The kernel protocol without a kernel: requests written by hand, replies read word by word. */
import test from 'brittle'
import { readFileSync } from 'node:fs'

import type { Interrupt, Operations } from '../../mount/operations.js'
import { DirentSink } from '../../mount/kernel/dirents.js'
import { PendingCall, asksToStop } from '../../mount/kernel/interrupt.js'
import { deleted, invalEntry, invalInode } from '../../mount/kernel/notify.js'
import { Init, Op, getI64, getU64, putU64 } from '../../mount/kernel/protocol.js'
import { Session } from '../../mount/kernel/session.js'
import { MemFs } from '../helpers/memfs.js'

const ENOENT = 2, EINTR = 4, EIO = 5, ENAMETOOLONG = 36, ENOSYS = 38
const OFFSET = 16
const tick = () => new Promise(resolve => setImmediate(resolve))

/** A session whose kernel is the test. */
class Bench {
  readonly session: Session
  /** Replies that were not given at once: words of each. */
  readonly sent: Uint32Array[] = []
  sendResult = 0

  constructor(operations: Operations) {
    this.session = new Session(operations, { ttlSeconds: 100, report: () => {} })
    const copy = (length: number) => new Uint32Array(this.session.reply.slice(0, length + 3 & ~3))
    this.session.attach({
      send: length => {
        this.sent.push(copy(length))
        return this.sendResult
      },
      sendData: (length, data) => {
        const pieces = [Buffer.from(copy(length).buffer, 0, length), ...(Array.isArray(data) ? data : [data])]
        const all = Buffer.concat(pieces)
        this.sent.push(new Uint32Array(all.buffer.slice(all.byteOffset, all.byteOffset + (all.length & ~3))))
        return this.sendResult
      },
    }, OFFSET)
  }

  /** Gives the words of a reply given at once; empty when there was none. */
  ask(opcode: number, unique: number, node: number, body: Buffer): Uint32Array {
    const words = new Uint32Array(this.session.request, OFFSET)
    const length = 40 + body.length
    words.set([length, opcode, unique, 0])
    putU64(words, 4, node)
    words.set([7, 8, 9, 0], 6)
    Buffer.from(this.session.request).set(body, OFFSET + 40)
    return new Uint32Array(this.session.reply.slice(0, this.session.handle(length)))
  }
}

const name = (text: string) => Buffer.from(`${text}\0`)
const words = (...values: number[]) => Buffer.from(new Uint32Array(values).buffer)
const u64 = (...values: number[]) => {
  const out = new Uint32Array(values.length * 2)
  values.forEach((value, i) => putU64(out, i * 2, value))
  return Buffer.from(out.buffer)
}

test('64-bit fields hold every safe integer', t => {
  const area = new Uint32Array(2)
  for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
    putU64(area, 0, value)
    t.is(getU64(area, 0), value)
  }
  for (const value of [-1, -(2 ** 32), -(2 ** 32) - 1, 2 ** 40]) {
    putU64(area, 0, value)
    t.is(getI64(area, 0), value)
  }
})

test('INIT agrees on what both know, and no more', t => {
  const bench = new Bench(new MemFs())
  const reply = bench.ask(Op.INIT, 2, 0, words(7, 38, 131072, Init.MAX_PAGES | Init.INIT_EXT | 1 << 17, 1 << 4, ...Array<number>(11).fill(0)))
  t.is(reply[0], 80)
  t.is(reply[5], 38, 'minor')
  t.is(reply[7], (Init.MAX_PAGES | Init.INIT_EXT) >>> 0)
  t.is(reply[9], 1 << 20, 'max_write')
  t.is(reply[11]! & 0xffff, 256, 'max_pages')
  t.is(reply[12], 1 << 4, 'flags2')
})

test('a newer major version is answered with ours', t => {
  const reply = new Bench(new MemFs()).ask(Op.INIT, 2, 0, words(8, 0, 0, 0))
  t.is(reply[4], 7)
})

test('a missing name is a negative entry, other errors are errors', t => {
  const bench = new Bench(new MemFs())
  const missing = bench.ask(Op.LOOKUP, 10, 1, name('none'))
  t.is(missing[0], 144)
  t.is(getU64(missing, 4), 0)
  t.is(getU64(missing, 8), 100, 'entry_valid')
  t.is(bench.ask(Op.LOOKUP, 11, 1, name('n'.repeat(256)))[1]! | 0, -ENAMETOOLONG)
  t.is(bench.ask(Op.UNLINK, 12, 1, name('none'))[1]! | 0, -ENOENT)
  t.is(bench.ask(4000, 13, 1, Buffer.alloc(8))[1]! | 0, -ENOSYS)
})

test('an entry that was not delivered is forgotten', async t => {
  const memfs = new MemFs()
  memfs.put(1, 'f', Buffer.from('x'))
  const forgotten: number[] = []
  memfs.forget = ino => forgotten.push(ino)
  const bench = new Bench(memfs)
  t.is(getU64(bench.ask(Op.LOOKUP, 10, 1, name('f')), 4), 2)
  bench.session.handle(-ENOENT)
  t.alike(forgotten, [2])
  bench.session.handle(-ENOENT)
  t.alike(forgotten, [2], 'once')
  memfs.lookup = () => Promise.resolve(memfs.nodes.get(2)!.attr)
  bench.sendResult = ENOENT
  t.is(bench.ask(Op.LOOKUP, 12, 1, name('f')).length, 0)
  await tick()
  t.alike(forgotten, [2, 2], 'also when it was answered later')
  bench.ask(Op.READDIRPLUS, 14, 1, Buffer.concat([u64(0, 0), words(4096, 0, 0, 0, 0, 0)]))
  t.alike(forgotten, [2, 2, 2], 'and when it was in a listing')
})

test('a read that waits is interrupted once, and its late result dropped', async t => {
  const memfs = new MemFs()
  memfs.put(1, 'f', Buffer.alloc(10))
  let signal!: Interrupt
  let answer!: (data: Buffer) => void
  memfs.readHook = (_ino, _offset, _size, interrupt) => {
    signal = interrupt
    return new Promise<Buffer>(resolve => (answer = resolve))
  }
  const bench = new Bench(memfs)
  const body = Buffer.concat([u64(2, 0), words(10, 0, 0, 0, 0, 0)])
  // pid 9 as in `ask` is a kernel thread or nobody; 0 is "cannot be looked at"
  const ask = (unique: number) => {
    const view = new Uint32Array(bench.session.request, OFFSET)
    view.set([40 + body.length, Op.READ, unique, 0, 2, 0, 7, 8, 0, 0])
    Buffer.from(bench.session.request).set(body, OFFSET + 40)
    return bench.session.handle(40 + body.length)
  }
  t.is(ask(20), 0)
  bench.ask(Op.INTERRUPT, 21, 0, u64(20))
  t.is(signal.interrupted, true)
  t.alike(bench.sent.map(reply => [reply[1]! | 0, reply[2]]), [[-EINTR, 20]])
  answer(Buffer.alloc(10))
  await tick()
  t.is(bench.sent.length, 1)
  t.is(bench.session.waiting, 0)

  bench.ask(Op.INTERRUPT, 23, 0, u64(22))
  t.is(ask(22), 16, 'an interrupt that came first fails its request at once')
  t.is(new Int32Array(bench.session.reply)[1], -EINTR)

  t.is(ask(24), 0)
  bench.session.abandon()
  t.is(bench.sent.at(-1)![1]! | 0, -EIO, 'the end of the session answers what waits')
})

test('what registers after the interrupt is told at once', t => {
  const read = new PendingCall()
  read.interrupt()
  let told = 0
  read.onInterrupt(() => told++)
  t.is(told, 1)
})

test('a signal asks for the call to end if it is deadly, or comes from a person', t => {
  const status = (pending: number, caught = 0, ignored = 0) =>
    `SigPnd:\t${(1 << pending - 1 >>> 0).toString(16).padStart(16, '0')}\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n` +
    `SigIgn:\t${(ignored && 1 << ignored - 1 >>> 0).toString(16)}\nSigCgt:\t${(caught && 1 << caught - 1 >>> 0).toString(16)}\n`
  t.ok(asksToStop(status(9)), 'KILL')
  t.ok(asksToStop(status(14)), 'ALRM not handled')
  t.absent(asksToStop(status(14, 14)), 'ALRM handled')
  t.ok(asksToStop(status(2, 2)), 'INT handled')
  t.absent(asksToStop(status(2, 0, 2)), 'INT ignored')
  t.absent(asksToStop(status(23)), 'URG')
  t.absent(asksToStop(readFileSync('/proc/self/status', 'latin1')), 'none')
})

test('entries fill a reply to its last byte and not further', t => {
  const sink = new DirentSink(4096)
  sink.begin(false, 32 * 3, 1, 1)
  const long = Buffer.from('12345678')
  t.ok(sink.add(long, 5, 0o100644, 1))
  t.ok(sink.add(long, 6, 0o040755, 2))
  t.ok(sink.add(long, 7, 0o120777, 3))
  t.absent(sink.add(Buffer.from('x'), 8, 0o100644, 4))
  t.is(sink.length, 16 + 96)
  t.is(sink.words[4 + 5], 8, 'DT_REG')
  t.is(sink.words[12 + 5], 4, 'DT_DIR')
  t.is(sink.bytes.toString('latin1', 40, 48), '12345678')
})

test('a dirent names are padded with zeros, though the area was used before', t => {
  const sink = new DirentSink(4096)
  sink.bytes.fill(255)
  for (let length = 1; length <= 17; length++) {
    sink.begin(true, 4096, 1, 1)
    sink.add(Buffer.alloc(length, 65), 5, 0o100644, 1)
    const name = sink.bytes.subarray(16 + 128 + 24, sink.length)
    t.alike(name, Buffer.concat([Buffer.alloc(length, 65), Buffer.alloc(name.length - length)]), `${length}`)
  }
})

test('notifications have the layout of fuse.h', t => {
  const i = invalInode(2 ** 40 + 1, -1, 0)
  t.is(i.length, 40)
  t.alike([i.readUInt32LE(0), i.readInt32LE(4), i.readBigUInt64LE(8), i.readBigUInt64LE(16), i.readBigInt64LE(24)], [40, 2, 0n, 2n ** 40n + 1n, -1n])
  const e = invalEntry(1, Buffer.from('abc'))
  t.alike([e.length, e.readUInt32LE(0), e.readInt32LE(4), e.readUInt32LE(24), e.readUInt32LE(28), e.toString('latin1', 32)], [36, 36, 3, 3, 0, 'abc\0'])
  t.is(invalEntry(1, Buffer.from('abc'), 1).readUInt32LE(28), 1)
  const d = deleted(1, 2, Buffer.from('abc'))
  t.alike([d.length, d.readInt32LE(4), d.readBigUInt64LE(24), d.readUInt32LE(32), d.toString('latin1', 40)], [44, 6, 2n, 3, 'abc\0'])
})
