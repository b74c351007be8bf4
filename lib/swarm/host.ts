/** What the swarm needs of the device that it connects: a Drive, or what a simulator has in its place. */
import type { Cache } from '../cache.js'
import type { Care } from '../care.js'
import type { Timers } from '../clock.js'
import type { ChunkSource } from '../file/fetch.js'
import type { Inbox } from '../inbox.js'
import type { Linked } from '../join.js'
import type { DriveKeys } from '../keys/derive.js'
import type { Device } from '../keys/device.js'
import type { Journal } from '../log/journal.js'
import type { Log } from '../log/log.js'
import type { Members } from '../log/members.js'
import type { Metadata } from '../metadata.js'
import type { Fleet } from '../placement/fleet.js'
import type { KeptOpen } from '../kept-open.js'
import type { Pins } from '../pins.js'
import type { Keeping } from '../placement/keeping.js'
import type { Reports } from '../placement/reports.js'
import type { DeadChunks } from '../dead-chunks.js'
import type { Releases } from '../releases.js'
import type { SnapshotGift } from '../snapshot.js'
import type { Arrivals } from '../store/arrivals.js'
import type { ChunkTable } from '../store/chunks.js'
import type { FactorTable } from '../store/factor-table.js'
import type { Receipts } from './receipts.js'
import type { SnapshotHolder } from './snapshot-keeper.js'

export interface SwarmHost {
  readonly keys: DriveKeys
  readonly device: Pick<Device, 'publicKey' | 'secretKey'>
  readonly deviceName: string
  readonly timers: Timers
  readonly log: Log
  readonly journal: Journal
  readonly members: Members
  /** `onNamed`: chunks became known that entries name which cannot be read here. */
  readonly inbox: Pick<Inbox, 'deliver' | 'onApplied'> & { onNamed?: (device: Buffer, ids: Buffer[]) => void }
  readonly chunks: ChunkTable
  readonly arrivals: Pick<Arrivals, 'keep'> & Partial<Pick<Arrivals, 'onKept'>>
  /** Absent: everything is kept. */
  readonly cache?: Pick<Cache, 'keepsEverything' | 'isFull' | 'holders'> & { readonly pins?: Pick<Pins, 'missing' | 'changed'> & { readonly open?: Pick<KeptOpen, 'has'> } }
  /** What this device is to hold by the plan, and what is known of the others. Absent: there is no plan. */
  readonly keeping?: Keeping
  readonly reports?: Reports
  /** What directories want of chunks, for the plan. */
  readonly factors?: FactorTable
  /** Whom to tell of a device that has not what it says; absent on one that says nothing in the drive. */
  readonly fleet?: Pick<Fleet, 'doubt'>
  /** On a device that cannot read the drive's state: one that may write has said what the plan is; empty: there is none. */
  takePlan?(plan: Buffer): void
  /** Who waits for chunks to be mended; absent: nobody. */
  readonly care?: { readonly mending: Pick<Care['mending'], 'mender'> }
  /** On a device that reads the drive's state: which of these chunks nobody needs; undefined: it cannot say. */
  deadChunks?(ids: Buffer[]): DeadChunks | undefined
  /** On one that does not: asks the others. */
  readonly releases?: Pick<Releases, 'ask' | 'counted'>
  /** Where sealed chunks lie: lib/store/segments.ts. */
  readonly store: {
    pathOf(segment: number): string
    read(segment: number, offset: number, length: number): Promise<Buffer>
    holds(segment: number, offset: number, length: number): boolean
    usage(): Map<number, number>
  }
  readonly source: { provider: ChunkSource | null }
  readonly files: { readonly dirtyBytes: number; isLive: boolean }
  readonly space: { freeBytes(dirtyBytes: number): number }
  /** Of a device where somebody may wait for others. */
  readonly receipts?: Receipts
  /** Others take part from now on. */
  share(): void
  /** For a device that joins, or (`withChunks`) for one that keeps it for others. KEY_KIND, ENOENT: there is none. */
  snapshot(withChunks: boolean): Promise<SnapshotGift>
  /** For when others hold more of our own log than we do (absent: it writes none), and for forks. */
  readonly metadata: Pick<Metadata, 'forks'> & Partial<Pick<Metadata, 'own' | 'lostTail' | 'giveUp' | 'welcome' | 'heard' | 'asides' | 'hasEnded' | 'isApartFrom' | 'view' | 'mustBeginAnew'>>
  /** Whether it holds, or means to hold, every chunk of the drive; absent: it does. */
  readonly keepsEverything?: boolean
  /** Of a device that keeps snapshots without reading them. */
  readonly kept?: SnapshotHolder
  /** A proof of having a chunk counts so long: less than what waits for that (GRACE_MS in lib/cache.ts, RELEASE_AFTER_MS in lib/releases.ts). Absent: FRESH_MS of confirm.ts. */
  readonly freshMs?: number
  /** Chance, where it need not be secret; absent: Math.random. */
  readonly random?: () => number
  /** This device must take all metadata anew, from one of `links`. Once in a session, which ends with it. Absent: one that takes no snapshots. */
  beginAnew?(links: Linked, onNotice: (text: string) => void): void
  /** It did not so lately, on the word of others. */
  readonly mayBeginAnew?: boolean
}
