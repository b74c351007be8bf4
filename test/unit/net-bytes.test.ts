/** The network's bytes without a network: what goes in comes out, and no bytes do harm. */
import test from 'brittle'
import fc from 'fast-check'
import { randomBytes } from 'node:crypto'
import { MAX_ADDRESS_CHARS, MAX_MESSAGE_BYTES, MAX_TOLD_ADDRESSES, MAX_TOLD_RECORDS, PACKET_BYTES } from '../../lib/limits.js'
import { isDfsError } from '../../lib/errors.js'
import { formatAddress, mayDial, networkOf, parseAddress } from '../../lib/swarm/net/address.js'
import { Fifo } from '../../lib/swarm/net/fifo.js'
import { FrameGuard } from '../../lib/swarm/net/guard.js'
import { checkProof, decodeGreeting, encodeGreeting, proofPacket } from '../../lib/swarm/net/handshake.js'
import { bytesAt, giveBack, Lender, makeLentMemory } from '../../lib/swarm/net/lent.js'
import { answer, hear, question } from '../../lib/swarm/net/mdns-packet.js'
import { decodeRecords, encodeRecords } from '../../lib/swarm/net/record.js'
import { Assembly, KIND, MAX_FRAME_BYTES, numbered, readBye, readCredit, readNumber } from '../../lib/swarm/net/packet.js'

const RUNS = { numRuns: 2000 }
const bytes = (maxLength: number, minLength = 0) => fc.uint8Array({ minLength, maxLength }).map((b) => Buffer.from(b))

/** The call ends well or with a DfsError: nothing else comes of bytes. */
function isRefusedOrTaken(action: () => unknown): boolean {
  try {
    action()
    return true
  } catch (error) {
    return isDfsError(error, 'EIO')
  }
}

test('a greeting comes out as it went in', (t) => {
  fc.assert(fc.property(bytes(16, 16), bytes(8, 8), fc.nat(65535), fc.array(fc.ipV4(), { maxLength: 8 }), bytes(4096), (instance, ended, port, hosts, hello) => {
    const greeting = { instance, ended, port, hosts, hello }
    const packet = encodeGreeting(greeting)
    return packet.length + 17 <= MAX_FRAME_BYTES.closed && JSON.stringify(decodeGreeting(packet)) === JSON.stringify(greeting)
  }), { numRuns: 300 })
  t.pass()
})

test('what is told of addresses comes out as it went in, and fits a frame', (t) => {
  const record = fc.record({ device: bytes(32, 32), port: fc.nat(65535), hosts: fc.array(fc.oneof(fc.ipV4(), fc.ipV6()), { maxLength: MAX_TOLD_ADDRESSES + 1 }) })
  fc.assert(fc.property(fc.array(record, { maxLength: MAX_TOLD_RECORDS }), (records) => {
    const packet = encodeRecords(records)
    return packet.length + 17 <= MAX_FRAME_BYTES.open && JSON.stringify(decodeRecords(packet)) === JSON.stringify(records)
  }), { numRuns: 300 })
  const most = { device: randomBytes(32), port: 65535, hosts: Array<string>(MAX_TOLD_ADDRESSES + 1).fill('x'.repeat(MAX_ADDRESS_CHARS)) }
  t.ok(encodeRecords(Array(MAX_TOLD_RECORDS).fill(most)).length + 17 <= MAX_FRAME_BYTES.open)
})

test('decoders take any bytes and refuse what is malformed', (t) => {
  const valid = encodeGreeting({ instance: randomBytes(16), ended: randomBytes(8), port: 1, hosts: ['10.0.0.1'], hello: randomBytes(40) })
  const changed = fc.tuple(fc.nat(valid.length - 1), fc.nat(255), fc.nat(valid.length)).map(([at, value, length]) => {
    const packet = Buffer.from(valid)
    packet[at] = value
    return packet.subarray(0, length)
  })
  fc.assert(fc.property(fc.oneof(bytes(200, 1), changed), (packet) => [decodeGreeting, decodeRecords, readCredit, readNumber, readBye].every((decode) => isRefusedOrTaken(() => decode(packet)))), RUNS)
  t.ok(/^[ -~]*$/.test(readBye(Buffer.concat([Buffer.of(KIND.bye), randomBytes(500)]))), 'what a peer says may be printed')
})

test('proofs hold for one drive, one role, one session, one version', (t) => {
  const member = { driveId: randomBytes(32), proofKey: randomBytes(32) }
  const hash = randomBytes(64)
  const proof = proofPacket(member, 'dialler', hash)
  t.is(checkProof(member, 'dialler', hash, proof), 'good')
  t.is(checkProof(member, 'answerer', hash, proof), 'wrong')
  t.is(checkProof(member, 'dialler', randomBytes(64), proof), 'wrong')
  t.is(checkProof({ ...member, driveId: randomBytes(32) }, 'dialler', hash, proof), 'wrong')
  t.is(checkProof({ ...member, proofKey: randomBytes(32) }, 'dialler', hash, proof), 'wrong')
  t.is(checkProof(member, 'dialler', hash, proofPacket(member, 'dialler', hash, 9)), 'other version')
  t.is(checkProof(member, 'dialler', hash, Buffer.alloc(0)), 'wrong')
  for (let at = 0; at < proof.length; at++) {
    const changed = Buffer.from(proof)
    changed[at]! ^= 1
    if (checkProof(member, 'dialler', hash, changed) !== 'wrong') t.fail(`byte ${at}`)
  }
})

