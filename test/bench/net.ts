/**
 * npm run bench:net: what a link costs over what it runs on, between two
 * processes on this machine. Bare secret-stream over TCP and a bare hyperswarm
 * stream are measured in the same run, in turns, because the machine is shared.
 *
 *   --mib N      bytes of each transfer (default 512)
 *   --rounds N   of which the median counts (default 5)
 *   --json       one object
 *
 * sendFile reads a file in the page cache, as a segment just written is. Round trips: 64 bytes each way, one at a time.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import SecretStream from '@hyperswarm/secret-stream'
import DHT from 'hyperdht'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice } from '../../lib/keys/device.js'
import { Bootstrap } from '../../lib/swarm/net/bootstrap.js'
import type { Link } from '../../lib/swarm/net/link.js'
import { Net } from '../../lib/swarm/net/net.js'

const HOST = '127.0.0.1'
const BARE_WRITE_BYTES = 64 * 1024
const MESSAGE_BYTES = 128 * 1024
/** What a caller that keeps its bounds has queued. */
const QUEUED_BYTES = 8 * 1024 * 1024
const PINGS = 2000
const SMALL_BYTES = 64

/** The other process: it connects to this one, and sends when it is told to. */
type Kind = 'tcp bare' | 'tcp link' | 'tcp link, sendFile' | 'udx bare' | 'udx link' | 'udx link, sendFile'
const KINDS: Kind[] = ['tcp bare', 'tcp link', 'tcp link, sendFile', 'udx bare', 'udx link', 'udx link, sendFile']
interface Setup { kind: Kind; root: string; port: number; bootstrap: string; serverKey: string; file: string; bytes: number }
interface Sample { mbPerS: number; rttUs: number }

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { mib: { type: 'string', default: '512' }, rounds: { type: 'string', default: '5' }, json: { type: 'boolean', default: false } } })
  const bytes = Number(values.mib) * 1024 * 1024
  const scratch = mkdtempSync(join(tmpdir(), 'dfs-bench-net-'))
  const bootstrap = await Bootstrap.start({ host: HOST, port: 40000 + Math.floor(Math.random() * 20000) })
  const samples = new Map<Kind, Sample[]>(KINDS.map((kind) => [kind, []]))
  try {
    const file = join(scratch, 'segment')
    writeFileSync(file, Buffer.alloc(64 * 1024 * 1024, 7))
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const kind of KINDS) samples.get(kind)!.push(await measure(kind, bytes, file, bootstrap.address))
    }
  } finally {
    await bootstrap.close()
    rmSync(scratch, { recursive: true })
  }
  const medians = Object.fromEntries(KINDS.map((kind) => [kind, { mbPerS: median(samples.get(kind)!.map((s) => s.mbPerS)), rttUs: median(samples.get(kind)!.map((s) => s.rttUs)) }]))
  if (values.json) return console.log(JSON.stringify(medians))
  console.log(`${values.mib} MiB, median of ${values.rounds} (least to most)\n`)
  console.log(`${''.padEnd(22)}${'MB/s'.padStart(6)}${'of bare'.padStart(9)}${'round trip, us'.padStart(17)}`)
  for (const kind of KINDS) {
    const { mbPerS, rttUs } = medians[kind]!
    const bare = medians[kind.startsWith('tcp') ? 'tcp bare' : 'udx bare']!
    const all = samples.get(kind)!.map((s) => Math.round(s.mbPerS)).sort((a, b) => a - b)
    console.log(`${kind.padEnd(22)}${mbPerS.toFixed(0).padStart(6)}${(mbPerS / bare.mbPerS).toFixed(2).padStart(9)}${rttUs.toFixed(0).padStart(17)}   (${all[0]} to ${all.at(-1)})`)
  }
}

async function measure(kind: Kind, bytes: number, file: string, bootstrap: string): Promise<Sample> {
  const keys = DriveKeys.create()
  const device = createDevice()
  const setup: Setup = { kind, root: keys.capability(), port: 0, bootstrap, serverKey: device.publicKey.toString('hex'), file, bytes }
  const isTcp = kind.startsWith('tcp')
  let child: ChildProcess | undefined
  const start = (port: number) => {
    child = fork(fileURLToPath(import.meta.url), ['sender', JSON.stringify({ ...setup, port })])
  }
  let got = 0
  let startMs = 0
  let settle: (sample: Sample) => void
  const done = new Promise<Sample>((resolve) => {
    settle = resolve
  })
  let rttUs = 0
  const receive = (data: Uint8Array, answer: (data: Uint8Array) => void) => {
    if (data.length === SMALL_BYTES) return answer(Buffer.from(data))
    if (data.length === 8) {
      rttUs = Buffer.from(data).readDoubleLE(0)
      return answer(Buffer.alloc(8))
    }
    if (got === 0) startMs = performance.now()
    else got += data.length
    if (got === 0) got = 1
    if (got >= bytes) settle({ mbPerS: got / 1000 / (performance.now() - startMs), rttUs })
  }
  let close: () => Promise<unknown>
  if (kind === 'tcp bare') {
    const server = createServer({ noDelay: true }, (socket) => {
      const stream = new SecretStream(false, socket)
      stream.on('error', () => {})
      stream.on('data', (data: Buffer) => receive(data, (answer) => stream.write(answer)))
    })
    await new Promise<void>((resolve) => server.listen(0, HOST, resolve))
    start((server.address() as AddressInfo).port)
    close = () => new Promise((resolve) => server.close(resolve))
  } else if (kind === 'udx bare') {
    const dht = new DHT({ bootstrap: [bootstrap], host: HOST })
    const server = dht.createServer({}, (stream) => {
      stream.on('error', () => {})
      stream.on('data', (data: Buffer) => receive(data, (answer) => stream.write(answer)))
    })
    await server.listen({ publicKey: device.publicKey, secretKey: device.secretKey })
    start(0)
    close = () => dht.destroy()
  } else {
    const net = makeNet(keys, device, { bootstrap, isTcp })
    net.onLink = (link) => {
      link.onMessage = (message) => receive(message, (answer) => link.send(answer, 'now'))
    }
    await net.ready()
    start(net.port)
    close = () => net.close()
  }
  const failed = new Promise<never>((_, reject) => child!.once('exit', (code) => reject(new Error(`${kind}: the sender ended with ${code}`))))
  failed.catch(() => {})
  const sample = await Promise.race([done, failed])
  const ended = new Promise((resolve) => child!.once('exit', resolve))
  child!.send('over')
  await ended
  await close()
  return sample
}

