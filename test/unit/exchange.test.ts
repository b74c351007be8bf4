/** Chunk exchange, one step at a time: what the simulation would show only by chance. */
import test from 'brittle'
import { ChunkExchange, type ExchangeEffect } from '../../lib/swarm/exchange.js'
import { ChunkServer, MAX_QUEUED, type ServeEffect } from '../../lib/swarm/serve.js'

const host = { nextMissing: () => [], likelyHolders: () => [] }
const id = Buffer.alloc(32, 1)
const ids = (n: number, from = 0) => Array.from({ length: n }, (_, i) => { const b = Buffer.alloc(32); b.writeUInt32LE(from + i); return b })
const token = (effects: ExchangeEffect[]) => effects.flatMap((e) => (e.type === 'verify' ? [e.token] : []))[0]!
const kinds = (effects: { type: string }[]) => effects.map((e) => e.type)

test('what was verified for one want says nothing of the next', (t) => {
  const x = new ChunkExchange(host)
  x.peerUp(0, 'p', true)
  x.want(0, { id }, 'reader', Infinity)
  const first = token(x.message(1, 'p', { type: 'chunk', id, sealed: Buffer.alloc(100, 1) }))
  x.unwant(2, id)
  x.want(3, { id }, 'reader', Infinity)
  const second = token(x.message(4, 'p', { type: 'chunk', id, sealed: Buffer.alloc(100, 2) }))
  t.alike(kinds(x.verified(5, first, true)), [], 'other bytes are being verified now')
  t.alike(kinds(x.verified(6, second, false)), ['lying'])
})

test('who sent wrong bytes is not asked for that chunk again, and after three for none', (t) => {
  const x = new ChunkExchange(host)
  x.peerUp(0, 'p', true)
  for (const [i, chunk] of ids(3).entries()) {
    t.alike(kinds(x.want(0, { id: chunk }, 'reader', Infinity)), ['send'])
    const effects = x.verified(1, token(x.message(1, 'p', { type: 'chunk', id: chunk, sealed: Buffer.alloc(100) })), false)
    t.alike(effects, [{ type: 'lying', peer: 'p', id: chunk, why: 'its bytes have another hash', isAvoided: i === 2 }])
  }
  t.alike(kinds(x.want(2, { id }, 'reader', Infinity)), [])
  x.peerDown(3, 'p')
  t.alike(kinds(x.peerUp(4, 'p', true)), [], 'nor when it comes back')
  t.alike(kinds(x.peerUp(5, 'q', true)), ['send'], 'another is asked')
})

test('a length that is not the chunk\'s shows the lie without a look at the bytes', (t) => {
  const x = new ChunkExchange(host)
  x.peerUp(0, 'p', true)
  x.want(0, { id, sealedBytes: 1000 }, 'reader', Infinity)
  t.alike(kinds(x.message(1, 'p', { type: 'chunk', id, sealed: Buffer.alloc(1001) })), ['lying'])
})

test('a want ends once, at its deadline, and what comes later is dropped', (t) => {
  const x = new ChunkExchange(host)
  x.peerUp(0, 'p', true)
  x.want(0, { id }, 'reader', 1000)
  t.alike(kinds(x.tick(900)), [])
  t.alike(kinds(x.tick(1000)), ['failed', 'send'], 'and the peer is told')
  t.alike(kinds(x.message(1100, 'p', { type: 'chunk', id, sealed: Buffer.alloc(100) })), [])
  t.alike(x.bytes, { asked: 0, verifying: 0, untaken: 0 })
})

/** Serves at once, in the order of the effects. */
function run(server: ChunkServer, effects: ServeEffect[], bytes: number, each: (peer: string) => boolean): void {
  const queue = [...effects]
  for (let e = queue.shift(); e; e = queue.shift()) {
    if (e.type !== 'serve') continue
    if (!each(e.peer)) return
    queue.push(...server.served(e.peer, e.id, bytes))
  }
}

test('who says that all is urgent gets ahead of others by so much, and no more', (t) => {
  const server = new ChunkServer({ queuedBytes: () => 0 })
  server.peerUp('greedy')
  server.peerUp('modest')
  const start = server.message('modest', { type: 'wantChunks', urgency: 'pin', ids: ids(100, 5000) })
  for (let i = 0; i < 4; i++) start.push(...server.message('greedy', { type: 'wantChunks', urgency: 'reader', ids: ids(1000, i * 1000) }))
  const served = { greedy: 0, modest: 0 }
  run(server, start, 1 << 20, (peer) => {
    served[peer as 'greedy' | 'modest']++
    return served.modest < 50
  })
  t.ok(served.greedy >= 20, `urgent first: ${served.greedy}`)
  t.ok(served.greedy <= 50 + 32 + 16, `${served.greedy} MiB while the other got 50`)
})

test('more wants than may wait are refused', (t) => {
  const server = new ChunkServer({ queuedBytes: () => 1e9 })
  server.peerUp('p')
  let refused = 0
  for (let i = 0; i < 6; i++) {
    for (const e of server.message('p', { type: 'wantChunks', urgency: 'pin', ids: ids(1000, i * 1000) })) if (e.type === 'send') refused += e.message.ids.length
  }
  t.is(refused, 6000 - MAX_QUEUED)
  t.is(server.state('p').queued, MAX_QUEUED)
})

