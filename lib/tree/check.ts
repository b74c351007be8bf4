/**
 * The tree's invariants as queries over its rows (flushed before). Each finding
 * names what is wrong; `mend` brings counts back in line with the rows that they
 * count, which is all that can be mended without another copy.
 */
import type { Database } from '../store/database.js'
import { ROOT_INO } from './inode.js'

export interface Finding {
  kind: 'nlink' | 'orphan' | 'cycle' | 'refs' | 'extent' | 'index' | 'chunk-missing' | 'history'
  detail: string
  /** The inode that it concerns; 0: none. */
  ino: number
  mend?: () => void
}

const DIR = '(mode & 0xf000) = 0x4000'

/** At most so many findings of one kind: a damaged index would give millions. */
const LIMIT = 1000

export function checkTree(db: Database): Finding[] {
  const out: Finding[] = []
  const rows = (text: string) => db.sql.prepare(`${text} LIMIT ${LIMIT}`).all() as Record<string, number>[]
  const run = (text: string, ...args: number[]) => () => { db.sql.prepare(text).run(...args) }

  for (const r of rows('SELECT d.parent, d.ino FROM dentry d LEFT JOIN inode i ON i.ino = d.ino WHERE i.ino IS NULL')) {
    out.push({ kind: 'index', ino: r['parent']!, detail: `a name points to inode ${r['ino']}, which does not exist` })
  }
  for (const r of rows(`SELECT DISTINCT d.parent FROM dentry d LEFT JOIN inode i ON i.ino = d.parent WHERE i.ino IS NULL OR NOT ${DIR}`)) {
    out.push({ kind: 'index', ino: 0, detail: `there are names under inode ${r['parent']}, which is not a directory` })
  }
  for (const r of rows(`SELECT i.ino, i.nlink, count(d.ino) AS n FROM inode i LEFT JOIN dentry d ON d.ino = i.ino WHERE NOT ${DIR} GROUP BY i.ino HAVING i.nlink != n`)) {
    out.push({
      kind: 'nlink', ino: r['ino']!, detail: `inode ${r['ino']} counts ${r['nlink']} names and has ${r['n']}`,
      mend: run('UPDATE inode SET nlink = ? WHERE ino = ?', r['n']!, r['ino']!),
    })
  }
  for (const r of rows(`SELECT i.ino, i.nlink, (SELECT count(*) FROM dentry d JOIN inode c ON c.ino = d.ino WHERE d.parent = i.ino AND (c.mode & 0xf000) = 0x4000) + 2 AS n
      FROM inode i WHERE ${DIR} AND i.nlink != 0 AND i.nlink != n`)) {
    out.push({
      kind: 'nlink', ino: r['ino']!, detail: `directory ${r['ino']} counts ${r['nlink']} links and has ${r['n']}`,
      mend: run('UPDATE inode SET nlink = ? WHERE ino = ?', r['n']!, r['ino']!),
    })
  }
  for (const r of rows(`SELECT i.ino, count(d.ino) AS n, max(d.parent = i.parent) AS same FROM inode i LEFT JOIN dentry d ON d.ino = i.ino
      WHERE ${DIR} AND i.ino != ${ROOT_INO} AND i.nlink != 0 GROUP BY i.ino HAVING n != 1 OR same != 1`)) {
    out.push({ kind: 'index', ino: r['ino']!, detail: `directory ${r['ino']} has ${r['n']} names or another parent than it says` })
  }
  for (const r of rows('SELECT i.ino FROM inode i LEFT JOIN orphan o ON o.ino = i.ino WHERE i.nlink = 0 AND o.ino IS NULL')) {
    out.push({
      kind: 'orphan', ino: r['ino']!, detail: `inode ${r['ino']} has no name and is not listed for removal`,
      mend: run("INSERT OR IGNORE INTO orphan VALUES (?, 0, x'', x'', 0)", r['ino']!),
    })
  }
  out.push(...cycles(db))
  for (const r of rows('SELECT e.ino, e.off, e.chunk FROM extent e LEFT JOIN chunk c ON c.num = e.chunk WHERE c.num IS NULL')) {
    out.push({ kind: 'chunk-missing', ino: r['ino']!, detail: `the extent at ${r['off']} names chunk ${r['chunk']}, which does not exist` })
  }
  for (const r of rows('SELECT e.ino, e.off FROM extent e JOIN chunk c ON c.num = e.chunk WHERE e.len < 1 OR e.coff < 0 OR e.coff + e.len > c.len')) {
    out.push({ kind: 'extent', ino: r['ino']!, detail: `the extent at ${r['off']} reaches outside its chunk` })
  }
  for (const r of rows('SELECT ino, off FROM (SELECT ino, off, lead(off) OVER (PARTITION BY ino ORDER BY off) AS next, len FROM extent) WHERE off + len > next')) {
    out.push({ kind: 'extent', ino: r['ino']!, detail: `the extent at ${r['off']} overlaps the next` })
  }
  for (const r of rows('SELECT e.ino, max(e.off + e.len) AS reach, i.size, sum(e.len) AS n, i.bytes FROM extent e LEFT JOIN inode i ON i.ino = e.ino GROUP BY e.ino HAVING i.ino IS NULL OR reach > i.size OR n != i.bytes')) {
    if (r['size'] === null || r['reach']! > r['size']!) {
      out.push({ kind: 'extent', ino: r['ino']!, detail: `extents of inode ${r['ino']} reach past its size` })
    } else {
      out.push({
        kind: 'extent', ino: r['ino']!, detail: `inode ${r['ino']} counts ${r['bytes']} bytes and has ${r['n']}`,
        mend: run('UPDATE inode SET bytes = ? WHERE ino = ?', r['n']!, r['ino']!),
      })
    }
  }
  for (const r of rows('SELECT h.n, h.off, h.chunk, s.ino FROM history_extent h LEFT JOIN history s ON s.n = h.n LEFT JOIN chunk c ON c.num = h.chunk WHERE s.n IS NULL OR (h.len > 0 AND c.num IS NULL)')) {
    out.push({ kind: 'history', ino: r['ino'] ?? 0, detail: `what was at ${r['off']} before step ${r['n']} of the history is of chunk ${r['chunk']}, and the one or the other does not exist` })
  }
  for (const r of rows('SELECT h.n, h.off, s.ino FROM history_extent h JOIN history s ON s.n = h.n JOIN chunk c ON c.num = h.chunk WHERE h.len > 0 AND (h.coff < 0 OR h.coff + h.len > c.len)')) {
    out.push({ kind: 'history', ino: r['ino']!, detail: `what was at ${r['off']} before step ${r['n']} of the history reaches outside its chunk` })
  }
  // Undo records refer to chunks too.
  const named = 'SELECT chunk FROM extent UNION ALL SELECT chunk FROM history_extent WHERE len > 0'
  for (const r of rows(`SELECT c.num, c.refs, count(e.chunk) AS n FROM chunk c LEFT JOIN (${named}) e ON e.chunk = c.num GROUP BY c.num HAVING c.refs < n OR (c.refs > n AND NOT EXISTS (SELECT 1 FROM placed))`)) {
    out.push({
      kind: 'refs', ino: 0, detail: `chunk ${r['num']} counts ${r['refs']} references and has ${r['n']}`,
      mend: run('UPDATE chunk SET refs = ? WHERE num = ?', r['n']!, r['num']!),
    })
  }
  for (const r of rows('SELECT c.num FROM chunk c LEFT JOIN chunk_inline i ON i.num = c.num WHERE c.seg = 0 AND i.num IS NULL')) {
    out.push({ kind: 'chunk-missing', ino: 0, detail: `chunk ${r['num']} should be in the index and is not` })
  }
  return out
}

/** Directories that do not lead to the root. */
function cycles(db: Database): Finding[] {
  const parents = new Map<number, number>()
  for (const [ino, parent] of db.sql.prepare(`SELECT ino, parent FROM inode WHERE ${DIR} AND nlink != 0`).raw(true).iterate() as Iterable<[number, number]>) {
    parents.set(ino, parent)
  }
  const good = new Set<number>([ROOT_INO])
  const bad = new Set<number>()
  for (const start of parents.keys()) {
    const path: number[] = []
    const seen = new Set<number>()
    let at: number | undefined = start
    while (at !== undefined && !good.has(at) && !bad.has(at) && !seen.has(at)) {
      seen.add(at)
      path.push(at)
      at = parents.get(at)
    }
    const ok = at !== undefined && good.has(at)
    for (const ino of path) (ok ? good : bad).add(ino)
  }
  return [...bad].slice(0, LIMIT).map((ino) => ({ kind: 'cycle', ino, detail: `directory ${ino} does not lead to the root` }))
}
