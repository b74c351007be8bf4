/**
 * The other devices that are connected: joins the step machines of the protocol
 * to the drive and to the links. What is decided is decided in them; here is
 * only what does it. Links come from a Net (swarm.ts), or from a simulator.
 *
 *   Link ── decode ── LogSync ──── Inbox ── tree
 *                  ├─ Chunks ───── segments
 *                  └─ snapshots (to those who join, and to those who keep them)
 *
 * What others know of our own log, of forks, and of whether we have to begin anew
 * is watched beside it (lost-tail.ts, fork-watch.ts, anew-watch.ts).
 */
import type { PeerStatus } from '../api.js'
import { isDfsError } from '../errors.js'
import { encodeZ32 } from '../keys/zbase32.js'
import { certify, type Certificate } from '../keys/certificate.js'
import { Audit } from '../placement/audit.js'
import { AnewWatch } from './anew-watch.js'
import { ChunkSwarm } from './chunk-swarm.js'
import { ForkWatch } from './fork-watch.js'
import { readHello, writeHello, type Hello } from './hello.js'
import type { SwarmHost } from './host.js'
import { LostTail } from './lost-tail.js'
import { MAX_ENTRIES, MAX_ENTRIES_BYTES, type Chunk, type HeldLog, type LogName, type Message, type Peer, type SignedEntry, type SyncMessage } from './messages.js'
import type { Link } from './net/link.js'
import { SnapshotKeeper } from './snapshot-keeper.js'
import { SnapshotSender } from './snapshot-sender.js'
import { LogSync, type SyncEffect } from './sync.js'
import { decode, encode, isChunk } from './wire.js'
import { PlanGossip } from './plan-gossip.js'
import { FactorLink } from './factor-link.js'
import { ReleaseLink } from './release-link.js'

/** The step machines are asked for what is due so often. */
const TICK_MS = 200
/** Entries of our own that are pushed at a time. */
const MAX_PUSHED = 64
/** Who lied is not let in for so long, twice as long the next time, at most this long. */
const FIRST_CUT_OFF_MS = 2000
const MAX_CUT_OFF_MS = 3_600_000
/** So many of them are remembered. */
const MAX_LIARS = 1024
const NO_MESSAGE = 'it sent a message that no dfs writes'
const FALSE_CERTIFICATE = 'it sent a certificate that the drive has not signed'

interface Connected { link: Link; hello: Hello; certificate: Certificate | undefined }

export class Peers {
  readonly #drive: SwarmHost
  readonly #sync: LogSync
  readonly #peers = new Map<Peer, Connected>()
  /** Who was cut off, the last one last. */
  readonly #liars = new Map<Peer, { times: number; untilMs: number }>()
  readonly #snapshots: SnapshotSender
  readonly chunks: ChunkSwarm
  /** Of a device that keeps snapshots. */
  readonly #keeper: SnapshotKeeper | undefined
  #durable: Map<number, number>
  readonly #stopTicking: () => void
  /** As the others were told. */
  #keepsEverything: boolean | undefined
  #isClosed = false
  /** It was told that changes wait. */
  #isBehind = false
  readonly #lost: LostTail
  readonly #anew: AnewWatch
  readonly #forks: ForkWatch
  /** Of a device that knows of a plan. */
  readonly #gossip: PlanGossip | undefined
  readonly #audit: Audit | undefined
  readonly #releases: ReleaseLink
  readonly #factors: FactorLink
  /** As the sync was told: the logs that were ended, and where. */
  readonly #ends = new Map<number, number>()
  /** What a person should know: a lying peer, a fork. */
  onNotice: (text: string) => void = () => {}

