/**
 * What an engine drives on this device: the tree, and the log of its own ops.
 * With an engine that revises, every applied op keeps its before-images until
 * the engine says that its place is final.
 *
 * Invariant: `applied` is the order so far from the last final op on, and
 * undoing it from the back gives the tree as it was at that op.
 */
import type { ChunkRef, Op } from '../log/ops.js'
import type { Outcome, Tree } from '../tree/tree.js'
import { undo, UndoRecorder, type UndoRecord } from '../tree/undo.js'
import type { OrderHost } from './engine.js'

interface Applied { id: number; op: Op; record: UndoRecord }

export interface ReplicaParts {
  tree: Tree
  newId(): number
  log(op: Op): void
  chunkNumber(ref: ChunkRef): number
  /** As OrderEngine.revises. */
  revises: boolean
}

export class Replica implements OrderHost {
  readonly #p: ReplicaParts
  readonly #applied: Applied[] = []

  constructor(parts: ReplicaParts) {
    this.#p = parts
  }

  /** Ops that can still be taken back, oldest first. */
  get applied(): readonly { id: number; op: Op }[] { return this.#applied }

  newId(): number { return this.#p.newId() }
  log(op: Op): void { this.#p.log(op) }

  apply(id: number, op: Op): Outcome {
    const { tree, revises } = this.#p
    if (!revises) return tree.apply(op, id, this.#p.chunkNumber)
    const recorder = new UndoRecorder()
    tree.rows.recorder = recorder
    let outcome: Outcome
    try { outcome = tree.apply(op, id, this.#p.chunkNumber) } finally { tree.rows.recorder = null }
    if (outcome === '') this.#applied.push({ id, op, record: recorder.images })
    else if (recorder.images.length > 0) throw new Error(`invariant: a refused ${op.type} has changed rows`)
    return outcome
  }

  undo(id: number): void {
    const last = this.#applied.pop()
    if (last?.id !== id) throw new Error(`invariant: op ${id} is undone and ${last?.id ?? 'nothing'} was applied last`)
    undo(this.#p.tree.rows, last.record)
  }

  /** The place of everything up to and including `id` will not change any more. */
  final(id: number): void {
    const i = this.#applied.findIndex((a) => a.id === id)
    if (i >= 0) this.#applied.splice(0, i + 1)
  }
}
