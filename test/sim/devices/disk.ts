/**
 * A disk that forgets what was not synced: the index (a SQLite database in
 * memory, with the real schema) and the segments of sealed chunks.
 *
 * What a sync covers is on the disk when it resolves; a power cut before that
 * leaves what the last one had, or, by chance, what one under way has already
 * written: a prefix of the commits, as a write-ahead log gives it.
 */
import Sqlite from 'better-sqlite3'
import type { Timers } from '../../../lib/clock.js'
import type { SegmentRecord } from '../../../lib/store/batch.js'
import type { Place } from '../../../lib/store/segments.js'
import { Database } from '../../../lib/store/database.js'

/** A segment takes so many chunks. */
const SEGMENT_CHUNKS = 8

/** The index as bytes, with the last entry of each log in it, by incarnation. */
export interface Image { bytes: Buffer; heads: Map<string, number>; chunks?: ImageChunks }
/** Chunks as an index has them: where those lie that are here; and of which files have parts (Infinity), or had up to some time (milliseconds). By id. */
export interface ImageChunks { here: Map<string, { seg: number; off: number }>; needed: Map<string, number> }

/** Of a file that was removed: when. */
const NEEDED_UNTIL = 'max(CASE WHEN i.nlink > 0 THEN 9e999 ELSE (SELECT max(t) FROM history WHERE was = e.ino AND gone = 1) END)'

interface Stored { sealed: Buffer; isDurable: boolean }

/** What lies on the medium; outlives the device's sessions. */
export class SimDisk {
  /** The index as it would be found after a power cut. */
  image: Image | undefined
  /** The index of before, while a device that has begun anew has not done again what only that had. */
  before: Image | undefined
  /** Written, and not acknowledged yet; oldest first. */
  underWay: Image[] = []
  chunks = new Map<string, Stored>()
  /** Of the last sync: its length, milliseconds. */
  syncMs: () => number = () => 2
  /** Told when it has another index durably; then images know their chunks. */
  onImage: ((before: Image | undefined) => void) | undefined

  /** What is on the medium is now this. */
  install(image: Image): void {
    const before = this.image
    this.image = image
    if (image !== before) this.onImage?.(before)
  }

  /** Power is cut. `keep` (0 to 1) says how much of what is under way is on the medium. */
  cut(keep: number): void {
    const n = Math.floor(keep * (this.underWay.length + 1))
    const image = n > 0 ? this.underWay[n - 1] : undefined
    this.underWay = []
    for (const [at, chunk] of this.chunks) if (!chunk.isDurable) this.chunks.delete(at)
    if (image) this.install(image)
  }

  copy(): { image: Image | undefined; before: Image | undefined; chunks: Map<string, Stored> } {
    return { image: this.image, before: this.before, chunks: new Map([...this.chunks].filter(([, c]) => c.isDurable)) }
  }
}

export class SimDatabase extends Database {
  readonly #disk: SimDisk
  readonly #timers: Timers
  readonly #changes: Sqlite.Statement
  readonly #heads: Sqlite.Statement
  #writes = -1
  #last: Image | undefined
  #listed: Sqlite.Statement | undefined

  constructor(disk: SimDisk, timers: Timers) {
    super(Database.memory(disk.image?.bytes), ':memory:')
    // Many small tables: an image of it is a quarter of what it would be.
    if (!disk.image) this.sql.exec('PRAGMA page_size = 1024; VACUUM')
    this.#disk = disk
    this.#timers = timers
    this.#changes = this.sql.prepare('SELECT total_changes()').pluck()
    this.#heads = this.sql.prepare('SELECT hex(i.id) AS id, h.seq FROM log_head h JOIN incarnation i ON i.idx = h.inc')
  }

