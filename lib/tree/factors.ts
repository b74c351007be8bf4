/**
 * How many copies directories want of the chunks below them (docs/decisions/028-factor-per-directory.md):
 * brings the factor table to what the tree says. A file is of the nearest directory above it that wants something,
 * of several names the one that wants most; a chunk, of the file that wants most. What only history, undo records or
 * open files still name is as the drive wants it.
 *
 *   at once    new content below such a directory; it may count as wanted more than it is
 *   by a scan  everything, once names, attributes or contents have changed: in slices, at most a twentieth of the time
 *
 * Without such a directory nothing is done.
 */
import type { Timers } from '../clock.js'
import type { ChunkTable } from '../store/chunks.js'
import type { Database } from '../store/database.js'
import type { ChunkFactor, FactorTable } from '../store/factor-table.js'
import { ROOT_INO } from './inode.js'
import type { Follower } from './rows.js'
import type { Tree } from './tree.js'

/** Rows in one go of the loop. */
const SLICE_ROWS = 1024
const TICK_MS = 500
/** Between the end of one scan and the next, at least; and as many times as long as it took. */
const PAUSE_MS = 1000
const COST_TIMES = 20
/** Directories above a file. */
const MAX_DEPTH = 4096

export interface FactorParts {
  db: Database
  tree: Tree
  chunks: ChunkTable
  table: FactorTable
  timers: Timers
  /** The attribute by which a directory says what it wants. */
  name: Buffer
  /** What a directory wants, as its attributes say; undefined: nothing of its own. */
  wantedBy(ino: number): number | undefined
  /** The last entry of each log that is applied, by its incarnation (as latin1). */
  heads(): Map<string, number>
  touched(): void
  isStopped(): boolean
}

export class TreeFactors implements Follower {
  readonly #p: FactorParts
  /** Directories that want something, and how much: those that have no name among them. */
  readonly #dirs = new Map<number, number>()
  /** The same that have a name. */
  #named: ReadonlyMap<number, number> = new Map()
  #isStale: boolean
  #nextAtMs = 0
  /** What this scan has taken of the loop, and when its present slice began. */
  #tookMs = 0
  #sliceAtMs = 0
  #scanning: Promise<void> | null = null
  #heads: Map<string, number> | undefined
  /** Inodes whose attributes have changed, to be looked at once the op is done. */
  readonly #touched = new Set<number>()
  /** Chunks that were marked since the scan began, which may not have seen why. */
  #fresh = new Set<string>()
  #isClosed = false
  readonly #stop: () => void
  /** Directories want other numbers than before. */
  onChange: () => void = () => {}

