/**
 * Causal order: every device applies its own ops at once. While a drive has a
 * single device, its own order is the order; nothing is ever revised.
 */
import type { Op } from '../../log/ops.js'
import type { Outcome } from '../../tree/tree.js'
import type { OrderEngine, OrderHost } from '../engine.js'

export class CausalEngine implements OrderEngine {
  readonly name = 'causal'
  static readonly revises = false
  readonly revises = false
  readonly #host: OrderHost

  constructor(host: OrderHost) {
    this.#host = host
  }

  submit(op: Op): Outcome {
    const outcome = this.#host.apply(this.#host.newId(), op)
    if (outcome === '') this.#host.log(op)
    return outcome
  }

  async close(): Promise<void> {}
}
