/**
 * Nothing readable at rest: what programs write, name, link and attach is looked
 * for in every byte that the daemon keeps on a disk, while it runs, after a kill
 * and after an unmount.
 */
import test from 'brittle'
import Database from 'better-sqlite3'
import { randomBytes } from 'node:crypto'
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, readlinkSync, renameSync, statSync, symlinkSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { bytesOnDisk, isAlive, kill, withMount, type TestMount } from '../helpers/mount.js'
import { must, need, sleep } from '../helpers/run.js'
import { random } from '../helpers/tree.js'

const timeout = 300_000
/** Chance finds one of a million such runs in a gigabyte of noise once in 17,000 tests. */
const WINDOW_BYTES = 8
const READ_BYTES = 4 * 1024 * 1024

/** Finds any WINDOW_BYTES of any secret, at any offset. */
class Secrets {
  readonly #rand: () => number
  readonly #windows = new Set<string>()
  /** Bit i: some window's first 24 bits are i. Most bytes of noise fail here. */
  readonly #prefixes = new Uint8Array(1 << 21)

  constructor(seed: number) {
    this.#rand = random(seed)
  }

  /** Text that no program or format contains by itself, and that compresses well enough to tempt someone. */
  text(length: number): string {
    let out = ''
    while (out.length < length) out += String.fromCharCode(97 + Math.floor(this.#rand() * 26))
    this.add(Buffer.from(out))
    return out
  }

  add(bytes: Buffer): void {
    for (let i = 0; i + WINDOW_BYTES <= bytes.length; i++) {
      this.#windows.add(bytes.toString('latin1', i, i + WINDOW_BYTES))
      const prefix = bytes.readUIntLE(i, 3)
      this.#prefixes[prefix >> 3]! |= 1 << (prefix & 7)
    }
  }

  /** Where the first one is in an open file, or undefined. */
  findIn(fd: number): { offset: number; text: string } | undefined {
    const buffer = Buffer.alloc(READ_BYTES + WINDOW_BYTES)
    for (let at = 0; ; at += READ_BYTES) {
      const n = readSync(fd, buffer, 0, buffer.length, at)
      for (let i = 0, prefix = 0; i + WINDOW_BYTES <= n; i++) {
        prefix = buffer[i]! | buffer[i + 1]! << 8 | buffer[i + 2]! << 16
        if (!(this.#prefixes[prefix >> 3]! & 1 << (prefix & 7))) continue
        const text = buffer.toString('latin1', i, i + WINDOW_BYTES)
        if (this.#windows.has(text)) return { offset: at + i, text }
      }
      if (n < buffer.length) return undefined
    }
  }
}

/** Every regular file in the store, and every other one that the daemon has open outside its mount: names, and files already unlinked. */
function keptFiles(mount: TestMount, pid: number | undefined): string[] {
  const walk = (dir: string): string[] => readdirSync(dir, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? walk(join(dir, e.name)) : e.isFile() ? [join(dir, e.name)] : []))
  const kept = walk(mount.store!)
  if (pid === undefined) return kept
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const link = `/proc/${pid}/fd/${fd}`
    try {
      // Opening one of the mount's own files here would be the daemon waiting for itself, were it to do so.
      if (readlinkSync(link).startsWith(`${mount.dir}/`) || !statSync(link).isFile()) continue
      kept.push(link)
    } catch { /* closed meanwhile */ }
  }
  return kept
}

/** '' or what was found where. */
function search(secrets: Secrets, mount: TestMount, pid: number | undefined): string {
  let bytes = 0
  for (const path of keptFiles(mount, pid)) {
    let fd: number
    try {
      fd = openSync(path, 'r')
    } catch {
      continue // a temporary file that is gone
    }
    try {
      bytes += fstatSync(fd).size
      const found = secrets.findIn(fd)
      if (found) return `${path} has ${JSON.stringify(found.text)} at ${found.offset}`
    } finally {
      closeSync(fd)
    }
  }
  return bytes === 0 ? 'nothing was searched' : ''
}

test('no 8 bytes of contents, names, targets or attributes are readable in the store', { timeout }, async (t) => {
  need(['setfattr', 'attr'])
  const mount = await withMount(t)
  const secrets = new Secrets(1)
  const pid = await mount.pid()
  const plain = (name: string) => join(mount.dir, name)

  const folder = secrets.text(60)
  mkdirSync(plain(folder))
  const inFolder = (length: number) => join(mount.dir, folder, secrets.text(length))
  writeFileSync(inFolder(20), secrets.text(10))
  writeFileSync(inFolder(200), secrets.text(4000))
  const chunked = inFolder(30)
  writeFileSync(chunked, secrets.text(500_000))
  symlinkSync(secrets.text(3000), inFolder(12))
  await must('setfattr', ['-n', `user.${secrets.text(30)}`, '-v', secrets.text(2000), chunked])
  await must('setfattr', ['-n', `trusted.${secrets.text(30)}`, '-v', secrets.text(40), join(mount.dir, folder)])
  renameSync(chunked, inFolder(100))

  // Neither synced nor named any more, and more than a process likes to keep in memory.
  const unlinked = openSync(inFolder(25), 'w+')
  const repeated = Buffer.from(secrets.text(256 * 1024))
  for (let i = 0; i < 512; i++) {
    repeated.writeUInt32LE(i, 0) // each piece its own chunks
    writeSync(unlinked, repeated)
    if (i % 256 === 255) t.is(search(secrets, mount, pid), '', `while ${(i + 1) / 4} MiB are being written`)
  }
  unlinkSync(readlinkSync(`/proc/self/fd/${unlinked}`))
  await must('sync', ['-f', mount.dir])
  t.is(search(secrets, mount, pid), '', 'with an open file that has no name')
  closeSync(unlinked)

  kill(pid)
  while (isAlive(pid)) await sleep(10)
  t.is(search(secrets, mount, undefined), '', 'after a kill')
  await mount.mount()
  await mount.unmount()
  t.is(search(secrets, mount, undefined), '', 'after an unmount')
  await mount.mount()

  t.ok(readdirSync(mount.dir).includes(folder), 'and the drive still has it all')
  const canary = join(mount.store!, 'canary')
  writeFileSync(canary, `${'x'.repeat(5000)}${folder.slice(7, 15)}`)
  t.ok(search(secrets, mount, undefined).includes('at 5000'), 'the search finds what is there')
  unlinkSync(canary)
})

/** Hex of the ids (and keyed content hashes) of all chunks; the store must not be open. */
function chunksOf(mount: TestMount): { ids: string[]; hashes: string[] } {
  const db = new Database(join(mount.store!, 'index.db'), { readonly: true })
  try {
    const rows = db.prepare('SELECT hex(id) AS id, hex(h) AS h FROM chunk').all() as { id: string; h: string }[]
    return { ids: rows.map((r) => r.id), hashes: rows.map((r) => r.h) }
  } finally {
    db.close()
  }
}

test('two drives share no chunk id and no content hash for equal content', { timeout }, async (t) => {
  const content = Buffer.concat([randomBytes(3_000_000), Buffer.alloc(2_000_000), Buffer.from('the same text\n'.repeat(50_000))])
  const found = []
  for (let i = 0; i < 2; i++) {
    const mount = await withMount(t)
    writeFileSync(join(mount.dir, 'same'), content)
    writeFileSync(join(mount.dir, 'small'), 'the same small file')
    await mount.unmount()
    found.push(chunksOf(mount))
  }
  const [one, two] = found as [{ ids: string[]; hashes: string[] }, { ids: string[]; hashes: string[] }]
  t.ok(one.ids.length > 10, `${one.ids.length} chunks`)
  t.ok(two.ids.length > 10, 'and as many there, cut at other places: the gear table is keyed too')
  t.alike(one.ids.filter((id) => two.ids.includes(id)), [], 'ids')
  t.alike(one.hashes.filter((h) => two.hashes.includes(h)), [], 'content hashes')
})

test('equal content in one drive is stored once', { timeout }, async (t) => {
  const mount = await withMount(t)
  const content = randomBytes(16 * 1024 * 1024)
  const segments = () => bytesOnDisk(join(mount.store!, 'segments'))
  const write = async (name: string, data: Buffer) => {
    writeFileSync(join(mount.dir, name), data)
    await must('sync', ['-f', mount.dir])
  }
  await write('first', content)
  await mount.remount()
  const once = segments()
  for (let i = 0; i < 5; i++) await write(`copy-${i}`, content)
  // Moved by some bytes: content-defined cuts find the same chunks again.
  await write('moved', Buffer.concat([Buffer.from('a few bytes in front'), content]))
  await mount.remount()
  const grown = segments() - once
  t.comment(`16 MiB once: ${once} bytes of segments; five copies and one moved by 20 bytes: ${grown} more`)
  t.ok(once >= content.length, 'the first is there')
  t.ok(grown < content.length / 10, `six more cost ${grown} bytes`)
  t.ok(readFileSync(join(mount.dir, 'copy-4')).equals(content))
})
