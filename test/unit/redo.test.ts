/** What an fsync puts into the redo file, and what an open takes from it. The power is cut by putting an older index beside it. */
import Sqlite from 'better-sqlite3'
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { copyFileSync, cpSync, mkdirSync, openSync, readFileSync, rmSync, writeSync, closeSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { Drive } from '../../lib/drive.js'
import { REDO_HALF_BYTES } from '../../lib/limits.js'
import { INDEX_VERSION } from '../../lib/store/database.js'
import { S_IFREG } from '../../lib/tree/inode.js'
import { scratchDir } from '../helpers/scratch.js'

const OWNER = { uid: 0, gid: 0 }

/** A drive, and a folder into which its index is copied as the last sync of it left it. */
async function drive(t: Assert) {
  const dir = scratchDir(t)
  const store = join(dir, 'store')
  const opened: Drive[] = []
  t.teardown(async () => { for (const d of opened) await d.close() }, { order: 1, force: true })
  const open = async (path = store) => {
    const d = existsSync(join(path, 'keys')) ? await Drive.open(path) : await Drive.create(path)
    opened.push(d)
    return d
  }
  const kept = join(dir, 'kept')
  mkdirSync(kept)
  return {
    store, open,
    /** The index as it is on the disk now. */
    keep: () => { for (const f of ['index.db', 'index.db-wal']) copyFileSync(join(store, f), join(kept, f)) },
    /** The store as a power cut leaves it that took all of the index since `keep`. */
    cut: async (name: string) => {
      const path = join(dir, name)
      cpSync(store, path, { recursive: true, filter: (f) => !/index\.db|lock/.test(f) })
      for (const f of ['index.db', 'index.db-wal']) copyFileSync(join(kept, f), join(path, f))
      return path
    },
  }
}

function make(d: Drive, name: string) {
  const made = d.posix.make(d.rootIno, Buffer.from(name), S_IFREG | 0o644, 0, OWNER)
  if (made instanceof Promise || typeof made === 'string') throw new Error(String(made))
  return made
}

async function contentOf(d: Drive, path: string): Promise<Buffer> {
  const handle = await d.open(path)
  try { return await handle.read(0, (await handle.stat()).size) } finally { await handle.close() }
}

async function namesIn(d: Drive): Promise<string[]> {
  const names: string[] = []
  for await (const e of d.opendir('/')) names.push(e.name.toString())
  return names.sort()
}

/** Writes at the end of the file and fsyncs. */
async function append(d: Drive, inode: ReturnType<typeof make>, data: Buffer): Promise<void> {
  await d.files.write(inode, inode.size, data)
  await d.posix.fsync(inode)
}

test('what was fsynced since the last durable commit comes back, in order, once', async (t) => {
  const { open, keep, cut } = await drive(t)
  const d = await open()
  const early = make(d, 'early')
  await append(d, early, Buffer.from('early'))
  await d.journal.settle()
  keep()
  const commits = d.log.head(1).seq
  const contents = new Map<string, Buffer>([['early', Buffer.from('early')]])
  for (const [name, bytes] of [['small', 100], ['page', 4096], ['large', 300_000]] as const) {
    const inode = make(d, name)
    const data = randomBytes(bytes)
    contents.set(name, data)
    await append(d, inode, data)
  }
  // Equal content is named, not stored again.
  await append(d, make(d, 'twin'), contents.get('page')!)
  contents.set('twin', contents.get('page')!)
  await append(d, early, Buffer.from(' and late'))
  contents.set('early', Buffer.from('early and late'))
  await d.posix.rename(d.rootIno, Buffer.from('small'), d.rootIno, Buffer.from('renamed'), 0)
  await d.posix.unlink(d.rootIno, Buffer.from('large'), false)
  await d.posix.setXattr(early.ino, Buffer.from('user.x'), Buffer.from('value'), 0, false)
  await d.posix.fsync(early)
  contents.set('renamed', contents.get('small')!)
  contents.delete('small')
  contents.delete('large')
  t.is(d.log.head(1).seq, commits, 'without a commit')
  // Not promised, and therefore gone.
  make(d, 'unpromised')

  const path = await cut('cut')
  for (let i = 0; i < 2; i++) {
    const again = await open(path)
    t.alike(await namesIn(again), [...contents.keys()].sort())
    for (const [name, data] of contents) t.ok((await contentOf(again, `/${name}`)).equals(data), name)
    const inode = again.posix.lookup(again.rootIno, Buffer.from('early'))
    t.is(typeof inode === 'string' ? inode : again.tree.getXattr(inode, Buffer.from('user.x'))?.toString(), 'value')
    t.alike((await again.fsck({ data: true })).problems, [])
    const fresh = make(again, `fresh${i}`)
    t.is([...contents.keys(), 'large'].some((n) => again.posix.lookup(again.rootIno, Buffer.from(n)) === fresh), false)
    await append(again, fresh, Buffer.from('fresh'))
    contents.set(`fresh${i}`, Buffer.from('fresh'))
    await again.close()
  }
})

test('more than both halves hold: commits follow, and nothing of it is lost', { timeout: 120_000 }, async (t) => {
  const { open, keep, cut } = await drive(t)
  const d = await open()
  const inode = make(d, 'f')
  await d.journal.settle()
  keep()
  const before = d.log.head(1).seq
  // Commits become durable behind the writer's back; the index that a cut leaves is never older than those.
  d.journal.onDurable = keep
  const data = randomBytes(4096)
  const rounds = Math.ceil(REDO_HALF_BYTES / 8192) * 3
  for (let i = 0; i < rounds; i++) {
    data.writeUInt32LE(i)
    await append(d, inode, data)
  }
  const commits = d.log.head(1).seq - before
  t.ok(commits > 0 && commits < rounds / 2, `${commits} commits`)
  const again = await open(await cut('cut'))
  const found = await contentOf(again, '/f')
  t.is(found.length, rounds * 4096)
  for (let i = 0; i < rounds; i++) if (found.readUInt32LE(i * 4096) !== i) t.fail(`block ${i}`)
})

test('after a change that is no op, an fsync commits', async (t) => {
  const { open } = await drive(t)
  const d = await open()
  const inode = make(d, 'f')
  await append(d, inode, Buffer.from('a'))
  const before = d.log.head(1).seq
  await append(d, inode, Buffer.from('b'))
  t.is(d.log.head(1).seq, before)
  d.posix.makeUnlinked(d.rootIno, S_IFREG | 0o600, 0, OWNER)
  await append(d, inode, Buffer.from('c'))
  t.is(d.log.head(1).seq, before + 1)
})

test('a torn record ends the file; records of another session are not taken', async (t) => {
  const { open, keep, cut, store } = await drive(t)
  const d = await open()
  const inode = make(d, 'f')
  await append(d, inode, Buffer.from('0'))
  await d.journal.settle()
  keep()
  for (const c of ['1', '2', '3']) await append(d, inode, Buffer.from(c))
  const torn = await cut('torn')
  const fd = openSync(join(torn, 'redo'), 'r+')
  writeSync(fd, Buffer.alloc(1, 255), 0, 1, 2 * 4096 + 100)
  closeSync(fd)
  t.is((await contentOf(await open(torn), '/f')).toString(), '012')

  const other = await cut('other')
  rmSync(join(other, 'redo'))
  const d2 = await open(other)
  const found = d2.posix.lookup(d2.rootIno, Buffer.from('f'))
  if (typeof found === 'string') throw new Error(found)
  await append(d2, found, Buffer.from('x'))
  await d2.close()
  copyFileSync(join(store, 'redo'), join(other, 'redo'))
  t.is((await contentOf(await open(other), '/f')).toString(), '0x')
})

test('an index of version 1 is taken over; one of a later version is refused', async (t) => {
  const { open, store } = await drive(t)
  const d = await open()
  await append(d, make(d, 'f'), Buffer.from('content'))
  await d.close()
  // As version 1 was.
  const sql = new Sqlite(join(store, 'index.db'))
  sql.exec(`ALTER TABLE dentry DROP COLUMN op; DROP TABLE orphan; CREATE TABLE orphan(ino INTEGER PRIMARY KEY);
    ${['alias', 'conflict', 'author', 'placed', 'seen', 'device'].map((t) => `DROP TABLE ${t};`).join(' ')} UPDATE meta SET value = 1 WHERE key = 'index_version'`)
  sql.close()
  const again = await open()
  t.is((await contentOf(again, '/f')).toString(), 'content')
  t.is(again.db.getMeta('index_version'), INDEX_VERSION)
  again.db.setMeta('index_version', INDEX_VERSION + 1)
  again.journal.touched()
  await again.close()
  await t.exception(async () => { await Drive.open(store) }, /update dfs/)
})

test('nothing in the redo file is readable', async (t) => {
  const { open, store } = await drive(t)
  const d = await open()
  const inode = make(d, 'secret-name')
  await append(d, inode, Buffer.from('x'))
  await append(d, make(d, 'another-secret'), Buffer.from('plain words'.repeat(20)))
  const file = readFileSync(join(store, 'redo'))
  t.ok(file.includes('DFSR'), 'something is there')
  for (const text of ['secret', 'plain words']) t.absent(file.includes(text), text)
})
