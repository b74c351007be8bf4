/**
 * `dfs restore`: brings back what was, by ordinary ops that name the chunks that it
 * had, so that nothing is copied, and chunks that are elsewhere stay there.
 *
 * Looks first and writes then: what stands in the way, or is not known, is told
 * before anything has changed. It may be ended: never within a file.
 */
import type { OnProgress, RestoreOptions, RestoreReport } from './api.js'
import { turn, type Clock, type Timers } from './clock.js'
import { fail } from './errors.js'
import type { LocalChunk } from './file/flush.js'
import type { Files } from './file/files.js'
import { split, text, type PathApi } from './paths.js'
import type { Posix } from './posix.js'
import { isReservedXattr } from './settings.js'
import type { ChunkTable } from './store/chunks.js'
import type { History } from './tree/history.js'
import { HAS_XATTRS, ROOT_INO, S_IFDIR, S_IFMT, type Inode } from './tree/inode.js'
import type { ContentThen, Past } from './tree/past.js'
import type { Tree } from './tree/tree.js'
import { wholeContent } from './whole-content.js'

export interface RestoreParts {
  tree: Tree
  posix: Posix
  files: Files
  chunks: ChunkTable
  clock: Clock
  timers: Pick<Timers, 'nowMs'>
  history: History
  past: Past
  canWrite: boolean
}

/** The loop is had for so long. */
const SLICE_MS = 20

/** Where something goes: under this name in a directory, 0 if that has to be made. Of inodes the numbers are kept: objects may go while others have their turn. */
interface Goal { parent: number; name: Buffer; path: Buffer }

export async function restore(api: PathApi, p: RestoreParts, path: Buffer, options: RestoreOptions, onProgress?: OnProgress): Promise<RestoreReport> {
  if (!p.canWrite) throw fail('EROFS', 'the drive is read-only here: this device can tell what was, and not bring it back')
  // What programs have written so far is part of what was.
  await p.posix.sync()
  const run = new Restore(api, p, options, onProgress)
  return run.run(path)
}

class Restore {
  readonly #api: PathApi
  readonly #p: RestoreParts
  readonly #atMs: number
  readonly #to: Buffer | undefined
  readonly #force: boolean
  readonly #onProgress: OnProgress
  readonly #signal: AbortSignal | undefined
  #sliceEnd = 0
  #total = 0
  readonly #report: RestoreReport = { files: 0, directories: 0, bytes: 0, unchanged: 0 }
  /** Files with several names, as what they came back. */
  readonly #made = new Map<number, number>()

  constructor(api: PathApi, p: RestoreParts, { atMs, to, force, signal }: RestoreOptions, onProgress: OnProgress = () => {}) {
    this.#api = api
    this.#p = p
    this.#atMs = Math.floor(atMs)
    this.#to = to === undefined ? undefined : Buffer.from(to)
    this.#force = force ?? false
    this.#onProgress = onProgress
    this.#signal = signal
  }

