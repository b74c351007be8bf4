/** The tree by its names, as text, now and as it was: for properties of what is kept. */
import { ROOT_INO } from '../../lib/tree/inode.js'
import type { Past } from '../../lib/tree/past.js'
import type { Extent } from '../../lib/tree/rows.js'
import type { TestDevice } from './device.js'

/** Of each path what is there: for a file its size, time, and what each range of it holds. */
export function shownNow(d: TestDevice): string {
  d.commit()
  d.t.rows.flush()
  return walk(d, (dir) => {
    const out: [Buffer, number][] = []
    d.t.tree.list(d.t.tree.get(dir)!, 0, (name, ino) => out.push([name, ino]) > 0)
    return out
  }, (ino) => {
    const i = d.t.tree.get(ino)!
    return { size: i.size, mtime: { sec: i.mtime, nsec: i.mtimeNs }, extents: d.t.rows.allExtents(ino) }
  })
}

/** The same at the end of a millisecond. */
export function shownThen(d: TestDevice, past: Past, atMs: number): string {
  return walk(d, (dir) => past.list(dir, atMs).map((n) => {
    const looked = past.lookup(dir, n.key, atMs)
    if (looked !== n.ino) throw new Error(`a name that lists as ${n.ino} is ${looked}`)
    return [d.t.tree.openName(n.key, n.name), n.ino]
  }), (ino) => past.content(ino, atMs))
}

function walk(d: TestDevice, list: (dir: number) => [Buffer, number][], content: (ino: number) => { size: number; mtime: { sec: number; nsec: number }; extents: Extent[] } | undefined): string {
  const out: string[] = []
  const go = (dir: number, path: string): void => {
    for (const [name, ino] of list(dir)) {
      const inode = d.t.tree.get(ino)
      const at = `${path}/${name}`
      if (!inode) out.push(`${at} is not there`)
      else if (inode.isDir) {
        out.push(`${at} d`)
        go(inode.ino, at)
      } else if (inode.isFile) {
        const c = content(ino)
        out.push(`${at} f ${c ? `${c.size} ${bytesOf(d, c.extents)}` : 'unknown'}`)
      } else out.push(`${at} l`)
    }
  }
  go(ROOT_INO, '')
  return out.sort().join('\n')
}

/** Whatever rows it is cut into. */
function bytesOf(d: TestDevice, extents: Extent[]): string {
  const parts: { off: number; end: number; chunk: number; coff: number }[] = []
  for (const e of extents) {
    const last = parts[parts.length - 1]
    if (last && last.end === e.off && last.chunk === e.chunk && last.coff + last.end - last.off === e.coff) last.end += e.len
    else parts.push({ off: e.off, end: e.off + e.len, chunk: e.chunk, coff: e.coff })
  }
  return parts.map((p) => `${p.off}-${p.end}:${d.t.chunks.get(p.chunk)!.h.readUInt32LE(0).toString(16)}+${p.coff}`).join(' ')
}
