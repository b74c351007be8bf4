/** What fuse-native's C half takes and gives: stat and statvfs as 32-bit words, times in milliseconds, errno of this platform. */
import { constants } from 'node:os'
import * as E from '../errno.js'
import type { Attr, StatFs } from '../operations.js'

const WORD = 0x1_0000_0000
const STAT_WORDS = 18
const MAX_WORD = 0xffff_ffff
const BLOCK = 4096

/** See populate_stat in fuse-native.c. */
export function encodeStat(a: Attr, into = new Uint32Array(STAT_WORDS)): Uint32Array {
  into[0] = a.mode
  into[1] = a.uid
  into[2] = a.gid
  put64(into, 3, a.size)
  into[6] = a.nlink
  into[7] = ino32(a.ino)
  into[8] = a.rdev
  into[9] = BLOCK
  put64(into, 10, a.blocks)
  put64(into, 12, milliseconds(a.atime, a.atimeNs))
  put64(into, 14, milliseconds(a.mtime, a.mtimeNs))
  put64(into, 16, milliseconds(a.ctime, a.ctimeNs))
  return into
}

/** Of a directory entry only the number and the type are read. */
export function encodeEntry(ino: number, mode: number): Uint32Array {
  const words = new Uint32Array(STAT_WORDS)
  words[0] = mode
  words[7] = ino32(ino)
  return words
}

/** See populate_statvfs: all of it in 32 bits, so that sizes end at 16 TiB. */
export function encodeStatFs(s: StatFs): Uint32Array {
  const most = (n: number) => Math.min(n, MAX_WORD)
  return Uint32Array.of(s.bsize, s.frsize, most(s.blocks), most(s.bfree), most(s.bavail), most(s.files), most(s.ffree), most(s.ffree), 0, 0, s.namelen)
}

/**
 * st_ino is handed over in 32 bits. The low word counts up from 0; the high one is a small number too, so its bits
 * go in from the other end: unique until 16 million files of 256 devices.
 */
export function ino32(ino: number): number {
  let high = Math.floor(ino / WORD)
  let low = ino % WORD
  for (let bit = 0x8000_0000; high > 0; high >>>= 1, bit >>>= 1) if (high & 1) low ^= bit
  return low >>> 0
}

function put64(into: Uint32Array, at: number, value: number): void {
  into[at] = value % WORD
  into[at + 1] = Math.floor(value / WORD)
}

/** Unsigned there: what is older than 1970 shows as 1970. */
function milliseconds(sec: number, nsec: number): number {
  return Math.max(0, sec * 1000 + Math.floor(nsec / 1e6))
}

export function get64(low: number, high: number): number {
  return low + high * WORD
}

/** A time as handed over: milliseconds in two words, negative ones wrapped around. */
export function decodeTime(value: bigint): { sec: number; nsec: number } {
  const ms = Number(BigInt.asIntN(64, value))
  const sec = Math.floor(ms / 1000)
  return { sec, nsec: (ms - sec * 1000) * 1_000_000 }
}

/**
 * utimens hands over the access time twice. The modification time is in the memory of the calling thread, which the
 * package allocates through JavaScript: just behind the access time. Where that is differs by platform, so it counts
 * only if the opcode and the access time are found at their places. See fuse_thread_locals_t in fuse-native.c.
 */
export function modificationTime(thread: Buffer, opcode: number, atime: bigint): bigint | undefined {
  if (thread.readUInt32LE(8) !== opcode) return undefined
  for (const at of [104, 96]) if (thread.readBigUInt64LE(at) === atime) return thread.readBigUInt64LE(at + 8)
  return undefined
}

/** Operations answer with Linux errno values; the caller wants this platform's. */
const platformErrno = new Map<number, number>(
  Object.entries(E).flatMap(([name, value]) => {
    const here = constants.errno[name as keyof typeof constants.errno] as number | undefined
    return typeof value === 'number' && here !== undefined ? [[value, here] as const] : []
  }),
)

export function toPlatform(errno: number): number {
  return platformErrno.get(errno) ?? errno
}