  async run(path: Buffer): Promise<RestoreReport> {
    await this.#look()
    const then = this.#resolve(path)
    const { ino } = then.at(-1)!
    const names: Buffer[] = split(this.#to ?? path)
    if (names.length === 0 && !this.#inode(ino).isDir) throw fail('EISDIR', `${text(this.#to ?? path)} is a directory`)
    const goal = this.#goal(names)
    const there = this.#there(goal)
    if (this.#to && there && !this.#force) throw fail('EEXIST', `${text(this.#to)} exists already; with --force it is replaced`)
    await this.#check(ino, goal)
    const parent = await this.#parents(names, this.#to ? [] : then)
    await this.#bring(ino, { ...goal, parent })
    return this.#report
  }

  #inode(ino: number): Inode {
    const inode = this.#p.tree.get(ino)
    if (!inode) throw fail('ENOENT', `what was at ${when(this.#atMs)} has passed out of the retention meanwhile`)
    return inode
  }

  // --- looking --------------------------------------------------------------

  /** Takes in what is not final, in slices. EINVAL if nothing is kept, or not of that time. */
  async #look(): Promise<void> {
    const { history, past, clock, timers } = this.#p
    for (let end = timers.nowMs() + SLICE_MS; !past.sync(() => timers.nowMs() > end); end = timers.nowMs() + SLICE_MS) await turn()
    this.#sliceEnd = timers.nowMs() + SLICE_MS
    if (!history.isOn()) throw fail('EINVAL', 'nothing is kept of what was, for the drive has no retention; dfs config set retention 30d keeps it from then on')
    if (this.#atMs > clock.nowMs()) throw fail('EINVAL', `${when(this.#atMs)} is still to come`)
    if (this.#atMs < history.fromMs) throw fail('ENOENT', `what was at ${when(this.#atMs)} is not known any more; it is from ${when(history.fromMs)} on`)
  }

  /** Others get their turn now and then; what came meanwhile is taken in. */
  async #breathe(): Promise<void> {
    if (this.#p.timers.nowMs() >= this.#sliceEnd) {
      await turn()
      this.#p.past.sync()
      this.#sliceEnd = this.#p.timers.nowMs() + SLICE_MS
    }
    if (this.#signal?.aborted) throw fail('EINTR', this.#interrupted())
  }

  #interrupted(): string {
    const { files, directories } = this.#report
    if (files + directories === 0) return 'interrupted; nothing had changed'
    return `interrupted; files that had come back: ${files}, folders: ${directories}; the same again does the rest`
  }

  /** What the names of a path stood for then, from the root on. */
  #resolve(path: Buffer): { name: Buffer; ino: number }[] {
    const { tree, past } = this.#p
    const out: { name: Buffer; ino: number }[] = [{ name: SLASH, ino: ROOT_INO }]
    for (const name of split(path)) {
      const dir = out.at(-1)!.ino
      if (!tree.get(dir)?.isDir) throw fail('ENOTDIR', `${text(path)}: it leads through what was no directory at ${when(this.#atMs)}`)
      const key = tree.keyOf(dir, name)
      const ino = key ? past.lookup(dir, key, this.#atMs) : 0
      if (ino === 0 || !tree.get(ino)) throw fail('ENOENT', `${text(path)}: there was no such file or directory at ${when(this.#atMs)}; dfs log tells of what there was`)
      out.push({ name, ino })
    }
    return out
  }

  /** Where a path is now, as far as it is there. */
  #goal(names: Buffer[]): Goal {
    let parent = this.#p.tree.get(ROOT_INO)
    let path: Buffer = EMPTY
    if (names.length === 0) return { parent: ROOT_INO, name: DOT, path: SLASH }
    for (const name of names.slice(0, -1)) {
      path = below(path, name)
      const ino: number = parent ? this.#p.tree.lookup(parent, name) : 0
      parent = ino === 0 ? undefined : this.#p.tree.get(ino)
      if (parent && !parent.isDir) throw fail('ENOTDIR', `${text(path)} is not a directory; bring it back to another place with --to`)
    }
    const name = names.at(-1)!
    return { parent: parent?.ino ?? 0, name, path: below(path, name) }
  }

  #there({ parent, name }: Goal): Inode | undefined {
    const dir = this.#p.tree.get(parent)
    if (!dir || dir.nlink === 0) return undefined
    if (name.equals(DOT)) return dir
    const ino = this.#p.tree.lookup(dir, name)
    return ino === 0 ? undefined : this.#p.tree.get(ino)
  }

  /** What was in a directory. */
  #list(dir: number): { name: Buffer; ino: number }[] {
    const { tree, past } = this.#p
    return past.list(dir, this.#atMs).map((n) => ({ name: tree.openName(n.key, n.name), ino: n.ino }))
  }

