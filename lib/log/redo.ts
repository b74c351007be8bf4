/**
 * The redo file: ops that an fsync has made durable ahead of their commit.
 *
 * A commit writes every page of the index that a change touched, ten for one
 * small append; its ops and the content that came with them are a page or two.
 * So an fsync writes these here, with one aligned write past the page cache, and
 * the commit comes later, for many of them. What a crash took from the index is
 * applied again at open (Journal.recover): the tree is deterministic.
 *
 * Two halves, filled in turn: while one is filled, the commit that covers the
 * other becomes durable. Records are never removed. A reader takes those of the
 * session that the index names, in the order of their ops, from the index's next
 * op on: what the index has already is skipped, and a torn record, which nobody
 * was told of, ends its half.
 *
 * Owns its descriptor. Format: docs/format.md, "Redo file".
 */
import { closeSync, constants, existsSync, fdatasync, fdatasyncSync, fstatSync, fsyncSync, openSync, readFileSync, statfsSync, write, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { fail } from '../errors.js'
import { MAX_REDO_RECORD_BYTES, REDO_HALF_BYTES } from '../limits.js'
import { OPS_OVERHEAD_BYTES } from '../seal/entry.js'
import { Reader, Writer } from './codec.js'
import { hashOf } from './entry.js'
import type { EntrySealer } from './log.js'
import { decodeOp, type ChunkRef, type InodeCodec, type Op } from './ops.js'

const MAGIC = 0x52534644 // 'DFSR'
const VERSION = 1
const HEADER_BYTES = 48
const BLOCK = 4096
export const SESSION_BYTES = 16
/** The file is made only where this many times its size is free. */
const FREE_TIMES = 32

/** A chunk that came with an op: in a segment, inline (its sealed bytes), or (neither) known to the index already. */
export interface PlacedChunk extends ChunkRef { seg: number; off: number; data?: Buffer }

/** What a record holds: ops without a gap, and the chunks of their content, one after another. */
export interface Batch {
  firstOp: number
  opCount: number
  /** As encodeOp wrote them, by indexes into `table`. */
  ops: Buffer
  /** Local indexes of incarnations. */
  table: readonly number[]
  chunks: readonly PlacedChunk[]
}

/** Binds a record to its drive and incarnation. */
export interface RedoOwner { sealer: EntrySealer; drive: Buffer; incarnation: Buffer }

export class RedoFile {
  readonly #owner: RedoOwner
  readonly #session: Buffer
  readonly #area: Buffer
  #fd: number
  /** Written past the page cache, durable when the write returns; else a sync follows. */
  readonly #direct: boolean
  #half = 0
  #at = 0
  /** Bytes of the record that is prepared. */
  #pending = 0
  /** Number of the commit that covers the last record of each half. */
  readonly #coveredBy = [0, 0]

  /** The file at `path`, written to its full length. Undefined where there is little room. */
  static open(path: string, session: Buffer, owner: RedoOwner): RedoFile | undefined {
    const bytes = REDO_HALF_BYTES * 2
    const made = existsSync(path)
    if (!made) {
      const fs = statfsSync(dirname(path))
      if (fs.bavail * fs.bsize < bytes * FREE_TIMES) return undefined
    }
    // Overwriting what was written once changes no block map, so that a sync need not wait for the file system's journal.
    const fd = openSync(path, made ? 'r+' : 'w+', 0o600)
    try {
      const zeros = Buffer.alloc(1 << 20)
      for (let at = fstatSync(fd).size; at < bytes;) at += writeSync(fd, zeros, 0, Math.min(zeros.length, bytes - at), at)
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    if (!made) {
      const dir = openSync(dirname(path), 'r')
      try { fsyncSync(dir) } finally { closeSync(dir) }
    }
    return new RedoFile(path, session, owner)
  }

  private constructor(path: string, session: Buffer, owner: RedoOwner) {
    this.#owner = owner
    this.#session = session
    this.#area = aligned(MAX_REDO_RECORD_BYTES)
    const direct = openDirect(path)
    this.#direct = direct >= 0
    this.#fd = this.#direct ? direct : openSync(path, 'r+')
  }

  /**
   * Prepares a record for `write`; it will be covered by the commit with number `commit`, and `synced` is the last one
   * that is durable. 'none': there is no room until a commit is durable; 'turned': it is the first of its half, so that
   * it is time for one.
   */
  prepare(batch: Batch, commit: number, synced: number): 'none' | 'same' | 'turned' {
    const { sealer, drive, incarnation } = this.#owner
    const w = new Writer(256 + batch.ops.length)
    w.uint(batch.table.length)
    for (const i of batch.table) w.uint(i)
    w.bytes(batch.ops)
    let data = 0
    for (const c of batch.chunks) {
      if (c.data) {
        w.uint(2)
        w.uint(c.data.length)
        data += c.data.length
      } else if (c.seg > 0) {
        w.uint(1)
        w.uint(c.seg)
        w.uint(c.off)
      } else w.uint(0)
    }
    const plain = w.take()
    const length = HEADER_BYTES + plain.length + OPS_OVERHEAD_BYTES + data
    const padded = Math.ceil(length / BLOCK) * BLOCK
    if (padded > this.#area.length) return 'none'
    const room = this.#place(padded, synced)
    if (room === 'none') return room
    const area = this.#area
    area.writeUInt32LE(MAGIC, 0)
    area.writeUInt32LE(VERSION, 4)
    this.#session.copy(area, 8)
    area.writeUIntLE(batch.firstOp, 24, 6)
    area.writeUInt16LE(0, 30)
    area.writeUInt32LE(batch.opCount, 32)
    area.writeUInt32LE(plain.length + OPS_OVERHEAD_BYTES, 36)
    area.writeUInt32LE(data, 40)
    area.writeUInt32LE(0, 44)
    const sealed = sealer.sealOps(plain, Buffer.concat([drive, incarnation, area.subarray(0, HEADER_BYTES)]))
    sealed.copy(area, HEADER_BYTES)
    let at = HEADER_BYTES + sealed.length
    for (const c of batch.chunks) if (c.data) at += c.data.copy(area, at)
    area.fill(0, at, padded)
    this.#pending = padded
    this.#coveredBy[this.#half] = commit
    return room
  }

  #place(bytes: number, synced: number): 'none' | 'same' | 'turned' {
    // What the index has for good need not be kept.
    if (this.#coveredBy[this.#half]! <= synced) this.#at = 0
    if (this.#at + bytes <= REDO_HALF_BYTES) return 'same'
    const other = 1 - this.#half
    if (this.#coveredBy[other]! > synced) return 'none'
    this.#half = other
    this.#at = 0
    return 'turned'
  }

  #take(): { length: number; at: number } {
    const length = this.#pending
    const at = this.#half * REDO_HALF_BYTES + this.#at
    this.#at += length
    return { length, at }
  }

  /** The prepared record is durable when it returns. */
  writeNow(): void {
    const { length, at } = this.#take()
    if (writeSync(this.#fd, this.#area, 0, length, at) !== length) throw fail('EIO', 'the redo file was not written in full')
    if (!this.#direct) fdatasyncSync(this.#fd)
  }

  /** As writeNow, in the thread pool; nothing may be prepared until it settles. */
  write(): Promise<void> {
    const { length, at } = this.#take()
    return new Promise((resolve, reject) => {
      write(this.#fd, this.#area, 0, length, at, (e, n) => {
        if (e) reject(e)
        else if (n !== length) reject(fail('EIO', 'the redo file was not written in full'))
        else if (this.#direct) resolve()
        else fdatasync(this.#fd, (error) => (error ? reject(error) : resolve()))
      })
    })
  }

  /** May be called twice. */
  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd)
    this.#fd = -1
  }
}

export interface RedoRecord { firstOp: number; ops: Op[] }

/**
 * The records of a session, in the order of their ops. A content op's chunks are PlacedChunks. Nothing if there is no
 * file. STORE_NEWER for records of a later format.
 */
export function readRedo(path: string, session: Buffer, owner: RedoOwner): RedoRecord[] {
  if (!existsSync(path)) return []
  const file = readFileSync(path)
  const records: RedoRecord[] = []
  for (const start of [0, REDO_HALF_BYTES]) {
    const half = file.subarray(start, start + REDO_HALF_BYTES)
    for (let at = 0; at + HEADER_BYTES <= half.length;) {
      const found = readRecord(half.subarray(at), session, owner)
      if (!found) break
      records.push(found.record)
      at += Math.ceil(found.length / BLOCK) * BLOCK
    }
  }
  return records.sort((a, b) => a.firstOp - b.firstOp)
}

/** Undefined: no record of the session, or one that was torn. */
function readRecord(bytes: Buffer, session: Buffer, { sealer, drive, incarnation }: RedoOwner): { record: RedoRecord; length: number } | undefined {
  if (bytes.readUInt32LE(0) !== MAGIC || !bytes.subarray(8, 8 + SESSION_BYTES).equals(session)) return undefined
  if (bytes.readUInt32LE(4) > VERSION) throw fail('STORE_NEWER', 'the store was last used by a later dfs; update dfs')
  const firstOp = bytes.readUIntLE(24, 6)
  const opCount = bytes.readUInt32LE(32)
  const bodyBytes = bytes.readUInt32LE(36)
  const dataBytes = bytes.readUInt32LE(40)
  const length = HEADER_BYTES + bodyBytes + dataBytes
  if (length > bytes.length) return undefined
  let plain: Buffer
  try {
    plain = sealer.openOps(bytes.subarray(HEADER_BYTES, HEADER_BYTES + bodyBytes), Buffer.concat([drive, incarnation, bytes.subarray(0, HEADER_BYTES)]))
  } catch {
    return undefined
  }
  const body = new Reader(plain)
  const table: number[] = []
  for (let n = body.count(1 << 16); n > 0; n--) table.push(body.uint())
  const codec: InodeCodec = {
    outgoing: () => { throw new Error('reading') },
    incoming: (i) => {
      const index = table[i]
      if (index === undefined) throw fail('EIO', 'redo file: unknown incarnation')
      return index
    },
  }
  const reader = new Reader(body.bytes(bodyBytes))
  const ops: Op[] = []
  let at = HEADER_BYTES + bodyBytes
  for (let i = 0; i < opCount; i++) {
    const op = decodeOp(reader, codec)
    ops.push(op)
    if (op.type !== 'content') continue
    for (const c of op.chunks as PlacedChunk[]) {
      const kind = body.uint()
      c.seg = kind === 1 ? body.uint() : 0
      c.off = kind === 1 ? body.uint() : 0
      if (kind !== 2) continue
      const n = body.uint()
      c.data = Buffer.from(bytes.subarray(at, at + n))
      at += n
      // Outside of what is sealed with the ops: the id, inside, says whether all of it was written.
      if (!hashOf(c.data).equals(c.id)) return undefined
    }
  }
  return { record: { firstOp, ops }, length }
}

/** -1 where the file system cannot. */
function openDirect(path: string): number {
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_DIRECT | constants.O_DSYNC)
    try {
      // Some take the flag and refuse the first write: the last block is rewritten as it is.
      const block = aligned(BLOCK)
      const copy = readFileSync(path).subarray(REDO_HALF_BYTES * 2 - BLOCK, REDO_HALF_BYTES * 2)
      copy.copy(block)
      writeSync(fd, block, 0, BLOCK, REDO_HALF_BYTES * 2 - BLOCK)
      return fd
    } catch {
      closeSync(fd)
      return -1
    }
  } catch {
    return -1
  }
}

declare const WebAssembly: { Memory: new (pages: { initial: number; maximum: number }) => { buffer: ArrayBuffer } }

/** Zeroed memory that begins at a page, as direct writes want it: that of WebAssembly does, and node has no other. */
function aligned(bytes: number): Buffer {
  try {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536), maximum: Math.ceil(bytes / 65536) })
    return Buffer.from(memory.buffer, 0, bytes)
  } catch {
    return Buffer.alloc(bytes)
  }
}
