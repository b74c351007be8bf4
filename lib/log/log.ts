/**
 * The log tables: each incarnation's signed, hash-chained entries.
 *
 * Invariant: for each incarnation, `log_head` names the last entry's seq and
 * hash, and the entries first..seq are all there, each holding the hash of the
 * one before.
 */
import { SIGNATURE_BYTES } from '../seal/entry.js'
import type { Database, Statement } from '../store/database.js'
import { fail } from '../errors.js'
import { decodeOp, type InodeCodec, type Op } from './ops.js'
import { Reader } from './codec.js'
import { entryAad, entryHash, hashOf, headerIn, type EntryHeader } from './entry.js'

export interface Head { seq: number; hash: Buffer; first: number; bytes: number }

/** What the log needs of lib/seal. */
export interface EntrySealer {
  /** `aad` binds the ops to their place: entryAad. */
  sealOps(plain: Buffer, aad: Buffer): Buffer
  openOps(sealed: Buffer, aad: Buffer): Buffer
  sign(header: Buffer): Buffer
  verify(header: Buffer, signature: Buffer, device: Buffer): boolean
}

export class Log {
  readonly #db: Database
  readonly #sealer: EntrySealer
  readonly #insert: Statement
  readonly #setHead: Statement
  readonly #hashAt: Statement
  readonly #heads = new Map<number, Head>()
  readonly #incarnations: Buffer[] = []
  readonly #devices: Buffer[] = []

  constructor(db: Database, sealer: EntrySealer) {
    this.#db = db
    this.#sealer = sealer
    this.#insert = db.sql.prepare('INSERT INTO log VALUES (?,?,?,?,?)') as unknown as Statement
    this.#hashAt = db.sql.prepare('SELECT hash FROM log WHERE inc = ? AND seq = ?').raw(true) as unknown as Statement
    this.#setHead = db.sql.prepare('INSERT OR REPLACE INTO log_head VALUES (?,?,?,?,?)') as unknown as Statement
    this.reload()
  }

  head(inc: number): Head {
    return this.#heads.get(inc) ?? { seq: 0, hash: Buffer.alloc(32), first: 1, bytes: 0 }
  }

  incarnationId(index: number): Buffer {
    const id = this.#incarnations[index]
    if (!id) throw fail('EIO', `unknown incarnation ${index}`)
    return id
  }

  /** Appends an entry of our own; `header` is encoded and signed, `sealed` are its ops. */
  append(inc: number, seq: number, header: Buffer, signature: Buffer, sealed: Buffer): void {
    this.keep(inc, seq, Buffer.concat([header, signature]), sealed)
  }

  /** Appends an entry as it is stored; whoever has it from others has verified it. */
  keep(inc: number, seq: number, signed: Buffer, sealed: Buffer): void {
    const hash = entryHash(signed)
    const head = this.head(inc)
    if (seq !== head.seq + 1) throw new Error(`invariant: entry ${seq} after ${head.seq}`)
    this.#insert.run(inc, seq, hash, signed, sealed)
    const next: Head = { seq, hash, first: head.first, bytes: head.bytes + signed.length + sealed.length }
    this.#heads.set(inc, next)
    this.#setHead.run(inc, next.seq, next.hash, next.first, next.bytes)
  }

  /** The log goes on after entry `seq`, which has this hash: it and all before are not needed here. */
  skip(inc: number, seq: number, hash: Buffer): void {
    this.#db.sql.prepare('DELETE FROM log WHERE inc = ?').run(inc)
    this.#heads.set(inc, { seq, hash, first: seq + 1, bytes: 0 })
    this.#setHead.run(inc, seq, hash, seq + 1, 0)
  }

