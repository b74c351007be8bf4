/**
 * Where every chunk of the drive is, and who needs it. A device needs what its
 * chunk table counts references to (files, open ones that were removed, the
 * history that is kept, what may be taken back) and what a flush under way is about to name.
 *
 * Looked at whenever a chunk goes from a device, and on the medium whenever a
 * device has another index there: if power were cut everywhere at any moment,
 * whatever somebody needs would be found somewhere, where an index says that it is.
 */
import type { Image, SimDisk } from './disk.js'
import type { SimDevice } from './device.js'
import type { SimKeeper } from './keeper.js'
import { SimSegments } from './segments.js'
import type { World } from './world.js'
import { INO_HIGH } from '../../../lib/log/ops.js'
import { ELSEWHERE } from '../../../lib/store/chunks.js'
import { decodeUndo } from '../../../lib/tree/undo.js'

type Node = SimDevice | SimKeeper
/** An entry whose place may change. */
interface Placed { inc: number; seq: number; first: number; count: number }

export class Ledger {
  readonly #world: World
  /** Ids of chunks that went during the present event. */
  #gone = new Map<string, { id: Buffer; by: string }>()
  /** What was is needed for so long. */
  retentionMs = 0

  constructor(world: World) {
    this.#world = world
    world.onEvent = () => this.#look()
  }

  get #nodes(): Node[] { return [...this.#world.devices, ...this.#world.keepers] }

  /** Before it is on for the first time. */
  add(node: Node): void {
    node.disk.onImage = (before) => this.#imaged(node, before)
  }

