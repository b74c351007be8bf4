/**
 * The operations of a drive, as data. Everything that changes the shared tree is
 * one of these; a log entry carries a batch of them.
 *
 * In memory an op names inodes by their local number (a safe integer); on the
 * wire by (incarnation, counter). Names are plain bytes here and sealed with the
 * rest of the entry's ops.
 *
 * Each op carries what it saw, so that a replica that applies it later, after
 * concurrent ops, can tell: `ino` under a name, `base` version of a content.
 */
import type { Time } from '../clock.js'
import { fail } from '../errors.js'
import { MAX_CHUNK_BYTES, MAX_CREATE_XATTRS, MAX_DEVICE_NAME_BYTES, MAX_FILE_BYTES, MAX_NAME_BYTES, MAX_SYMLINK_BYTES, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES } from '../limits.js'
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from './mode.js'
import { Reader, Writer } from './codec.js'

/** Makes a name and, unless it is a hard link, an inode. */
export interface CreateOp {
  type: 'create'
  parent: number
  name: Buffer
  ino: number
  /** As st_mode, with the file type. */
  mode: number
  uid: number
  gid: number
  rdev: number
  time: Time
  /** Of a symlink. */
  target?: Buffer
  /** Inherited ACLs. */
  xattrs?: [name: Buffer, value: Buffer][]
}

export interface LinkOp { type: 'link'; ino: number; parent: number; name: Buffer; time: Time }

/** Takes a name away: unlink and rmdir. `ino` is what it named. */
export interface UnlinkOp { type: 'unlink'; parent: number; name: Buffer; ino: number; dir: boolean; time: Time }

/** `over` is the inode under the new name at the time, 0 if none; with `exchange` the two trade names. */
export interface RenameOp {
  type: 'rename'
  parent: number
  name: Buffer
  ino: number
  newParent: number
  newName: Buffer
  over: number
  exchange: boolean
  time: Time
}

/** Only fields that are present change. */
export interface SetAttrOp {
  type: 'setattr'
  ino: number
  /** Permission bits, without the type. */
  mode?: number
  uid?: number
  gid?: number
  atime?: Time
  mtime?: Time
  ctime: Time
}

/** A chunk as the op names it: `id` to fetch and check it, `h` to open it. */
export interface ChunkRef { id: Buffer; h: Buffer; len: number }

/** A run of the file. `chunk` is an index into the op's chunks, -1 for a hole. */
export interface Piece { off: number; len: number; chunk: number; coff: number }

/**
 * The content of a file changes: first everything from `cut` on is dropped (cut
 * = Infinity: nothing is), then the pieces are laid over, then the size is set.
 */
export interface ContentOp {
  type: 'content'
  ino: number
  /** Version (op id) that this extends. */
  base: number
  cut: number
  size: number
  chunks: ChunkRef[]
  pieces: Piece[]
  mtime: Time
  ctime: Time
  /** The file had lost its last name when this was written: not a reason to bring it back. */
  unnamed?: boolean
}

/** The name of the device that writes this log; the first op of each. */
export interface AuthorOp { type: 'author'; name: Buffer }

/** A log as far as it is known: the id of its incarnation. */
export interface NamedLog { id: Buffer; seq: number }

/**
 * A device whose incarnations end here (asides.ts). `logs`: those that are known, and how much the writer has of each; `voters`:
 * the devices that say what they have. `isBack`: the device begins anew, and is waited for; else nobody waits for it.
 */
export interface AsideOp { type: 'aside'; device: Buffer; isBack: boolean; round: number; logs: NamedLog[]; voters: Buffer[] }

/** value null: removed. */
export interface XattrOp { type: 'xattr'; ino: number; name: Buffer; value: Buffer | null; mode?: number; ctime: Time }

export type Op = CreateOp | LinkOp | UnlinkOp | RenameOp | SetAttrOp | ContentOp | XattrOp | AuthorOp | AsideOp

const TYPE: Record<Op['type'], number> = { create: 1, link: 2, unlink: 3, rename: 4, setattr: 5, content: 6, xattr: 7, author: 8, aside: 9 }

/** Bounds that a decoder checks before it allocates. */
const MAX_PIECES = 1 << 20
const MAX_ASIDE_LOGS = 1 << 12
const MAX_VOTERS = 1 << 12

/** Translates inode numbers to what means the same on every device, and back. */
export interface InodeCodec {
  /** Index of the incarnation in the entry's table. */
  outgoing(incarnation: number): number
  incoming(index: number): number
}

/** The local index of an incarnation is the high part of an inode number or an op's id. */
export const INO_HIGH = 4294967296

function putIno(w: Writer, ino: number, codec: InodeCodec): void {
  w.uint(codec.outgoing(Math.floor(ino / INO_HIGH)))
  w.uint(ino % INO_HIGH)
}

