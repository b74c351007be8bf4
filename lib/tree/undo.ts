/**
 * Undo records: the before-images of the rows that one op changed, in order.
 * Putting them back in reverse gives exactly the tree from before the op.
 *
 * Local to a device and never sent. A drive with one device keeps none.
 */
import type { Rows } from './rows.js'

type Image =
  | { t: 'inode'; ino: number; row: number[] | null }
  | { t: 'dentry'; parent: number; key: Buffer; old: { name: Buffer; ino: number } | null }
  | { t: 'extent'; ino: number; off: number; old: { len: number; chunk: number; coff: number } | null }
  | { t: 'xattr'; ino: number; key: Buffer; old: { name: Buffer; value: Buffer } | null }
  | { t: 'target'; ino: number; old: Buffer | null }
  | { t: 'orphan'; ino: number; was: boolean }

export type UndoRecord = Image[]

/** Gathers images while an op is applied. Set as `rows.recorder` around it. */
export class UndoRecorder {
  readonly images: Image[] = []

  inode(ino: number, row: number[] | null): void { this.images.push({ t: 'inode', ino, row }) }
  dentry(parent: number, key: Buffer, old: { name: Buffer; ino: number } | null): void {
    this.images.push({ t: 'dentry', parent, key: Buffer.from(key), old })
  }
  extent(ino: number, off: number, old: { len: number; chunk: number; coff: number } | null): void { this.images.push({ t: 'extent', ino, off, old }) }
  xattr(ino: number, key: Buffer, old: { name: Buffer; value: Buffer } | null): void {
    this.images.push({ t: 'xattr', ino, key: Buffer.from(key), old })
  }
  target(ino: number, old: Buffer | null): void { this.images.push({ t: 'target', ino, old }) }
  orphan(ino: number, was: boolean): void { this.images.push({ t: 'orphan', ino, was }) }
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
        if (im.old) rows.setDentry(im.parent, im.key, im.old.name, im.old.ino)
        else rows.removeDentry(im.parent, im.key)
        break
      case 'extent': rows.restoreExtent(im.ino, im.off, im.old); break
      case 'xattr': rows.setXattr(im.ino, im.key, im.old); break
      case 'target': rows.setTarget(im.ino, im.old); break
      case 'orphan':
        if (im.was) rows.addOrphan(im.ino)
        else rows.removeOrphan(im.ino)
        break
    }
  }
  rows.recorder = recorder
}
