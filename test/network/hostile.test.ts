/** Peers that do not mean well, on real sockets: they are dropped, the others served, and little is held for them. */
import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type SecretStream from '@hyperswarm/secret-stream'
import blindRelay from 'blind-relay'
import DHT from 'hyperdht'
import {
  BULK_WINDOW_BYTES, MAX_DHT_HANDSHAKES_PER_S, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS, MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, MAX_UNPROVEN_BYTES, PACKET_BYTES
} from '../../lib/limits.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice } from '../../lib/keys/device.js'
import { encodeGreeting, gateMac, GATE_NONCE_BYTES, MAC_BYTES, NO_LINK, proofPacket } from '../../lib/swarm/net/handshake.js'
import { relayUser } from '../../lib/swarm/net/relay.js'
import { credit, KIND, numbered } from '../../lib/swarm/net/packet.js'
import { attack, Attacker, proudDevice } from '../helpers/attacker.js'
import { addressOf, eventually, HOST, place, type Node, type Place } from '../helpers/net.js'

const LONG = { timeout: 120_000 }

/** What it says until it hangs up. */
async function says(socket: Socket): Promise<Buffer> {
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  socket.on('error', () => {})
  await ended(socket)
  return Buffer.concat(parts)
}

/** Not events.once: a reset is an end like another here. */
function ended(socket: Socket): Promise<void> {
  return new Promise((resolve) => (socket.closed ? resolve() : socket.once('close', () => resolve())))
}

function dial(node: Node, localAddress = HOST): Socket {
  const socket = connect({ port: node.net.port, host: HOST, localAddress })
  socket.on('error', () => {})
  return socket
}

/** Others are served. */
async function stillServes(here: Place, node: Node): Promise<void> {
  const good = await here.node({ peers: [addressOf(node)] })
  const seen = await good.linked(node)
  const at = await node.linked(good)
  at.link.send(Buffer.from('served'), 'now')
  await good.until(() => seen.messages.length > 0)
  await good.net.close()
}

test('without the key there is nothing to learn at the TCP port: 32 random bytes, whatever is said', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  const told = new Set<string>()
  for (const speech of [randomBytes(64), randomBytes(MAX_UNPROVEN_BYTES * 100), Buffer.from('GET / HTTP/1.1\r\nHost: nothing.here.at.all\r\nAccept: anything whatsoever\r\n\r\n'), Buffer.alloc(64)]) {
    const socket = dial(a)
    socket.write(speech)
    const heard = await says(socket)
    t.is(heard.length, GATE_NONCE_BYTES)
    told.add(heard.toString('hex'))
  }
  t.is(told.size, 4, 'never the same')
  const silent = dial(a)
  t.is((await says(silent)).length, GATE_NONCE_BYTES, 'who says nothing is hung up on')
  const early = dial(a)
  early.end(randomBytes(10))
  t.is((await says(early)).length, GATE_NONCE_BYTES)
  t.is(a.links.length, 0)
  t.is((await a.net.status())!.halfOpen, 0)
  await stillServes(here, a)
})

test('the key of another drive opens nothing, and neither does what a member said before', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  await t.exception(attack(t, a, DriveKeys.create()), /ended in the handshake/)
  // Another drive under the proof key of this one: the drive's id is part of the proof.
  const mixed = { driveId: randomBytes(32), proofKey: here.keys.proofKey } as unknown as DriveKeys
  await t.exception(attack(t, a, mixed), /ended in the handshake/)

  // A man in the middle keeps what a member said at the gate, and says it again.
  let recorded = Buffer.alloc(0)
  const middle = createServer((from) => {
    const to = dial(a)
    from.on('error', () => {})
    from.on('data', (data: Buffer) => {
      recorded = Buffer.concat([recorded, data])
    })
    from.pipe(to).pipe(from)
  })
  t.teardown(() => middle.close())
  await new Promise<void>((resolve) => middle.listen(0, HOST, resolve))
  const b = await here.node({ peers: [`${HOST}:${(middle.address() as AddressInfo).port}`] })
  await a.linked(b)
  t.ok(recorded.length > GATE_NONCE_BYTES + MAC_BYTES)
  await b.net.close()
  const replay = dial(a)
  replay.write(recorded)
  t.is((await says(replay)).length, GATE_NONCE_BYTES)
  t.is(a.links.length, 1)
})