  /** That all of it is known, and nothing stands in the way. */
  async #check(ino: number, goal: Goal): Promise<void> {
    await this.#breathe()
    const inode = this.#inode(ino)
    const there = this.#there(goal)
    if (there && (there.mode & S_IFMT) !== (inode.mode & S_IFMT) && !this.#force) {
      throw fail('EEXIST', `${text(goal.path)} is ${there.isDir ? 'a directory' : 'something else'} now; bring it back to another place with --to, or replace it with --force`)
    }
    this.#total++
    if (inode.isFile) this.#contentOf(inode, goal.path)
    if (!inode.isDir) return
    this.#onProgress({ phase: 'looking', done: this.#total, total: 0, unit: 'files' })
    const parent = there?.isDir ? there.ino : 0
    for (const { name, ino: child } of this.#list(ino)) await this.#check(child, { parent, name, path: below(goal.path, name) })
  }

  #contentOf(inode: Inode, path: Buffer): ContentThen {
    const then = this.#p.past.content(inode.ino, this.#atMs)
    if (!then) throw fail('ENOENT', `what ${text(path)} held at ${when(this.#atMs)} is not known`)
    return then
  }

  // --- writing --------------------------------------------------------------

  /** The directories above it, made again where they are missing; as they were then, by `then`. */
  async #parents(names: Buffer[], then: { name: Buffer; ino: number }[]): Promise<number> {
    let dir = ROOT_INO
    let path: Buffer = EMPTY
    for (const [i, name] of names.slice(0, -1).entries()) {
      path = below(path, name)
      const there = this.#there({ parent: dir, name, path })
      if (there && !there.isDir) throw fail('ENOTDIR', `${text(path)} is not a directory`)
      dir = there?.ino ?? await this.#make({ parent: dir, name, path }, then[i + 1]?.ino ?? dir)
    }
    return dir
  }

  async #bring(ino: number, goal: Goal): Promise<void> {
    await this.#breathe()
    const inode = this.#inode(ino)
    this.#onProgress({ phase: 'restoring', done: this.#report.files + this.#report.directories + this.#report.unchanged, total: this.#total, unit: 'files' })
    let there = this.#there(goal)
    const isOther = there && (there.mode & S_IFMT) !== (inode.mode & S_IFMT)
    const isStale = there && !isOther && !inode.isDir && !inode.isFile && !this.#isAlike(inode, there)
    if (there && (isOther || isStale)) {
      if (isOther && !this.#force) throw fail('EEXIST', `${text(goal.path)} is something else now; replace it with --force`)
      await this.#api.rm(goal.path, { recursive: true })
      there = undefined
    }
    if (inode.isDir) return this.#directory(ino, goal, there?.ino)
    if (inode.isFile) return this.#file(ino, goal, there?.ino)
    if (there) {
      this.#report.unchanged++
      return
    }
    await this.#make(goal, ino)
    this.#report.files++
  }

  #isAlike(a: Inode, b: Inode): boolean {
    return a.isLink ? this.#p.tree.readlink(a).equals(this.#p.tree.readlink(b)) : a.rdev === b.rdev
  }

  async #directory(ino: number, goal: Goal, there: number | undefined): Promise<void> {
    const children = this.#list(ino)
    const dir = there ?? await this.#make(goal, ino)
    if (there !== undefined) this.#report.unchanged++
    for (const { name, ino: child } of children) await this.#bring(child, { parent: dir, name, path: below(goal.path, name) })
  }

  async #file(ino: number, goal: Goal, there: number | undefined): Promise<void> {
    const linked = this.#made.get(ino)
    if (there === undefined && linked !== undefined) {
      this.#known(await this.#p.posix.link(linked, goal.parent, goal.name), goal.path)
      this.#named(goal)
      this.#p.posix.tell(null, (w) => w.inodeChanged(linked, -1, 0))
      this.#report.files++
      return
    }
    const file = there ?? await this.#make(goal, ino)
    if (there === undefined) this.#made.set(ino, file)
    await this.#write(ino, file, goal.path, there === undefined)
  }

  /** The file `to` gets what `ino` held then. */
  async #write(ino: number, to: number, path: Buffer, isNew: boolean): Promise<void> {
    const { tree, files, posix, chunks, clock, past } = this.#p
    const open = files.find(to)
    if (open?.isDirty) await files.flush(open)
    // From here to the first op nothing else runs.
    past.sync()
    const then = this.#contentOf(this.#inode(ino), path)
    const before = this.#inode(to).size
    if (!isNew && isSame(then, before, tree.rows.allExtents(to))) {
      this.#report.unchanged++
      return
    }
    const chunk = (num: number): LocalChunk => ({ ...chunks.identity(num)!, num, seg: 0, off: 0 })
    for (const op of wholeContent({ ino: to, base: () => this.#inode(to).version, size: then.size, extents: then.extents, chunk, mtime: then.mtime, ctime: clock.now() })) {
      const soon = posix.content(op)
      const outcome = typeof soon === 'string' ? soon : await soon
      if (outcome !== '') throw fail(outcome, `${text(path)} can not be written`)
    }
    posix.tell(null, (w) => w.inodeChanged(to, 0, 0, then.size < before))
    this.#report.files++
    this.#report.bytes += then.size
  }

  /** A new one like `inode`, without content. */
  async #make({ parent, name, path }: Goal, like: number): Promise<number> {
    const { tree, posix } = this.#p
    const inode = this.#inode(like)
    const attributes = (inode.flags & HAS_XATTRS ? tree.xattrNames(inode) : []).filter((n) => !isReservedXattr(n)).map((n) => [n, tree.getXattr(inode, n)!] as const)
    const { mode, gid } = inode
    const target = inode.isLink ? tree.readlink(inode) : undefined
    const owner = { uid: inode.uid, gid: inode.gid }
    const made = this.#known(await posix.make(parent, name, mode, 0, owner, { rdev: inode.rdev, ...(target && { target }) }), path)
    for (const [n, value] of attributes) {
      const outcome = await posix.setXattr(made.ino, n, value, 0, false)
      if (outcome !== '') throw fail(outcome, `${text(path)}: its attributes can not be set`)
    }
    // What the directory above gives to what is made in it.
    if (!made.isLink && (made.mode !== mode || made.gid !== gid)) this.#known(await posix.setattr(made.ino, { mode: mode & 0o7777, ...owner }), path)
    this.#named({ parent, name, path })
    if ((mode & S_IFMT) === S_IFDIR) this.#report.directories++
    return made.ino
  }

  #named({ parent, name }: Goal): void {
    this.#p.posix.tell(null, (w) => w.entryChanged(parent, name, 0))
    this.#p.posix.tell(null, (w) => w.inodeChanged(parent, -1, 0))
  }

  #known(result: Inode | string, path: Buffer): Inode {
    if (typeof result === 'string') throw fail(result as 'EIO', `${text(path)} can not be made`)
    return result
  }
}

function isSame(then: ContentThen, size: number, now: ContentThen['extents']): boolean {
  return then.size === size && then.extents.length === now.length &&
    then.extents.every((e, i) => e.off === now[i]!.off && e.len === now[i]!.len && e.chunk === now[i]!.chunk && e.coff === now[i]!.coff)
}

function below(path: Buffer, name: Buffer): Buffer {
  return path.equals(SLASH) || path.length === 0 ? Buffer.concat([SLASH, name]) : Buffer.concat([path, SLASH, name])
}

function when(ms: number): string { return Number.isFinite(ms) && Math.abs(ms) < 8.64e15 ? new Date(ms).toISOString() : 'that time' }

const SLASH = Buffer.from('/')
const DOT = Buffer.from('.')
const EMPTY = Buffer.alloc(0)
