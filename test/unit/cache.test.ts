/** Which chunk goes first, which never; and who is believed to hold one. */
import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import fc from 'fast-check'
import { parseCache } from '../../bin/cache-option.js'
import { isVirtualXattr } from '../../lib/locality.js'
import { Drive } from '../../lib/drive.js'
import { Database } from '../../lib/store/database.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { Residents } from '../../lib/store/residents.js'
import { Confirmer, FRESH_MS, proofOf } from '../../lib/swarm/confirm.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const START = { used: -1, num: 0 }

function withChunks(dir: string, count: number): Database {
  const db = Database.create(join(dir, `${randomBytes(4).toString('hex')}.db`))
  const insert = db.sql.prepare('INSERT INTO chunk VALUES (?,0,1000,1,1,0,?,?)')
  for (let num = 1; num <= count; num++) insert.run(num, Buffer.alloc(32, num), Buffer.alloc(32))
  return db
}

test('property: the order of eviction is that of the last uses, batch by batch, and pinned chunks are never in it', (t) => {
  const dir = scratchDir(t)
  const step = fc.oneof(
    fc.record({ type: fc.constant('use' as const), num: fc.integer({ min: 1, max: 12 }) }),
    fc.record({ type: fc.constant('flush' as const) }),
    fc.record({ type: fc.constant('reopen' as const) }),
    fc.record({ type: fc.constant('scan' as const), pinned: fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { maxLength: 4 }) }),
  )
  fc.assert(fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
    const db = withChunks(dir, 12)
    try {
      let residents = new Residents(db)
      residents.begin()
      const last = new Map<number, number>()
      let batch = new Set<number>()
      let pinned = new Set<number>()
      let clock = 0
      const flush = () => {
        clock++
        for (const num of batch) if (!pinned.has(num)) last.set(num, clock)
        batch = new Set()
      }
      for (const s of steps) {
        if (s.type === 'use') {
          residents.used(s.num)
          batch.add(s.num)
          continue
        }
        residents.flush()
        flush()
        if (s.type === 'reopen') residents = new Residents(db)
        if (s.type === 'scan') {
          residents.beginScan()
          for (const num of s.pinned) residents.pinned(num)
          residents.endScan()
          // What is not pinned any more counts as used just now.
          for (const num of pinned) if (!s.pinned.includes(num)) last.set(num, clock + 0.5)
          clock++
          pinned = new Set(s.pinned)
        }
      }
      residents.flush()
      flush()
      const order = residents.coldest(START, 100).map((r) => r.num)
      const expected = Array.from({ length: 12 }, (_, i) => i + 1).filter((n) => !pinned.has(n)).sort((a, b) => (last.get(a) ?? 0) - (last.get(b) ?? 0) || a - b)
      if (JSON.stringify(order) !== JSON.stringify(expected)) throw new Error(`${order.join()} instead of ${expected.join()}`)
      // In parts, the same.
      const parts: number[] = []
      for (let after = START; ;) {
        const part = residents.coldest(after, 5)
        if (part.length === 0) break
        parts.push(...part.map((r) => r.num))
        after = part[part.length - 1]!
      }
      if (JSON.stringify(parts) !== JSON.stringify(expected)) throw new Error('in parts it is another order')
    } finally {
      db.close()
    }
  }), { numRuns: 60 })
  t.pass()
})

test('one that came, and that is not to be held here by the plan, has its turn', (t) => {
  const db = withChunks(scratchDir(t), 0)
  t.teardown(() => db.close())
  const residents = new Residents(db)
  residents.begin()
  for (let num = 1; num <= 3; num++) db.sql.prepare('INSERT INTO chunk VALUES (?,0,1000,1,1,0,?,?)').run(num, Buffer.alloc(32, num), Buffer.alloc(32))
  residents.used(1)
  residents.held(2, true)
  residents.held(3, true)
  // The plan is gone through before the use is written.
  for (const num of [1, 2]) residents.held(num, false)
  residents.flush()
  t.alike(residents.coldest(START, 9).map((r) => r.num).sort(), [1, 2])
  residents.used(1)
  residents.held(1, true)
  residents.flush()
  t.alike(residents.coldest(START, 9).map((r) => r.num), [2])
  for (let num = 1; num <= 3; num++) residents.removed(num)
  t.is(db.sql.prepare('SELECT count(*) FROM chunk_use').pluck().get(), 0)
})

