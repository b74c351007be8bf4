/**
 * Where the devices are that this one is linked with: told to the others, so that
 * who knows one device gets to know all.
 *
 * Only what a linked device has said of itself is passed on, and what is heard of others is not: a word goes one step, and
 * lasts as long as the link with whom it is about. A device that changes its addresses says so on its links.
 *
 * Owns nothing: connections come and go by `linked` and `unlinked`.
 */
import { MAX_TOLD_ADDRESSES, MAX_TOLD_RECORDS, TOLD_RECORDS_AT_ONCE, TOLD_RECORDS_PER_S } from '../../limits.js'
import { mayDial, type Address } from './address.js'
import { Allowance } from './allowance.js'
import type { Conn } from './conn.js'
import { decodeRecords, encodeRecords, type AddressRecord } from './record.js'

export interface AddressBookOptions {
  publicKey: Buffer
  /** This device's own, as of now. */
  own(): { port: number; hosts: string[] }
  /** Somewhere `peer` may be reached. */
  onAddress(address: Address, peer: Buffer): void
}

interface Linked { port: number; hosts: string[]; readonly allowance: Allowance }

export class AddressBook {
  readonly #options: AddressBookOptions
  readonly #linked = new Map<Conn, Linked>()

  constructor(options: AddressBookOptions) {
    this.#options = options
  }

  /** It is the link with its peer from now on. */
  linked(conn: Conn): void {
    const { port, hosts } = conn.greeting!
    const records = [...this.#linked].flatMap(([other, where]) => (where.port > 0 ? [recordOf(other, where)] : []))
    for (let at = 0; at < records.length; at += MAX_TOLD_RECORDS) conn.tell(encodeRecords(records.slice(at, at + MAX_TOLD_RECORDS)))
    const where = { port, hosts, allowance: new Allowance(TOLD_RECORDS_AT_ONCE, TOLD_RECORDS_PER_S) }
    this.#linked.set(conn, where)
    if (port > 0) this.#tellOthers(conn, where)
  }

  unlinked(conn: Conn): void {
    this.#linked.delete(conn)
  }

  /** This device's addresses have changed. */
  renew(): void {
    const packet = encodeRecords([{ device: this.#options.publicKey, ...this.#options.own() }])
    for (const conn of this.#linked.keys()) conn.tell(packet)
  }

  /** Throws for what no device sends. More than a peer may tell is not looked at. */
  heard(conn: Conn, packet: Buffer): void {
    const from = this.#linked.get(conn)
    for (const { device, port, hosts } of decodeRecords(packet)) {
      if (!from?.allowance.take()) return
      if (device.equals(this.#options.publicKey)) continue
      const isNews = from.port !== port || from.hosts.join() !== hosts.join()
      if (device.equals(conn.peer) && isNews) {
        from.port = port
        from.hosts = hosts.slice(0, MAX_TOLD_ADDRESSES)
        if (port > 0) this.#tellOthers(conn, from)
      }
      const { host: teller } = conn.remote
      if (port > 0) for (const host of new Set(hosts)) if (mayDial(host, teller)) this.#options.onAddress({ host, port }, device)
    }
  }

  #tellOthers(conn: Conn, where: Linked): void {
    const packet = encodeRecords([recordOf(conn, where)])
    for (const other of this.#linked.keys()) if (other !== conn) other.tell(packet)
  }
}

function recordOf({ peer, remote: { host } }: Conn, { port, hosts }: Linked): AddressRecord {
  // With the name of an interface it means something here alone.
  return { device: peer, port, hosts: host.includes('%') ? hosts : [...new Set([...hosts, host])] }
}
