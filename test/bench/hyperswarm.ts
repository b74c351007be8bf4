/**
 * What travels between two devices where TCP does not get through: over
 * hyperswarm, found on a private DHT, on this machine. And in the same run a bare hyperswarm stream
 * (hyperdht: UDX and Noise) between two processes, for the same bytes from the same file.
 */
import { fork, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import DHT from 'hyperdht'
import { Bootstrap } from '../../lib/swarm/net/bootstrap.js'
import { Lan } from '../helpers/namespaces.js'
import { DFS } from '../helpers/mount.js'
import { CpuMeter } from './cpu.js'
import { DfsNode, dfsNodes, until, type Pair } from './sync-pairs.js'

const HOST = '127.0.0.1'
const HOST_NAME = 'both'
const WRITE_BYTES = 64 * 1024

/** Two devices on a host of their own, in a network namespace whose rules refuse all TCP. Needs root. */
export async function hyperswarmPair(parent: string): Promise<Pair & { nodes: [DfsNode, DfsNode] }> {
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
    return { ...pair, name: 'dfs, UDX' }
  } catch (e) {
    await clear()
    throw e
  }
}

/** The file through a bare stream to this process, from the first byte received to the last one: MiB/s, and seconds of processor time of both. */
export async function bareRate(file: string, bytes: number): Promise<{ mibPerS: number; cpuS: number }> {
  const bootstrap = await Bootstrap.start({ host: HOST, port: 40_000 + Math.floor(Math.random() * 20_000) })
  const dht = new DHT({ bootstrap: [bootstrap.address], host: HOST })
  let child: ChildProcess | undefined
  try {
    const keyPair = DHT.keyPair()
    let got = 0
    let startMs = 0
    let meters: CpuMeter[] = []
    const done = new Promise<void>((resolve) => {
      const server = dht.createServer({}, (stream) => {
        stream.on('error', () => {})
        stream.on('data', (data: Buffer) => {
          if (startMs === 0) {
            startMs = performance.now()
            meters = [new CpuMeter(process.pid), new CpuMeter(child!.pid!)]
          }
          got += data.length
          if (got >= bytes) resolve()
        })
      })
      void server.listen(keyPair).then(() => {
        child = fork(fileURLToPath(import.meta.url), ['sender', bootstrap.address, keyPair.publicKey.toString('hex'), file])
      })
    })
    await done
    return { mibPerS: got / 1024 / 1024 / ((performance.now() - startMs) / 1000), cpuS: meters.reduce((sum, meter) => sum + meter.seconds, 0) }
  } finally {
    child?.kill()
    await dht.destroy()
    await bootstrap.close()
  }
}

async function sender(bootstrap: string, key: string, file: string): Promise<void> {
  process.once('disconnect', () => process.exit(1))
  const stream = new DHT({ bootstrap: [bootstrap], host: HOST }).connect(Buffer.from(key, 'hex'))
  stream.on('error', () => process.exit(0))
  await stream.opened
  for await (const part of createReadStream(file, { highWaterMark: WRITE_BYTES })) {
    if (!stream.write(part as Buffer)) await once(stream, 'drain')
  }
}

if (process.argv[2] === 'sender') await sender(process.argv[3]!, process.argv[4]!, process.argv[5]!)
