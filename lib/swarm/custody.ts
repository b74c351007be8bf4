/**
 * Who holds which chunk, and can prove it. A step machine: events in, effects
 * out. Answers about our own chunks come from the host, which reads the disk;
 * what peers say of theirs goes to the host, which decides by it what may be
 * evicted and where copies are missing.
 *
 * Invariants: questions of one peer that wait for the host: at most MAX_ASKED ids
 * and MAX_CHALLENGED chunks; ours to one peer: half of that under way, so that
 * an honest one never refuses them, and MAX_WAITING that wait; a proof is accepted
 * only for a challenge of ours, once.
 */
import { MAX_IDS, keyOf, type CustodyMessage, type NoChunks, type Peer } from './messages.js'
import type { Priority } from './net/link.js'

/** Ids that a peer asks about before they were answered: looked up in the index, 4,096 take some milliseconds. More are answered with no. */
export const MAX_ASKED = 4096
/** Chunks that a peer has read here for a proof: each up to 1 MiB of disk. More are answered with no. */
export const MAX_CHALLENGED = 8
/** Challenges of ours under way, to one peer; the rest waits here. */
const MAX_CHALLENGING = 4
const MAX_ASKING = MAX_ASKED / 2
/** Questions that wait here, and challenges, to one peer: the host comes again with more. */
export const MAX_WAITING = 16_384
/** To read a chunk from a busy disk, and the way there and back. */
const ANSWER_MS = 30_000

export type CustodyEffect =
  | { type: 'send'; peer: Peer; message: CustodyMessage | NoChunks; priority: Priority }
  /** Which of these are durable here, and (with `copies`) to be held by so many devices? Answer with `checked`. */
  | { type: 'check'; peer: Peer; copies: number; ids: Buffer[] }
  /** BLAKE3(nonce || sealed) of our own copy? Answer with `proved`. */
  | { type: 'prove'; peer: Peer; id: Buffer; nonce: Buffer }
  /** The peer says that it holds these, durably; as one of so many, if it was asked for that. */
  | { type: 'holds'; peer: Peer; copies: number; ids: Buffer[] }
  /** The peer says that it does not. */
  | { type: 'lacks'; peer: Peer; ids: Buffer[] }
  /** An answer to a challenge of ours: compare `mac` with BLAKE3(nonce || sealed). */
  | { type: 'proof'; peer: Peer; id: Buffer; nonce: Buffer; mac: Buffer }
  /** It has said that it has it not (`isRefused`), or did not answer a challenge. */
  | { type: 'unproven'; peer: Peer; id: Buffer; isRefused: boolean }

interface Challenge { id: Buffer; nonce: Buffer; untilMs: number }

interface PeerState {
  asked: number
  challenged: number
  readonly challenging: Map<string, Challenge>
  readonly waiting: Map<string, Challenge>
  /** Ids that the peer was asked about, and those that are next. */
  readonly asking: Set<string>
  readonly toAsk: Map<string, { id: Buffer; copies: number }>
  /** Since the last answer. */
  askingSinceMs: number
}

export class Custody {
  readonly #peers = new Map<Peer, PeerState>()
  #out: CustodyEffect[] = []