test('a flood of half-open connections is bounded, in all and of each address, and members get in', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  const sockets = Array.from({ length: 400 }, (_, i) => dial(a, `127.0.0.${2 + (i % 20)}`))
  t.teardown(() => sockets.forEach((socket) => socket.destroy()))
  await Promise.all(sockets.map((socket) => Promise.race([ended(socket), new Promise((resolve) => socket.once('readable', resolve))])))
  const status = (await a.net.status())!
  t.ok(status.halfOpen <= MAX_HALF_OPEN, `${status.halfOpen} are half open`)
  await stillServes(here, a)

  const ofOne = Array.from({ length: 100 }, () => dial(a, '127.0.0.99'))
  t.teardown(() => ofOne.forEach((socket) => socket.destroy()))
  await eventually(async () => ((await a.net.status())!.refused['too many connections of one address in handshake'] ?? 0) >= 100 - MAX_HALF_OPEN_PER_ADDRESS)
  await stillServes(here, a)
})

test('a wrong proof after Noise ends the connection without another word', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  const wrong = [
    (x: Attacker) => x.send(KIND.proof, 1, randomBytes(32)),
    (x: Attacker) => x.send(randomBytes(200)),
    (x: Attacker) => x.greet(),
    // Of the other role: what the attacked side itself has just said.
    (x: Attacker) => x.stream.write(proofPacket(here.keys, 'answerer', x.stream.handshakeHash!)),
    // Of another session.
    (x: Attacker) => x.stream.write(proofPacket(here.keys, 'dialler', randomBytes(64))),
    (x: Attacker) => x.stream.write(Buffer.concat([proofPacket(here.keys, 'dialler', x.stream.handshakeHash!), Buffer.of(0)])),
    (x: Attacker) => x.send(KIND.use),
  ]
  for (const [i, speak] of wrong.entries()) {
    const x = await attack(t, a, here.keys)
    speak(x)
    await x.closed()
    t.ok(x.packets.every((packet) => packet[0] === KIND.proof), `case ${i}`)
  }
  const silent = await attack(t, a, here.keys)
  await silent.closed()
  const other = await attack(t, a, here.keys)
  other.stream.write(proofPacket(here.keys, 'dialler', other.stream.handshakeHash!, 2))
  await other.closed()
  t.ok(other.packets.some((packet) => packet.includes('another version')), 'a member of another version is told so')
  t.is(a.links.length, 0)
  await stillServes(here, a)
})

test('frames that are longer than they may be are not even begun', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  for (const claim of [0xffffff, 100_000, PACKET_BYTES]) {
    const x = await attack(t, a, here.keys)
    const header = Buffer.alloc(3)
    header.writeUIntLE(claim, 0, 3)
    x.raw(header)
    await x.closed()
  }
  const flood = await attack(t, a, here.keys)
  for (let i = 0; i < 100; i++) flood.raw(Buffer.alloc(3 * 1000))
  await flood.closed()
  t.is((await a.net.status())!.refused['frames that are too long'], 4)
  await stillServes(here, a)
})

