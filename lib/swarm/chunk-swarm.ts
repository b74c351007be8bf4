/**
 * Chunks between this device and others: the step machine of asking (exchange.ts),
 * and what devices say of what they hold (custody.ts), joined to the chunk table and
 * the readers of the mount. giving.ts is the other side.
 *
 * What comes is verified before anything is done with it; what is asked for in
 * the background is kept durably and only then said to be here.
 */
import type { NetworkStatus, PeerStatus } from '../api.js'
import type { ChunkSource, Urgency as ReadUrgency } from '../file/fetch.js'
import { fail } from '../errors.js'
import type { Arrived } from '../order/causal/engine.js'
import { chunkId, sealedLength } from '../seal/chunk.js'
import type { Holders } from '../cache.js'
import type { Mender } from '../mending.js'
import { Confirmer, proofOf, type Audited } from './confirm.js'
import { Custody, type CustodyEffect } from './custody.js'
import { ChunkExchange, type ExchangeEffect, type WantedChunk } from './exchange.js'
import { Giving, type GivingLinks } from './giving.js'
import type { SwarmHost } from './host.js'
import { KnownHolders } from './known-holders.js'
import { keyOf, type Chunk, type ChunkMessage, type CustodyMessage, type Peer, type Status, type Urgency } from './messages.js'
import { Missing } from './missing.js'

const NO_PLAN = Buffer.alloc(32)
/** How long is waited for peers to have our last entry. */
const CAUGHT_UP_TIMES = 30
const CAUGHT_UP_MS = 100
/** Chunks that came and are told to others when they are durable here; what is more they find out when they ask. */
const MAX_ANNOUNCED = 4096

export interface ChunkLinks extends GivingLinks {
  lying(peer: Peer, why: string): void
  /** Peers that have our own log durably up to there. */
  haveOwn(seq: number): Peer[]
}

interface Waiter { resolve: (sealed: Buffer) => void; reject: (e: Error) => void }

export class ChunkSwarm implements ChunkSource, Holders, Mender {
  readonly isVerified = true
  readonly isKept = true
  readonly #drive: SwarmHost
  readonly #links: ChunkLinks
  readonly #exchange: ChunkExchange
  readonly #giving: Giving
  readonly #missing: Missing
  readonly #waiters = new Map<string, Waiter[]>()
  readonly #custody = new Custody()
  readonly #confirmer: Confirmer
  readonly #known = new KnownHolders()
  readonly #peers = new Set<Peer>()
  #kept: number[] = []
  #isAnnouncing = false
  /** What is being taken lies in memory that is to be given back. */
  #lent: { sealed: Buffer; giveBack: () => void } | undefined
  #wanting: (WantedChunk & { urgency: Urgency })[] = []
  /** What the exchange wants done, and whether it is being done. */
  readonly #effects: ExchangeEffect[] = []
  #isActing = false
  #isClosed = false