function getIno(r: Reader, codec: InodeCodec): number {
  const idx = codec.incoming(r.uint())
  const counter = r.uint()
  if (counter >= INO_HIGH) throw fail('EIO', 'log entry: an inode counter is out of range')
  return idx * INO_HIGH + counter
}

function putTime(w: Writer, t: Time): void {
  w.int(t.sec)
  w.uint(t.nsec)
}

function getTime(r: Reader): Time {
  const sec = r.int()
  const nsec = r.uint()
  if (nsec > 999_999_999) throw fail('EIO', 'log entry: a time is out of range')
  return { sec, nsec }
}

/** Appends `op` to the batch that `w` holds. */
export function encodeOp(w: Writer, op: Op, codec: InodeCodec): void {
  w.byte(TYPE[op.type])
  switch (op.type) {
    case 'create':
      putIno(w, op.parent, codec)
      w.bytes(op.name)
      putIno(w, op.ino, codec)
      w.uint(op.mode); w.uint(op.uid); w.uint(op.gid); w.uint(op.rdev)
      putTime(w, op.time)
      w.bytes(op.target ?? EMPTY)
      w.uint(op.xattrs?.length ?? 0)
      for (const [name, value] of op.xattrs ?? []) { w.bytes(name); w.bytes(value) }
      return
    case 'link':
      putIno(w, op.ino, codec); putIno(w, op.parent, codec); w.bytes(op.name); putTime(w, op.time)
      return
    case 'unlink':
      putIno(w, op.parent, codec); w.bytes(op.name); putIno(w, op.ino, codec); w.byte(op.dir ? 1 : 0); putTime(w, op.time)
      return
    case 'rename':
      putIno(w, op.parent, codec); w.bytes(op.name); putIno(w, op.ino, codec)
      putIno(w, op.newParent, codec); w.bytes(op.newName); putIno(w, op.over, codec)
      w.byte(op.exchange ? 1 : 0); putTime(w, op.time)
      return
    case 'setattr': {
      putIno(w, op.ino, codec)
      w.byte((op.mode !== undefined ? 1 : 0) | (op.uid !== undefined ? 2 : 0) | (op.gid !== undefined ? 4 : 0) |
        (op.atime ? 8 : 0) | (op.mtime ? 16 : 0))
      if (op.mode !== undefined) w.uint(op.mode)
      if (op.uid !== undefined) w.uint(op.uid)
      if (op.gid !== undefined) w.uint(op.gid)
      if (op.atime) putTime(w, op.atime)
      if (op.mtime) putTime(w, op.mtime)
      putTime(w, op.ctime)
      return
    }
    case 'content': {
      putIno(w, op.ino, codec); putIno(w, op.base, codec)
      w.uint(op.cut === Infinity ? 0 : op.cut + 1)
      w.byte(op.unnamed ? 1 : 0)
      w.uint(op.size)
      w.uint(op.chunks.length)
      for (const c of op.chunks) { w.fixed(c.id); w.fixed(c.h); w.uint(c.len) }
      w.uint(op.pieces.length)
      let at = 0
      for (const p of op.pieces) { w.int(p.off - at); w.uint(p.len); w.int(p.chunk); w.uint(p.coff); at = p.off + p.len }
      putTime(w, op.mtime); putTime(w, op.ctime)
      return
    }
    case 'xattr':
      putIno(w, op.ino, codec); w.bytes(op.name)
      w.byte((op.value ? 1 : 0) | (op.mode !== undefined ? 2 : 0))
      if (op.value) w.bytes(op.value)
      if (op.mode !== undefined) w.uint(op.mode)
      putTime(w, op.ctime)
      return
    case 'author': w.bytes(op.name); return
    case 'aside': encodeAside(w, op); return
  }
}

export function encodeAside(w: Writer, op: AsideOp): void {
  w.fixed(op.device)
  w.byte(op.isBack ? 1 : 0)
  w.uint(op.round)
  w.uint(op.logs.length)
  for (const { id, seq } of op.logs) { w.fixed(id); w.uint(seq) }
  w.uint(op.voters.length)
  for (const voter of op.voters) w.fixed(voter)
}

export function decodeAside(r: Reader): AsideOp {
  const device = r.fixed(32)
  const isBack = r.byte() === 1
  const round = r.uint()
  const logs: NamedLog[] = []
  for (let n = r.count(MAX_ASIDE_LOGS); n > 0; n--) logs.push({ id: r.fixed(16), seq: r.uint() })
  const voters: Buffer[] = []
  for (let n = r.count(MAX_VOTERS); n > 0; n--) voters.push(r.fixed(32))
  return { type: 'aside', device, isBack, round, logs, voters }
}