function makeNet(keys: DriveKeys, device: ReturnType<typeof createDevice>, { bootstrap, isTcp, peer }: { bootstrap: string; isTcp: boolean; peer?: string }): Net {
  return new Net({
    device, driveId: keys.driveId, topic: keys.topic, proofKey: keys.proofKey, host: HOST, bootstrap: [bootstrap],
    tcp: isTcp, dht: !isTcp, mdns: false, ...(peer !== undefined && { peers: [peer] }), hello: () => Buffer.alloc(0),
  })
}

interface Wire { write(data: Uint8Array, isBulk: boolean): boolean; onData: (data: Uint8Array) => void; onDrain: () => void; alloc(length: number): Uint8Array; link?: Link }

async function sender(setup: Setup): Promise<void> {
  const { kind, root, port, bootstrap, serverKey, file, bytes } = setup
  process.once('message', () => process.exit(0))
  process.once('disconnect', () => process.exit(1))
  const wire = await connect(kind, root, port, bootstrap, serverKey)
  const rounds: number[] = []
  for (let i = 0; i < PINGS; i++) {
    const atMs = performance.now()
    await new Promise<void>((resolve) => {
      wire.onData = () => resolve()
      wire.write(Buffer.alloc(SMALL_BYTES), false)
    })
    rounds.push((performance.now() - atMs) * 1000)
  }
  const figure = Buffer.alloc(8)
  figure.writeDoubleLE(median(rounds))
  await new Promise<void>((resolve) => {
    wire.onData = () => resolve()
    wire.write(figure, false)
  })
  const { link } = wire
  let sent = 0
  let offset = 0
  const go = () => {
    while (sent < bytes * 1.01 + 4 * MESSAGE_BYTES) {
      if (link && kind.endsWith('sendFile')) {
        link.sendFile(Buffer.alloc(32), { path: file, offset, length: MESSAGE_BYTES })
        offset = (offset + MESSAGE_BYTES) % (64 * 1024 * 1024)
        sent += MESSAGE_BYTES
        if (link.queuedBytes > QUEUED_BYTES) return
      } else {
        const data = wire.alloc(link ? MESSAGE_BYTES : BARE_WRITE_BYTES)
        data[0] = 1
        sent += data.length
        if (!wire.write(data, true)) return
      }
    }
  }
  wire.onDrain = go
  go()
}

async function connect(kind: Kind, root: string, port: number, bootstrap: string, serverKey: string): Promise<Wire> {
  if (kind.endsWith('bare')) {
    const stream = kind === 'tcp bare'
      ? new SecretStream(true, createConnection({ port, host: HOST, noDelay: true }))
      : new DHT({ bootstrap: [bootstrap], host: HOST }).connect(Buffer.from(serverKey, 'hex'))
    stream.on('error', () => {})
    await stream.opened
    const wire: Wire = { write: (data) => stream.write(data), alloc: (length) => stream.alloc(length), onData() {}, onDrain() {} }
    stream.on('data', (data: Buffer) => wire.onData(data))
    stream.on('drain', () => wire.onDrain())
    return wire
  }
  const isTcp = kind.startsWith('tcp')
  const net = makeNet(DriveKeys.fromCapability(root), createDevice(), { bootstrap, isTcp, ...(isTcp && { peer: `${HOST}:${port}` }) })
  const link = await new Promise<Link>((resolve) => {
    net.onLink = resolve
  })
  const wire: Wire = {
    write: (data, isBulk) => {
      link.send(data, isBulk ? 'bulk' : 'now')
      return link.queuedBytes < QUEUED_BYTES
    },
    alloc: (length) => Buffer.allocUnsafeSlow(length),
    onData() {}, onDrain() {}, link,
  }
  link.onMessage = (data) => wire.onData(data)
  link.onDrain = () => wire.onDrain()
  return wire
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!
}

await (process.argv[2] === 'sender' ? sender(JSON.parse(process.argv[3]!) as Setup) : main())
