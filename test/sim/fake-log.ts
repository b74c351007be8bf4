/**
 * Logs in memory that stand for the real ones: entries with a header, a chain
 * and a signature that only their device can make, and a disk that forgets what
 * was not synced.
 */
import blake from '@napi-rs/blake-hash'
import { entryHash } from '../../lib/log/entry.js'
import { MAX_ENTRIES, entryBytes, logKey, type Forked, type HeldLog, type LogName, type SignedEntry } from '../../lib/swarm/messages.js'
import type { LogStore } from '../../lib/swarm/sync.js'

export interface FakeHeader { incarnation: Buffer; device: Buffer; seq: number; previous: Buffer }

/** The device's key pair: only who holds the secret signs as the device. */
export class FakeDevice {
  readonly secret: Buffer
  readonly key: Buffer
  constructor(name: string) {
    this.secret = blake.blake3(`secret of ${name}`)
    this.key = blake.blake3(this.secret)
    known.set(this.key.toString('hex'), this.secret)
  }

  entry(log: LogName, seq: number, previous: Buffer, content: Buffer): SignedEntry {
    const place = Buffer.alloc(8)
    place.writeBigUInt64LE(BigInt(seq))
    const header = Buffer.concat([log.incarnation, log.device, place, previous, blake.blake3(content)])
    return { signed: Buffer.concat([header, sign(this.secret, header)]), sealed: content }
  }
}

const known = new Map<string, Buffer>()
const HEADER_BYTES = 16 + 32 + 8 + 32 + 32

function sign(secret: Buffer, header: Buffer): Buffer {
  const half = blake.blake3(Buffer.concat([secret, header]))
  return Buffer.concat([half, half])
}

/** The header if the device that it names signed it. */
export function verifiedHeader(signed: Buffer): FakeHeader | undefined {
  if (signed.length !== HEADER_BYTES + 64) return undefined
  const header = signed.subarray(0, HEADER_BYTES)
  const device = header.subarray(16, 48)
  const secret = known.get(device.toString('hex'))
  if (!secret || !sign(secret, header).equals(signed.subarray(HEADER_BYTES))) return undefined
  return { incarnation: header.subarray(0, 16), device, seq: Number(header.readBigUInt64LE(48)), previous: header.subarray(56, 88) }
}

export function isWhole(entry: SignedEntry): boolean {
  return entry.signed.length === HEADER_BYTES + 64 && blake.blake3(entry.sealed).equals(entry.signed.subarray(88, 120))
}

export interface FakeLog { name: LogName; first: number; entries: SignedEntry[]; hashes: Buffer[] }

/** Entries held durably, and those accepted since the last sync. */
export class FakeDisk implements LogStore {
  logs = new Map<string, FakeLog>()
  /** Whole logs with what is not durable yet, by name. */
  accepted = new Map<string, FakeLog>()
  queued: (peer: string) => number = () => 0
  proofs: Forked[] = [];

  *held(): Iterable<HeldLog> {
    for (const log of this.logs.values()) if (seqOf(log) > 0) yield this.heldLog(log)
  }

  heldLog(log: FakeLog): HeldLog {
    return { ...log.name, first: log.first, seq: seqOf(log), hash: log.hashes.at(-1)! }
  }

  read(name: LogName, from: number, to: number, limitBytes: number): SignedEntry[] {
    const log = this.logs.get(logKey(name))
    if (!log || from < log.first) return []
    const out: SignedEntry[] = []
    let bytes = 0
    for (const e of log.entries.slice(from - log.first, to - log.first + 1)) {
      bytes += entryBytes(e)
      if (out.length > 0 && (bytes > limitBytes || out.length >= MAX_ENTRIES)) break
      out.push(e)
    }
    return out
  }

  hashOf(name: LogName, seq: number): Buffer | undefined {
    const log = this.logs.get(logKey(name))
    return log?.hashes[seq - 1 - (seqOf(log) - log.hashes.length)]
  }

  certificates(): Buffer[] { return [] }
  forks(): Forked[] { return this.proofs }
  queuedBytes(peer: string): number { return this.queued(peer) }

  /** The log with what is not durable: where the next entry goes. */
  open(name: LogName): FakeLog {
    const key = logKey(name)
    let log = this.accepted.get(key)
    if (!log) {
      const durable = this.logs.get(key)
      log = durable ? { ...durable, entries: [...durable.entries], hashes: [...durable.hashes] }
        : { name: { incarnation: name.incarnation, device: name.device }, first: 1, entries: [], hashes: [] }
      this.accepted.set(key, log)
    }
    return log
  }

  append(log: FakeLog, entry: SignedEntry): void {
    log.entries.push(entry)
    log.hashes.push(entryHash(entry.signed))
  }

  /** Everything accepted is durable. Gives the logs that changed. */
  sync(): FakeLog[] {
    const changed = [...this.accepted.values()].filter((log) => seqOf(log) > 0)
    for (const log of changed) this.logs.set(logKey(log.name), log)
    this.accepted.clear()
    return changed
  }

  /** Power cut. */
  forget(): void {
    this.accepted.clear()
  }

  /** A backup, or back to one. */
  copy(): Map<string, FakeLog> {
    return new Map([...this.logs].map(([key, log]) => [key, { ...log, entries: [...log.entries], hashes: [...log.hashes] }]))
  }
}

export function seqOf(log: FakeLog): number {
  return log.first - 1 + log.entries.length
}

export function headOf(log: FakeLog): Buffer {
  return log.hashes.at(-1) ?? Buffer.alloc(32)
}
