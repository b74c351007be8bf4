/**
 * Addresses worth trying, and when: given ones for ever, those that peers and the
 * local network told while they come to something. After a failure the wait
 * doubles, with jitter, so that two that lost each other do not dial in step; when
 * the network comes back all are tried at once.
 *
 * State of an entry: waiting (a timer runs) -> dialling -> connected -> waiting; or resting: its device is linked by TCP
 * anyway, or it is this device itself.
 */
import { MAX_LEARNED_ADDRESSES } from '../../limits.js'
import { formatAddress, type Address } from './address.js'
import type { NetStatus } from './link.js'

const FIRST_WAIT_MS = 500
const MAX_WAIT_MS = { given: 30_000, peer: 300_000, lan: 300_000 }
/** A connection that lasted so long was a success: the next wait is short again. */
const SUCCESS_MS = 30_000
/** Told once more, an address is tried again as if it had failed no more often than this: within 2 s. */
const TOLD_AGAIN_FAILURES = 2
/** Told addresses that never led anywhere are forgotten after so many. */
const MAX_FAILURES = 8

type From = NetStatus['dials'][number]['from']

export interface Entry {
  readonly text: string
  readonly address: Address
  from: From
  /** Public key in hex of the device that is, or should be, there. */
  peer: string | undefined
  state: 'waiting' | 'dialling' | 'connected' | 'resting'
  hasEverConnected: boolean
  failures: number
  lastError: string | undefined
  timer: NodeJS.Timeout | undefined
}

export interface DialerEvents {
  /** Calls begun() if there is a connection, rejects if there is none. */
  dial(entry: Entry): Promise<void>
  hasTcp(peer: string): boolean
}

export class Dialer {
  readonly #entries = new Map<string, Entry>()
  readonly #events: DialerEvents
  #isClosed = false

  constructor(events: DialerEvents) {
    this.#events = events
  }

  add(address: Address, from: From, peer?: string): void {
    if (this.#isClosed) return
    const text = formatAddress(address)
    const known = this.#entries.get(text)
    if (known) {
      if (from === 'given') known.from = 'given'
      // Somebody else may have the address now.
      if (peer !== undefined && known.state !== 'connected') known.peer = peer
      if (known.state === 'dialling' || known.state === 'connected') return
      // Somebody says that it is there: not after minutes.
      known.failures = Math.min(known.failures, TOLD_AGAIN_FAILURES)
      return this.#wait(known)
    }
    if (from !== 'given' && !this.#hasRoom()) return
    const entry: Entry = { text, address, from, peer, state: 'waiting', hasEverConnected: false, failures: 0, lastError: undefined, timer: undefined }
    this.#entries.set(text, entry)
    this.#try(entry)
  }

  /** Its dial has come to a connection; `ended` will be told of its end, maybe at once. */
  begun(entry: Entry): void {
    entry.state = 'connected'
  }

  /** The connection's other end is a member, and this one. */
  connected(entry: Entry, peer: string): void {
    entry.peer = peer
    entry.hasEverConnected = true
    entry.lastError = undefined
  }

  /** A connection that dial() made has ended. */
  ended(entry: Entry, reason: string, lastedMs: number): void {
    if (this.#entries.get(entry.text) !== entry) return
    if (reason === 'duplicate' || reason === 'replaced' || reason === 'connected to itself') {
      entry.state = 'resting'
      if (reason === 'connected to itself') entry.lastError = reason
      else this.#wait(entry)
      return
    }
    this.#failed(entry, reason, lastedMs)
  }

  /** The peer lost, or got, a TCP connection. */
  peerChanged(peer: string): void {
    for (const entry of this.#entries.values()) if (entry.peer === peer && entry.state === 'resting') this.#wait(entry)
  }

  /** The network has changed: what failed may work. */
  retry(): void {
    for (const entry of this.#entries.values()) {
      entry.failures = 0
      if (entry.state === 'waiting' || entry.state === 'resting') this.#wait(entry, 100)
    }
  }

  status(): NetStatus['dials'] {
    return [...this.#entries.values()].map(({ text, from, state, failures, lastError }) => ({ address: text, from, state, failures, lastError }))
  }

  close(): void {
    this.#isClosed = true
    for (const entry of this.#entries.values()) clearTimeout(entry.timer)
    this.#entries.clear()
  }

  #wait(entry: Entry, atMostMs = Infinity): void {
    clearTimeout(entry.timer)
    entry.state = 'waiting'
    const wholeMs = Math.min(FIRST_WAIT_MS * 2 ** entry.failures, MAX_WAIT_MS[entry.from], atMostMs)
    entry.timer = setTimeout(() => this.#try(entry), wholeMs * (0.5 + Math.random() / 2))
  }

  #try(entry: Entry): void {
    if (this.#isClosed || this.#entries.get(entry.text) !== entry) return
    if (entry.peer !== undefined && this.#events.hasTcp(entry.peer)) {
      entry.state = 'resting'
      return
    }
    entry.state = 'dialling'
    this.#events.dial(entry).catch((error: Error) => this.#failed(entry, error.message, 0))
  }

  #failed(entry: Entry, reason: string, lastedMs: number): void {
    entry.lastError = reason
    entry.failures = lastedMs > SUCCESS_MS ? 0 : entry.failures + 1
    if (this.#isClosed) return
    if (entry.from !== 'given' && !entry.hasEverConnected && entry.failures >= MAX_FAILURES) this.#entries.delete(entry.text)
    else this.#wait(entry)
  }

  /** Of the told ones, one that never connected and fails gives way. */
  #hasRoom(): boolean {
    if (this.#entries.size < MAX_LEARNED_ADDRESSES) return true
    for (const entry of this.#entries.values()) {
      if (entry.from === 'given' || entry.hasEverConnected || entry.failures === 0 || entry.state !== 'waiting') continue
      clearTimeout(entry.timer)
      this.#entries.delete(entry.text)
      return true
    }
    return false
  }
}
