/**
 * What merging has put aside (tree/merge.ts): listing it, and choosing. A choice
 * is made of ordinary removals and renames, so that it travels and merges as
 * those do; a file that a device renames is no conflict any more, on all of them.
 */
import type { Conflict, ConflictSide, Keep } from './api.js'
import { fail } from './errors.js'
import { encodeZ32 } from './keys/zbase32.js'
import type { Log } from './log/log.js'
import type { PathApi } from './paths.js'
import { beside, text, typeOf } from './paths.js'
import { INO_HIGH, ROOT_INO, type Inode } from './tree/inode.js'
import type { Tree } from './tree/tree.js'

/** What `dfs conflicts` shows at once; whoever has more resolves some. */
const MAX_LISTED = 100_000
/** As Merge names what it puts aside. */
const MARK = / \(conflict, [^()]*\)/

export interface ConflictParts {
  tree: Tree
  log: Log
  device: { publicKey: Buffer }
}

/** By path of what was put aside. */
export function listConflicts(p: ConflictParts): Conflict[] {
  const { rows } = p.tree
  const out: Conflict[] = []
  for (const [ino, { of }] of rows.conflicts) {
    if (out.length >= MAX_LISTED) break
    const aside = rows.get(ino)
    const side = aside && sideOf(p, aside)
    // A copy in a directory that is gone, until that is final.
    if (!side) continue
    const plain = rows.get(of)
    out.push({ aside: side, plain: (plain && sideOf(p, plain)) ?? null })
  }
  return out.sort((a, b) => Buffer.compare(a.aside.path, b.aside.path))
}

function sideOf(p: ConflictParts, inode: Inode): ConflictSide | undefined {
  const { rows } = p.tree
  const path = inode.nlink > 0 ? pathOf(p.tree, inode) : undefined
  if (!path) return undefined
  const inc = Math.floor((inode.version || inode.ino) / INO_HIGH)
  const device = inc > 0 ? p.log.deviceOf(inc) : undefined
  return {
    path, type: typeOf(inode.mode), size: inode.size, mtimeMs: inode.mtime * 1000 + inode.mtimeNs / 1e6,
    device: device ? encodeZ32(device) : null, deviceName: rows.author(inc), isThisDevice: device?.equals(p.device.publicKey) ?? false,
  }
}

/** One of its paths; undefined if there is none. */
export function pathOf(tree: Tree, inode: Inode): Buffer | undefined {
  const parts: Buffer[] = []
  for (let at = inode; at.ino !== ROOT_INO;) {
    const place = tree.rows.findName(at.parent, at.ino)
    const parent = place && tree.rows.get(place.parent)
    if (!place || !parent || parts.length > MAX_DEPTH) return undefined
    parts.unshift(Buffer.from('/'), tree.openName(place.key, place.name))
    at = parent
  }
  return Buffer.concat(parts)
}

/** Names of one byte in the longest path (PATH_MAX), and then some. */
const MAX_DEPTH = 2 * 8192

/**
 * `path` is either side. 'mine' is the version that this device wrote; where that does not tell them apart (both or
 * neither are its own), the one at the plain name. Gives the paths that are left.
 * ENOENT: no conflict is there, or its other side is gone; EEXIST: several versions stand aside, and one has to be named;
 * EISDIR: a directory would have to go.
 */
export async function resolveConflict(api: PathApi, p: ConflictParts, path: Buffer, keep: Keep): Promise<Buffer[]> {
  const all = listConflicts(p)
  const wanted = normal(path)
  const asAside = all.filter((c) => c.aside.path.equals(wanted))
  const chosen = asAside.length > 0 ? asAside : all.filter((c) => c.plain?.path.equals(wanted))
  if (chosen.length === 0) throw fail('ENOENT', `${text(path)} is no side of a conflict; dfs conflicts lists them`)
  if (keep === 'both') {
    const left: Buffer[] = []
    for (const c of chosen) left.push(await keepBoth(api, c))
    return chosen[0]!.plain ? [chosen[0]!.plain.path, ...left] : left
  }
  for (const c of chosen) {
    if (!c.plain) throw fail('ENOENT', `what ${text(c.aside.path)} conflicts with is gone; keep it with --keep both, or remove it`)
    if (!keepsAside(c, keep)) {
      if (c.aside.type === 'directory') throw fail('EISDIR', `${text(c.aside.path)} is a directory, which is not removed as a whole; use --keep both, and move or remove what is in it`)
      continue
    }
    if (chosen.length > 1) throw fail('EEXIST', `several versions stand beside ${text(path)}; name the one to keep: ${chosen.map((o) => text(o.aside.path)).join(', ')}`)
    if (c.plain.type === 'directory' || c.aside.type === 'directory') throw fail('EISDIR', `a directory is not replaced as a whole; use --keep both, and move or remove what is in it`)
  }
  for (const c of chosen) {
    if (keepsAside(c, keep)) await api.rename(c.aside.path, c.plain!.path)
    else await api.rm(c.aside.path)
  }
  return [chosen[0]!.plain!.path]
}

function keepsAside({ aside, plain }: Conflict, keep: 'mine' | 'theirs'): boolean {
  const isAsideMine = aside.isThisDevice && !plain!.isThisDevice
  return (keep === 'mine') === isAsideMine
}

/** Gives what stands aside a name like any other: the plain one if that is free, else `name (2).ext`. */
async function keepBoth(api: PathApi, { aside }: Conflict): Promise<Buffer> {
  const slash = aside.path.lastIndexOf(47)
  const plain = aside.path.subarray(slash + 1).toString('latin1').replace(MARK, '')
  const dot = plain.lastIndexOf('.')
  const [stem, ext] = dot > 0 && plain.length - dot <= 32 ? [plain.slice(0, dot), plain.slice(dot)] : [plain, '']
  for (let n = 1; ; n++) {
    const name = Buffer.from(n === 1 ? plain : `${stem} (${n})${ext}`, 'latin1')
    const to = beside(aside.path, name)
    if (await api.lstat(to).then(() => true, () => false)) continue
    await api.rename(aside.path, to)
    return to
  }
}

function normal(path: Buffer): Buffer {
  const parts = path.toString('latin1').split('/').filter((part) => part !== '' && part !== '.')
  return Buffer.from(`/${parts.join('/')}`, 'latin1')
}
