/**
 * Joining a drive that others have:
 *
 *   prepared   the store holds the key, an identity, and an empty index
 *   joined     the metadata of a device that may write was taken in; from here
 *              on it is a store like any other
 *
 * With a storage key nothing is taken in: the store is ready as soon as it is
 * prepared, and what is sealed comes as to any other device (storage-peer.ts).
 *
 * `prepareJoin` needs no network; `finishJoin` asks until somebody answers. One
 * that was interrupted begins anew.
 */
import blake from '@napi-rs/blake-hash'
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
import { clearUnfinished } from './drive.js'
import { Database } from './store/database.js'
import { StoreLock } from './store/lock.js'
import { SnapshotSink } from './store/snapshot.js'
import { readHello, writeHello } from './swarm/hello.js'
import { knownPeers, rememberPeers } from './swarm/known-peers.js'
import type { Message } from './swarm/messages.js'
import type { Link, NetOptions } from './swarm/net/link.js'
import { Net } from './swarm/net/net.js'
import { decode, encode } from './swarm/wire.js'

/** Rows under way. */
const CREDIT_BYTES = 8 << 20
/** Committed in between, so that the write-ahead log stays small. */
const COMMIT_BYTES = 64 << 20
/** A peer that says nothing for so long is left for another. */
const SILENT_MS = 15_000

/** Without a device that gives the metadata for so long, who waits is told; again after so long each time. */
const WAITING_MS = [2000, 60_000] as const

export interface JoinOptions {
  passphrase?: Buffer
  deviceName?: string
  /** 'HOST:PORT' of devices of the drive, to be remembered. */
  peers?: string[]
  /** A cache of this size; null or absent: everything is kept. */
  cacheBytes?: number | null
}

