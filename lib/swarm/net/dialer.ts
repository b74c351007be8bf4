/**
 * Addresses worth trying, and when: given ones and those kept from earlier runs
 * for ever, those that peers and the local network told while they come to something. After a failure the wait
 * doubles, with jitter, so that two that lost each other do not dial in step; when
 * the network comes back all are tried at once.
 *
 * State of an entry: waiting (a timer runs) -> dialling -> connected -> waiting; or resting: its devices are linked by TCP
 * anyway, or it is this device itself.
 *
 * What only hearsay names (nobody was ever reached there) is dialled so often of one host: whoever may tell addresses cannot
 * make devices flood somebody.
 */
import { HEARSAY_DIALS_AT_ONCE, HEARSAY_DIALS_PER_S, MAX_LEARNED_ADDRESSES } from '../../limits.js'
import { formatAddress, networkOf, type Address } from './address.js'
import { Allowance } from './allowance.js'
import type { NetStatus } from './link.js'

const FIRST_WAIT_MS = 500
const MAX_WAIT_MS = { given: 30_000, kept: 300_000, peer: 300_000, lan: 300_000 }
/** A connection that lasted so long was a success: the next wait is short again. */
const SUCCESS_MS = 30_000
/** Told once more, an address is tried again as if it had failed no more often than this: within 2 s. */
const TOLD_AGAIN_FAILURES = 2
/** Told addresses that never led anywhere are forgotten after so many. */
const MAX_FAILURES = 8
/** Who may be at one address, by what is told: several liars do not keep it from being tried. */
const MAX_CLAIMS = 4
/** A hearsay dial that its host has no room for waits so long. */
const HEARSAY_WAIT_MS = 1 / HEARSAY_DIALS_PER_S * 1000
/** Hosts whose hearsay dials are counted. */
const MAX_COUNTED_HOSTS = 2 * MAX_LEARNED_ADDRESSES

type From = NetStatus['dials'][number]['from']

export interface Entry {
  readonly text: string
  readonly address: Address
  from: From
  /** Public keys in hex: of the device that is there; until somebody was reached, of those that should be. */
  peers: Set<string>
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
  readonly #hearsay = new Map<string, Allowance>()
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
      if (peer !== undefined && known.state !== 'connected' && known.peers.size < MAX_CLAIMS) known.peers.add(peer)
      if (known.state === 'dialling' || known.state === 'connected') return
      // Somebody says that it is there: not after minutes.
      known.failures = Math.min(known.failures, TOLD_AGAIN_FAILURES)
      return this.#wait(known)
    }
    if ((from === 'peer' || from === 'lan') && !this.#hasRoom()) return
    const entry: Entry = { text, address, from, peers: new Set(peer === undefined ? [] : [peer]), state: 'waiting', hasEverConnected: false, failures: 0, lastError: undefined, timer: undefined }
    this.#entries.set(text, entry)
    this.#try(entry)
  }

  /** Its dial has come to a connection; `ended` will be told of its end, maybe at once. */
  begun(entry: Entry): void {
    entry.state = 'connected'
  }

  /** The connection's other end is a member, and this one. */
  connected(entry: Entry, peer: string): void {
    entry.peers = new Set([peer])
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
    for (const entry of this.#entries.values()) if (entry.peers.has(peer) && entry.state === 'resting') this.#wait(entry)
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

  #wait(entry: Entry, atMostMs = Infinity, atLeastMs = 0): void {
    clearTimeout(entry.timer)
    entry.state = 'waiting'
    const wholeMs = Math.max(atLeastMs, Math.min(FIRST_WAIT_MS * 2 ** entry.failures, MAX_WAIT_MS[entry.from], atMostMs))
    entry.timer = setTimeout(() => this.#try(entry), wholeMs * (0.5 + Math.random() / 2))
  }

  #try(entry: Entry): void {
    if (this.#isClosed || this.#entries.get(entry.text) !== entry) return
    if (entry.peers.size > 0 && [...entry.peers].every((peer) => this.#events.hasTcp(peer))) {
      entry.state = 'resting'
      return
    }
    if (!this.#mayDial(entry)) return this.#wait(entry, HEARSAY_WAIT_MS, HEARSAY_WAIT_MS)
    entry.state = 'dialling'
    this.#events.dial(entry).catch((error: Error) => this.#failed(entry, error.message, 0))
  }

  #failed(entry: Entry, reason: string, lastedMs: number): void {
    entry.lastError = reason
    entry.failures = lastedMs > SUCCESS_MS ? 0 : entry.failures + 1
    if (this.#isClosed) return
    if ((entry.from === 'peer' || entry.from === 'lan') && !entry.hasEverConnected && entry.failures >= MAX_FAILURES) this.#entries.delete(entry.text)
    else this.#wait(entry)
  }

  #mayDial({ address, from, hasEverConnected }: Entry): boolean {
    if (from === 'given' || hasEverConnected) return true
    const host = networkOf(address.host)
    let allowance = this.#hearsay.get(host)
    if (!allowance) {
      if (this.#hearsay.size >= MAX_COUNTED_HOSTS) this.#hearsay.delete(this.#hearsay.keys().next().value!)
      allowance = new Allowance(HEARSAY_DIALS_AT_ONCE, HEARSAY_DIALS_PER_S)
    } else {
      this.#hearsay.delete(host)
    }
    // The one used last is the last to be forgotten.
    this.#hearsay.set(host, allowance)
    return allowance.take()
  }

  /** Of the told ones, one that never connected and fails gives way. */
  #hasRoom(): boolean {
    if (this.#entries.size < MAX_LEARNED_ADDRESSES) return true
    for (const entry of this.#entries.values()) {
      if (entry.from === 'given' || entry.from === 'kept' || entry.hasEverConnected || entry.failures === 0 || entry.state !== 'waiting') continue
      clearTimeout(entry.timer)
      this.#entries.delete(entry.text)
      return true
    }
    return false
  }
}
