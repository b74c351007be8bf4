/**
 * A device of the simulation: the real tree, log, order, inbox and swarm code
 * over a fake disk, clock and network. Programs make ops where a mount would.
 */
import { adopt, mayBeginAnew, takeAnew } from '../../../lib/anew.js'
import { SnapshotIntake, becomeMember, type Linked } from '../../../lib/join.js'
import { Inbox } from '../../../lib/inbox.js'
import { certify } from '../../../lib/keys/certificate.js'
import { deviceFromSeed, newIncarnation, type Device } from '../../../lib/keys/device.js'
import type { DriveKeys } from '../../../lib/keys/derive.js'
import { fromMs, type Clock, type Timers } from '../../../lib/clock.js'
import { treeSealer } from '../../../lib/drive.js'
import type { LocalChunk } from '../../../lib/file/flush.js'
import { ASIDE_AFTER_MS } from '../../../lib/limits.js'
import { INO_HIGH, type Op } from '../../../lib/log/ops.js'
import { Metadata } from '../../../lib/metadata.js'
import { CausalEngine } from '../../../lib/order/causal/engine.js'
import { rescue, rescued } from '../../../lib/rescue.js'
import { chunkId, sealedLength } from '../../../lib/seal/chunk.js'
import { Arrivals } from '../../../lib/store/arrivals.js'
import { ChunkTable } from '../../../lib/store/chunks.js'
import { readHello, writeHello } from '../../../lib/swarm/hello.js'
import type { SwarmHost } from '../../../lib/swarm/host.js'
import type { Link } from '../../../lib/swarm/net/link.js'
import { Peers } from '../../../lib/swarm/peers.js'
import type { Outcome } from '../../../lib/tree/tree.js'
import blake from '@napi-rs/blake-hash'
import { SimDatabase, SimDisk, SimStore } from './disk.js'
import { SimPlacing, type Placed } from './placing.js'
import { SimSegments } from './segments.js'
import { SimDrive } from './whole.js'
import type { World } from './world.js'

/** Sealed bytes of each log that are kept: little, so that logs are truncated. */
export const KEEP_LOG_BYTES = 4096
/** A device that was up for so long judges whether others are silent. */
const UP_MS = 20_000
/** How often it is looked what has passed out of the retention. */
const SWEEP_MS = 7_000
/** Plaintext bytes of each chunk. */
export const CHUNK_BYTES = 400

/** A device as others meet it. */
export interface SimNode {
  readonly name: string
  readonly world: World
  readonly disk: SimDisk
  readonly publicKey: Buffer
  readonly links: Map<string, SimLink>
  /** It can be asked for the drive's metadata. */
  readonly isMember: boolean
  readonly live: { store: Pick<SimStore, 'at'>; timers: Timers } | undefined
  hello(): Buffer
}

/** What the device is while it has power. */
interface Session {
  timers: Timers & { stop(): void }
  db: SimDatabase
  store: SimStore | SimSegments
  chunks: ChunkTable
  metadata: Metadata
  inbox: Inbox
  peers: Peers
  /** With a plan: what real devices have for it. */
  placing: Placed | undefined
  /** In a race: the rest of what a real device has. */
  drive: SimDrive | undefined
}

interface Joining { timers: Timers & { stop(): void }; db: SimDatabase; linked: Linked & { links: SimLink[] } }

/** Between one index and the other. */
interface Exchanging { timers: Timers & { stop(): void }; db: SimDatabase }

type State = { is: 'off' } | { is: 'anew'; at: Exchanging } | { is: 'joining'; at: Joining } | { is: 'on'; at: Session }

export class SimDevice {
  readonly name: string
  readonly world: World
  readonly disk = new SimDisk()
  readonly keys: DriveKeys
  device: Device
  /** How far its clock is off, milliseconds; moves in jumps. */
  skewMs = 0
  /** Its disk was put back, and it has not heard yet of what it has lost. */
  isRestored = false
  wasRestored = false
  /** Bytes that its disk has. */
  diskBytes = 1e12
  /** It holds the drive's metadata. */
  isMember = false
  state: State = { is: 'off' }
  readonly notices: string[] = []
  readonly links = new Map<string, SimLink>()

