/**
 * `dfs log`: what happened to a file, or to the names in a directory, within the
 * retention. Told from the steps that are kept (tree/past.ts).
 */
import type { VersionEvent, VersionLog } from './api.js'
import { pathOf } from './conflicts.js'
import { fail } from './errors.js'
import { encodeZ32 } from './keys/zbase32.js'
import type { Log } from './log/log.js'
import { split, text, typeOf } from './paths.js'
import type { History } from './tree/history.js'
import { INO_HIGH, ROOT_INO, type Inode } from './tree/inode.js'
import type { Past } from './tree/past.js'
import type { NameStep } from './tree/steps.js'
import type { Tree } from './tree/tree.js'

export interface VersionParts {
  tree: Tree
  log: Log
  device: { publicKey: Buffer }
  history: History
  past: Past
}

/** A file that was renamed more often than this is not followed further. */
const MAX_RENAMES = 100
const DEFAULT_LIMIT = 1000

/** A place for a name: there, or there once. */
interface Spot { dir: number; key: Buffer; path: Buffer }
type Event = Omit<VersionEvent, 'device' | 'deviceName' | 'isThisDevice'> & { op: number }

/** The last first. ENOENT if nothing is known of such a path. */
export function listVersions(p: VersionParts, path: Buffer, limit = DEFAULT_LIMIT): VersionLog {
  const { history } = p
  const events: Event[] = []
  let dir = ROOT_INO
  let spot: Spot | undefined
  for (const name of split(path)) {
    const key = p.tree.keyOf(dir, name)
    const at: Buffer = Buffer.concat([spot?.path ?? EMPTY, SLASH, name])
    const ino: number = key ? lastUnder(p, dir, key) : 0
    if (ino === 0) throw fail('ENOENT', `${text(path)}: there is no such file or directory, and nothing is known of one${history.fromMs === Infinity ? ', for nothing is kept; dfs config set retention 30d' : ''}`)
    spot = { dir, key: Buffer.from(key!), path: at }
    dir = ino
  }
  if (spot) placeEvents(p, spot, events)
  if (p.tree.get(dir)?.isDir) directoryEvents(p, dir, spot?.path ?? EMPTY, events)
  const sorted = events.map((e, i) => ({ e, i })).sort((a, b) => b.e.timeMs - a.e.timeMs || inMoment(b.e, a.e) || b.i - a.i).slice(0, limit)
  return { fromMs: history.fromMs === Infinity ? null : history.fromMs, retentionMs: history.retentionMs(), events: sorted.map(({ e }) => signed(p, e)) }
}

/** Those of one device in one moment, in their order. */
function inMoment(a: Event, b: Event): number { return Math.floor(a.op / INO_HIGH) === Math.floor(b.op / INO_HIGH) ? a.op - b.op : 0 }

function signed(p: VersionParts, { op, ...e }: Event): VersionEvent {
  const inc = Math.floor(op / INO_HIGH)
  const device = inc > 0 ? p.log.deviceOf(inc) : undefined
  return { ...e, device: device ? encodeZ32(device) : null, deviceName: p.tree.rows.author(inc), isThisDevice: device?.equals(p.device.publicKey) ?? false }
}

/** What is under a name, or was last. */
function lastUnder({ tree, past }: VersionParts, dir: number, key: Buffer): number {
  const now = tree.rows.dentry(dir, key)
  if (now !== 0) return tree.rows.resolve(now)
  const last = past.namesOf(dir).filter((s) => s.key.equals(key) && s.was !== 0).pop()
  return last ? tree.rows.resolve(last.was) : 0
}

/** All that stood under one name: each with what was written to it, and where it came from. */
function placeEvents(p: VersionParts, spot: Spot, out: Event[]): void {
  const { tree, past } = p
  const names = past.namesOf(spot.dir).filter((s) => s.key.equals(spot.key))
  const now = tree.rows.dentry(spot.dir, spot.key)
  const until = new Map<number, number>()
  for (const s of names) if (s.was !== 0) until.set(tree.rows.resolve(s.was), s.tMs)
  if (now !== 0) until.set(tree.rows.resolve(now), Infinity)
  for (const [ino, end] of until) {
    const inode = tree.get(ino)
    if (!inode) continue
    birthEvent(p, inode, spot.path, out)
    if (inode.isFile) contentEvents(p, inode, end, spot.path, out)
  }
  names.forEach((s, i) => nameEvents(p, spot, s, names[i + 1]?.was ?? now, out))
}

function birthEvent({ past }: VersionParts, inode: Inode, path: Buffer, out: Event[]): void {
  const birth = past.birthOf(inode.ino)
  if (!birth) return
  const size = inode.isFile ? past.contentsOf(inode.ino)[0]?.size ?? inode.size : null
  out.push({ timeMs: birth.tMs, what: birth.how === 'other' ? 'aside' : 'created', path, from: null, type: typeOf(inode.mode), size, op: birth.op })
}

function contentEvents({ past }: VersionParts, inode: Inode, end: number, path: Buffer, out: Event[]): void {
  const contents = past.contentsOf(inode.ino)
  contents.forEach((s, i) => {
    if (s.tMs <= end) out.push({ timeMs: s.tMs, what: 'written', path, from: null, type: 'file', size: contents[i + 1]?.size ?? inode.size, op: s.op })
  })
}

