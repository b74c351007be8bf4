/**
 * One connection to one device: an encrypted stream, and on it the proof, the
 * greeting, and then packets in two lanes. Several may lead to the same device;
 * switchboard.ts decides which one is the link.
 *
 * State: proving -> greeting -> ready (could be used) -> active (is the link) -> closed. From each straight to closed.
 *
 * Flow: the stream is always read, so that credits, pings and byes come through.
 * What holds a sender back is its window, one a lane: it begins a message only if
 * the window covers it, and gets the room back when the receiver's main thread
 * has taken the message. So what lies here for the main thread is bounded by
 * the windows, on any transport (UDX has no way to stop reading).
 *
 * Owns: the stream, and the file ranges read ahead.
 */
import { BULK_WINDOW_BYTES, FILE_READ_AHEAD_BYTES, MESSAGE_COST_BYTES, NOW_WINDOW_BYTES, PACKET_BYTES } from '../../limits.js'
import { copyInto } from '../../memory.js'
import { Fifo } from './fifo.js'
import type { FileRange, FileRanges } from './files.js'
import type { FrameGuard } from './guard.js'
import { checkProof, decodeGreeting, encodeGreeting, LINK_ID_BYTES, proofPacket, type Greeting, type Membership, type Role } from './handshake.js'
import type { Lender } from './lent.js'
import { Assembly, broken, bye, credit, FIRST_HEADER_BYTES, KIND, numbered, readBye, readCredit, readNumber, type Incoming, type LaneIndex } from './packet.js'
import type { TcpStream } from './tcp-stream.js'
import type { UdxStream } from './udx-stream.js'

/** Of the proof, and of the greeting (the main thread makes its part). */
const STEP_TIMEOUT_MS = 8000
/** Of the proof over hyperswarm: the answerer has its stream while the dialler may still be punching holes, for up to 10 s. */
const UDX_PROOF_TIMEOUT_MS = 11_000
/** Something is sent so often, that the peer can tell a quiet link from a dead one. */
const PING_MS = 4000
const BUSY_PING_MS = 2000
/** Nothing heard for so long: dead. Three pings of the peer, or their equivalent while this side waits to send or for a sign that it was heard. */
const DEAD_MS = 13_000
const BUSY_DEAD_MS = 7000
/** After a change of the network, or when the peer comes a second time: an answer, or it is dead. */
const PROBE_MS = 2500
/** For the last packets to leave. */
const GOODBYE_MS = 1000

/** Either gives whole frames and takes whole frames; what it gives is good until its listener returns. */
export type EncryptedStream = TcpStream | UdxStream
export type Transport = 'tcp' | 'udx'
export type ConnState = 'proving' | 'greeting' | 'ready' | 'active' | 'closed'

export interface ConnOrigin {
  transport: Transport
  role: Role
  host: string
  port: number
}

/** What a connection needs of its owner, and tells it. */
export interface ConnOwner {
  readonly member: Membership
  readonly publicKey: Buffer
  readonly files: FileRanges
  /** For large messages that come. */
  readonly lender: Lender | undefined
  /** Rejects if the main thread is gone. */
  greet(conn: Conn): Promise<Omit<Greeting, 'hello'> & { hello: Uint8Array }>
  onReady(conn: Conn): void
  onUse(conn: Conn): void
  onLost(conn: Conn, linkId: Buffer): void
  onAddresses(conn: Conn, packet: Buffer): void
  onMessage(conn: Conn, lane: LaneIndex, message: Incoming): void
  onSent(conn: Conn, bytes: number): void
  onFileError(conn: Conn, head: Uint8Array, error: Error, queuedBytes: number): void
  onRtt(conn: Conn): void
  onClosed(conn: Conn, reason: string): void
}

interface Outgoing {
  /** The whole message; absent until a file's range is read. */
  bytes: Uint8Array | undefined
  length: number
  file?: { head: Uint8Array; path: string; offset: number; range?: FileRange; error?: Error }
}
type FileItem = Outgoing & Required<Pick<Outgoing, 'file'>>

