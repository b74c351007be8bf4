/**
 * The world of a simulation: the clock, the network, chance, and what must be
 * true. One seed decides all of it; nothing here, nor in what it drives, looks
 * at the time or at another source of chance.
 */
import blake from '@napi-rs/blake-hash'
import sodium from 'sodium-native'
import type { Timers } from '../../../lib/clock.js'
import { DriveKeys } from '../../../lib/keys/derive.js'
import { INO_HIGH, type Op } from '../../../lib/log/ops.js'
import type { Outcome } from '../../../lib/tree/tree.js'
import type { Message } from '../../../lib/swarm/messages.js'
import { decode } from '../../../lib/swarm/wire.js'
import { SimNetwork, seeded } from '../network.js'
import './plans.js'
import { SimDevice, type SimNode } from './device.js'
import type { SimKeeper } from './keeper.js'
import type { Liar } from './liar.js'
import type { Graces } from './whole.js'

const DAY_MS = 86_400_000
/** When the world begins. */
const EPOCH_MS = Date.UTC(2024, 0, 1)
/** More events than any run should take. */
const MAX_EVENTS = 400_000

/** Something that must be true was not. */
export class Violation extends Error {}

/** A write of a program: the hash of its content, which no other has. */
interface Written { h: string; device: SimDevice; op: number; isSynced: boolean }
/** Content that an op took away from where its device saw it. */
interface Dismissed { h: string; device: SimDevice; op: number }

export class World {
  readonly seed: number
  readonly net: SimNetwork
  readonly keys = DriveKeys.fromRoot(Buffer.alloc(32, 7))
  readonly readKeys = DriveKeys.fromCapability(this.keys.capability('read-only'))
  readonly devices: SimDevice[] = []
  /** Storage-only devices. */
  readonly keepers: SimKeeper[] = []
  readonly random: () => number
  /** Devices whose messages are changed on the way out; not looked at afterwards. */
  readonly liars = new Map<SimDevice, Liar>()
  /** Devices that never come back; not looked at afterwards either, and what only they had is lost. */
  readonly gone = new Set<SimDevice>()
  isVerbose = false
  /** Programs get in each other's way more than they would. */
  isCrowded = false
  /** Chunks are on some devices, and not on all. */
  isPlaced = false
  /** What was is kept for so long. */
  retentionMs = 0
  /** Set: devices are whole drives (whole.ts), for which this is short. */
  graces: Graces | undefined
  /** Called when a device is up and holds the drive. */
  onBoot: (d: SimDevice) => void = () => {}
  onKeeperBoot: (k: SimKeeper) => void = () => {}
  /** Called after each event. */
  onEvent: () => void = () => {}
  events = 0
  counts: Record<string, number> = {}
  #warpMs = 0
  #digest = new blake.Blake3Hasher() as unknown as { update(b: Buffer | string): unknown; digestBuffer(): Buffer }
  #failure: Error | undefined
  #written: Written[] = []
  #dismissed: Dismissed[] = []
  /** Content that only a device had that was put back to a backup. */
  readonly #excused = new Set<string>()

  constructor(seed: number) {
    this.seed = seed
    this.random = seeded(seed * 2 + 1)
    const bytes = seeded(seed ^ 0x5eed)
    // Ids and nonces too.
    sodium.randombytes_buf = (out: Buffer) => { for (let i = 0; i < out.length; i++) out[i] = Math.floor(bytes() * 256) }
    const slow = this.chance(0.2)
    this.net = new SimNetwork({ seed, delayMs: slow ? [50, 800] : [1, 40], bytesPerMs: slow ? 50 : 10_000 })
  }

  // --- chance and time ----------------------------------------------------

  below(n: number): number { return Math.floor(this.random() * n) }
  between(min: number, max: number): number { return min + this.below(max - min + 1) }
  chance(p: number): boolean { return this.random() < p }
  pick<T>(list: readonly T[]): T { return list[this.below(list.length)]! }

