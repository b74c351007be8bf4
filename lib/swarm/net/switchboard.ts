/**
 * Which connection to each device is the link. Devices may have several at a
 * time: both dial at once, hyperswarm is there before TCP, the old one is dead and
 * does not know. For each pair the device with the greater public key decides,
 * alone, and says so (USE): so both sides always mean the same one.
 *
 * The decider prefers TCP. Of two of one transport the older stays if it still
 * answers, for both may just have dialled at once; unless the peer says that it saw
 * it end, or has restarted. A connection that was never used may wait as a spare
 * (a hyperswarm stream beside TCP): it takes over at once.
 *
 * Invariant: `active` is a connection of `conns` in state active, and the only one.
 */
import type { Conn } from './conn.js'
import { MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, MAX_HALF_OPEN } from '../../limits.js'
import { NO_LINK } from './handshake.js'

/** Peers whose last link is remembered: its end, told at the next handshake, saves a probe. */
const MAX_REMEMBERED = 1024

export interface SwitchboardEvents {
  onLink(conn: Conn): void
  onLinkClosed(conn: Conn, reason: string): void
  /** A connection of this peer came or went. */
  onPeerChange(peer: Buffer): void
}

interface Peer { conns: Set<Conn>; active: Conn | undefined; ended: Buffer }

export class Switchboard {
  readonly #publicKey: Buffer
  readonly #events: SwitchboardEvents
  /** All that are open, in whatever state. */
  readonly #all = new Set<Conn>()
  readonly #peers = new Map<string, Peer>()

  constructor(publicKey: Buffer, events: SwitchboardEvents) {
    this.#publicKey = publicKey
    this.#events = events
  }

  get conns(): ReadonlySet<Conn> { return this.#all }

  get links(): number {
    let count = 0
    for (const peer of this.#peers.values()) if (peer.active) count++
    return count
  }

  get halfOpen(): number {
    let count = 0
    for (const conn of this.#all) if (conn.state === 'proving' || conn.state === 'greeting') count++
    return count
  }

  isLinked(peer: Buffer): boolean { return this.#peers.get(key(peer))?.active !== undefined }

  hasTcp(peer: string): boolean {
    for (const conn of this.#peers.get(peer)?.conns ?? []) if (conn.origin.transport === 'tcp') return true
    return false
  }

  /** The last link with this peer that ended here. */
  endedWith(peer: Buffer): Buffer { return this.#peers.get(key(peer))?.ended ?? NO_LINK }

  /** Starts a new connection, if there is room for it. */
  add(conn: Conn): void {
    this.#all.add(conn)
    if (this.#all.size > MAX_CONNECTIONS) return conn.close('too many connections')
    if (this.halfOpen > MAX_HALF_OPEN) {
      for (const other of this.#all) {
        if (other.state !== 'proving' && other.state !== 'greeting') continue
        other.close('too many connections in handshake')
        break
      }
    }
    conn.start()
  }

  /** Both greetings are there. */
  ready(conn: Conn): void {
    const peer = this.#peer(conn.peer)
    if (peer.conns.size >= MAX_CONNECTIONS_PER_PEER) return conn.close('too many connections of one device')
    peer.conns.add(conn)
    this.#events.onPeerChange(conn.peer)
    for (const other of [...peer.conns]) {
      if (!other.greeting!.instance.equals(conn.greeting!.instance)) other.close('replaced')
    }
    if (!this.#decides(conn.peer) || peer.active === conn) return
    const rival = [...peer.conns].find((other) => other !== conn && other.origin.transport === conn.origin.transport)
    if (!rival) return this.#choose(peer)
    if (rival.linkId.equals(conn.greeting!.ended)) return rival.close('replaced')
    rival.probe().then((isAlive) => {
      if (isAlive && conn.state === 'ready') conn.close('duplicate')
    })
  }

  /** The peer, which decides, uses this one. */
  use(conn: Conn): void {
    if (this.#decides(conn.peer)) return conn.close('the peer decides what is not its to decide')
    const peer = this.#peer(conn.peer)
    if (peer.active === conn) return
    const old = peer.active
    peer.active = undefined
    if (old) this.#end(peer, old, 'replaced')
    conn.activate()
    peer.active = conn
    this.#events.onLink(conn)
    old?.close('replaced')
  }

  /** The peer, which does not decide, has seen its link end. */
  lost(conn: Conn, linkId: Buffer): void {
    if (!this.#decides(conn.peer)) return
    const { active } = this.#peer(conn.peer)
    if (active?.linkId.equals(linkId)) active.close('lost by the peer')
  }

  /** This side wants no link with this device now: spares go too. */
  closePeer(conn: Conn, reason: string): void {
    for (const other of [...(this.#peers.get(key(conn.peer))?.conns ?? [])]) if (other !== conn) other.close(reason)
    conn.close(reason)
  }

  /** A connection has closed. */
  closed(conn: Conn, reason: string): void {
    this.#all.delete(conn)
    const peer = this.#peers.get(key(conn.peer))
    if (!peer?.conns.delete(conn)) return
    // Nor does the other side.
    if (reason === 'closed by the peer') for (const other of [...peer.conns]) other.close(reason, false)
    if (peer.active === conn) {
      peer.active = undefined
      this.#end(peer, conn, reason)
      if (!this.#decides(conn.peer)) {
        for (const spare of peer.conns) if (spare.state === 'ready') spare.tellLost(conn.linkId)
      }
    }
    if (this.#decides(conn.peer)) this.#choose(peer)
    this.#events.onPeerChange(conn.peer)
  }

  #decides(peer: Buffer): boolean { return Buffer.compare(this.#publicKey, peer) > 0 }

  #end(peer: Peer, conn: Conn, reason: string): void {
    peer.ended = Buffer.from(conn.linkId)
    this.#events.onLinkClosed(conn, reason)
  }

  #choose(peer: Peer): void {
    let best: Conn | undefined
    for (const conn of peer.conns) {
      if (conn.state !== 'ready' && conn.state !== 'active') continue
      if (!best || (best.origin.transport !== 'tcp' && conn.origin.transport === 'tcp')) best = conn
    }
    if (!best || best === peer.active) return
    // Its end chooses again, and then there is but one answer.
    if (peer.active) return peer.active.close('replaced')
    peer.active = best
    best.use()
    this.#events.onLink(best)
  }

  #peer(publicKey: Buffer): Peer {
    const name = key(publicKey)
    let peer = this.#peers.get(name)
    if (!peer) {
      if (this.#peers.size >= MAX_REMEMBERED) {
        for (const [old, { conns }] of this.#peers) {
          if (conns.size > 0) continue
          this.#peers.delete(old)
          break
        }
      }
      peer = { conns: new Set(), active: undefined, ended: NO_LINK }
      this.#peers.set(name, peer)
    }
    return peer
  }
}

function key(peer: Buffer): string {
  return peer.toString('hex')
}