test('messages are put together from any cut, and nothing else is', (t) => {
  const assembly = new Assembly()
  const message = randomBytes(200_000)
  for (const cut of [1, 1000, PACKET_BYTES]) {
    let got = assembly.take(KIND.first, Buffer.concat([numbered(KIND.first, message.length), message.subarray(0, cut)]))
    for (let at = cut; at < message.length; at += PACKET_BYTES) {
      t.absent(got)
      got = assembly.take(KIND.more, Buffer.concat([Buffer.of(KIND.more), message.subarray(at, at + PACKET_BYTES)]))
    }
    t.ok(got?.bytes.equals(message))
    t.is(assembly.heldBytes, 0)
  }
  const kinds = fc.constantFrom(KIND.whole, KIND.first, KIND.more)
  const packet = fc.oneof(bytes(50, 1), fc.tuple(fc.nat(60), bytes(50)).map(([length, rest]) => Buffer.concat([numbered(KIND.first, length), rest])))
  fc.assert(fc.property(fc.array(fc.tuple(kinds, packet), { maxLength: 20 }), (packets) => {
    const fuzzed = new Assembly()
    return packets.every(([kind, packet]) => isRefusedOrTaken(() => fuzzed.take(kind, packet)) && fuzzed.heldBytes <= MAX_MESSAGE_BYTES)
  }), RUNS)
})

test('large messages lie in lent memory, one behind the other, until they are given back', (t) => {
  const memory = makeLentMemory()!
  const lender = new Lender(memory)
  const assembly = new Assembly(lender)
  const take = (length: number) => {
    const message = randomBytes(length)
    const got = assembly.take(KIND.whole, Buffer.concat([Buffer.of(KIND.whole), message]))!
    return { message, place: got.place, isSame: () => (got.place ? bytesAt(memory, got.place) : got.bytes).equals(message) }
  }
  t.absent(take(1000).place, 'a small one has its own')
  const fuzz = fc.array(fc.tuple(fc.integer({ min: 20_000, max: PACKET_BYTES }), fc.nat(40)), { minLength: 50, maxLength: 200 })
  fc.assert(fc.property(fuzz, (steps) => {
    const held: ReturnType<typeof take>[] = []
    for (const [length, keep] of steps) {
      held.push(take(length))
      while (held.length > keep) {
        const [old] = held.splice(length % held.length, 1)
        if (!old!.isSame()) return false
        if (old!.place) giveBack(memory, old!.place)
      }
    }
    return held.every((h) => {
      const isSame = h.isSame()
      if (h.place) giveBack(memory, h.place)
      return isSame
    })
  }), { numRuns: 30 })
  const uses = new Int32Array(memory.uses)
  t.is(uses.reduce((a, b) => a + b), 1, 'only the block that is being filled is in use')

  const held: ReturnType<typeof take>[] = []
  while (held.at(-1)?.place !== undefined || held.length === 0) held.push(take(PACKET_BYTES))
  t.ok(held.length > 100, 'then messages have their own')
  t.ok(held.every((h) => h.isSame()))
  for (const h of held) if (h.place) giveBack(memory, h.place)
  assembly.take(KIND.first, Buffer.concat([numbered(KIND.first, 100_000), Buffer.alloc(10)]))
  t.is(uses.reduce((a, b) => a + b), 2)
  assembly.drop()
  t.is(uses.reduce((a, b) => a + b), 1, 'what does not come any more is given back')
})

test('the guard sees the same frames however the stream is cut', (t) => {
  const frames = fc.array(fc.nat(3000), { maxLength: 20 })
  fc.assert(fc.property(frames, fc.array(fc.integer({ min: 1, max: 4000 }), { minLength: 1, maxLength: 50 }), fc.nat(MAX_FRAME_BYTES.open), (lengths, cuts, start) => {
    const stream = Buffer.concat(lengths.map((length) => {
      const frame = Buffer.alloc(3 + length, 0xff)
      frame.writeUIntLE(length, 0, 3)
      return frame
    }))
    // From the beginning, and from the middle of a frame.
    for (const [guard, whole] of [[new FrameGuard(), stream], [new FrameGuard({ headerBytes: 3, length: 0, missingBytes: start }), Buffer.concat([Buffer.alloc(start, 0xff), stream])]] as const) {
      guard.proven()
      for (let at = 0, i = 0; at < whole.length; i++) {
        const end = at + cuts[i % cuts.length]!
        if (!guard.admits(whole.subarray(at, end))) return false
        at = end
      }
      const tooLong = Buffer.alloc(3)
      tooLong.writeUIntLE(MAX_FRAME_BYTES.closed + 1, 0, 3)
      if (guard.admits(tooLong)) return false
    }
    return true
  }), { numRuns: 500 })
  const opened = new FrameGuard()
  opened.proven()
  opened.open()
  const header = Buffer.alloc(3)
  header.writeUIntLE(MAX_FRAME_BYTES.open, 0, 3)
  t.ok(opened.admits(header.subarray(0, 1)) && opened.admits(header.subarray(1)))
})