test('a want that is repeated with another urgency is served once', (t) => {
  let queued = 1e9
  const server = new ChunkServer({ queuedBytes: () => queued })
  server.peerUp('p')
  server.message('p', { type: 'wantChunks', urgency: 'background', ids: ids(3) })
  server.message('p', { type: 'wantChunks', urgency: 'reader', ids: ids(1, 2) })
  queued = 0
  const served: string[] = []
  const effects = server.drained('p')
  for (const e of effects) if (e.type === 'serve') served.push(`${e.id[0]} ${e.priority}`)
  t.alike(served, ['2 now', '0 bulk', '1 bulk'])
})

test('what is hurried goes first if it waits, and is not sent again if it is on its way', (t) => {
  const server = new ChunkServer({ queuedBytes: () => 0 })
  server.peerUp('p')
  const served = (effects: { type: string }[]) => (effects as { type: string; id?: Buffer }[]).filter((e) => e.type === 'serve').map((e) => e.id!.readUInt32LE(0))
  const all = ids(8)
  const numbers = all.map((id) => id.readUInt32LE(0))
  t.alike(served(server.message('p', { type: 'wantChunks', urgency: 'ahead', ids: all })), numbers.slice(0, 4))
  t.alike(served(server.message('p', { type: 'hurryChunks', urgency: 'reader', ids: [all[0]!, all[6]!] })), [])
  t.alike(served(server.served('p', all[0]!, 1000)), [numbers[6]])
  t.alike(served(server.message('p', { type: 'hurryChunks', urgency: 'reader', ids: [all[0]!] })), [], 'it was sent')
  t.is(server.state('p').queued, 3)
})

test('what was given to the link as a file and is wanted again is sent again', (t) => {
  const server = new ChunkServer({ queuedBytes: () => 0 })
  server.peerUp('p')
  t.alike(kinds(server.message('p', { type: 'wantChunks', urgency: 'background', ids: [id] })), ['serve'])
  server.sent('p', id, 1000)
  // The peer has it, does not keep it, and wants it once more before this side turns to what is next.
  t.alike(kinds(server.message('p', { type: 'wantChunks', urgency: 'reader', ids: [id] })), ['serve'])
  t.alike(kinds(server.drained('p')), [])
})

test('a peer that rested is asked again when it may be, whatever else was waited for', (t) => {
  const x = new ChunkExchange(host)
  const [one, two] = ids(2) as [Buffer, Buffer]
  x.peerUp(0, 'silent', true)
  t.alike(kinds(x.want(0, { id: one }, 'reader', Infinity)), ['send'])
  t.alike(kinds(x.tick(30_001)), ['send'], 'it has said nothing for 30 s: the request is taken back')
  x.peerUp(30_002, 'other', true)
  x.message(30_003, 'other', { type: 'noChunks', ids: [one] })
  x.want(30_004, { id: two }, 'reader', Infinity)
  x.message(30_005, 'other', { type: 'noChunks', ids: [two] })
  x.peerDown(30_006, 'other')
  x.tick(35_100)
  const asked = x.tick(60_100).flatMap((e) => (e.type === 'send' && e.message.type === 'wantChunks' ? e.message.ids : []))
  t.alike(asked, [one, two])
})

test('late answers to a long list of requests that were taken back are no flood', (t) => {
  const x = new ChunkExchange(host)
  x.peerUp(0, 'p', true)
  const all = ids(5000)
  x.wantAll(0, all.map((chunk) => ({ id: chunk, sealedBytes: 100, urgency: 'ahead' })), Infinity)
  x.tick(30_001)
  const lies = all.flatMap((chunk) => x.message(30_002, 'p', { type: 'chunk', id: chunk, sealed: Buffer.alloc(100) })).filter((e) => e.type === 'lying')
  t.alike(lies, [])
})

test('a request that is never answered is made again, though its peer answers others', (t) => {
  const x = new ChunkExchange(host)
  const [lost, other] = ids(2) as [Buffer, Buffer]
  x.peerUp(0, 'p', true)
  x.want(0, { id: lost, sealedBytes: 1000 }, 'reader', Infinity)
  const seen: string[] = []
  let firstMs = 0
  for (let ms = 100; ms <= 60_000; ms += 100) {
    if (ms % 5000 === 0) {
      x.want(ms, { id: other, sealedBytes: 1000 }, 'background', Infinity)
      x.verified(ms + 1, token(x.message(ms + 1, 'p', { type: 'chunk', id: other, sealed: Buffer.alloc(1000) })), true)
      x.taken(ms + 1, other)
    }
    for (const e of x.tick(ms + 2)) if (e.type === 'send' && e.message.ids.some((i) => i.equals(lost))) {
      firstMs ||= ms
      seen.push(e.message.type)
    }
  }
  t.alike(seen.slice(0, 2), ['cancelChunks', 'wantChunks'], 'in this order')
  t.ok(firstMs >= 10_000 && firstMs < 12_000, `${firstMs}`)
  t.ok(seen.length >= 4 && seen.length <= 12, `${seen.length}`)
  t.is(x.bytes.asked, 1000)
})
