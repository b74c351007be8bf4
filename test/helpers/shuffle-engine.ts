/**
 * An engine for the conformance suite: delays, refuses and reorders, by a seed.
 * It stands for whatever a leader or a chain may do to a device's own ops: they
 * show at once as pending, are decided later, in another order, and some are
 * turned down.
 */
import type { Op } from '../../lib/log/ops.js'
import type { OrderEngine, OrderHost } from '../../lib/order/engine.js'
import type { Outcome } from '../../lib/tree/tree.js'
import { random } from './tree.js'

interface Waiting { id: number; op: Op; settle: (o: Outcome) => void; applied: boolean }

export class ShuffleEngine implements OrderEngine {
  static readonly revises = true
  readonly name = 'shuffle'
  readonly revises = true
  readonly #host: OrderHost
  readonly #rand: () => number
  /** Undecided, in the order in which they came; those with `applied` are on top of the tree. */
  #pending: Waiting[] = []
  /** The order as decided. */
  readonly decided: { id: number; op: Op }[] = []

  constructor(host: OrderHost, seed: number) {
    this.#host = host
    this.#rand = random(seed)
  }

  submit(op: Op): Outcome | Promise<Outcome> {
    const id = this.#host.newId()
    this.#host.log(op)
    return new Promise((settle) => {
      // Some show at once, some only when decided.
      const applied = this.#rand() < 0.7 && this.#host.apply(id, op) === ''
      this.#pending.push({ id, op, settle, applied })
      if (this.#rand() < 0.3) this.step()
    })
  }

  introduce(apply: (id: number) => Outcome, ops: () => Iterable<Op>): Outcome {
    const outcome = apply(this.#host.newId())
    if (outcome === '') for (const op of ops()) this.#host.log(op)
    return outcome
  }

  mayReap(): boolean { return false }

  /** Decides some of what waits, not in the order in which it came. */
  step(all = false): void {
    // Back to what is decided.
    for (let i = this.#pending.length - 1; i >= 0; i--) if (this.#pending[i]!.applied) this.#host.undo(this.#pending[i]!.id)
    for (let n = all ? this.#pending.length : Math.ceil(this.#rand() * this.#pending.length); n > 0; n--) {
      const [w] = this.#pending.splice(Math.floor(this.#rand() * this.#pending.length), 1)
      const outcome: Outcome = this.#rand() < 0.15 ? 'EACCES' : this.#host.apply(w!.id, w!.op)
      if (outcome === '') {
        this.decided.push({ id: w!.id, op: w!.op })
        this.#host.final(w!.id)
      }
      w!.settle(outcome)
    }
    // Our own undecided ops back on top, as far as they still fit.
    for (const w of this.#pending) w.applied = this.#host.apply(w.id, w.op) === ''
  }

  async close(): Promise<void> {
    this.step(true)
  }
}
