/** Which addresses are tried, and what those who tell them can bring about. No network: dials are counted. */
import test, { type Assert } from 'brittle'
import { setTimeout as sleep } from 'node:timers/promises'
import { HEARSAY_DIALS_AT_ONCE, MAX_LEARNED_ADDRESSES, MAX_TOLD_RECORDS, TOLD_RECORDS_AT_ONCE } from '../../lib/limits.js'
import { AddressBook } from '../../lib/swarm/net/address-book.js'
import { formatAddress, type Address } from '../../lib/swarm/net/address.js'
import { Allowance } from '../../lib/swarm/net/allowance.js'
import type { Conn } from '../../lib/swarm/net/conn.js'
import { Dialer } from '../../lib/swarm/net/dialer.js'
import { decodeRecords, encodeRecords } from '../../lib/swarm/net/record.js'

function dialer(t: Assert, linked: Set<string> = new Set()) {
  const dialled: string[] = []
  const dialer = new Dialer({
    dial: (entry) => {
      dialled.push(entry.text)
      return Promise.reject(new Error('nobody there'))
    },
    hasTcp: (peer) => linked.has(peer),
  })
  t.teardown(() => dialer.close())
  return { dialer, dialled }
}

test('an allowance: so many at once, and then so many a second', (t) => {
  const allowance = new Allowance(3, 2, 0)
  const taken = (nowMs: number) => Array.from({ length: 10 }, () => allowance.take(nowMs)).filter(Boolean).length
  t.is(taken(0), 3)
  t.is(taken(100), 0)
  t.is(taken(1000), 2)
  t.is(taken(1_000_000), 3)
})

test('hearsay makes a device dial one host a few times, whatever ports are named and how often', async (t) => {
  const { dialer: d, dialled } = dialer(t)
  for (let round = 0; round < 5; round++) for (let port = 1; port <= 200; port++) d.add({ host: '203.0.113.7', port }, 'peer', `liar ${port}`)
  await sleep(50)
  t.is(dialled.length, HEARSAY_DIALS_AT_ONCE)
  d.retry()
  await sleep(300)
  t.ok(dialled.length <= HEARSAY_DIALS_AT_ONCE + 1, `${dialled.length}, also when the network has changed`)
  for (let i = 1; i <= 100; i++) d.add({ host: `2001:db8::${i.toString(16)}`, port: 80 }, 'peer', 'liar')
  await sleep(50)
  t.ok(dialled.filter((text) => text.startsWith('[')).length <= HEARSAY_DIALS_AT_ONCE, 'a /64 is one host')
  for (let i = 0; i < 1000; i++) d.add({ host: `198.51.${i >> 8}.${i & 255}`, port: 80 }, 'peer', 'liar')
  t.is(d.status().length, MAX_LEARNED_ADDRESSES, 'and there is a bound on them all')
})

test('given addresses are tried, whatever hearsay there is of their host', async (t) => {
  const { dialer: d, dialled } = dialer(t)
  for (let port = 1; port <= 200; port++) d.add({ host: '203.0.113.7', port }, 'peer', 'liar')
  d.add({ host: '203.0.113.7', port: 4977 }, 'given')
  t.ok(dialled.includes('203.0.113.7:4977'))
})

test('who claims the address of another does not keep it from being tried', async (t) => {
  const linked = new Set(['liar'])
  const { dialer: d, dialled } = dialer(t, linked)
  d.add({ host: '203.0.113.7', port: 4977 }, 'peer', 'liar')
  t.is(dialled.length, 0, 'a device that is linked is not dialled')
  d.add({ host: '203.0.113.7', port: 4977 }, 'peer', 'other')
  while (dialled.length === 0) await sleep(10)
  t.alike(dialled, ['203.0.113.7:4977'])
})

/** A connection as the book sees it. */
function conn(name: number, hosts: string[], port = 4977, host = hosts[0]!): Conn & { told: Buffer[] } {
  const told: Buffer[] = []
  return { peer: Buffer.alloc(32, name), greeting: { port, hosts }, remote: { host, port: 1 }, tell: (packet: Uint8Array) => told.push(Buffer.from(packet)), told } as unknown as Conn & { told: Buffer[] }
}

function book() {
  const learned: string[] = []
  const book = new AddressBook({ publicKey: Buffer.alloc(32, 0), own: () => ({ port: 1, hosts: ['10.0.0.1'] }), onAddress: (address: Address, peer) => learned.push(`${peer[0]} ${formatAddress(address)}`) })
  return { book, learned }
}

test('each device is told of each other, once, and of what changes', (t) => {
  const { book: b, learned } = book()
  const [one, two, three] = [conn(1, ['10.0.0.11']), conn(2, ['10.0.0.12', '192.0.2.1'], 4978, '198.51.100.1'), conn(3, ['10.0.0.13'])]
  for (const c of [one, two, three]) b.linked(c)
  const heard = (c: { told: Buffer[] }) => c.told.splice(0).flatMap(decodeRecords).map(({ device, port, hosts }) => `${device[0]} ${port} ${hosts}`)
  t.alike(heard(one), ['2 4978 10.0.0.12,192.0.2.1,198.51.100.1', '3 4977 10.0.0.13'])
  t.alike(heard(two), ['1 4977 10.0.0.11', '3 4977 10.0.0.13'])
  t.alike(heard(three), ['1 4977 10.0.0.11', '2 4978 10.0.0.12,192.0.2.1,198.51.100.1'])
  b.renew()
  t.alike(heard(one), ['0 1 10.0.0.1'])
  heard(two), heard(three)
  b.unlinked(three)
  const moved = encodeRecords([{ device: one.peer, port: 4977, hosts: ['10.0.0.99'] }])
  b.heard(one, moved)
  b.heard(one, moved)
  t.alike(heard(two), ['1 4977 10.0.0.99,10.0.0.11'], 'once, and where it is seen')
  t.alike(heard(three), [])
  t.ok(learned.includes('1 10.0.0.99:4977'))
})

test('what a peer tells of others is tried, not passed on, and bounded', (t) => {
  const { book: b, learned } = book()
  const [liar, other] = [conn(1, ['10.0.0.11']), conn(2, ['10.0.0.12'])]
  b.linked(liar)
  b.linked(other)
  other.told.length = 0
  const record = (n: number, hosts: string[]) => ({ device: Buffer.alloc(32, n), port: 80, hosts })
  b.heard(liar, encodeRecords([record(9, ['10.0.0.77', '127.0.0.1', '::ffff:7f00:1', '169.254.169.254', 'fe80::1', '224.0.0.1', 'evil.example', '0.0.0.0']), record(0, ['10.0.0.66'])]))
  t.alike(learned, ['9 10.0.0.77:80'])
  t.is(other.told.length, 0)
  for (let i = 0; i < 100; i++) b.heard(liar, encodeRecords(Array.from({ length: MAX_TOLD_RECORDS }, (_, k) => record(10 + k, [`10.1.${i}.${k}`]))))
  t.ok(learned.length <= TOLD_RECORDS_AT_ONCE, `${learned.length}`)
  t.exception(() => b.heard(liar, Buffer.of(9, 1, 2)), /damaged/)
})
