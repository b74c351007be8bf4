/** lib/swarm/net/udx-stream.ts, against the streams of hyperdht whose bytes it takes over. */
import test, { type Assert } from 'brittle'
import type SecretStream from '@hyperswarm/secret-stream'
import DHT from 'hyperdht'
import { randomBytes } from 'node:crypto'
import { once, type EventEmitter } from 'node:events'
import { Bootstrap } from '../../lib/swarm/net/bootstrap.js'
import { FrameGuard } from '../../lib/swarm/net/guard.js'
import { positionOf, UdxStream } from '../../lib/swarm/net/udx-stream.js'
import { sleep } from '../helpers/run.js'

const HOST = '127.0.0.1'
/** Frames of all kinds of lengths: small, a whole packet, of a length of which one packet of UDX has the end and the next one's beginning. */
const FRAMES = [1, 100, 5000, 65_541, 65_541, 3, 65_000, 65_541, 65_541, 40_000, 65_541, 17, ...Array.from({ length: 60 }, (_, i) => 65_541 - 977 * i)].map((n) => randomBytes(n))

interface Framed { on(event: 'data', listener: (frame: Buffer) => void): unknown; off(event: 'data', listener: (frame: Buffer) => void): unknown; write(frame: Uint8Array): boolean; once(event: 'drain', listener: () => void): unknown }
type Raw = EventEmitter & { write(bytes: Uint8Array): boolean }

/** Both ends of a stream over the loopback, as hyperdht gives them. */
async function ends(t: Assert): Promise<[SecretStream, SecretStream]> {
  const bootstrap = await Bootstrap.start({ host: HOST, port: 40_000 + Math.floor(Math.random() * 20_000) })
  t.teardown(() => bootstrap.close(), { order: 2 })
  const [one, other] = [new DHT({ bootstrap: [bootstrap.address], host: HOST }), new DHT({ bootstrap: [bootstrap.address], host: HOST })]
  for (const dht of [one, other]) t.teardown(() => dht.destroy(), { order: 1 })
  const keyPair = DHT.keyPair()
  let server: ReturnType<DHT['createServer']>
  const accepted = new Promise<SecretStream>((resolve) => { server = one.createServer({}, resolve) })
  await server!.listen(keyPair)
  const dialled = other.connect(keyPair.publicKey)
  for (const stream of [dialled, accepted]) void Promise.resolve(stream).then((s) => s.on('error', () => {}))
  await dialled.opened
  return [dialled, await accepted]
}

function ours(stream: SecretStream): { udx: UdxStream; guard: FrameGuard } {
  const guard = new FrameGuard(positionOf(stream))
  const udx = new UdxStream(stream, guard)
  udx.on('error', () => {})
  return { udx, guard }
}

function open({ udx, guard }: ReturnType<typeof ours>): UdxStream {
  guard.proven()
  guard.open()
  return udx
}

async function send(from: Framed, frames: Buffer[]): Promise<void> {
  for (const frame of frames) if (!from.write(Buffer.from(frame))) await new Promise<void>((resolve) => from.once('drain', resolve))
}

async function exchange(t: Assert, a: Framed, b: Framed): Promise<void> {
  await Promise.all(([[a, b], [b, a]] as const).map(async ([from, to]) => {
    const got: Buffer[] = []
    const all = new Promise<void>((resolve) => {
      to.on('data', function take(frame) {
        if (got.push(Buffer.from(frame)) < FRAMES.length) return
        to.off('data', take)
        resolve()
      })
    })
    await send(from, FRAMES)
    await all
    t.ok(got.every((frame, i) => frame.equals(FRAMES[i]!)), 'each frame as it was')
  }))
}

test('what it sends and takes is what the stream of hyperdht takes and sends', async (t) => {
  const [dialled, accepted] = await ends(t)
  const udx = open(ours(accepted))
  t.ok(udx.remotePublicKey.equals(dialled.publicKey))
  t.ok(udx.handshakeHash!.equals(dialled.handshakeHash!))
  await exchange(t, dialled, udx)
  let packets = 0
  udx.rawStream.on('data', () => packets++)
  await exchange(t, dialled, udx)
  t.is(packets, 0, 'no packet takes the long way any more')
})

test('two of them', async (t) => {
  const [dialled, accepted] = await ends(t)
  const [a, b] = [open(ours(dialled)), open(ours(accepted))]
  await exchange(t, a, b)
  await exchange(t, a, b)
  const isOver = once(b, 'end')
  a.end()
  await isOver
  t.pass('its end')
})

test('a frame that is longer than it may be, or was changed on its way, ends the stream', async (t) => {
  for (const [bytes, isOpen, message] of [
    // While secret-stream reads, UDX gathers what it takes for a frame, up to its own buffer.
    [Buffer.concat([Buffer.from([0, 0, 1]), randomBytes(80_000)]), false, 'frames that are too long'],
    [Buffer.from([255, 255, 255]), true, 'frames that are too long'],
    [Buffer.concat([Buffer.from([30, 0, 0]), randomBytes(30)]), true, 'a frame was changed on its way'],
    [Buffer.concat([Buffer.from([5, 0, 0]), randomBytes(5)]), true, 'a frame is too short'],
  ] as const) {
    const [dialled, accepted] = await ends(t)
    const { udx, guard } = ours(accepted)
    guard.proven()
    if (isOpen) guard.open()
    dialled.write(Buffer.from('first'))
    await once(udx, 'data')
    dialled.write(Buffer.from('read in place'))
    await once(udx, 'data')
    udx.on('data', () => t.fail('it was taken'))
    const failed = once(udx, 'error')
    ;(dialled.rawStream as Raw).write(bytes)
    t.is(((await failed)[0] as Error).message, message)
    t.ok(udx.destroying)
  }
})

test('of a frame that comes slowly it is seen that something comes', async (t) => {
  const [dialled, accepted] = await ends(t)
  const both = ours(accepted)
  const { guard } = both
  const udx = open(both)
  dialled.write(Buffer.from('first'))
  await once(udx, 'data')
  const raw = dialled.rawStream as Raw
  // The length of a long frame, and some of it.
  raw.write(Buffer.concat([Buffer.from([0, 0, 1]), randomBytes(3000)]))
  const begun = guard.heardMs
  while (guard.heardMs === begun) await sleep(1)
  raw.write(randomBytes(1000))
  await sleep(50)
  const heardMs = guard.heardMs
  for (let n = 0; n < 2; n++) udx.tick()
  raw.write(randomBytes(1000))
  for (let n = 0; guard.heardMs === heardMs && n < 500; n++) await sleep(10)
  t.ok(guard.heardMs > heardMs)
})
