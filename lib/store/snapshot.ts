/**
 * The whole of a device's metadata, as rows, for one that joins: what the tree
 * is, what may yet be taken back, who writes. Read in one consistent read while
 * the device goes on; taken into an index that is empty.
 *
 * Numbers mean the same at both ends, for the one that joins takes over the
 * table of incarnations. What is this device's alone stays here: where chunks
 * lie, files without a name, counters.
 */
import type Sqlite from 'better-sqlite3'
import { fail } from '../errors.js'
import { Reader, Writer } from '../log/codec.js'
import { S_IFDIR, S_IFMT } from '../log/mode.js'
import { ELSEWHERE } from './chunks.js'
import type { Database } from './database.js'

/** Inode flag: never had a name (tree/inode.ts). */
const NEVER_LINKED = 1
/** tree/inode.ts. */
const ROOT = 1
const HIDDEN = `(SELECT ino FROM orphan WHERE op = 0)`

interface Table { name: string; columns: string[]; query: string }

/** Of each log, the first entry that is not final: SnapshotSource. */
const LOG_FROM = `(SELECT f.seq FROM temp.log_from f WHERE f.inc = l.inc)`

/** Settings of the drive, not of a device. */
const META = new Set(['base_key', 'shared', 'name', 'order', 'creator_uid', 'creator_gid', 'history_on', 'history_first', 'history_from'])
const META_LIST = [...META].map((key) => `'${key}'`).join(',')

/** By their number on the wire: never reorder. */
export const TABLES: Table[] = [
  { name: 'incarnation', columns: ['idx', 'id', 'device'], query: 'SELECT idx,id,device FROM incarnation' },
  {
    name: 'inode', columns: ['ino', 'mode', 'nlink', 'uid', 'gid', 'rdev', 'size', 'parent', 'version', 'atime', 'atime_ns', 'mtime', 'mtime_ns', 'ctime', 'ctime_ns', 'flags', 'bytes'],
    query: `SELECT ino,mode,nlink,uid,gid,rdev,size,parent,version,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,flags,bytes FROM inode WHERE flags & ${NEVER_LINKED} = 0 AND ino NOT IN ${HIDDEN}`,
  },
  { name: 'dentry', columns: ['parent', 'key', 'name', 'ino', 'op'], query: 'SELECT parent,key,name,ino,op FROM dentry' },
  { name: 'extent', columns: ['ino', 'off', 'len', 'chunk', 'coff'], query: `SELECT ino,off,len,chunk,coff FROM extent WHERE ino NOT IN ${HIDDEN}` },
  {
    name: 'chunk', columns: ['num', 'h48', 'len', 'refs', 'seg', 'off', 'id', 'h'],
    query: `SELECT c.num,c.h48,c.len,c.refs - ifnull((SELECT n FROM temp.hidden WHERE chunk = c.num), 0),${ELSEWHERE},0,c.id,c.h FROM chunk c WHERE c.refs > 0`,
  },
  { name: 'xattr', columns: ['ino', 'key', 'name', 'value'], query: `SELECT ino,key,name,value FROM xattr WHERE ino NOT IN ${HIDDEN}` },
  { name: 'symlink', columns: ['ino', 'target'], query: `SELECT ino,target FROM symlink WHERE ino NOT IN ${HIDDEN}` },
  { name: 'orphan', columns: ['ino', 'parent', 'key', 'name', 'op'], query: 'SELECT ino,parent,key,name,op FROM orphan WHERE op != 0' },
  { name: 'alias', columns: ['ino', 'target'], query: 'SELECT ino,target FROM alias' },
  { name: 'conflict', columns: ['ino', 'of', 'op'], query: 'SELECT ino,of,op FROM conflict' },
  { name: 'author', columns: ['inc', 'name'], query: 'SELECT inc,name FROM author' },
  { name: 'placed', columns: ['key', 'id', 'inc', 'seq', 'first', 'count', 'context', 'undo'], query: 'SELECT key,id,inc,seq,first,count,context,undo FROM placed' },
  { name: 'seen', columns: ['inc', 'final_op', 'context'], query: 'SELECT inc,final_op,context FROM seen' },
  { name: 'log', columns: ['inc', 'seq', 'hash', 'header', 'ops'], query: `SELECT l.inc,l.seq,l.hash,l.header,l.ops FROM log l WHERE l.seq >= ${LOG_FROM}` },
  {
    name: 'log_head', columns: ['inc', 'seq', 'hash', 'first', 'bytes'],
    query: `SELECT l.inc,l.seq,l.hash,ifnull(${LOG_FROM}, l.seq + 1),(SELECT ifnull(sum(length(g.header) + length(g.ops)),0) FROM log g WHERE g.inc = l.inc AND g.seq >= ${LOG_FROM.replaceAll('l.inc', 'g.inc')}) FROM log_head l`,
  },
  { name: 'device', columns: ['key', 'certificate'], query: 'SELECT key,certificate FROM device' },
  { name: 'meta', columns: ['key', 'value'], query: `SELECT key,value FROM meta WHERE key IN (${META_LIST})` },
  { name: 'aside', columns: ['by', 'seq', 'n', 'op'], query: 'SELECT by,seq,n,op FROM aside' },
  {
    name: 'history', columns: ['n', 'ino', 'what', 'how', 'op', 't', 'since', 'after', 'version', 'size', 'mtime', 'mtime_ns', 'key', 'name', 'was', 'gone'],
    query: 'SELECT n,ino,what,how,op,t,since,after,version,size,mtime,mtime_ns,key,name,was,gone FROM history',
  },
  { name: 'history_extent', columns: ['n', 'off', 'len', 'chunk', 'coff'], query: 'SELECT n,off,len,chunk,coff FROM history_extent' },
]

