/** Chunks between this device and others: what the step machines leave to what joins them to the drive. */
import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { chunkId, plainLength } from '../../lib/seal/chunk.js'
import { systemTimers } from '../../lib/clock.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { ChunkSwarm } from '../../lib/swarm/chunk-swarm.js'
import type { SwarmHost } from '../../lib/swarm/host.js'
import type { Message } from '../../lib/swarm/messages.js'
import { chunkHead } from '../../lib/swarm/wire.js'
import { sleep } from '../helpers/run.js'

/** A device with some chunks, in segments that `read` is asked for, and one peer. */
function device(sealed: Buffer[], read: (segment: number, offset: number) => Buffer) {
  const ids = sealed.map(chunkId)
  const rows = sealed.map((bytes, i) => ({ num: i + 1, id: ids[i]!, len: plainLength(bytes.length)!, seg: 1, off: i * 10_000, refs: 1 }))
  const sent: Message[] = []
  const files: { head: Uint8Array; offset: number }[] = []
  const host = {
    timers: systemTimers, members: { all: () => [], get: () => undefined }, source: { provider: null },
    chunks: { bad: new Set<number>(), findById: (id: Buffer) => ids.findIndex((i) => i.equals(id)) + 1, get: (num: number) => rows[num - 1] && { ...rows[num - 1] }, identity: (num: number) => rows[num - 1], elsewhere: () => [] },
    arrivals: { keep: async () => true }, space: { freeBytes: () => 0 }, files: { dirtyBytes: 0 },
    store: { pathOf: (n: number) => `segment ${n}`, read: async (segment: number, offset: number) => read(segment, offset), usage: () => new Map() },
  } as unknown as SwarmHost
  const chunks = new ChunkSwarm(host, { send: (_, m) => void sent.push(m), sendFile: (_, head, { offset }) => void files.push({ head, offset }), queuedBytes: () => 0, lying: () => {}, haveOwn: () => [] })
  chunks.peerUp('p')
  sent.length = 0
  return { chunks, ids, rows, sent, files }
}

test('a chunk whose file could not be read is sent from where it is now, or refused: whoever waits for it hears', async (t) => {
  const [moved, gone, damaged] = [randomBytes(5000), randomBytes(6000), randomBytes(7000)]
  const d = device([moved, gone, damaged], (segment, offset) => {
    if (segment === 2 && offset === 77) return moved
    if (segment === 1 && offset === 20_000) return randomBytes(7000)
    throw new Error('no such range')
  })
  t.teardown(() => d.chunks.close())
  await d.chunks.message('p', { type: 'wantChunks', urgency: 'background', ids: d.ids })
  t.alike(d.files.map((f) => f.offset), [0, 10_000, 20_000])
  await sleep(1)
  t.alike(d.sent, [])
  Object.assign(d.rows[0]!, { seg: 2, off: 77 })
  Object.assign(d.rows[1]!, { seg: ELSEWHERE, off: 0 })
  for (const { head } of d.files) d.chunks.fileError('p', Buffer.from(head), new Error('it cannot be read'))
  await sleep(10)
  const which = (id: Buffer) => d.ids.findIndex((i) => i.equals(id))
  const answers: [number, Buffer | string][] = []
  for (const m of d.sent) {
    if (m.type === 'chunk') answers.push([which(m.id), m.sealed])
    else if (m.type === 'noChunks') for (const id of m.ids) answers.push([which(id), 'no'])
  }
  t.alike(answers.sort(([a], [b]) => a - b), [[0, moved], [1, 'no'], [2, 'no']])
  t.alike(Buffer.from(d.files[0]!.head), chunkHead(d.ids[0]!))
})

test('a chunk that moves while it is read is read where it is', async (t) => {
  const bytes = randomBytes(5000)
  const d = device([bytes], (segment) => {
    if (segment === 2) return bytes
    Object.assign(d.rows[0]!, { seg: 2 })
    throw new Error('removed')
  })
  t.teardown(() => d.chunks.close())
  await d.chunks.message('p', { type: 'wantChunks', urgency: 'reader', ids: d.ids })
  await sleep(10)
  t.alike(d.sent.map((m) => m.type), ['chunk'])
})
