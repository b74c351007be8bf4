/**
 * Joining a drive that others have:
 *
 *   prepared   the store holds the key, an identity, and an empty index
 *   joined     the metadata of a device that may write was taken in, from itself
 *              or from one that keeps it for others; from here on it is a store
 *              like any other
 *
 * With a storage key nothing is taken in: the store is ready as soon as it is
 * prepared, and what is sealed comes as to any other device (storage-peer.ts).
 *
 * `prepareJoin` needs no network; `finishJoin` asks until somebody answers. One
 * that was interrupted begins anew.
 */
import { existsSync, mkdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import type { OnProgress } from './api.js'
import { systemTimers, type Timers } from './clock.js'
import { checkCacheBytes } from './cache.js'
import { fail, isDfsError } from './errors.js'
import { certify, readCertificate } from './keys/certificate.js'
import { DriveKeys } from './keys/derive.js'
import { createDevice, type Device } from './keys/device.js'
import { createKeyFile, openKeyFile } from './keys/keyfile.js'
import { readHead } from './log/snapshot-head.js'
import { SnapshotSealer } from './seal/snapshot.js'
import { readMeta, SnapshotReader, type SnapshotMeta } from './snapshot.js'
import { clearUnfinished } from './drive.js'
import { DEVICE_FIELDS, ownMeta, type DeviceField } from './settings.js'
import { Database } from './store/database.js'
import { StoreLock } from './store/lock.js'
import { SnapshotSink } from './store/snapshot.js'
import { readHello, writeHello } from './swarm/hello.js'
import { knownPeers, rememberPeers } from './swarm/known-peers.js'
import type { Message, PieceKind } from './swarm/messages.js'
import type { Link, NetOptions } from './swarm/net/link.js'
import { Net } from './swarm/net/net.js'
import { SnapshotTaker, type SnapshotFailure, type TakeEffect } from './swarm/snapshot.js'
import { decode, encode } from './swarm/wire.js'

/** Committed in between, so that the write-ahead log stays small. */
const COMMIT_BYTES = 64 << 20
/** With a device that keeps snapshots within reach, so long is waited for one that writes: its own is newer. */
const KEEPERS_AFTER_MS = 2000

/** Without a device that gives the metadata for so long, who waits is told; again after so long each time. */
const WAITING_MS = [2000, 60_000] as const

export interface JoinOptions {
  passphrase?: Buffer
  deviceName?: string
  /** 'HOST:PORT' of devices of the drive, to be remembered. */
  peers?: string[]
  /** A cache of this size; null or absent: everything is kept. */
  cacheBytes?: number | null
  /** What it offers, and where it stands: as `dfs devices set` takes them. */
  capacity?: string
  zone?: string
}

/** USAGE for what a setting does not take. */
function ownFields({ capacity, zone }: JoinOptions): [DeviceField, string][] {
  const given: [DeviceField, string | undefined][] = [['capacity', capacity], ['zone', zone]]
  return given.flatMap(([field, text]) => (text === undefined ? [] : [[field, DEVICE_FIELDS[field](text)]]))
}

/** Makes a store for the drive that `key` belongs to. STORE_EXISTS, STORE_LOCKED, KEY_INVALID. */
export async function prepareJoin(storeDir: string, key: string, options: JoinOptions = {}): Promise<{ drive: string; kind: string }> {
  const keys = DriveKeys.fromCapability(key)
  if (keys.kind === 'storage' && typeof options.cacheBytes === 'number') throw fail('USAGE', 'a device with a storage key keeps everything it can: it has no cache')
  if (typeof options.cacheBytes === 'number') checkCacheBytes(options.cacheBytes)
  if (!keys.canWrite && (options.capacity ?? options.zone) !== undefined) throw fail('USAGE', 'a device that does not write the drive does not say what it offers: a device with the full key does, with dfs devices set')
  const own = ownFields(options)
  const dir = resolve(storeDir)
  if (existsSync(join(dir, 'keys'))) throw fail('STORE_EXISTS', `there is already a drive in ${dir}; use another --store`)
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const lock = StoreLock.acquire(dir)
  try {
    clearUnfinished(dir)
    const device = createDevice()
    const db = Database.create(join(dir, 'index.db'))
    db.setMeta('drive', keys.driveId)
    if (keys.canRead) db.setMeta('joining', 1)
    else prepareStorage(db, device)
    if (options.cacheBytes) db.setMeta('cache_bytes', options.cacheBytes)
    for (const [field, value] of own) db.setMeta(ownMeta(field), value)
    db.setMeta('device_name', options.deviceName ?? process.env['NODE_ID'] ?? hostname())
    rememberPeers(db, options.peers ?? [])
    await db.syncWal()
    db.close()
    await createKeyFile(join(dir, 'keys'), { keys, device, ...(options.passphrase ? { passphrase: options.passphrase } : {}) })
    return { drive: keys.driveName, kind: keys.kind }
  } finally {
    lock.release()
  }
}

/** What opening a store takes for granted: the root's incarnation, and one of this device, which writes nothing. */
export function prepareStorage(db: Database, device: Pick<Device, 'incarnation' | 'publicKey'>): void {
  const insert = db.sql.prepare('INSERT INTO incarnation VALUES (?,?,?)')
  insert.run(0, Buffer.alloc(16), Buffer.alloc(32))
  insert.run(1, device.incarnation, device.publicKey)
  db.setMeta('incarnation', 1)
}

export interface FinishOptions {
  passphrase?: () => Promise<Buffer>
  /** `peers` are remembered, and tried beside those that were given before. */
  network: Pick<NetOptions, 'port' | 'host' | 'peers' | 'bootstrap' | 'tcp' | 'dht' | 'mdns'>
  onProgress?: OnProgress
  /** Ends the attempt: rejects with EINTR. */
  signal?: AbortSignal
  /** What a person who waits should know. */
  onNotice?: (text: string) => void
}

/** Takes in the metadata of the first device that offers it. Returns at once for a store that has it. */
export async function finishJoin(storeDir: string, options: FinishOptions): Promise<void> {
  const dir = resolve(storeDir)
  const lock = StoreLock.acquire(dir)
  let db: Database | undefined
  let net: Net | undefined
  try {
    const { keys, device } = await openKeyFile(join(dir, 'keys'), options.passphrase ? { passphrase: options.passphrase } : {})
    db = Database.open(join(dir, 'index.db'))
    if (db.getMeta('joining') !== 1) return
    const name = (db.getMeta('device_name') as string | undefined) ?? hostname()
    const certificate = keys.canWrite ? certify(keys, { device: device.publicKey, role: keys.kind, name }) : undefined
    rememberPeers(db, options.network.peers ?? [])
    net = new Net({ ...options.network, peers: knownPeers(db), device, driveId: keys.driveId, topic: keys.topic, proofKey: keys.proofKey, hello: () => writeHello({ kind: keys.kind, name, certificate }) })
    await net.ready()
    const intake = new SnapshotIntake(db, net, keys, systemTimers, options)
    const stopTelling = options.onNotice ? tellWaiting(intake, net, options.onNotice) : () => {}
    try {
      await intake.run()
    } finally {
      stopTelling()
    }
    await becomeMember(db, device, certificate)
  } finally {
    await net?.close()
    db?.close()
    lock.release()
  }
}

/** Tells what it waits for, and what is known of why. Gives what ends it. */
function tellWaiting(intake: SnapshotIntake, net: Net, onNotice: (text: string) => void): () => void {
  let timer: NodeJS.Timeout
  let isOver = false
  const tell = async () => {
    const status = await net.status()
    if (isOver) return
    timer = setTimeout(() => void tell(), WAITING_MS[1])
    if (intake.isTaking) return
    const why: string[] = []
    if (net.links.length > 0) why.push('those that are connected cannot give its metadata: they hold no full key, or have joined only now themselves')
    for (const { address, from, lastError } of status?.dials ?? []) if (from === 'given' && lastError) why.push(`${address}: ${lastError}${lastError.includes('handshake') ? '; the key may be that of another drive' : ''}`)
    if (status && !status.dht.isOn && !status.mdns.isOn && !status.dials.some((d) => d.from === 'given')) why.push('discovery is off and no address is known: give one with --peer HOST:PORT')
    else if (status?.dht.isOn && !status.dht.isOnline) why.push('the DHT does not answer')
    onNotice(`waiting for a device of the drive; is one of them running \`dfs mount\` or \`dfs serve\`?${why.length > 0 ? ` (${why.join('; ')})` : ''}`)
  }
  timer = setTimeout(() => void tell(), WAITING_MS[0])
  return () => {
    isOver = true
    clearTimeout(timer)
  }
}

/** The index holds what the others have: from here on it is this device's. Durable when it resolves. */
export async function becomeMember(db: Database, device: Pick<Device, 'publicKey' | 'incarnation'>, certificate: Buffer | undefined): Promise<void> {
  const index = db.sql.prepare('SELECT max(idx) + 1 AS n FROM incarnation').get() as { n: number }
  db.sql.exec('BEGIN')
  db.sql.prepare('INSERT INTO incarnation VALUES (?,?,?)').run(index.n, device.incarnation, device.publicKey)
  if (certificate) db.sql.prepare('INSERT OR REPLACE INTO device VALUES (?,?)').run(device.publicKey, certificate)
  db.setMeta('incarnation', index.n)
  db.setMeta('joining', 0)
  db.setMeta('finished', 1)
  db.sql.exec('COMMIT')
  await db.syncWal()
}

/** What an intake sees of the network: a Net, or a simulator's. */
export interface Linked { set onLink(onLink: (link: Link) => void); readonly links: readonly Link[] }

/** Who may give: a device that writes, whom the link vouches for; or one that keeps, whom nobody need believe. */
type Giver = 'full' | 'storage'

/** One snapshot, from whoever gives it. */
export class SnapshotIntake {
  readonly #db: Database
  readonly #net: Linked
  readonly #keys: DriveKeys
  readonly #timers: Timers
  readonly #options: Pick<FinishOptions, 'signal' | 'onNotice' | 'onProgress'>
  readonly #links = new Map<Link, Giver>()
  readonly #taker = new SnapshotTaker()
  /** Who was asked, and has not failed. */
  #from: Link | null = null
  #meta: SnapshotMeta | null = null
  #reader: SnapshotReader | null = null
  #bytes = 0
  #uncommitted = 0
  #total = 0
  /** Why the last attempt failed. */
  #failure = ''
  /** Devices that keep are not asked before: one that writes may yet come. */
  #keepersFromMs = Infinity
  #settle!: { resolve: () => void; reject: (e: Error) => void }

  constructor(db: Database, net: Linked, keys: DriveKeys, timers: Timers, options: Pick<FinishOptions, 'signal' | 'onNotice' | 'onProgress'>) {
    this.#db = db
    this.#net = net
    this.#keys = keys
    this.#timers = timers
    this.#options = options
  }

  /** Somebody gives, or was asked. */
  get isTaking(): boolean { return this.#from !== null }

  async run(): Promise<void> {
    const { signal } = this.#options
    const done = new Promise<void>((resolve, reject) => { this.#settle = { resolve, reject } })
    const onAbort = () => this.#settle.reject(fail('EINTR', 'interrupted before another device of the drive was found'))
    signal?.addEventListener('abort', onAbort, { once: true })
    if (signal?.aborted) onAbort()
    let stopTimer = () => {}
    const watch = () => {
      stopTimer = this.#timers.after(1000, watch)
      this.#do(this.#taker.tick(this.#timers.nowMs()))
      this.#next()
    }
    watch()
    this.#net.onLink = (link) => this.#up(link)
    try {
      await done
    } finally {
      stopTimer()
      signal?.removeEventListener('abort', onAbort)
      this.#net.onLink = () => {}
      for (const link of this.#links.keys()) {
        link.onMessage = () => {}
        link.onClose = () => {}
      }
      if (this.#db.sql.inTransaction) this.#db.sql.exec('ROLLBACK')
    }
  }

  #up(link: Link): void {
    const giver = this.#giverOf(link)
    if (!giver) return
    this.#links.set(link, giver)
    if (giver === 'storage') this.#keepersFromMs = Math.min(this.#keepersFromMs, this.#timers.nowMs() + KEEPERS_AFTER_MS)
    link.onClose = (reason) => {
      this.#links.delete(link)
      if (this.#from !== link) return
      // A better link to the same device takes its place.
      if (reason === 'replaced') {
        this.#from = null
        this.#taker.cancel()
        this.#next()
      } else this.#failed(`the connection ended: ${reason}`)
    }
    link.onMessage = (bytes) => this.#onMessage(link, bytes)
    this.#next()
  }

  /** What is made while it is given is signed at its end: who has shown that he may write is believed until then. */
  #giverOf(link: Link): Giver | undefined {
    const hello = readHello(link.hello)
    const certificate = hello?.certificate && readCertificate(hello.certificate, this.#keys.driveId)
    if (certificate?.role === 'full' && certificate.device.equals(link.peer)) return 'full'
    return hello?.kind === 'storage' ? 'storage' : undefined
  }

  #next(): void {
    if (this.#from) return
    const isNow = this.#timers.nowMs() >= this.#keepersFromMs
    const [link] = [...this.#links.keys()].sort((a, b) => rank(this.#links.get(a)!) - rank(this.#links.get(b)!))
    if (!link || (this.#links.get(link) === 'storage' && !isNow)) return
    this.#from = link
    this.#meta = this.#reader = null
    this.#do(this.#taker.take(this.#timers.nowMs(), peerOf(link)))
  }

  #failed(why: string): void {
    const link = this.#from
    for (const e of this.#taker.cancel()) if (e.type === 'send') link?.send(encode(e.message), e.priority)
    this.#from = null
    // Once, for one that is asked again and again.
    if (why !== this.#failure) this.#options.onNotice?.(`a device that was asked for the drive's metadata failed (${why}); asking again`)
    this.#failure = why
    const giver = link && this.#links.get(link)
    if (link && giver) {
      // To the end of the line.
      this.#links.delete(link)
      this.#timers.after(1000, () => {
        if (this.#net.links.includes(link)) this.#links.set(link, giver)
        this.#next()
      })
    }
    this.#next()
  }

  #onMessage(link: Link, bytes: Buffer): void {
    if (link !== this.#from) return
    let m: Message
    try { m = decode(bytes) } catch { return this.#failed('it sent what no dfs writes') }
    if (m.type === 'snapshotBegin' || m.type === 'snapshotPiece' || m.type === 'snapshotEnd' || m.type === 'snapshotRefused') {
      this.#do(this.#taker.message(this.#timers.nowMs(), peerOf(link), m))
    }
  }

  #do(effects: TakeEffect[]): void {
    for (const e of effects) {
      // What was asked before is of no interest any more.
      if (!this.#from) return
      try {
        switch (e.type) {
          case 'send': this.#from.send(encode(e.message), e.priority); break
          case 'begin': this.#begin(readMeta(e.meta, this.#keys.driveId), e.totalBytes); break
          case 'piece': this.#piece(e.kind, e.bytes); break
          case 'complete': this.#complete(e.hash, e.head); break
          case 'failed': this.#failed(WHY[e.why]); break
        }
      } catch (error) {
        if (isDfsError(error)) this.#failed(error.message)
        // What the tables do not take.
        else if (/^SQLITE_(CONSTRAINT|MISMATCH|TOOBIG)/.test(String((error as { code?: unknown }).code))) this.#failed('a snapshot of what no drive holds')
        else this.#settle.reject(error as Error)
      }
    }
  }

  #begin(meta: SnapshotMeta, totalBytes: number): void {
    if (!meta.head && this.#links.get(this.#from!) !== 'full') throw fail('EIO', 'a snapshot that no device of the drive has signed')
    if (this.#db.sql.inTransaction) this.#db.sql.exec('ROLLBACK')
    this.#db.sql.exec('BEGIN')
    SnapshotSink.clear(this.#db)
    this.#meta = meta
    this.#reader = new SnapshotReader(new SnapshotSealer(this.#keys), new SnapshotSink(this.#db), meta.id)
    this.#bytes = this.#uncommitted = 0
    this.#total = meta.head?.totalBytes ?? totalBytes
  }

  #piece(kind: PieceKind, bytes: Buffer): void {
    this.#bytes += bytes.length
    if (this.#meta?.head && this.#bytes > this.#meta.head.totalBytes) throw fail('EIO', 'a snapshot that is longer than it says')
    if (kind === 'rows') {
      this.#reader!.take(bytes)
      this.#uncommitted += bytes.length
    }
    if (this.#uncommitted > COMMIT_BYTES) {
      this.#db.sql.exec('COMMIT')
      this.#db.sql.pragma('wal_checkpoint(PASSIVE)')
      this.#db.sql.exec('BEGIN')
      this.#uncommitted = 0
    }
    this.#options.onProgress?.({ phase: 'metadata', done: this.#bytes, total: Math.max(this.#total, this.#bytes), unit: 'bytes' })
    this.#do(this.#taker.worked(this.#timers.nowMs(), bytes.length))
  }

  #complete(hash: Buffer, signed: Buffer): void {
    this.#reader!.end()
    const head = this.#meta!.head ?? readHead(signed, this.#keys.driveId)
    if (!head?.id.equals(this.#meta!.id) || !head.hash.equals(hash)) throw fail('EIO', 'a snapshot that no device of the drive has signed')
    SnapshotSink.check(this.#db)
    this.#db.setMeta('from_keeper', this.#meta!.head ? 1 : 0)
    this.#db.sql.exec('COMMIT')
    this.#settle.resolve()
  }
}

const WHY: Record<SnapshotFailure, string> = {
  busy: 'it gives to others', none: 'it has none', failed: 'it cannot read it', stalled: 'it says nothing any more', disconnected: 'the connection ended', lying: 'what came is not what it sent',
}

function rank(giver: Giver): number { return giver === 'full' ? 0 : 1 }

function peerOf(link: Link): string { return link.peer.toString('hex') }
