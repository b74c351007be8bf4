/**
 * What only this device had, done again upon the metadata of others: after it
 * has begun anew (lib/anew.ts) its former index is beside the new one.
 *
 * Not by its ops, which name what may be different by now, but by what they came
 * to: whatever they touched is compared in the two trees, and made as it was
 * here unless others have changed it since (names, removals, attributes), or
 * beside it if they have (content). Content that is only in the former tree is
 * always kept: a removal by others that did not see it comes to nothing.
 *
 * May be run again, after a crash in the middle of it, wherever the commits fell:
 * what it makes is noted in the index with it (`rescued`), so that nothing is made
 * twice, and what was made in part is made whole.
 */
import type { Time } from './clock.js'
import type { LocalChunk } from './file/flush.js'
import type { DriveKeys } from './keys/derive.js'
import { Log, type EntrySealer as LogSealer } from './log/log.js'
import { INO_HIGH, type Op, type SetAttrOp } from './log/ops.js'
import type { Metadata } from './metadata.js'
import { EntrySealer } from './seal/entry.js'
import { ChunkTable, ELSEWHERE } from './store/chunks.js'
import type { Database } from './store/database.js'
import { conflictName } from './tree/conflict-name.js'
import { HAS_XATTRS, ROOT_INO, S_IFLNK, S_IFMT, type Inode } from './tree/inode.js'
import { Rows } from './tree/rows.js'
import { Tree, type Outcome, type TreeSealer } from './tree/tree.js'
import { wholeContent } from './whole-content.js'

const FIELDS = ['mode', 'uid', 'gid', 'atime', 'mtime'] as const

/** What the ops that nobody else has did to an inode. */
interface Touched {
  isCreated: boolean
  /** It was given a name, or lost one. */
  isNamed: boolean
  fields: Set<(typeof FIELDS)[number]>
  xattrs: Map<string, Buffer>
  /** Version that the first of its contents was written to. */
  base: number | undefined
}

interface Name { parent: number; name: Buffer; op: number }
interface Move { ino: number; from: Name; to: { parent: number; name: Buffer }; isParked: boolean }

/** `old`: the index of before. `metadata`: started, of the new one. Commits; durable when the journal is. Call `rescued` when nothing of `old` is needed any more. Gives the number of ops. */
export function rescue(old: Database, metadata: Metadata, keys: DriveKeys, sealer: TreeSealer, device: Buffer): number {
  return new Rescue(old, metadata, keys, sealer, device).run()
}

/** What was noted for another run goes, in the open transaction. */
export function rescued(db: Database): void { db.sql.exec('DROP TABLE IF EXISTS rescued') }

class Rescue {
  readonly #db: Database
  readonly #m: Metadata
  readonly #tree: Tree
  readonly #chunks: ChunkTable
  readonly #log: Log
  readonly #device: Buffer
  readonly #touched = new Map<number, Touched>()
  /** Names before, by inode. */
  #names = new Map<number, Name[]>()
  /** Directories before, and where they are now. */
  readonly #dirs = new Map<number, number>()
  readonly #bounds = new Map<number, number>()
  /** What has been made for an inode of before, by earlier runs too; `isWhole`: with all that it had. */
  readonly #made = new Map<number, { ino: number; isWhole: boolean }>()
  readonly #noteMade
  #ops = 0

  constructor(old: Database, metadata: Metadata, keys: DriveKeys, sealer: TreeSealer, device: Buffer) {
    this.#db = old
    this.#m = metadata
    this.#device = device
    this.#chunks = new ChunkTable(old)
    const entries = new EntrySealer(keys)
    const opener: LogSealer = {
      openOps: (sealed, aad) => entries.openOps(sealed, aad), sealOps: never, sign: never, verify: never,
    }
    this.#log = new Log(old, opener)
    this.#tree = new Tree({ rows: new Rows(old, this.#chunks), sealer, incarnationId: (i) => this.#log.incarnationId(i) })
    for (const [inc, bound] of old.sql.prepare('SELECT inc, final_op FROM seen UNION ALL SELECT inc, max(first + count) FROM placed GROUP BY inc').raw(true).all() as [number, number][]) {
      this.#bounds.set(inc, Math.max(bound, this.#bounds.get(inc) ?? 0))
    }
    const { sql } = metadata.db
    sql.exec('CREATE TABLE IF NOT EXISTS rescued(was INTEGER PRIMARY KEY, ino INTEGER NOT NULL, whole INTEGER NOT NULL)')
    for (const [was, ino, whole] of sql.prepare('SELECT was, ino, whole FROM rescued').raw(true).all() as [number, number, number][]) this.#made.set(was, { ino, isWhole: whole === 1 })
    this.#noteMade = sql.prepare('INSERT OR REPLACE INTO rescued VALUES (?,?,?)')
  }

