/**
 * The tree as it was: what a name stood for, what was in a directory and in a
 * file. Told from what is now, by undoing steps, the last first: those of the
 * history, and those of what is not final yet and may change places.
 *
 * What it says is exact for as long as nothing else runs after `sync`.
 */
import type { Op } from '../log/ops.js'
import type { Time } from '../clock.js'
import type { History } from './history.js'
import type { Extent } from './rows.js'
import { stepsOf, timeOf, type ContentStep, type NameStep, type Step } from './steps.js'
import type { Tree } from './tree.js'
import type { UndoRecord } from './undo.js'

export interface PastHost {
  tree: Tree
  history: History
  /** What is applied and not final. */
  engine: { readonly revision: number; unsettled(index: number): { key: number; ops: { op: Op; id: number; record: UndoRecord }[] } | undefined }
  nowMs(): number
  /** Ends the batch of ops that is open. */
  commit(): void
}

/** A name as it was, and what it stood for. */
export interface NameThen { key: Buffer; name: Buffer; ino: number }
export interface ContentThen { size: number; mtime: Time; extents: Extent[] }

export class Past {
  readonly #p: PastHost
  /** Of what is not final, by file or directory. */
  readonly #tail = new Map<number, Step[]>()
  /** Names that were changed with others, by op. */
  readonly #together = new Map<number, NameStep[]>()
  /** So many entries of it are in there. */
  #known = 0
  #revision = -1

  constructor(host: PastHost) {
    this.#p = host
  }

  /** Takes in what has happened meanwhile. With `isOver`: false, and it is not done, once that says yes. */
  sync(isOver: () => boolean = () => false): boolean {
    const { engine, commit, nowMs } = this.#p
    commit()
    if (engine.revision !== this.#revision) {
      this.#revision = engine.revision
      this.#tail.clear()
      this.#together.clear()
      this.#known = 0
    }
    for (let e = engine.unsettled(this.#known); e; e = engine.unsettled(this.#known)) {
      for (const { op, id, record } of e.ops) {
        const steps = stepsOf(op, id, record, timeOf(op, e.key, nowMs()))
        for (const s of steps) this.#add(s)
        const names = steps.filter((s) => s.what === 'name')
        if (names.length > 1) this.#together.set(id, names)
      }
      this.#known++
      if (isOver()) return false
    }
    return true
  }

  #add(s: Step): void {
    const list = this.#tail.get(s.ino)
    if (list) list.push(s)
    else this.#tail.set(s.ino, [s])
  }

  /** What has happened to a file, or to the names of a directory, in order. */
  stepsOf(ino: number): Step[] {
    const final = this.#p.history.stepsOf(ino)
    const tail = this.#tail.get(ino)
    return tail ? [...final, ...tail] : final
  }

  namesOf(dir: number): NameStep[] { return this.stepsOf(dir).filter((s) => s.what === 'name') }
  contentsOf(ino: number): ContentStep[] { return this.stepsOf(ino).filter((s) => s.what === 'content') }

  birthOf(ino: number): (Step & { what: 'birth' }) | undefined {
    return this.#p.history.birthOf(ino) ?? this.#tail.get(ino)?.find((s) => s.what === 'birth')
  }

  /** The other names that the op of a step has changed. */
  siblings(s: NameStep): NameStep[] {
    const all = s.n === undefined ? this.#together.get(s.op) ?? [] : this.#p.history.siblings(s)
    return all.filter((o) => o.ino !== s.ino || !o.key.equals(s.key))
  }

  /** Number of the inode that a name in a directory stood for at the end of the millisecond `atMs`; 0: none. */
  lookup(dir: number, key: Buffer, atMs: number): number {
    const after = this.namesOf(dir).find((s) => s.tMs > atMs && s.key.equals(key))
    return this.#then(after ? after.was : this.#p.tree.rows.dentry(dir, key), atMs)
  }

  /** The inode, if it was there. */
  #then(ino: number, atMs: number): number {
    if (ino === 0) return 0
    const stands = this.#p.tree.rows.resolve(ino)
    const birth = this.birthOf(stands)
    return birth && birth.tMs > atMs ? 0 : stands
  }

  /** All names of a directory. */
  list(dir: number, atMs: number): NameThen[] {
    const { rows } = this.#p.tree
    const then = new Map<string, NameThen>()
    const from = Buffer.alloc(16)
    for (let batch = rows.listDentries(dir, from, LIST_BATCH); batch.length > 0; batch = rows.listDentries(dir, from, LIST_BATCH)) {
      for (const [key, name, ino] of batch) then.set(key.toString('latin1'), { key, name, ino })
      batch[batch.length - 1]![0].copy(from)
      if (batch.length < LIST_BATCH || !increment(from)) break
    }
    const seen = new Set<string>()
    for (const s of this.namesOf(dir)) {
      const k = s.key.toString('latin1')
      if (s.tMs <= atMs || seen.has(k)) continue
      seen.add(k)
      if (s.was === 0) then.delete(k)
      else then.set(k, { key: s.key, name: s.name, ino: s.was })
    }
    const out: NameThen[] = []
    for (const n of then.values()) {
      const ino = this.#then(n.ino, atMs)
      if (ino !== 0) out.push({ ...n, ino })
    }
    return out
  }

  /** What a file held; undefined: it was written to when that was not kept. */
  content(ino: number, atMs: number): ContentThen | undefined {
    const inode = this.#p.tree.rows.get(ino)
    if (!inode) return undefined
    const now = inode.pending ?? inode
    const then: ContentThen = { size: now.size, mtime: { sec: now.mtime, nsec: now.mtimeNs }, extents: [] }
    const steps = this.contentsOf(ino)
    const first = steps.findIndex((s) => s.tMs > atMs)
    const extents = new Map<number, Extent>()
    for (const e of this.#p.tree.rows.allExtents(ino)) extents.set(e.off, e)
    let { version } = inode
    for (let i = steps.length - 1; first >= 0 && i >= first; i--) {
      const s = steps[i]!
      if (s.after !== version) return undefined
      takeBack(extents, s)
      version = s.version
      then.size = s.size
      then.mtime = { sec: s.mtime, nsec: s.mtimeNs }
    }
    then.extents = [...extents.values()].sort((a, b) => a.off - b.off)
    return isSound(then) ? then : undefined
  }
}

const LIST_BATCH = 1024

function takeBack(extents: Map<number, Extent>, s: ContentStep): void {
  for (const [off, old] of s.extents) {
    if (old) extents.set(off, { off, ...old })
    else extents.delete(off)
  }
  for (const off of extents.keys()) if (off >= s.size) extents.delete(off)
}

/** Rows that came from others, or that a disk gave, are believed when they can be. */
function isSound({ size, extents }: ContentThen): boolean {
  let end = 0
  for (const e of extents) {
    if (e.off < end || e.len < 1) return false
    end = e.off + e.len
  }
  return end <= size
}

/** Adds one to a big-endian number. False: it was the last. */
function increment(key: Buffer): boolean {
  for (let i = key.length - 1; i >= 0; i--) {
    if (key[i] !== 255) {
      key[i]!++
      return true
    }
    key[i] = 0
  }
  return false
}