  constructor(drive: SwarmHost) {
    this.#drive = drive
    const { device, log, journal } = drive
    this.#durable = log.heads()
    const own = () => ({ incarnation: log.incarnationId(journal.incarnation), device: device.publicKey })
    this.#sync = new LogSync({
      held: () => this.#held([...this.#durable.keys()]),
      hashOf: (name, seq) => {
        const inc = this.#find(name)
        return inc < 0 ? undefined : log.hashAt(inc, seq) ?? (log.head(inc).seq === seq ? log.head(inc).hash : undefined)
      },
      certificates: () => drive.members.certificates(),
      forks: () => drive.metadata.forks.all().map((proof) => ({ type: 'forked', ...proof })),
      read: (name, from, to, limitBytes) => {
        const inc = this.#find(name)
        if (inc < 0 || from < log.head(inc).first) return []
        return log.stored(inc, from, limitBytes).slice(0, Math.max(0, Math.min(to, this.#durable.get(inc) ?? 0, from + MAX_ENTRIES - 1) - from + 1))
      },
      queuedBytes: (peer) => this.#peers.get(peer)?.link.queuedBytes ?? 0,
    }, own())
    this.#snapshots = new SnapshotSender(drive, {
      send: (peer, m, priority) => this.#send(peer, m, priority),
      queuedBytes: (peer) => this.#peers.get(peer)?.link.queuedBytes ?? 0,
    })
    this.chunks = new ChunkSwarm(drive, {
      send: (peer, m, priority) => this.#send(peer, m, priority),
      sendFile: (peer, head, file) => this.#peers.get(peer)?.link.sendFile(head, file),
      queuedBytes: (peer) => this.#peers.get(peer)?.link.queuedBytes ?? 0,
      lying: (peer, why) => this.#lying(peer, why),
      haveOwn: (seq) => this.#sync.holders(own(), seq),
    })
    drive.source.provider = this.chunks
    journal.onDurable = (heads) => this.#onDurable(heads)
    drive.inbox.onApplied = (arrived) => this.chunks.changed(arrived)
    if (drive.inbox.onNamed) drive.inbox.onNamed = (author, ids) => this.chunks.named(author, ids)
    this.#keeper = drive.kept && new SnapshotKeeper({
      holder: drive.kept, timers: drive.timers, keys: drive.keys, send: (peer, m, priority) => this.#send(peer, m, priority),
    })
    const notice = (text: string) => this.onNotice(text)
    if (drive.receipts) {
      drive.receipts.ask = (peer, ids) => this.chunks.askWho(peer, ids)
      drive.receipts.keeps = (peer, id) => this.chunks.keeps(peer, id)
      drive.receipts.onNotice = notice
    }
    this.#lost = new LostTail({
      drive, notice, isGuest: (peer) => !this.#peers.get(peer)?.certificate, isOwn: (name) => this.#find(name) === journal.incarnation,
      isStuck: () => this.#stuck().some((s) => this.#find(s.log) === journal.incarnation),
      onRenew: (incarnation) => {
        this.#sync.setOwn({ incarnation, device: device.publicKey })
        drive.receipts?.renewed()
      },
    })
    this.#anew = new AnewWatch({ drive, notice, peers: this.#peers, stuck: () => this.#stuck() })
    this.#forks = new ForkWatch({
      drive, notice, find: (name) => this.#find(name), ours: () => this.#lost.renew(), lied: (peer, name, why) => this.#do(this.#sync.lied(this.#now(), peer, name, why)),
      proven: (proof) => { if (!this.#isClosed) this.#do(this.#sync.forked(this.#now(), proof)) },
    })
    this.#gossip = drive.keeping && drive.reports && new PlanGossip({
      keeping: drive.keeping, reports: drive.reports, peers: this.#peers, isWriter: drive.keys.canWrite,
      send: (peer, m) => this.#send(peer, m, 'bulk'), planChanged: () => this.chunks.planChanged(), random: drive.random ?? Math.random, nowMs: () => this.#now(),
    })
    this.#audit = drive.keeping && drive.reports && drive.fleet && new Audit({
      chunks: drive.chunks, timers: drive.timers, keeping: drive.keeping, reports: drive.reports, random: drive.random ?? Math.random, connected: () => [...this.#peers.keys()],
      ask: (peer, id) => this.chunks.audit(peer, id), isUnlinked: async (num) => (await drive.cache?.pins?.open?.has(num)) ?? false, doubted: (peer) => drive.fleet!.doubt(Buffer.from(peer, 'hex')),
    })
    this.#releases = new ReleaseLink({ drive, peers: this.#peers, isReplaced: () => this.#anew.taking !== null, send: (peer, m) => this.#send(peer, m, 'bulk') })
    this.#factors = new FactorLink({ drive, peers: this.#peers, nowMs: () => this.#now(), send: (peer, m) => this.#send(peer, m, 'bulk') })
    this.#endLogs()
    this.#stopTicking = drive.timers.every(TICK_MS, () => this.#tick())
  }

  /** What this device says of itself in a handshake. */
  hello(): Uint8Array {
    const { keys, members, device, deviceName } = this.#drive
    // While it is alone it is not among the members yet, and must show what it holds all the same.
    const own = () => (keys.canWrite ? certify(keys, { device: device.publicKey, role: keys.kind, name: deviceName }) : undefined)
    const view = this.#drive.metadata.view
    return writeHello({ kind: keys.kind, name: deviceName, certificate: members.bytesOf(device.publicKey) ?? own(), ...(view && { view }) })
  }

  status(): PeerStatus[] {
    return [...this.#peers].map(([peer, { link, hello, certificate }]) => {
      const owed = this.#sync.owed(peer)
      return {
        device: encodeZ32(link.peer), name: certificate?.name ?? hello.name, role: certificate?.role ?? 'guest', via: link.via, address: link.address, rttMs: link.rttMs,
        bytesIn: link.bytesIn, bytesOut: link.bytesOut, owedToPeer: owed.toPeer, owedFromPeer: owed.fromPeer,
        ...this.chunks.peerState(peer), queuedBytes: link.queuedBytes,
      }
    })
  }

  /** A certificate that was made here: everybody is told. */
  announce(certificate: Buffer): void { this.#certificates([certificate], '') }

  /** Says goodbye; the links are closed by whoever gave them. May be called twice. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#stopTicking()
    this.#lost.close()
    this.#drive.journal.onDurable = () => {}
    this.#drive.inbox.onApplied = () => {}
    if (this.#drive.inbox.onNamed) this.#drive.inbox.onNamed = () => {}
    this.#drive.source.provider = null
    this.#gossip?.close()
    this.#audit?.close()
    if (this.#drive.receipts) {
      this.#drive.receipts.ask = () => {}
      this.#drive.receipts.keeps = () => false
      for (const peer of this.#peers.keys()) this.#drive.receipts.down(peer)
    }
    this.#releases.close()
    this.#snapshots.close()
    this.chunks.close()
    for (const peer of this.#peers.keys()) this.#send(peer, { type: 'bye', reason: 'leaving' }, 'now')
  }

  // --- links --------------------------------------------------------------

  /** A link to a device; takes its events over. */
  up(link: Link): void {
    const peer = link.peer.toString('hex')
    const hello = readHello(link.hello)
    if (this.#isClosed || !hello) return link.close('protocol')
    if ((this.#liars.get(peer)?.untilMs ?? 0) > this.#now()) return link.close('lying')
    if (this.#peers.has(peer)) this.#down(peer)
    if (hello.certificate && !this.#drive.members.isValid(hello.certificate)) {
      this.#cutOff(peer, undefined, FALSE_CERTIFICATE)
      return link.close('lying')
    }
    if (hello.certificate) this.#certificates([hello.certificate], peer)
    // It asks for chunks by their id, and keeps the log for those who come later.
    if (hello.kind === 'storage' && !this.#drive.journal.stopped) this.#drive.share()
    this.#peers.set(peer, { link, hello, certificate: this.#drive.members.get(link.peer) })
    link.onMessage = (bytes) => this.#onMessage(peer, link, bytes)
    link.onLent = (bytes, giveBack) => this.#onLent(peer, link, bytes, giveBack)
    link.onDrain = () => {
      this.#do(this.#sync.drained(this.#now(), peer))
      this.#snapshots.drained(peer)
      this.chunks.drained(peer)
    }
    link.onFileError = (head, e) => this.chunks.fileError(peer, head, e)
    link.onClose = (reason) => { if (this.#peers.get(peer)?.link === link) this.#down(peer, reason) }
    this.#pace()
    this.#drive.receipts?.up(peer)
    this.#do(this.#sync.peerUp(this.#now(), peer))
    this.chunks.peerUp(peer)
    this.#gossip?.up(peer)
    this.#mayGive(peer)
  }

  #mayGive(peer: Peer): void {
    const { certificate, hello } = this.#peers.get(peer)!
    if (certificate?.role === 'full') this.#keeper?.up(peer, 'full')
    else if (hello.kind === 'storage') this.#keeper?.up(peer, 'storage')
    this.#anew.up(peer)
  }

  #down(peer: Peer, reason = 'closed'): void {
    const link = this.#peers.get(peer)?.link
    this.#peers.delete(peer)
    this.#keeper?.down(peer)
    this.#releases.down(peer)
    this.#factors.down(peer)
    if (link) this.#anew.down(link, reason)
    this.#do(this.#sync.peerDown(this.#now(), peer))
    this.#drive.receipts?.down(peer)
    this.#snapshots.down(peer)
    this.chunks.peerDown(peer)
    this.#pace()
  }

  /** Chunks are used where they lie. */
  #onLent(peer: Peer, link: Link, bytes: Buffer, giveBack: () => void): boolean {
    if (this.#peers.get(peer)?.link !== link || !isChunk(bytes)) return false
    try {
      this.chunks.lent(peer, decode(bytes) as Chunk, giveBack)
    } catch (e) {
      if (!isDfsError(e, 'EIO')) throw e
      giveBack()
      this.#lying(peer, NO_MESSAGE)
    }
    return true
  }

  #onMessage(peer: Peer, link: Link, bytes: Buffer): void | Promise<void> {
    if (this.#peers.get(peer)?.link !== link) return
    let m: Message
    try {
      m = decode(bytes)
    } catch {
      this.#lying(peer, NO_MESSAGE)
      return
    }
    switch (m.type) {
      case 'have': case 'wantEntries': case 'entries': case 'entryPart': case 'noEntries': case 'certificates': case 'forked':
        this.#do(this.#sync.message(this.#now(), peer, m as SyncMessage))
        return
      case 'wantSnapshot': case 'snapshotCredit': case 'snapshotCancel':
        // What is given up is not given.
        if (m.type === 'wantSnapshot' && this.#anew.taking) return this.#send(peer, { type: 'snapshotRefused', reason: 'none' }, 'bulk')
        this.#snapshots.message(peer, m, this.#peers.get(peer)!.hello.kind)
        return
      case 'wantChunks': case 'hurryChunks': case 'chunk': case 'noChunks': case 'cancelChunks': case 'haveChunks': case 'askChunks': case 'challenge': case 'proof': case 'status':
        return this.chunks.message(peer, m)
      case 'snapshotBegin': case 'snapshotPiece': case 'snapshotEnd': case 'snapshotRefused':
        if (this.#anew.taking) return this.#anew.taking.message(link, bytes)
        // Elsewhere nobody asked for it.
        this.#keeper?.message(peer, m)
        return
      case 'askReleases':
        this.#releases.asked(peer, m.ids)
        return
      case 'releases':
        this.#releases.answered(peer, m)
        return
      case 'askFactors':
        this.#factors.asked(peer, m)
        return
      case 'factors':
        this.#factors.answered(peer, m)
        return
      case 'plan':
        // Who may not write does not say where chunks are to be.
        if (this.#peers.get(peer)!.certificate?.role === 'full') this.#drive.takePlan?.(m.plan)
        return
      case 'report':
        if (this.#drive.reports?.take(m.report, peer) === false) this.#lying(peer, 'it passed on a report that nobody has signed')
        return
      case 'bye': link.close('the peer leaves')
    }
  }

  // --- what the log sync wants --------------------------------------------

  #do(effects: SyncEffect[]): void {
    for (const e of effects) {
      switch (e.type) {
        case 'send': this.#send(e.peer, e.message, e.priority); break
        case 'deliver': void this.#deliver(e.peer, e.log, e.from, e.entries); break
        case 'certificates': this.#certificates(e.certificates, e.peer); break
        case 'lying': this.#lying(e.peer, e.why); break
        case 'suspect': this.#forks.suspected(e.peer, e.log, e.seq, e.headers); break
        case 'ownAhead': if (this.#drive.metadata.own) this.#lost.ahead(e.peer, e.seq); break
        // Of a device that can read, AnewWatch sees to it.
        case 'needSnapshot': this.#keeper?.lacking(e.peer); break
        case 'receipt': this.#drive.receipts?.entry(e.peer, e.seq); break
      }
    }
  }

  async #deliver(peer: Peer, log: LogName, from: number, entries: SignedEntry[]): Promise<void> {
    this.#lost.coming(peer, log, from, entries)
    const verdict = await this.#drive.inbox.deliver(log, from, entries)
    if (this.#isClosed) return
    this.#lost.came(log)
    if (verdict.accepted >= from) this.#drive.metadata.heard?.(log.device)
    this.#do(this.#sync.verdict(this.#now(), log, verdict))
    if (verdict.then === 'forked') this.#forks.came(log, verdict.accepted, entries[verdict.accepted - from + 1]!.signed)
    // Whoever waits for our receipt need not wait for the next change here.
    if (verdict.accepted >= from && !this.#drive.journal.stopped) this.#drive.journal.settle().catch(() => { /* stopped; every caller learns from check() */ })
  }

  /** What a peer says of its logs is not signed: only who may write is believed. */
  #stuck(): { log: LogName; seq: number }[] {
    return this.#sync.stuck((peer) => this.#peers.get(peer)?.certificate?.role === 'full')
  }

  #certificates(certificates: Buffer[], from: Peer): void {
    const { members } = this.#drive
    const fresh = certificates.filter((c) => members.add(c))
    if (fresh.length === 0) {
      if (certificates.some((c) => !members.isValid(c))) this.#lying(from, FALSE_CERTIFICATE)
      return
    }
    this.#drive.share()
    for (const [peer, p] of this.#peers) {
      p.certificate = members.get(p.link.peer)
      this.#mayGive(peer)
    }
    this.#do(this.#sync.certified(this.#now(), fresh, from))
  }

  #lying(peer: Peer, why: string): void {
    const connected = this.#peers.get(peer)
    if (!connected) return
    this.#cutOff(peer, connected.certificate?.name, why)
    connected.link.close('lying')
    this.#down(peer)
  }

  /** For a while, which is longer each time: it may as well have been a fault, of its or of ours. */
  #cutOff(peer: Peer, name: string | undefined, why: string): void {
    this.onNotice(`the peer ${name ?? peer.slice(0, 16)} was cut off: ${why}`)
    const times = this.#liars.get(peer)?.times ?? 0
    this.#liars.delete(peer)
    if (this.#liars.size >= MAX_LIARS) this.#liars.delete(this.#liars.keys().next().value!)
    this.#liars.set(peer, { times: times + 1, untilMs: this.#now() + Math.min(MAX_CUT_OFF_MS, FIRST_CUT_OFF_MS * 2 ** times) })
  }

  // --- what became durable ------------------------------------------------

  #onDurable(heads: ReadonlyMap<number, number>): void {
    const { log, journal } = this.#drive
    const changed: number[] = []
    let ownFrom = 0
    for (const [inc, seq] of heads) {
      const before = this.#durable.get(inc) ?? 0
      if (seq <= before) continue
      this.#durable.set(inc, seq)
      if (inc === journal.incarnation) ownFrom = before + 1
      else changed.push(inc)
    }
    if (this.#peers.size === 0 && ownFrom === 0 && changed.length === 0) return
    if (ownFrom > 0) {
      const [held] = this.#held([journal.incarnation])
      // Where there is more than a message takes, peers are told and ask for the rest.
      const from = held ? Math.max(ownFrom, held.seq - MAX_PUSHED + 1) : 0
      const entries = held ? log.stored(journal.incarnation, from, MAX_ENTRIES_BYTES).slice(0, held.seq - from + 1) : []
      if (held && from + entries.length - 1 === held.seq) this.#do(this.#sync.localEntries(this.#now(), held, from, entries))
      else if (held) this.#do(this.#sync.localEntries(this.#now(), held, held.seq + 1, []))
    }
    if (changed.length > 0) this.#do(this.#sync.durable(this.#now(), this.#held(changed)))
  }

  #held(incs: number[]): HeldLog[] {
    const { log } = this.#drive
    return incs.flatMap((inc) => {
      const seq = this.#durable.get(inc) ?? 0
      const head = log.head(inc)
      const hash = head.seq === seq ? head.hash : log.hashAt(inc, seq)
      return seq > 0 && hash ? [{ incarnation: log.incarnationId(inc), device: log.deviceOf(inc), first: Math.min(head.first, seq + 1), seq, hash }] : []
    })
  }

  #find(name: LogName): number {
    const { log } = this.#drive
    const inc = log.find(name.incarnation)
    return inc >= 0 && log.deviceOf(inc).equals(name.device) ? inc : -1
  }

  // --- time and the rest --------------------------------------------------

  #now(): number { return this.#drive.timers.nowMs() }

  #tick(): void {
    this.#endLogs()
    this.#anew.tick()
    this.#catchUp()
    for (const { link } of this.#peers.values()) this.#drive.metadata.heard?.(link.peer)
    const { keepsEverything } = this.#drive
    if (keepsEverything !== this.#keepsEverything) this.chunks.statusChanged()
    this.#keepsEverything = keepsEverything
    this.#do(this.#sync.tick(this.#now()))
    this.#snapshots.tick()
    this.#keeper?.tick()
    this.chunks.tick()
    this.#gossip?.tick()
    this.#factors.tick()
    this.#pace()
  }

  /** The sync asks for no more of logs that others have ended. */
  #endLogs(): void {
    const { metadata: { asides }, log } = this.#drive
    for (const inc of asides?.ended() ?? []) {
      const end = asides!.cap(inc)
      if (this.#ends.get(inc) === end) continue
      const isFirst = !this.#ends.has(inc)
      this.#ends.set(inc, end)
      if (log.head(inc).seq === 0) {
        if (isFirst) this.#meetAnew(log.deviceOf(inc))
        continue
      }
      this.#do(this.#sync.end(this.#now(), { incarnation: log.incarnationId(inc), device: log.deviceOf(inc) }, end))
    }
  }

  /** Before this device writes it has what others have, if any of them is there. */
  #catchUp(): void {
    const { own } = this.#drive.metadata
    if (!own?.isCatchingUp) return
    if (!this.#isBehind) this.onNotice('changes wait, 10 s at most, until what others have written since the store was copied, put back, or filled by a storage device is here')
    this.#isBehind = true
    if (this.#sync.hasCaughtUp) own.caughtUp()
  }

  /** A newcomer whose log is not taken: it may not take ours either, and learns of it by the handshake. */
  #meetAnew(device: Buffer): void {
    const link = this.#peers.get(device.toString('hex'))?.link
    if (link) this.#drive.journal.settle().then(() => link.close('it begins anew'), () => { /* stopped; every caller learns from check() */ })
  }

  /** While somebody listens, changes are made known at once. */
  #pace(): void {
    const { journal, files } = this.#drive
    files.isLive = journal.isLive = this.#peers.size > 0
  }

  #send(peer: Peer, m: Message, priority: 'now' | 'bulk'): void {
    this.#peers.get(peer)?.link.send(encode(m), priority)
  }
}
