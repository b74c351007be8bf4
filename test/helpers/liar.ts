/**
 * A peer that holds the key of a drive, speaks its protocol to the letter where it wants to, and says what it likes: for
 * tests of what a device lets others do to it.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Assert } from 'brittle'
import type { KeyKind } from '../../lib/keys/capability.js'
import { certify } from '../../lib/keys/certificate.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice, type Device } from '../../lib/keys/device.js'
import { Writer } from '../../lib/log/codec.js'
import { decodeHeader, encodeHeader, entryAad, entryHash, hashOf, type EntryHeader } from '../../lib/log/entry.js'
import { encodeOp, type Op } from '../../lib/log/ops.js'
import { writeHead } from '../../lib/log/snapshot-head.js'
import { EntrySealer, OPS_OVERHEAD_BYTES, SIGNATURE_BYTES, signEntry } from '../../lib/seal/entry.js'
import { SnapshotSealer } from '../../lib/seal/snapshot.js'
import { metaOfFresh } from '../../lib/snapshot.js'
import { writeHello } from '../../lib/swarm/hello.js'
import type { Entries, Have, HeldLog, Message, SignedEntry } from '../../lib/swarm/messages.js'
import type { Link } from '../../lib/swarm/net/link.js'
import { Net } from '../../lib/swarm/net/net.js'
import { PiecesHash } from '../../lib/swarm/snapshot.js'
import { decode, encode } from '../../lib/swarm/wire.js'

const LIMIT_MS = 30_000

export interface LiarOptions {
  /** Default: as an honest device makes it, if its key can. */
  certificate?: (keys: DriveKeys, device: Device) => Buffer
  /** What it says that it holds; default: the full key. */
  kind?: KeyKind
  /** Answers a message itself; true: nothing else is to be done. */
  answer?: (m: Message, liar: Liar) => boolean
  /** Listens on this port instead of dialling. */
  port?: number
}

export class Liar {
  readonly keys: DriveKeys
  readonly device: Device = createDevice()
  readonly certificate: Buffer | undefined
  readonly #net: Net
  readonly #answer: (m: Message, liar: Liar) => boolean
  link: Link | undefined
  /** How often the other side ended the link. */
  cuts = 0
  /** What the other holds, as it said. */
  readonly held = new Map<string, HeldLog>()
  readonly counts = new Map<string, number>()
  readonly entries: Entries[] = []
  /** Set to take nothing in any more. */
  isDeaf = false

