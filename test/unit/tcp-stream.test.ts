/** lib/swarm/net/tcp-stream.ts, against the stream whose bytes it sends. */
import test, { type Assert } from 'brittle'
import SecretStream from '@hyperswarm/secret-stream'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createConnection, createServer, type AddressInfo, type Socket, type TcpNetConnectOpts } from 'node:net'
import { createDevice } from '../../lib/keys/device.js'
import { FrameGuard } from '../../lib/swarm/net/guard.js'
import { copyReads, TcpStream } from '../../lib/swarm/net/tcp-stream.js'

/** Frames of all kinds of lengths: empty, small, a whole packet; more of them than one read takes. */
const FRAMES = [0, 1, 100, 5000, 65_541, 65_541, 3, 65_000, 65_541, 65_541, 40_000, 65_541, 17].map((n) => randomBytes(n))

function guard(): FrameGuard {
  const g = new FrameGuard()
  g.proven()
  g.open()
  return g
}

interface Framed { on(event: 'data', listener: (frame: Buffer) => void): unknown; write(frame: Uint8Array): boolean; once(event: 'drain', listener: () => void): unknown }

async function exchange(t: Assert, a: Framed, b: Framed): Promise<void> {
  for (const [from, to] of [[a, b], [b, a]] as const) {
    const got: Buffer[] = []
    const all = new Promise<void>((resolve) => {
      to.on('data', (frame) => { if (got.push(Buffer.from(frame)) === FRAMES.length) resolve() })
    })
    for (const frame of FRAMES) if (!from.write(Buffer.from(frame))) await new Promise<void>((resolve) => from.once('drain', resolve))
    await all
    t.ok(got.every((frame, i) => frame.equals(FRAMES[i]!)), 'each frame as it was')
  }
}

async function accepted(t: Assert): Promise<{ port: number; socket: Promise<Socket> }> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { port: (server.address() as AddressInfo).port, socket: once(server, 'connection').then(([socket]) => socket as Socket) }
}

function dialled(t: Assert, port: number): TcpStream {
  const stream = new TcpStream('dialler', guard())
  stream.on('error', () => {})
  const socket = createConnection({ port, host: '127.0.0.1', onread: stream.onread } as TcpNetConnectOpts)
  stream.attach(socket)
  t.teardown(() => stream.destroy())
  return stream
}

test('what it sends and takes is what secret-stream takes and sends', async (t) => {
  const { port, socket } = await accepted(t)
  const [one, other] = [createDevice(), createDevice()]
  const ours = dialled(t, port)
  const theirs = new SecretStream(false, await socket, { keyPair: other })
  t.teardown(() => theirs.destroy())
  await Promise.all([ours.shake(one), theirs.opened])
  t.ok(ours.remotePublicKey.equals(other.publicKey))
  t.ok(theirs.remotePublicKey.equals(one.publicKey))
  t.ok(theirs.handshakeHash!.equals(ours.handshakeHash!))
  await exchange(t, ours, theirs)
})

test('where a socket cannot read into its buffer, what comes is copied there', async (t) => {
  const { port, socket } = await accepted(t)
  const [one, other] = [createDevice(), createDevice()]
  const a = dialled(t, port)
  const b = new TcpStream('answerer', guard())
  b.on('error', () => {})
  const theirs = await socket
  copyReads(theirs, b)
  b.attach(theirs)
  t.teardown(() => b.destroy())
  a.writeRaw(Buffer.from('gate'))
  t.is((await b.take(4)).toString(), 'gate', 'exact bytes first')
  await Promise.all([a.shake(one), b.shake(other)])
  await exchange(t, a, b)
})

test('a frame that was changed on its way ends the stream', async (t) => {
  const { port, socket } = await accepted(t)
  const a = dialled(t, port)
  const b = new TcpStream('answerer', guard())
  const theirs = await socket
  copyReads(theirs, b)
  b.attach(theirs)
  await Promise.all([a.shake(createDevice()), b.shake(createDevice())])
  b.on('data', () => t.fail('it was taken'))
  const frame = Buffer.concat([Buffer.from([30, 0, 0]), randomBytes(30)])
  a.writeRaw(frame)
  const [error] = await once(b, 'error') as [Error]
  t.is(error.message, 'a frame was changed on its way')
})
