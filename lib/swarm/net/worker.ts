/**
 * The network's thread: sockets, Noise, framing, discovery. Everything that the
 * main thread, which owns the mount and the index, must not be slowed by.
 *
 * Owns: transports, dialer, switchboard, all connections, and the numbers by
 * which the main thread knows those in use.
 */
import { readFileSync, readlinkSync } from 'node:fs'
import { getPriority, setPriority } from 'node:os'
import { basename } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import sodium from 'sodium-native'
import { fail } from '../../errors.js'
import { MESSAGE_COST_BYTES } from '../../limits.js'
import { AddressBook } from './address-book.js'
import { formatAddress, isLocal, mayDial, networkState, ownAddresses, parseAddress, type Address } from './address.js'
import { Conn, type ConnOrigin, type ConnOwner, type EncryptedStream } from './conn.js'
import type { Dht } from './dht.js'
import { Dialer, type Entry } from './dialer.js'
import { FileRanges } from './files.js'
import type { FrameGuard } from './guard.js'
import { Lender } from './lent.js'
import type { NetStatus, Via } from './link.js'
import { Mdns } from './mdns.js'
import type { Incoming, LaneIndex } from './packet.js'
import { Outbox, TRANSFER_BYTES, type FromWorker, type NetSetup, type ToWorker } from './port.js'
import { Switchboard } from './switchboard.js'
import { Tcp } from './tcp.js'
import type { UdxStream } from './udx-stream.js'

/** What the DHT needs takes longer to load than all the rest: only where it is used. */
const dhtModule = (workerData as NetSetup | null)?.dht ? await import('./dht.js') : undefined

const TICK_MS = 1000
/** A tick that comes later than this: the thread, or the machine, was asleep. */
const LATE_MS = 3000
/** For byes to leave. */
const GOODBYE_MS = 200
/** The main thread hears of what was sent in lumps of so much while more is to be sent: it is woken by each word. */
const SENT_LUMP_BYTES = 256 * 1024
/** Niceness beyond the process's: about a tenth of the processor time of a thread that wants as much, and all that nobody else wants. */
const NICER = 10
const NICEST = 19
/** '1': a niceness counts among the threads of one session, as a daemon's are (sched(7), the autogroup feature). */
const AUTOGROUP = '/proc/sys/kernel/sched_autogroup_enabled'

class Network implements ConnOwner {
  readonly member: { driveId: Buffer; proofKey: Buffer }
  readonly publicKey: Buffer
  readonly files = new FileRanges()
  readonly lender: Lender | undefined

  readonly #setup: NetSetup
  readonly #out: Outbox<FromWorker>
  readonly #tcp: Tcp
  readonly #dialer: Dialer
  readonly #board: Switchboard
  readonly #book: AddressBook
  #dht: Dht | undefined
  #mdns: Mdns | undefined
  readonly #instance = Buffer.alloc(16)
  readonly #device: { publicKey: Buffer; secretKey: Buffer }

  /** Links, by the main thread's number. */
  readonly #links = new Map<number, Conn>()
  readonly #numbers = new Map<Conn, number>()
  #nextLink = 1
  /** Connections that came of a dialled address. */
  readonly #dialled = new Map<Conn, Entry>()
  /** The main thread is asked for its part of a greeting. */
  readonly #hellos = new Map<number, (bytes: Uint8Array) => void>()
  #nextHello = 1
  /** Bytes that the main thread has not heard of. */
  readonly #sent = new Map<Conn, number>()
  #isTellingSent = false
  readonly #refused: Record<string, number> = {}
  #network = networkState()
  #tickedMs = performance.now()
  #clockMs = Date.now()
  #timer: NodeJS.Timeout | undefined
  #isStopped = false

