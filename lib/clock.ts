/**
 * Wall-clock time to the microsecond. Rooms that must be deterministic (tree,
 * order, placement) take a Clock as an argument, so that a simulator can drive
 * them.
 */
export interface Time {
  /** Seconds since 1970; negative before. */
  sec: number
  /** Nanoseconds, 0..999,999,999. */
  nsec: number
}

export interface Clock {
  now(): Time
  /** Milliseconds since 1970. */
  nowMs(): number
}

/** A step of the system's clock larger than this is followed; smaller ones are the two sources' own jitter. */
const STEP_MS = 3

/**
 * The system's clock. Never goes backwards unless the system's does by more
 * than STEP_MS, so that two writes in a row have ordered mtimes.
 */
export class SystemClock implements Clock {
  #baseMs = performance.timeOrigin
  #lastMs = 0

  nowMs(): number {
    let ms = this.#baseMs + performance.now()
    const wall = Date.now()
    if (ms < wall - STEP_MS || ms > wall + 1 + STEP_MS) {
      this.#baseMs += wall - ms
      this.#lastMs = 0
      ms = wall
    }
    if (ms < this.#lastMs) return this.#lastMs
    this.#lastMs = ms
    return ms
  }

  now(): Time {
    return fromMs(this.nowMs())
  }
}

/** Whatever waits on the loop has its turn first. */
export function turn(): Promise<void> { return new Promise((resolve) => setImmediate(resolve)) }

export function fromMs(ms: number): Time {
  const sec = Math.floor(ms / 1000)
  const nsec = Math.min(999_999_999, Math.max(0, Math.round((ms - sec * 1000) * 1e6)))
  return { sec, nsec }
}

export function toMs(sec: number, nsec: number): number {
  return sec * 1000 + nsec / 1e6
}

/**
 * What happens later, and how long something takes. The system's in a daemon;
 * a simulator puts its own in place, so that one seed decides all of it.
 */
export interface Timers {
  /** Milliseconds of a clock that only goes forward, at a steady pace. */
  nowMs(): number
  /** Once, `ms` from now. Gives what cancels it. */
  after(ms: number, run: () => void): () => void
  /** Every `ms`, while the process has anything else to do. Gives what ends it. */
  every(ms: number, run: () => void): () => void
  /** When what waits on the loop has had its turn. */
  soon(run: () => void): void
}

export const systemTimers: Timers = {
  nowMs: () => performance.now(),
  after: (ms, run) => {
    const timer = setTimeout(run, ms)
    return () => clearTimeout(timer)
  },
  every: (ms, run) => {
    const timer = setInterval(run, ms)
    timer.unref()
    return () => clearInterval(timer)
  },
  soon: (run) => { setImmediate(run) },
}
