/**
 * Addresses that were given for the devices of the drive, where each was last
 * reached and when it was connected, and the port on which this one listened last:
 * kept in the index, for this device alone.
 */
import { fail } from '../errors.js'
import { KEPT_ADDRESSES_MS, MAX_KEPT_ADDRESSES, MAX_KEPT_DEVICES } from '../limits.js'
import type { Database } from '../store/database.js'

/** Each is dialled for ever. */
const MAX_KNOWN_PEERS = 64
/** Devices of a drive, and guests that come and go. */
const MAX_SEEN = 256

export function knownPeers(db: Database): string[] {
  const text = db.getMeta('peers') as string | undefined
  return text ? (JSON.parse(text) as string[]) : []
}

/** Those that are new; in the open transaction. USAGE for too many. */
export function rememberPeers(db: Database, addresses: readonly string[]): string[] {
  const known = knownPeers(db)
  const fresh = [...new Set(addresses)].filter((a) => !known.includes(a))
  if (fresh.length === 0) return []
  if (known.length + fresh.length > MAX_KNOWN_PEERS) throw fail('USAGE', `at most ${MAX_KNOWN_PEERS} addresses are kept; take one back with dfs peers --forget HOST:PORT`)
  db.setMeta('peers', JSON.stringify([...known, ...fresh]))
  return fresh
}

/** False: it was neither given nor kept. */
export function forgetPeer(db: Database, address: string): boolean {
  const known = knownPeers(db)
  const kept = allKept(db)
  const isKept = kept.some(({ addresses }) => addresses.includes(address))
  if (!known.includes(address) && !isKept) return false
  db.setMeta('peers', JSON.stringify(known.filter((a) => a !== address)))
  if (isKept) db.setMeta('addresses', JSON.stringify(kept.map((k) => ({ ...k, addresses: k.addresses.filter((a) => a !== address) }))))
  return true
}

/** 0: none yet. */
export function lastPort(db: Database): number {
  return (db.getMeta('port') as number | undefined) ?? 0
}

export function rememberPort(db: Database, port: number): void {
  db.setMeta('port', port)
}

/** When a device was connected last, by its id; milliseconds since 1970. */
export function lastSeen(db: Database): Map<string, number> {
  const text = db.getMeta('seen') as string | undefined
  return new Map(text ? Object.entries(JSON.parse(text) as Record<string, number>) : [])
}

export function noteSeen(db: Database, devices: readonly string[], nowMs: number): void {
  const all = lastSeen(db)
  for (const device of devices) all.set(device, nowMs)
  const newest = [...all].sort((a, b) => b[1] - a[1]).slice(0, MAX_SEEN)
  db.setMeta('seen', JSON.stringify(Object.fromEntries(newest)))
}

interface KeptAddresses { device: string; addresses: string[]; keptMs: number }

function allKept(db: Database): KeptAddresses[] {
  const text = db.getMeta('addresses') as string | undefined
  return text ? (JSON.parse(text) as KeptAddresses[]) : []
}

/** Where devices were in earlier runs, those of long ago left out. */
export function keptAddresses(db: Database, nowMs: number): KeptAddresses[] {
  return allKept(db).filter((kept) => nowMs - kept.keptMs < KEPT_ADDRESSES_MS)
}

/** Where a device, named by its public key in hex, may be reached another time. False: that was known, and not long ago. */
export function keepAddresses(db: Database, device: string, addresses: readonly string[], nowMs: number): boolean {
  const all = keptAddresses(db, nowMs)
  const first = addresses.slice(0, MAX_KEPT_ADDRESSES)
  const known = all.find((kept) => kept.device === device)
  const isNews = first.length > 0 && (known?.addresses.join() !== first.join() || nowMs - known.keptMs > KEPT_ADDRESSES_MS / 30)
  if (!isNews) return false
  const newest = [{ device, addresses: first, keptMs: nowMs }, ...all.filter((kept) => kept !== known)].slice(0, MAX_KEPT_DEVICES)
  db.setMeta('addresses', JSON.stringify(newest))
  return true
}
