/**
 * What was, on a device that reads the drive: told of a path, brought back, and let
 * go of when it is past the retention.
 */
import type { OnProgress, RestoreOptions, RestoreReport, VersionLog } from './api.js'
import { turn, type Clock, type Timers } from './clock.js'
import type { Files } from './file/files.js'
import type { Collector } from './gc.js'
import type { Device } from './keys/device.js'
import type { Metadata } from './metadata.js'
import type { PathApi } from './paths.js'
import type { Posix } from './posix.js'
import { restore } from './restore.js'
import type { ChunkTable } from './store/chunks.js'
import { Past } from './tree/past.js'
import { listVersions } from './versions.js'

/** Of the loop, for what goes through many rows. */
const SLICE_MS = 10
/** How often it is looked what has passed out of the retention. */
const SWEEP_MS = 30_000
const SWEEP_SLICE_EVERY_MS = 100

export interface RetentionParts {
  /** What is brought back is written through it. */
  api: PathApi
  metadata: Metadata
  posix: Posix
  files: Files
  chunks: ChunkTable
  collector: Collector
  clock: Clock
  timers: Timers
  device: Device
  canWrite: boolean
}

export class Retention {
  readonly #p: RetentionParts
  readonly #stop: () => void
  #isClosed = false

  /** Sweeps from now on, until it is closed. */
  constructor(p: RetentionParts) {
    this.#p = p
    this.#stop = p.timers.every(SWEEP_MS, () => this.#slice())
  }

  /** As DriveApi.versions. */
  async versions(path: Buffer, limit?: number): Promise<VersionLog> {
    const { metadata: { tree, log, history }, posix, device, canWrite } = this.#p
    // What programs have written so far has happened.
    if (canWrite) await posix.sync()
    const past = this.#past()
    while (!past.sync(this.#sliceOver())) await turn()
    history.isOn()
    return listVersions({ tree, log, device, history, past }, path, limit)
  }

  /** As DriveApi.restore. */
  restore(path: Buffer, options: RestoreOptions, onProgress?: OnProgress): Promise<RestoreReport> {
    const { api, metadata: { tree, history }, posix, files, chunks, clock, timers, canWrite } = this.#p
    return restore(api, { tree, posix, files, chunks, clock, timers, history, past: this.#past(), canWrite }, path, options, onProgress)
  }

  /** What is past the retention goes, all of it. */
  async sweep(): Promise<void> {
    while (this.#p.metadata.history.sweep(this.#sliceOver())) await turn()
  }

  /** The same, a slice at a time. */
  #slice(): void {
    const { metadata: { history, journal }, collector, timers } = this.#p
    if (journal.stopped || this.#isClosed) return
    try {
      const before = history.dropped
      if (history.sweep(this.#sliceOver())) timers.after(SWEEP_SLICE_EVERY_MS, () => this.#slice())
      if (history.dropped !== before) collector.rouse()
    } catch (e) {
      journal.stop(e as Error)
    }
  }

  /** What is not final yet is looked through once for each: it may change places. */
  #past(): Past {
    const { metadata: { tree, engine, journal, history }, clock } = this.#p
    return new Past({ tree, engine, history, nowMs: () => clock.nowMs(), commit: () => journal.commit() })
  }

  #sliceOver(): () => boolean {
    const { timers } = this.#p
    const end = timers.nowMs() + SLICE_MS
    return () => timers.nowMs() > end
  }

  close(): void {
    this.#isClosed = true
    this.#stop()
  }
}
