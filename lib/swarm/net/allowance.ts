/** So many at once, and so many a second after: what others can make this device do. */
export class Allowance {
  readonly #most: number
  readonly #perSecond: number
  #left: number
  #atMs: number

  constructor(most: number, perSecond: number, nowMs = performance.now()) {
    this.#most = most
    this.#perSecond = perSecond
    this.#left = most
    this.#atMs = nowMs
  }

  /** False: not now. */
  take(nowMs = performance.now()): boolean {
    if (this.left(nowMs) < 1) return false
    this.#left--
    return true
  }

  left(nowMs = performance.now()): number {
    this.#left = Math.min(this.#most, this.#left + ((nowMs - this.#atMs) / 1000) * this.#perSecond)
    this.#atMs = nowMs
    return this.#left
  }
}
