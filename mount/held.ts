/**
 * How often the kernel was told of each inode, less what it has forgotten: an
 * unlinked inode lives until this is zero. An open-addressing table over typed
 * arrays: 12 bytes a slot, so that a million cached inodes cost some 24 MB.
 */
const MIN_SLOTS = 1024

export class HeldInodes {
  #keys = new Float64Array(MIN_SLOTS)
  #counts = new Uint32Array(MIN_SLOTS)
  #used = 0

  get size(): number { return this.#used }

  has(ino: number): boolean {
    return this.#counts[this.#slot(ino)]! > 0
  }

  add(ino: number): void {
    const i = this.#slot(ino)
    if (this.#counts[i]!++ > 0) return
    this.#keys[i] = ino
    if (++this.#used * 2 > this.#keys.length) this.#resize(this.#keys.length * 2)
  }

  /** True: the kernel no longer knows it. */
  drop(ino: number, count: number): boolean {
    const i = this.#slot(ino)
    const now = this.#counts[i]!
    if (now === 0) return false
    if (now > count) {
      this.#counts[i] = now - count
      return false
    }
    this.#remove(i)
    this.#used--
    if (this.#keys.length > MIN_SLOTS && this.#used * 8 < this.#keys.length) this.#resize(this.#keys.length / 2)
    return true
  }

  #slot(ino: number): number {
    const mask = this.#keys.length - 1
    let i = hash(ino) & mask
    while (this.#counts[i]! > 0 && this.#keys[i] !== ino) i = (i + 1) & mask
    return i
  }

  /** Moves later members of the run back, so that no look-up stops short. */
  #remove(hole: number): void {
    const mask = this.#keys.length - 1
    this.#counts[hole] = 0
    for (let i = (hole + 1) & mask; this.#counts[i]! > 0; i = (i + 1) & mask) {
      const home = hash(this.#keys[i]!) & mask
      if (((i - home) & mask) < ((i - hole) & mask)) continue
      this.#keys[hole] = this.#keys[i]!
      this.#counts[hole] = this.#counts[i]!
      this.#counts[i] = 0
      hole = i
    }
  }

  #resize(slots: number): void {
    const keys = this.#keys
    const counts = this.#counts
    this.#keys = new Float64Array(slots)
    this.#counts = new Uint32Array(slots)
    for (let i = 0; i < keys.length; i++) {
      if (counts[i] === 0) continue
      const at = this.#slot(keys[i]!)
      this.#keys[at] = keys[i]!
      this.#counts[at] = counts[i]!
    }
  }
}

function hash(ino: number): number {
  return Math.imul((ino | 0) ^ Math.imul(Math.floor(ino / 4294967296), 0x85ebca6b), 0x9e3779b1) >>> 8
}
