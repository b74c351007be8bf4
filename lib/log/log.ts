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
import { decodeHeader, entryAad, entryHash, hashOf, type EntryHeader } from './entry.js'

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
  readonly #heads = new Map<number, Head>()
  readonly #incarnations: Buffer[] = []

  constructor(db: Database, sealer: EntrySealer) {
    this.#db = db
    this.#sealer = sealer
    this.#insert = db.sql.prepare('INSERT INTO log VALUES (?,?,?,?,?)') as unknown as Statement
    this.#setHead = db.sql.prepare('INSERT OR REPLACE INTO log_head VALUES (?,?,?,?,?)') as unknown as Statement
    for (const r of db.sql.prepare('SELECT inc, seq, hash, first, bytes FROM log_head').all() as ({ inc: number } & Head)[]) {
      this.#heads.set(r.inc, { seq: r.seq, hash: r.hash, first: r.first, bytes: r.bytes })
    }
    for (const r of db.sql.prepare('SELECT idx, id FROM incarnation').all() as { idx: number; id: Buffer }[]) this.#incarnations[r.idx] = r.id
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
    const signed = Buffer.concat([header, signature])
    const hash = entryHash(signed)
    const head = this.head(inc)
    if (seq !== head.seq + 1) throw new Error(`invariant: entry ${seq} after ${head.seq}`)
    this.#insert.run(inc, seq, hash, signed, sealed)
    const next: Head = { seq, hash, first: head.first, bytes: head.bytes + signed.length + sealed.length }
    this.#heads.set(inc, next)
    this.#setHead.run(inc, next.seq, next.hash, next.first, next.bytes)
  }

  /** Drops the oldest entries of `inc` until at most `keepBytes` are left; the chain's head stays. */
  truncate(inc: number, keepBytes: number): void {
    const head = this.head(inc)
    if (head.bytes <= keepBytes) return
    const sizes = this.#db.sql.prepare('SELECT seq, length(header) + length(ops) AS n FROM log WHERE inc = ? ORDER BY seq')
    let { first, bytes } = head
    for (const r of sizes.all(inc) as { seq: number; n: number }[]) {
      if (bytes <= keepBytes || r.seq === head.seq) break
      bytes -= r.n
      first = r.seq + 1
    }
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

  /** Verifies and decodes one entry. */
  open(signed: Buffer, sealed: Buffer, device: Buffer): { header: EntryHeader; ops: Op[] } {
    const bytes = signed.subarray(0, signed.length - SIGNATURE_BYTES)
    const header = decodeHeader(bytes)
    if (!this.#sealer.verify(bytes, signed.subarray(signed.length - SIGNATURE_BYTES), device)) {
      throw fail('EIO', `log entry ${header.seq}: the signature is wrong`)
    }
    if (!hashOf(sealed).equals(header.opsHash)) throw fail('EIO', `log entry ${header.seq}: the ops are damaged`)
    const r = new Reader(this.#sealer.openOps(sealed, entryAad(header.drive, header.incarnation, header.seq)))
    const codec: InodeCodec = {
      outgoing: () => { throw new Error('reading') },
      incoming: (i) => {
        const id = header.incarnations[i]
        if (!id) throw fail('EIO', `log entry ${header.seq}: unknown incarnation`)
        const idx = this.#incarnations.findIndex((k) => k?.equals(id))
        if (idx < 0) throw fail('EIO', `log entry ${header.seq}: unknown incarnation`)
        return idx
      },
    }
    const ops: Op[] = []
    for (let i = 0; i < header.opCount; i++) ops.push(decodeOp(r, codec))
    if (r.left !== 0) throw fail('EIO', `log entry ${header.seq}: bytes after the last op`)
    return { header, ops }
  }
}
