/** The plan as bytes, what of it a device lacks, and what devices report. */
import test from 'brittle'
import fc from 'fast-check'
import { randomBytes } from 'node:crypto'
import sodium from 'sodium-native'
import { systemTimers } from '../../lib/clock.js'
import { PLACEMENT_GROUPS } from '../../lib/limits.js'
import { Audit } from '../../lib/placement/audit.js'
import { Keeping } from '../../lib/placement/keeping.js'
import { groupOf } from '../../lib/placement/placement.js'
import { Plan } from '../../lib/placement/plan.js'
import type { Reports } from '../../lib/placement/reports.js'
import { isWhole, readReport, writeReport, type Report } from '../../lib/placement/report.js'
import { parseBytes, parseDuration } from '../../lib/quantities.js'
import { Lacking } from '../../lib/store/lacking.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { GB, placed } from '../helpers/placing.js'
import { TestTree } from '../helpers/tree.js'

const FIVE = [1, 2, 3, 4, 5].map((n) => placed(n, n * 100 * GB, n < 3 ? 'attic' : ''))
const until = async (condition: () => boolean) => { while (!condition()) await new Promise((resolve) => setImmediate(resolve)) }

test('a plan comes back from its bytes; no other bytes are one', (t) => {
  const plan = new Plan({ devices: FIVE, wanted: 3, self: FIVE[1]!.key })
  const again = Plan.decode(plan.bytes, FIVE[1]!.key)
  t.alike([again.digest, again.self, again.peers], [plan.digest, plan.self, plan.peers])
  t.ok(new Plan({ devices: [...FIVE].reverse(), wanted: 3, self: FIVE[1]!.key }).digest.equals(plan.digest), 'the order says nothing')
  t.absent(new Plan({ devices: FIVE, wanted: 2, self: FIVE[1]!.key }).digest.equals(plan.digest))
  fc.assert(fc.property(fc.nat(plan.bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
    const bytes = Buffer.from(plan.bytes)
    bytes[at]! ^= change
    try {
      return Plan.decode(bytes, FIVE[1]!.key).bytes.equals(bytes)
    } catch (e) {
      return ['EIO', 'EINVAL'].includes((e as { code?: string }).code ?? '')
    }
  }))
  for (const bytes of [plan.bytes.subarray(0, -1), Buffer.concat([plan.bytes, Buffer.from([0])]), Buffer.alloc(0)]) t.exception(() => Plan.decode(bytes, FIVE[1]!.key))
})

test('what is to be held and is elsewhere is lacked, whatever comes when; the most endangered first', async (t) => {
  const tree = new TestTree()
  t.teardown(() => tree.close())
  const { db, chunks } = tree
  chunks.indexIds()
  const keeping = new Keeping({ lacking: new Lacking(db), chunks, timers: systemTimers, touched: () => {} })
  const add = (seg: number) => {
    const num = chunks.add({ id: randomBytes(32), h: randomBytes(32), len: 1000, seg, off: 0 })
    chunks.ref(num, 1)
    chunks.flush()
    return num
  }
  const mine = (plan: Plan, num: number) => plan.isMine(chunks.identity(num)!.id)
  const nums = Array.from({ length: 5000 }, (_, i) => add(i % 2 ? ELSEWHERE : 1))
  t.is(keeping.next(10).length, 0, 'no plan, no queue')
  const plan = new Plan({ devices: FIVE, wanted: 2, self: FIVE[0]!.key })
  keeping.set(plan)
  await until(() => keeping.isLaid)
  const expected = () => nums.filter((n) => (chunks.get(n)?.seg === ELSEWHERE || chunks.bad.has(n)) && mine(keeping.plan!, n))
  const lacked = () => db.sql.prepare('SELECT num FROM lacking ORDER BY num').pluck().all() as number[]
  t.alike(lacked(), expected())
  t.is(keeping.size, expected().length)

  for (const n of nums.slice(0, 500)) chunks.move(n, n % 3 ? 2 : ELSEWHERE, 0)
  for (const n of nums.slice(500, 600)) chunks.remove(n)
  // Found damaged; of these some are moved as they are, mended, sound after all, gone.
  for (const n of nums.slice(600, 900)) chunks.bad.add(n)
  chunks.flush()
  t.alike(lacked(), expected(), 'what is damaged is lacked')
  for (const n of nums.slice(650, 700)) if (chunks.get(n)!.seg !== ELSEWHERE) chunks.relocate(n, 3, 0)
  for (const n of nums.slice(700, 750)) chunks.move(n, 3, 0)
  for (const n of nums.slice(750, 800)) chunks.bad.delete(n)
  for (const n of nums.slice(800, 850)) chunks.remove(n)
  chunks.flush()
  for (let i = 0; i < 300; i++) nums.push(add(ELSEWHERE))
  t.alike(lacked(), expected())
  t.is(keeping.size, expected().length)

  keeping.copiesElsewhere = (group) => group % 3
  const seen = new Set<string>()
  for (let found = keeping.next(64); found.length > 0; found = keeping.next(64)) for (const { id } of found) seen.add(id.toString('hex'))
  t.is(seen.size, expected().length, 'each was named')
  const order: number[] = []
  for (let found = keeping.next(64); found.length > 0; found = keeping.next(64)) for (const { id } of found) order.push(groupOf(id) % 3)
  t.alike(order, [...order].sort((x, y) => x - y))
  let total = 0
  for (const { chunks: n } of keeping.missing().values()) total += n
  t.is(total, expected().length)
  // What nobody needs any more stays in the queue until it is dropped, and is not waited for.
  const dead = expected().slice(0, 7)
  for (const n of dead) chunks.ref(n, -1)
  chunks.flush()
  t.alike([keeping.size, keeping.lacks], [expected().length, expected().length - dead.length])
  for (const n of dead) chunks.ref(n, 1)
  chunks.flush()
  t.is(keeping.lacks, expected().length)

  let looks = 0
  keeping.copiesElsewhere = () => ++looks && 0
  keeping.next(10)
  const ordered = looks
  do nums.push(add(ELSEWHERE)); while (!mine(plan, nums.at(-1)!))
  t.ok(keeping.next(10)[0]!.id.equals(chunks.identity(nums.at(-1)!)!.id), 'what was named just now comes first')
  t.ok(ordered > 0 && looks === ordered, 'and the groups are not put in order again for it')

  keeping.set(new Plan({ devices: FIVE.slice(0, 3), wanted: 2, self: FIVE[0]!.key }))
  await until(() => keeping.isLaid)
  t.alike(lacked(), expected(), 'by another plan')
  keeping.close()
  const again = new Keeping({ lacking: new Lacking(db), chunks, timers: systemTimers, touched: () => {} })
  again.set(new Plan({ devices: FIVE.slice(0, 3), wanted: 2, self: FIVE[0]!.key }))
  t.ok(again.isLaid, 'after a restart it is still there')
  t.is(again.size, lacked().length)
  again.set(null)
  t.is(again.size, 0)
})

