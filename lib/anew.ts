/**
 * Beginning anew in place: a device whose log others have ended, or which lacks
 * what they have dropped, takes all metadata of one of them, keeps its chunks
 * and its settings, and does again what only it had (rescue.ts).
 *
 *   taking   a second index, anew.db, is filled beside the one in use
 *   ready    closed; the index is before.db too, and anew.db takes its name
 *   rescued  what only before.db had is in the new index, durable; it goes
 *
 * A crash leaves the one index or the other, never a mixture: the name changes
 * once. Until then nothing was changed; from then on before.db stays until what
 * it had is elsewhere.
 */
import { closeSync, copyFileSync, existsSync, fsyncSync, linkSync, openSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Clock, Timers } from './clock.js'
import { fail } from './errors.js'
import { certify } from './keys/certificate.js'
import type { DriveKeys } from './keys/derive.js'
import { newIncarnation, type Device } from './keys/device.js'
import { setIncarnation } from './keys/keyfile.js'
import { SnapshotIntake, becomeMember, type Linked } from './join.js'
import { Reader } from './log/codec.js'
import { decodeAside, INO_HIGH } from './log/ops.js'
import type { Metadata } from './metadata.js'
import { rescue, rescued } from './rescue.js'
import { ChunkTable } from './store/chunks.js'
import { Database } from './store/database.js'
import type { TreeSealer } from './tree/tree.js'

const TAKEN = 'anew.db'
const BEFORE = 'before.db'
/** After a snapshot that can not be used. */
const AGAIN_MS = 5000
/** On the word of others alone a device does not begin anew again sooner, twice as long each time, at most this long: they may lie. */
const WAIT_MS = 60_000
const MAX_WAIT_MS = 3_600_000
/** Settings that are of one index, or come with a snapshot. */
const NOT_CARRIED = new Set(['index_version', 'index_at', 'incarnation', 'redo_session', 'joining', 'from_keeper', 'shared_seq', 'predates_sharing', 'finished', 'anew', 'base_key', 'shared', 'name', 'order', 'creator_uid', 'creator_gid'])

export interface AnewParts {
  /** Empty. */
  taken: Database
  links: Linked
  keys: DriveKeys
  /** The incarnation that ends. */
  incarnation: Buffer
  timers: Timers
  signal: AbortSignal
  onNotice: (text: string) => void
}

/** Fills `taken` from one of the links. Rejects with EINTR when the signal comes. */
export async function takeAnew(p: AnewParts): Promise<void> {
  for (;;) {
    await new SnapshotIntake(p.taken, p.links, p.keys, p.timers, { signal: p.signal, onNotice: p.onNotice }).run()
    if (endsLog(p.taken, p.incarnation)) return
    // What this device has stated would go on to count.
    p.onNotice('the metadata that came does not say that this device begins anew: asking again')
    await new Promise<void>((resolve) => { p.timers.after(AGAIN_MS, resolve) })
    if (p.signal.aborted) throw fail('EINTR', 'interrupted before another device gave its metadata')
  }
}

/** Whether others will not wait for an incarnation, nor count on what it said: they do not know it, or it was ended. */
function endsLog(taken: Database, incarnation: Buffer): boolean {
  if (!taken.sql.prepare('SELECT 1 FROM incarnation i JOIN log_head l ON l.inc = i.idx WHERE i.id = ?').get(incarnation)) return true
  return (taken.sql.prepare('SELECT op FROM aside').all() as { op: Buffer }[]).some((r) => decodeAside(new Reader(r.op)).logs.some((l) => l.id.equals(incarnation)))
}

/** Makes `taken` the index of this device: with the chunks that are here, its settings, and an incarnation of its own, whose id it gives. Durable when it resolves. */
export async function adopt(old: Database, taken: Database, keys: DriveKeys, device: Pick<Device, 'publicKey'>, nowMs: number): Promise<Buffer> {
  taken.sql.exec('BEGIN')
  carryChunks(old, taken)
  for (const [key, value] of old.sql.prepare('SELECT key, value FROM meta').raw(true).all() as [string, string | number | Buffer][]) {
    if (!NOT_CARRIED.has(key) && !key.startsWith('building:')) taken.setMeta(key, value)
  }
  taken.setMeta('anew', 1)
  const isRecent = Math.abs(nowMs - ((old.getMeta('anew_at') as number | undefined) ?? 0)) < MAX_WAIT_MS
  taken.setMeta('anew_at', Math.floor(nowMs))
  taken.setMeta('anew_times', 1 + (isRecent ? (old.getMeta('anew_times') as number | undefined) ?? 0 : 0))
  taken.sql.exec('COMMIT')
  const name = (old.getMeta('device_name') as string | undefined) ?? ''
  const known = taken.sql.prepare('SELECT certificate FROM device WHERE key = ?').get(device.publicKey) as { certificate: Buffer } | undefined
  const certificate = known?.certificate ?? (keys.canWrite ? certify(keys, { device: device.publicKey, role: keys.kind, name }) : undefined)
  const incarnation = newIncarnation()
  await becomeMember(taken, { publicKey: device.publicKey, incarnation }, certificate)
  return incarnation
}

