/** What holds for a link, whichever transport carries it. */
import test from 'brittle'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { getPriority } from 'node:os'
import { join } from 'node:path'
import { BULK_WINDOW_BYTES, LOW_WATER_BYTES, MAX_MESSAGE_BYTES, MESSAGE_COST_BYTES, PACKET_BYTES } from '../../lib/limits.js'
import { createDevice } from '../../lib/keys/device.js'
import { addressOf, eventually, netChild, place, type Wire } from '../helpers/net.js'
import { scratchDir } from '../helpers/scratch.js'

const LONG = { timeout: 120_000 }
const WIRES: Wire[] = ['tcp', 'udx']

for (const wire of WIRES) {
  test(`${wire}: two devices of a drive find each other, and each knows who the other is`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    const [atA, atB] = [await a.linked(b), await b.linked(a)]
    t.alike(atA.link.peer, b.device.publicKey)
    t.alike(atB.link.peer, a.device.publicKey)
    t.is(atA.link.hello.toString(), 'node 1')
    t.is(atB.link.hello.toString(), 'node 0')
    t.is(atA.link.via, wire === 'tcp' ? 'lan' : 'holepunched')
    t.ok(atB.link.address.startsWith('127.0.0.1:'))
    t.is(a.links.length, 1)
    t.is(b.links.length, 1)
  })

  test(`${wire}: messages of every size arrive whole and in order, both ways at once`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    const sizes = [1, 2, 100, 16_383, 16_384, PACKET_BYTES - 1, PACKET_BYTES, PACKET_BYTES + 1, 2 * PACKET_BYTES, 300_000, MAX_MESSAGE_BYTES, 5, MAX_MESSAGE_BYTES - 1, 1]
    const messages = sizes.map((size) => randomBytes(size))
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const { link } = await from.linked(to)
      for (const message of messages) link.send(Buffer.from(message), 'bulk')
    }
    for (const node of [a, b]) {
      await node.until(() => node.links[0]!.messages.length === messages.length)
      const { link, messages: got } = node.links[0]!
      t.ok(got.every((message, i) => message.equals(messages[i]!)), 'bytes and order')
      t.is(link.bytesIn, sizes.reduce((sum, size) => sum + size))
      await eventually(() => link.queuedBytes === 0)
      t.is(link.bytesOut, link.bytesIn)
    }
  })

  test(`${wire}: many small messages keep their order in each lane`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    const { link } = await a.linked()
    const count = 20_000
    for (let i = 0; i < count; i++) link.send(Buffer.from(`${i % 2} ${i}`), i % 2 === 0 ? 'now' : 'bulk')
    const seen = await b.linked()
    await b.until(() => seen.messages.length === count)
    for (const lane of ['0', '1']) {
      const numbers = seen.messages.map(String).filter((m) => m.startsWith(lane)).map((m) => Number(m.slice(2)))
      t.ok(numbers.every((n, i) => i === 0 || n > numbers[i - 1]!), `lane ${lane}`)
      t.is(numbers.length, count / 2)
    }
  })

  test(`${wire}: a message of now overtakes 50 MB of bulk`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    const { link } = await a.linked()
    const seen = await b.linked()
    const bulk = 50
    for (let i = 0; i < bulk; i++) link.send(Buffer.allocUnsafeSlow(1_000_000).fill(i), 'bulk')
    link.send(Buffer.from('urgent'), 'now')
    await b.until(() => seen.messages.length === bulk + 1)
    const at = seen.messages.findIndex((message) => message.length === 6)
    t.ok(at < 10, `${at} of ${bulk} came before it`)
    t.alike(seen.messages.filter((m) => m.length > 6).map((m) => m[0]!), Array.from({ length: bulk }, (_, i) => i))
  })

  test(`${wire}: a receiver that does not take its messages stops the sender, and nothing is lost`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    const { link } = await a.linked()
    const seen = await b.linked()
    let release = () => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    seen.hold = () => held
    const size = 500_000
    const count = 60
    for (let i = 0; i < count; i++) link.send(Buffer.allocUnsafeSlow(size).fill(i), 'bulk')
    const fit = Math.floor(BULK_WINDOW_BYTES / (size + MESSAGE_COST_BYTES))
    await b.until(() => seen.messages.length === fit)
    // What is urgent has a window of its own.
    for (let i = 0; i < 3; i++) link.send(Buffer.from('urgent'), 'now')
    await b.until(() => seen.messages.length === fit + 3)
    const { link: back } = seen
    back.send(Buffer.from('and back'), 'now')
    await a.until(() => a.links[0]!.messages.length === 1)
    t.is(seen.messages.filter((m) => m.length === size).length, fit, 'no more than the window came')
    t.ok(link.queuedBytes >= (count - fit) * size, 'the rest waits at the sender')
    t.is(a.links[0]!.drains, 0)
    seen.hold = undefined
    release()
    await b.until(() => seen.messages.length === count + 3)
    t.alike(seen.messages.filter((m) => m.length === size).map((m) => m[0]!), Array.from({ length: count }, (_, i) => i))
    await a.until(() => a.links[0]!.drains > 0)
    t.ok(link.queuedBytes <= LOW_WATER_BYTES)
  })

  test(`${wire}: ranges of files are sent, those that cannot be read are told`, LONG, async (t) => {
    const scratch = scratchDir(t)
    const [a, b] = await (await place(t, wire)).pair()
    const { link } = await a.linked()
    const seen = await b.linked()
    const content = randomBytes(5_000_000)
    const path = join(scratch, 'segment')
    writeFileSync(path, content)
    const ranges = Array.from({ length: 40 }, (_, i) => ({ offset: i * 100_000, length: 1 + i * 25_000 }))
    for (const [i, range] of ranges.entries()) {
      link.sendFile(Buffer.from(`chunk ${i};`), { path, ...range })
      if (i === 20) {
        link.sendFile(Buffer.from('none'), { path: join(scratch, 'none'), offset: 0, length: 10 })
        link.sendFile(Buffer.from('short'), { path, offset: content.length - 5, length: 10 })
        link.send(Buffer.from('between'), 'bulk')
      }
    }
    await b.until(() => seen.messages.length === ranges.length + 1)
    t.is(seen.messages[21]!.toString(), 'between', 'in the order in which they were sent')
    seen.messages.splice(21, 1)
    for (const [i, { offset, length }] of ranges.entries()) {
      const head = `chunk ${i};`
      const whole = Buffer.concat([Buffer.from(head), content.subarray(offset, offset + length)])
      if (!seen.messages[i]!.equals(whole)) t.fail(`range ${i} differs`)
    }
    t.alike(a.links[0]!.fileErrors.map(({ head }) => head.toString()), ['none', 'short'])
    await eventually(() => link.queuedBytes === 0)
    t.pass('nothing is left queued')
    rmSync(path)
  })

  test(`${wire}: what is no message is refused, and given bytes cannot be sent twice`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    const { link } = await a.linked()
    await t.exception(() => link.send(Buffer.alloc(0), 'now'), /1 to/)
    await t.exception(() => link.send(Buffer.alloc(MAX_MESSAGE_BYTES + 1), 'now'), /1 to/)
    await t.exception(() => link.sendFile(Buffer.alloc(1), { path: '/', offset: 0, length: MAX_MESSAGE_BYTES }), /1 to/)
    const large = Buffer.allocUnsafeSlow(100_000).fill(1)
    link.send(large, 'bulk')
    const seen = await b.linked()
    await b.until(() => seen.bytes === 100_000)
    await t.exception(() => link.send(large, 'bulk'), /1 to/)
  })

  test(`${wire}: a link that one side closes is closed at the other, and comes again`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    a.links[0]!.link.close('not wanted now')
    t.is(a.links[0]!.closed, 'not wanted now')
    a.links[0]!.link.send(Buffer.from('into the void'), 'now')
    await b.until(() => b.links[0]!.closed !== undefined)
    t.is(b.links[0]!.closed, 'not wanted now')
    t.is(b.links[0]!.messages.length, 0)
    await Promise.all([a.until(() => a.links.length > 1 && a.open[0]), b.until(() => b.links.length > 1 && b.open[0])])
    const seen = await a.linked(b)
    ;(await b.linked(a)).link.send(Buffer.from('again'), 'now')
    await a.until(() => seen.messages.length > 0)
    t.is(seen.messages[0]!.toString(), 'again')
  })

  test(`${wire}: a device that is killed and starts again has its link at once`, LONG, async (t) => {
    const here = await place(t, wire)
    const a = await here.node()
    const device = createDevice()
    for (let run = 0; run < 3; run++) {
      const child = netChild(t, here, device, wire === 'tcp' ? [addressOf(a)] : [])
      const seen = await a.until(() => a.links.length === run + 1 && a.links[run])
      await a.until(() => seen.messages.length > 0)
      t.is(seen.messages[0]!.toString(), 'hello from the child')
      t.ok(seen.link.peer.equals(device.publicKey))
      if (run > 0) t.ok(a.links[run - 1]!.closed !== undefined, 'the old link is gone')
      t.is(a.open.length, 1)
      await child.kill()
    }
  })

  test(`${wire}: several devices, each linked once to each other`, LONG, async (t) => {
    const here = await place(t, wire)
    const nodes = [await here.node()]
    while (nodes.length < (wire === 'tcp' ? 10 : 5)) nodes.push(await here.node(wire === 'tcp' ? { peers: nodes.map(addressOf) } : {}))
    for (const node of nodes) {
      for (const other of nodes) if (other !== node) await node.linked(other)
      const peers = node.open.map(({ link }) => link.peer.toString('hex'))
      t.is(new Set(peers).size, peers.length)
    }
  })

  test(`${wire}: closing twice, and in the middle of things`, LONG, async (t) => {
    const [a, b] = await (await place(t, wire)).pair()
    for (let i = 0; i < 20; i++) a.links[0]!.link.send(Buffer.alloc(1_000_000), 'bulk')
    await Promise.all([a.net.close(), a.net.close()])
    t.is(a.links[0]!.closed, 'closed')
    await b.until(() => b.links[0]!.closed !== undefined)
    t.is(b.links[0]!.closed, 'closed by the peer')
    await a.net.close()
    t.is(await a.net.status(), undefined)
  })
}