  constructor(parts: FactorParts) {
    this.#p = parts
    const { sql } = parts.db
    sql.exec('CREATE TABLE IF NOT EXISTS factor_dir(ino INTEGER PRIMARY KEY)')
    // A snapshot does not say which they are.
    if (parts.db.getMeta('factor_dirs') === undefined) {
      for (const ino of sql.prepare('SELECT DISTINCT ino FROM xattr').pluck().iterate() as Iterable<number>) if (parts.wantedBy(ino) !== undefined) this.#note(ino)
      // With the next commit; else it is looked at again.
      parts.db.setMeta('factor_dirs', 1)
    }
    for (const ino of sql.prepare('SELECT ino FROM factor_dir').pluck().all() as number[]) this.#touched.add(ino)
    this.#lookAtTouched()
    this.#isStale = this.#dirs.size > 0 || parts.table.size > 0
    this.#look()
    parts.tree.rows.follower = this
    this.#stop = parts.timers.every(TICK_MS, () => {
      this.#lookAtTouched()
      if (this.#isStale && parts.timers.nowMs() >= this.#nextAtMs) void this.scan()
    })
  }

  /** Other numbers of copies than the drive's, perhaps with it among them. */
  get factors(): number[] { return [...new Set(this.#named.values())] }

  /** The directories, by their inodes. */
  get dirs(): ReadonlyMap<number, number> { return this.#named }

  /** How far the table is what the tree says: what was applied when the last scan began; undefined: all that is. */
  get heads(): Map<string, number> | undefined { return this.#isActive ? this.#heads ?? new Map<string, number>() : undefined }

  get #isActive(): boolean { return this.#dirs.size > 0 || this.#p.table.size > 0 }

  // --- at once ----------------------------------------------------------------

  dentry(): void { if (this.#dirs.size > 0) this.#isStale = true }

  /** What it says is looked at once the op is done; that it says something is kept at once, in case of a crash before. */
  xattr(ino: number, key: Buffer): void {
    const { tree, name } = this.#p
    const inode = ino === ROOT_INO ? undefined : tree.get(ino)
    if (!inode?.isDir || !tree.xattrKey(inode, name).equals(key)) return
    this.#note(ino)
    this.#touched.add(ino)
  }

  #note(ino: number): void { this.#p.db.sql.prepare('INSERT OR IGNORE INTO factor_dir VALUES (?)').run(ino) }

  #lookAtTouched(): void {
    const { db, wantedBy } = this.#p
    for (const ino of this.#touched) {
      const now = wantedBy(ino)
      if (now === undefined) db.sql.prepare('DELETE FROM factor_dir WHERE ino = ?').run(ino)
      if (this.#dirs.get(ino) === now) continue
      if (now === undefined) this.#dirs.delete(ino)
      else this.#dirs.set(ino, now)
      this.#isStale = true
      this.#nextAtMs = 0
    }
    this.#touched.clear()
  }

  extent(ino: number, chunk: number): void {
    const { table, chunks } = this.#p
    if (this.#dirs.size === 0 && table.size === 0) return
    this.#isStale = true
    const known = chunks.identity(chunk)
    if (!known) return
    const copies = this.#wantedOf(ino)
    const was = table.of(known.id)
    if (copies === undefined) {
      if (was && !was.isPlain) this.#mark(known.id, { ...was, isPlain: true })
    } else if (!was) this.#mark(known.id, { copies, isPlain: known.refs > 1 })
    else if (was.copies < copies) this.#mark(known.id, { ...was, copies })
    else this.#fresh.add(known.id.toString('latin1'))
  }

  #mark(id: Buffer, factor: ChunkFactor): void {
    this.#fresh.add(id.toString('latin1'))
    this.#p.table.set(id, factor)
  }

  /** What the nearest directory above a file wants; undefined: none wants anything. */
  #wantedOf(ino: number): number | undefined {
    const dir = this.nearest(ino)
    return dir === undefined ? undefined : this.#dirs.get(dir)
  }

  /** The nearest directory that wants something, itself or above; undefined: none does. */
  nearest(ino: number): number | undefined {
    const { tree } = this.#p
    let at = tree.get(ino)
    for (let depth = 0; at && depth < MAX_DEPTH && at.ino !== ROOT_INO; depth++) {
      if (this.#dirs.has(at.ino)) return at.ino
      at = at.parent === 0 ? undefined : tree.get(at.parent)
    }
    return undefined
  }

  // --- by a scan ----------------------------------------------------------------

  /** Until the table is what the tree said at the time of the call. */
  async scan(): Promise<void> {
    while (this.#scanning) await this.#scanning
    this.#lookAtTouched()
    if (!this.#isStale || this.#isClosed) return
    this.#scanning = this.#scan().catch((e: Error) => {
      this.#isStale = true
      if (!this.#isClosed && !this.#p.isStopped()) process.emitWarning(`looking for what directories want: ${e.message}`)
    }).finally(() => { this.#scanning = null })
    await this.#scanning
  }

  async #scan(): Promise<void> {
    const { db, tree, timers } = this.#p
    const { sql } = db
    this.#tookMs = 0
    this.#sliceAtMs = timers.nowMs()
    const heads = this.#p.heads()
    this.#isStale = false
    this.#fresh = new Set()
    this.#look()
    tree.rows.flush()
    // Of each file the most that a name of it wants; and how many names wanted something.
    sql.exec(`CREATE TEMP TABLE IF NOT EXISTS factor_file(ino INTEGER PRIMARY KEY, copies INTEGER NOT NULL, names INTEGER NOT NULL, plain INTEGER NOT NULL DEFAULT 0);
      CREATE TEMP TABLE IF NOT EXISTS factor_found(num INTEGER PRIMARY KEY, copies INTEGER NOT NULL, plain INTEGER NOT NULL)`)
    sql.exec('DELETE FROM temp.factor_file; DELETE FROM temp.factor_found')
    for (const [ino, copies] of this.#named) await this.#below(ino, copies)
    sql.exec('UPDATE temp.factor_file SET plain = 1 WHERE names < (SELECT nlink FROM inode i WHERE i.ino = factor_file.ino)')
    await this.#chunks()
    await this.#apply()
    this.#heads = heads
    this.#nextAtMs = timers.nowMs() + Math.max(PAUSE_MS, COST_TIMES * this.#tookMs)
    this.#p.touched()
  }

  /** Which directories want something, and have a name. */
  #look(): void {
    const { tree } = this.#p
    const before = this.factors.sort().join()
    this.#named = new Map([...this.#dirs].filter(([ino]) => {
      const inode = tree.get(ino)
      return inode?.isDir && inode.nlink > 0 && tree.rows.resolve(ino) === ino
    }))
    if (this.factors.sort().join() !== before) this.onChange()
  }

  /** All files below a directory, but for those of a directory below it that wants something itself. */
  async #below(top: number, copies: number): Promise<void> {
    const { db, tree } = this.#p
    const list = db.sql.prepare('SELECT d.key, d.ino, i.mode FROM dentry d JOIN inode i ON i.ino = d.ino WHERE d.parent = ? AND d.key > ? ORDER BY d.key LIMIT ?').raw(true)
    const add = db.sql.prepare('INSERT INTO temp.factor_file(ino, copies, names) VALUES (?,?,1) ON CONFLICT(ino) DO UPDATE SET copies = max(copies, excluded.copies), names = names + 1')
    const dirs = [top]
    for (let dir = dirs.pop(); dir !== undefined; dir = dirs.pop()) {
      for (let from: Buffer = Buffer.alloc(0); ;) {
        this.#check()
        const rows = list.all(tree.rows.resolve(dir), from, SLICE_ROWS) as [Buffer, number, number][]
        for (const [, ino, mode] of rows) {
          const kind = mode & 0o170000
          if (kind === 0o100000) add.run(ino, copies)
          else if (kind === 0o040000 && !this.#named.has(ino)) dirs.push(ino)
        }
        await this.#turn()
        if (rows.length < SLICE_ROWS) break
        from = rows[rows.length - 1]![0]
      }
    }
  }

  /** Their chunks, and which of them other files have too. */
  async #chunks(): Promise<void> {
    const { sql } = this.#p.db
    const add = sql.prepare(`INSERT INTO temp.factor_found SELECT e.chunk, f.copies, f.plain FROM temp.factor_file f JOIN extent e ON e.ino = f.ino WHERE f.ino > ? AND f.ino <= ?
      ON CONFLICT(num) DO UPDATE SET copies = max(copies, excluded.copies), plain = max(plain, excluded.plain)`)
    const nextFile = sql.prepare('SELECT max(ino) FROM (SELECT ino FROM temp.factor_file WHERE ino > ? ORDER BY ino LIMIT ?)').pluck()
    for (let from = 0; ;) {
      this.#check()
      const to = nextFile.get(from, SLICE_ROWS / 4) as number | null
      if (to === null) break
      add.run(from, to)
      from = to
      await this.#turn()
    }
    if (sql.prepare('SELECT 1 FROM temp.factor_found LIMIT 1').get() === undefined) return
    const others = sql.prepare(`UPDATE temp.factor_found SET plain = 1 WHERE plain = 0 AND num IN (SELECT e.chunk FROM extent e WHERE (e.ino, e.off) > (?,?) AND (e.ino, e.off) <= (?,?)
      AND e.ino NOT IN (SELECT ino FROM temp.factor_file) AND e.ino NOT IN (SELECT ino FROM orphan))`)
    const nextExtent = sql.prepare('SELECT ino, off FROM (SELECT ino, off FROM extent WHERE (ino, off) > (?,?) ORDER BY ino, off LIMIT ?) ORDER BY ino DESC, off DESC LIMIT 1').raw(true)
    for (let at: [number, number] = [-1, -1]; ;) {
      this.#check()
      const to = nextExtent.get(...at, SLICE_ROWS * 4) as [number, number] | undefined
      if (!to) return
      others.run(...at, ...to)
      at = to
      await this.#turn()
    }
  }

  /** The table becomes what was found. */
  async #apply(): Promise<void> {
    const { db, table, chunks } = this.#p
    const mayChange = (id: Buffer) => !this.#fresh.has(id.toString('latin1'))
    const found = db.sql.prepare('SELECT f.num, c.id, f.copies, f.plain FROM temp.factor_found f JOIN chunk c ON c.num = f.num WHERE f.num > ? ORDER BY f.num LIMIT ?').raw(true)
    for (let from = -1; ;) {
      this.#check()
      const rows = found.all(from, SLICE_ROWS) as [number, Buffer, number, number][]
      for (const [num, id, copies, plain] of rows) {
        from = num
        if (mayChange(id)) table.set(id, { copies, isPlain: plain === 1 })
      }
      await this.#turn()
      if (rows.length < SLICE_ROWS) break
    }
    const isFound = db.sql.prepare('SELECT 1 FROM temp.factor_found WHERE num = ?').pluck()
    for (let from: Buffer = Buffer.alloc(0); ;) {
      this.#check()
      const rows = table.from(from, SLICE_ROWS)
      for (const { id } of rows) {
        from = id
        const num = chunks.findById(id)
        if (mayChange(id) && (num === 0 || isFound.get(num) === undefined)) table.set(id, undefined)
      }
      await this.#turn()
      if (rows.length < SLICE_ROWS) return
    }
  }

  async #turn(): Promise<void> {
    const { timers } = this.#p
    this.#tookMs += timers.nowMs() - this.#sliceAtMs
    await new Promise<void>((go) => void timers.soon(go))
    this.#sliceAtMs = timers.nowMs()
  }

  #check(): void { if (this.#isClosed || this.#p.isStopped()) throw new Error('the drive is being closed') }

  /** What runs ends. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#stop()
    this.#p.tree.rows.follower = null
    await this.#scanning
  }
}
