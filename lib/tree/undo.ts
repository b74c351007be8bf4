/**
 * Undo records: the before-images of the rows that one op changed, in order.
 * Putting them back in reverse gives exactly the tree from before the op.
 *
 * One thing is not an image: by how many links a directory has changed with its
 * names. Ops on other names of it may then change places (causal/footprints.ts).
 *
 * Local to a device and never sent. A drive with one device keeps none.
 */
import { Reader, Writer } from '../log/codec.js'
import { fail } from '../errors.js'
import type { Rows } from './rows.js'

/** What changes with the names of a directory, besides these. */
export interface Stamp { mtime: number; mtimeNs: number; ctime: number; ctimeNs: number }

/** Where a name was, or is: what a dentry row holds. `op`: who placed it (see Rows.setDentry). */
export interface Named { name: Buffer; ino: number; op: number }

/** Where an inode without a name was last found, and the op that took the name; `op` 0: nobody asks. */
export interface Grave { parent: number; key: Buffer; name: Buffer; op: number }

/** A copy kept beside `of` because of a conflict: the op that put it aside. */
export interface Conflict { of: number; op: number }

export type Image =
  | { t: 'inode'; ino: number; row: number[] | null }
  | { t: 'dentry'; parent: number; key: Buffer; old: Named | null }
  | { t: 'extent'; ino: number; off: number; old: { len: number; chunk: number; coff: number } | null }
  | { t: 'xattr'; ino: number; key: Buffer; old: { name: Buffer; value: Buffer } | null }
  | { t: 'target'; ino: number; old: Buffer | null }
  | { t: 'orphan'; ino: number; old: Grave | null }
  | { t: 'alias'; ino: number; old: number }
  | { t: 'conflict'; ino: number; old: Conflict | null }
  | { t: 'names'; ino: number; links: number; old: Stamp }

export type UndoRecord = Image[]

/** Gathers images while an op is applied. Set as `rows.recorder` around it. */
export class UndoRecorder {
  readonly images: Image[] = []

  inode(ino: number, row: number[] | null): void { this.images.push({ t: 'inode', ino, row }) }
  dentry(parent: number, key: Buffer, old: Named | null): void { this.images.push({ t: 'dentry', parent, key: Buffer.from(key), old }) }
  extent(ino: number, off: number, old: { len: number; chunk: number; coff: number } | null): void { this.images.push({ t: 'extent', ino, off, old }) }
  xattr(ino: number, key: Buffer, old: { name: Buffer; value: Buffer } | null): void {
    this.images.push({ t: 'xattr', ino, key: Buffer.from(key), old })
  }
  target(ino: number, old: Buffer | null): void { this.images.push({ t: 'target', ino, old }) }
  orphan(ino: number, old: Grave | null): void { this.images.push({ t: 'orphan', ino, old }) }
  alias(ino: number, old: number): void { this.images.push({ t: 'alias', ino, old }) }
  conflict(ino: number, old: Conflict | null): void { this.images.push({ t: 'conflict', ino, old }) }
  names(ino: number, links: number, { mtime, mtimeNs, ctime, ctimeNs }: Stamp): void {
    this.images.push({ t: 'names', ino, links, old: { mtime, mtimeNs, ctime, ctimeNs } })
  }
}

/** Puts the images back, last first. */
export function undo(rows: Rows, record: UndoRecord): void {
  const recorder = rows.recorder
  rows.recorder = null
  for (let i = record.length - 1; i >= 0; i--) {
    const im = record[i]!
    switch (im.t) {
      case 'inode': rows.restoreInode(im.ino, im.row); break
      case 'dentry':
        if (im.old) rows.setDentry(im.parent, im.key, im.old.name, im.old.ino, im.old.op)
        else rows.removeDentry(im.parent, im.key)
        break
      case 'extent': rows.restoreExtent(im.ino, im.off, im.old); break
      case 'xattr': rows.setXattr(im.ino, im.key, im.old); break
      case 'target': rows.setTarget(im.ino, im.old); break
      case 'orphan':
        if (im.old) rows.addOrphan(im.ino, im.old)
        else rows.removeOrphan(im.ino)
        break
      case 'alias': rows.setAlias(im.ino, im.old); break
      case 'conflict': rows.setConflict(im.ino, im.old); break
      case 'names': rows.restoreNames(im.ino, im.links, im.old); break
    }
  }
  rows.recorder = recorder
}