test('a chunk that is elsewhere has no turn', (t) => {
  const db = withChunks(scratchDir(t), 3)
  t.teardown(() => db.close())
  const residents = new Residents(db)
  residents.begin()
  db.sql.prepare('UPDATE chunk SET seg = ? WHERE num = 2').run(ELSEWHERE)
  residents.gone(2)
  t.alike(residents.coldest(START, 10).map((r) => r.num), [1, 3])
  residents.beginScan()
  residents.pinned(2)
  residents.pinned(3)
  residents.endScan()
  t.alike(residents.pinnedFrom(START, 10).filter((r) => r.isElsewhere).map((r) => r.num), [2])
  residents.end()
  t.ok(residents.isPinned(2), 'pins stay when everything is kept')
})

// --- who is believed ---------------------------------------------------------

const id = Buffer.alloc(32, 1)
const sealed = randomBytes(1000)
/** No plan. */
const NONE = Buffer.alloc(32)

function confirmer(answers: Record<string, (nonce: Buffer) => Buffer | undefined>, members = ['x', 'y', 'z']) {
  let nowMs = 0
  const asked: string[] = []
  const behind = new Set<string>()
  const lacks = new Set<string>()
  const c = new Confirmer({
    nowMs: () => nowMs, after: () => () => {}, plan: () => null, watch: () => undefined, caughtUp: () => Promise.resolve((peer) => !behind.has(peer)),
    ask: (peer, ids) => { setImmediate(() => c.said(peer, ids, lacks.has(peer) ? 'none' : 0)) },
    isMember: (peer) => members.includes(peer),
    read: () => Promise.resolve(sealed),
    challenge: (peer, chunk, nonce) => {
      asked.push(peer)
      setImmediate(() => c.answered(peer, chunk, answers[peer]?.(nonce) ?? 'refused'))
    },
  })
  return { c, asked, behind, lacks, pass: (ms: number) => { nowMs += ms } }
}
const honest = (nonce: Buffer) => proofOf(nonce, sealed)

test('only who keeps everything is asked, and must prove it with the new nonce', async (t) => {
  const { c, asked } = confirmer({ x: honest, y: () => proofOf(Buffer.alloc(32), sealed) })
  for (const peer of ['x', 'y']) c.peerUp(peer)
  t.alike(await c.confirm([{ id }], 1), [false], 'nobody keeps everything')
  c.status('y', true, NONE)
  t.alike(await c.confirm([{ id }], 1), [false], 'an old proof')
  c.status('x', true, NONE)
  t.alike(await c.confirm([{ id }], 1), [true])
  t.alike(await c.confirm([{ id }], 2), [false])
  t.ok(asked.includes('x'))
})

test('what was shown counts for a while, and only while its giver is there and keeps everything', async (t) => {
  const { c, asked, pass } = confirmer({ x: () => undefined })
  c.peerUp('x')
  c.status('x', true, NONE)
  t.alike(await c.confirm([{ id }], 1), [false])
  c.gave('x', id)
  asked.length = 0
  t.alike(await c.confirm([{ id }], 1), [true], 'it gave the chunk')
  t.is(asked.length, 0)
  c.status('x', false, NONE)
  t.alike(await c.confirm([{ id }], 1), [false], 'it has a cache now')
  c.status('x', true, NONE)
  t.alike(await c.confirm([{ id }], 1), [true])
  pass(FRESH_MS + 1)
  t.alike(await c.confirm([{ id }], 1), [false], 'too long ago')
  c.gave('x', id)
  c.peerDown('x')
  c.peerUp('x')
  c.status('x', true, NONE)
  t.alike(await c.confirm([{ id }], 1), [false], 'it was away')
})

