/** Links that change: another transport comes up, or the wire is cut. */
import test from 'brittle'
import { syncBuiltinESMExports } from 'node:module'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import workerThreads from 'node:worker_threads'
import type { Assert } from 'brittle'
import { createDevice } from '../../lib/keys/device.js'
import { addressOf, eventually, HOST, place, type Node } from '../helpers/net.js'

const LONG = { timeout: 120_000 }

/** A wire to a node that can be cut, or can go dead without a word. */
async function wireTo(t: Assert, node: Node) {
  const pairs = new Set<[Socket, Socket]>()
  let isDead = false
  const server = createServer((from) => {
    if (isDead) return void from.destroy()
    const to = connect({ port: node.net.port, host: HOST })
    pairs.add([from, to])
    for (const [one, other] of [[from, to], [to, from]] as const) {
      one.on('error', () => {})
      one.on('data', (data: Buffer) => {
        if (!isDead) other.write(data)
      })
      one.on('close', () => isDead || other.destroy())
    }
  })
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve))
  const cut = () => pairs.forEach((pair) => pair.forEach((socket) => socket.destroy()))
  t.teardown(() => {
    cut()
    server.close()
  })
  return {
    address: `${HOST}:${(server.address() as AddressInfo).port}`,
    cut,
    /** Nothing comes through any more, nor any new connection. */
    die() { isDead = true },
    live() {
      cut()
      isDead = false
    },
  }
}

test('devices that hyperswarm brought together go on over TCP', LONG, async (t) => {
  const here = await place(t, 'udx')
  const a = await here.node()
  const b = await here.node()
  const [first] = await Promise.all([a.linked(b), b.linked(a)])
  t.is(first.link.via, 'holepunched')
  await Promise.all([a.net.close(), b.net.close()])

  // The same two, with TCP: met over the DHT, they tell each other their ports.
  const c = await here.node({ device: a.device, tcp: true })
  const d = await here.node({ device: b.device, tcp: true })
  const [atC, atD] = await Promise.all([c, d].map((node) => node.until(() => node.open.find(({ link }) => link.via === 'lan'))))
  for (const node of [c, d]) {
    t.ok(node.links.slice(0, -1).every(({ closed }) => closed === 'replaced'), 'what was before was replaced')
    t.is(node.open.length, 1)
  }
  atC!.link.send(Buffer.from('over TCP'), 'now')
  await d.until(() => atD!.messages.length > 0)
  t.is(atD!.messages[0]!.toString(), 'over TCP')
})

test('a cut connection comes again', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node()
  const wire = await wireTo(t, a)
  const b = await here.node({ peers: [wire.address] })
  const [beforeA, beforeB] = await Promise.all([a.linked(b), b.linked(a)])
  wire.cut()
  await Promise.all([a.until(() => beforeA.closed), b.until(() => beforeB.closed)])
  const [atA, atB] = await Promise.all([a.linked(b), b.linked(a)])
  atA.link.send(Buffer.from('here again'), 'now')
  await b.until(() => atB.messages.length > 0)
  t.is(atB.messages[0]!.toString(), 'here again')
})

test('a link whose wire has gone dead is given up by both sides, and comes again when there is one', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const device = createDevice()
  const a = await here.node()
  const wire = await wireTo(t, a)
  const b = await here.node({ device, peers: [wire.address], host: '127.0.0.3' })
  const [atA, atB] = await Promise.all([a.linked(b), b.linked(a)])
  await a.net.status()
  wire.die()
  atA.link.send(Buffer.alloc(100_000), 'bulk')
  await Promise.all([a.until(() => atA.closed), b.until(() => atB.closed)])
  t.ok(['no answer', 'the connection broke'].includes(atA.closed!), atA.closed)
  wire.live()
  await Promise.all([a.linked(b), b.linked(a)])
  t.pass('again')
})

test('a device that is not there is tried until it is', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const before = await here.node()
  const { port } = before.net
  await before.net.close()
  const b = await here.node({ peers: [`${HOST}:${port}`] })
  await eventually(async () => (await b.net.status())!.dials[0]!.failures >= 2)
  t.ok((await b.net.status())!.dials[0]!.lastError?.includes('ECONNREFUSED'))
  const a = await here.node({ port })
  await Promise.all([a.linked(b), b.linked(a)])
  t.is((await b.net.status())!.dials[0]!.lastError, undefined)
})

test('addresses are passed on: who knows one device gets to know its other addresses', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node()
  const b = await here.node({ peers: [addressOf(a)] })
  await Promise.all([a.linked(b), b.linked(a)])
  await eventually(async () => (await a.net.status())!.dials.some(({ address, from }) => address === addressOf(b) && from === 'peer'))
  // a can now bring the link back, b's listener being all that it needs.
  b.open[0]!.link.close('for a moment')
  await Promise.all([a.until(() => a.links.length > 1 && a.open[0]), b.until(() => b.links.length > 1 && b.open[0])])
  t.pass()
})

test('who knows one device gets to know the others, also one that comes later', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node()
  const others = [await here.node({ peers: [addressOf(a)] }), await here.node({ peers: [addressOf(a)] })]
  others.push(await here.node({ peers: [addressOf(a)] }))
  for (const one of others) for (const other of others) if (one !== other) await one.linked(other)
  await a.net.close()
  const [b, c] = others as [Node, Node]
  ;(await b.linked(c)).link.close('for a moment')
  await Promise.all([b.until(() => b.open.some(({ link }) => link.peer.equals(c.device.publicKey))), c.until(() => c.open.some(({ link }) => link.peer.equals(b.device.publicKey)))])
  t.pass('without the one that brought them together')
})

test('devices on one network find each other by multicast', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const other = await place(t, 'tcp')
  const a = await here.node({ mdns: true })
  const b = await here.node({ mdns: true })
  const stranger = await other.node({ mdns: true })
  await Promise.all([a.linked(b), b.linked(a)])
  t.is(stranger.links.length, 0)
  t.ok((await a.net.status())!.dials.some(({ from }) => from === 'lan') || (await b.net.status())!.dials.some(({ from }) => from === 'lan'))
  t.alike((await stranger.net.status())!.dials, [], 'one of another drive does not even try')
})

test('when the thread of the network fails, all links close, and it starts again where it was', LONG, async (t) => {
  const workers: workerThreads.Worker[] = []
  const { Worker } = workerThreads
  workerThreads.Worker = class extends Worker {
    constructor(...args: ConstructorParameters<typeof Worker>) {
      super(...args)
      workers.push(this)
    }
  }
  syncBuiltinESMExports()
  t.teardown(() => {
    workerThreads.Worker = Worker
    syncBuiltinESMExports()
  })
  const here = await place(t, 'tcp')
  const a = await here.node()
  const b = await here.node({ peers: [addressOf(a)] })
  await Promise.all([a.linked(b), b.linked(a)])
  const { port } = a.net
  await workers[0]!.terminate()
  await a.until(() => a.links[0]!.closed)
  t.is(a.links[0]!.closed, 'the network failed')
  t.is(a.faults.length, 1)
  t.is(await a.net.status(), undefined)
  const [again] = await Promise.all([a.until(() => a.links.length > 1 && a.open[0]), b.until(() => b.links.length > 1 && b.open[0])])
  t.ok(again)
  t.is(a.net.port, port)
  t.ok(await a.net.status())
})