const TAGS = ['inode', 'dentry', 'extent', 'xattr', 'target', 'orphan', 'alias', 'conflict', 'names'] as const
/** Columns of an inode row besides its number; rowOf in rows.ts. */
const ROW_FIELDS = 17

/** The records of one entry's ops, in their order, as one blob. */
export function encodeUndo(records: UndoRecord[]): Buffer {
  const w = new Writer(1024)
  w.uint(records.length)
  for (const record of records) {
    w.uint(record.length)
    for (const im of record) {
      w.byte(TAGS.indexOf(im.t))
      switch (im.t) {
        case 'inode':
          w.uint(im.ino)
          w.byte(im.row ? 1 : 0)
          if (im.row) for (let i = 1; i < ROW_FIELDS; i++) w.int(im.row[i]!)
          break
        case 'dentry':
          w.uint(im.parent); w.fixed(im.key); w.byte(im.old ? 1 : 0)
          if (im.old) { w.bytes(im.old.name); w.uint(im.old.ino); w.int(im.old.op) }
          break
        case 'extent':
          w.uint(im.ino); w.uint(im.off); w.byte(im.old ? 1 : 0)
          if (im.old) { w.uint(im.old.len); w.uint(im.old.chunk); w.uint(im.old.coff) }
          break
        case 'xattr':
          w.uint(im.ino); w.fixed(im.key); w.byte(im.old ? 1 : 0)
          if (im.old) { w.bytes(im.old.name); w.bytes(im.old.value) }
          break
        case 'target':
          w.uint(im.ino); w.byte(im.old ? 1 : 0)
          if (im.old) w.bytes(im.old)
          break
        case 'orphan':
          w.uint(im.ino); w.byte(im.old ? 1 : 0)
          if (im.old) { w.uint(im.old.parent); w.bytes(im.old.key); w.bytes(im.old.name); w.uint(im.old.op) }
          break
        case 'alias': w.uint(im.ino); w.uint(im.old); break
        case 'conflict':
          w.uint(im.ino); w.byte(im.old ? 1 : 0)
          if (im.old) { w.uint(im.old.of); w.uint(im.old.op) }
          break
        case 'names': w.uint(im.ino); w.int(im.links); w.int(im.old.mtime); w.int(im.old.mtimeNs); w.int(im.old.ctime); w.int(im.old.ctimeNs); break
      }
    }
  }
  return w.take()
}

/** STORE_DAMAGED for anything that encodeUndo does not write. */
export function decodeUndo(blob: Buffer): UndoRecord[] {
  const r = new Reader(blob)
  const records: UndoRecord[] = []
  for (let n = r.uint(); n > 0; n--) {
    const record: UndoRecord = []
    for (let m = r.uint(); m > 0; m--) {
      const t = TAGS[r.byte()]
      switch (t) {
        case 'inode': {
          const ino = r.uint()
          let row: number[] | null = null
          if (r.byte()) {
            row = [ino]
            for (let i = 1; i < ROW_FIELDS; i++) row.push(r.int())
          }
          record.push({ t, ino, row })
          break
        }
        case 'dentry': record.push({ t, parent: r.uint(), key: r.fixed(16), old: r.byte() ? { name: r.bytes(1024), ino: r.uint(), op: r.int() } : null }); break
        case 'extent': record.push({ t, ino: r.uint(), off: r.uint(), old: r.byte() ? { len: r.uint(), chunk: r.uint(), coff: r.uint() } : null }); break
        case 'xattr': record.push({ t, ino: r.uint(), key: r.fixed(16), old: r.byte() ? { name: r.bytes(1 << 20), value: r.bytes(1 << 20) } : null }); break
        case 'target': record.push({ t, ino: r.uint(), old: r.byte() ? r.bytes(1 << 20) : null }); break
        case 'orphan': record.push({ t, ino: r.uint(), old: r.byte() ? { parent: r.uint(), key: r.bytes(16), name: r.bytes(1024), op: r.uint() } : null }); break
        case 'alias': record.push({ t, ino: r.uint(), old: r.uint() }); break
        case 'conflict': record.push({ t, ino: r.uint(), old: r.byte() ? { of: r.uint(), op: r.uint() } : null }); break
        case 'names': record.push({ t, ino: r.uint(), links: r.int(), old: { mtime: r.int(), mtimeNs: r.int(), ctime: r.int(), ctimeNs: r.int() } }); break
        default: throw fail('STORE_DAMAGED', 'an undo record of the index is damaged')
      }
    }
    records.push(record)
  }
  return records
}
