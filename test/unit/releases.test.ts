/** Which answers about what nobody needs count on a device that cannot read the drive, and what takes a mark back. */
import test from 'brittle'
import type { Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { systemTimers, type Timers } from '../../lib/clock.js'
import type { DeadChunks } from '../../lib/dead-chunks.js'
import { isDfsError } from '../../lib/errors.js'
import { prepareJoin } from '../../lib/join.js'
import { certify, type Certificate } from '../../lib/keys/certificate.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice } from '../../lib/keys/device.js'
import { encodeHeader, entryHash, hashOf } from '../../lib/log/entry.js'
import type { VerifiedHead } from '../../lib/log/snapshot-head.js'
import { Releases } from '../../lib/releases.js'
import { signEntry } from '../../lib/seal/entry.js'
import { StoragePeer } from '../../lib/storage-peer.js'
import type { SwarmHost } from '../../lib/swarm/host.js'
import type { Peer, ReleaseMessage } from '../../lib/swarm/messages.js'
import { ReleaseLink } from '../../lib/swarm/release-link.js'
import { scratchDir } from '../helpers/scratch.js'

const report = () => ({ chunksDropped: 0, bytesFreed: 0, segmentsDropped: 0, segmentsRewritten: 0 })

/** A storage peer with a log of one device, whose entries name chunks. */
async function sealed(t: Assert, timers?: Timers) {
  const keys = DriveKeys.create()
  const dir = scratchDir(t)
  await prepareJoin(dir, keys.capability('storage'))
  const s = await StoragePeer.open(dir)
  const device = createDevice()
  s.members.add(certify(keys, { device: device.publicKey, role: 'full', name: 'x' }))
  let previous: Buffer = Buffer.alloc(32)
  let seq = 0
  const name = { incarnation: device.incarnation, device: device.publicKey }
  const head: { value: VerifiedHead | undefined } = { value: undefined }
  const told = { marks: 0 }
  const releases = new Releases({ chunks: s.chunks, log: s.log, journal: s.journal, timers: timers ?? s.timers, head: () => head.value, knowsAllChunks: () => true, compact: async () => {}, afterMs: 1,
    lacked: (limit) => s.chunks.lacking(limit).map(({ id }) => ({ num: s.chunks.findById(id), id })), marked: () => { told.marks++ } })
  t.teardown(async () => {
    await releases.close()
    await s.close()
  }, { force: true })
  return {
    s, releases, name, head, told,
    /** An entry that names these. */
    async entry(chunks: Buffer[]): Promise<void> {
      const ops = randomBytes(100)
      const header = encodeHeader({ drive: keys.driveId, incarnation: name.incarnation, seq: ++seq, previous, clockMs: 1, firstOp: seq, opCount: 1, chunks, opsHash: hashOf(ops), incarnations: [name.incarnation], context: [] })
      const signed = Buffer.concat([header, signEntry(header, device.secretKey)])
      previous = entryHash(signed)
      t.alike(await s.inbox.deliver(name, seq, [{ signed, sealed: ops }]), { accepted: seq })
    },
    knows: (id: Buffer) => s.chunks.findById(id) > 0,
    /** Everything is dead, to one who has applied so much. */
    dead: (at: number) => { releases.ask = async (ids) => ({ logs: [{ ...name, seq: at }], ids }) },
  }
}

async function refused(t: Assert, releases: Releases, why: string): Promise<void> {
  try {
    await releases.run(report())
    t.fail(why)
  } catch (e) {
    t.ok(isDfsError(e, 'EBUSY'), why)
  }
}

test('an answer counts only if all that it rests on is here', async (t) => {
  const { s, releases, name, head, entry, knows, dead } = await sealed(t)
  const ids = [randomBytes(32), randomBytes(32)]
  await entry(ids)
  await refused(t, releases, 'nobody is there')
  const empty: Record<string, DeadChunks> = {
    'more of a log than is here': { logs: [{ ...name, seq: 2 }], ids },
    'a log that is not here': { logs: [{ ...name, seq: 1 }, { incarnation: randomBytes(16), device: name.device, seq: 1 }], ids },
    'the log of another device': { logs: [{ ...name, device: randomBytes(32), seq: 1 }], ids },
  }
  for (const [why, answer] of Object.entries(empty)) {
    releases.ask = async () => answer
    await refused(t, releases, why)
  }
  dead(1)
  head.value = { logs: [{ ...name, seq: 2, isEnded: false }] } as unknown as VerifiedHead
  await refused(t, releases, 'the snapshot that is here has seen more')
  t.ok(ids.every(knows))
  head.value = undefined
  const done = report()
  await releases.run(done)
  t.is(done.chunksDropped, 2)
  t.absent(ids.some(knows))
  t.is(s.chunks.deadCount, 0)
})

test('what an entry names on which the answer does not rest stays, also if it comes while the answer is on its way', async (t) => {
  const { releases, name, entry, knows, dead } = await sealed(t)
  const [one, two, three] = [randomBytes(32), randomBytes(32), randomBytes(32)] as [Buffer, Buffer, Buffer]
  await entry([one, two, three])
  await entry([two])
  dead(1)
  await releases.run(report())
  t.absent(knows(one))
  t.ok(knows(two))
  t.absent(knows(three))
  await entry([one, three])
  t.ok(knows(one), 'named again it is known again')
  let questions = 0
  releases.ask = async (ids) => {
    // Marked by now, and named before the second answer.
    if (++questions === 2) await entry([three])
    return { logs: [{ ...name, seq: 3 }], ids }
  }
  await releases.run(report())
  t.is(questions, 2)
  t.ok(knows(three))
  t.absent(knows(one))
})

test('who was told that a chunk is here may rely on it: the mark is taken back', async (t) => {
  const { s, releases, name, entry, knows } = await sealed(t)
  const ids = [randomBytes(32), randomBytes(32)] as [Buffer, Buffer]
  await entry(ids)
  let questions = 0
  releases.ask = async (asked) => {
    if (++questions === 2) releases.counted(s.chunks.findById(ids[0]))
    return { logs: [{ ...name, seq: 1 }], ids: asked }
  }
  const done = report()
  await releases.run(done)
  t.is(done.chunksDropped, 1)
  t.ok(knows(ids[0]) && !knows(ids[1]))
  t.is(s.chunks.identity(s.chunks.findById(ids[0]))?.refs, 1)
  // Asked a second time, it is not dead any more.
  let isFirst = true
  releases.ask = async (asked) => {
    const answer = { logs: [{ ...name, seq: 1 }], ids: isFirst ? asked : [] }
    isFirst = false
    return answer
  }
  await releases.run(report())
  t.ok(knows(ids[0]))
  t.is(s.chunks.deadCount, 0)
})

test('what is lacked for a while is asked about before its turn: nobody waits for what nobody needs', async (t) => {
  let nowMs = 0
  let tick = () => {}
  const timers: Timers = { ...systemTimers, nowMs: () => nowMs, every: (_ms, f) => {
    tick = f
    return () => {}
  } }
  const { s, releases, name, entry, told } = await sealed(t, timers)
  const [dead, needed] = [randomBytes(32), randomBytes(32)]
  await entry([dead, needed])
  let questions = 0
  releases.ask = async () => {
    questions++
    return { logs: [{ ...name, seq: 1 }], ids: [dead] }
  }
  const after = async (seconds: number) => {
    nowMs += seconds * 1000
    tick()
    await new Promise((go) => setTimeout(go, 20))
  }
  for (const seconds of [0, 5, 4]) await after(seconds)
  t.is(questions, 0)
  await after(3)
  t.is(questions, 1)
  t.alike(s.chunks.lacking(10).map((c) => c.id), [needed])
  t.is(told.marks, 1)
  // What is needed is asked about less and less often.
  for (let i = 0; i < 60; i++) await after(3)
  t.ok(questions > 2 && questions < 8, `${questions} questions in three minutes`)
  t.is(told.marks, 1)
  await entry([dead])
  t.is(s.chunks.lacking(10).length, 2, 'and what is named again is lacked again')
})

test('only devices with the full key are asked, each in turn; what others say, and what was not asked about, counts for nothing', async (t) => {
  const { s } = await sealed(t)
  const sent: { peer: Peer; m: ReleaseMessage }[] = []
  const of = (role: 'full' | 'storage') => ({ certificate: { role } as Certificate })
  const peers = new Map<Peer, { certificate: Certificate | undefined }>([['shed', of('storage')], ['one', of('full')], ['two', of('full')], ['guest', { certificate: undefined }]])
  const releases: Pick<Releases, 'ask' | 'counted'> = { ask: null, counted: () => {} }
  const link = new ReleaseLink({ drive: { timers: s.timers, journal: s.journal, releases } as unknown as SwarmHost, peers, isReplaced: () => false, send: (peer, m) => sent.push({ peer, m }) })
  const [id, other] = [randomBytes(32), randomBytes(32)] as [Buffer, Buffer]
  const logs = [{ incarnation: randomBytes(16), device: randomBytes(32), seq: 1 }]
  const answer = releases.ask!([id])
  t.alike(sent.map(({ peer, m }) => [peer, m.type]), [['one', 'askReleases']])
  for (const liar of ['shed', 'guest', 'two']) link.answered(liar, { type: 'releases', logs, ids: [id] })
  // It cannot say: the next one is asked.
  link.answered('one', { type: 'releases', logs: [], ids: [] })
  await new Promise((go) => setImmediate(go))
  t.alike(sent.map(({ peer }) => peer), ['one', 'two'])
  link.answered('two', { type: 'releases', logs, ids: [other, id] })
  t.alike((await answer)?.ids, [id])
  const again = releases.ask!([id])
  t.is(sent[2]!.peer, 'two', 'who has answered is asked first')
  peers.delete('two')
  link.down('two')
  await new Promise((go) => setImmediate(go))
  t.is(sent[3]!.peer, 'one')
  link.close()
  t.absent(await again)
  t.is(releases.ask, null)
})
