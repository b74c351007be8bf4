/** A queue whose first can be looked at; both ends in constant time, which an array's shift is not. */
export class Fifo<T> {
  #items: (T | undefined)[] = []
  #at = 0

  get length(): number { return this.#items.length - this.#at }
  get first(): T | undefined { return this.#items[this.#at] }

  push(item: T): void {
    this.#items.push(item)
  }

  shift(): T | undefined {
    const item = this.#items[this.#at]
    if (item === undefined) return undefined
    this.#items[this.#at++] = undefined
    if (this.#at === this.#items.length) this.clear()
    else if (this.#at > 1024 && this.#at * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#at)
      this.#at = 0
    }
    return item
  }

  clear(): void {
    this.#items = []
    this.#at = 0
  }
}
