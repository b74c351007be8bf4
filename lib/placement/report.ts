/**
 * What a device says, signed, of what it is to hold: the groups of which it has
 * every chunk, what it lacks of the others, and how far it knows the logs: so it
 * is a receipt for all chunks of a group that those entries name.
 *
 * Whoever is connected passes it on, so that it is known of devices that are
 * elsewhere, or gone. docs/protocol.md has the bytes.
 */
import sodium from 'sodium-native'
import { fail } from '../errors.js'
import { MAX_FACTORS, MAX_LACKS, MAX_REPORT_BYTES, PLACEMENT_GROUPS } from '../limits.js'
import { Reader, Writer } from '../log/codec.js'
import { groupOf } from './placement.js'

const CONTEXT = Buffer.from('dfs holding report 2\0')
const SIGNATURE_BYTES = 64
const BITMAP_BYTES = PLACEMENT_GROUPS / 8
const INCARNATION_BYTES = 16
const MAX_LOGS = 4096
/** In place of a digest: who has none means to hold everything, or nothing. */
export const NO_PLAN = Buffer.alloc(32)

export interface Lack { chunks: number; bytes: number }

export interface Report {
  /** 32 bytes. */
  device: Buffer
  /** Milliseconds since 1970 by its clock, and always later than in its last one: the later report counts. */
  clockMs: number
  /** Digest of its plan; zeros: it has none, and keeps everything. */
  plan: Buffer
  /** It can take no more. */
  isFull: boolean
  /** Bytes of content of its groups that it holds, as of some seconds ago; bytes that all its chunks take. */
  heldBytes: number
  usedBytes: number
  /** The last entry of each log that it has, by incarnation (16 bytes, as latin1). */
  logs: Map<string, number>
  /** A bit for each group of each factor of the plan: set if it is to hold the group, and has every chunk of it. */
  whole: Buffer
  /** Groups that it is to hold and has not whole; the first MAX_LACKS of them. */
  lacks: Map<number, Lack>
}

/** What a device that means to hold everything lacks of that. */
export interface LackOfAll {
  byGroup: Map<number, Lack>
  /** Else it is too much to be told apart: all stands under group 0, and no group is whole. */
  isExact: boolean
}

/** Whether a device has said of all groups that it lacks that it does. One without a plan says it of everything, if that is too much. */
export function isToldApart({ plan, lacks, whole }: Pick<Report, 'plan' | 'lacks' | 'whole'>): boolean {
  if (plan.equals(NO_PLAN)) return lacks.size === 0 || whole.some((bits) => bits !== 0)
  return lacks.size < MAX_LACKS
}

/** As much is looked up by group. */
const MAX_TOLD_APART = 10_000

export function lackOfAll(chunks: { readonly lackedCount: number; lacking(limit: number): { id: Buffer; len: number }[] }): LackOfAll {
  const some = chunks.lacking(MAX_TOLD_APART)
  const byGroup = new Map<number, Lack>()
  if (some.length === MAX_TOLD_APART) {
    const count = Math.max(chunks.lackedCount, some.length)
    return { byGroup: byGroup.set(0, { chunks: count, bytes: Math.round(some.reduce((sum, { len }) => sum + len, 0) / some.length * count) }), isExact: false }
  }
  for (const { id, len } of some) {
    const group = groupOf(id)
    const { chunks: n, bytes } = byGroup.get(group) ?? { chunks: 0, bytes: 0 }
    byGroup.set(group, { chunks: n + 1, bytes: bytes + len })
  }
  return { byGroup, isExact: true }
}

/** Groups beyond those of the drive's factor mean something by one plan alone. */
export function isTold(report: Pick<Report, 'plan'>, group: number, plan: { readonly digest: Buffer }): boolean {
  return group < PLACEMENT_GROUPS || report.plan.equals(plan.digest)
}

export function isWhole(report: Pick<Report, 'plan' | 'whole'>, group: number, plan: { readonly digest: Buffer }): boolean {
  return isTold(report, group, plan) && ((report.whole[group >> 3] ?? 0) & (1 << (group & 7))) !== 0
}

