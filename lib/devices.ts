/** The devices of a drive as `dfs devices` shows them: from certificates, logs and links, none of which needs a key to read. */
import type { DeviceStatus, PeerStatus } from './api.js'
import type { Clock } from './clock.js'
import type { DriveKeys } from './keys/derive.js'
import type { Device } from './keys/device.js'
import { decodeZ32, encodeZ32 } from './keys/zbase32.js'
import type { Log } from './log/log.js'
import type { Members } from './log/members.js'
import type { Metadata } from './metadata.js'
import type { Fleet } from './placement/fleet.js'
import type { Keeping } from './placement/keeping.js'
import type { Reports } from './placement/reports.js'
import type { Database } from './store/database.js'
import { lastSeen } from './swarm/known-peers.js'

export interface DeviceList {
  readonly db: Database
  readonly keys: Pick<DriveKeys, 'canWrite'>
  readonly device: Pick<Device, 'publicKey'>
  readonly deviceName: string
  readonly clock: Pick<Clock, 'nowMs'>
  readonly log: Log
  readonly members: Members
  /** `asides`: absent on a device that cannot read who was set aside. */
  readonly metadata: Pick<Metadata, 'forks'> & Partial<Pick<Metadata, 'asides'>>
}

/** Of the drive, and guests that are connected; this one first. */
export function listDevices(d: DeviceList, peers: PeerStatus[]): DeviceStatus[] {
  const own = encodeZ32(d.device.publicKey)
  const connected = new Map(peers.map((p) => [p.device, p]))
  const seen = lastSeen(d.db)
  const wrote = new Map<string, number>()
  for (const inc of d.log.heads().keys()) {
    const device = encodeZ32(d.log.deviceOf(inc))
    wrote.set(device, Math.max(wrote.get(device) ?? 0, d.log.lastClockMs(inc)))
  }
  const one = (device: string, name: string, role: DeviceStatus['role']): DeviceStatus => {
    const isHere = device === own || connected.has(device)
    return {
      device, name, role, isThisDevice: device === own, isConnected: connected.has(device),
      isAway: d.metadata.asides?.isAway(decodeZ32(device)) ?? false,
      lastSeenMs: isHere ? d.clock.nowMs() : Math.max(seen.get(device) ?? 0, wrote.get(device) ?? 0) || null,
    }
  }
  const members = d.members.all().map((c) => one(encodeZ32(c.device), c.name, c.role))
  const known = new Set(members.map((m) => m.device))
  // Alone it has no certificate yet; with a weaker key, until it is given one.
  if (!known.has(own)) members.unshift(one(own, d.deviceName, d.keys.canWrite ? 'full' : 'guest'))
  for (const p of connected.values()) if (!known.has(p.device)) members.push(one(p.device, p.name, 'guest'))
  return members.sort((a, b) => Number(b.isThisDevice) - Number(a.isThisDevice))
}

/** What placement knows of them; nothing without a plan. */
export function placedDevices(d: { fleet: Fleet; keeping: Keeping; reports: Reports }, devices: DeviceStatus[]): DeviceStatus[] {
  const { plan } = d.keeping
  const fleet = new Map(d.fleet.devices().map((f) => [encodeZ32(f.key), f]))
  return devices.map((device) => {
    const known = fleet.get(device.device)
    if (!known) return device
    const i = plan ? plan.placement.devices.findIndex((p) => p.key.equals(known.key)) : -1
    const report = d.reports.of(known.key.toString('hex'))
    const lacks = [...report?.lacks.values() ?? []]
    return {
      ...device,
      placement: {
        capacityBytes: known.offeredBytes ?? null, zone: known.zone, isLeaving: known.isLeaving, isLost: known.isLost, isDoubted: known.isDoubted, isFull: report?.isFull ?? false,
        share: i < 0 ? null : plan!.placement.shares[i]!, heldBytes: plan && report ? report.heldBytes : null, usedBytes: report?.usedBytes ?? null,
        lacksChunks: report ? lacks.reduce((n, l) => n + l.chunks, 0) : null, lacksBytes: report ? lacks.reduce((n, l) => n + l.bytes, 0) : null,
      },
    }
  })
}
