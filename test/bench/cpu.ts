/** Processor time of a process by thread: on a machine that does other work, it says more than the clock. */
import { readdirSync, readFileSync } from 'node:fs'

/** USER_HZ, which Linux fixes for proc(5). */
const TICKS_PER_S = 100
/** Threads that are named one by one. */
const SHOWN = 4

/** Seconds, user and system, by thread id. */
function threadTimes(pid: number): Map<number, number> {
  const times = new Map<number, number>()
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    try {
      // After the name, which may hold anything, in parentheses: fields 14 and 15 of the whole.
      const fields = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'latin1').split(') ')[1]!.split(' ')
      times.set(Number(tid), (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S)
    } catch { /* it has ended */ }
  }
  return times
}

export class CpuMeter {
  readonly #pid: number
  readonly #before: Map<number, number>

  constructor(pid: number) {
    this.#pid = pid
    this.#before = threadTimes(pid)
  }

  /** Seconds since it was made. */
  get seconds(): number { return this.#spent().reduce((sum, [, s]) => sum + s, 0) }

  /** `5.4 s (main 2.0, others 1.8 0.9 0.3)`, the busiest first. */
  toString(): string {
    const spent = this.#spent()
    const main = spent.find(([tid]) => tid === this.#pid)?.[1] ?? 0
    const others = spent.filter(([tid]) => tid !== this.#pid).map(([, s]) => s).sort((a, b) => b - a).slice(0, SHOWN)
    return `${this.seconds.toFixed(1)} s (main ${main.toFixed(1)}, others ${others.map((s) => s.toFixed(1)).join(' ')})`
  }

  #spent(): [number, number][] {
    return [...threadTimes(this.#pid)].map(([tid, s]) => [tid, s - (this.#before.get(tid) ?? 0)])
  }
}
