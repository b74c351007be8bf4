/** A store that is damaged, or newer than this dfs: one line that says so, the files that are well stay readable, and no wrong byte is ever given. */
import test, { type Assert } from 'brittle'
import Sqlite from 'better-sqlite3'
import { randomBytes } from 'node:crypto'
import { closeSync, cpSync, existsSync, fstatSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { open, readdir, stat, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { isAlive, isMounted, kill, makeMount, withMount, withStore, type TestMount } from '../helpers/mount.js'
import { errnoOf, refused } from '../helpers/refused.js'
import { sleep } from '../helpers/run.js'

const LONG = { timeout: 120_000 }
/** More than what is kept in the index. */
const FILE_BYTES = 300_000

interface Place { segment: string; offset: number; length: number }

/** Where the bytes of an inode lie; the store must be at rest. */
function placesOf(m: TestMount, ino: number): Place[] {
  const db = new Sqlite(join(m.store!, 'index.db'), { readonly: true })
  try {
    const rows = db.prepare('SELECT DISTINCT c.seg, c.off, c.len FROM extent e JOIN chunk c ON c.num = e.chunk WHERE e.ino = ? ORDER BY e.off').all(ino) as { seg: number; off: number; len: number }[]
    return rows.map((r) => ({ segment: join(m.store!, 'segments', `${String(r.seg).padStart(8, '0')}.seg`), offset: r.off, length: r.len }))
  } finally {
    db.close()
  }
}

function flip(path: string, at: number): void {
  const fd = openSync(path, 'r+')
  const byte = Buffer.alloc(1)
  readSync(fd, byte, 0, 1, at)
  byte[0]! ^= 1
  writeSync(fd, byte, 0, 1, at)
  closeSync(fd)
}

interface TwoFiles { store: string; contents: Record<'first' | 'second', Buffer>; inos: Record<'first' | 'second', number> }
let made: TwoFiles | undefined
const kept = mkdtempSync(join(tmpdir(), 'dfs-two-files-'))
process.on('exit', () => rmSync(kept, { recursive: true, force: true }))

/** A drive with two files, and its store at rest: a copy, for each test, of one that was written through a mount. */
async function twoFiles(t: Assert): Promise<{ m: TestMount } & Omit<TwoFiles, 'store'>> {
  made ??= await writeTwoFiles()
  const { store, contents, inos } = made
  return { m: withStore(t, store), contents, inos }
}

async function writeTwoFiles(): Promise<TwoFiles> {
  const m = await makeMount()
  try {
    return await fillTwoFiles(m)
  } finally {
    await m.close()
  }
}

async function fillTwoFiles(m: TestMount): Promise<TwoFiles> {
  const contents = { first: randomBytes(FILE_BYTES), second: randomBytes(FILE_BYTES) }
  for (const [name, content] of Object.entries(contents)) {
    await writeFile(join(m.dir, name), content)
    const handle = await open(join(m.dir, name), 'r')
    await handle.sync()
    await handle.close()
  }
  const inos = { first: (await stat(join(m.dir, 'first'))).ino, second: (await stat(join(m.dir, 'second'))).ino }
  await m.unmount()
  const store = join(kept, 'store')
  // Without the blocks that are kept back, which opening makes anew.
  cpSync(m.store!, store, { recursive: true, filter: (path) => !basename(path).startsWith('reserve') })
  return { store, contents, inos }
}

/** Reads to the end or the error; fs.promises.readFile takes a read that ends before a damaged page for the end. */
async function readFile(path: string): Promise<Buffer> {
  return readFileSync(path)
}

interface FsckJson { problems: { kind: string; path?: string; detail: string }[] }

/** Exit code and what it found. */
async function fsck(m: TestMount, ...args: string[]): Promise<[number, FsckJson['problems']]> {
  const { code, stdout, stderr } = await m.dfs('fsck', '--json', ...args)
  if (stderr !== '') throw new Error(`fsck: ${stderr}`)
  return [code, (JSON.parse(stdout) as FsckJson).problems]
}

test('a flipped byte in a segment: EIO on that file alone, and fsck --data names it', LONG, async (t) => {
  const { m, contents, inos } = await twoFiles(t)
  const [place] = placesOf(m, inos.first)
  flip(place!.segment, place!.offset + 1000)
  await m.mount()
  t.is((await fsck(m))[0], 0, 'without --data nothing is read')
  t.is(await errnoOf(readFile(join(m.dir, 'first'))), 'EIO')
  t.ok((await readFile(join(m.dir, 'second'))).equals(contents.second))
  t.is((await stat(join(m.dir, 'first'))).size, FILE_BYTES)
  t.alike((await fsck(m))[1].map((p) => [p.kind, p.path]), [['chunk-damaged', '/first']], 'what a reader has found is known')
  const [code, problems] = await fsck(m, '--data')
  t.is(code, 5)
  t.alike(problems.map((p) => [p.kind, p.path]), [['chunk-damaged', '/first']])
  const text = await m.dfs('fsck', '--data')
  t.is(text.code, 5)
  t.ok(/^chunk-damaged: \/first: /m.test(text.stdout), text.stdout)
  t.is(refused(await m.dfs('get', '/first', join(m.scratch, 'out')))[0], 1)
  t.absent(existsSync(join(m.scratch, 'out')), 'nothing half is left')

  await writeFile(join(m.dir, 'first'), contents.second)
  t.ok((await readFile(join(m.dir, 'first'))).equals(contents.second), 'written anew it is well')
  await m.dfs('gc')
  t.is((await fsck(m, '--data'))[0], 0)
})

for (const [what, harm] of [
  ['a truncated segment', (p: Place) => truncateSync(p.segment, p.offset + Math.floor(p.length / 2))],
  ['a missing segment', (p: Place) => rmSync(p.segment)],
  ['an empty segment', (p: Place) => truncateSync(p.segment, 0)],
] as const) {
  test(`${what}: EIO on the files in it, fsck names them, writing goes on`, LONG, async (t) => {
    const { m, contents, inos } = await twoFiles(t)
    harm(placesOf(m, inos.second).at(-1)!)
    const isWhole = new Set(['first', 'second'].filter((name) => placesOf(m, inos[name as 'first']).every((p) => existsSync(p.segment) && p.offset + p.length + 16 <= statSync(p.segment).size)))
    await m.mount()
    for (const name of ['first', 'second'] as const) {
      if (isWhole.has(name)) t.ok((await readFile(join(m.dir, name))).equals(contents[name]), name)
      else t.is(await errnoOf(readFile(join(m.dir, name))), 'EIO', name)
    }
    const [code, problems] = await fsck(m)
    t.is(code, 5)
    t.alike([...new Set(problems.map((p) => p.path))].sort(), ['/first', '/second'].filter((p) => !isWhole.has(p.slice(1))))
    t.ok(problems.every((p) => p.kind === 'chunk-missing'), JSON.stringify(problems))

    const third = randomBytes(FILE_BYTES)
    await writeFile(join(m.dir, 'third'), third)
    await m.remount()
    t.ok((await readFile(join(m.dir, 'third'))).equals(third), 'what is written now is kept')
    for (const name of ['first', 'second'] as const) if (!isWhole.has(name)) t.is(await errnoOf(readFile(join(m.dir, name))), 'EIO', `${name} still is no wrong byte`)
    await Promise.all(['first', 'second'].map((name) => unlink(join(m.dir, name))))
    await m.remount() // no handle and no memory of the kernel keeps them
    await m.dfs('gc')
    t.alike(await fsck(m, '--data'), [0, []], 'without them it is sound')
  })
}

test('a segment header that is damaged costs nothing', LONG, async (t) => {
  const { m, contents, inos } = await twoFiles(t)
  flip(placesOf(m, inos.first)[0]!.segment, 20)
  await m.mount()
  t.ok((await readFile(join(m.dir, 'first'))).equals(contents.first))
  await writeFile(join(m.dir, 'third'), contents.second)
  t.is((await fsck(m, '--data'))[0], 0)
})

for (const [what, bump, exitCode] of [
  ['index', (store: string) => {
    const db = new Sqlite(join(store, 'index.db'))
    db.exec(`UPDATE meta SET value = value + 1 WHERE key = 'index_version'`)
    db.close()
  }, 1],
  ['key file', (store: string) => {
    const file = JSON.parse(readFileSync(join(store, 'keys'), 'utf8')) as { version: number }
    writeFileSync(join(store, 'keys'), JSON.stringify({ ...file, version: file.version + 1 }))
  }, 1],
  ['segment', (store: string) => {
    const [name] = readdirSync(join(store, 'segments')).filter((f) => f.endsWith('.seg'))
    flip(join(store, 'segments', name!), 9)
  }, 1],
] as const) {
  test(`a store whose ${what} has a newer format is left alone`, LONG, async (t) => {
    const { m } = await twoFiles(t)
    bump(m.store!)
    const before = snapshot(m.store!)
    for (const args of [['ls'], ['fsck'], ['mount', m.dir], ['key']]) {
      const [code, message] = refused(await m.dfs(...args))
      t.is(code, exitCode, args[0])
      t.ok(/; update dfs$/.test(message), message)
    }
    const [code] = refused(await m.dfs('create'))
    t.is(code, 1)
    t.alike(snapshot(m.store!), before, 'not a byte of it has changed')
  })
}

/** What matters of a store: its files and their contents. */
function snapshot(store: string): Record<string, string> {
  const files = readdirSync(store, { recursive: true, encoding: 'utf8' }).filter((f) => /keys$|index\.db$|\.seg$/.test(f))
  return Object.fromEntries(files.map((f) => [f, readFileSync(join(store, f)).toString('base64').slice(0, 200_000)]))
}

for (const [what, harm] of [
  ['cut short', (path: string) => truncateSync(path, Math.floor(statSync(path).size / 2 / 4096) * 4096)],
  ['emptied', (path: string) => truncateSync(path, 0)],
  ['overwritten at its beginning', (path: string) => overwrite(path, 0, 4096)],
  ['overwritten in the middle', (path: string) => overwrite(path, 4096, statSync(path).size - 4096)],
  ['gone', (path: string) => rmSync(path)],
] as const) {
  test(`an index that is ${what}: damage, said in one line`, LONG, async (t) => {
    const { m } = await twoFiles(t)
    for (const suffix of ['-wal', '-shm']) rmSync(join(m.store!, `index.db${suffix}`), { force: true })
    harm(join(m.store!, 'index.db'))
    for (const args of [['ls', '/'], ['mount', m.dir], ['status']]) {
      const [code, message] = refused(await m.dfs(...args))
      t.is(code, 5, `${args[0]}: ${message}`)
      t.ok(message.includes('; '), message)
    }
    const { code, stdout, stderr } = await m.dfs('fsck')
    t.is(code, 5, `fsck: ${stdout}${stderr}`)
    t.absent(/run dfs fsck/.test(stderr), `fsck does not send us to fsck: ${stderr}`)
  })
}

function overwrite(path: string, from: number, to: number): void {
  const fd = openSync(path, 'r+')
  const noise = randomBytes(Math.max(0, to - from))
  writeSync(fd, noise, 0, noise.length, from)
  closeSync(fd)
}

// A page deep inside: noticed when it is used, or by fsck, and then the mount can still be taken away.
test('an index with a damaged page somewhere: fsck says so, unmount works', LONG, async (t) => {
  const m = await withMount(t)
  for (let i = 0; i < 600; i++) await writeFile(join(m.dir, `file with a name of some length ${i}`), `${i}`)
  await m.unmount()
  const path = join(m.store!, 'index.db')
  const db = new Sqlite(path, { readonly: true })
  const { pageno } = db.prepare(`SELECT pageno FROM dbstat WHERE name = 'dentry' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 2`).get() as { pageno: number }
  db.close()
  overwrite(path, (pageno - 1) * 4096, pageno * 4096)
  const checked = await m.dfs('fsck')
  t.is(checked.code, 5, checked.stdout + checked.stderr)
  t.absent(/should not have happened/.test(checked.stderr), checked.stderr)
  const [code, message] = refused(await m.dfs('ls', '/'))
  t.is(code, 5, message)
  await m.mount()
  t.is(await errnoOf(readdir(m.dir)), 'EIO')
  // What could not be flushed is told; the mount goes all the same.
  const unmounted = await m.dfs('unmount', m.dir)
  t.ok(unmounted.code === 0 || refused(unmounted)[1].includes('; '), unmounted.stderr)
  t.absent(isMounted(m.dir))
})

// Deduplication takes the damaged chunk for the content.
test('writing the lost content again brings it back', LONG, async (t) => {
  const { m, contents, inos } = await twoFiles(t)
  rmSync(placesOf(m, inos.first)[0]!.segment)
  await m.mount()
  await writeFile(join(m.dir, 'again'), contents.first)
  const handle = await open(join(m.dir, 'again'), 'r')
  await handle.sync()
  await handle.close()
  await m.remount()
  t.ok(readFileSync(join(m.dir, 'again')).equals(contents.first))
})

// Killed in create, between the index and the keys: neither open nor create again.
test('a create that was cut short can be run again', LONG, async (t) => {
  const m = await withMount(t)
  await m.unmount()
  // As it is before its last two steps: the key file, and the note that all is done.
  rmSync(join(m.store!, 'keys'))
  const db = new Sqlite(join(m.store!, 'index.db'))
  db.prepare(`DELETE FROM meta WHERE key = 'finished'`).run()
  db.close()
  rmSync(join(m.store!, 'segments'), { recursive: true })
  const again = await m.dfs('create')
  t.is(again.code, 0, again.stderr)
})

// Killed sooner: the index has no tables yet.
test('a create or a join that was cut short before anything was in the index can be run again, or a mount', LONG, async (t) => {
  const from = await withMount(t)
  const key = (await from.dfs('key')).stdout.trim()
  const blank = join(from.scratch, 'blank.db')
  const db = new Sqlite(blank)
  db.pragma('journal_mode = WAL')
  db.close()
  t.ok(statSync(blank).size > 0)
  for (const make of [(index: string) => writeFileSync(index, ''), (index: string) => cpSync(blank, index)]) {
    for (const args of [['create'], ['join', key], ['mount', 'mnt']]) {
      const dir = mkdtempSync(join(from.scratch, 'cut-'))
      const m = withStore(t, dir)
      make(join(m.store!, 'index.db'))
      const again = await m.dfs(...args.map((arg) => (arg === 'mnt' ? m.dir : arg)))
      t.is(again.code, 0, `${args[0]}: ${again.stderr}`)
    }
  }
  const m = withStore(t, mkdtempSync(join(from.scratch, 'cut-')))
  writeFileSync(join(m.store!, 'index.db'), '')
  mkdirSync(join(m.store!, 'segments'))
  t.ok(/damaged|cannot be read/.test(refused(await m.dfs('create'))[1]), 'what has content is not thrown away')
})

test('a key file that is gone, or not one', LONG, async (t) => {
  const { m } = await twoFiles(t)
  writeFileSync(join(m.store!, 'keys'), '{"format":"dfs-key-')
  for (const args of [['ls'], ['mount', m.dir]]) {
    const [code, message] = refused(await m.dfs(...args))
    t.is(code, 5, message)
    t.ok(message.includes('; '), message)
  }
  rmSync(join(m.store!, 'keys'))
  for (const args of [['ls'], ['mount', m.dir], ['create']]) {
    const [code, message] = refused(await m.dfs(...args))
    t.not(code, 0)
    t.ok(/key|drive/.test(message), message)
  }
  t.absent(existsSync(join(m.store!, 'keys')), 'no new key is put beside the data of another')
})

test('the key file of another drive', LONG, async (t) => {
  const { m } = await twoFiles(t)
  const other = await withMount(t)
  await other.unmount()
  cpSync(join(other.store!, 'keys'), join(m.store!, 'keys'))
  const [code, message] = refused(await m.dfs('ls'))
  t.is(code, 5)
  t.ok(/different drives; /.test(message), message)
})

test('the end of the write-ahead log is garbage: what was before it is there', LONG, async (t) => {
  const m = await withMount(t)
  const content = randomBytes(FILE_BYTES)
  await writeFile(join(m.dir, 'early'), content)
  const root = await open(m.dir, 'r')
  await root.sync()
  const wal = join(m.store!, 'index.db-wal')
  const before = usedBytes(wal)
  for (let i = 0; i < 50; i++) await writeFile(join(m.dir, `late${i}`), 'x'.repeat(100))
  await root.close()
  // Their commit comes within a second or two; an fsync would not wait for it.
  for (let i = 0; i < 100 && usedBytes(wal) <= before + 8192; i++) await sleep(50)
  const pid = await m.pid()
  kill(pid)
  while (isAlive(pid)) await sleep(10)
  const used = usedBytes(wal)
  t.ok(used > before + 8192, 'the log has grown')
  overwrite(wal, before + Math.floor((used - before) / 2), used)
  await m.mount()
  t.ok((await readFile(join(m.dir, 'early'))).equals(content))
  t.is((await fsck(m, '--data'))[0], 0)
})

/** To the last byte that is not zero: the log is written ahead with zeros. */
function usedBytes(path: string): number {
  const fd = openSync(path, 'r')
  const bytes = Buffer.alloc(fstatSync(fd).size)
  readSync(fd, bytes, 0, bytes.length, 0)
  closeSync(fd)
  let end = bytes.length
  while (end > 0 && bytes[end - 1] === 0) end--
  return end
}