/** Rows that are read in one turn of the loop: some milliseconds. */
const ROWS_BYTES = 64 << 10
/** Of the index's pages, what its rows take without their indexes. */
const ROWS_SHARE = 0.6

/** A consistent read of the index as it was committed when this was made. Close it. */
export class SnapshotSource {
  readonly #sql: Sqlite.Database
  /** About what `rows` will give. */
  readonly totalBytes: number

  /** `sql`: a connection of its own (Database.reader), closed with this. */
  constructor(sql: Sqlite.Database) {
    this.#sql = sql
    this.#sql.pragma('temp_store = MEMORY')
    this.#sql.exec('BEGIN')
    // Counting rows would take as long as reading them.
    const one = (pragma: string) => this.#sql.pragma(pragma, { simple: true }) as number
    this.totalBytes = Math.round((one('page_count') - one('freelist_count')) * one('page_size') * ROWS_SHARE)
    this.#sql.exec(`CREATE TEMP TABLE hidden AS SELECT chunk, count(*) AS n FROM extent WHERE ino IN ${HIDDEN} GROUP BY chunk`)
    this.#sql.exec('CREATE INDEX temp.hidden_chunk ON hidden(chunk)')
    this.#sql.exec('CREATE TEMP TABLE log_from(inc INTEGER PRIMARY KEY, seq INTEGER); INSERT INTO temp.log_from SELECT inc, min(seq) FROM placed GROUP BY inc')
  }

  /** All rows, in parts of one table each. */
  *rows(): Generator<{ table: number; rows: Buffer }> {
    const w = new Writer(ROWS_BYTES + 65536)
    for (let table = 0; table < TABLES.length; table++) {
      for (const row of this.#sql.prepare(TABLES[table]!.query).raw(true).iterate() as Iterable<unknown[]>) {
        for (const v of row) putValue(w, v)
        if (w.length < ROWS_BYTES) continue
        yield { table, rows: w.take() }
        w.reset()
      }
      if (w.length > 0) yield { table, rows: w.take() }
      w.reset()
    }
  }

  /** All chunks that the rows refer to. */
  *chunks(): Generator<{ id: Buffer; len: number }> {
    for (const [id, len] of this.#sql.prepare('SELECT id, len FROM chunk WHERE refs > 0').raw(true).iterate() as Iterable<[Buffer, number]>) yield { id, len }
  }

  /** After what `rows` and `chunks` gave has ended or been returned: a read that goes on holds the connection. May be called twice. */
  close(): void {
    this.#sql.close()
  }
}

/** Takes rows into an empty index. The caller keeps a transaction open. */
export class SnapshotSink {
  readonly #insert

  constructor(db: Database) {
    this.#insert = TABLES.map((t) => db.sql.prepare(`INSERT OR REPLACE INTO ${t.name}(${t.columns.map((c) => `"${c}"`).join(',')}) VALUES (${t.columns.map(() => '?').join(',')})`))
  }

  /** Empties the tables: what an earlier attempt has left. */
  static clear(db: Database): void {
    for (const t of TABLES) db.sql.exec(t.name === 'meta' ? `DELETE FROM meta WHERE key IN (${META_LIST})` : `DELETE FROM ${t.name}`)
  }

  /**
   * EIO unless what was taken in can be the index of a drive. Nonsense is recognized, a lie that hangs together is not: whoever holds the
   * full key can write what he likes.
   */
  static check(db: Database): void {
    for (const [what, query] of NONSENSE) if (db.sql.prepare(query).get()) throw fail('EIO', `a snapshot ${what}`)
  }