  /** `keys`: another than the full key. */
  constructor(world: World, name: string, keys = world.keys) {
    this.world = world
    this.name = name
    this.keys = keys
    this.device = deviceFromSeed(blake.blake3(`device ${name}`), newIncarnation())
  }

  get publicKey(): Buffer { return this.device.publicKey }
  get isOn(): boolean { return this.state.is !== 'off' }
  /** Its session, if it is up and has the drive. */
  get live(): Session | undefined { return this.state.is === 'on' ? this.state.at : undefined }
  get s(): Session {
    if (this.state.is !== 'on') throw new Error(`${this.name} is ${this.state.is}`)
    return this.state.at
  }

  readonly clock: Clock = {
    nowMs: () => this.world.wallMs + this.skewMs,
    now: () => fromMs(this.clock.nowMs()),
  }

  // --- life ---------------------------------------------------------------

  /** The first device: makes the drive. */
  create(): void {
    const db = new SimDatabase(this.disk, this.world.timers())
    db.setMeta('drive', this.keys.driveId)
    db.setMeta('order', 'causal')
    db.setMeta('name', 'simulated')
    db.setMeta('device_name', this.name)
    const insert = db.sql.prepare('INSERT INTO incarnation VALUES (?,?,?)')
    insert.run(0, Buffer.alloc(16), Buffer.alloc(32))
    insert.run(1, this.device.incarnation, this.device.publicKey)
    db.setMeta('incarnation', 1)
    db.syncWalNow()
    db.close()
    this.isMember = true
    this.boot()
    const { metadata } = this.s
    metadata.tree.makeRoot(0, 0, this.clock.now())
    metadata.tree.rows.setAuthor(1, this.name)
    metadata.journal.touched()
    metadata.journal.commit()
    metadata.journal.durable(true).catch(() => {})
    this.s.db.syncWalNow()
  }

  /** Power is there: as it was left, or as one that joins. */
  boot(): void {
    if (this.state.is !== 'off') throw new Error(`${this.name} is on`)
    this.disk.syncMs = () => this.world.between(1, 30)
    if (this.isMember) this.#open()
    else this.#join()
    this.world.net.add(this.name, {
      onUp: (peer) => this.#linkUp(peer),
      onDown: (peer) => this.#linkDown(peer),
      onMessage: (peer, bytes) => void this.links.get(peer)?.onMessage(bytes),
      onDrain: (peer) => this.links.get(peer)?.onDrain(),
    })
  }

