/**
 * The log of this device: when it begins, waits, and goes on as another
 * incarnation.
 *
 *   begins    with an index that was taken in from others, by its first entry
 *   held      no entry is made, since others may have what must come before it:
 *             entries of ours that are lost here (a disk that lied, a backup), or
 *             all that was written since a storage device got what it keeps
 *   goes on   as it was, or as a new incarnation with numbers of its own
 *
 * An entry made too early would have a number that is taken, or would not have
 * seen what this device has said that it has. What programs want waits meanwhile,
 * and is done upon what has come: a file that was removed meanwhile comes back
 * with what was written to it.
 */
import type { Timers } from './clock.js'
import { newIncarnation } from './keys/device.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import { INO_HIGH, type Op } from './log/ops.js'
import type { Newcomers } from './log/newcomers.js'
import { S_IFREG } from './log/mode.js'
import type { CausalEngine } from './order/causal/engine.js'
import type { Database } from './store/database.js'
import { conflictName } from './tree/conflict-name.js'
import { HAS_XATTRS, ROOT_INO } from './tree/inode.js'
import { COPY_INO } from './tree/merge.js'
import type { Tree } from './tree/tree.js'
import { wholeContent } from './whole-content.js'

/** What others have written is waited for so long at most, by a device that knows it lacks something. */
const CATCH_UP_MS = 10_000

export interface OwnLogParts {
  db: Database
  canWrite: boolean
  device: Buffer
  deviceName(): string
  timers: Timers
  log: Log
  journal: Journal
  engine: CausalEngine
  tree: Tree
  newcomers: Newcomers
}

export class OwnLog {
  readonly #p: OwnLogParts
  /** What was taken back when it was held. */
  #held: { ops: Op[]; first: number } | null = null
  /** Held until what others have is here. */
  #catchingUp: { stop: () => void; onEnd: (() => void) | undefined } | null = null
  /** We go on as this incarnation: for the key file. */
  onRenew: (incarnation: Buffer) => void = () => {}

  constructor(parts: OwnLogParts) {
    this.#p = parts
  }

