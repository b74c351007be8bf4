/**
 * `dfs fsck`: is everything there, and does it fit together? The index's own
 * structure, the tree's invariants, the log's chain and signatures, that each
 * chunk lies where the index says; with `data`, that every sealed byte is what
 * was sealed. Problems name the paths that they concern.
 */
import { turn } from './clock.js'
import { statSync } from 'node:fs'
import type { FsckProblem, FsckReport, OnProgress } from './api.js'
import { pathsOfChunks } from './danger.js'
import { understood } from './errors.js'
import type { Device } from './keys/device.js'
import type { Journal } from './log/journal.js'
import type { Log } from './log/log.js'
import { ELSEWHERE, type ChunkTable } from './store/chunks.js'
import type { Database } from './store/database.js'
import type { SegmentStore } from './store/segments.js'
import type { Tree } from './tree/tree.js'
import { chunkId, sealedLength } from './seal/chunk.js'
import { checkTree } from './tree/check.js'
import { ROOT_INO } from './tree/inode.js'

/** Chunks verified before progress is told and the loop gets a turn. */
const BATCH_CHUNKS = 64
/** Paths named for one damaged chunk, and files in all. */
const MAX_PATHS = 20
const MAX_FILES = 100_000

/** The parts of a drive that it looks at. */
export interface FsckParts {
  readonly db: Database
  readonly journal: Journal
  readonly log: Log
  readonly store: SegmentStore
  readonly tree: Tree
  readonly chunks: ChunkTable
  readonly device: Device
  sync(): Promise<void>
}

interface ChunkPlace { num: number; seg: number; off: number; len: number; id: Buffer; refs: number }