test('multicast answers are for members, and no bytes do harm', (t) => {
  const [key, nonce] = [randomBytes(32), randomBytes(16)]
  const packet = answer(key, nonce, 4711)
  t.alike(hear(packet, key), { type: 'answer', nonce, port: 4711 })
  t.alike(hear(question(), key), { type: 'question' })
  t.is(hear(packet, randomBytes(32)), undefined, 'of another drive')
  t.is(hear(answer(key, nonce, 4711, true), key), undefined, 'a goodbye')
  t.absent(packet.includes(key.subarray(0, 8)))
  const elsewhere = Buffer.from(packet)
  const at = elsewhere.indexOf(Buffer.of(4711 >> 8, 4711 & 255))
  elsewhere[at + 1]! ^= 1
  t.is(hear(elsewhere, key), undefined, 'another port is another MAC')
  const changed = fc.tuple(fc.nat(packet.length - 1), fc.nat(255), fc.nat(packet.length)).map(([i, value, length]) => {
    const copy = Buffer.from(packet)
    copy[i] = value
    return copy.subarray(0, length)
  })
  fc.assert(fc.property(fc.oneof(bytes(600), changed), (heard) => {
    const what = hear(heard, key)
    return what === undefined || what.type === 'question' || (what.port === 4711 && what.nonce.equals(nonce))
  }), RUNS)
  // A name that refers to itself.
  t.is(hear(Buffer.concat([Buffer.from('000000000001000000000000', 'hex'), Buffer.of(0xc0, 12, 0, 12, 0, 1)]), key), undefined)
})

test('addresses', async (t) => {
  t.alike(parseAddress('10.0.0.1:80'), { host: '10.0.0.1', port: 80 })
  t.alike(parseAddress('[fe80::1%eth0]:80'), { host: 'fe80::1%eth0', port: 80 })
  t.alike(parseAddress('[fe80::1%br-lan.5]:80'), { host: 'fe80::1%br-lan.5', port: 80 })
  t.alike(parseAddress('a.example:65535'), { host: 'a.example', port: 65535 })
  for (const text of ['', 'x', 'x:', ':80', 'x:0', 'x:65536', 'fe80::1:80', 'x y:80', '[x:80', 'http://x:80']) await t.exception(() => parseAddress(text), /HOST:PORT/)
  t.is(formatAddress({ host: '::1', port: 1 }), '[::1]:1')
  t.is(networkOf('10.1.2.3'), '10.1.2.3')
  t.is(networkOf('::ffff:10.1.2.3'), '10.1.2.3')
  t.is(networkOf('2001:db8:1:2:3:4:5:6'), networkOf('2001:db8:1:2::1'))
  t.is(networkOf('2001:0db8:1:2::1'), networkOf('2001:db8:1:2::'))
  t.not(networkOf('2001:db8:1:2::1'), networkOf('2001:db8:1:3::1'))
  for (const host of ['localhost', 'evil.example', '0.0.0.0', '224.0.0.1', '255.255.255.255', '::', 'ff02::1', '127.0.0.1', '::1', '::ffff:127.0.0.1', '::ffff:224.0.0.1', '', '0:0:0:0:0:0:0:1', '::ffff:7f00:1', '::1%lo', '127.9.9.9', '169.254.169.254', '::ffff:a9fe:a9fe', 'fe80::1', 'fe80::1%eth0', '10.0.0.1:80', '010.0.0.1']) t.absent(mayDial(host, '10.0.0.9'), host)
  for (const host of ['10.0.0.1', '8.8.8.8', '2001:db8::1']) t.ok(mayDial(host, '10.0.0.9'), host)
  t.ok(mayDial('127.0.0.1', '127.0.0.1') && mayDial('::1', '127.0.0.1'), 'from a peer on this machine')
  t.ok(mayDial('169.254.1.1', '169.254.1.2'), 'from a peer on the same wire')
})

test('the queue keeps its order through any pushes and shifts', (t) => {
  fc.assert(fc.property(fc.array(fc.boolean(), { maxLength: 5000 }), (pushes) => {
    const queue = new Fifo<number>()
    const model: number[] = []
    let next = 1
    return pushes.every((isPush) => {
      if (isPush) {
        queue.push(next)
        model.push(next++)
      } else if (queue.shift() !== model.shift()) return false
      return queue.length === model.length && queue.first === model[0]
    })
  }), { numRuns: 100 })
  const long = new Fifo<number>()
  for (let i = 1; i <= 100_000; i++) long.push(i)
  for (let i = 1; i <= 100_000; i++) if (long.shift() !== i) t.fail(`${i}`)
  t.is(long.length, 0)
})