  #open(): void {
    const { world, clock } = this
    const timers = world.timers()
    const db = new SimDatabase(this.disk, timers)
    const chunks = new ChunkTable(db)
    const segments = world.graces && new SimSegments(this.disk, timers)
    const simple = new SimStore(this.disk, timers)
    const store = segments ?? simple
    const metadata: Metadata = new Metadata({
      db, keys: this.keys, device: this.device, clock: this.clock, timers, chunks, sealer: treeSealer(this.keys), makeEngine: (host) => new CausalEngine(host), store,
      gone: (ino) => this.#gone(ino), keepLogBytes: KEEP_LOG_BYTES, aside: { afterMs: ASIDE_AFTER_MS, upMs: UP_MS },
      ...(world.graces && { stating: world.graces.stating }),
    })
    const { log, tree, journal, engine, members, history } = metadata
    if (!segments) history.retentionMs = () => world.retentionMs
    if (!segments && world.retentionMs > 0) timers.every(SWEEP_MS, () => { while (history.sweep(() => false)) { /* it goes on */ } })
    // What was under way when the power was cut may still come to the journal.
    journal.onStop = (e) => { if (db.sql.open) world.broken(this, e) }
    const drive = segments && SimDrive.make({ device: this, db, timers, chunks, segments, metadata, graces: world.graces! })
    const submitNow = engine.submitNow.bind(engine)
    engine.submitNow = (op) => (op.type === 'author' ? submitNow(op) : world.submitted(this, op, () => submitNow(op)))
    const onEntry = journal.onEntry
    journal.onEntry = (e) => {
      onEntry(e)
      world.entryMade(this, e)
    }
    const files = drive?.files ?? { dirtyBytes: 0, isLive: false, find: () => undefined, flush: () => Promise.resolve(), flushSmall: () => undefined }
    const inbox = new Inbox({
      driveId: this.keys.driveId, tree, log, journal, engine, files, posix: drive?.posix ?? { copies: { received: () => {} }, tellChanges: () => {} }, timers,
      isForked: (inc) => metadata.isForked(inc), takes: (inc, device, context) => metadata.takes(inc, device, context), named: (inc) => metadata.newcomers.name(inc),
      mayWrite: (device) => members.get(device)?.role === 'full', asides: metadata.asides,
    })
    const arrivals = drive?.arrivals ?? new Arrivals({ chunks, store, journal, timers, guard: () => () => {}, take: () => {} })
    const stand = world.isPlaced ? new SimPlacing({ device: this, db, timers, chunks, store: simple, metadata }) : undefined
    const placing: Placed | undefined = stand ?? (drive && { ...drive.placing, cache: drive.cache })
    const host: SwarmHost = {
      ...(placing && { keeping: placing.keeping, reports: placing.reports, factors: placing.factors, fleet: placing.fleet, cache: placing.cache, random: () => world.random() }),
      keys: this.keys, device: this.device, deviceName: this.name, timers, log, journal, members, inbox, chunks, arrivals, store, source: drive?.source ?? { provider: null }, files,
      ...(drive && { receipts: drive.receipts, freshMs: world.graces!.freshMs, deadChunks: (ids) => drive.deadChunks(ids) }),
      space: { freeBytes: () => 1e9 }, share: () => metadata.share(), snapshot: (withChunks) => metadata.snapshot(withChunks), metadata,
      get mayBeginAnew() { return mayBeginAnew(db, clock.nowMs()) },
      beginAnew: (links) => {
        world.count('begins anew')
        this.#beginAnew(links).catch((e: Error) => world.broken(this, e))
      },
    }
    const peers = new Peers(host)
    peers.onNotice = (text) => {
      this.notices.push(text)
      world.noticed(this, text)
    }
    this.state = { is: 'on', at: { timers, db, store, chunks, metadata, inbox, peers, placing, drive } }
    world.trace(`${this.name} boots: next op ${journal.nextOpCounter}, entry ${log.head(journal.incarnation).seq}`)
    for (const [inc, seq] of log.heads()) {
      const placed = engine.timeline.tail.filter((e) => e.inc === inc)
      if (placed.length > 0 && placed.at(-1)!.seq !== seq) world.broken(this, new Error(`its log has entry ${seq} of incarnation ${inc}, and ${placed.at(-1)!.seq} are applied`))
    }
    world.rebooted(this, journal.newOpId())
    world.onBoot(this)
    metadata.start()
    this.#rescue()
    stand?.start()
    drive?.start()
    for (const ino of tree.rows.orphans()) this.#gone(ino)
  }

  #gone(ino: number): void {
    const { drive, metadata: { tree, engine, journal } } = this.s
    if (drive) return drive.posix.forget(ino)
    if (!engine.mayReap(ino)) return
    tree.reap(ino)
    journal.touched('derived')
  }

  #join(): void {
    const timers = this.world.timers()
    const disk = this.disk
    disk.image = undefined
    const db = new SimDatabase(disk, timers)
    db.setMeta('drive', this.keys.driveId)
    db.setMeta('joining', 1)
    db.setMeta('device_name', this.name)
    const linked: Joining['linked'] = { onLink: () => {}, links: [] }
    this.state = { is: 'joining', at: { timers, db, linked } }
    const intake = new SnapshotIntake(db, linked, this.keys, timers, {})
    intake.run().then(() => becomeMember(db, this.device, this.#certificate())).then(() => {
      if (this.state.is !== 'joining' || this.state.at.db !== db) return
      this.isMember = true
      this.#down()
      db.close()
      this.boot()
      this.world.trace(`${this.name} has joined`)
    }, (e: Error) => this.world.broken(this, e))
  }

  /** As a drive and its daemon do (lib/anew.ts): a second index is filled, takes the place of the first, and the device starts again. */
  async #beginAnew(links: Linked): Promise<void> {
    const { world } = this
    const at = this.s
    const disk = new SimDisk()
    disk.syncMs = this.disk.syncMs
    const taken = new SimDatabase(disk, at.timers)
    const { log, journal } = at.metadata
    await takeAnew({
      taken, links, keys: this.keys, incarnation: log.incarnationId(journal.incarnation), timers: at.timers, signal: new AbortController().signal, onNotice: (text) => world.trace(`${this.name} notices: ${text}`),
    })
    if (this.live !== at) return
    taken.syncWalNow()
    taken.close()
    if (journal.isHeld) at.metadata.own.renew()
    this.leave()
    const timers = world.timers()
    const old = new SimDatabase(this.disk, timers)
    this.state = { is: 'anew', at: { timers, db: old } }
    const lasting = new SimDatabase(disk, timers)
    await adopt(old, lasting, this.keys, this.device, this.clock.nowMs())
    if (this.state.is !== 'anew' || this.state.at.db !== old) return
    this.disk.before = this.disk.image
    this.disk.image = disk.image
    world.begunAnew(this)
    this.#down()
    old.close()
    lasting.close()
    this.isRestored = false
    this.boot()
  }

  /** What only the index of before had. */
  #rescue(): void {
    const { db, metadata } = this.s
    if (db.getMeta('anew') !== 1) return
    const disk = new SimDisk()
    disk.image = this.disk.before
    const old = new SimDatabase(disk, this.s.timers)
    const ops = this.keys.canWrite ? rescue(old, metadata, this.keys, treeSealer(this.keys), this.publicKey) : 0
    old.close()
    this.world.trace(`${this.name} does ${ops} ops again`)
    for (let n = ops; n > 0; n--) this.world.count('done again')
    rescued(db)
    db.setMeta('anew', 0)
    metadata.journal.touched()
    metadata.journal.settle().then(() => { this.disk.before = undefined }, () => {})
  }

  /** The disk as it was at an earlier time. */
  restore(backup: ReturnType<SimDisk['copy']>): void {
    this.disk.image = backup.image
    this.disk.before = backup.before
    this.disk.chunks = backup.chunks
    this.isRestored = this.wasRestored = true
    this.world.count('restored')
    this.world.trace(`${this.name} is restored from a backup`)
  }

  #down(): void {
    if (this.state.is === 'off') return
    this.state.at.timers.stop()
    this.state = { is: 'off' }
    this.links.clear()
    this.world.net.remove(this.name)
  }

  /** Power is cut: what was not synced is gone, `keep` (0 to 1) of what is under way is there. */
  crash(keep: number): void {
    const { state } = this
    if (state.is === 'off') return
    if (state.is === 'on') state.at.drive?.halt()
    this.#down()
    this.disk.cut(keep)
    state.at.db.close()
    this.world.crashed(this)
  }

  /** The process ends by itself, and leaves nothing behind. */
  leave(): void {
    const { peers, metadata, timers } = this.s
    peers.close()
    metadata.stop()
    metadata.journal.close()
    this.s.db.syncWalNow()
    this.s.db.close()
    timers.stop()
    for (const c of this.disk.chunks.values()) c.isDurable = true
    this.#down()
  }

  // --- links --------------------------------------------------------------

  hello(): Buffer {
    if (this.state.is === 'on') return Buffer.from(this.state.at.peers.hello())
    return Buffer.from(writeHello({ kind: this.keys.kind, name: this.name, certificate: this.#certificate() }))
  }

  #certificate(): Buffer | undefined {
    return this.keys.canWrite ? certify(this.keys, { device: this.publicKey, role: 'full', name: this.name }) : undefined
  }

  #linkUp(peer: string): void {
    const other = this.world.node(peer)
    const link = new SimLink(this, other)
    this.links.set(peer, link)
    if (this.state.is === 'on') this.state.at.peers.up(link)
    else if (this.state.is === 'joining' && other.isMember) {
      const { linked } = this.state.at
      linked.links.push(link)
      linked.onLink(link)
    }
  }

  #linkDown(peer: string): void {
    const link = this.links.get(peer)
    this.links.delete(peer)
    if (this.state.is === 'joining') {
      const { links } = this.state.at.linked
      if (link && links.includes(link)) links.splice(links.indexOf(link), 1)
    }
    link?.onClose('lost')
  }

  // --- what programs do ---------------------------------------------------

  lookup(parent: number, name: string): number {
    const { tree } = this.s.metadata
    const dir = tree.get(parent)
    return dir ? tree.lookup(dir, Buffer.from(name)) : 0
  }

  names(dir: number): string[] {
    const { tree } = this.s.metadata
    const inode = tree.get(dir)
    const out: string[] = []
    if (inode) {
      tree.list(inode, 0, (name) => {
        out.push(name.toString())
        return true
      })
    }
    return out.sort()
  }

  submit(op: Op): Outcome {
    const { engine } = this.s.metadata
    if (engine.isHeld) {
      void engine.submit(op)
      return 'EBUSY'
    }
    return engine.submitNow(op)
  }

  newIno(): number { return this.s.metadata.journal.newIno() }

  /** A chunk with content of its own, kept in the index. */
  chunk(content: string): LocalChunk {
    const { id, sealed, h } = chunkOf(content)
    return { id, h, len: CHUNK_BYTES, num: 0, seg: 0, off: 0, data: sealed }
  }

  /** The same in a segment: durable before anything names it. */
  async storedChunk(content: string): Promise<LocalChunk | undefined> {
    const { id, sealed, h } = chunkOf(content)
    const { store, timers } = this.s
    const [place] = await store.append([{ id, plainLength: CHUNK_BYTES, sealed }])
    await store.sync()
    if (this.live?.timers !== timers) return undefined
    return { id, h, len: CHUNK_BYTES, num: 0, seg: place!.segment, off: place!.offset }
  }

  /** Every op so far survives a power cut when it resolves. */
  fsync(): Promise<void> { return this.s.metadata.journal.durable() }

  /** Numbers mean the same on every device only with the incarnation's id. */
  globalId(n: number): string {
    const { log } = this.s.metadata
    return n === 0 ? '0' : `${log.incarnationId(Math.floor(n / INO_HIGH)).toString('hex').slice(0, 12)}:${n % INO_HIGH}`
  }
}