export async function fsck(drive: FsckParts, options: { data?: boolean; repair?: boolean }, onProgress?: OnProgress): Promise<FsckReport> {
  const { db, journal, log, store, tree } = drive
  const problems: FsckProblem[] = []
  await drive.sync()
  tree.rows.flush()

  /** A page that cannot be read is a finding, not the end. */
  const reading = (what: string, check: () => void): void => {
    try { check() } catch (e) {
      const damage = understood(e)
      if (!damage) throw e
      problems.push({ kind: 'index', detail: `${what}: ${damage.message}`, mended: false })
    }
  }

  const count = (table: string): number => {
    let n = 0
    reading(table, () => { n = (db.sql.prepare(`SELECT count(*) AS n FROM ${table}`).get() as { n: number }).n })
    return n
  }

  onProgress?.({ phase: 'index', done: 0, total: 0, unit: 'rows' })
  reading('the index', () => {
    for (const r of db.sql.pragma('quick_check(100)') as { quick_check: string }[]) {
      if (r.quick_check !== 'ok') problems.push({ kind: 'index', detail: r.quick_check, mended: false })
    }
  })

  onProgress?.({ phase: 'tree', done: 0, total: 0, unit: 'rows' })
  reading('the tree', () => {
    for (const f of checkTree(db)) {
      let mended = false
      if (options.repair && f.mend) {
        f.mend()
        journal.touched()
        tree.rows.forget()
        mended = true
      }
      problems.push({ kind: f.kind, detail: f.detail, mended, ...(f.ino ? { path: paths(drive, f.ino)[0] ?? `inode ${f.ino}` } : {}) })
    }
  })

  onProgress?.({ phase: 'log', done: 0, total: 0, unit: 'rows' })
  let entries = 0
  try {
    for (const _ of log.entries(journal.incarnation, 0, drive.device.publicKey)) {
      if (++entries % 64 === 0) {
        onProgress?.({ phase: 'log', done: entries, total: 0, unit: 'rows' })
        await turn()
      }
    }
  } catch (e) {
    problems.push({ kind: 'log-chain', detail: (e as Error).message, mended: false })
  }

  // Where chunks lie.
  const sizes = new Map<number, number>()
  const measure = (seg: number) => { try { sizes.set(seg, statSync(store.pathOf(seg)).size) } catch { /* missing: size 0 */ } }
  for (const { seg } of db.sql.prepare('SELECT DISTINCT seg FROM chunk WHERE seg > 0').all() as { seg: number }[]) measure(seg)
  const chunks = count('chunk')
  let bytesRead = 0
  let seen = 0
  const list = db.sql.prepare('SELECT num, seg, off, len, id, refs FROM chunk WHERE num > ? ORDER BY num LIMIT ?')
  const found = new Map<number, FsckProblem>()
  for (let from = 0; ;) {
    const rows = list.all(from, BATCH_CHUNKS) as ChunkPlace[]
    if (rows.length === 0) break
    for (const r of rows) {
      from = r.num
      seen++
      const bad = (kind: string, detail: string) => {
        // Evicted, or moved by compaction, since the row was read.
        const now = drive.chunks.get(r.num)
        if (!now || now.seg !== r.seg || now.off !== r.off) return
        drive.chunks.bad.add(r.num)
        found.set(r.num, { kind, detail, mended: false })
      }
      const length = sealedLength(r.len)
      // It has grown meanwhile, maybe.
      if (r.seg > 0 && r.off + length > (sizes.get(r.seg) ?? 0)) measure(r.seg)
      if (r.seg > 0 && r.off + length > (sizes.get(r.seg) ?? 0)) {
        bad('chunk-missing', `chunk ${r.num} should be at ${r.off} of segment ${r.seg}, which ${sizes.has(r.seg) ? 'ends before' : 'is missing'}`)
        continue
      }
      if (!options.data && r.refs > 0 && drive.chunks.bad.has(r.num)) bad('chunk-damaged', `chunk ${r.num} in segment ${r.seg} was found damaged before`)
      if (!options.data || r.seg === ELSEWHERE) continue
      try {
        const sealed = r.seg === 0 ? drive.chunks.inlineData(r.num) : await readTwice(store, r)
        bytesRead += length
        if (!sealed || !chunkId(sealed).equals(r.id)) bad('chunk-damaged', `chunk ${r.num} in segment ${r.seg} is not what was stored`)
        else drive.chunks.bad.delete(r.num)
      } catch (e) {
        bad('chunk-damaged', `chunk ${r.num} cannot be read: ${(e as Error).message}`)
      }
    }
    onProgress?.({ phase: options.data ? 'chunks' : 'places', done: seen, total: chunks, unit: 'chunks' })
    await turn()
  }
  tree.rows.flush()
  const named = await pathsOfChunks(drive, new Set(found.keys()), MAX_FILES).catch((e: unknown) => {
    const damage = understood(e)
    if (!damage) throw e
    problems.push({ kind: 'index', detail: `the names: ${damage.message}`, mended: false })
    return new Map<number, string[]>()
  })
  for (const [num, problem] of found) {
    const paths = named.get(num)?.slice(0, MAX_PATHS)
    if (paths) for (const path of paths) problems.push({ ...problem, path })
    else problems.push(problem)
  }
  if (options.repair) await journal.durable()
  return { inodes: count('inode'), dentries: count('dentry'), extents: count('extent'), chunks, entries, bytesRead, problems }
}

/** A read that failed once may not fail again. */
function readTwice(store: SegmentStore, { seg, off, len }: ChunkPlace): Promise<Buffer> {
  return store.read(seg, off, sealedLength(len)).catch(() => store.read(seg, off, sealedLength(len)))
}

/** The names of an inode as paths. Scans the names: there is no index by inode, since nothing else asks. */
export function paths(drive: FsckParts, ino: number): string[] {
  if (ino === ROOT_INO) return ['/']
  const { tree, db } = drive
  const rows = db.sql.prepare('SELECT parent FROM dentry WHERE ino = ? LIMIT ?').all(ino, MAX_PATHS) as { parent: number }[]
  const out: string[] = []
  for (const { parent } of rows) {
    const dir = tree.get(parent)
    if (!dir) continue
    const at = tree.dirPath(dir)
    tree.list(dir, 0, (name, child) => {
      if (child === ino) out.push(`${at === '/' ? '' : at}/${name}`)
      return out.length < MAX_PATHS
    })
  }
  return [...new Set(out)]
}
