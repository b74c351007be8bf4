/** Whom the devices of a drive wait for: ops that set devices aside, how far their logs are taken, and when a device counts as silent. */
import test from 'brittle'
import { Asides } from '../../lib/log/asides.js'
import { Reader, Writer } from '../../lib/log/codec.js'
import type { Log } from '../../lib/log/log.js'
import { decodeOp, encodeOp, type AsideOp } from '../../lib/log/ops.js'
import { Silence } from '../../lib/log/silence.js'
import { readHello, writeHello } from '../../lib/swarm/hello.js'
import { Database } from '../../lib/store/database.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'
import { join } from 'node:path'

const key = (n: number) => Buffer.alloc(32, n)
const id = (n: number) => Buffer.alloc(16, n)
const CODEC = { outgoing: () => { throw new Error('no inode') }, incoming: () => { throw new Error('no inode') } }

/** Devices 1, 2, ... each with the incarnation of that index. */
function order(t: { teardown(f: () => void): void }, count: number) {
  const db = Database.create(join(scratchDir(t as never), 'index.db'))
  t.teardown(() => db.close())
  const incarnations: Buffer[] = [id(0), ...Array.from({ length: count }, (_, i) => id(i + 1))]
  const log = {
    get incarnations() { return incarnations },
    incarnationId: (i: number) => incarnations[i]!, deviceOf: (i: number) => key(incarnations[i]![0]!),
    index: (one: Buffer) => { const i = incarnations.findIndex((o) => o.equals(one)); return i < 0 ? incarnations.push(one) - 1 : i },
  } as unknown as Log
  const applied = new Map<number, number>()
  const seen = new Map<number, Map<number, number>>()
  const make = () => new Asides(db, log, { applied: (inc) => applied.get(inc) ?? 0, seen: (inc) => seen.get(inc) })
  return { asides: make(), make, applied, seen, incarnations }
}

function op(device: number, o: Partial<AsideOp> & { seq?: number } = {}): AsideOp {
  return { type: 'aside', device: key(device), isBack: o.isBack ?? false, round: o.round ?? 1, logs: o.logs ?? [{ id: id(device), seq: o.seq ?? 0 }], voters: o.voters ?? [key(1), key(2)] }
}

test('the limit is what the op and all voters have; until then nobody is gone, and nobody takes more than is known to be needed', (t) => {
  const { asides, applied, seen } = order(t, 3)
  applied.set(1, 7).set(2, 4).set(3, 10)
  asides.add(1, 7, [op(3, { seq: 10 })])
  t.ok(asides.isAway(key(3)) && asides.isEnded(3))
  t.absent(asides.isGone(key(3)), 'the second has not said what it has')
  t.is(asides.cap(3), 10)
  t.is(asides.cap(2), Infinity)
  asides.raise(3, 12)
  t.is(asides.cap(3), 12, 'the second had two more before it knew')
  applied.set(3, 12).set(2, 5)
  seen.set(2, new Map([[1, 7], [3, 12]]))
  t.ok(asides.isGone(key(3)))
  t.is(asides.limit(3), 12)
  asides.raise(3, 13)
  t.is(asides.cap(3), 12, 'it is decided')
})

test('two that name different ends: the greater counts; one who is no voter does not', (t) => {
  const { asides, applied, seen } = order(t, 4)
  applied.set(1, 1).set(2, 1).set(3, 5)
  asides.add(1, 1, [op(3, { seq: 5 })])
  asides.add(2, 1, [op(3, { seq: 8 })])
  t.is(asides.cap(3), 8)
  seen.set(1, new Map([[2, 1], [3, 8]])).set(2, new Map([[1, 1], [3, 8]])).set(4, new Map([[1, 1], [2, 1], [3, 99]]))
  applied.set(3, 8)
  t.is(asides.limit(3), 8)
  applied.set(3, 99)
  t.ok(asides.limit(3)! < applied.get(3)!, 'a device that has more finds out')
})

test('a voter that is set aside itself is not waited for', (t) => {
  const { asides, applied } = order(t, 3)
  applied.set(1, 2)
  asides.add(1, 1, [op(3)])
  t.absent(asides.isGone(key(3)))
  asides.add(1, 2, [op(2, { voters: [key(1)] })])
  t.ok(asides.isGone(key(2)) && asides.isGone(key(3)))
})