/** Makes a store for the drive that `key` belongs to. STORE_EXISTS, STORE_LOCKED, KEY_INVALID. */
export async function prepareJoin(storeDir: string, key: string, options: JoinOptions = {}): Promise<{ drive: string; kind: string }> {
  const keys = DriveKeys.fromCapability(key)
  if (keys.kind === 'storage' && typeof options.cacheBytes === 'number') throw fail('USAGE', 'a device with a storage key keeps everything it can: it has no cache')
  if (typeof options.cacheBytes === 'number') checkCacheBytes(options.cacheBytes)
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
function prepareStorage(db: Database, device: Device): void {
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
    const intake = new SnapshotIntake(db, net, keys.driveId, systemTimers, options)
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
export interface Linked { onLink: (link: Link) => void; readonly links: readonly Link[] }

/** One snapshot, from whoever gives it. */
export class SnapshotIntake {
  readonly #db: Database
  readonly #net: Linked
  readonly #driveId: Buffer
  readonly #timers: Timers
  readonly #options: Pick<FinishOptions, 'signal' | 'onNotice' | 'onProgress'>
  readonly #links = new Set<Link>()
  /** Who was asked, and has not failed. */
  #from: Link | null = null
  #sink: SnapshotSink | null = null
  #hash = new blake.Blake3Hasher()
  #bytes = 0
  #uncommitted = 0
  #total = 0
  #heardMs = 0
  #settle!: { resolve: () => void; reject: (e: Error) => void }

  constructor(db: Database, net: Linked, driveId: Buffer, timers: Timers, options: Pick<FinishOptions, 'signal' | 'onNotice' | 'onProgress'>) {
    this.#db = db
    this.#net = net
    this.#driveId = driveId
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
      if (this.#from && this.#timers.nowMs() - this.#heardMs > SILENT_MS) this.#failed('it says nothing any more')
    }
    watch()
    this.#net.onLink = (link) => this.#up(link)
    try {
      await done
    } finally {
      stopTimer()
      signal?.removeEventListener('abort', onAbort)
      this.#net.onLink = () => {}
      for (const link of this.#links) {
        link.onMessage = () => {}
        link.onClose = () => {}
      }
      if (this.#db.sql.inTransaction) this.#db.sql.exec('ROLLBACK')
    }
  }

  #up(link: Link): void {
    const hello = readHello(link.hello)
    const certificate = hello?.certificate && readCertificate(hello.certificate, this.#driveId)
    // Rows are not signed: only who has shown that he may write is believed, not who says so.
    const mayGive = certificate?.role === 'full' && certificate.device.equals(link.peer)
    if (!mayGive) return
    this.#links.add(link)
    link.onClose = (reason) => {
      this.#links.delete(link)
      if (this.#from !== link) return
      // A better link to the same device takes its place.
      if (reason === 'replaced') {
        this.#from = null
        this.#next()
      } else this.#failed(`the connection ended: ${reason}`)
    }
    link.onMessage = (bytes) => this.#onMessage(link, bytes)
    this.#next()
  }

  #next(): void {
    if (this.#from) return
    const [link] = this.#links
    if (!link) return
    this.#from = link
    this.#heardMs = this.#timers.nowMs()
    link.send(encode({ type: 'wantSnapshot', creditBytes: CREDIT_BYTES }), 'now')
  }

  #failed(why: string): void {
    const link = this.#from
    this.#from = null
    this.#options.onNotice?.(`a device that was asked for the drive's metadata failed (${why}); asking again`)
    if (link) {
      // To the end of the line.
      this.#links.delete(link)
      this.#timers.after(1000, () => {
        if (this.#net.links.includes(link)) this.#links.add(link)
        this.#next()
      })
    }
    this.#next()
  }

  #onMessage(link: Link, bytes: Buffer): void {
    if (link !== this.#from) return
    let m: Message
    try { m = decode(bytes) } catch { return this.#failed('it sent what no dfs writes') }
    this.#heardMs = this.#timers.nowMs()
    try {
      switch (m.type) {
        case 'snapshotBegin':
          if (this.#db.sql.inTransaction) this.#db.sql.exec('ROLLBACK')
          this.#db.sql.exec('BEGIN')
          SnapshotSink.clear(this.#db)
          this.#sink = new SnapshotSink(this.#db)
          this.#hash.reset()
          this.#bytes = this.#uncommitted = 0
          this.#total = m.totalBytes
          return
        case 'snapshotRows': {
          if (!this.#sink) return
          this.#sink.take(m.table, m.rows)
          const head = Buffer.alloc(5)
          head[0] = m.table
          head.writeUInt32LE(m.rows.length, 1)
          this.#hash.update(head)
          this.#hash.update(m.rows)
          this.#bytes += m.rows.length
          this.#uncommitted += m.rows.length
          if (this.#uncommitted > COMMIT_BYTES) {
            this.#db.sql.exec('COMMIT')
            this.#db.sql.pragma('wal_checkpoint(PASSIVE)')
            this.#db.sql.exec('BEGIN')
            this.#uncommitted = 0
          }
          this.#options.onProgress?.({ phase: 'metadata', done: this.#bytes, total: Math.max(this.#total, this.#bytes), unit: 'bytes' })
          link.send(encode({ type: 'snapshotCredit', creditBytes: m.rows.length }), 'now')
          return
        }
        case 'snapshotEnd':
          if (!this.#sink) return
          if (!this.#hash.digestBuffer().equals(m.hash)) return this.#failed('what came is not what it sent')
          SnapshotSink.check(this.#db)
          this.#db.sql.exec('COMMIT')
          this.#settle.resolve()
          return
        case 'snapshotRefused': return this.#failed(m.reason)
        default:
      }
    } catch (e) {
      if (isDfsError(e)) return this.#failed(e.message)
      // What the tables do not take.
      if (/^SQLITE_(CONSTRAINT|MISMATCH|TOOBIG)/.test(String((e as { code?: unknown }).code))) return this.#failed('a snapshot of what no drive holds')
      this.#settle.reject(e as Error)
    }
  }
}
