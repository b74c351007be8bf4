/**
 * node dist/test/posix/large.js [--gib 8] [--dir DIR]: dd of a large random file
 * onto a fresh mount and back from a new one, byte for byte; prints the most
 * memory that the daemon held. Fails above 300 MB.
 */
import { spawn } from 'node:child_process'
import { createCipheriv, createHash } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { parseArgs } from 'node:util'
import { makeMount, memoryOf, type TestMount } from '../helpers/mount.js'
import { need } from '../helpers/run.js'

const MAX_RSS_BYTES = 300e6
const BLOCK_BYTES = 1024 * 1024

/** Noise that can be had twice: AES in counter mode. */
function * noise(blocks: number): Generator<Buffer> {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 3), Buffer.alloc(16, 5))
  const zeros = Buffer.alloc(BLOCK_BYTES)
  for (let i = 0; i < blocks; i++) yield cipher.update(zeros)
}

function ended(child: ReturnType<typeof spawn>): Promise<void> {
  return new Promise((resolve, reject) => child.on('error', reject).on('close', (code) => (code === 0 ? resolve() : reject(new Error(`dd: exit code ${code}`)))))
}

async function report(mount: TestMount, what: string, action: () => Promise<void>, bytes: number): Promise<boolean> {
  const start = performance.now()
  await action()
  const seconds = (performance.now() - start) / 1000
  const { peak } = memoryOf(await mount.pid())
  console.log(`${what}: ${(bytes / 1024 / 1024 / seconds).toFixed(0)} MiB/s (the noise and its hash included), the daemon's peak RSS ${(peak / 1e6).toFixed(0)} MB`)
  return peak <= MAX_RSS_BYTES
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { gib: { type: 'string', default: '8' }, dir: { type: 'string', default: tmpdir() } } })
  need(['dd', 'coreutils'])
  const blocks = Number(values.gib) * 1024
  const mount = await makeMount({ parent: values.dir })
  try {
    const path = join(mount.dir, 'large')
    const sent = createHash('sha256')
    const small = [await report(mount, 'write + fsync', async () => {
      const dd = spawn('dd', [`of=${path}`, 'bs=1M', 'iflag=fullblock', 'conv=fsync', 'status=none'], { stdio: ['pipe', 'inherit', 'inherit'] })
      const done = ended(dd)
      await pipeline(Readable.from(noise(blocks)), async function * (source) { for await (const b of source as AsyncIterable<Buffer>) { sent.update(b); yield b } }, dd.stdin)
      await done
    }, blocks * BLOCK_BYTES)]
    await mount.remount()
    const received = createHash('sha256')
    small.push(await report(mount, 'read', async () => {
      const dd = spawn('dd', [`if=${path}`, 'bs=1M', 'status=none'], { stdio: ['ignore', 'pipe', 'inherit'] })
      const done = ended(dd)
      for await (const b of dd.stdout) received.update(b as Buffer)
      await done
    }, blocks * BLOCK_BYTES))
    const same = sent.digest('hex') === received.digest('hex')
    console.log(same ? `${values.gib} GiB came back the same` : 'it came back DIFFERENT')
    if (small.includes(false)) console.log(`above ${MAX_RSS_BYTES / 1e6} MB`)
    return same && !small.includes(false) ? 0 : 1
  } finally {
    await mount.close()
  }
}

main().then((code) => { process.exitCode = code }, (e: unknown) => {
  console.error(e instanceof Error ? e.message : String(e))
  process.exitCode = 1
})