class Lane {
  readonly queue = new Fifo<Outgoing>()
  /** Of the first in the queue, sent; 0: not begun. */
  sentBytes = 0
  /** May still be sent. */
  windowBytes: number
  /** May still come. */
  grantedBytes: number
  /** Taken, and not yet given back to the sender. */
  owedBytes = 0
  readonly incoming: Assembly

  constructor(readonly index: LaneIndex, readonly limitBytes: number, lender: Lender | undefined) {
    this.incoming = new Assembly(lender)
    this.windowBytes = limitBytes
    this.grantedBytes = limitBytes
  }
}

export class Conn {
  readonly stream: EncryptedStream
  readonly origin: ConnOrigin
  /** The peer's public key; from the handshake on. */
  peer: Buffer
  /** The peer's greeting; from ready on. */
  greeting: Greeting | undefined
  rttMs = 0
  readonly openedMs = performance.now()

  readonly #owner: ConnOwner
  readonly #guard: FrameGuard
  #state: ConnState = 'proving'
  #stateMs = performance.now()
  readonly #lanes: readonly [Lane, Lane]
  readonly #unread = new Fifo<FileItem>()
  #readAheadBytes = 0
  #isBlocked = false
  #isGreeted = false

  #pingId = 0
  #pingMs = 0
  #isPingDue = false
  #isPonged = true
  /** A message was put since the last tick; and when, as of a tick. */
  #hasSent = false
  #sentMs = 0
  #pongDue: number | undefined
  #probe: { timer: NodeJS.Timeout; waiting: ((isAlive: boolean) => void)[] } | undefined
  #goodbye: NodeJS.Timeout | undefined

