/**
 * FUSE_INTERRUPT: the caller of a waiting request got a signal.
 *
 * The kernel says so once, for any signal, also for those after which a program
 * goes on (profilers, progress timers, Go's preemption): a local file system never
 * fails a read for them, so neither do we. It is looked up in /proc which signal
 * it is, and looked again while the request waits, for no second message comes.
 */
import { readFileSync } from 'node:fs'

import type { Interrupt } from '../operations.js'

const SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGTERM = 15
/** Asked for by a person or a supervisor: also a program that handles them wants its call back. */
const ASKS_TO_STOP = bits(SIGHUP, SIGINT, SIGQUIT, SIGTERM)
/** Those which by default do not end the process: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH. */
const HARMLESS = bits(17, 18, 19, 20, 21, 22, 23, 28)
const LOOK_AGAIN_MS = 200

/** A READ or FSYNC that has not been answered. */
export class PendingCall implements Interrupt {
  interrupted = false
  readonly #callbacks: (() => void)[] = []

  /** Whether the operation heeds an interrupt: it may wait for others. */
  get isHeeded(): boolean { return this.#callbacks.length > 0 }

  onInterrupt(callback: () => void): void {
    if (this.interrupted) callback()
    else this.#callbacks.push(callback)
  }

  interrupt(): void {
    if (this.interrupted) return
    this.interrupted = true
    for (const callback of this.#callbacks) callback()
  }
}

function bits(...signals: number[]): bigint {
  return signals.reduce((sum, signal) => sum | 1n << BigInt(signal - 1), 0n)
}

/** Whether the signals in /proc/PID/status ask for the call to end. */
export function asksToStop(status: string): boolean {
  const mask = (name: string) => BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)`, 'm').exec(status)?.[1] ?? '0'}`)
  const pending = (mask('SigPnd') | mask('ShdPnd')) & ~mask('SigBlk') & ~mask('SigIgn')
  const fatal = pending & ~mask('SigCgt') & ~HARMLESS
  return (fatal | pending & ASKS_TO_STOP) !== 0n
}

/**
 * Calls `stop` when the thread `pid` is to end its call: now or later, until the function returned is called.
 * A thread that cannot be looked at (gone, or in another pid namespace) is taken as one that ends.
 */
export function watchSignals(pid: number, stop: () => void): () => void {
  let timer: NodeJS.Timeout | undefined
  const look = () => {
    let status: string | undefined
    try {
      if (pid > 0) status = readFileSync(`/proc/${pid}/status`, 'latin1')
    } catch { /* gone */ }
    if (status === undefined || asksToStop(status)) stop()
    else timer = setTimeout(look, LOOK_AGAIN_MS).unref()
  }
  look()
  return () => clearTimeout(timer)
}