  run(): number {
    this.#m.endFormer(this.#log.incarnations.filter((_, i) => this.#log.deviceOf(i).equals(this.#device)))
    this.#gather()
    const inos = new Set(this.#touched.keys())
    this.#names = namesOf(this.#tree, this.#db, inos)
    this.#m.tree.rows.flush()
    const now = new Map<number, number>()
    for (const ino of inos) {
      const inode = this.#now(ino)
      if (inode) now.set(ino, inode.ino)
    }
    const names = namesOf(this.#m.tree, { sql: this.#m.db.sql }, new Set(now.values()))
    const removed: number[] = []
    const kept: number[] = []
    const missing: number[] = []
    for (const ino of inos) {
      const isLinked = (this.#tree.get(ino)?.nlink ?? 0) > 0
      if (!now.has(ino)) { if (isLinked) missing.push(ino) } else if (isLinked) kept.push(ino)
      else removed.push(now.get(ino)!)
    }
    this.#remove(removed, names, false)
    for (const ino of inos) if (this.#touched.get(ino)!.isCreated && this.#tree.get(ino)?.isDir && this.#tree.get(ino)!.nlink > 0) this.#dir(ino)
    this.#move(kept, now, names)
    for (const ino of kept) this.#change(ino, this.#m.tree.get(now.get(ino)!)!, names.get(now.get(ino)!)?.[0])
    for (const ino of missing) this.#bringBack(ino)
    this.#remove(removed, names, true)
    this.#m.journal.commit()
    return this.#ops
  }

  // --- what is only here ----------------------------------------------------

  #gather(): void {
    for (const [inc, seq] of this.#log.heads()) {
      if (!this.#log.deviceOf(inc).equals(this.#device)) continue
      const known = this.#m.log.find(this.#log.incarnationId(inc))
      const head = this.#log.head(inc)
      for (let s = Math.max(head.first, (known < 0 ? 0 : this.#m.log.head(known).seq) + 1); s <= seq; s++) {
        for (const op of this.#log.ops(inc, s)) this.#gatherOp(op)
      }
    }
    // Also what others have written whom nobody else has heard, if it has come.
    for (const [ino, version] of this.#db.sql.prepare('SELECT ino, version FROM inode WHERE nlink > 0 AND version != 0').raw(true).iterate() as Iterable<[number, number]>) {
      if (this.#isThere(version)) continue
      const isOwn = this.#log.deviceOf(Math.floor(version / INO_HIGH)).equals(this.#device)
      if (isOwn || this.#tree.rows.allExtents(ino).every((e) => this.#chunks.get(e.chunk)!.seg !== ELSEWHERE)) this.#touch(ino)
    }
  }

  #touch(ino: number): Touched {
    ino = this.#tree.rows.resolve(ino)
    let t = this.#touched.get(ino)
    if (!t) this.#touched.set(ino, (t = { isCreated: false, isNamed: false, fields: new Set(), xattrs: new Map(), base: undefined }))
    return t
  }

  #gatherOp(op: Op): void {
    switch (op.type) {
      case 'create': {
        const t = this.#touch(op.ino)
        t.isCreated = t.isNamed = true
        return
      }
      case 'link': case 'unlink': this.#touch(op.ino).isNamed = true; return
      case 'rename':
        this.#touch(op.ino).isNamed = true
        if (op.over !== 0) this.#touch(op.over).isNamed = true
        return
      case 'setattr': for (const field of FIELDS) if (op[field] !== undefined) this.#touch(op.ino).fields.add(field)
        return
      case 'content': this.#touch(op.ino).base ??= op.base; return
      case 'xattr':
        this.#touch(op.ino).xattrs.set(op.name.toString('latin1'), op.name)
        if (op.mode !== undefined) this.#touch(op.ino).fields.add('mode')
        return
      case 'author': case 'aside':
    }
  }

  // --- the same thing in the two trees ----------------------------------------

  /** A number of before as it is now; undefined: others do not know the incarnation. */
  #number(n: number): number | undefined {
    if (n < INO_HIGH) return n
    const inc = this.#m.log.find(this.#log.incarnationId(Math.floor(n / INO_HIGH)))
    return inc < 0 ? undefined : inc * INO_HIGH + n % INO_HIGH
  }

  /** The inode as others have it, under a name. */
  #now(ino: number): Inode | undefined {
    const n = this.#number(ino)
    const inode = n === undefined ? undefined : this.#m.tree.get(n)
    return inode && inode.nlink > 0 ? inode : undefined
  }

  /** Whether others have an op of before. */
  #isThere(op: number): boolean {
    const n = this.#number(op)
    return op === 0 || (n !== undefined && n % INO_HIGH < this.#m.engine.nextOp(Math.floor(n / INO_HIGH)))
  }

  /** Whether an op of now was known here before, or is of this device since. */
  #wasSeen(op: number): boolean {
    if (op === 0) return true
    const inc = Math.floor(op / INO_HIGH)
    if (inc === this.#m.journal.incarnation) return true
    const before = this.#log.find(this.#m.log.incarnationId(inc))
    return before >= 0 && op % INO_HIGH < (this.#bounds.get(before) ?? 0)
  }

  #lookup(parent: number, name: Buffer): Inode | undefined {
    const dir = this.#m.tree.get(parent)
    const ino = dir?.isDir ? this.#m.tree.lookup(dir, name) : 0
    return ino === 0 ? undefined : this.#m.tree.get(ino)
  }

  // --- names ------------------------------------------------------------------

  /** Takes away what was removed here, unless others have changed it since. */
  #remove(inos: number[], names: ReadonlyMap<number, Name[]>, dirs: boolean): void {
    // From below.
    for (let progress = true; progress;) {
      progress = false
      for (const ino of inos) {
        const inode = this.#m.tree.get(ino)
        if (!inode || inode.nlink === 0 || inode.isDir !== dirs || !this.#wasSeen(inode.version)) continue
        const all = names.get(ino) ?? []
        if (!all.every((n) => this.#wasSeen(n.op))) continue
        for (const { parent, name } of all) progress = this.#submit({ type: 'unlink', parent, name, ino, dir: dirs, time: this.#time(inode) }) === '' || progress
      }
    }
  }

  /** Gives what was moved or linked here the names that it had. */
  #move(inos: number[], now: ReadonlyMap<number, number>, names: ReadonlyMap<number, Name[]>): void {
    const moves: Move[] = []
    for (const ino of inos) {
      if (!this.#touched.get(ino)!.isNamed) continue
      const here = names.get(now.get(ino)!) ?? []
      const before = (this.#names.get(ino) ?? []).flatMap(({ parent, name }) => {
        const dir = this.#now(parent)?.ino ?? this.#dirs.get(parent)
        return dir === undefined ? [] : [{ parent: dir, name }]
      })
      if (before.length === 0 || !here.every((n) => this.#wasSeen(n.op))) continue
      const lost = here.filter((n) => !before.some((b) => isSame(b, n)))
      const gained = before.filter((b) => !here.some((n) => isSame(b, n)))
      const inode = this.#m.tree.get(now.get(ino)!)!
      while (lost.length > 0 && gained.length > 0) moves.push({ ino: inode.ino, from: lost.pop()!, to: gained.pop()!, isParked: false })
      for (const { parent, name } of gained) if (!inode.isDir && !this.#lookup(parent, name)) this.#submit({ type: 'link', ino: inode.ino, parent, name, time: this.#time(inode) })
      for (const { parent, name } of lost) this.#submit({ type: 'unlink', parent, name, ino: inode.ino, dir: false, time: this.#time(inode) })
    }
    while (moves.length > 0) {
      let at = moves.findIndex((m) => !this.#lookup(m.to.parent, m.to.name))
      if (at < 0) {
        // Each waits for another, or for what others have put there.
        at = moves.findIndex((m) => !m.isParked && moves.some((o) => o !== m && isSame(o.from, m.to)))
        const park = at >= 0
        if (!park) at = 0
        const m = moves[at]!
        const name = this.#freeName(m.to.parent, m.to.name)
        if (park) {
          if (this.#rename(m, { parent: m.from.parent, name: this.#freeName(m.from.parent, m.from.name) })) m.isParked = true
          else moves.splice(at, 1)
          continue
        }
        m.to = { parent: m.to.parent, name }
      }
      this.#rename(moves[at]!, moves[at]!.to)
      moves.splice(at, 1)
    }
  }

  #rename(m: Move, to: { parent: number; name: Buffer }): boolean {
    const inode = this.#m.tree.get(m.ino)!
    const outcome = this.#submit({ type: 'rename', parent: m.from.parent, name: m.from.name, ino: m.ino, newParent: to.parent, newName: to.name, over: 0, exchange: false, time: this.#time(inode) })
    if (outcome === '') m.from = { ...to, op: 0 }
    return outcome === ''
  }

  /** Where a directory of before is now; made again with those above it if it is not. */
  #dir(ino: number): number {
    const was = this.#tree.get(ino)
    const known = this.#dirs.get(was?.ino ?? ino)
    if (known !== undefined) return known
    // Should they turn in a circle.
    this.#dirs.set(was?.ino ?? ino, ROOT_INO)
    let to = ROOT_INO
    const now = this.#now(was?.ino ?? ino)
    if (now?.isDir) to = now.ino
    else if (was?.isDir && was.nlink > 0 && was.ino !== ROOT_INO) {
      const place = this.#tree.rows.findName(was.parent, was.ino)
      const parent = this.#dir(was.parent)
      const name = place ? this.#tree.openName(place.key, place.name) : Buffer.from('recovered')
      const there = this.#made.has(was.ino) ? undefined : this.#lookup(parent, name)
      to = there?.isDir ? there.ino : this.#make(was, parent, name) ?? ROOT_INO
    }
    this.#dirs.set(was?.ino ?? ino, to)
    return to
  }

  #freeName(parent: number, name: Buffer): Buffer {
    if (!this.#lookup(parent, name)) return name
    return conflictName(name, this.#m.deviceName, this.#m.clock.nowMs() / 1000, (free) => this.#lookup(parent, free) !== undefined)
  }

  // --- inodes -----------------------------------------------------------------

  /** What others have too: attributes and content as they were here. */
  #change(ino: number, now: Inode, place: Name | undefined): void {
    const was = this.#tree.get(ino)!
    const { fields, xattrs, base } = this.#touched.get(ino)!
    if (was.isFile && now.isFile && !this.#isThere(was.version) && !this.#isEqual(was, now)) {
      const extends_ = base !== undefined && this.#number(base) === now.version
      if (extends_ || Math.floor(now.version / INO_HIGH) === this.#m.journal.incarnation) this.#write(was, now.ino)
      else this.#make(was, place?.parent ?? ROOT_INO, place?.name ?? Buffer.from('recovered'))
    }
    if (fields.size > 0) {
      const op: SetAttrOp = { type: 'setattr', ino: now.ino, ctime: { sec: was.ctime, nsec: was.ctimeNs } }
      if (fields.has('mode')) op.mode = was.mode & 0o7777
      if (fields.has('uid')) op.uid = was.uid
      if (fields.has('gid')) op.gid = was.gid
      if (fields.has('atime')) op.atime = { sec: was.atime, nsec: was.atimeNs }
      if (fields.has('mtime')) op.mtime = this.#time(was)
      this.#submit(op)
    }
    for (const name of xattrs.values()) this.#xattr(was, now, name)
  }

  /** What others do not have, or have removed. */
  #bringBack(ino: number): void {
    const was = this.#tree.get(ino)!
    const isOnlyHere = this.#touched.get(ino)!.isCreated
    // Directories: where something is in them, or were made above.
    if (was.isDir || !(isOnlyHere || (was.isFile && !this.#isThere(was.version)))) return
    let made: number | undefined
    for (const { parent, name } of this.#names.get(ino) ?? []) {
      const dir = this.#dir(parent)
      const there = this.#lookup(dir, name)
      if (made === undefined) {
        made = there && !this.#made.has(was.ino) && this.#isEqual(was, there) ? there.ino : this.#make(was, dir, name)
        if (made === undefined) return
      } else if (there?.ino !== made) {
        this.#submit({ type: 'link', ino: made, parent: dir, name: this.#freeName(dir, name), time: this.#time(was) })
      }
    }
  }

  /** A new inode as `was`, with all that it has, under a free name; the one that another run has begun, if it is there. Undefined, and told, where it can not be. */
  #make(was: Inode, parent: number, name: Buffer): number | undefined {
    const made = this.#made.get(was.ino)
    if (made?.isWhole) return made.ino
    const begun = made && this.#m.tree.get(made.ino)
    const ino = begun && begun.nlink > 0 ? begun.ino : this.#create(was, parent, name)
    if (ino === undefined) return undefined
    const inode = this.#m.tree.get(ino)!
    for (const n of was.flags & HAS_XATTRS ? this.#tree.xattrNames(was) : []) this.#xattr(was, inode, n)
    if (was.isFile && !this.#isEqual(was, inode)) this.#write(was, ino)
    this.#note(was, ino, true)
    return ino
  }

  #create(was: Inode, parent: number, name: Buffer): number | undefined {
    const ino = this.#m.journal.newIno()
    const op: Op = {
      type: 'create', parent, name: this.#freeName(parent, name), ino, mode: was.mode, uid: was.uid, gid: was.gid, rdev: was.rdev, time: this.#time(was),
      ...((was.mode & S_IFMT) === S_IFLNK ? { target: this.#tree.readlink(was) } : {}),
    }
    // Before it: the op may be the last of its commit.
    this.#note(was, ino, false)
    let outcome = this.#submit(op)
    if (outcome !== '') outcome = this.#submit({ ...op, parent: ROOT_INO, name: this.#freeName(ROOT_INO, name) })
    if (outcome === '') return ino
    this.#note(was, undefined)
    process.emitWarning(`what was written here alone can not be made again (${outcome})`)
    return undefined
  }

  /** What has been made for `was`; undefined: nothing. */
  #note(was: Inode, ino: number | undefined, isWhole = false): void {
    if (ino === undefined) {
      this.#made.delete(was.ino)
      this.#m.db.sql.prepare('DELETE FROM rescued WHERE was = ?').run(was.ino)
    } else {
      this.#made.set(was.ino, { ino, isWhole })
      this.#noteMade.run(was.ino, ino, isWhole ? 1 : 0)
    }
    this.#m.journal.touched()
  }

  #xattr(was: Inode, now: Inode, name: Buffer): void {
    const value = this.#tree.getXattr(was, name) ?? null
    const there = this.#m.tree.getXattr(now, name)
    if (value === null ? there === undefined : there?.equals(value)) return
    this.#submit({ type: 'xattr', ino: now.ino, name, value, ctime: { sec: was.ctime, nsec: was.ctimeNs } })
  }

  #write(was: Inode, ino: number): void {
    const extents = this.#tree.rows.allExtents(was.ino)
    const ctime = { sec: was.ctime, nsec: was.ctimeNs }
    const base = () => this.#m.tree.get(ino)!.version
    for (const op of wholeContent({ ino, base, size: was.size, extents, chunk: (num) => this.#chunk(num), mtime: this.#time(was), ctime })) this.#submit(op)
  }

  #chunk(num: number): LocalChunk {
    const { seg, off } = this.#chunks.get(num)!
    const data = seg === 0 ? this.#chunks.inlineData(num) : undefined
    return { ...this.#chunks.identity(num)!, num: 0, seg, off, ...(data && { data }) }
  }

  /** Whether a file, link or node of before and one of now are the same to read. */
  #isEqual(was: Inode, now: Inode): boolean {
    if ((was.mode & S_IFMT) !== (now.mode & S_IFMT) || was.isDir) return false
    if (was.isLink) return this.#tree.readlink(was).equals(this.#m.tree.readlink(now))
    if (!was.isFile) return was.rdev === now.rdev
    if (was.size !== now.size) return false
    const a = this.#tree.rows.allExtents(was.ino)
    const b = this.#m.tree.rows.allExtents(now.ino)
    return a.length === b.length && a.every((e, i) => {
      const o = b[i]!
      return e.off === o.off && e.len === o.len && e.coff === o.coff && this.#chunks.identity(e.chunk)!.h.equals(this.#m.tree.rows.chunks.identity(o.chunk)!.h)
    })
  }

  #time(inode: Inode): Time { return { sec: inode.mtime, nsec: inode.mtimeNs } }

  #submit(op: Op): Outcome {
    const outcome = this.#m.engine.submitNow(op)
    if (outcome === '') this.#ops++
    return outcome
  }
}

/** All names of some inodes, in one pass. */
function namesOf(tree: Tree, db: Pick<Database, 'sql'>, inos: ReadonlySet<number>): Map<number, Name[]> {
  const names = new Map<number, Name[]>()
  for (const [parent, key, name, ino, op] of db.sql.prepare('SELECT parent, key, name, ino, op FROM dentry').raw(true).iterate() as Iterable<[number, Buffer, Buffer, number, number]>) {
    if (!inos.has(ino)) continue
    const list = names.get(ino)
    const one = { parent, name: tree.openName(key, name), op: Math.abs(op) }
    if (list) list.push(one)
    else names.set(ino, [one])
  }
  return names
}

function isSame(a: { parent: number; name: Buffer }, b: { parent: number; name: Buffer }): boolean {
  return a.parent === b.parent && a.name.equals(b.name)
}

function never(): never { throw new Error('invariant: only read') }