test('a member that breaks the protocol is dropped, whatever it makes up; its neighbours are served', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  const good = await here.node({ peers: [addressOf(a)] })
  const seen = await good.linked(a)
  const first = (length: number, part: number) => Buffer.concat([numbered(KIND.first | 1, length), Buffer.alloc(part)])
  const hello = { instance: Buffer.alloc(16), ended: NO_LINK, port: 0, hosts: [] as string[], hello: Buffer.alloc(0) }

  const beforeTheGreeting: [string, (x: Attacker) => void][] = [
    ['a message before the greeting', (x) => x.send(KIND.whole, 1, 2)],
    ['a greeting of nothing', (x) => x.send(KIND.hello)],
    ['a greeting of garbage', (x) => x.send(KIND.hello, randomBytes(3000))],
    ['a port past the last', (x) => x.stream.write(encodeGreeting({ ...hello, port: 70_000 }))],
    ['too many addresses', (x) => x.stream.write(encodeGreeting({ ...hello, hosts: Array<string>(9).fill('10.0.0.1') }))],
    ['too long an address', (x) => x.stream.write(encodeGreeting({ ...hello, hosts: ['1'.repeat(65)] }))],
    ['too long a hello', (x) => x.stream.write(encodeGreeting({ ...hello, hello: Buffer.alloc(MAX_HELLO_BYTES + 1) }))],
    ['more after the greeting', (x) => x.send(encodeGreeting(hello), 1)],
    ['a credit before the greeting', (x) => x.stream.write(credit(0, 1))],
  ]
  for (const [what, speak] of beforeTheGreeting) {
    const x = await attack(t, a, here.keys)
    x.prove()
    await x.got(KIND.hello)
    speak(x)
    await x.closed()
    t.pass(what)
  }

  const onTheLink: [string, (x: Attacker) => void][] = [
    ['a packet of no kind', (x) => x.send(99, 1, 2, 3)],
    ['a second greeting', (x) => x.greet()],
    ['a second proof', (x) => x.prove()],
    ['a message of no bytes', (x) => x.send(KIND.whole)],
    ['the middle of a message', (x) => x.send(KIND.more | 1, 1)],
    ['a message of 3 GB', (x) => x.stream.write(first(3_000_000_000, 100))],
    ['a message past the limit', (x) => x.stream.write(first(MAX_MESSAGE_BYTES + 1, 100))],
    ['a message shorter than its beginning', (x) => x.stream.write(first(50, 100))],
    ['a beginning without a length', (x) => x.send(KIND.first, 1)],
    ['a message inside another', (x) => { x.stream.write(first(1000, 10)); x.stream.write(first(1000, 10)) }],
    ['a message past its own end', (x) => { x.stream.write(first(100, 90)); x.send(KIND.more | 1, Buffer.alloc(11)) }],
    ['credit that nobody needs', (x) => x.stream.write(credit(1, 1))],
    ['credit past all bounds', (x) => x.stream.write(credit(0, 0xffffffff))],
    ['credit for a third lane', (x) => x.send(KIND.credit, 2, 0, 0, 0, 0)],
    ['addresses of too many', (x) => x.send(KIND.addresses, 33, Buffer.alloc(33 * 34))],
    ['addresses that end early', (x) => x.send(KIND.addresses, 1, Buffer.alloc(20))],
    ['a short ping', (x) => x.send(KIND.ping, 0)],
    ['a long pong', (x) => x.send(KIND.pong, Buffer.alloc(100))],
    ['a decision that is not its own', (x) => x.send(KIND.use)],
    ['a malformed loss', (x) => x.send(KIND.lost, 1, 2, 3)],
  ]
  for (const [what, speak] of onTheLink) {
    const x = await (await attack(t, a, here.keys)).link()
    speak(x)
    await x.closed()
    await a.until(() => a.links.find(({ link, closed }) => link.peer.equals(x.device.publicKey) && closed !== undefined))
    t.pass(what)
  }
  t.alike(a.open.map(({ link }) => link.peer), [good.device.publicKey])
  a.open[0]!.link.send(Buffer.from('served'), 'now')
  await good.until(() => seen.messages.length > 0)
  t.alike(a.faults, [])
})

test('a member cannot send more than its window, however slow the receiver', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  const x = await attack(t, a, here.keys)
  const linking = x.link()
  const seen = await a.until(() => a.links[0])
  seen.hold = () => new Promise(() => {})
  seen.isKept = false
  await linking
  for (let sent = 0; sent < 3 * BULK_WINDOW_BYTES; sent += PACKET_BYTES) x.send(KIND.whole | 1, Buffer.alloc(PACKET_BYTES))
  await x.closed()
  t.ok(seen.bytes <= BULK_WINDOW_BYTES)
  t.ok((await a.until(() => seen.closed)).includes('more than it may'))
  const tiny = await attack(t, a, here.keys)
  const tinyLinking = tiny.link()
  const other = await a.until(() => a.links[1])
  other.hold = () => new Promise(() => {})
  await tinyLinking
  for (let i = 0; i < 400_000 && !tiny.isClosed; i++) {
    tiny.send(KIND.whole | 1, 1)
    if (i % 1000 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  await tiny.closed()
  t.ok(other.messages.length <= BULK_WINDOW_BYTES / 64, 'messages of one byte count for more than that')
  await stillServes(here, a)
})

test('a member that floods with pings and never reads holds next to nothing', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  const x = await (await attack(t, a, here.keys)).link()
  const seen = await a.until(() => a.links[0])
  x.deafen()
  const before = process.memoryUsage().rss
  for (let i = 0; i < 300_000; i++) {
    x.send(numbered(KIND.ping, i))
    if (i % 1000 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  for (let i = 0; i < 100; i++) seen.link.send(Buffer.alloc(100_000), 'bulk')
  await stillServes(here, a)
  t.ok(seen.link.queuedBytes <= 10_000_000, 'what is for it is what was queued')
  t.ok(process.memoryUsage().rss - before < 300_000_000, 'attacker, attacked and queue together')
})

test('a device does not link with itself', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  a.net.addPeer(addressOf(a))
  await eventually(async () => (await a.net.status())!.dials[0]?.lastError === 'connected to itself')
  t.is((await a.net.status())!.dials[0]!.state, 'resting')
  t.is(a.links.length, 0)
})

test('a port that another program has is an error at ready, and says what to do', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const a = await here.node({ device: proudDevice() })
  await t.exception(here.node({ port: a.net.port }), /EADDRINUSE.*choose another port/)
  await t.exception(here.node({ peers: ['nowhere'] }), /HOST:PORT/)
})