/**
 * Chunks that are here stay where they are, and known until gc drops them: what this device had alone may name them, or what another
 * had that was away with it. Pins stay on what they were on. */
function carryChunks(old: Database, taken: Database): void {
  const chunks = new ChunkTable(taken)
  chunks.indexIds()
  const inline = old.sql.prepare('SELECT data FROM chunk_inline WHERE num = ?').raw(true)
  const insert = taken.sql.prepare('INSERT INTO chunk(num, h48, len, refs, seg, off, id, h) VALUES (?,?,?,0,?,?,?,?)')
  const insertInline = taken.sql.prepare('INSERT INTO chunk_inline VALUES (?,?)')
  const bad = new ChunkTable(old).bad
  let next = (taken.sql.prepare('SELECT ifnull(max(num), 0) + 1 AS n FROM chunk').get() as { n: number }).n
  for (const [num, seg, off, id, h48, len, h] of old.sql.prepare('SELECT num, seg, off, id, h48, len, h FROM chunk WHERE seg >= 0').raw(true).iterate() as Iterable<[number, number, number, Buffer, number, number, Buffer]>) {
    const at = chunks.findById(id)
    if (at === 0) {
      const bytes = seg === 0 ? (inline.get(num) as [Buffer] | undefined)?.[0] : undefined
      if (seg === 0 && !bytes) continue
      insert.run(next, h48, len, seg, off, id, h)
      if (bytes) insertInline.run(next, bytes)
      if (bad.has(num)) chunks.bad.add(next)
      next++
      continue
    }
    const data = seg === 0 ? (inline.get(num) as [Buffer] | undefined)?.[0] : undefined
    if (data) chunks.moveInline(at, data)
    else if (seg > 0) chunks.move(at, seg, off)
    if (bad.has(num)) chunks.bad.add(at)
  }
  chunks.flush()
  if (!old.sql.prepare("SELECT 1 FROM sqlite_master WHERE name = 'pin'").get()) return
  taken.sql.exec('CREATE TABLE IF NOT EXISTS pin(ino INTEGER PRIMARY KEY)')
  const idOf = new Map((old.sql.prepare('SELECT idx, id FROM incarnation').raw(true).all() as [number, Buffer][]).map(([idx, id]) => [idx, id.toString('latin1')]))
  const indexOf = new Map((taken.sql.prepare('SELECT idx, id FROM incarnation').raw(true).all() as [number, Buffer][]).map(([idx, id]) => [id.toString('latin1'), idx]))
  const pin = taken.sql.prepare('INSERT OR IGNORE INTO pin SELECT ino FROM inode WHERE ino = ?')
  for (const ino of old.sql.prepare('SELECT ino FROM pin').pluck().all() as number[]) {
    const index = indexOf.get(idOf.get(Math.floor(ino / INO_HIGH)) ?? '')
    if (index !== undefined) pin.run(index * INO_HIGH + ino % INO_HIGH)
  }
}

/** Whether it was long enough ago. */
export function mayBeginAnew(db: Database, nowMs: number): boolean {
  const times = (db.getMeta('anew_times') as number | undefined) ?? 0
  return times === 0 || Math.abs(nowMs - (db.getMeta('anew_at') as number)) >= Math.min(MAX_WAIT_MS, WAIT_MS * 2 ** (times - 1))
}

// --- of a drive on a disk -----------------------------------------------------

export interface TakingParts {
  dir: string
  keys: DriveKeys
  device: Device
  clock: Pick<Clock, 'nowMs'>
  timers: Timers
  links: Linked
  /** The incarnation that ends. */
  incarnation: Buffer
  onNotice: (text: string) => void
  /** All of it is here: close the drive, and open it again. */
  onReady: () => void
}