  peerUp(peer: Peer): CustodyEffect[] {
    if (this.#peers.has(peer)) throw new Error(`invariant: ${peer} is connected already`)
    this.#peers.set(peer, { asked: 0, challenged: 0, challenging: new Map(), waiting: new Map(), asking: new Set(), toAsk: new Map(), askingSinceMs: 0 })
    return this.#end()
  }

  peerDown(peer: Peer): CustodyEffect[] {
    const state = this.#peers.get(peer)
    this.#peers.delete(peer)
    if (state) for (const { id } of [...state.challenging.values(), ...state.waiting.values()]) this.#out.push({ type: 'unproven', peer, id, isRefused: false })
    return this.#end()
  }

  message(nowMs: number, peer: Peer, m: CustodyMessage | NoChunks): CustodyEffect[] {
    const state = this.#peers.get(peer)
    if (!state) return this.#end()
    switch (m.type) {
      case 'haveChunks':
        this.#out.push({ type: 'holds', peer, copies: m.copies, ids: m.ids })
        this.#answered(nowMs, peer, state, m.ids)
        break
      case 'noChunks':
        this.#out.push({ type: 'lacks', peer, ids: m.ids })
        for (const id of m.ids) if (state.challenging.delete(keyOf(id))) this.#out.push({ type: 'unproven', peer, id, isRefused: true })
        this.#answered(nowMs, peer, state, m.ids)
        this.#next(nowMs, peer, state)
        break
      case 'askChunks':
        if (state.asked + m.ids.length > MAX_ASKED) this.#send(peer, { type: 'noChunks', ids: m.ids })
        else {
          state.asked += m.ids.length
          this.#out.push({ type: 'check', peer, copies: m.copies, ids: m.ids })
        }
        break
      case 'challenge':
        if (state.challenged >= MAX_CHALLENGED) this.#send(peer, { type: 'noChunks', ids: [m.id] })
        else {
          state.challenged++
          this.#out.push({ type: 'prove', peer, id: m.id, nonce: m.nonce })
        }
        break
      case 'proof': {
        const challenge = state.challenging.get(keyOf(m.id))
        if (!challenge) break
        state.challenging.delete(keyOf(m.id))
        this.#out.push({ type: 'proof', peer, id: m.id, nonce: challenge.nonce, mac: m.mac })
        this.#next(nowMs, peer, state)
      }
    }
    return this.#end()
  }

  /** What the host found for a `check`, with its `copies`: all of its ids, in one list or the other. */
  checked(peer: Peer, copies: number, here: Buffer[], missing: Buffer[]): CustodyEffect[] {
    const state = this.#peers.get(peer)
    if (!state) return this.#end()
    state.asked = Math.max(0, state.asked - here.length - missing.length)
    this.#sendIds(peer, here, (ids) => ({ type: 'haveChunks', copies, ids }))
    this.#sendIds(peer, missing, (ids) => ({ type: 'noChunks', ids }))
    return this.#end()
  }

  /** What the host made of a `prove`; undefined: the chunk is not here. */
  proved(peer: Peer, id: Buffer, mac: Buffer | undefined): CustodyEffect[] {
    const state = this.#peers.get(peer)
    if (!state) return this.#end()
    state.challenged = Math.max(0, state.challenged - 1)
    this.#send(peer, mac ? { type: 'proof', id, mac } : { type: 'noChunks', ids: [id] })
    return this.#end()
  }

  /** Chunks became durable here that these peers want to know of. */
  announce(peers: Iterable<Peer>, ids: Buffer[]): CustodyEffect[] {
    for (const peer of peers) if (this.#peers.has(peer)) this.#sendIds(peer, ids, (some) => ({ type: 'haveChunks', copies: 0, ids: some }))
    return this.#end()
  }

  /** Asks a peer which of these it holds (as one of `copies`, if that is not 0); the answers come as `holds` and `lacks`. What does not fit MAX_WAITING is left out. */
  ask(nowMs: number, peer: Peer, ids: Buffer[], copies = 0): CustodyEffect[] {
    const state = this.#peers.get(peer)
    if (state) {
      for (const id of ids) {
        if (state.toAsk.size >= MAX_WAITING) break
        if (copies > 0 || !state.asking.has(keyOf(id))) state.toAsk.set(keyOf(id), { id, copies })
      }
      this.#askNext(nowMs, peer, state)
    }
    return this.#end()
  }

  /** Asks a peer to prove that it holds a chunk, with a nonce of 32 random bytes; ends in one `proof` or `unproven`. */
  challenge(nowMs: number, peer: Peer, id: Buffer, nonce: Buffer): CustodyEffect[] {
    const state = this.#peers.get(peer)
    const key = keyOf(id)
    if (!state || state.waiting.size >= MAX_WAITING || state.challenging.has(key) || state.waiting.has(key)) this.#out.push({ type: 'unproven', peer, id, isRefused: false })
    else {
      state.waiting.set(key, { id, nonce, untilMs: Infinity })
      this.#next(nowMs, peer, state)
    }
    return this.#end()
  }

  /** Every second or so. */
  tick(nowMs: number): CustodyEffect[] {
    for (const [peer, state] of this.#peers) {
      for (const [key, challenge] of state.challenging) {
        if (challenge.untilMs > nowMs) continue
        state.challenging.delete(key)
        this.#out.push({ type: 'unproven', peer, id: challenge.id, isRefused: false })
      }
      this.#next(nowMs, peer, state)
      if (state.asking.size > 0 && nowMs - state.askingSinceMs > ANSWER_MS) state.asking.clear()
      this.#askNext(nowMs, peer, state)
    }
    return this.#end()
  }

  #answered(nowMs: number, peer: Peer, state: PeerState, ids: Buffer[]): void {
    for (const id of ids) state.asking.delete(keyOf(id))
    state.askingSinceMs = nowMs
    this.#askNext(nowMs, peer, state)
  }

  #askNext(nowMs: number, peer: Peer, state: PeerState): void {
    if (state.toAsk.size === 0 || state.asking.size > MAX_ASKING - MAX_IDS) return
    if (state.asking.size === 0) state.askingSinceMs = nowMs
    const byCopies = new Map<number, Buffer[]>()
    for (const [key, { id, copies }] of state.toAsk) {
      if (state.asking.size >= MAX_ASKING) break
      state.toAsk.delete(key)
      state.asking.add(key)
      const ids = byCopies.get(copies)
      if (ids) ids.push(id)
      else byCopies.set(copies, [id])
    }
    for (const [copies, ids] of byCopies) this.#sendIds(peer, ids, (some) => ({ type: 'askChunks', copies, ids: some }))
  }

  #next(nowMs: number, peer: Peer, state: PeerState): void {
    for (const [key, challenge] of state.waiting) {
      if (state.challenging.size >= MAX_CHALLENGING) return
      state.waiting.delete(key)
      state.challenging.set(key, { ...challenge, untilMs: nowMs + ANSWER_MS })
      this.#send(peer, { type: 'challenge', id: challenge.id, nonce: challenge.nonce })
    }
  }

  #sendIds(peer: Peer, ids: Buffer[], message: (ids: Buffer[]) => CustodyMessage | NoChunks): void {
    for (let at = 0; at < ids.length; at += MAX_IDS) this.#send(peer, message(ids.slice(at, at + MAX_IDS)))
  }

  #send(peer: Peer, message: CustodyMessage | NoChunks): void {
    this.#out.push({ type: 'send', peer, message, priority: 'now' })
  }

  #end(): CustodyEffect[] {
    const out = this.#out
    this.#out = []
    return out
  }
}
