/**
 * Addresses that were given for the devices of the drive, when each was last
 * connected, and the port on which this one listened last: kept in the index,
 * for this device alone.
 */
import { fail } from '../errors.js'
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

/** False: it was not known. */
export function forgetPeer(db: Database, address: string): boolean {
  const known = knownPeers(db)
  if (!known.includes(address)) return false
  db.setMeta('peers', JSON.stringify(known.filter((a) => a !== address)))
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