  get isHeld(): boolean { return this.#held !== null }

  /** Once. `replaced`: the index may be older than what this device has written; called when it is not any more. */
  start(replaced?: () => void): void {
    const { db, canWrite, log, journal, newcomers } = this.#p
    if (!canWrite) return replaced?.()
    const isNew = log.head(journal.incarnation).seq === 0 && journal.nextOpCounter === 1
    if (isNew) newcomers.isBeginning = true
    // What a storage device keeps is not the newest: who has not seen what the others call final is not taken.
    if (replaced || (isNew && db.getMeta('from_keeper') === 1)) this.#catchUp(replaced)
    else if (isNew) this.#introduce()
  }

  #introduce(): void {
    const { engine, journal, newcomers } = this.#p
    if (newcomers.isBeginning) newcomers.begin(engine.has())
    engine.begin(journal.incarnation)
    engine.submitNow({ type: 'author', name: Buffer.from(this.#p.deviceName()) })
  }

  #catchUp(onEnd: (() => void) | undefined): void {
    this.hold()
    this.#catchingUp = { stop: this.#p.timers.after(CATCH_UP_MS, () => this.caughtUp()), onEnd }
  }

  get isCatchingUp(): boolean { return this.#catchingUp !== null }

  /** What others have that are within reach is here, or was waited for long enough. */
  caughtUp(): void {
    if (this.#catchingUp && !this.#p.journal.stopped) this.resume()
  }

  /** Before the last sync of a session. With nothing waiting, the next session waits again. `isDirty`: more is to come. */
  end(isDirty: boolean): void {
    if (!this.#catchingUp) return
    const { journal, engine } = this.#p
    if (isDirty || engine.waiting > 0 || this.#held!.ops.length > 0) return this.caughtUp()
    this.#catchingUp.stop()
    this.#catchingUp = this.#held = null
    engine.goOn(() => '')
    journal.release(journal.incarnation)
  }

  #endCatchUp(): void {
    this.#catchingUp?.stop()
    this.#catchingUp?.onEnd?.()
    this.#catchingUp = null
  }

  /** No entry is made until `renew` or `resume`. */
  hold(): void {
    // Whoever calls waits for more than that, and ends it.
    this.#endCatchUp()
    if (this.#held) return
    const { journal, engine, tree } = this.#p
    this.#held = journal.hold()
    engine.hold()
    if (this.#held.ops.some((op) => op.type === 'author')) tree.rows.removeAuthor(journal.incarnation)
    journal.commit()
  }

  /** We go on as we were. */
  resume(): void { this.#release(this.#p.journal.incarnation) }

  /** What was lost is here again, or can not be: we go on as a new incarnation. Gives its id. */
  renew(): Buffer {
    this.hold()
    const id = newIncarnation()
    const inc = this.#p.log.index(id, this.#p.device)
    this.#p.db.setMeta('incarnation', inc)
    this.#release(inc)
    this.onRenew(id)
    return id
  }

  #release(inc: number): void {
    const held = this.#held
    if (!held) return
    this.#held = null
    const { journal, engine, tree, newcomers } = this.#p
    const old = journal.incarnation
    journal.release(inc)
    if (inc !== old || newcomers.isBeginning) this.#introduce()
    this.#endCatchUp()
    // What was numbered as the old incarnation's, as the new one's; and what came back, as what it came back as.
    const inos = new Map<number, number>()
    const versions = new Map<number, number>()
    const ino = (n: number) => inos.get(n) ?? (versions.has(n - COPY_INO) ? versions.get(n - COPY_INO)! + COPY_INO : n)
    const again = (op: Op): Op => {
      if (op.type === 'create' && inc !== old && Math.floor(op.ino / INO_HIGH) === old) inos.set(op.ino, journal.newIno())
      if (op.type === 'content' && this.#isGone(ino(op.ino), op.unnamed)) {
        const back = this.#bringBack(ino(op.ino), op.ctime)
        if (back !== undefined) inos.set(op.ino, back)
      }
      const now = renumber(op, ino)
      // What came meanwhile is seen by now.
      if (now.type === 'content') now.base = tree.get(now.ino)?.version ?? now.base
      // Whoever waits for the op looks at it afterwards.
      return Object.assign(op, now)
    }
    // Of what has no name any more nothing is told to others, who may have nothing left of it.
    const isOfNothing = (op: Op): boolean => (op.type === 'setattr' || op.type === 'xattr') && tree.get(op.ino)?.nlink === 0
    held.ops.forEach((op, i) => {
      // The new one has introduced itself.
      if (op.type === 'author' && inc !== old) return
      again(op)
      if (isOfNothing(op)) return
      versions.set(old * INO_HIGH + held.first + i, journal.newOpId())
      const outcome = engine.submitNow(op)
      if (outcome !== '') process.emitWarning(`after a lost tail: a ${op.type} can not be done again (${outcome})`)
    })
    engine.goOn((op) => (isOfNothing(again(op)) ? 'ENOENT' : engine.submitNow(op)))
    journal.touched()
    journal.commit()
  }

  /** Whether a file has lost its last name. A copy that merging has put away comes back by itself. */
  #isGone(ino: number, isUnnamed: boolean | undefined): boolean {
    const { rows } = this.#p.tree
    return !isUnnamed && (rows.get(ino)?.nlink ?? 0) === 0 && !rows.conflicts.has(ino)
  }

  /** A file that was removed meanwhile, as another one in its place, with what it held: for a write that did not know of it. */
  #bringBack(ino: number, time: { sec: number; nsec: number }): number | undefined {
    const { tree, engine, journal } = this.#p
    const was = tree.get(ino)
    const grave = tree.rows.orphan(ino)
    const dir = grave && grave.name.length > 0 ? tree.get(grave.parent) : undefined
    const isThere = dir?.isDir === true && dir.nlink > 0
    const parent = isThere ? dir : tree.get(ROOT_INO)!
    const wanted = isThere ? tree.openName(grave!.key, grave!.name) : Buffer.from('recovered')
    const isTaken = (name: Buffer) => tree.lookup(parent, name) !== 0
    const name = isTaken(wanted) ? conflictName(wanted, this.#p.deviceName(), time.sec, isTaken) : wanted
    const back = journal.newIno()
    const { uid, gid } = was ?? parent
    const made = engine.submitNow({ type: 'create', parent: parent.ino, name, ino: back, mode: was?.mode ?? S_IFREG | 0o600, uid, gid, rdev: 0, time })
    if (made !== '') return undefined
    if (!was) return back
    const chunk = (num: number) => ({ ...tree.rows.chunks.identity(num)!, num })
    const base = () => tree.get(back)!.version
    for (const op of wholeContent({ ino: back, base, size: was.size, extents: tree.rows.allExtents(ino), chunk, mtime: time, ctime: time })) engine.submitNow(op)
    for (const n of was.flags & HAS_XATTRS ? tree.xattrNames(was) : []) engine.submitNow({ type: 'xattr', ino: back, name: n, value: tree.getXattr(was, n)!, ctime: time })
    return back
  }
}

function renumber(op: Op, ino: (n: number) => number): Op {
  switch (op.type) {
    case 'author': case 'aside': return op
    case 'create': case 'link': case 'unlink': return { ...op, ino: ino(op.ino), parent: ino(op.parent) }
    case 'rename': return { ...op, ino: ino(op.ino), parent: ino(op.parent), newParent: ino(op.newParent), over: ino(op.over) }
    case 'content': case 'setattr': case 'xattr': return { ...op, ino: ino(op.ino) }
  }
}