test('what was shown a moment ago is asked for again, of those who know all that we have written', async (t) => {
  const { c, behind, lacks } = confirmer({ x: honest })
  c.peerUp('x')
  c.status('x', true, NONE)
  t.alike(await c.confirm([{ id }], 1), [true])
  behind.add('x')
  t.alike(await c.confirm([{ id }], 1), [false], 'it may be about to drop what we have just named again')
  behind.clear()
  lacks.add('x')
  t.alike(await c.confirm([{ id }], 1), [false], 'it has dropped it')
})

test('who is not enrolled counts for nothing', async (t) => {
  const { c } = confirmer({ x: honest }, [])
  c.peerUp('x')
  c.status('x', true, NONE)
  c.gave('x', id)
  t.alike(await c.confirm([{ id }], 1), [false])
})

test('closing ends what waits', async (t) => {
  const c = new Confirmer({ nowMs: () => 0, after: () => () => {}, ask: () => {}, plan: () => null, watch: () => undefined, caughtUp: () => Promise.resolve(() => true), isMember: () => true, read: () => Promise.resolve(sealed), challenge: () => {} })
  c.peerUp('x')
  c.status('x', true, NONE)
  const waiting = c.confirm([{ id }], 1)
  await new Promise((resolve) => setImmediate(resolve))
  c.close()
  t.alike(await waiting, [false])
})

// --- the drive ------------------------------------------------------------------

test('a full disk makes room in the cache before it refuses', async (t) => {
  const dir = scratchDir(t)
  const drive = await Drive.create(dir)
  t.teardown(() => drive.close(), { force: true })
  const { space } = drive
  const take = space.take.bind(space)
  let isFull = true
  space.take = (bytes, dirty) => {
    if (isFull) take(Number.MAX_SAFE_INTEGER / 4, dirty)
    take(bytes, dirty)
  }
  const f = await drive.open('/f', 'w')
  t.is(await codeOf(() => f.write(0, Buffer.from('a'))), 'ENOSPC', 'a device that keeps everything has nothing to give')
  await drive.setCache(16 << 20)
  t.is(await codeOf(() => f.write(0, Buffer.from('b'))), 'ENOSPC', 'nor has one whose chunks nobody else has')
  drive.cache.makeRoom = async () => {
    isFull = false
    return true
  }
  await f.write(0, Buffer.from('content'))
  t.is((await f.read(0, 100)).toString(), 'content')
  await f.close()
})

test('sizes on the command line', async (t) => {
  t.is(parseCache(undefined), undefined)
  t.is(parseCache('all'), null)
  t.is(parseCache('20G'), 20 * 2 ** 30)
  t.is(parseCache('500m'), 500 * 2 ** 20)
  t.is(parseCache('1.5GiB'), 1.5 * 2 ** 30)
  for (const wrong of ['', '20X', '-1G', 'G']) t.is(await codeOf(() => Promise.resolve().then(() => parseCache(wrong))), 'USAGE')
})

test('the attribute that says what is here is neither listed nor set', async (t) => {
  const dir = scratchDir(t)
  const drive = await Drive.create(dir)
  t.teardown(() => drive.close(), { force: true })
  await (await drive.open('/f', 'w')).close()
  const name = Buffer.from('user.dfs.local')
  t.ok(isVirtualXattr(name))
  t.absent(isVirtualXattr(Buffer.from('user.dfsx')))
  t.is(await codeOf(() => drive.setXattr('/f', name, Buffer.from('all'))), 'EPERM')
  t.alike(await drive.listXattrs('/f'), [])
})