test('strangers on the DHT: Noise lets them in, the proof does not, and a flood of them is held back', LONG, async (t) => {
  const here = await place(t, 'udx')
  const a = await here.node({ device: proudDevice() })
  const dht = new DHT({ bootstrap: here.bootstrap!, host: HOST })
  t.teardown(() => dht.destroy())
  const key = a.device.publicKey
  const stranger = async (speak: (x: Attacker) => void) => {
    const device = createDevice()
    const stream = dht.connect(key, { keyPair: { publicKey: device.publicKey, secretKey: device.secretKey } })
    const x = new Attacker(stream, here.keys, device)
    if (await stream.opened) speak(x)
    await x.closed()
    return x
  }
  for (const speak of [
    (x: Attacker) => x.send(randomBytes(1000)),
    (x: Attacker) => x.send(KIND.proof, 1, randomBytes(32)),
    (x: Attacker) => x.raw(Buffer.of(0xff, 0xff, 0xff)),
    () => {},
  ]) {
    const x = await stranger(speak)
    t.ok(x.packets.every((packet) => packet[0] === KIND.proof), 'nothing but a proof that only members can check')
  }
  const flood = Array.from({ length: 12 * MAX_DHT_HANDSHAKES_PER_S }, () => {
    const stream = dht.connect(key, { keyPair: DHT.keyPair() })
    stream.on('error', () => {})
    return stream
  })
  await eventually(async () => ((await a.net.status())!.refused['too many handshakes over the DHT'] ?? 0) > 0)
  for (const stream of flood) stream.destroy()
  t.is(a.links.length, 0)
  const b = await here.node()
  await Promise.all([a.linked(b), b.linked(a)])
  t.pass('a member gets in')
})

test('gate MACs of the two roles differ', (t) => {
  const keys = DriveKeys.create()
  const [x, y] = [randomBytes(32), randomBytes(32)]
  t.unlike(gateMac(keys, 'dialler', x, y), gateMac(keys, 'answerer', x, y))
  t.unlike(gateMac(keys, 'dialler', x, y), gateMac(keys, 'dialler', y, x))
})

test('only devices of the drive are relayed for', LONG, async (t) => {
  const here = await place(t, 'udx')
  const a = await here.node()
  const answered = async (keyPair: { publicKey: Buffer; secretKey: Buffer }) => {
    const dht = new DHT({ bootstrap: here.bootstrap!, host: HOST })
    t.teardown(() => dht.destroy())
    let stream: SecretStream
    // Until a is announced.
    do {
      stream = dht.connect(a.device.publicKey, { keyPair })
      stream.on('error', () => {})
    } while (!(await stream.opened))
    const client = blindRelay.Client.from(stream, { id: stream.publicKey })
    // The other side opens the channel as well, or hangs up.
    const isOpen = await Promise.race([new Promise<boolean>((resolve) => client.on('open', () => resolve(true))), new Promise<boolean>((resolve) => stream.on('close', () => resolve(false)))])
    stream.destroy()
    return isOpen
  }
  t.ok(await answered(relayUser(here.keys.proofKey)))
  t.absent(await answered(relayUser(randomBytes(32))), 'another drive')
  t.absent(await answered(createDevice()), 'a key of no drive')
  t.is(a.links.length, 0)
})
