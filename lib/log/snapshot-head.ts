/**
 * What a snapshot is: which logs it has in it, and up to where; the hash of its
 * pieces; signed by a device that may write, whose certificate is in it. Anyone
 * who knows the drive's id can verify it, and learns no more than the headers of
 * entries tell. docs/format.md, "Snapshot".
 */
import { fail, isDfsError } from '../errors.js'
import { readCertificate, type Certificate } from '../keys/certificate.js'
import { SNAPSHOT_ID_BYTES, SNAPSHOT_SIGNATURE_BYTES, signSnapshot, verifySnapshot } from '../seal/snapshot.js'
import { Reader, Writer } from './codec.js'

/** As the logs of one peer: lib/swarm/messages.ts. */
export const MAX_SNAPSHOT_LOGS = 4096
const MAX_CERTIFICATE_BYTES = 4096
const VERSION = 1

/** A log in a snapshot. */
export interface SnapshotLog {
  /** 16 bytes. */
  incarnation: Buffer
  /** 32 bytes: the public key that signs its entries. */
  device: Buffer
  /** The last entry that the snapshot has in it, and its hash. 0, and zeros, only for a log that was ended before its first. */
  seq: number
  hash: Buffer
  /** Up to here all devices have stated to have it (0: nothing): nobody needs these entries any more. Its hash; zeros for 0. */
  final: number
  finalHash: Buffer
  /** Counter of the first op after entry `final`. */
  nextOp: number
  /** It was ended there by others, for good: entries behind `seq` do not exist. */
  isEnded: boolean
}

export interface SnapshotHead {
  /** 16 random bytes. */
  id: Buffer
  /** When it was made, by its device's clock. */
  clockMs: number
  /** Of all its pieces: how many, their bytes, and the hash (lib/swarm/snapshot.ts). */
  pieces: number
  totalBytes: number
  hash: Buffer
  logs: SnapshotLog[]
}

/** A head whose signature was good, and who made it. */
export interface VerifiedHead extends SnapshotHead { by: Certificate }

/** `certificate`: of the device that signs. */
export function writeHead(driveId: Buffer, certificate: Buffer, head: SnapshotHead, deviceSecretKey: Buffer): Buffer {
  const w = new Writer(1024 + head.logs.length * 180)
  w.byte(VERSION)
  w.fixed(driveId)
  w.bytes(certificate)
  w.fixed(head.id)
  w.uint(head.clockMs)
  w.uint(head.pieces)
  w.uint(head.totalBytes)
  w.fixed(head.hash)
  w.uint(head.logs.length)
  for (const log of head.logs) {
    w.fixed(log.incarnation)
    w.fixed(log.device)
    w.uint(log.seq)
    w.fixed(log.hash)
    w.uint(log.final)
    w.fixed(log.finalHash)
    w.uint(log.nextOp)
    w.byte(log.isEnded ? 1 : 0)
  }
  const body = w.take()
  return Buffer.concat([body, signSnapshot(body, deviceSecretKey)])
}

/** Undefined unless a device of this drive that may write has signed it. */
export function readHead(bytes: Buffer, driveId: Buffer): VerifiedHead | undefined {
  if (bytes.length <= SNAPSHOT_SIGNATURE_BYTES) return undefined
  const body = bytes.subarray(0, bytes.length - SNAPSHOT_SIGNATURE_BYTES)
  try {
    const r = new Reader(body)
    if (r.byte() !== VERSION || !r.fixed(32).equals(driveId)) return undefined
    const by = readCertificate(r.bytes(MAX_CERTIFICATE_BYTES), driveId)
    if (by?.role !== 'full' || !verifySnapshot(body, bytes.subarray(body.length), by.device)) return undefined
    const head: VerifiedHead = { by, id: r.fixed(SNAPSHOT_ID_BYTES), clockMs: r.uint(), pieces: r.uint(), totalBytes: r.uint(), hash: r.fixed(32), logs: [] }
    const names = new Set<string>()
    for (let n = r.count(MAX_SNAPSHOT_LOGS); n > 0; n--) {
      const log: SnapshotLog = { incarnation: r.fixed(16), device: r.fixed(32), seq: r.uint(), hash: r.fixed(32), final: r.uint(), finalHash: r.fixed(32), nextOp: r.uint(), isEnded: r.byte() === 1 }
      const name = log.incarnation.toString('latin1')
      if ((log.seq < 1 && !log.isEnded) || log.final > log.seq || log.nextOp < 1 || names.has(name)) throw fail('EIO', 'a log of a snapshot that can not be')
      names.add(name)
      head.logs.push(log)
    }
    if (r.left !== 0) return undefined
    return head
  } catch (e) {
    if (isDfsError(e)) return undefined
    throw e
  }
}
