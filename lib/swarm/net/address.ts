/** Addresses as text: 'HOST:PORT', IPv6 in brackets. */
import { readFileSync } from 'node:fs'
import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import { networkInterfaces } from 'node:os'
import { fail } from '../../errors.js'
import { MAX_TOLD_ADDRESSES } from '../../limits.js'

export interface Address { host: string; port: number }

/** USAGE if it is not HOST:PORT with a port of 1..65535. */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([0-9a-fA-F:.]+(?:%[\w.@-]+)?)\]|([^:[\]\s/]+)):(\d{1,5})$/.exec(text.trim())
  const port = Number(match?.[3])
  if (!match || port < 1 || port > 65535) throw fail('USAGE', `'${text}' is not an address; write HOST:PORT, with an IPv6 address in brackets`)
  return { host: match[1] ?? match[2]!, port }
}

export function formatAddress({ host, port }: Address): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
}

/** IPv4 in IPv6 (what a dual-stack socket shows) as IPv4. */
export function plainHost(host: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(host)
  return mapped ? mapped[1]! : host
}

/** What one owner may have many of counts as one: an IPv4 address, a /64 of IPv6. */
export function networkOf(host: string): string {
  const plain = plainHost(host)
  if (!isIPv6(plain)) return plain
  const [head = '', tail] = plain.split('%')[0]!.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const groups = tail === undefined ? left : [...left, ...Array<string>(Math.max(0, 8 - left.length - right.length)).fill('0'), ...right]
  return groups.slice(0, 4).map((group) => group.replace(/^0+(?=.)/, '')).join(':') + '::/64'
}

const PRIVATE = new BlockList()
PRIVATE.addSubnet('10.0.0.0', 8, 'ipv4')
PRIVATE.addSubnet('172.16.0.0', 12, 'ipv4')
PRIVATE.addSubnet('192.168.0.0', 16, 'ipv4')
PRIVATE.addSubnet('169.254.0.0', 16, 'ipv4')
PRIVATE.addSubnet('127.0.0.0', 8, 'ipv4')
PRIVATE.addSubnet('fc00::', 7, 'ipv6')
PRIVATE.addSubnet('fe80::', 10, 'ipv6')
PRIVATE.addAddress('::1', 'ipv6')

const NEVER = new BlockList()
NEVER.addSubnet('0.0.0.0', 8, 'ipv4')
NEVER.addSubnet('224.0.0.0', 3, 'ipv4')
NEVER.addAddress('::', 'ipv6')
NEVER.addSubnet('ff00::', 8, 'ipv6')

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

/** Of one wire: nothing that somebody elsewhere could know of. */
const LINK_LOCAL = new BlockList()
LINK_LOCAL.addSubnet('169.254.0.0', 16, 'ipv4')
LINK_LOCAL.addSubnet('fe80::', 10, 'ipv6')

function isIn(list: BlockList, host: string): boolean {
  const plain = plainHost(host).split('%')[0]!
  return isIP(plain) !== 0 && list.check(plain, isIPv4(plain) ? 'ipv4' : 'ipv6')
}

/** Private by its number, or in a network that this machine is part of. */
export function isLocal(host: string): boolean {
  if (isIn(PRIVATE, host)) return true
  const near = new BlockList()
  for (const { cidr, family } of Object.values(networkInterfaces()).flatMap((list) => list ?? [])) {
    if (cidr) near.addSubnet(cidr.split('/')[0]!, Number(cidr.split('/')[1]), family === 'IPv4' ? 'ipv4' : 'ipv6')
  }
  return isIn(near, host)
}

export function isLoopback(host: string): boolean { return isIn(LOOPBACK, host) }

/**
 * What a peer tells is only tried if it is the literal address of one host: no
 * names (a look-up tells others), no multicast; loopback from a peer on this very
 * machine alone, and link-local addresses from one that is seen at such.
 * `teller`: where the peer is seen.
 */
export function mayDial(host: string, teller: string): boolean {
  if (isIP(host) === 0 || isIn(NEVER, host)) return false
  if (isLoopback(host)) return isLoopback(teller)
  return !isIn(LINK_LOCAL, host) || isIn(LINK_LOCAL, teller)
}

/** This machine's addresses for peers: public ones first; loopback only where there is nothing else. Those of one host if it is given. */
export function ownAddresses(bound: string | undefined): string[] {
  const isAny = bound === undefined || bound === '0.0.0.0' || bound === '::'
  if (!isAny) return isIP(bound) ? [bound] : []
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  const outside = all.filter((a) => !a.internal && (a.family === 'IPv4' || (bound !== '0.0.0.0' && !a.address.startsWith('fe80'))))
  const hosts = (outside.length > 0 ? outside : all.filter((a) => a.address === '127.0.0.1')).map((a) => a.address)
  return [...new Set(hosts)].sort((a, b) => Number(isIn(PRIVATE, a)) - Number(isIn(PRIVATE, b))).slice(0, MAX_TOLD_ADDRESSES)
}

/** Changes when an interface, an address or, where that can be seen (Linux), a default route comes or goes. */
export function networkState(): string {
  const addresses = Object.entries(networkInterfaces()).flatMap(([name, list]) => (list ?? []).map((a) => `${name} ${a.address}`))
  return [...addresses, ...defaultRoutes()].sort().join(',')
}

/** proc(5), net/route: interface, destination, gateway, flags, reference count, use, metric, mask; in hex. */
function defaultRoutes(): string[] {
  let table: string
  try {
    table = readFileSync('/proc/net/route', 'latin1')
  } catch {
    return []
  }
  return table.split('\n').slice(1).map((line) => line.split('\t')).filter(([, destination]) => destination === '00000000').map(([device, , gateway, , , , metric]) => `${device} ${gateway} ${metric}`)
}