  /** `stream`: its handshake is done. `guard` sees the stream's bytes before it does. */
  constructor(stream: EncryptedStream, guard: FrameGuard, origin: ConnOrigin, owner: ConnOwner) {
    this.stream = stream
    this.origin = origin
    this.#guard = guard
    this.#owner = owner
    this.#lanes = [new Lane(0, NOW_WINDOW_BYTES, owner.lender), new Lane(1, BULK_WINDOW_BYTES, owner.lender)]
    this.peer = Buffer.from(stream.remotePublicKey)
    stream.on('data', (packet: Buffer) => this.#take(packet))
    stream.on('drain', () => {
      this.#isBlocked = false
      this.#pump()
    })
    stream.on('end', () => this.close('ended by the peer', false))
    // Hyperswarm has a newer one of the same device: its name for it.
    stream.on('error', ({ message }: Error) => this.close(message === 'Duplicate connection' ? 'replaced' : message, false))
    stream.on('close', () => {
      clearTimeout(this.#goodbye)
      this.close('the connection broke', false)
    })
  }

  /** The first step; what follows is told to the owner. */
  start(): void {
    if (this.peer.equals(this.#owner.publicKey)) return this.close('connected to itself', false)
    this.#put(proofPacket(this.#owner.member, this.origin.role, this.stream.handshakeHash!))
  }

  get state(): ConnState { return this.#state }
  /** UDX moves with the peer's address. */
  get remote(): { host: string; port: number } {
    const { host, port, transport } = this.origin
    const raw = transport === 'udx' ? (this.stream as UdxStream).rawStream : undefined
    return { host: raw?.remoteHost ?? host, port: raw?.remotePort ?? port }
  }

  /** The same at both ends. */
  get linkId(): Buffer { return this.stream.handshakeHash!.subarray(0, LINK_ID_BYTES) }
  get isBusy(): boolean { return this.#isBlocked || this.hasQueued }
  /** More is to be sent. */
  get hasQueued(): boolean { return this.#lanes[0].queue.length > 0 || this.#lanes[1].queue.length > 0 }

  /** This side is the one that decides, and has. */
  use(): void {
    this.#put(Buffer.of(KIND.use))
    this.#become('active')
  }

  /** The link that this side had is dead; it cannot decide what comes instead. */
  tellLost(linkId: Buffer): void {
    this.#put(Buffer.concat([Buffer.of(KIND.lost), linkId]))
  }

  /** A packet of its own, ahead of all messages. Nothing happens unless this is the link. */
  tell(packet: Uint8Array): void {
    if (this.#state === 'active') this.#put(packet)
  }

  send(laneIndex: LaneIndex, bytes: Uint8Array): void {
    this.#lanes[laneIndex].queue.push({ bytes, length: bytes.length })
    this.#pump()
  }

  sendFile(head: Uint8Array, path: string, offset: number, length: number): void {
    const item: FileItem = { bytes: undefined, length: head.length + length, file: { head, path, offset } }
    this.#lanes[1].queue.push(item)
    this.#unread.push(item)
    this.#readAhead()
  }

  /** The main thread has taken messages that cost so much. */
  taken(laneIndex: LaneIndex, costBytes: number): void {
    const lane = this.#lanes[laneIndex]
    lane.owedBytes += costBytes
    // In lumps: a quarter held back still leaves more than one message needs.
    if (lane.owedBytes >= lane.limitBytes / 4) this.#pump()
  }

  /** Asks for a sign of life; what comes of it, soon. */
  probe(): Promise<boolean> {
    if (this.#state === 'closed') return Promise.resolve(false)
    return new Promise((resolve) => {
      if (this.#probe) return this.#probe.waiting.push(resolve)
      this.#probe = { waiting: [resolve], timer: setTimeout(() => this.close('no answer'), PROBE_MS) }
      this.#isPingDue = true
      this.#pump()
    })
  }

  /** Once a second or so. `lateMs`: this thread itself did not run for so long. */
  tick(nowMs: number, lateMs: number): void {
    if (this.origin.transport === 'udx') (this.stream as UdxStream).tick()
    this.#guard.heardMs = Math.min(nowMs, this.#guard.heardMs + lateMs)
    this.#stateMs += lateMs
    if (this.#hasSent) this.#sentMs = nowMs
    this.#hasSent = false
    // Or it has sent, and heard nothing since.
    const isBusy = this.isBusy || this.#sentMs > this.#guard.heardMs
    switch (this.#state) {
      case 'proving':
      case 'greeting':
        if (nowMs - this.#stateMs > (this.#state === 'proving' && this.origin.transport === 'udx' ? UDX_PROOF_TIMEOUT_MS : STEP_TIMEOUT_MS)) this.close(`no ${this.#state === 'proving' ? 'proof' : 'greeting'} in time`)
        return
      case 'ready':
      case 'active':
        if (nowMs - this.#guard.heardMs > (isBusy ? BUSY_DEAD_MS : DEAD_MS)) return this.close('no answer')
        if (nowMs - this.#pingMs > (isBusy ? BUSY_PING_MS : PING_MS)) {
          this.#isPingDue = true
          this.#pump()
        }
    }
  }

  /** `isTold`: the peer hears why. */
  close(reason: string, isTold = true): void {
    if (this.#state === 'closed') return
    const before = this.#state
    // Nothing is said to who has proven nothing.
    if (isTold && before !== 'proving') this.#put(bye(reason))
    this.#become('closed')
    for (const lane of this.#lanes) {
      for (let item = lane.queue.first; item; item = lane.queue.first) {
        item.file?.range?.release()
        lane.queue.shift()
      }
      lane.incoming.drop()
    }
    this.#unread.clear()
    const probe = this.#probe
    if (probe) {
      clearTimeout(probe.timer)
      this.#probe = undefined
      for (const resolve of probe.waiting) resolve(false)
    }
    if (isTold && before !== 'proving' && !this.stream.destroying) {
      this.stream.end()
      this.#goodbye = setTimeout(() => this.stream.destroy(), GOODBYE_MS)
    } else {
      this.stream.destroy()
    }
    this.#owner.onClosed(this, reason)
  }

  #become(state: ConnState): void {
    this.#state = state
    this.#stateMs = performance.now()
  }

  // --- receiving ---

  #take(packet: Buffer): void {
    if (this.#state === 'closed' || packet.length === 0) return
    const probe = this.#probe
    if (probe) {
      clearTimeout(probe.timer)
      this.#probe = undefined
      for (const resolve of probe.waiting) resolve(true)
    }
    try {
      this.#obey(packet)
    } catch (error) {
      this.close((error as Error).message)
    }
  }

  #obey(packet: Buffer): void {
    const kind = packet[0]!
    if (this.#state === 'proving') return this.#checkProof(packet)
    switch (kind) {
      case KIND.ping:
        // Only the last one is answered: a flood of them costs nothing.
        this.#pongDue = readNumber(packet)
        return this.#pump()
      case KIND.pong:
        return this.#takePong(readNumber(packet))
      case KIND.bye:
        return this.close(readBye(packet) === 'closed' ? 'closed by the peer' : readBye(packet), false)
      case KIND.hello:
        if (this.#state !== 'greeting' || this.greeting) throw broken('a second greeting')
        this.greeting = decodeGreeting(Buffer.from(packet))
        return this.#readyIfGreeted()
    }
    if (this.#state === 'greeting') throw broken(`packet ${kind} before the greeting`)
    switch (kind) {
      case KIND.use:
        if (packet.length !== 1) throw broken('a packet has the wrong length')
        return this.#owner.onUse(this)
      case KIND.lost:
        if (packet.length !== 1 + LINK_ID_BYTES) throw broken('a packet has the wrong length')
        return this.#owner.onLost(this, packet.subarray(1))
      case KIND.addresses:
        return this.#owner.onAddresses(this, Buffer.from(packet))
      case KIND.credit: {
        const { lane, bytes } = readCredit(packet)
        this.#lanes[lane].windowBytes += bytes
        if (this.#lanes[lane].windowBytes > this.#lanes[lane].limitBytes) throw broken('more credit than there is')
        return this.#pump()
      }
    }
    const base = kind & ~1
    if (base !== KIND.whole && base !== KIND.first && base !== KIND.more) throw broken(`packet of unknown kind ${kind}`)
    if (this.#state !== 'active') throw broken('a message on a connection that is not in use')
    const lane = this.#lanes[(kind & 1) as LaneIndex]
    if (base !== KIND.more) {
      const length = base === KIND.whole ? packet.length - 1 : packet.length >= FIRST_HEADER_BYTES ? packet.readUInt32LE(1) : 0
      lane.grantedBytes -= length + MESSAGE_COST_BYTES
      if (lane.grantedBytes < 0) throw broken('it sends more than it may')
    }
    const message = lane.incoming.take(base, packet)
    if (message) this.#owner.onMessage(this, lane.index, message)
  }

  #checkProof(packet: Buffer): void {
    const role = this.origin.role === 'dialler' ? 'answerer' : 'dialler'
    const verdict = checkProof(this.#owner.member, role, this.stream.handshakeHash!, packet)
    if (verdict === 'wrong') return this.close('no proof of membership', false)
    this.#become('greeting')
    this.#guard.proven()
    if (verdict === 'other version') return this.close('it speaks another version of the protocol')
    this.#isPingDue = true
    this.#pump()
    this.#owner.greet(this).then((greeting) => {
      if (this.#state !== 'greeting') return
      this.#guard.open()
      this.#put(encodeGreeting({ ...greeting, hello: Buffer.from(greeting.hello) }))
      this.#isGreeted = true
      this.#readyIfGreeted()
    }).catch((error: Error) => this.close(error.message))
  }

  #readyIfGreeted(): void {
    if (!this.#isGreeted || !this.greeting) return
    this.#become('ready')
    this.#owner.onReady(this)
  }

  /** This side is not the one that decides; the owner has let the link begin. */
  activate(): void {
    if (this.#state === 'ready') this.#become('active')
  }

  #takePong(id: number): void {
    if (this.#isPonged || id !== this.#pingId) return
    this.#isPonged = true
    const sampleMs = performance.now() - this.#pingMs
    this.rttMs = this.rttMs === 0 ? sampleMs : (7 * this.rttMs + sampleMs) / 8
    this.#owner.onRtt(this)
  }

  // --- sending ---

  #put(packet: Uint8Array): void {
    if (this.stream.destroying) return
    if (!this.stream.write(packet)) this.#isBlocked = true
  }

  #pump(): void {
    while (!this.#isBlocked && this.#state !== 'closed' && this.#putNext());
  }

  /** Control first, then what overtakes, then bulk. One packet; false if there is none that may go. */
  #putNext(): boolean {
    if (this.#pongDue !== undefined) {
      this.#put(numbered(KIND.pong, this.#pongDue))
      this.#pongDue = undefined
      return true
    }
    if (this.#isPingDue) {
      this.#isPingDue = false
      this.#pingMs = performance.now()
      this.#isPonged = false
      this.#pingId = (this.#pingId + 1) >>> 0
      this.#put(numbered(KIND.ping, this.#pingId))
      return true
    }
    if (this.#state !== 'active') return false
    for (const lane of this.#lanes) {
      if (lane.owedBytes < lane.limitBytes / 4) continue
      this.#put(credit(lane.index, lane.owedBytes))
      lane.grantedBytes += lane.owedBytes
      lane.owedBytes = 0
      return true
    }
    return this.#putMessage(this.#lanes[0]) || this.#putMessage(this.#lanes[1])
  }

  #putMessage(lane: Lane): boolean {
    const next = lane.queue.first
    if (!next) return false
    if (next.file?.error) {
      lane.queue.shift()
      this.#owner.onFileError(this, next.file.head, next.file.error, next.length)
      this.#readAhead()
      return true
    }
    const { bytes } = next
    if (!bytes) return false
    const isFirst = lane.sentBytes === 0
    if (isFirst) {
      if (lane.windowBytes < bytes.length + MESSAGE_COST_BYTES) return false
      lane.windowBytes -= bytes.length + MESSAGE_COST_BYTES
    }
    const left = bytes.length - lane.sentBytes
    const part = Math.min(left, PACKET_BYTES)
    const isWhole = isFirst && part === left
    const headerBytes = isFirst && !isWhole ? FIRST_HEADER_BYTES : 1
    // In place where it can be: the stream encrypts this very memory.
    const packet = this.stream.alloc(headerBytes + part)
    packet[0] = (isWhole ? KIND.whole : isFirst ? KIND.first : KIND.more) | lane.index
    if (headerBytes > 1) packet.writeUInt32LE(bytes.length, 1)
    copyInto(packet, headerBytes, part === bytes.length ? bytes : bytes.subarray(lane.sentBytes, lane.sentBytes + part))
    this.#put(packet)
    this.#hasSent = true
    lane.sentBytes += part
    if (lane.sentBytes === bytes.length) {
      lane.sentBytes = 0
      lane.queue.shift()
      if (next.file) {
        next.file.range!.release()
        this.#readAheadBytes -= next.length
        this.#readAhead()
      }
    }
    this.#owner.onSent(this, part)
    return true
  }

  /** Ranges of the next file messages, in order, as far as the bound allows; one at least. */
  #readAhead(): void {
    for (let item = this.#unread.first; item; item = this.#unread.first) {
      if (this.#readAheadBytes > 0 && this.#readAheadBytes + item.length > FILE_READ_AHEAD_BYTES) return
      this.#unread.shift()
      this.#readRange(item)
    }
  }

  #readRange(item: FileItem): void {
    const { file, length } = item
    this.#readAheadBytes += length
    this.#owner.files.read(file.head, file.path, file.offset, length - file.head.length).then((range) => {
      // Nobody will send it.
      if (this.#state === 'closed') return range.release()
      file.range = range
      item.bytes = range.bytes
    }, (error: Error) => {
      file.error = error
      this.#readAheadBytes -= length
    }).then(() => this.#pump())
  }
}