test('the rate holds up what is copied again, not what was just written', async (t) => {
  const tree = new TestTree()
  t.teardown(() => tree.close())
  const { db, chunks } = tree
  chunks.indexIds()
  let nowMs = 0
  const timers = { ...systemTimers, nowMs: () => nowMs, after: (ms: number, f: () => void) => {
    later.push({ atMs: nowMs + ms, f })
    return () => {}
  } }
  const later: { atMs: number; f: () => void }[] = []
  const keeping = new Keeping({ lacking: new Lacking(db), chunks, timers, touched: () => {} })
  const add = () => chunks.ref(chunks.add({ id: randomBytes(32), h: randomBytes(32), len: 1000, seg: ELSEWHERE, off: 0 }), 1)
  for (let i = 0; i < 3000; i++) add()
  chunks.flush()
  keeping.set(new Plan({ devices: FIVE, wanted: 5, self: FIVE[0]!.key }))
  await until(() => keeping.isLaid)
  keeping.rate = () => 100_000
  let named = 0
  // As the exchange does: until there is nothing for now.
  keeping.onMore = () => { for (let found = keeping.next(500); found.length > 0; found = keeping.next(500)) named += found.length }
  keeping.onMore()
  add()
  chunks.flush()
  t.is(keeping.next(10_000).length, 1, 'a new one at once')
  while (later.length > 0 && named < 3001) {
    later.sort((a, b) => a.atMs - b.atMs)
    const { atMs, f } = later.shift()!
    nowMs = atMs
    f()
  }
  t.ok(named >= 3000)
  t.ok(nowMs > 25_000 && nowMs < 35_000, `3 MB at 100 kB/s took ${nowMs} ms`)
})

