/**
 * What an op has taken away, told from its undo record: what a history keeps of
 * it. The records of final ops are the same on every device, and so are these.
 *
 *   birth     an inode begins to be, and so does the name that it is made under
 *   content   what a file held before: the extents that are other ones since, its size and time
 *   name      what a name stood for before: an inode, or nothing
 *
 * A state is had back by undoing steps, the last first; nothing in one says what
 * came after it, but for the version, by which a gap is noticed.
 */
import type { Op } from '../log/ops.js'
import { NEVER_LINKED } from './inode.js'
import type { Image, UndoRecord } from './undo.js'

/** Of an extent row that began at an offset; null: none did. */
export type ExtentBefore = { len: number; chunk: number; coff: number } | null

export type Step =
  | { what: 'birth'; ino: number; op: number; tMs: number; how: How; /** The last content op that counts to it, 0 if there is none. */ after: number }
  | {
    what: 'content'; ino: number; op: number; tMs: number
    /** Versions: that it takes the file back to, and that it begins at. */
    version: number; after: number
    size: number; mtime: number; mtimeNs: number
    /** By offset. Those behind `size`, where nothing was, are there for a step before this one that it may become part of. */
    extents: Map<number, ExtentBefore>
  }
  | {
    what: 'name'; ino: number; op: number; tMs: number; how: How
    key: Buffer
    /** Sealed; empty if the name stood for nothing. */
    name: Buffer
    /** 0: nothing. */
    was: number
    /** It was the last name of `was`. */
    isGone: boolean
    /** Its place in the history; undefined while it is not final. */
    n?: number
  }

export type ContentStep = Step & { what: 'content' }
export type NameStep = Step & { what: 'name' }
export type How = 'create' | 'link' | 'unlink' | 'rename' | 'other'

/** An op is not older than this before its entry was made, whatever it says. */
const MAX_LAG_MS = 60_000

/** In the row of an inode image (rowOf in rows.ts). */
const SIZE = 6, VERSION = 8, MTIME = 11, MTIME_NS = 12, FLAGS = 15

/**
 * When an op was done, in whole milliseconds: as it says, but not long before
 * `keyMs`, its entry's place in the order, and not after `nowMs`.
 */
export function timeOf(op: Op, keyMs: number, nowMs: number): number {
  const time = 'time' in op ? op.time : 'ctime' in op ? op.ctime : undefined
  const says = time ? time.sec * 1000 + Math.floor(time.nsec / 1e6) : keyMs
  return Math.floor(Math.min(Math.max(says, keyMs - MAX_LAG_MS), nowMs))
}

export function stepsOf(op: Op, id: number, record: UndoRecord, tMs: number): Step[] {
  const out: Step[] = []
  const how = howOf(op)
  const known = new Set<number>()
  let content: ContentStep | undefined
  for (const im of record) {
    if (im.t === 'inode') {
      if (known.has(im.ino)) continue
      known.add(im.ino)
      if (isBirth(im, record)) out.push({ what: 'birth', ino: im.ino, op: id, tMs, how, after: op.type === 'content' && op.ino === im.ino ? id : 0 })
      else if (op.type === 'content' && op.ino === im.ino && im.row && !(im.row[FLAGS]! & NEVER_LINKED)) {
        const row = im.row
        out.push(content = { what: 'content', ino: im.ino, op: id, tMs, version: row[VERSION]!, after: id, size: row[SIZE]!, mtime: row[MTIME]!, mtimeNs: row[MTIME_NS]!, extents: new Map() })
      }
    } else if (im.t === 'dentry') {
      // An op may come to a name twice: what it found first is what was there.
      if (out.some((s) => s.what === 'name' && s.ino === im.parent && s.key.equals(im.key))) continue
      const was = im.old?.ino ?? 0
      const isGone = was !== 0 && record.some((o) => o.t === 'orphan' && o.ino === was && o.old === null)
      out.push({ what: 'name', ino: im.parent, op: id, tMs, how, key: im.key, name: im.old?.name ?? EMPTY, was, isGone })
    } else if (im.t === 'extent' && im.ino === content?.ino) {
      if (!content.extents.has(im.off)) content.extents.set(im.off, im.old)
    }
  }
  const names = out.filter((s) => s.what === 'name')
  // What it is made under stood for nothing, which the birth says too.
  const isMade = op.type === 'create' && names.length === 1 && names[0]!.was === 0 && out.some((s) => s.what === 'birth')
  // An op of our own finds its names in another order than the same one that is merged.
  return [...out.filter((s) => s.what === 'birth'), ...out.filter((s) => s.what === 'content'), ...(isMade ? [] : names.sort(inOrder))]
}

function inOrder(a: NameStep, b: NameStep): number { return a.ino - b.ino || Buffer.compare(a.key, b.key) }

/** Made by the op, or given its first name. */
function isBirth(im: Image & { t: 'inode' }, record: UndoRecord): boolean {
  return im.row === null || ((im.row[FLAGS]! & NEVER_LINKED) !== 0 && record.some((o) => o.t === 'dentry'))
}

function howOf(op: Op): How {
  return op.type === 'create' || op.type === 'link' || op.type === 'unlink' || op.type === 'rename' ? op.type : 'other'
}

const EMPTY = Buffer.alloc(0)