  constructor(setup: NetSetup, post: (list: FromWorker[], transfer: ArrayBuffer[]) => void) {
    this.#setup = setup
    this.lender = setup.lent && new Lender(setup.lent)
    this.#out = new Outbox(post)
    this.#device = { publicKey: Buffer.from(setup.device.publicKey), secretKey: Buffer.from(setup.device.secretKey) }
    this.publicKey = this.#device.publicKey
    this.member = { driveId: Buffer.from(setup.driveId), proofKey: Buffer.from(setup.proofKey) }
    sodium.randombytes_buf(this.#instance)
    this.#board = new Switchboard(this.publicKey, {
      onLink: (conn) => this.#linkOpened(conn),
      onLinkClosed: (conn, reason) => this.#linkClosed(conn, reason),
      onPeerChange: (peer) => this.#peerChanged(peer),
    })
    this.#dialer = new Dialer({
      dial: (entry) => this.#dial(entry),
      hasTcp: (peer) => this.#board.hasTcp(peer),
    })
    this.#book = new AddressBook({
      publicKey: this.publicKey,
      own: () => this.#own(),
      onAddress: (address, peer) => this.#learn(address, peer),
    })
    this.#tcp = new Tcp({
      device: this.#device,
      member: this.member,
      onStream: (stream, guard, origin, context) => this.#connect(stream, guard, { transport: 'tcp', ...origin }, context as Entry | undefined),
      onRefused: (reason) => this.#refuse(reason),
    })
  }

  async start(): Promise<void> {
    const { port, host, peers, kept, tcp, mdns } = this.#setup
    const addresses = peers.map(parseAddress)
    if (tcp) await this.#tcp.listen(port, host)
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
    if (dhtModule) this.#startDht(dhtModule)
    if (tcp && mdns) {
      this.#mdns = new Mdns({
        proofKey: this.member.proofKey,
        port: this.#tcp.port,
        host,
        onFound: (address) => this.#dialer.add(address, 'lan'),
      })
      this.#mdns.start()
    }
    for (const address of tcp ? addresses : []) this.#dialer.add(address, 'given')
    for (const { device, addresses } of tcp ? kept : []) for (const address of addresses) this.#dialer.add(parseAddress(address), 'kept', device)
    this.#out.push({ type: 'ready', port: this.#tcp.port })
  }

  obey(message: ToWorker): void {
    switch (message.type) {
      case 'send':
        return this.#links.get(message.link)?.send(message.lane, message.bytes)
      case 'file':
        return this.#links.get(message.link)?.sendFile(message.head, message.path, message.offset, message.length)
      case 'taken':
        return this.#links.get(message.link)?.taken(message.lane, message.costBytes)
      case 'close': {
        const conn = this.#links.get(message.link)
        return conn && this.#board.closePeer(conn, message.reason)
      }
      case 'hello':
        this.#hellos.get(message.id)?.(message.bytes)
        this.#hellos.delete(message.id)
        return
      case 'peer':
        return this.#setup.tcp ? this.#dialer.add(parseAddress(message.address), 'given') : undefined
      case 'status':
        return this.#out.push({ type: 'status', id: message.id, status: this.#status() })
      case 'stop':
        void this.#stop()
    }
  }

  // --- connections ---

  async #dial(entry: Entry): Promise<void> {
    await this.#tcp.dial(entry.address, entry)
  }

  #connect(stream: EncryptedStream, guard: FrameGuard, origin: ConnOrigin, entry?: Entry): void {
    if (this.#isStopped) return stream.destroy()
    const conn = new Conn(stream, guard, origin, this)
    if (entry) {
      this.#dialled.set(conn, entry)
      this.#dialer.begun(entry)
    }
    this.#board.add(conn)
  }

  async greet(conn: Conn) {
    const hello = await new Promise<Uint8Array>((resolve) => {
      const id = this.#nextHello++
      this.#hellos.set(id, resolve)
      this.#out.push({ type: 'hello', id })
    })
    return {
      instance: this.#instance,
      ended: this.#board.endedWith(conn.peer),
      ...this.#own(),
      hello,
    }
  }

  #own(): { port: number; hosts: string[] } {
    return { port: this.#tcp.port, hosts: this.#setup.tcp ? ownAddresses(this.#setup.host) : [] }
  }

  onReady(conn: Conn): void {
    const entry = this.#dialled.get(conn)
    if (entry) this.#dialer.connected(entry, conn.peer.toString('hex'))
    this.#board.ready(conn)
    if (conn.state !== 'closed') this.#learnAddresses(conn)
  }

  onUse(conn: Conn): void { this.#board.use(conn) }
  onLost(conn: Conn, linkId: Buffer): void { this.#board.lost(conn, linkId) }
  onAddresses(conn: Conn, packet: Buffer): void { this.#book.heard(conn, packet) }

  onMessage(conn: Conn, lane: LaneIndex, { bytes, place }: Incoming): void {
    const link = this.#numbers.get(conn)
    if (link === undefined) {
      if (place) this.lender!.drop(place)
      conn.taken(lane, bytes.length + MESSAGE_COST_BYTES)
    } else if (place) this.#out.push({ type: 'lent', link, lane, place })
    else this.#out.push({ type: 'message', link, lane, bytes }, bytes.length >= TRANSFER_BYTES ? bytes.buffer : undefined)
  }

  onSent(conn: Conn, bytes: number): void {
    const sent = (this.#sent.get(conn) ?? 0) + bytes
    this.#sent.set(conn, sent)
    // What is told late here is followed by more.
    if (this.#isTellingSent || (sent < SENT_LUMP_BYTES && conn.hasQueued)) return
    this.#isTellingSent = true
    setImmediate(() => this.#tellSent())
  }

  onFileError(conn: Conn, head: Uint8Array, error: Error, bytes: number): void {
    const link = this.#numbers.get(conn)
    if (link !== undefined) this.#out.push({ type: 'unsent', link, head: Uint8Array.from(head), message: error.message, bytes })
  }

  onRtt(conn: Conn): void {
    const link = this.#numbers.get(conn)
    if (link !== undefined) this.#out.push({ type: 'rtt', link, rttMs: conn.rttMs, ...this.#place(conn) })
  }

  onClosed(conn: Conn, reason: string): void {
    const entry = this.#dialled.get(conn)
    this.#dialled.delete(conn)
    this.#sent.delete(conn)
    if (!conn.greeting) this.#refuse(reason)
    this.#board.closed(conn, reason)
    if (entry) this.#dialer.ended(entry, reason, performance.now() - conn.openedMs)
  }

  #place(conn: Conn): { via: Via; address: string } {
    const { stream, origin: { transport }, remote } = conn
    const via = transport === 'tcp' ? (isLocal(remote.host) ? 'lan' : 'tcp') : this.#dht?.isRelayed(stream as UdxStream) ? 'relayed' : 'holepunched'
    return { via, address: formatAddress(remote) }
  }

  #linkOpened(conn: Conn): void {
    const link = this.#nextLink++
    this.#links.set(link, conn)
    this.#numbers.set(conn, link)
    this.#out.push({ type: 'link', link, peer: Uint8Array.from(conn.peer), hello: Uint8Array.from(conn.greeting!.hello), reachedAt: this.#placesOf(conn).map(formatAddress), rttMs: conn.rttMs, ...this.#place(conn) })
    this.#book.linked(conn)
  }

  #linkClosed(conn: Conn, reason: string): void {
    const link = this.#numbers.get(conn)!
    this.#book.unlinked(conn)
    this.#numbers.delete(conn)
    this.#links.delete(link)
    this.#out.push({ type: 'closed', link, reason })
  }

  #peerChanged(peer: Buffer): void {
    const name = peer.toString('hex')
    const hasTcp = this.#board.hasTcp(name)
    this.#dht?.want(peer, !hasTcp)
    if (!hasTcp) this.#dialer.peerChanged(name)
  }

  #learnAddresses(conn: Conn): void {
    for (const address of this.#placesOf(conn)) this.#learn(address, conn.peer)
  }

  #learn(address: Address, peer: Buffer): void {
    if (this.#setup.tcp) this.#dialer.add(address, 'peer', peer.toString('hex'))
  }

  /** Where the device may be reached over TCP: where it was, then what it tells, then where it is seen from here. */
  #placesOf(conn: Conn): Address[] {
    const { port, hosts } = conn.greeting!
    const { host: seen } = conn.origin
    const dialled = this.#dialled.get(conn)?.address
    const told = port === 0 ? [] : [...new Set([...hosts, seen])].filter((host) => mayDial(host, seen)).map((host) => ({ host, port }))
    return dialled ? [dialled, ...told.filter(({ host }) => host !== dialled.host || port !== dialled.port)] : told
  }

  // --- the clock, and the network coming and going ---

  #tick(): void {
    const nowMs = performance.now()
    const clockMs = Date.now()
    const elapsedMs = nowMs - this.#tickedMs
    // The monotonic clock stands still while the machine sleeps, the other does not.
    const sleptMs = Math.max(0, clockMs - this.#clockMs - elapsedMs)
    const lateMs = Math.max(0, elapsedMs - 2 * TICK_MS)
    this.#tickedMs = nowMs
    this.#clockMs = clockMs
    for (const conn of this.#board.conns) conn.tick(nowMs, lateMs)
    this.files.tidy()
    const network = networkState()
    if (network === this.#network && sleptMs < LATE_MS && lateMs < LATE_MS) return
    const isNew = network !== this.#network
    this.#network = network
    for (const conn of this.#board.conns) if (conn.state === 'ready' || conn.state === 'active') void conn.probe()
    this.#dialer.retry()
    this.#dht?.retry()
    if (!isNew) return
    this.#mdns?.restart()
    this.#book.renew()
  }

  #startDht({ Dht }: NonNullable<typeof dhtModule>): void {
    const { topic, bootstrap, host } = this.#setup
    this.#dht = new Dht({
      device: this.#device,
      topic: Buffer.from(topic),
      bootstrap,
      host,
      proofKey: this.member.proofKey,
      hasLinks: () => this.#board.links > 0,
      relays: () => [...this.#numbers.keys()].filter((conn) => this.#place(conn).via !== 'relayed').map((conn) => conn.peer),
      onStream: (stream, guard, origin) => this.#connect(stream, guard, { transport: 'udx', ...origin }),
      onRefused: (reason) => this.#refuse(reason),
    })
  }

  #tellSent(): void {
    this.#isTellingSent = false
    for (const [conn, bytes] of this.#sent) {
      const link = this.#numbers.get(conn)
      if (link !== undefined) this.#out.push({ type: 'sent', link, bytes })
    }
    this.#sent.clear()
  }

  #refuse(reason: string): void {
    const known = reason in this.#refused || Object.keys(this.#refused).length < 64 ? reason : 'other reasons'
    this.#refused[known] = (this.#refused[known] ?? 0) + 1
  }

  #status(): NetStatus {
    return {
      port: this.#tcp.port,
      addresses: (this.#setup.tcp ? ownAddresses(this.#setup.host) : []).map((host) => formatAddress({ host, port: this.#tcp.port })),
      dht: { isOn: this.#dht !== undefined, ...(this.#dht?.status() ?? { isOnline: false, nodes: 0, port: 0 }) },
      mdns: { isOn: this.#mdns?.isOn ?? false },
      halfOpen: this.#tcp.halfOpen + this.#board.halfOpen,
      dials: this.#dialer.status(),
      refused: { ...this.#refused },
    }
  }

  async #stop(): Promise<void> {
    if (this.#isStopped) return
    this.#isStopped = true
    clearInterval(this.#timer)
    this.#dialer.close()
    this.#mdns?.close()
    const conns = [...this.#board.conns]
    for (const conn of conns) conn.close('closed')
    this.#tcp.close()
    if (conns.length > 0) await new Promise((resolve) => setTimeout(resolve, GOODBYE_MS))
    await this.#dht?.close()
    this.files.tidy(0)
    this.#out.push({ type: 'stopped' })
  }
}

if (!parentPort) throw fail('EINVAL', 'the network runs as a worker thread only')
giveWay()
const port = parentPort
const network = new Network(workerData as NetSetup, (list, transfer) => port.postMessage(list, transfer))
port.on('message', (list: ToWorker[]) => {
  for (const message of list) network.obey(message)
})
network.start().catch((error: Error) => port.postMessage([{ type: 'failed', message: error.message } satisfies FromWorker]))

/** Where processors are short, what programs read and write comes before what goes to and comes from other devices; but not what else the machine does. On Linux a thread has a niceness of its own. */
function giveWay(): void {
  try {
    if (readFileSync(AUTOGROUP, 'latin1').trim() !== '1') return
    const thread = Number(basename(readlinkSync('/proc/thread-self')))
    setPriority(thread, Math.min(NICEST, getPriority(thread) + NICER))
  } catch {
    // Not Linux, or a kernel without.
  }
}