/** What a step did to a name: what it stood for went away, or came. `next`: what it stood for later. `follows`: renames before are told, too. */
function nameEvents(p: VersionParts, spot: Spot, s: NameStep, next: number, out: Event[], follows = true): void {
  const { tree, past } = p
  const others = past.siblings(s)
  const what = (ino: number) => tree.get(tree.rows.resolve(ino))
  const event = (ino: number, kind: VersionEvent['what'], path: Buffer, from: Buffer | null) => {
    const inode = what(ino)
    out.push({ timeMs: s.tMs, what: kind, path, from, type: inode ? typeOf(inode.mode) : 'file', size: inode?.isFile ? sizeAt(p, inode, s.tMs) : null, op: s.op })
  }
  // Whence it came, and where that went which was here.
  const came = others.find((o) => o.was !== 0 && o.was !== s.was && (s.was === 0 || s.isGone || next === o.was))
  const went = s.was !== 0 && !s.isGone ? others.find((o) => o !== came && (o.was === 0 || o.isGone)) ?? (came && next === came.was && !came.isGone ? came : undefined) : undefined
  if (went) event(s.was, 'renamed', pathAt(p, spot, went), spot.path)
  else if (s.was !== 0 && !came) event(s.was, 'deleted', spot.path, null)
  if (s.how === 'rename' && came) {
    event(came.was, 'renamed', spot.path, pathAt(p, spot, came))
    if (follows) formerNames(p, spot, came, out)
  } else if (s.was === 0 && next !== 0 && s.how === 'link') event(next, 'linked', spot.path, null)
  else if (s.was === 0 && next !== 0 && s.how === 'other') event(next, 'aside', spot.path, null)
}

/** The renames before: how that came to `step.ino` which left it by `step`. */
function formerNames(p: VersionParts, spot: Spot, step: NameStep, out: Event[]): void {
  for (let at: NameStep | undefined = step, n = 0; at && n < MAX_RENAMES; n++) {
    const ino: number = at.was
    const here: NameStep[] = p.past.namesOf(at.ino).filter((s) => s.key.equals(at!.key))
    const before: NameStep | undefined = here[here.findIndex((s) => s.op === at!.op) - 1]
    const came: NameStep | undefined = before?.how === 'rename' ? p.past.siblings(before).find((o) => o.was === ino) : undefined
    if (came) {
      const inode = p.tree.get(p.tree.rows.resolve(ino))
      out.push({ timeMs: before!.tMs, what: 'renamed', path: pathAt(p, spot, at), from: pathAt(p, spot, came), type: inode ? typeOf(inode.mode) : 'file', size: inode?.isFile ? sizeAt(p, inode, before!.tMs) : null, op: before!.op })
    }
    at = came
  }
}

function sizeAt({ past }: VersionParts, inode: Inode, atMs: number): number {
  return past.contentsOf(inode.ino).find((s) => s.tMs > atMs)?.size ?? inode.size
}

/** The path of the name that a step changed; its directory where that is now. */
function pathAt(p: VersionParts, spot: Spot, s: NameStep): Buffer {
  const name = nameOf(p, s)
  if (s.ino === spot.dir) return Buffer.concat([spot.path.subarray(0, spot.path.lastIndexOf(47) + 1), name])
  const dir = p.tree.get(s.ino)
  const above = dir && dir.nlink > 0 ? pathOf(p.tree, dir) : undefined
  return Buffer.concat([above ?? Buffer.from('...'), SLASH, name])
}

/** Of one that stood for nothing the name is with whatever it stood for next. */
function nameOf({ tree, past }: VersionParts, s: NameStep): Buffer {
  const sealed = s.name.length > 0 ? s.name : past.namesOf(s.ino).find((o) => o.key.equals(s.key) && o.name.length > 0)?.name ?? tree.rows.named(s.ino, s.key)?.name
  return sealed ? tree.openName(s.key, sealed) : Buffer.from('?')
}

/** What was made in a directory, came into it, and left it. */
function directoryEvents(p: VersionParts, dir: number, path: Buffer, out: Event[]): void {
  const { tree, past } = p
  const names = new Map<string, NameStep[]>()
  for (const s of past.namesOf(dir)) {
    const k = s.key.toString('latin1')
    const known = names.get(k)
    if (known) known.push(s)
    else names.set(k, [s])
  }
  const inside = (name: Buffer) => Buffer.concat([path, SLASH, name])
  const made = (ino: number, last: NameStep | undefined, name: Buffer) => {
    const inode = last && hasCome(last) ? undefined : tree.get(ino)
    if (inode) birthEvent(p, inode, inside(name), out)
  }
  for (const steps of names.values()) {
    const key = steps[0]!.key
    const now = tree.rows.dentry(dir, key)
    const spot = { dir, key, path: inside(nameOf(p, steps[0]!)) }
    steps.forEach((s, i) => {
      // A move within the directory is told of where it ended.
      const events: Event[] = []
      nameEvents(p, spot, s, steps[i + 1]?.was ?? now, events, false)
      out.push(...events.filter((e) => e.what !== 'renamed' || e.path.equals(spot.path) || !past.siblings(s).some((o) => o.ino === dir)))
      if (s.was !== 0) made(s.was, steps[i - 1], nameOf(p, s))
    })
  }
  tree.list(tree.get(dir)!, 0, (name, ino) => {
    made(ino, names.get(tree.keyOf(dir, name)!.toString('latin1'))?.at(-1), name)
    return true
  })
}

/** Whether a name stands, after a step, for what came there, and was not made there later. */
function hasCome(s: NameStep): boolean { return s.was === 0 || (s.isGone && s.how === 'rename') }

const SLASH = Buffer.from('/')
const EMPTY = Buffer.alloc(0)