/** The metadata of others is taken in while the drive goes on, and takes the place of its own when it is closed. */
export class TakingAnew {
  readonly #p: TakingParts
  readonly #taken: Database
  readonly #abort = new AbortController()
  readonly #over: Promise<void>
  #isReady = false

  /** Undefined, and told, when there is no room for it. */
  static begin(parts: TakingParts): TakingAnew | undefined {
    try {
      return new TakingAnew(parts, createTaken(parts.dir))
    } catch (e) {
      parts.onNotice(`the metadata of others can not be taken in: ${(e as Error).message}`)
      return undefined
    }
  }

  private constructor(parts: TakingParts, taken: Database) {
    this.#p = parts
    this.#taken = taken
    const { links, keys, incarnation, timers, onNotice, onReady } = parts
    this.#over = takeAnew({ taken, links, keys, incarnation, timers, signal: this.#abort.signal, onNotice }).then(() => {
      this.#isReady = true
      onReady()
    }, (e: Error) => { if (!this.#abort.signal.aborted) onNotice(`the metadata of others can not be taken in: ${e.message}`) })
  }

  get isReady(): boolean { return this.#isReady }

  /** Takes no more. */
  async end(): Promise<void> {
    this.#abort.abort()
    await this.#over
  }

  /** The store is closed but for its lock, and `isSound`: what was taken in is its index from now on. */
  async close(isSound: boolean): Promise<void> {
    const { dir, keys, device, clock } = this.#p
    this.#taken.close()
    if (!isSound) return
    if (!this.#isReady) return dropTaken(dir)
    const old = Database.open(join(dir, 'index.db'))
    const taken = Database.open(join(dir, TAKEN))
    let incarnation: Buffer
    try {
      incarnation = await adopt(old, taken, keys, device, clock.nowMs())
    } finally {
      old.close()
      taken.close()
    }
    exchangeIndex(dir)
    await setIncarnation(join(dir, 'keys'), incarnation)
  }
}

/** When a drive is opened: what only the index of before had is done again. What fails stays for the next time. */
export function finishAnew(p: { dir: string; db: Database; metadata: Metadata; keys: DriveKeys; device: Pick<Device, 'publicKey'>; sealer: TreeSealer }): void {
  const { dir, db, metadata, keys } = p
  const { journal } = metadata
  const before = leftBefore(dir, db)
  // While changes wait it does, too: for the next time that the store is opened.
  if (db.getMeta('anew') !== 1 || metadata.own.isCatchingUp) return before?.close()
  try {
    if (before && keys.canWrite) rescue(before, metadata, keys, p.sealer, p.device.publicKey)
  } catch (e) {
    process.emitWarning(`what this device had written alone is still in ${join(dir, BEFORE)}: ${(e as Error).message}`)
    return
  } finally {
    before?.close()
  }
  rescued(db)
  db.setMeta('anew', 0)
  journal.touched()
  journal.settle().then(() => removeIndex(join(dir, BEFORE)), () => { /* stopped; every caller learns from check() */ })
}

/** An empty second index in a store. */
function createTaken(dir: string): Database {
  removeIndex(join(dir, TAKEN))
  return Database.create(join(dir, TAKEN))
}

/** It is not wanted any more. */
function dropTaken(dir: string): void { removeIndex(join(dir, TAKEN)) }

/** With the store closed: what `adopt` has made is its index from here on. */
function exchangeIndex(dir: string): void {
  const [index, taken, before] = ['index.db', TAKEN, BEFORE].map((name) => join(dir, name)) as [string, string, string]
  for (const path of [index, taken]) {
    Database.settle(path)
    rmSync(path + '-wal', { force: true })
    rmSync(path + '-shm', { force: true })
  }
  rmSync(before, { force: true })
  try { linkSync(index, before) } catch { copyFileSync(index, before) }
  syncPath(before)
  syncPath(taken)
  syncPath(dir)
  renameSync(taken, index)
  syncPath(dir)
  // Of the index before.
  rmSync(join(dir, 'redo'), { force: true })
}

/** When a store is opened: what is left of an attempt that did not come to its end. Gives the index of before, if what only it had is still to be done. */
function leftBefore(dir: string, db: Database): Database | undefined {
  dropTaken(dir)
  const path = join(dir, BEFORE)
  if (!existsSync(path)) return undefined
  if (db.getMeta('anew') === 1) return Database.open(path)
  removeIndex(path)
  return undefined
}

function removeIndex(path: string): void {
  for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix, { force: true })
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r')
  try { fsyncSync(fd) } finally { closeSync(fd) }
}