  constructor(drive: SwarmHost, links: ChunkLinks) {
    this.#drive = drive
    this.#links = links
    this.#exchange = new ChunkExchange({
      nextMissing: (limit) => this.#missing.next(limit),
      likelyHolders: (id) => [...this.#known.of(id), ...drive.keeping?.plan?.holdersOf(id) ?? []].filter((peer) => this.#peers.has(peer)),
    })
    this.#missing = new Missing(drive)
    this.#giving = new Giving(drive, links, () => this.moreMissing())
    this.#confirmer = new Confirmer({
      nowMs: () => this.#now(),
      after: (ms, f) => drive.timers.after(ms, f),
      isMember: (peer) => drive.members.get(Buffer.from(peer, 'hex')) !== undefined,
      read: (id) => this.#giving.read(id),
      challenge: (peer, id, nonce) => this.#ask(this.#custody.challenge(this.#now(), peer, id, nonce)),
      ask: (peer, ids, copies) => this.#ask(this.#custody.ask(this.#now(), peer, ids, copies)),
      plan: () => drive.keeping?.plan ?? null, watch: () => drive.factors?.watch(),
      caughtUp: () => this.#caughtUp(),
      ...(drive.freshMs !== undefined && { freshMs: drive.freshMs }),
    })
    drive.arrivals.onKept = (nums) => {
      if (this.#peers.size === 0 || this.#kept.length >= MAX_ANNOUNCED) return
      this.#kept.push(...nums)
      void this.#announce()
    }
    if (drive.cache) drive.cache.holders = this
    if (drive.keeping) drive.keeping.onMore = () => this.moreMissing()
    if (drive.care) drive.care.mending.mender = this
  }

  // --- for readers --------------------------------------------------------

  fetch(id: Buffer, how: { urgency: ReadUrgency; signal: AbortSignal }): Promise<Buffer> {
    if (this.#isClosed) return Promise.reject(fail('EIO', 'the drive is being closed'))
    // Nobody could come who has it: no reason to keep a program waiting.
    if (this.#peers.size === 0 && this.#drive.members.all().length === 0) return Promise.reject(fail('EIO', 'it is not here, and the drive has no other device'))
    const key = keyOf(id)
    return new Promise<Buffer>((resolve, reject) => {
      let waiters = this.#waiters.get(key)
      if (!waiters) this.#waiters.set(key, (waiters = []))
      const waiter: Waiter = { resolve, reject }
      waiters.push(waiter)
      how.signal.addEventListener('abort', () => {
        const list = this.#waiters.get(key)
        if (!list?.includes(waiter)) return
        list.splice(list.indexOf(waiter), 1)
        if (list.length === 0) {
          this.#waiters.delete(key)
          this.#do(this.#exchange.unwant(this.#now(), id))
        }
        reject(fail('EIO', 'nobody waits for the chunk any more'))
      }, { once: true })
      this.#want(id, how.urgency)
    })
  }

  /** What is asked for in one turn goes out together. */
  #want(id: Buffer, urgency: Urgency): void {
    if (this.#wanting.push({ ...this.#wanted(id), urgency }) > 1) return
    queueMicrotask(() => {
      const wanting = this.#wanting.filter((w) => this.#waiters.has(keyOf(w.id)))
      this.#wanting = []
      if (!this.#isClosed) this.#do(this.#exchange.wantAll(this.#now(), wanting, Infinity))
    })
  }

  #wanted(id: Buffer): WantedChunk {
    const { chunks } = this.#drive
    const num = chunks.findById(id)
    const len = num > 0 ? chunks.get(num)?.len : undefined
    return len === undefined ? { id } : { id, sealedBytes: sealedLength(len) }
  }

  // --- peers --------------------------------------------------------------

  peerUp(peer: Peer): void {
    this.#peers.add(peer)
    this.#confirmer.peerUp(peer)
    this.#ask(this.#custody.peerUp(peer))
    this.#links.send(peer, this.#status(), 'now')
    this.#giving.peerUp(peer)
    this.#do(this.#exchange.peerUp(this.#now(), peer, false))
  }

  peerDown(peer: Peer): void {
    this.#peers.delete(peer)
    this.#confirmer.peerDown(peer)
    this.#ask(this.#custody.peerDown(peer))
    this.#giving.peerDown(peer)
    this.#do(this.#exchange.peerDown(this.#now(), peer))
  }

  drained(peer: Peer): void { this.#giving.drained(peer) }

  tick(): void {
    this.#do(this.#exchange.tick(this.#now()))
    this.#ask(this.#custody.tick(this.#now()))
  }

  /** Entries of others were applied: chunks may be missing that were not known before. */
  changed(arrived: Arrived[]): void {
    const { log } = this.#drive
    let any = false
    for (const a of arrived) {
      const author = log.deviceOf(a.inc).toString('hex')
      for (const op of a.ops) {
        if (op.type !== 'content') continue
        for (const c of op.chunks) {
          any = true
          this.#known.add(author, c.id)
        }
      }
    }
    this.#drive.cache?.pins?.changed()
    if (any) this.#do(this.#exchange.moreMissing(this.#now()))
  }

  /** A device has named these in what cannot be read here: as `changed`. */
  named(device: Buffer, ids: Buffer[]): void {
    const author = device.toString('hex')
    for (const id of ids) this.#known.add(author, id)
    this.#do(this.#exchange.moreMissing(this.#now()))
  }

  /** As `message`; `giveBack` is called once, when its bytes are used no more. */
  lent(peer: Peer, m: Chunk, giveBack: () => void): void {
    this.#lent = { sealed: m.sealed, giveBack }
    this.#do(this.#exchange.message(this.#now(), peer, m))
    // Not wanted any more, or not what it should be.
    if (this.#lent) giveBack()
    this.#lent = undefined
  }

  message(peer: Peer, m: ChunkMessage | CustodyMessage | Status): void | Promise<void> {
    switch (m.type) {
      case 'wantChunks': case 'hurryChunks': case 'cancelChunks': this.#giving.message(peer, m); return
      case 'chunk': this.#do(this.#exchange.message(this.#now(), peer, m)); return
      case 'noChunks':
        this.#do(this.#exchange.message(this.#now(), peer, m))
        this.#ask(this.#custody.message(this.#now(), peer, m))
        return
      case 'status':
        this.#confirmer.status(peer, m.keepsEverything, m.plan)
        this.#drive.receipts?.changed(peer)
        this.#do(this.#exchange.peerStatus(this.#now(), peer, m.keepsEverything))
        return
      case 'haveChunks': case 'askChunks': case 'challenge': case 'proof': this.#ask(this.#custody.message(this.#now(), peer, m)); return
    }
  }

  /** A chunk could not be sent from its segment: it has moved, or is damaged. */
  fileError(peer: Peer, head: Buffer, _error: Error): void { this.#giving.again(peer, head.subarray(1, 33)) }

  close(): void {
    this.#isClosed = true
    this.#confirmer.close()
    this.#giving.close()
    this.#drive.arrivals.onKept = () => {}
    if (this.#drive.keeping) this.#drive.keeping.onMore = () => {}
    if (this.#drive.cache?.holders === this) this.#drive.cache.holders = null
    if (this.#drive.care?.mending.mender === this) this.#drive.care.mending.mender = null
    for (const waiters of this.#waiters.values()) for (const w of waiters) w.reject(fail('EIO', 'the drive is being closed'))
    this.#waiters.clear()
  }

  get wanted(): NetworkStatus['wanted'] {
    const [readers, ahead, pins, background] = this.#exchange.wantCounts as [number, number, number, number]
    const { asked, verifying, untaken } = this.#exchange.bytes
    return { readers, ahead, pins, background, nowhere: this.#exchange.parked, askedBytes: asked, heldBytes: verifying + untaken }
  }

  peerState(peer: Peer): Pick<PeerStatus, 'chunksAsked' | 'chunksWaiting'> {
    return { chunksAsked: this.#exchange.peerState(peer)?.asks ?? 0, chunksWaiting: this.#giving.waiting(peer) }
  }

  // --- who has what ---------------------------------------------------------

  /** Whether a peer shows that it has a chunk, of which our own copy is here; undefined: that could not be found out. */
  audit(peer: Peer, id: Buffer): Promise<Audited | undefined> { return this.#confirmer.audit(peer, id) }

  confirm(chunks: { id: Buffer }[], copies: number): Promise<boolean[]> {
    return this.#confirmer.confirm(chunks, copies)
  }

  /** There is another plan, or it has been laid over all chunks. */
  planChanged(): void {
    this.statusChanged()
    this.moreMissing()
  }

  async #caughtUp(): Promise<(peer: Peer) => boolean> {
    const { journal, log, timers } = this.#drive
    if (journal.stopped) return () => false
    journal.commit()
    const { seq } = log.head(journal.incarnation)
    if (seq === 0) return () => true
    await journal.settle().catch(() => { /* stopped: nobody has it */ })
    const has = () => new Set(this.#links.haveOwn(seq))
    let have = has()
    for (let n = 0; n < CAUGHT_UP_TIMES && !this.#isClosed && [...this.#peers].some((peer) => !have.has(peer)); n++) {
      await new Promise<void>((go) => void timers.after(CAUGHT_UP_MS, go))
      have = has()
    }
    return (peer) => have.has(peer)
  }

  statusChanged(): void {
    for (const peer of this.#peers) this.#links.send(peer, this.#status(), 'now')
  }

  get peerCount(): number { return this.#peers.size }

  damaged(num: number): void {
    this.#missing.damaged(num)
    this.moreMissing()
  }

  moreMissing(): void {
    if (!this.#isClosed) this.#do(this.#exchange.moreMissing(this.#now()))
  }

  /** As Confirmer.keeps. */
  keeps(peer: Peer, id: Buffer): boolean { return this.#confirmer.keeps(peer, id) }

  /** Asks a peer which of these it holds durably; it is told to the drive's receipts. */
  askWho(peer: Peer, ids: Buffer[]): void {
    if (!this.#isClosed) this.#ask(this.#custody.ask(this.#now(), peer, ids))
  }

  /** What has come, once the index says durably that it is here: others may count on it. What comes meanwhile is next. */
  async #announce(): Promise<void> {
    if (this.#isAnnouncing) return
    this.#isAnnouncing = true
    try {
      while (this.#kept.length > 0) {
        const ids = this.#kept.flatMap((num) => this.#drive.chunks.identity(num)?.id ?? [])
        this.#kept = []
        if (!(await this.#durable())) return
        this.#ask(this.#custody.announce(this.#peers, ids.filter((id) => this.#giving.has(id))))
      }
    } finally {
      this.#isAnnouncing = false
    }
  }

  /** Which of these are here, as the index says durably, and to be held by so many devices, if that is asked. */
  async #check(peer: Peer, copies: number, ids: Buffer[]): Promise<void> {
    const isSo = (id: Buffer) => copies === 0 || this.#drive.keeping?.plan?.copiesOf(id) === copies
    const now = new Set(ids.filter((id) => isSo(id) && this.#giving.has(id)))
    const isSure = now.size === 0 || await this.#durable()
    if (this.#isClosed) return
    const here = isSure ? [...now].filter((id) => isSo(id) && this.#giving.has(id)) : []
    const said = new Set(here)
    for (const id of here) this.#giving.counted(id)
    this.#ask(this.#custody.checked(peer, copies, here, ids.filter((id) => !said.has(id))))
  }

  /** All that is in the index is durable; false if the store stops, or the drive is closed. */
  async #durable(): Promise<boolean> {
    try { await this.#drive.journal.durable() } catch { return false }
    return !this.#isClosed
  }

  #ask(effects: CustodyEffect[]): void {
    for (const e of effects) {
      switch (e.type) {
        case 'send': this.#links.send(e.peer, e.message, e.priority); break
        case 'check': void this.#check(e.peer, e.copies, e.ids); break
        case 'prove': void this.#prove(e.peer, e.id, e.nonce); break
        case 'holds':
          for (const id of e.ids) this.#known.add(e.peer, id)
          this.#confirmer.said(e.peer, e.ids, e.copies)
          this.#drive.receipts?.chunks(e.peer, e.ids)
          this.#do(this.#exchange.peerHolds(this.#now(), e.peer, e.ids))
          break
        case 'lacks':
          for (const id of e.ids) this.#known.remove(e.peer, id)
          this.#confirmer.said(e.peer, e.ids, 'none')
          break
        case 'proof': this.#confirmer.answered(e.peer, e.id, e.mac); break
        case 'unproven': this.#confirmer.answered(e.peer, e.id, e.isRefused ? 'refused' : 'silent'); break
      }
    }
  }

  /** In order, also when one effect leads to another event: a want must not overtake what takes it back. */
  #do(effects: ExchangeEffect[]): void {
    this.#effects.push(...effects)
    if (this.#isActing) return
    this.#isActing = true
    try {
      for (let e = this.#effects.shift(); e; e = this.#effects.shift()) this.#act(e)
    } finally {
      this.#isActing = false
    }
  }

  #act(e: ExchangeEffect): void {
    switch (e.type) {
      case 'send': this.#links.send(e.peer, e.message, e.priority); break
      case 'verify': this.#do(this.#exchange.verified(this.#now(), e.token, chunkId(e.sealed).equals(e.id))); break
      case 'arrived':
        this.#confirmer.gave(e.peer, e.id)
        this.#arrived(e.id, e.sealed)
        break
      case 'failed': this.#failed(e.id, e.why); break
      case 'lying': if (e.isAvoided) this.#links.lying(e.peer, e.why); break
    }
  }

  #arrived(id: Buffer, sealed: Buffer): void {
    const key = keyOf(id)
    const waiters = this.#waiters.get(key)
    this.#waiters.delete(key)
    const taken = () => this.#do(this.#exchange.taken(this.#now(), id))
    const lent = this.#lent?.sealed === sealed ? this.#lent : undefined
    if (lent) this.#lent = undefined
    const num = this.#drive.chunks.findById(id)
    const keeping = num === 0 ? Promise.resolve(false) : this.#drive.arrivals.keep(num, sealed)
    if (waiters) {
      for (const w of waiters) w.resolve(sealed)
      // What waits for the disk is counted there.
      queueMicrotask(taken)
    } else keeping.then(taken, taken)
    if (!lent) return
    // Who waited has used it when the loop turns.
    const giveBack = () => { this.#drive.timers.soon(lent.giveBack) }
    keeping.then(giveBack, giveBack)
  }

  #failed(id: Buffer, why: string): void {
    const waiters = this.#waiters.get(keyOf(id)) ?? []
    this.#waiters.delete(keyOf(id))
    const text = why === 'full' ? 'too much is being fetched' : 'no device that can be reached gave it'
    for (const w of waiters) w.reject(fail('EIO', text))
  }

  async #prove(peer: Peer, id: Buffer, nonce: Buffer): Promise<void> {
    const sealed = await this.#giving.read(id)
    if (sealed) this.#giving.counted(id)
    if (!this.#isClosed) this.#ask(this.#custody.proved(peer, id, sealed && proofOf(nonce, sealed)))
  }

  #status(): Status {
    const { space, files, store } = this.#drive
    let used = 0
    for (const bytes of store.usage().values()) used += bytes
    return { type: 'status', capacityBytes: used + space.freeBytes(files.dirtyBytes), usedBytes: used, owedBytes: 0, keepsEverything: this.#drive.cache?.keepsEverything ?? this.#drive.keepsEverything ?? true, plan: this.#drive.keeping?.plan?.digest ?? NO_PLAN }
  }

  #now(): number { return this.#drive.timers.nowMs() }
}
