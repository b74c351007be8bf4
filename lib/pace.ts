/**
 * How long to gather before something is done for all that came: short for what
 * comes alone, longer while it keeps coming, so that a stream of small things
 * costs little each and one small thing is done at once.
 */
export class Pace {
  readonly #firstMs: number
  readonly #longestMs: number
  #nowMs: number
  #lastMs = -Infinity

  constructor(firstMs: number, longestMs: number) {
    this.#firstMs = this.#nowMs = firstMs
    this.#longestMs = longestMs
  }

  /** To be waited for from `nowMs` on. */
  next(nowMs: number): number {
    // Twice what was waited for without anything new: it came to rest.
    const rested = nowMs - this.#lastMs > this.#nowMs * 2 + this.#firstMs
    this.#nowMs = rested ? this.#firstMs : Math.min(this.#longestMs, this.#nowMs * 1.4)
    this.#lastMs = nowMs + this.#nowMs
    return this.#nowMs
  }
}