test('brought back it is waited for, though others set it aside meanwhile; set aside again later it is not', (t) => {
  const { asides, applied, make } = order(t, 3)
  applied.set(1, 9).set(2, 9)
  asides.add(1, 1, [op(3, { voters: [key(1)] })])
  t.is(asides.nextRound(key(3), true), 1)
  asides.add(1, 2, [op(3, { isBack: true, voters: [key(1)] })])
  t.absent(asides.isAway(key(3)) || asides.isGone(key(3)))
  t.ok(asides.isAwaited(key(3)))
  asides.add(2, 1, [op(3, { voters: [key(2)] })])
  t.absent(asides.isAway(key(3)), 'whoever wrote that had not heard that it is back')
  t.is(asides.nextRound(key(3), false), 2)
  asides.add(2, 2, [op(3, { round: 2, voters: [key(2)] })])
  t.ok(asides.isGone(key(3)))
  const again = make()
  again.load()
  t.ok(again.isGone(key(3)) && again.isEnded(3), 'it is in the index')
})

test('a device without a log can be set aside, and an incarnation of another is not ended by its name', (t) => {
  const { asides, applied } = order(t, 2)
  applied.set(1, 1)
  asides.add(1, 1, [op(9, { logs: [], voters: [key(1)] }), op(8, { logs: [{ id: id(2), seq: 1 }], voters: [key(1)] })])
  t.ok(asides.isGone(key(9)))
  t.absent(asides.isEnded(2))
})

test('the op in a log: as it was written, and nothing that no dfs writes', async (t) => {
  const one = op(3, { seq: 300, round: 2, isBack: true, voters: [key(1), key(2), key(4)] })
  const w = new Writer()
  encodeOp(w, one, CODEC)
  const bytes = w.take()
  t.alike(decodeOp(new Reader(bytes), CODEC), one)
  for (let cut = 0; cut < bytes.length; cut++) t.is(await codeOf(() => decodeOp(new Reader(bytes.subarray(0, cut)), CODEC)), 'EIO')
  const huge = Buffer.concat([bytes.subarray(0, 1 + 32 + 1 + 1), Buffer.from([0xff, 0xff, 0xff, 0x7f])])
  t.is(await codeOf(() => decodeOp(new Reader(huge), CODEC)), 'EIO')
})

test('the handshake says whom a device counts; older ones say nothing of it', (t) => {
  const view = { writers: 3, first: key(1), ended: [id(4), id(5)] }
  const hello = { kind: 'full' as const, name: 'anna', certificate: undefined }
  t.alike(readHello(writeHello({ ...hello, view })), { ...hello, view })
  t.alike(readHello(writeHello(hello)), hello)
  const bytes = writeHello({ ...hello, view })
  t.is(readHello(bytes.subarray(0, bytes.length - 1)), undefined)
  t.is(readHello(writeHello({ ...hello, view: { ...view, ended: Array.from({ length: 100 }, (_, i) => id(i)) } }))!.view!.ended.length, 64)
})

test('silent: only to a device that was up for long enough itself, with a clock that was not set', (t) => {
  const db = Database.create(join(scratchDir(t), 'index.db'))
  t.teardown(() => db.close())
  let wall = 1_000_000_000_000
  let steady = 0
  const make = () => new Silence(db, { nowMs: () => wall }, { nowMs: () => steady })
  const pass = (ms: number) => { wall += ms; steady += ms }
  const one = make()
  one.hear(key(1))
  one.look()
  pass(10_000)
  t.is(wall - one.heardMs(key(1)), 10_000)
  t.is(one.heardMs(key(2)), wall, 'never heard of: from now on')
  one.look()
  t.ok(one.isSure(10_000))
  wall += 75 * 365 * 86_400_000
  one.look()
  t.absent(one.isSure(1), 'the clock was set')
  pass(20_000)
  one.look()
  t.ok(one.isSure(20_000))
  wall = 1_000_000_000_000 - 5000
  t.is(one.heardMs(key(1)), wall, 'not in the future')
  t.absent(make().isSure(1), 'and after a start it begins anew')
  t.ok(make().heardMs(key(1)) <= wall)
})