  get wallMs(): number { return EPOCH_MS + this.net.nowMs + this.#warpMs }

  /** Nobody does anything for so long. */
  warp(days: number): void { this.#warpMs += days * DAY_MS }

  /** Those of one session: none of them fires after `stop`. */
  timers(): Timers & { stop(): void } {
    let isStopped = false
    const after = (ms: number, run: () => void) => this.net.after(ms, () => { if (!isStopped) run() })
    return {
      nowMs: () => this.net.nowMs,
      after,
      every: (ms, run) => {
        const end = this.net.every(ms, () => {
          if (isStopped) end()
          else run()
        })
        return end
      },
      soon: (run) => { after(0, run) },
      stop: () => { isStopped = true },
    }
  }

  /** Everything up to a time; what is asynchronous comes to rest after each event. */
  async run(untilMs: number, isDone: () => boolean = () => false): Promise<boolean> {
    while (this.net.step(untilMs)) {
      await new Promise((resolve) => setImmediate(resolve))
      this.onEvent()
      if (this.#failure) throw this.#failure
      if (++this.events > MAX_EVENTS) this.violated(`there is no end to it: ${this.events} events`)
      if (isDone()) return true
    }
    this.net.run(untilMs)
    return isDone()
  }

  // --- devices ------------------------------------------------------------

  add(name: string, keys = this.keys): SimDevice {
    const device = new SimDevice(this, name, keys)
    this.devices.push(device)
    return device
  }

  node(name: string): SimNode { return [...this.devices, ...this.keepers].find((d) => d.name === name)! }

  get honest(): SimDevice[] { return this.devices.filter((d) => !this.liars.has(d) && !this.gone.has(d)) }

  // --- what happens -------------------------------------------------------

  trace(text: string): void {
    const line = `${this.net.nowMs.toFixed(3)} ${text}`
    this.#digest.update(line)
    if (this.isVerbose) console.log(line)
  }

  count(what: string): void { this.counts[what] = (this.counts[what] ?? 0) + 1 }

  /** Of all that happened so far: two runs of one seed have the same. */
  digest(): string { return this.#digest.digestBuffer().toString('hex') }

  violated(what: string): never {
    throw (this.#failure ??= new Violation(`seed ${this.seed}, ${Math.round(this.net.nowMs)} ms: ${what}`))
  }

  /** The same, from where nobody would catch it: ends the run. */
  fail(what: string): void {
    this.#failure ??= new Violation(`seed ${this.seed}, ${Math.round(this.net.nowMs)} ms: ${what}`)
  }

  /** Something failed that never should. */
  broken(d: SimNode, e: Error): void {
    this.#failure ??= new Violation(`seed ${this.seed}, ${Math.round(this.net.nowMs)} ms, ${d.name}: ${e.stack ?? e.message}`)
  }

  noticed(d: SimNode, text: string): void {
    this.trace(`${d.name} notices: ${text}`)
    if (text.includes('new incarnation')) {
      this.count('renewed')
      if (d instanceof SimDevice) d.isRestored = false
    }
    if ([...this.liars.keys()].some((o) => text.includes(`the peer ${o.name} `))) this.count('liar caught')
    const isOfHonest = [...this.honest, ...this.keepers].some((o) => text.includes(`the peer ${o.name} `)) && !this.isLiar(d)
    if (isOfHonest) this.fail(`${d.name} takes an honest device for a liar: ${text}`)
  }

  isLiar(d: SimNode): boolean { return this.liars.has(d as SimDevice) }

  send(from: SimNode, to: SimNode, bytes: Buffer, priority: 'now' | 'bulk'): void {
    const m = decode(bytes)
    if (!this.isLiar(from)) this.#checkSent(from, m)
    const sent = this.liars.get(from as SimDevice)?.tamper(m, bytes) ?? [bytes]
    for (const b of sent) {
      this.trace(`${from.name} -> ${to.name} ${m.type} ${b.length}`)
      this.net.send(from.name, to.name, b, priority)
    }
    this.count(m.type)
  }

  /** What leaves a device is durable there. */
  #checkSent(from: SimNode, m: Message): void {
    const check = (incarnation: Buffer, seq: number) => {
      const durable = from.disk.image?.heads.get(incarnation.toString('hex').toUpperCase()) ?? 0
      if (seq > durable) this.fail(`${from.name} says that it has entry ${seq} of a log of which ${durable} are durable`)
    }
    if (m.type === 'have') for (const log of m.logs) check(log.incarnation, log.seq)
    if (m.type === 'entries') check(m.incarnation, m.from + m.entries.length - 1)
  }

  entryMade(_d: SimDevice, e: { count: number }): void { this.count(e.count > 0 ? 'entry' : 'statement') }

  submitted(d: SimDevice, op: Op, run: () => Outcome): Outcome {
    const inos = [...('ino' in op ? [op.ino] : []), ...(op.type === 'rename' && op.over ? [op.over] : [])]
    const before = inos.flatMap((ino) => this.#contentOf(d, ino))
    const id = d.s.metadata.journal.newOpId()
    const outcome = run()
    this.trace(`${d.name} ${describe(d, op, id)} ${outcome || 'ok'}`)
    this.count(outcome === '' ? op.type : `${op.type} refused`)
    if (outcome !== '') return outcome
    const after = new Set(inos.flatMap((ino) => this.#contentOf(d, ino)))
    // Of several names each may be taken away by another device, which leaves it one that is gone by then.
    const takesName = op.type === 'unlink' || (op.type === 'rename' && !op.exchange)
    const gone = takesName ? this.#contentOf(d, op.type === 'unlink' ? op.ino : op.over) : []
    for (const h of [...before.filter((h) => !after.has(h)), ...gone]) this.#dismissed.push({ h, device: d, op: id })
    if (op.type === 'content') for (const c of op.chunks) this.#written.push({ h: c.h.toString('hex'), device: d, op: id, isSynced: false })
    return outcome
  }

  #contentOf(d: SimDevice, ino: number): string[] {
    const { tree } = d.s.metadata
    const inode = tree.get(ino)
    if (!inode?.isFile || inode.nlink === 0) return []
    return tree.rows.allExtents(inode.ino).map((e) => d.s.chunks.identity(e.chunk)!.h.toString('hex'))
  }

  /** A program waits for its writes to be durable. */
  fsync(d: SimDevice): void {
    const at = d.s
    const upTo = at.metadata.journal.newOpId()
    d.fsync().then(() => {
      if (d.live !== at) return
      this.count('fsync')
      for (const w of this.#written) if (w.device === d && w.op < upTo && Math.floor(w.op / INO_HIGH) === Math.floor(upTo / INO_HIGH)) w.isSynced = true
    }, (e: Error) => { if (d.live === at) this.broken(d, e) })
  }

  /** It has another index, whose numbers mean something else: what it wrote must be found by its content. */
  begunAnew(d: SimDevice): void {
    this.count('begun anew')
    for (const x of [...this.#written, ...this.#dismissed]) if (x.device === d) x.op = -1
  }

  /** A device let go of a chunk: others have as many copies as there are to be, durably. */
  letGo(d: SimDevice, id: Buffer, copies: number): void {
    const others = this.honest.filter((o) => o !== d && o.live && this.#has(o, id)).length
    if (others < copies) this.fail(`${d.name} lets go of a chunk of which ${others} others have a copy, and ${copies} are wanted`)
  }

  #has(d: SimDevice, id: Buffer): boolean {
    const { chunks, store } = d.s
    const num = chunks.findById(id)
    const row = num > 0 ? chunks.get(num) : undefined
    return row !== undefined && (row.seg === 0 || (row.seg > 0 && store.at(row.seg, row.off) !== undefined))
  }

  /** Power was cut: what was not durable never was. */
  crashed(d: SimDevice): void {
    this.trace(`${d.name} has crashed`)
    this.count('crash')
  }

  /** It is up again: its log ends before the op `next`. */
  rebooted(d: SimDevice, next: number): void {
    const isLost = (x: { device: SimDevice; op: number }) => x.device === d && Math.floor(x.op / INO_HIGH) === Math.floor(next / INO_HIGH) && x.op >= next
    const lost = d.isRestored ? undefined : this.#written.find((w) => isLost(w) && w.isSynced)
    if (lost) this.fail(`${d.name} has lost a write in a crash that it had acknowledged to be durable`)
    // Of a backup, what others have comes back; what only it had does not.
    if (d.isRestored) for (const w of this.#written) if (isLost(w)) this.#excused.add(w.h)
    this.#written = this.#written.filter((w) => !isLost(w))
    if (!d.isRestored) this.#dismissed = this.#dismissed.filter((x) => !isLost(x))
  }

  close(): void {
    for (const d of this.devices) {
      d.live?.drive?.halt()
      if (d.state.is !== 'off') d.state.at.db.close()
    }
    for (const k of this.keepers) {
      k.live?.releases?.close().catch(() => {})
      k.live?.db.close()
    }
  }

  // --- what must be true at the end ---------------------------------------

  /** Whether nobody need have the chunk: a liar has made it, or it was lost with what a backup lacks. */
  isExcused(h: string): boolean { return this.#excused.has(h) || this.#written.some((w) => w.h === h && (this.liars.has(w.device) || this.gone.has(w.device))) }

  /** Every write that was acknowledged is there, unless somebody who saw it took it away. */
  checkSynced(): void {
    const [d] = this.honest
    d!.s.metadata.tree.rows.flush()
    const rows = d!.s.db.sql.prepare('SELECT DISTINCT hex(c.h) AS h FROM extent e JOIN inode i ON i.ino = e.ino JOIN chunk c ON c.num = e.chunk WHERE i.nlink > 0').all() as { h: string }[]
    const there = new Set(rows.map((r) => r.h.toLowerCase()))
    const dismissed = new Set(this.#dismissed.map((x) => x.h))
    for (const w of this.#written) {
      if (!w.isSynced || this.liars.has(w.device) || this.gone.has(w.device) || there.has(w.h) || dismissed.has(w.h)) continue
      this.violated(`a write of ${w.device.name} (op ${w.op % INO_HIGH}, content ${w.h.slice(0, 8)}) was durable, nobody who saw it took it away, and it is gone`)
    }
  }

  get syncedWrites(): number { return this.#written.filter((w) => w.isSynced).length }
}

function describe(d: SimDevice, op: Op, id: number): string {
  const at = (ino: number) => d.globalId(ino)
  const more = op.type === 'rename' ? ` ${at(op.parent)}/${op.name.toString()} to ${at(op.newParent)}/${op.newName.toString()}${op.over ? ` over ${at(op.over)}` : ''}${op.exchange ? ' exchange' : ''}`
    : op.type === 'content' ? ` base ${at(op.base)} ${op.pieces.map((p) => `${p.off}+${p.len}`).join(' ')} cut ${op.cut} of ${op.chunks.map((c) => c.h.toString('hex').slice(0, 8)).join(' ')}`
      : 'parent' in op ? ` ${at(op.parent)}/${op.name.toString()}` : ''
  return `${at(id)} ${op.type}${'ino' in op ? ` ${at(op.ino)}` : ''}${more}`
}
