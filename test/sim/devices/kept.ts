/** What must be true of what a device keeps of former times. */
import { ROOT_INO } from '../../../lib/tree/inode.js'
import { Past } from '../../../lib/tree/past.js'
import { decodeUndo } from '../../../lib/tree/undo.js'
import type { SimDevice } from './device.js'

/** References are what the tree, the history and undo records hold, each to one; and every moment that is known can be told. */
export function keptFindings(d: SimDevice, moments: number[]): string[] {
  const { metadata, db } = d.s
  const { tree, journal, history } = metadata
  journal.commit()
  tree.rows.flush()
  const found = [...wrongRefs(d)]
  for (const r of db.sql.prepare('SELECT DISTINCT was FROM history WHERE gone = 1 AND was NOT IN (SELECT ino FROM inode) AND was NOT IN (SELECT ino FROM alias)').all() as { was: number }[]) {
    found.push(`inode ${r.was}, which has lost its last name within the retention, is gone`)
  }
  const past = new Past({ tree, history, engine: metadata.engine, nowMs: () => d.clock.nowMs(), commit: () => journal.commit() })
  past.sync()
  for (const atMs of moments.filter((ms) => ms >= history.fromMs)) found.push(...told(d, past, atMs))
  return found
}

function wrongRefs({ s: { db } }: SimDevice): string[] {
  const held = new Map<number, number>()
  const hold = (chunk: number) => held.set(chunk, (held.get(chunk) ?? 0) + 1)
  for (const { chunk } of db.sql.prepare('SELECT chunk FROM extent UNION ALL SELECT chunk FROM history_extent WHERE len > 0').all() as { chunk: number }[]) hold(chunk)
  for (const { undo } of db.sql.prepare('SELECT undo FROM placed').all() as { undo: Buffer }[]) {
    for (const record of decodeUndo(undo)) for (const im of record) if (im.t === 'extent' && im.old) hold(im.old.chunk)
  }
  const rows = db.sql.prepare('SELECT num, refs FROM chunk').all() as { num: number; refs: number }[]
  return rows.filter((r) => r.refs !== (held.get(r.num) ?? 0)).map((r) => `chunk ${r.num} counts ${r.refs} references and has ${held.get(r.num) ?? 0}`)
}

/** The whole tree as it was. */
function told(d: SimDevice, past: Past, atMs: number): string[] {
  const { tree } = d.s.metadata
  const found: string[] = []
  const seen = new Set<number>()
  const walk = (dir: number): void => {
    if (seen.has(dir)) return
    seen.add(dir)
    for (const n of past.list(dir, atMs)) {
      const inode = tree.get(n.ino)
      if (!inode) found.push(`${tree.openName(n.key, n.name)} was inode ${n.ino} at ${atMs}, which is gone`)
      else if (inode.isDir) walk(inode.ino)
      else if (inode.isFile && !past.content(inode.ino, atMs)) found.push(`what ${tree.openName(n.key, n.name)} held at ${atMs} can not be told: ${JSON.stringify(past.contentsOf(inode.ino).map((s) => [s.tMs, s.version, s.after]))}, ${inode.version}`)
    }
  }
  walk(ROOT_INO)
  return found
}
