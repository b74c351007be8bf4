/**
 * A tree by itself, over an index in a temporary folder: for properties of tree,
 * undo and order, with ops drawn from a seed.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DriveKeys } from '../../lib/keys/derive.js'
import type { ChunkRef, Op } from '../../lib/log/ops.js'
import { treeSealer } from '../../lib/drive.js'
import { ChunkTable } from '../../lib/store/chunks.js'
import { Database } from '../../lib/store/database.js'
import { INO_HIGH, ROOT_INO, S_IFDIR, S_IFLNK, S_IFREG } from '../../lib/tree/inode.js'
import { Rows } from '../../lib/tree/rows.js'
import { Tree } from '../../lib/tree/tree.js'
import { checkTree } from '../../lib/tree/check.js'

const keys = DriveKeys.fromRoot(Buffer.alloc(32, 7))
const sealer = treeSealer(keys)

export class TestTree {
  readonly dir = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'dfs-tree-'))
  readonly db = Database.create(join(this.dir, 'index.db'))
  readonly chunks = new ChunkTable(this.db)
  readonly rows = new Rows(this.db, this.chunks)
  readonly tree = new Tree({ rows: this.rows, sealer, incarnationId: (i) => Buffer.alloc(16, i) })

  constructor() {
    this.db.sql.exec('BEGIN')
    this.tree.makeRoot(0, 0, { sec: 1, nsec: 0 })
  }

  readonly chunkNumber = (ref: ChunkRef): number => {
    const known = this.chunks.findByHash(ref.h)
    return known > 0 ? known : this.chunks.add({ ...ref, seg: 1, off: 64 })
  }

  /** Everything that must be equal on two devices with the same order, as text; with `refs`, what undoing must give back too. */
  dump(refs = false): string {
    this.rows.flush()
    const all = (text: string) => this.db.sql.prepare(text).all() as Record<string, unknown>[]
    const out: unknown[] = [
      all('SELECT ino,mode,nlink,uid,gid,rdev,size,parent,version,mtime,mtime_ns,ctime,ctime_ns,bytes FROM inode ORDER BY ino'),
      all('SELECT parent,hex(key),hex(name),ino FROM dentry ORDER BY parent,key'),
      all('SELECT e.ino,e.off,e.len,hex(c.h),e.coff FROM extent e JOIN chunk c ON c.num=e.chunk ORDER BY e.ino,e.off'),
      all('SELECT ino FROM orphan ORDER BY ino'),
      all('SELECT ino,target FROM alias ORDER BY ino'),
      all('SELECT ino,of,op FROM conflict ORDER BY ino'),
      ...(refs ? [all('SELECT hex(h),refs FROM chunk WHERE refs != 0 ORDER BY h')] : []),
    ]
    for (const { ino } of all('SELECT DISTINCT ino FROM xattr ORDER BY ino') as { ino: number }[]) {
      const inode = this.tree.get(ino)!
      out.push([ino, this.tree.xattrNames(inode).map((n) => [n.toString(), this.tree.getXattr(inode, n)!.toString('hex')]).sort()])
    }
    for (const { ino } of all('SELECT ino FROM symlink ORDER BY ino') as { ino: number }[]) out.push([ino, this.tree.readlink(this.tree.get(ino)!).toString()])
    return out.map((o) => JSON.stringify(o)).join('\n')
  }

  /** What can be reached by a name, as text: what devices with the same entries agree upon. */
  shown(): string {
    this.rows.flush()
    const all = (text: string) => this.db.sql.prepare(text).all() as Record<string, unknown>[]
    const out: unknown[] = [
      ...all('SELECT ino,mode,nlink,uid,gid,rdev,size,parent,version,mtime,mtime_ns,ctime,ctime_ns,bytes FROM inode WHERE nlink>0 ORDER BY ino'),
      ...all('SELECT parent,key,name,ino,abs(op) AS op FROM dentry ORDER BY parent,key').map((d) => ({ ...d, key: '', name: sealer.openName(d['key'] as Buffer, d['name'] as Buffer).toString() })),
      ...all('SELECT e.ino,e.off,e.len,hex(c.h) AS h,e.coff FROM extent e JOIN chunk c ON c.num=e.chunk JOIN inode i ON i.ino=e.ino WHERE i.nlink>0 ORDER BY e.ino,e.off'),
      ...all('SELECT c.ino,c.of,c.op FROM conflict c JOIN inode i ON i.ino=c.ino WHERE i.nlink>0 ORDER BY c.ino'),
    ]
    for (const { ino } of all('SELECT DISTINCT x.ino FROM xattr x JOIN inode i ON i.ino=x.ino WHERE i.nlink>0 ORDER BY x.ino') as { ino: number }[]) {
      const inode = this.tree.get(ino)!
      out.push([ino, this.tree.xattrNames(inode).map((n) => [n.toString(), this.tree.getXattr(inode, n)!.toString('hex')]).sort()])
    }
    for (const { ino } of all('SELECT s.ino FROM symlink s JOIN inode i ON i.ino=s.ino WHERE i.nlink>0 ORDER BY s.ino') as { ino: number }[]) out.push([ino, this.tree.readlink(this.tree.get(ino)!).toString()])
    return out.map((o) => JSON.stringify(o)).join('\n')
  }

  findings(): string[] {
    this.rows.flush()
    return checkTree(this.db).map((f) => f.detail)
  }

  close(): void {
    this.db.close()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** mulberry32: numbers in [0, 1) from a seed. */
export function random(seed: number): () => number {
  let a = seed >>> 0
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** Draws ops that mostly make sense for what was made before, and some that do not. */
export class OpSource {
  readonly #rand: () => number
  #nextIno = 1
  #time = 10
  readonly #dirs = [ROOT_INO]
  readonly #files: number[] = []
  readonly #inc: number

  constructor(seed: number, incarnation = 1) {
    this.#rand = random(seed)
    this.#inc = incarnation
  }

  #pick<T>(list: readonly T[]): T { return list[Math.floor(this.#rand() * list.length)]! }
  #name(): Buffer { return Buffer.from(this.#pick(['a', 'b', 'c', 'd', 'e', 'long-name', 'ü'])) }
  #any(): number { return this.#pick(this.#files.length ? [...this.#dirs, ...this.#files] : this.#dirs) }

  /** `lookup` tells what a name means now, as a client would have seen it. */
  next(lookup: (parent: number, name: Buffer) => number): Op {
    const time = { sec: this.#time++, nsec: 0 }
    const parent = this.#pick(this.#dirs)
    const name = this.#name()
    const kind = this.#rand()
    if (kind < 0.3) {
      const ino = this.#inc * INO_HIGH + this.#nextIno++
      const type = this.#pick([S_IFREG, S_IFREG, S_IFDIR, S_IFLNK])
      if (type === S_IFDIR) this.#dirs.push(ino)
      else if (type === S_IFREG) this.#files.push(ino)
      return {
        type: 'create', parent, name, ino, mode: type | 0o644, uid: 1, gid: 2, rdev: 0, time,
        ...(type === S_IFLNK ? { target: Buffer.from('to/somewhere') } : {}), ...(this.#rand() < 0.1 ? { xattrs: [[Buffer.from('user.x'), Buffer.from('v')]] } : {}),
      }
    }
    if (kind < 0.36) return { type: 'link', ino: this.#any(), parent, name, time }
    if (kind < 0.5) return { type: 'unlink', parent, name, ino: lookup(parent, name), dir: this.#rand() < 0.4, time }
    if (kind < 0.7) {
      const newParent = this.#pick(this.#dirs)
      const newName = this.#name()
      return { type: 'rename', parent, name, ino: lookup(parent, name), newParent, newName, over: lookup(newParent, newName), exchange: this.#rand() < 0.2, time }
    }
    if (kind < 0.78) return { type: 'setattr', ino: this.#any(), mode: Math.floor(this.#rand() * 0o1000), ctime: time, ...(this.#rand() < 0.5 ? { mtime: time } : {}) }
    if (kind < 0.84) return { type: 'xattr', ino: this.#any(), name: Buffer.from(this.#pick(['user.a', 'user.b'])), value: this.#rand() < 0.3 ? null : Buffer.from(String(this.#time)), ctime: time }
    const chunks = [0, 1].map(() => {
      const h = Buffer.alloc(32, Math.floor(this.#rand() * 20))
      return { id: Buffer.alloc(32, h[0]! + 100), h, len: 1000 }
    })
    const at = Math.floor(this.#rand() * 3000)
    const len = 1 + Math.floor(this.#rand() * 900)
    return {
      type: 'content', ino: this.#any(), base: 0, cut: this.#rand() < 0.2 ? Math.floor(this.#rand() * 2000) : Infinity, size: at + len + 1000,
      chunks, pieces: [{ off: at, len, chunk: 0, coff: 10 }, { off: at + len, len: 500, chunk: this.#rand() < 0.2 ? -1 : 1, coff: 3 }], mtime: time, ctime: time,
    }
  }
}