  /** Each time it is on. */
  watch(node: Node): void {
    const { chunks } = node.live!
    const went = (num: number, what: string) => {
      const row = chunks.get(num)
      if (!row || row.seg < 0) return
      this.#world.count(what)
      const { id } = chunks.identity(num)!
      if (this.#world.isVerbose) this.#world.trace(`${node.name}: ${what} ${id.toString('hex', 0, 4)}`)
      this.#gone.set(id.toString('latin1'), { id, by: node.name })
    }
    if (node.live!.store instanceof SimSegments) node.live!.store.onRemove = (segment) => this.#removed(node, segment)
    const move = chunks.move.bind(chunks)
    chunks.move = (num, seg, off) => {
      if (seg === ELSEWHERE) went(num, 'chunk let go')
      move(num, seg, off)
    }
    const remove = chunks.remove.bind(chunks)
    chunks.remove = (num) => {
      went(num, this.#world.keepers.includes(node as SimKeeper) ? 'chunk released' : 'chunk dropped')
      remove(num)
    }
  }

  /** A device has open what was removed for good, and never had all of it. Whether that had to come in time. */
  openLost: (d: SimDevice, ino: number) => boolean = () => false

  // --- at this moment -------------------------------------------------------

  #look(): void {
    if (this.#gone.size === 0) return
    const gone = this.#gone
    this.#gone = new Map()
    for (const { id, by } of gone.values()) {
      if (this.isSomewhere(id)) continue
      for (const d of this.#world.honest) {
        const why = this.needs(d, id)
        if (why) return this.#world.fail(`${by} lets go of the last copy of chunk ${id.toString('hex', 0, 4)}, which ${d.name} needs: ${why}`)
      }
    }
  }

  /** Whether anybody has it. */
  isSomewhere(id: Buffer): boolean { return this.#nodes.some((n) => this.#has(n, id)) }

  #has(node: Node, id: Buffer): boolean {
    const { live, disk } = node
    if (!live) return disk.image?.chunks?.here.has(id.toString('latin1')) ?? false
    const num = live.chunks.findById(id)
    const row = num > 0 ? live.chunks.get(num) : undefined
    return row !== undefined && (row.seg === 0 || (row.seg > 0 && live.store.at(row.seg, row.off) !== undefined))
  }

  /** What for; '': it does not. */
  needs(d: SimDevice, id: Buffer): string {
    const { live, disk } = d
    if (!live) return this.#isKept(disk.image?.chunks?.needed.get(id.toString('latin1'))) ? 'on its disk' : ''
    const num = live.chunks.findById(id)
    if (num === 0) return ''
    if (live.drive!.flusher.pinned.get(num)) return 'a flush names it'
    if (live.chunks.identity(num)!.refs <= 0) return ''
    const { db: { sql }, metadata: { tree }, drive } = live
    tree.rows.flush()
    for (const { ino, nlink, op } of sql.prepare('SELECT DISTINCT i.ino, i.nlink, o.op FROM extent e JOIN inode i ON i.ino = e.ino LEFT JOIN orphan o ON o.ino = i.ino WHERE e.chunk = ?').all(num) as { ino: number; nlink: number; op: number | null }[]) {
      if (nlink > 0) return `inode ${ino} has a part of it`
      if ((drive!.files.find(ino)?.opens ?? 0) > 0 && this.openLost(d, ino)) return `inode ${ino} is open`
      const gone = sql.prepare('SELECT max(t) FROM history WHERE was = ? AND gone = 1').pluck().get(ino) as number | null
      if (this.#isKept(gone ?? undefined)) return `inode ${ino} was removed within the retention`
      if (op && this.#mayBeUndone(d, op)) return `inode ${ino} may come back`
    }
    const was = sql.prepare('SELECT max(h.t) FROM history_extent x JOIN history h ON h.n = x.n WHERE x.len > 0 AND x.chunk = ?').pluck().get(num) as number | null
    if (this.#isKept(was ?? undefined)) return 'a file had a part of it within the retention'
    const records = sql.prepare('SELECT inc, seq, first, count, undo FROM placed').all() as (Placed & { undo: Buffer })[]
    // What was written over in a file that is gone for good is written over again at once.
    const isGone = (ino: number) => {
      const op = sql.prepare('SELECT op FROM orphan WHERE ino = ?').pluck().get(ino) as number | undefined
      return op !== undefined && op > 0 && !this.#mayBeUndone(d, op)
    }
    const undone = records.filter((r) => decodeUndo(r.undo).some((record) => record.some((im) => im.t === 'extent' && im.old?.chunk === num && !isGone(im.ino))))
    return this.#mayComeBack(d, (e) => undone.some((u) => u.inc === e.inc && u.seq === e.seq)) ? 'it may come back by undoing' : ''
  }

  #mayBeUndone(d: SimDevice, op: number): boolean {
    return this.#mayComeBack(d, (e) => e.inc === Math.floor(op / INO_HIGH) && op % INO_HIGH >= e.first && op % INO_HIGH < e.first + e.count)
  }

  /** `untilMs`: when it was replaced or removed; Infinity: it was not. */
  #isKept(untilMs: number | undefined): boolean { return untilMs !== undefined && untilMs > this.#world.wallMs - this.retentionMs }

  /** Whether one of these entries can be taken back yet: what is final to anybody is so for all. */
  #mayComeBack(d: SimDevice, isOne: (e: Placed) => boolean): boolean {
    const { log, engine } = d.s.metadata
    return engine.timeline.tail.filter(isOne).some(({ inc, seq }) => !this.#world.honest.some((o) => {
      const at = o.live?.metadata.log.find(log.incarnationId(inc)) ?? -1
      return at >= 0 && o.live!.metadata.engine.finalSeq(at) >= seq
    }))
  }

  // --- on the medium --------------------------------------------------------

  #imaged(node: Node, before: Image | undefined): void {
    const now = node.disk.image?.chunks
    if (!now) return
    for (const [id, { seg, off }] of now.here) {
      const was = before?.chunks?.here.get(id)
      if (seg === 0 || (was?.seg === seg && was.off === off)) continue
      if (!this.#isDurable(node.disk, seg, off)) return this.#world.fail(`the index of ${node.name} has chunk ${hex(id)} where it is not`)
    }
    for (const id of before?.chunks?.here.keys() ?? []) if (!now.here.has(id)) this.#find(id, node)
    if (!this.#world.keepers.includes(node as SimKeeper)) for (const id of now.needed.keys()) if (!before?.chunks?.needed.has(id)) this.#find(id, node)
  }

  #isDurable(disk: SimDisk, seg: number, off: number): boolean { return disk.chunks.get(`${seg}:${off}`)?.isDurable ?? false }

  #find(id: string, by: Node): void {
    if (this.#nodes.some((n) => n.disk.image?.chunks?.here.has(id))) return
    const needing = this.#world.honest.find((d) => this.#isKept(d.disk.image?.chunks?.needed.get(id)))
    if (needing) this.#world.fail(`chunk ${hex(id)} is on no disk, since ${by.name} has made its index durable, and ${needing.name} needs it`)
  }

  /** Segments go after the index that does not name them any more. */
  #removed(node: Node, segment: number): void {
    for (const [id, at] of node.disk.image?.chunks?.here ?? []) {
      if (at.seg === segment) this.#world.fail(`${node.name} removes a segment in which its index on the disk has chunk ${hex(id)}`)
    }
  }
}

function hex(id: string): string { return Buffer.from(id, 'latin1').toString('hex', 0, 4) }