test('tcp: when both dial at once, one link remains on both sides and carries on', LONG, async (t) => {
  const here = await place(t, 'tcp')
  for (let round = 0; round < 10; round++) {
    const [a, b] = [await here.node(), await here.node()]
    a.net.addPeer(addressOf(b))
    b.net.addPeer(addressOf(a))
    const [atA, atB] = await Promise.all([a.linked(b), b.linked(a)])
    const content = randomBytes(1_000_000)
    const hash = createHash('sha256').update(content).digest('hex')
    atA.link.send(content, 'bulk')
    await b.until(() => atB.messages.length === 1)
    t.is(createHash('sha256').update(atB.messages[0]!).digest('hex'), hash)
    t.is(a.links.length + b.links.length, 2, 'no link came in vain')
    await Promise.all([a.net.close(), b.net.close()])
  }
})

test('tcp: a device that comes again while its old link still looks alive replaces it', LONG, async (t) => {
  const here = await place(t, 'tcp')
  const [a, b] = await here.pair()
  const again = await here.node({ device: b.device, peers: [addressOf(a)] })
  await again.linked(a)
  await a.until(() => a.links[0]!.closed === 'replaced' && a.open.length === 1)
  t.pass('one link to the device')
})

test('the network gives way to what programs do here: its thread is nicer than all others, if that does not make other programs come first', LONG, async (t) => {
  const niceness = () => readdirSync('/proc/self/task').map((thread) => getPriority(Number(thread)))
  const before = niceness()
  await (await place(t, 'tcp')).pair()
  const own = getPriority()
  t.absent(before.some((n) => n > own))
  const autogroup = '/proc/sys/kernel/sched_autogroup_enabled'
  t.is(niceness().filter((n) => n > own).length, existsSync(autogroup) && readFileSync(autogroup, 'latin1').trim() === '1' ? 2 : 0, 'of two devices')
})
