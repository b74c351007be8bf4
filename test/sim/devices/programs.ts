/** What programs on a device might do, drawn from the world's seed. */
import { INO_HIGH, type ContentOp } from '../../../lib/log/ops.js'
import { ROOT_INO, S_IFDIR, S_IFLNK, S_IFREG } from '../../../lib/tree/inode.js'
import { crowd } from '../../helpers/crowd.js'
import { CHUNK_BYTES, type SimDevice } from './device.js'
import type { World } from './world.js'

/** Few, so that devices meet. */
const NAMES = ['a', 'b', 'c.txt', 'd']
/** Nothing is made deeper than this. */
const MAX_INODES = 60

export class Programs {
  readonly #world: World
  #writes = 0

  constructor(world: World) {
    this.#world = world
  }

  #pick<T>(list: readonly T[]): T { return list[this.#world.below(list.length)]! }

  /** One step of one program on `d`. */
  step(d: SimDevice): void {
    const { tree } = d.s.metadata
    tree.rows.flush()
    d.s.metadata.journal.touched('derived')
    const all = d.s.db.sql.prepare('SELECT ino, mode & 0xf000 AS type FROM inode WHERE nlink > 0').all() as { ino: number; type: number }[]
    // Local numbers differ between devices, and so between runs in which they meet in another order.
    const known = all.map((i) => ({ ...i, id: d.globalId(i.ino) })).sort((a, b) => (a.id < b.id ? -1 : 1))
    const dirs = known.filter((i) => i.type === S_IFDIR).map((i) => i.ino)
    const files = known.filter((i) => i.type === S_IFREG).map((i) => i.ino)
    if (this.#world.isCrowded && this.#world.chance(0.7)) {
      return crowd(this.#world, {
        tree, known, now: () => d.clock.now(), newIno: () => d.newIno(), submit: (op) => d.submit(op), write: (ino, isCommon) => this.write(d, ino, isCommon),
      })
    }
    const parent = this.#pick(dirs)
    const name = this.#pick(NAMES)
    const time = d.clock.now()
    const there = d.lookup(parent, name)
    const kind = this.#world.random()
    if (kind < 0.25) {
      if (there !== 0 || known.length > MAX_INODES) return
      const mode = this.#pick([S_IFREG | 0o644, S_IFREG | 0o600, S_IFREG | 0o640, S_IFDIR | 0o755, S_IFDIR | 0o755, S_IFLNK | 0o777])
      const ino = d.newIno()
      const outcome = d.submit({
        type: 'create', parent, name: Buffer.from(name), ino, mode, uid: 1, gid: 1, rdev: 0, time, ...((mode & 0xf000) === S_IFLNK ? { target: Buffer.from(`to/${name}`) } : {}),
      })
      if (outcome === '' && (mode & 0xf000) === S_IFREG && this.#world.chance(0.7)) this.write(d, ino)
    } else if (kind < 0.38) {
      const names = d.names(parent)
      if (names.length === 0) return
      const gone = this.#pick(names)
      const ino = d.lookup(parent, gone)
      d.submit({ type: 'unlink', parent, name: Buffer.from(gone), ino, dir: tree.get(ino)?.isDir ?? false, time })
    } else if (kind < 0.55) {
      const names = d.names(parent)
      if (names.length === 0) return
      const from = this.#pick(names)
      const newParent = this.#pick(dirs)
      const exchange = there !== 0 && this.#world.chance(0.15)
      d.submit({
        type: 'rename', parent, name: Buffer.from(from), ino: d.lookup(parent, from), newParent: exchange ? parent : newParent, newName: Buffer.from(name),
        over: d.lookup(exchange ? parent : newParent, name), exchange, time,
      })
    } else if (kind < 0.6) {
      if (files.length > 0 && there === 0) d.submit({ type: 'link', ino: this.#pick(files), parent, name: Buffer.from(name), time })
    } else if (kind < 0.68) {
      d.submit({ type: 'setattr', ino: this.#pick(known).ino, mode: this.#world.below(0o1000), ctime: time, ...(this.#world.chance(0.3) ? { mtime: time } : {}) })
    } else if (kind < 0.75) {
      const value = this.#world.chance(0.3) ? null : Buffer.from(String(this.#world.below(9)))
      d.submit({ type: 'xattr', ino: this.#pick(known).ino, name: Buffer.from(this.#pick(['user.a', 'user.b'])), value, ctime: time })
    } else if (files.length > 0) {
      this.write(d, this.#pick(files))
    }
  }

  /** Content that is written nowhere else, or `isCommon`, into the index or into a segment. */
  write(d: SimDevice, ino: number, isCommon = false): void {
    const content = isCommon ? `common ${this.#world.below(2)}` : `${d.name} ${++this.#writes}`
    const off = isCommon ? 0 : this.#world.below(4) * 100
    const length = isCommon ? CHUNK_BYTES : 1 + this.#world.below(CHUNK_BYTES)
    const cut = this.#world.chance(0.2) ? this.#world.below(400) : Infinity
    if (this.#world.chance(0.5)) this.#put(d, ino, d.chunk(content), off, length, cut)
    else {
      const at = d.s
      d.storedChunk(content).then((chunk) => { if (chunk && d.live === at) this.#put(d, ino, chunk, off, length, cut) }, (e: Error) => this.#world.broken(d, e))
    }
  }

  #put(d: SimDevice, ino: number, chunk: ContentOp['chunks'][number], off: number, len: number, cut: number): void {
    const inode = d.s.metadata.tree.get(ino)
    if (!inode?.isFile || inode.nlink === 0) return
    const time = d.clock.now()
    d.submit({
      type: 'content', ino, base: inode.version, cut, size: Math.max(cut === Infinity ? inode.size : Math.min(cut, inode.size), off + len), chunks: [chunk],
      pieces: [{ off, len, chunk: 0, coff: 0 }], mtime: time, ctime: time,
    })
  }
}

export { INO_HIGH, ROOT_INO }
