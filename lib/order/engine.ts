/**
 * Who decides the order of ops. The tree applies them and knows nothing of it.
 *
 * An engine gets a device's own ops through `submit` and moves the drive along
 * through its host: apply at the tail, take back from the tail. What is applied
 * at any moment is the order so far, with the device's own undecided ops on top.
 */
import type { Op } from '../log/ops.js'
import type { Outcome } from '../tree/tree.js'

/** What an engine drives: one device's tree and log. All of it happens within the host's open transaction. */
export interface OrderHost {
  /** A fresh id for an op of our own. */
  newId(): number
  /** Applies `op` at the tail. Not '': refused, and nothing has changed. */
  apply(id: number, op: Op): Outcome
  /** Takes back the op that was applied last, which must be `id`. Only with an engine that `revises`. */
  undo(id: number): void
  /** The place of everything up to and including `id` will not change any more: its undo records may go. */
  final(id: number): void
  /** Puts an op of our own into the device's signed log. Once, and in the order of the ids. */
  log(op: Op): void
}

export interface OrderEngine {
  readonly name: string
  /** Whether ops that are applied may yet be taken back: then undo records are kept. */
  readonly revises: boolean
  /**
   * An op of this device. An outcome now: it is applied and in the log, or
   * refused. A promise: others decide; it settles when they have.
   */
  submit(op: Op): Outcome | Promise<Outcome>
  /**
   * Something that was local so far (a file without a name) becomes known:
   * `apply` makes it so in the tree, as the op with the id that it gets; `ops`
   * then says the same to others.
   */
  introduce(apply: (id: number) => Outcome, ops: () => Iterable<Op>): Outcome | Promise<Outcome>
  /** Whether nothing can come back of an inode without a name: neither its removal will be taken back, nor what was written to it since. */
  mayReap(ino: number): boolean
  /** May be called twice. */
  close(): Promise<void>
}