  /** EIO for what is no rows of that table. */
  take(table: number, rows: Buffer): void {
    const t = TABLES[table]
    if (!t) throw fail('EIO', `a snapshot with a table ${table} that this dfs does not know; update dfs`)
    const r = new Reader(rows)
    const insert = this.#insert[table]!
    const values: unknown[] = new Array(t.columns.length)
    while (r.left > 0) {
      for (let i = 0; i < values.length; i++) values[i] = getValue(r)
      if (t.name === 'chunk' && (values[4] !== ELSEWHERE || values[5] !== 0)) throw fail('EIO', 'a snapshot that says where chunks lie here')
      if (t.name === 'meta' && !META.has(values[0] as string)) throw fail('EIO', 'a snapshot with a setting that is not for others to make')
      insert.run(...values)
    }
  }
}

/** Each finds a row where something is wrong. */
const NONSENSE: [what: string, query: string][] = [
  ['without an order', "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM meta WHERE key = 'order' AND typeof(value) = 'text')"],
  ['of a drive that is not shared', "SELECT 1 WHERE (SELECT count(*) FROM meta WHERE (key = 'shared' AND value = 1) OR (key = 'base_key' AND typeof(value) IN ('integer', 'real'))) < 2"],
  ['with settings of another kind', "SELECT 1 FROM meta WHERE key IN ('creator_uid', 'creator_gid') AND typeof(value) NOT IN ('integer', 'real') OR key = 'name' AND typeof(value) != 'text'"],
  ['whose logs have no names', "SELECT 1 FROM incarnation WHERE typeof(id) != 'blob' OR length(id) != 16 OR typeof(device) != 'blob' OR length(device) != 32"],
  ['without a root', `SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM inode WHERE ino = ${ROOT} AND mode & ${S_IFMT} = ${S_IFDIR}) OR NOT EXISTS (SELECT 1 FROM incarnation WHERE idx = 0 AND id = zeroblob(16))`],
  ['with numbers that are none', "SELECT 1 FROM inode WHERE typeof(mode) != 'integer' OR typeof(size) != 'integer' OR size < 0 OR typeof(mtime) != 'integer'"],
  ['with names of nothing', "SELECT 1 FROM dentry d WHERE typeof(name) != 'blob' OR typeof(key) != 'blob' OR NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = d.ino)"],
  ['with a history of nothing', "SELECT 1 FROM history_extent h WHERE typeof(off) != 'integer' OR typeof(len) != 'integer' OR typeof(coff) != 'integer' OR off < 0 OR len < 0 OR coff < 0 OR (len > 0 AND NOT EXISTS (SELECT 1 FROM chunk c WHERE c.num = h.chunk)) OR NOT EXISTS (SELECT 1 FROM history s WHERE s.n = h.n AND s.what = 1)"],
  ['with a history that is none', "SELECT 1 FROM history WHERE n < 1 OR what NOT IN (0, 1, 2) OR how NOT IN (0, 1, 2, 3, 4) OR typeof(t) != 'integer' OR typeof(since) != 'integer' OR typeof(size) != 'integer' OR size < 0 OR typeof(mtime) != 'integer' OR typeof(mtime_ns) != 'integer' OR typeof(was) != 'integer' OR (what = 2 AND (typeof(key) != 'blob' OR length(key) != 16 OR typeof(name) != 'blob'))"],
  ['with a history without a beginning', "SELECT 1 FROM meta WHERE key IN ('history_on', 'history_first', 'history_from') AND typeof(value) NOT IN ('integer', 'real')"],
  ['with content of nothing', "SELECT 1 FROM extent e WHERE NOT EXISTS (SELECT 1 FROM chunk c WHERE c.num = e.chunk) OR NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = e.ino)"],
  ['with chunks that are none', "SELECT 1 FROM chunk WHERE typeof(id) != 'blob' OR length(id) != 32 OR typeof(h) != 'blob' OR length(h) != 32 OR typeof(len) != 'integer' OR len < 1"],
  ['with logs that are none', "SELECT 1 FROM log_head l WHERE typeof(seq) != 'integer' OR typeof(hash) != 'blob' OR length(hash) != 32 OR NOT EXISTS (SELECT 1 FROM incarnation i WHERE i.idx = l.inc)"],
]


function putValue(w: Writer, v: unknown): void {
  if (v === null) w.byte(0)
  else if (typeof v === 'number') { w.byte(1); w.int(v) }
  else if (typeof v === 'string') { w.byte(2); w.bytes(Buffer.from(v)) }
  else { w.byte(3); w.bytes(v as Buffer) }
}

function getValue(r: Reader): unknown {
  switch (r.byte()) {
    case 0: return null
    case 1: return r.int()
    case 2: return r.bytes(1 << 20).toString()
    case 3: return r.bytes(64 << 20)
    default: throw fail('EIO', 'a snapshot with a value of an unknown kind')
  }
}