  /** All that was committed: every caller has committed just before. */
  #image(): Image {
    const n = this.#changes.get() as number
    if (this.#last && n === this.#writes) return this.#last
    this.#writes = n
    const heads = this.#heads.all() as { id: string; seq: number }[]
    return (this.#last = { bytes: this.sql.serialize(), heads: new Map(heads.map((h) => [h.id, h.seq])), ...(this.#disk.onImage && { chunks: this.#chunks() }) })
  }

  #chunks(): ImageChunks {
    this.#listed ??= this.sql.prepare(`SELECT id, seg, off, (SELECT ${NEEDED_UNTIL} FROM extent e JOIN inode i ON i.ino = e.ino WHERE e.chunk = c.num),
      (SELECT max(h.t) FROM history_extent x JOIN history h ON h.n = x.n WHERE x.len > 0 AND x.chunk = c.num) FROM chunk c`).raw(true)
    const out: ImageChunks = { here: new Map(), needed: new Map() }
    for (const [id, seg, off, until, was] of this.#listed.all() as [Buffer, number, number, number | null, number | null][]) {
      const key = id.toString('latin1')
      if (seg >= 0) out.here.set(key, { seg, off })
      if (until !== null || was !== null) out.needed.set(key, Math.max(until ?? 0, was ?? 0))
    }
    return out
  }

  override syncWal(): Promise<void> {
    const image = this.#image()
    this.#disk.underWay.push(image)
    return new Promise((resolve) => {
      this.#timers.after(this.#disk.syncMs(), () => {
        const at = this.#disk.underWay.indexOf(image)
        // A later sync, which was quicker, has it.
        if (at >= 0) {
          this.#disk.underWay.splice(0, at + 1)
          this.#disk.install(image)
        }
        resolve()
      })
    })
  }

  override syncWalNow(): void {
    this.#disk.underWay = []
    this.#disk.install(this.#image())
  }

  override reader(): Sqlite.Database {
    return new Sqlite(this.#image().bytes)
  }
}

/** As SegmentStore, of the parts that the swarm and the tree need. */
export class SimStore {
  readonly #disk: SimDisk
  readonly #timers: Timers
  #count: number

  constructor(disk: SimDisk, timers: Timers) {
    this.#disk = disk
    this.#timers = timers
    this.#count = [...disk.chunks.keys()].reduce((n, at) => Math.max(n, indexOf(at) + 1), 0)
  }

  append(records: SegmentRecord[]): Promise<Place[]> {
    const places = records.map((r) => {
      const place = { segment: 1 + Math.floor(this.#count / SEGMENT_CHUNKS), offset: this.#count % SEGMENT_CHUNKS }
      this.#count++
      this.#disk.chunks.set(`${place.segment}:${place.offset}`, { sealed: Buffer.from(r.sealed), isDurable: false })
      return place
    })
    return Promise.resolve(places)
  }

  sync(): Promise<void> {
    const fresh = [...this.#disk.chunks.values()].filter((c) => !c.isDurable)
    return new Promise((resolve) => {
      this.#timers.after(this.#disk.syncMs(), () => {
        for (const c of fresh) c.isDurable = true
        resolve()
      })
    })
  }

  pathOf(segment: number): string { return String(segment) }
  usage(): Map<number, number> { return new Map() }
  holds(segment: number, offset: number): boolean { return this.#disk.chunks.has(`${segment}:${offset}`) }

  /** Nothing names it any more, durably. */
  drop(segment: number, offset: number): void { this.#disk.chunks.delete(`${segment}:${offset}`) }

  at(segment: number, offset: number): Buffer | undefined {
    return this.#disk.chunks.get(`${segment}:${offset}`)?.sealed
  }

  read(segment: number, offset: number): Promise<Buffer> {
    const sealed = this.at(segment, offset)
    return sealed ? Promise.resolve(Buffer.from(sealed)) : Promise.reject(new Error('there is no such chunk'))
  }
}

function indexOf(at: string): number {
  const [segment, offset] = at.split(':').map(Number) as [number, number]
  return (segment - 1) * SEGMENT_CHUNKS + offset
}