/** Content decides id, hash and sealed bytes, as with convergent sealing. */
export function chunkOf(content: string): { id: Buffer; sealed: Buffer; h: Buffer } {
  const sealed = Buffer.alloc(sealedLength(CHUNK_BYTES), content.padEnd(32, '.'))
  return { id: chunkId(sealed), sealed, h: blake.blake3(content) }
}

/** One end of a link. */
export class SimLink implements Link {
  readonly peer: Buffer
  readonly hello: Buffer
  readonly via = 'tcp'
  readonly address = '10.0.0.1:1'
  readonly reachedAt = []
  readonly rttMs = 20
  readonly bytesIn = 0
  readonly bytesOut = 0
  readonly #from: SimNode
  readonly #to: SimNode
  #isClosed = false
  onMessage: (bytes: Buffer) => void | Promise<void> = () => {}
  onDrain: () => void = () => {}
  onFileError: (head: Buffer, error: Error) => void = () => {}
  onClose: (reason: string) => void = () => {}

  constructor(from: SimNode, to: SimNode) {
    this.#from = from
    this.#to = to
    this.peer = to.publicKey
    this.hello = to.hello()
    if (!readHello(this.hello)) throw new Error('a hello that cannot be read')
  }

  get queuedBytes(): number { return this.#from.world.net.queuedBytes(this.#from.name, this.#to.name) }

  send(bytes: Uint8Array, priority: 'now' | 'bulk'): void {
    if (this.#isClosed || this.#from.links.get(this.#to.name) !== this) return
    this.#from.world.send(this.#from, this.#to, Buffer.from(bytes), priority)
  }

  sendFile(head: Uint8Array, file: { path: string; offset: number; length: number }): void {
    const sealed = this.#from.live?.store.at(Number(file.path), file.offset)
    if (sealed?.length === file.length) this.send(Buffer.concat([head, sealed]), 'bulk')
    else this.#from.live?.timers.soon(() => this.onFileError(Buffer.from(head), new Error('there is no such chunk')))
  }

  close(reason = 'closed'): void {
    if (this.#isClosed) return
    this.#isClosed = true
    const { world, name } = this.#from
    if (this.#from.links.get(this.#to.name) === this) {
      this.#from.links.delete(this.#to.name)
      world.net.disconnect(name, this.#to.name)
    }
    this.onClose(reason)
  }
}