/** Reads one op; EIO for anything that no encoder writes. */
export function decodeOp(r: Reader, codec: InodeCodec): Op {
  const type = r.byte()
  switch (type) {
    case 1: {
      const parent = getIno(r, codec)
      const name = getName(r)
      const ino = getIno(r, codec)
      const mode = getMode(r), uid = r.uint(), gid = r.uint(), rdev = r.uint()
      const time = getTime(r)
      const target = r.bytes(MAX_SYMLINK_BYTES)
      const count = r.count(MAX_CREATE_XATTRS)
      const xattrs: [Buffer, Buffer][] = []
      for (let i = 0; i < count; i++) xattrs.push([r.bytes(MAX_XATTR_NAME_BYTES), r.bytes(MAX_XATTR_VALUE_BYTES)])
      return { type: 'create', parent, name, ino, mode, uid, gid, rdev, time, ...(target.length ? { target } : {}), ...(count ? { xattrs } : {}) }
    }
    case 2: return { type: 'link', ino: getIno(r, codec), parent: getIno(r, codec), name: getName(r), time: getTime(r) }
    case 3: return { type: 'unlink', parent: getIno(r, codec), name: getName(r), ino: getIno(r, codec), dir: r.byte() === 1, time: getTime(r) }
    case 4: return {
      type: 'rename', parent: getIno(r, codec), name: getName(r), ino: getIno(r, codec), newParent: getIno(r, codec),
      newName: getName(r), over: getIno(r, codec), exchange: r.byte() === 1, time: getTime(r),
    }
    case 5: {
      const ino = getIno(r, codec)
      const mask = r.byte()
      const op: SetAttrOp = { type: 'setattr', ino, ctime: { sec: 0, nsec: 0 } }
      if (mask & 1) op.mode = r.uint()
      if (mask & 2) op.uid = r.uint()
      if (mask & 4) op.gid = r.uint()
      if (mask & 8) op.atime = getTime(r)
      if (mask & 16) op.mtime = getTime(r)
      op.ctime = getTime(r)
      return op
    }
    case 6: {
      const ino = getIno(r, codec), base = getIno(r, codec)
      const cut = r.uint()
      const unnamed = r.byte() === 1
      const size = r.uint()
      if (size > MAX_FILE_BYTES) throw fail('EIO', 'log entry: a file is too long')
      const chunks: ChunkRef[] = []
      for (let n = r.count(MAX_PIECES); n > 0; n--) chunks.push({ id: r.fixed(32), h: r.fixed(32), len: chunkLength(r) })
      const pieces: Piece[] = []
      let at = 0
      for (let n = r.count(MAX_PIECES); n > 0; n--) {
        const off = at + r.int(), len = r.uint(), chunk = r.int(), coff = r.uint()
        if (off < 0 || len === 0 || chunk < -1 || chunk >= chunks.length) throw fail('EIO', 'log entry: a piece is out of range')
        if (chunk >= 0 && coff + len > chunks[chunk]!.len) throw fail('EIO', 'log entry: a piece lies outside its chunk')
        pieces.push({ off, len, chunk, coff })
        at = off + len
      }
      return { type: 'content', ino, base, cut: cut === 0 ? Infinity : cut - 1, size, chunks, pieces, mtime: getTime(r), ctime: getTime(r), ...(unnamed ? { unnamed } : {}) }
    }
    case 7: {
      const ino = getIno(r, codec), name = r.bytes(MAX_XATTR_NAME_BYTES)
      const mask = r.byte()
      const value = mask & 1 ? r.bytes(MAX_XATTR_VALUE_BYTES) : null
      const mode = mask & 2 ? r.uint() : undefined
      return { type: 'xattr', ino, name, value, ...(mode !== undefined ? { mode } : {}), ctime: getTime(r) }
    }
    case 8: return { type: 'author', name: r.bytes(MAX_DEVICE_NAME_BYTES) }
    case 9: return decodeAside(r)
    default: throw fail('EIO', `log entry: unknown op type ${type}`)
  }
}

/** What no program could have given would break whoever shows it. */
function getName(r: Reader): Buffer {
  const name = r.bytes(MAX_NAME_BYTES)
  if (name.length === 0 || name.includes(47) || name.includes(0) || (name[0] === 46 && (name.length === 1 || (name.length === 2 && name[1] === 46)))) {
    throw fail('EIO', 'log entry: an impossible name')
  }
  return name
}

const TYPES = new Set([S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK])

function getMode(r: Reader): number {
  const mode = r.uint()
  if (!TYPES.has(mode & S_IFMT) || mode > 0o177777) throw fail('EIO', 'log entry: an impossible mode')
  return mode
}

function chunkLength(r: Reader): number {
  const len = r.uint()
  if (len < 1 || len > MAX_CHUNK_BYTES) throw fail('EIO', 'log entry: a chunk has an impossible length')
  return len
}

const EMPTY = Buffer.alloc(0)
