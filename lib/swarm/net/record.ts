/**
 * Where devices listen, as one tells another: docs/protocol.md, "Discovery". No I/O.
 *
 * It is not signed: an address is only ever tried, and who is there has to prove
 * itself. A member that wants others to dial somewhere could as well say that it
 * is there itself, or make up devices that are.
 */
import { MAX_ADDRESS_CHARS, MAX_TOLD_ADDRESSES, MAX_TOLD_RECORDS } from '../../limits.js'
import { Reader, Writer } from '../../log/codec.js'
import { broken, KIND } from './packet.js'

const KEY_BYTES = 32
/** Its own, and where the teller sees it. */
const MAX_HOSTS = MAX_TOLD_ADDRESSES + 1

export interface AddressRecord {
  /** The public key of the device that this is about. */
  device: Buffer
  /** For TCP; 0 for nowhere. */
  port: number
  /** IP addresses for that port: as the device itself tells them, then the one at which the teller sees it. */
  hosts: string[]
}

/** At most MAX_TOLD_RECORDS. */
export function encodeRecords(records: readonly AddressRecord[]): Buffer {
  const w = new Writer(1024)
  w.byte(KIND.addresses)
  w.uint(records.length)
  for (const { device, port, hosts } of records) {
    w.fixed(device)
    w.uint(port)
    w.uint(hosts.length)
    for (const host of hosts) w.bytes(Buffer.from(host))
  }
  return w.take()
}

export function decodeRecords(packet: Buffer): AddressRecord[] {
  const r = new Reader(packet)
  r.byte()
  const records: AddressRecord[] = []
  for (let n = r.count(MAX_TOLD_RECORDS); n > 0; n--) {
    const device = r.fixed(KEY_BYTES)
    const port = r.uint()
    if (port > 65535) throw broken('a port is out of range')
    const hosts: string[] = []
    for (let k = r.count(MAX_HOSTS); k > 0; k--) hosts.push(r.bytes(MAX_ADDRESS_CHARS).toString('latin1'))
    records.push({ device, port, hosts })
  }
  if (r.left > 0) throw broken('a packet has the wrong length')
  return records
}