export function writeReport(r: Report, driveId: Buffer, secretKey: Buffer): Buffer {
  const w = new Writer(BITMAP_BYTES + 256 + r.lacks.size * 8)
  w.fixed(r.device)
  w.uint(r.clockMs)
  w.fixed(r.plan)
  w.byte(r.isFull ? 1 : 0)
  w.uint(r.heldBytes)
  w.uint(r.usedBytes)
  w.uint(r.logs.size)
  for (const [incarnation, seq] of r.logs) {
    w.fixed(Buffer.from(incarnation, 'latin1'))
    w.uint(seq)
  }
  w.byte(r.whole.length / BITMAP_BYTES)
  for (let at = 0; at < r.whole.length; at += BITMAP_BYTES) writeBits(w, r.whole.subarray(at, at + BITMAP_BYTES))
  const lacks = [...r.lacks].sort((a, b) => a[0] - b[0]).slice(0, MAX_LACKS)
  w.uint(lacks.length)
  let last = -1
  for (const [group, { chunks, bytes }] of lacks) {
    w.uint(group - last - 1)
    w.uint(chunks)
    w.uint(bytes)
    last = group
  }
  const body = w.take()
  const signature = Buffer.alloc(SIGNATURE_BYTES)
  sodium.crypto_sign_detached(signature, Buffer.concat([CONTEXT, driveId, body]), secretKey)
  return Buffer.concat([body, signature])
}

/** EIO for what no device has signed. */
export function readReport(bytes: Buffer, driveId: Buffer): Report {
  if (bytes.length > MAX_REPORT_BYTES || bytes.length <= SIGNATURE_BYTES) throw fail('EIO', 'a report of an impossible length')
  const body = bytes.subarray(0, bytes.length - SIGNATURE_BYTES)
  const r = new Reader(body)
  const device = r.fixed(32)
  if (!sodium.crypto_sign_verify_detached(bytes.subarray(body.length), Buffer.concat([CONTEXT, driveId, body]), device)) throw fail('EIO', 'a report that its device has not signed')
  const clockMs = r.uint(), plan = r.fixed(32), isFull = r.byte() === 1, heldBytes = r.uint(), usedBytes = r.uint()
  const logs = new Map<string, number>()
  for (let n = r.count(MAX_LOGS); n > 0; n--) logs.set(r.fixed(INCARNATION_BYTES).toString('latin1'), r.uint())
  const factors = r.byte()
  if (factors < 1 || factors > MAX_FACTORS) throw fail('EIO', 'a report of as many factors as there cannot be')
  const whole = Buffer.concat(Array.from({ length: factors }, () => readBits(r)))
  const lacks = new Map<number, Lack>()
  for (let n = r.count(MAX_LACKS), group = -1; n > 0; n--) {
    group += r.uint() + 1
    if (group >= factors * PLACEMENT_GROUPS) throw fail('EIO', 'a report of a group that there is not')
    lacks.set(group, { chunks: r.uint(), bytes: r.uint() })
  }
  if (r.left !== 0) throw fail('EIO', 'a report with bytes behind its end')
  return { device, clockMs, plan, isFull, heldBytes, usedBytes, logs, whole, lacks }
}

/** Whole bytes of ones and of zeros by their number: most devices hold everything of what they hold. */
function writeBits(w: Writer, bits: Buffer): void {
  const isEven = bits.every((b) => b === bits[0]) && (bits[0] === 0 || bits[0] === 255)
  w.byte(isEven ? bits[0]! & 1 : 2)
  if (!isEven) w.fixed(bits)
}

function readBits(r: Reader): Buffer {
  const kind = r.byte()
  if (kind > 2) throw fail('EIO', 'a report with groups of an unknown kind')
  return kind === 2 ? r.fixed(BITMAP_BYTES) : Buffer.alloc(BITMAP_BYTES, kind === 1 ? 255 : 0)
}