  /** Sealed bytes of the entries behind `seq`. */
  bytesAfter(inc: number, seq: number): number {
    return (this.#db.sql.prepare('SELECT ifnull(sum(length(header) + length(ops)), 0) AS n FROM log WHERE inc = ? AND seq > ?').get(inc, seq) as { n: number }).n
  }

  /** The local index of an incarnation, made if it is new. */
  index(id: Buffer, device: Buffer): number {
    const known = this.#incarnations.findIndex((k) => k?.equals(id))
    if (known >= 0) return known
    const idx = this.#incarnations.length
    this.#db.sql.prepare('INSERT INTO incarnation VALUES (?,?,?)').run(idx, id, device)
    this.#incarnations[idx] = id
    this.#devices[idx] = device
    return idx
  }

  /** -1 if it is unknown. */
  find(id: Buffer): number { return this.#incarnations.findIndex((k) => k?.equals(id)) }

  /** Public key of the device that writes the log of this incarnation. */
  deviceOf(index: number): Buffer { return this.#devices[index]! }

  /** All incarnations that are known, by index; 0 is the root's. */
  get incarnations(): readonly Buffer[] { return this.#incarnations }

  /** Last seq of each log. */
  /** The last entry of each log, by its incarnation (as latin1). */
  headsById(): Map<string, number> {
    return new Map([...this.heads()].map(([inc, seq]) => [this.incarnationId(inc).toString('latin1'), seq]))
  }

  heads(): Map<number, number> {
    const out = new Map<number, number>()
    for (const [inc, head] of this.#heads) out.set(inc, head.seq)
    return out
  }

  /** Reads the heads and incarnations again: a snapshot has replaced them. */
  reload(): void {
    this.#heads.clear()
    this.#incarnations.length = 0
    this.#devices.length = 0
    for (const r of this.#db.sql.prepare('SELECT inc, seq, hash, first, bytes FROM log_head').all() as ({ inc: number } & Head)[]) {
      this.#heads.set(r.inc, { seq: r.seq, hash: r.hash, first: r.first, bytes: r.bytes })
    }
    for (const r of this.#db.sql.prepare('SELECT idx, id, device FROM incarnation').all() as { idx: number; id: Buffer; device: Buffer }[]) {
      this.#incarnations[r.idx] = r.id
      this.#devices[r.idx] = r.device
    }
  }

  /** Entries from `from` on as they are stored, up to `limitBytes` but at least one. */
  stored(inc: number, from: number, limitBytes: number): { signed: Buffer; sealed: Buffer }[] {
    const out: { signed: Buffer; sealed: Buffer }[] = []
    let bytes = 0
    for (const r of this.#db.sql.prepare('SELECT header, ops FROM log WHERE inc = ? AND seq >= ? ORDER BY seq LIMIT 1024').iterate(inc, from) as Iterable<{ header: Buffer; ops: Buffer }>) {
      bytes += r.header.length + r.ops.length
      if (out.length > 0 && bytes > limitBytes) break
      out.push({ signed: r.header, sealed: r.ops })
    }
    return out
  }

  /** What the clock of its device said at the last entry that is held; 0 without one. */
  lastClockMs(inc: number): number {
    const row = this.#db.sql.prepare('SELECT header FROM log WHERE inc = ? ORDER BY seq DESC LIMIT 1').get(inc) as { header: Buffer } | undefined
    return row ? headerIn(row.header).clockMs : 0
  }

  /** The hash of an entry that is held; undefined if it is not. */
  hashAt(inc: number, seq: number): Buffer | undefined {
    return (this.#hashAt.get(inc, seq) as [Buffer] | undefined)?.[0]
  }

  /** The ops of an entry that is held and was verified when it came. */
  ops(inc: number, seq: number): Op[] {
    const row = this.#db.sql.prepare('SELECT header, ops FROM log WHERE inc = ? AND seq = ?').get(inc, seq) as { header: Buffer; ops: Buffer } | undefined
    if (!row) throw fail('STORE_DAMAGED', `log entry ${seq} of incarnation ${inc} is missing`)
    return this.#decode(headerIn(row.header), row.ops)
  }

  /** Drops the oldest entries of `inc`, up to `upTo`, until at most `keepBytes` are left; the chain's head stays. */
  truncate(inc: number, keepBytes: number, upTo = Infinity): void {
    const head = this.head(inc)
    if (head.bytes <= keepBytes) return
    const sizes = this.#db.sql.prepare('SELECT seq, length(header) + length(ops) AS n FROM log WHERE inc = ? ORDER BY seq')
    let { first, bytes } = head
    for (const r of sizes.iterate(inc) as Iterable<{ seq: number; n: number }>) {
      if (bytes <= keepBytes || r.seq === head.seq || r.seq > upTo) break
      bytes -= r.n
      first = r.seq + 1
    }
    if (first === head.first) return
    this.#db.sql.prepare('DELETE FROM log WHERE inc = ? AND seq < ?').run(inc, first)
    const next = { ...head, first, bytes }
    this.#heads.set(inc, next)
    this.#setHead.run(inc, next.seq, next.hash, next.first, next.bytes)
  }

  /** Entries of one incarnation from `from` on, opened and checked: chain, ops hash, signature. */
  *entries(inc: number, from: number, device: Buffer): Generator<{ header: EntryHeader; ops: Op[]; hash: Buffer }> {
    const get = this.#db.sql.prepare('SELECT seq, hash, header, ops FROM log WHERE inc = ? AND seq = ?')
    const head = this.head(inc)
    let previous: Buffer | undefined
    for (let seq = Math.max(from, head.first); seq <= head.seq; seq++) {
      const row = get.get(inc, seq) as { seq: number; hash: Buffer; header: Buffer; ops: Buffer } | undefined
      if (!row) throw fail('EIO', `log entry ${seq} is missing`)
      const { header, ops } = this.open(row.header, row.ops, device)
      if (header.seq !== seq) throw fail('EIO', `log entry ${seq} says that it is ${header.seq}`)
      if (previous && !header.previous.equals(previous)) throw fail('EIO', `log entry ${seq} does not follow the one before it`)
      previous = entryHash(row.header)
      if (!previous.equals(row.hash)) throw fail('EIO', `log entry ${seq} has another hash than the index says`)
      yield { header, ops, hash: previous }
    }
    if (previous && !previous.equals(head.hash)) throw fail('EIO', 'the log does not end where the index says')
  }

  /** As `open`, of another device: ENOENT if it refers to incarnations that are not known here yet. */
  openForeign(signed: Buffer, sealed: Buffer, device: Buffer): { header: EntryHeader; ops: Op[]; context: [inc: number, seq: number][] } {
    if (signed.length <= SIGNATURE_BYTES) throw fail('EIO', 'log entry: too short')
    const header = headerIn(signed)
    if (!header.incarnations[0]?.equals(header.incarnation)) throw fail('EIO', `log entry ${header.seq}: its incarnations do not begin with its own`)
    for (const id of header.incarnations.slice(1)) if (this.find(id) < 0) throw fail('ENOENT', `log entry ${header.seq} refers to a log of which nothing is here`)
    this.#verify(signed, sealed, header, device)
    this.index(header.incarnation, device)
    return { header, ops: this.#decode(header, sealed), context: this.#contextOf(header) }
  }

  /** The context of an entry by local indexes. */
  #contextOf(header: EntryHeader): [inc: number, seq: number][] {
    return header.context.map(([index, seq]) => {
      const id = header.incarnations[index]
      if (!id) throw fail('EIO', `log entry ${header.seq}: unknown incarnation`)
      return [this.find(id), seq]
    })
  }

  /** Whether `device` has signed a header of its own. */
  isSignedBy(signed: Buffer, device: Buffer): boolean {
    if (signed.length <= SIGNATURE_BYTES) return false
    const at = signed.length - SIGNATURE_BYTES
    return this.#sealer.verify(signed.subarray(0, at), signed.subarray(at), device)
  }

  /** Verifies and decodes one entry. */
  open(signed: Buffer, sealed: Buffer, device: Buffer): { header: EntryHeader; ops: Op[] } {
    const header = headerIn(signed)
    this.#verify(signed, sealed, header, device)
    return { header, ops: this.#decode(header, sealed) }
  }

  #verify(signed: Buffer, sealed: Buffer, header: EntryHeader, device: Buffer): void {
    const bytes = signed.subarray(0, signed.length - SIGNATURE_BYTES)
    if (!this.#sealer.verify(bytes, signed.subarray(signed.length - SIGNATURE_BYTES), device)) {
      throw fail('EIO', `log entry ${header.seq}: the signature is wrong`)
    }
    if (!hashOf(sealed).equals(header.opsHash)) throw fail('EIO', `log entry ${header.seq}: the ops are damaged`)
  }

  #decode(header: EntryHeader, sealed: Buffer): Op[] {
    const r = new Reader(this.#sealer.openOps(sealed, entryAad(header.drive, header.incarnation, header.seq)))
    const table = header.incarnations.map((id) => this.find(id))
    const codec: InodeCodec = {
      outgoing: () => { throw new Error('reading') },
      incoming: (i) => {
        const idx = table[i]
        if (idx === undefined || idx < 0) throw fail('EIO', `log entry ${header.seq}: unknown incarnation`)
        return idx
      },
    }
    const ops: Op[] = []
    for (let i = 0; i < header.opCount; i++) ops.push(decodeOp(r, codec))
    if (r.left !== 0) throw fail('EIO', `log entry ${header.seq}: bytes after the last op`)
    return ops
  }
}