test('who cannot show what it has said that it holds is doubted; who can once more is not', async (t) => {
  const tree = new TestTree()
  t.teardown(() => tree.close())
  const { db, chunks } = tree
  chunks.indexIds()
  for (let i = 0; i < 100; i++) chunks.ref(chunks.add({ id: randomBytes(32), h: randomBytes(32), len: 1000, seg: 1, off: 0 }), 1)
  chunks.flush()
  let later: (() => void)[] = []
  const timers = { ...systemTimers, after: (_: number, f: () => void) => {
    later.push(f)
    return () => { later = later.filter((g) => g !== f) }
  } }
  const keeping = new Keeping({ lacking: new Lacking(db), chunks, timers: systemTimers, touched: () => {} })
  keeping.set(new Plan({ devices: FIVE, wanted: 5, self: FIVE[0]!.key }))
  await until(() => keeping.isLaid)
  const doubted: string[] = []
  const liar = FIVE[1]!.key.toString('hex'), honest = FIVE[2]!.key.toString('hex')
  let flaky = 0
  const unlinked = new Set(Array.from({ length: 90 }, (_, i) => i + 1))
  const flawed = FIVE[3]!.key.toString('hex'), silent = FIVE[4]!.key.toString('hex')
  const asked = new Map<string, number>()
  const whole = Buffer.alloc(PLACEMENT_GROUPS / 8, 255)
  const audit = new Audit({
    chunks, timers, keeping, reports: { of: () => ({ whole }) } as unknown as Reports, random: Math.random, connected: () => [liar, honest, flawed, silent, 'a stranger'].filter((d) => !doubted.includes(d)),
    ask: async (device, id) => {
      asked.set(device, (asked.get(device) ?? 0) + 1)
      if (device === liar) return 'refused'
      if (device === silent) return 'silent'
      if (device === honest && unlinked.has(chunks.findById(id))) return 'refused'
      return device === flawed && ++flaky % 3 === 0 ? 'refused' : 'shown'
    },
    // What was removed, and is open here: who is honest need not have it any more.
    isUnlinked: async (num) => unlinked.has(num),
    doubted: (device) => doubted.push(device),
  })
  for (let i = 0; i < 600; i++) {
    for (const f of later.splice(0)) f()
    await new Promise((resolve) => setImmediate(resolve))
  }
  t.alike(doubted.sort(), [liar, silent].sort())
  t.ok(asked.get(liar)! >= 5)
  t.is(asked.get(silent), 25, 'who does not answer may be slow')
  t.ok(flaky > 10)
  audit.close()
  t.is(later.length, 0)
})

test('reports come back as they were made; what is not signed is none', (t) => {
  const publicKey = Buffer.alloc(32), secretKey = Buffer.alloc(64), driveId = randomBytes(32)
  sodium.crypto_sign_keypair(publicKey, secretKey)
  const whole = fc.oneof(fc.constant(Buffer.alloc(PLACEMENT_GROUPS / 8)), fc.constant(Buffer.alloc(PLACEMENT_GROUPS / 8, 255)), fc.integer().map(() => randomBytes(PLACEMENT_GROUPS / 8)))
  const uint = fc.nat(2 ** 31 - 1)
  const report = fc.record({
    device: fc.constant(publicKey), clockMs: uint, plan: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((b) => Buffer.from(b)), isFull: fc.boolean(), heldBytes: uint, usedBytes: uint, whole,
    logs: fc.array(fc.tuple(fc.uint8Array({ minLength: 16, maxLength: 16 }).map((b) => Buffer.from(b).toString('latin1')), uint)).map((l) => new Map(l)),
    lacks: fc.array(fc.tuple(fc.nat(PLACEMENT_GROUPS - 1), fc.record({ chunks: uint, bytes: uint }))).map((l) => new Map(l)),
  })
  fc.assert(fc.property(report, fc.nat(), (r: Report, at) => {
    const bytes = writeReport(r, driveId, secretKey)
    const back = readReport(bytes, driveId)
    if (!writeReport(back, driveId, secretKey).equals(bytes)) return false
    const other = Buffer.from(bytes)
    other[at % other.length]! ^= 1
    t.exception(() => readReport(other, driveId))
    t.exception(() => readReport(bytes, randomBytes(32)))
    return true
  }), { numRuns: 50 })
  const bits = Buffer.alloc(PLACEMENT_GROUPS / 8)
  bits[2] = 4
  const own = { digest: randomBytes(32) }
  t.ok(isWhole({ plan: randomBytes(32), whole: bits }, 18, own), 'whatever the plan')
  t.absent(isWhole({ plan: own.digest, whole: bits }, 19, own))
  const two = Buffer.concat([bits, bits])
  t.ok(isWhole({ plan: own.digest, whole: two }, PLACEMENT_GROUPS + 18, own))
  t.absent(isWhole({ plan: randomBytes(32), whole: two }, PLACEMENT_GROUPS + 18, own), 'of another factor, by another plan')
})

test('sizes and times as people write them', (t) => {
  t.alike(['500G', '1.5TiB', '0', '12 kb', 'x', '-1', '1e3', '9999999P'].map((text) => parseBytes(text)), [500 * 2 ** 30, 1.5 * 2 ** 40, 0, 12288, undefined, undefined, undefined, undefined])
  t.alike(['90s', '30d', '1.5h', '0', '5', '', '10 m', '3x'].map((text) => parseDuration(text)), [90_000, 30 * 86_400_000, 5_400_000, 0, undefined, undefined, 600_000, undefined])
})
