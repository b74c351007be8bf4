/**
 * What travels between two devices where TCP does not get through: over
 * hyperswarm, found on a private DHT, on this machine. And in the same run a bare hyperswarm stream
 * (hyperdht: UDX and Noise) between two processes on the same host, for the same bytes from the same file.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import DHT from 'hyperdht'
import { Lan } from '../helpers/namespaces.js'
import { DFS } from '../helpers/mount.js'
import { CpuMeter } from './cpu.js'
import { DfsNode, dfsNodes, until, type Pair } from './sync-pairs.js'

const HOST_NAME = 'both'
const WRITE_BYTES = 64 * 1024

export type HyperswarmPair = Pair & { nodes: [DfsNode, DfsNode]; prefix: string[]; address: string; bootstrap: string }

/** Two devices on a host of their own, in a network namespace whose rules refuse all TCP. Needs root. */
export async function hyperswarmPair(parent: string): Promise<HyperswarmPair> {
  const lan = await Lan.make()
  const scratch = mkdtempSync(join(parent, 'dfs-swarm-'))
  let dht: ChildProcess | undefined
  const clear = async () => {
    dht?.kill('SIGKILL')
    await lan.close()
    rmSync(scratch, { recursive: true, force: true })
  }
  try {
    const address = await lan.host(HOST_NAME)
    await lan.ip(HOST_NAME, 'rule', 'add', 'pref', '100', 'lookup', 'local')
    await lan.ip(HOST_NAME, 'rule', 'add', 'pref', '1', 'ipproto', 'tcp', 'prohibit')
    await lan.ip(HOST_NAME, 'rule', 'del', 'pref', '0')
    const prefix = lan.prefix(HOST_NAME)
    dht = spawn(prefix[0]!, [...prefix.slice(1), process.execPath, DFS, 'bootstrap', '--host', address], { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' })
    const bootstrap = await new Promise<string>((resolve, reject) => {
      let said = ''
      dht!.stdout!.setEncoding('utf8').on('data', (part: string) => {
        said += part
        const found = /DFS_BOOTSTRAP=(\S+)/.exec(said)
        if (found) resolve(found[1]!)
      })
      dht!.once('exit', (code) => reject(new Error(`dfs bootstrap ended with ${code}`)))
    })
    const env = { DFS_DISCOVERY: 'dht', DFS_BOOTSTRAP: bootstrap }
    const pair = await dfsNodes(new DfsNode(scratch, 'a', 4977, env, prefix), new DfsNode(scratch, 'b', 4978, env, prefix), [], clear)
    try {
      await until(async () => (await pair.nodes[1].status()).peers[0]?.via === 'holepunched', 60_000, 50)
    } catch (e) {
      await pair.close()
      throw e
    }
    return { ...pair, name: 'dfs, UDX', prefix, address, bootstrap }
  } catch (e) {
    await clear()
    throw e
  }
}

/**
 * The file through a bare stream between two processes that run beside the pair's daemons, in the same network: from the first byte received to
 * the last one, MiB/s and seconds of processor time of both.
 */
export async function bareRate(pair: HyperswarmPair, file: string, bytes: number): Promise<{ mibPerS: number; sendS: number; receiveS: number }> {
  const [command, ...args] = [...pair.prefix, process.execPath, fileURLToPath(import.meta.url)]
  const children: ChildProcess[] = []
  const start = (...which: string[]) => {
    const child = spawn(command!, [...args, ...which], { stdio: ['pipe', 'pipe', 'inherit'] })
    children.push(child)
    return child
  }
  try {
    const receiver = start('receiver', pair.bootstrap, pair.address, String(bytes))
    const said = createInterface({ input: receiver.stdout! })[Symbol.asyncIterator]()
    const next = async () => {
      const { value, done } = await said.next()
      if (done) throw new Error('the bare stream broke')
      return value
    }
    start('sender', pair.bootstrap, pair.address, await next(), file)
    await next()
    const meters = children.map(({ pid }) => new CpuMeter(pid!))
    const seconds = Number(await next())
    const [receiveS, sendS] = meters.map((meter) => meter.seconds) as [number, number]
    return { mibPerS: bytes / 1024 / 1024 / seconds, sendS, receiveS }
  } finally {
    for (const child of children) child.kill()
  }
}

/** Says its key, when the first bytes came, and after how many seconds the last. */
async function receiver(bootstrap: string, host: string, bytes: number): Promise<void> {
  const keyPair = DHT.keyPair()
  let got = 0
  let startMs = 0
  const server = new DHT({ bootstrap: [bootstrap], host }).createServer({}, (stream) => {
    stream.on('error', () => {})
    stream.on('data', (data: Buffer) => {
      if (got === 0) {
        startMs = performance.now()
        console.log('begun')
      }
      got += data.length
      if (got >= bytes) console.log((performance.now() - startMs) / 1000)
    })
  })
  await server.listen(keyPair)
  console.log(keyPair.publicKey.toString('hex'))
}

async function sender(bootstrap: string, host: string, key: string, file: string): Promise<void> {
  const stream = new DHT({ bootstrap: [bootstrap], host }).connect(Buffer.from(key, 'hex'))
  stream.on('error', () => process.exit(1))
  await stream.opened
  for await (const part of createReadStream(file, { highWaterMark: WRITE_BYTES })) {
    if (!stream.write(part as Buffer)) await once(stream, 'drain')
  }
}

const [role, ...setup] = process.argv.slice(2)
if (role === 'receiver' || role === 'sender') {
  // Whoever started it is gone.
  process.stdin.on('end', () => process.exit(1)).resume()
  if (role === 'receiver') await receiver(setup[0]!, setup[1]!, Number(setup[2]))
  else await sender(setup[0]!, setup[1]!, setup[2]!, setup[3]!)
}
