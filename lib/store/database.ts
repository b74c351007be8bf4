/**
 * The index: one SQLite database in WAL mode, shared by tree, log and store.
 *
 * Durability (DESIGN 5): this connection is the only writer. COMMIT runs at
 * synchronous=NORMAL, which writes the WAL but does not sync it; `syncWal`
 * fdatasyncs the WAL off the event loop, and only then is an fsync answered.
 * Automatic checkpoints are off: a worker with a connection of its own makes
 * them (store/checkpoint.ts).
 *
 * Nothing in it is readable without the keys but sizes, modes, owners and times.
 */
import Sqlite from 'better-sqlite3'
import { closeSync, existsSync, fdatasync, fdatasyncSync, fstatSync, fsyncSync, openSync, readSync, statfsSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { fail, isDfsError } from '../errors.js'

export type Db = Sqlite.Database
export type Statement = Sqlite.Statement<unknown[], unknown>

/**
 * Bumped when an older dfs could misread the index. 2: what was made durable last may be in the redo file beside it.
 * 3: names and removals are marked with their ops, so that other devices' can be merged. 4: what was is kept for a while.
 */
export const INDEX_VERSION = 4

const SCHEMA = `
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Who numbers inodes: ino = idx * 2^32 + counter. Index 0 holds the root alone.
CREATE TABLE incarnation(idx INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, device BLOB NOT NULL);

-- parent: of directories '..'; of others where the last name was given, 0 if not known.
-- version: id of the op that last changed the content.
CREATE TABLE inode(ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, nlink INTEGER NOT NULL, uid INTEGER NOT NULL,
  gid INTEGER NOT NULL, rdev INTEGER NOT NULL, size INTEGER NOT NULL, parent INTEGER NOT NULL, version INTEGER NOT NULL,
  atime INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  ctime INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, flags INTEGER NOT NULL, bytes INTEGER NOT NULL);

-- op: who placed the name, negative if by moving; 0: before the drive was shared.
CREATE TABLE dentry(parent INTEGER NOT NULL, key BLOB NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL,
  op INTEGER NOT NULL, PRIMARY KEY(parent, key)) WITHOUT ROWID;

CREATE TABLE extent(ino INTEGER NOT NULL, off INTEGER NOT NULL, len INTEGER NOT NULL, chunk INTEGER NOT NULL,
  coff INTEGER NOT NULL, PRIMARY KEY(ino, off)) WITHOUT ROWID;

-- id: BLAKE3 of the sealed bytes; h: keyed hash of the plaintext; h48: its first 48 bits, which keep the index small.
-- seg 0: the sealed bytes are in chunk_inline.
CREATE TABLE chunk(num INTEGER PRIMARY KEY, h48 INTEGER NOT NULL, len INTEGER NOT NULL,
  refs INTEGER NOT NULL, seg INTEGER NOT NULL, off INTEGER NOT NULL, id BLOB NOT NULL, h BLOB NOT NULL);
CREATE INDEX chunk_h ON chunk(h48);
CREATE INDEX chunk_dead ON chunk(num) WHERE refs = 0;
CREATE TABLE chunk_inline(num INTEGER PRIMARY KEY, data BLOB NOT NULL);

CREATE TABLE xattr(ino INTEGER NOT NULL, key BLOB NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY(ino, key)) WITHOUT ROWID;
CREATE TABLE symlink(ino INTEGER PRIMARY KEY, target BLOB NOT NULL);

CREATE TABLE log(inc INTEGER NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, header BLOB NOT NULL, ops BLOB NOT NULL,
  PRIMARY KEY(inc, seq)) WITHOUT ROWID;
CREATE TABLE log_head(inc INTEGER PRIMARY KEY, seq INTEGER NOT NULL, hash BLOB NOT NULL, first INTEGER NOT NULL, bytes INTEGER NOT NULL);
-- The next op and inode that an incarnation of this device will number.
CREATE TABLE counter(inc INTEGER PRIMARY KEY, next_op INTEGER NOT NULL, next_ino INTEGER NOT NULL);
`

/** Since version 3: what drives of several devices need. */
const SHARED = `
-- Inodes without a name: unlinked but open, never linked (O_TMPFILE), or removed by an op that may yet be taken back
-- (then where it was, and by which op).
CREATE TABLE orphan(ino INTEGER PRIMARY KEY, parent INTEGER NOT NULL, key BLOB NOT NULL, name BLOB NOT NULL, op INTEGER NOT NULL);
-- Directories that were made concurrently under one name are one: the later number stands for the earlier.
CREATE TABLE alias(ino INTEGER PRIMARY KEY, target INTEGER NOT NULL);
-- Copies that a conflict has put beside another inode, and the op that did.
CREATE TABLE conflict(ino INTEGER PRIMARY KEY, of INTEGER NOT NULL, op INTEGER NOT NULL);
-- The names of the devices behind the incarnations, as their logs say.
CREATE TABLE author(inc INTEGER PRIMARY KEY, name TEXT NOT NULL);
-- Entries whose place in the order may yet change, by their place; how to take them back.
CREATE TABLE placed(key INTEGER NOT NULL, id BLOB NOT NULL, inc INTEGER NOT NULL, seq INTEGER NOT NULL, first INTEGER NOT NULL,
  count INTEGER NOT NULL, context BLOB NOT NULL, undo BLOB NOT NULL, PRIMARY KEY(key, id)) WITHOUT ROWID;
-- Of each incarnation: ops below final_op have their place for good; what its last entry had seen.
CREATE TABLE seen(inc INTEGER PRIMARY KEY, final_op INTEGER NOT NULL, context BLOB NOT NULL);
-- The devices of the drive and their certificates.
CREATE TABLE device(key BLOB PRIMARY KEY, certificate BLOB NOT NULL) WITHOUT ROWID;
-- Ops that set devices aside, by the entry that they are in.
CREATE TABLE IF NOT EXISTS aside(by INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL, op BLOB NOT NULL, PRIMARY KEY(by, seq, n)) WITHOUT ROWID;
`

/** Since version 4: what was, within the retention (lib/tree/history.ts). */
const HISTORY = `
-- What: 0 an inode began to be, 1 content was replaced, 2 a name came to stand for something else; in the order of the ops.
-- how: 0 other, 1 create, 2 link, 3 unlink, 4 rename. t: when it was done, since: when this row was written, ms.
-- Content: the version, size and time before, and the version after. Names: in the directory ino, what it stood for before (0: nothing),
-- and whether that was its last name.
CREATE TABLE IF NOT EXISTS history(n INTEGER PRIMARY KEY, ino INTEGER NOT NULL, what INTEGER NOT NULL, how INTEGER NOT NULL, op INTEGER NOT NULL,
  t INTEGER NOT NULL, since INTEGER NOT NULL, after INTEGER NOT NULL, version INTEGER NOT NULL, size INTEGER NOT NULL,
  mtime INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, key BLOB, name BLOB, was INTEGER NOT NULL, gone INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS history_ino ON history(ino);
CREATE INDEX IF NOT EXISTS history_gone ON history(was) WHERE gone = 1;
-- Extents before; length 0: none began there.
CREATE TABLE IF NOT EXISTS history_extent(n INTEGER NOT NULL, off INTEGER NOT NULL, len INTEGER NOT NULL, chunk INTEGER NOT NULL,
  coff INTEGER NOT NULL, PRIMARY KEY(n, off)) WITHOUT ROWID;
`

export class Database {
  readonly sql: Db
  readonly path: string
  #walFd = -1
  #shmFd = -1
  #keptWalBytes = WAL_BYTES
  readonly #word = Buffer.alloc(4)

  protected constructor(sql: Db, path: string) {
    this.sql = sql
    this.path = path
  }

  /** Creates the index at `path`, empty but for its schema. */
  static create(path: string): Database {
    if (existsSync(path)) throw fail('STORE_EXISTS', `there is already an index at ${path}`)
    const sql = new Sqlite(path)
    sql.pragma('page_size = 4096')
    pragmas(sql)
    fill(sql)
    sql.pragma('wal_checkpoint(TRUNCATE)')
    const db = new Database(sql, path)
    db.#openWal()
    return db
  }

  /** An index without a disk, empty or as `serialize` gave it: for whoever makes a disk of his own beneath it. */
  protected static memory(image?: Buffer): Db {
    const sql = new Sqlite(image ?? ':memory:')
    pragmas(sql)
    if (!image) fill(sql)
    return sql
  }

  /** Another connection, for one consistent read of what was committed while this one writes on. */
  reader(): Db {
    return new Sqlite(this.path, { readonly: true })
  }

  /** Whether it was left by whoever was killed while he made it: no table is in it. False for what SQLite cannot read. */
  static isBlank(path: string): boolean {
    const sql = new Sqlite(path, { fileMustExist: true })
    try {
      return sql.prepare('SELECT 1 FROM sqlite_master').get() === undefined
    } catch {
      return false
    } finally {
      sql.close()
    }
  }

  /** Opens an existing index. STORE_NEWER if a later dfs wrote it, STORE_DAMAGED if SQLite cannot read it. */
  static open(path: string): Database {
    let sql: Db | undefined
    try {
      sql = new Sqlite(path, { fileMustExist: true })
      pragmas(sql)
      const row = sql.prepare('SELECT value FROM meta WHERE key = ?').get('index_version') as { value: number } | undefined
      if (row === undefined) throw fail('STORE_DAMAGED', `the index ${path} has no version; restore the store from a copy`)
      if (row.value > INDEX_VERSION) {
        throw fail('STORE_NEWER', `the index has format ${row.value}, this dfs knows ${INDEX_VERSION}; update dfs`)
      }
      const db = new Database(sql, path)
      db.#openWal()
      if (row.value < INDEX_VERSION) db.#upgrade(row.value)
      return db
    } catch (e) {
      sql?.close()
      if (isDfsError(e)) throw e
      const what = e instanceof Error ? e.message : String(e)
      throw fail('STORE_DAMAGED', `the index ${path} cannot be read (${what}); restore the store from a copy`, e)
    }
  }

  /**
   * After a failed sync, with nobody using the index: writes all that its log holds into the index once more, and syncs
   * that. What is read back may be in the page cache alone, and no later sync of the log would cover it. Throws if the disk refuses.
   */
  static settle(path: string): void {
    const sql = new Sqlite(path, { fileMustExist: true })
    try {
      pragmas(sql)
      sql.pragma('synchronous = FULL')
      const [done] = sql.pragma('wal_checkpoint(TRUNCATE)') as { busy: number }[]
      if (done?.busy) throw fail('STORE_LOCKED', `the index ${path} is in use`)
    } finally {
      sql.close()
    }
  }

  /** One transaction: a crash leaves the older version. */
  #upgrade(from: number): void {
    this.sql.exec('BEGIN')
    if (from < 3) {
      this.sql.exec('ALTER TABLE dentry ADD COLUMN op INTEGER NOT NULL DEFAULT 0; ALTER TABLE orphan RENAME TO orphan_2')
      this.sql.exec(SHARED)
      this.sql.exec("INSERT INTO orphan SELECT ino, 0, x'', x'', 0 FROM orphan_2; DROP TABLE orphan_2")
    }
    if (from < 4) this.sql.exec(HISTORY)
    this.setMeta('index_version', INDEX_VERSION)
    this.sql.exec('COMMIT')
  }

  getMeta(key: string): unknown {
    return (this.sql.prepare('SELECT value FROM meta WHERE key = ?').get(key) as { value: unknown } | undefined)?.value
  }

  setMeta(key: string, value: string | number | Buffer): void {
    this.sql.prepare('INSERT OR REPLACE INTO meta VALUES (?, ?)').run(key, value)
  }

  /** Makes what was committed durable; resolves off the loop, rejects when the disk says no. */
  syncWal(): Promise<void> {
    return new Promise((resolve, reject) => {
      fdatasync(this.#walFd, (e) => (e ? reject(e) : resolve()))
    })
  }

  /** As syncWal, on this thread: for when nobody else waits and the disk answers faster than another thread wakes. */
  syncWalNow(): void {
    fdatasyncSync(this.#walFd)
  }

  /** Bytes of frames in the write-ahead log, which starts over without shrinking: mxFrame of the WAL-index header (walformat.html, 2.1). */
  walBytes(): number {
    readSync(this.#shmFd, this.#word, 0, 4, 16)
    return this.#word.readUInt32LE(0) * FRAME_BYTES
  }

  /** The log is kept at least this long. */
  get keptWalBytes(): number { return this.#keptWalBytes }

  /** Bytes that the log still takes in blocks that it has. */
  logRoom(): number {
    return Math.max(0, fstatSync(this.#walFd).size - this.walBytes())
  }

  /** Checkpoints everything, and closes. May be called twice. */
  close(): void {
    if (!this.sql.open) return
    this.sql.close()
    // After SQLite has: closing a descriptor of the WAL-index drops this process's locks on it.
    for (const fd of [this.#walFd, this.#shmFd]) if (fd >= 0) closeSync(fd)
    this.#walFd = this.#shmFd = -1
  }

  /**
   * Writes zeros behind the log's frames: an fdatasync of a file that grows waits
   * for the file system's journal too, one that overwrites does not (twice as
   * fast on ext4). A zero frame has no valid salt: SQLite reads it as the end
   * (walformat.html, 4.2). And a commit has room when others have filled the
   * disk; so has the WAL-index, a block for so many frames.
   */
  #extendWal(): void {
    const fs = statfsSync(dirname(this.path))
    const bytes = this.#keptWalBytes = Math.min(WAL_BYTES, Math.floor(fs.blocks * fs.bsize * WAL_SHARE))
    if (fs.bavail * fs.bsize < bytes * WAL_FREE_TIMES) return
    extend(this.#walFd, bytes)
    fsyncSync(this.#walFd)
    extend(this.#shmFd, SHM_BLOCK_BYTES * Math.ceil(bytes / FRAME_BYTES / SHM_BLOCK_FRAMES + 1))
  }

  /** The WAL is not under POSIX locks, so that a descriptor of our own on it is safe (those on the database are not). */
  #openWal(): void {
    // SQLite makes the WAL at the first read or write.
    this.sql.prepare('SELECT count(*) FROM incarnation').get()
    if (!existsSync(this.path + '-wal')) this.setMeta('opened', Date.now())
    this.#walFd = openSync(this.path + '-wal', 'r+')
    this.#shmFd = openSync(this.path + '-shm', 'r+')
    this.#extendWal()
    const dir = openSync(dirname(this.path), 'r')
    try { fsyncSync(dir) } finally { closeSync(dir) }
  }
}

/** A page and the header of its frame in the log. */
export const FRAME_BYTES = 4096 + 24
/** The log is kept at least this long; on a small disk, this share of it. */
const WAL_BYTES = 32 << 20
const WAL_SHARE = 0.05
/** Its room is taken when there is so much more. */
const WAL_FREE_TIMES = 4
/** The WAL-index grows by blocks, each for so many frames (walformat.html, 2). SQLite clears them itself before use. */
const SHM_BLOCK_BYTES = 32 << 10
const SHM_BLOCK_FRAMES = 4096

/** With real blocks, up to `bytes`. */
function extend(fd: number, bytes: number): void {
  const zeros = Buffer.alloc(1 << 20)
  for (let at = fstatSync(fd).size; at < bytes;) at += writeSync(fd, zeros, 0, Math.min(zeros.length, bytes - at), at)
}

function fill(sql: Db): void {
  sql.exec('BEGIN')
  sql.exec(SCHEMA)
  sql.exec(SHARED)
  sql.exec(HISTORY)
  sql.prepare('INSERT INTO meta VALUES (?, ?)').run('index_version', INDEX_VERSION)
  sql.exec('COMMIT')
}

function pragmas(sql: Db): void {
  sql.pragma('journal_mode = WAL')
  sql.pragma('synchronous = NORMAL')
  sql.pragma('wal_autocheckpoint = 0')
  sql.pragma('foreign_keys = OFF')
  sql.pragma('temp_store = MEMORY')
  sql.pragma('cache_size = -32768')
  // The file is ours alone until the next open: it never needs to shrink at close.
  sql.pragma('journal_size_limit = 67108864')
}