  private constructor(key: string, to: string | undefined, readonly name: string, options: LiarOptions) {
    const keys = this.keys = DriveKeys.fromCapability(key)
    this.#answer = options.answer ?? (() => false)
    this.certificate = options.certificate?.(keys, this.device) ?? (keys.canWrite ? certify(keys, { device: this.device.publicKey, role: 'full', name }) : undefined)
    this.#net = new Net({
      device: this.device, driveId: keys.driveId, topic: keys.topic, proofKey: keys.proofKey, host: '127.0.0.1', dht: false, mdns: false,
      ...(options.port !== undefined && { port: options.port }), ...(to !== undefined && { peers: [to] }),
      hello: () => writeHello({ kind: options.kind ?? 'full', name, certificate: this.certificate }),
    })
    let met: Buffer | undefined
    this.#net.onLink = (link) => {
      // Others hear of it from the one it came to, and would take the lies that are not for them.
      met ??= link.peer
      if (to !== undefined && !met.equals(link.peer)) return link.close('not for you')
      this.link = link
      link.onClose = (reason) => {
        if (this.link === link) this.link = undefined
        if (reason !== 'replaced') this.cuts++
      }
      link.onMessage = (bytes) => {
        if (this.isDeaf) return new Promise<void>(() => {})
        // Whoever asks is answered.
        this.link = link
        this.#take(bytes)
      }
    }
  }

  static async meet(t: Pick<Assert, 'teardown'>, key: string, to: string | undefined, name: string, options: LiarOptions = {}): Promise<Liar> {
    const liar = new Liar(key, to, name, options)
    t.teardown(() => liar.close(), { force: true })
    await liar.#net.ready()
    if (to !== undefined) await liar.until('is linked', () => liar.link !== undefined)
    return liar
  }

  #take(bytes: Buffer): void {
    const m = decode(bytes)
    this.counts.set(m.type, (this.counts.get(m.type) ?? 0) + 1)
    if (this.#answer(m, this)) return
    if (m.type === 'have') for (const log of (m as Have).logs) this.held.set(log.device.toString('hex'), log)
    if (m.type === 'entries') this.entries.push(m)
  }

  async until(what: string, is: () => boolean): Promise<void> {
    for (const start = performance.now(); !is(); await sleep(10)) if (performance.now() - start > LIMIT_MS) throw new Error(`${this.name} waited in vain: ${what}`)
  }

  send(m: Message, priority: 'now' | 'bulk' = 'now'): void { this.raw(encode(m), priority) }

  raw(bytes: Uint8Array, priority: 'now' | 'bulk' = 'now'): void { this.link?.send(bytes, priority) }

  /** For floods: as fast as the other takes it. */
  async flood(n: number, message: (i: number) => Uint8Array): Promise<void> {
    for (let i = 0; i < n && this.link; i++) {
      this.raw(message(i))
      while (this.link && this.link.queuedBytes > 4 << 20) await sleep(2)
    }
    while (this.link && this.link.queuedBytes > 0) await sleep(2)
  }

  /** Its log. */
  get log(): { incarnation: Buffer; device: Buffer } { return { incarnation: this.device.incarnation, device: this.device.publicKey } }

  /** An entry as this device would write it, but for what `change` says. */
  entry(seq: number, previous: Buffer, ops: Op[] | Buffer, change: Partial<EntryHeader> & { flip?: 'signature' | 'ops'; table?: Buffer[] } = {}): SignedEntry {
    const { flip, table = [], ...fields } = change
    const w = new Writer(4096)
    const codec = { outgoing: (inc: number) => inc, incoming: (i: number) => i }
    if (Array.isArray(ops)) for (const op of ops) encodeOp(w, op, codec)
    const plain = Array.isArray(ops) ? w.take() : ops
    const incarnation = fields.incarnation ?? this.device.incarnation
    const sealed = this.keys.canRead ? new EntrySealer(this.keys).sealOps(plain, entryAad(fields.drive ?? this.keys.driveId, incarnation, fields.seq ?? seq)) : randomBytes(plain.length + OPS_OVERHEAD_BYTES)
    const header = encodeHeader({
      drive: this.keys.driveId, incarnation, seq, previous, clockMs: Date.now(), firstOp: 1, opCount: Array.isArray(ops) ? ops.length : 1,
      incarnations: [incarnation, ...table], context: [], chunks: [], opsHash: hashOf(sealed), ...fields,
    })
    const signed = Buffer.concat([header, signEntry(header, this.device.secretKey)])
    if (flip === 'signature') signed[signed.length - 1]! ^= 1
    if (flip === 'ops') sealed[sealed.length - 1]! ^= 1
    return { signed, sealed }
  }

  /** Of its first entry, so that its log is taken: it has seen all that is held. `table`: ids that its ops name, before those. */
  seen(...table: Buffer[]): Pick<EntryHeader, 'incarnations' | 'context'> {
    const logs = [...this.held.values()]
    return {
      incarnations: [this.device.incarnation, ...table, ...logs.map((log) => log.incarnation)],
      context: logs.map((log, i) => [1 + table.length + i, log.seq]),
    }
  }

  push(from: number, entries: SignedEntry[], name: { incarnation: Buffer; device: Buffer } = this.log): void {
    this.send({ type: 'entries', request: 0, ...name, from, entries })
  }

  hash(entry: SignedEntry): Buffer { return entryHash(entry.signed) }

  /** Asks for the beginning of a log of others. */
  async entriesOf(device: Buffer, to = 1 << 20): Promise<Entries> {
    const log = this.held.get(device.toString('hex'))!
    const request = 1 + this.entries.length
    const before = this.entries.length
    this.send({ type: 'wantEntries', request, incarnation: log.incarnation, device: log.device, from: log.first, to: Math.max(log.first, Math.min(to, log.seq)), limitBytes: 1 << 20 })
    await this.until('gets entries', () => this.entries.slice(before).some((e) => e.request === request))
    return this.entries.slice(before).find((e) => e.request === request)!
  }

  get address(): string { return `127.0.0.1:${this.#net.port}` }

  close(): Promise<void> { return this.#net.close() }
}

/** The ids in an entry's header. */
export const chunksOf = ({ signed }: SignedEntry): Buffer[] => decodeHeader(signed.subarray(0, signed.length - SIGNATURE_BYTES)).chunks

export const ZERO = Buffer.alloc(32)
export const ids = (n: number): Buffer[] => Array.from({ length: n }, () => randomBytes(32))

/** How a snapshot is not what it should be. */
export interface SnapshotLie {
  seal?: (plain: Buffer, id: Buffer, n: number, sealer: SnapshotSealer) => Buffer
  head?: (head: Buffer) => Buffer
  role?: 'full' | 'read-only'
  id?: Buffer
  meta?: (id: Buffer) => Buffer
}

/** As a device that writes would give it, of whatever rows, but for what `how` says. */
export function sendSnapshot(x: Liar, parts: [table: number, rows: Buffer][], how: SnapshotLie = {}): void {
  const id = randomBytes(16)
  const sealer = new SnapshotSealer(x.keys)
  const hash = new PiecesHash()
  x.send({ type: 'snapshotBegin', meta: how.meta?.(id) ?? metaOfFresh(id), totalBytes: 1 }, 'bulk')
  for (const [n, [table, rows]] of parts.entries()) {
    const plain = Buffer.concat([Buffer.of(table, 0), rows])
    const bytes = how.seal?.(plain, id, n, sealer) ?? sealer.seal(id, n, plain)
    hash.add('rows', bytes)
    x.send({ type: 'snapshotPiece', kind: 'rows', bytes }, 'bulk')
  }
  const digest = hash.digest()
  const certificate = certify(x.keys, { device: x.device.publicKey, role: how.role ?? 'full', name: x.name })
  const head = writeHead(x.keys.driveId, certificate, { id: how.id ?? id, clockMs: 1, pieces: parts.length, totalBytes: 1, hash: digest, logs: [] }, x.device.secretKey)
  x.send({ type: 'snapshotEnd', hash: digest, head: how.head?.(head) ?? head }, 'bulk')
}
