/**
 * node dist/test/bench/metadata.js [--files N] [--big N] [--dir DIR]
 *
 * One drive with 1,000,000 small files, 100,000 of them in one directory: how
 * long until a new mount is ready, when `ls -f` prints its first name, what the
 * daemon holds in memory, and what the metadata of a file costs on the disk.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bytesOnDisk, makeMount, memoryOf, type TestMount } from '../helpers/mount.js'
import { compile, must } from '../helpers/run.js'

const PER_DIRECTORY = 1000
const MIB = 1024 * 1024

/** Seconds until the first byte of output, until the end, and the lines. */
function firstOutput(program: string, args: string[]): Promise<{ first: number; all: number; lines: number }> {
  return new Promise((resolve, reject) => {
    const start = performance.now()
    let first = NaN
    let lines = 0
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    child.stdout.on('data', (b: Buffer) => {
      if (Number.isNaN(first)) first = (performance.now() - start) / 1000
      for (const c of b) if (c === 10) lines++
    })
    child.on('error', reject)
    child.on('close', () => resolve({ first, all: (performance.now() - start) / 1000, lines }))
  })
}

async function timed<T>(action: () => Promise<T>): Promise<number> {
  const start = performance.now()
  await action()
  return (performance.now() - start) / 1000
}

async function memory(mount: TestMount): Promise<string> {
  const { rss, peak } = memoryOf(await mount.pid())
  return `RSS ${(rss / MIB).toFixed(0)} MiB, peak ${(peak / MIB).toFixed(0)} MiB`
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { files: { type: 'string', default: '1000000' }, big: { type: 'string', default: '100000' }, dir: { type: 'string', default: tmpdir() } } })
  const files = Number(values.files)
  const big = Math.min(Number(values.big), files)
  const load = compile('test/bench/load.c')
  const mount = await makeMount({ parent: values.dir })
  try {
    await mount.unmount() // an idle store keeps no space in reserve
    const before = bytesOnDisk(mount.store!)
    await mount.mount()
    const make = async (folder: string, count: number) => {
      mkdirSync(folder, { recursive: true })
      await must(load, ['create-empty', folder, String(count), '0', '1'])
    }
    const created = await timed(async () => {
      await make(join(mount.dir, 'big'), big)
      for (let made = big, n = 0; made < files; made += PER_DIRECTORY, n++) {
        await make(join(mount.dir, `group-${Math.floor(n / 100)}`, `folder-${n}`), Math.min(PER_DIRECTORY, files - made))
        if (n % 100 === 99) process.stderr.write(`${made + PER_DIRECTORY} files, ${await memory(mount)}\n`)
      }
    })
    console.log(`create: ${Math.round(files / created)} files/s, ${await memory(mount)}`)
    await mount.unmount()
    const bytes = bytesOnDisk(mount.store!) - before
    console.log(`disk: ${(bytes / files).toFixed(0)} bytes a file (index ${(statSync(join(mount.store!, 'index.db')).size / files).toFixed(0)})`)
    await must('sync', [])
    await must('/bin/sh', ['-c', 'echo 3 > /proc/sys/vm/drop_caches'])
    console.log(`mount ready, cold caches: ${(await timed(() => mount.mount())).toFixed(2)} s (the command, from start to end), ${await memory(mount)}`)
    const ls = await firstOutput('ls', ['-f', join(mount.dir, 'big')])
    console.log(`ls -f of ${ls.lines - 2} files: first output ${(ls.first * 1000).toFixed(0)} ms, all ${(ls.all * 1000).toFixed(0)} ms, ${await memory(mount)}`)
    const find = await firstOutput('find', [mount.dir, '-printf', '%s\n'])
    console.log(`find with stat of all ${find.lines}: ${find.all.toFixed(1)} s, ${await memory(mount)}`)
    console.log(`remount, warm caches: ${(await timed(() => mount.remount())).toFixed(2)} s`)
  } finally {
    await mount.close()
  }
}

main().catch((e: unknown) => {
  console.error(e instanceof Error ? e.message : String(e))
  process.exitCode = 1
})
