/**
 * The other devices that are connected: joins the step machines of the protocol
 * to the drive and to the links. What is decided is decided in them; here is
 * only what does it. Links come from a Net (swarm.ts), or from a simulator.
 *
 *   Link ── decode ── LogSync ──── Inbox ── tree
 *                  ├─ Chunks ───── segments
 *                  └─ snapshots (to those who join, and to those who keep them)
 */
import type { PeerStatus } from '../api.js'
import { isDfsError } from '../errors.js'
import { encodeZ32 } from '../keys/zbase32.js'
import { certify, type Certificate } from '../keys/certificate.js'
import { ChunkSwarm } from './chunk-swarm.js'
import { isForkProof } from './fork.js'
import { readHello, writeHello, type Hello } from './hello.js'
import type { SwarmHost } from './host.js'
import { MAX_ENTRIES, MAX_ENTRIES_BYTES, logKey, type Chunk, type Forked, type HeldLog, type LogName, type Message, type Peer, type SignedEntry, type SyncMessage } from './messages.js'
import type { Link } from './net/link.js'
import { SnapshotKeeper } from './snapshot-keeper.js'
import { SnapshotLinks } from './snapshot-links.js'
import { SnapshotSender } from './snapshot-sender.js'
import { LogSync, type SyncEffect } from './sync.js'
import { decode, encode, isChunk } from './wire.js'

/** The step machines are asked for what is due so often. */
const TICK_MS = 200
/** Entries of our own that others hold come back within this, or the word of them was false. */
const TAKE_BACK_MS = 10_000
/** After the false word of a peer without a certificate: twice as long each time, at most MAX_CUT_OFF_MS. */
const GUESTS_SILENCED_MS = 60_000
/** Entries of our own that are pushed at a time. */
const MAX_PUSHED = 64
/** Who lied is not let in for so long, twice as long the next time, at most this long. */
const FIRST_CUT_OFF_MS = 2000
const MAX_CUT_OFF_MS = 3_600_000
/** So many of them are remembered. */
const MAX_LIARS = 1024
/** Nobody gives what comes next of a log for so long: it is nowhere. */
const STUCK_MS = 10_000
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
  /** Of our own log entries up to `seq` are on their way back. */
  #lost: { seq: number; stop: () => void } | null = null
  /** Peers whose word that they hold more of our log did not come true. */
  readonly #mistaken = new Set<Peer>()
  /** The same of those without a certificate, who can come as another each time: none of them is believed until then. */
  readonly #guests = { mistakes: 0, believedFromMs: 0 }
  /** As the sync was told: the logs that were ended, and where. */
  readonly #ends = new Map<number, number>()
  /** Logs of which nobody who is believed has the next entry: with the last that is here, and since when. */
  #stuck = new Map<string, { seq: number; sinceMs: number }>()
  /** By the word of others: then only theirs is taken. */
  #isEnded = false
  /** While a snapshot is taken. */
  #taking: SnapshotLinks | null = null
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
    })
    drive.source.provider = this.chunks
    journal.onDurable = (heads) => this.#onDurable(heads)
    drive.inbox.onApplied = (arrived) => this.chunks.changed(arrived)
    if (drive.inbox.onNamed) drive.inbox.onNamed = (author, ids) => this.chunks.named(author, ids)
    this.#keeper = drive.kept && new SnapshotKeeper({
      holder: drive.kept, timers: drive.timers, keys: drive.keys, send: (peer, m, priority) => this.#send(peer, m, priority),
    })
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
    this.#lost?.stop()
    this.#drive.journal.onDurable = () => {}
    this.#drive.inbox.onApplied = () => {}
    if (this.#drive.inbox.onNamed) this.#drive.inbox.onNamed = () => {}
    this.#drive.source.provider = null
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
    this.#do(this.#sync.peerUp(this.#now(), peer))
    this.chunks.peerUp(peer)
    this.#mayGive(peer)
  }

  #mayGive(peer: Peer): void {
    const { certificate, hello, link } = this.#peers.get(peer)!
    if (certificate?.role === 'full') this.#keeper?.up(peer, 'full')
    else if (hello.kind === 'storage') this.#keeper?.up(peer, 'storage')
    // What was kept from before does not say that this device begins anew.
    if (this.#mayGiveUs(peer)) this.#taking?.up(link)
  }

  #down(peer: Peer, reason = 'closed'): void {
    const link = this.#peers.get(peer)?.link
    this.#peers.delete(peer)
    this.#keeper?.down(peer)
    if (link) this.#taking?.down(link, reason)
    this.#do(this.#sync.peerDown(this.#now(), peer))
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
        if (m.type === 'wantSnapshot' && this.#taking) return this.#send(peer, { type: 'snapshotRefused', reason: 'none' }, 'bulk')
        this.#snapshots.message(peer, m, this.#peers.get(peer)!.hello.kind)
        return
      case 'wantChunks': case 'hurryChunks': case 'chunk': case 'noChunks': case 'cancelChunks': case 'haveChunks': case 'askChunks': case 'challenge': case 'proof': case 'status':
        return this.chunks.message(peer, m)
      case 'snapshotBegin': case 'snapshotPiece': case 'snapshotEnd': case 'snapshotRefused':
        if (this.#taking) return this.#taking.message(link, bytes)
        // Elsewhere nobody asked for it.
        this.#keeper?.message(peer, m)
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
        case 'suspect': this.#suspect(e.peer, e.log, e.seq, e.headers); break
        case 'ownAhead': if (this.#drive.metadata.renew) this.#ownAhead(e.peer, e.seq); break
        // Of a device that can read, #lookWhetherAnew sees to it.
        case 'needSnapshot': this.#keeper?.lacking(e.peer); break
        case 'receipt': break
      }
    }
  }

  async #deliver(peer: Peer, log: LogName, from: number, entries: SignedEntry[]): Promise<void> {
    const { journal, device } = this.#drive
    // Ours, and not known to be lost: whoever said so was not believed, but here they are.
    const isOurs = this.#find(log) === journal.incarnation && this.#drive.log.isSignedBy(entries.at(-1)!.signed, device.publicKey)
    if (isOurs && !this.#lost && from + entries.length - 1 > this.#drive.log.head(journal.incarnation).seq) this.#takeBack(from + entries.length - 1, peer)
    const verdict = await this.#drive.inbox.deliver(log, from, entries)
    if (this.#isClosed) return
    this.#tookBack(log)
    if (verdict.accepted >= from) this.#drive.metadata.heard?.(log.device)
    this.#do(this.#sync.verdict(this.#now(), log, verdict))
    if (verdict.then === 'forked') this.#forked(log, verdict.accepted, entries[verdict.accepted - from + 1]!.signed)
    // Whoever waits for our receipt need not wait for the next change here.
    if (verdict.accepted >= from && !this.#drive.journal.stopped) this.#drive.journal.settle().catch(() => { /* stopped; every caller learns from check() */ })
  }

  // --- a lost tail --------------------------------------------------------

  #ownAhead(peer: Peer, seq: number): void {
    const lost = this.#lost
    if (lost) {
      if (!this.#isMistaken(peer)) lost.seq = Math.max(lost.seq, seq)
      return
    }
    if (!this.#isMistaken(peer)) this.#takeBack(seq, peer)
  }

  #isMistaken(peer: Peer): boolean {
    return this.#mistaken.has(peer) || (!this.#peers.get(peer)?.certificate && this.#now() < this.#guests.believedFromMs)
  }

  /** Nothing is written until our entries up to `seq` are here, of which `peer` has said that it holds them. */
  #takeBack(seq: number, peer: Peer): void {
    const { metadata, timers, log, journal } = this.#drive
    this.onNotice(`a peer holds entries of this device up to ${seq}, which are lost here: they are taken back first`)
    metadata.hold?.()
    const before = log.head(journal.incarnation).seq
    const isGuest = !this.#peers.get(peer)?.certificate
    const end = () => {
      // Nobody has them any more: this device begins anew, and makes no entries before.
      if (this.#sync.stuck((p) => this.#isBelieved(p)).some((s) => this.#find(s.log) === journal.incarnation)) {
        this.#lost!.stop = timers.after(TAKE_BACK_MS, end)
        return
      }
      this.#mistaken.add(peer)
      // Some came: their numbers are taken.
      if (log.head(journal.incarnation).seq > before) return this.#renew()
      this.#lost = null
      if (isGuest) this.#guests.believedFromMs = this.#now() + Math.min(MAX_CUT_OFF_MS, GUESTS_SILENCED_MS * 2 ** this.#guests.mistakes++)
      this.onNotice('the lost entries did not come: going on without them')
      metadata.resume?.()
    }
    this.#lost = { seq, stop: timers.after(TAKE_BACK_MS, end) }
  }

  /** Entries of a log came; of our own: perhaps all that were lost. */
  #tookBack(log: LogName): void {
    const { journal } = this.#drive
    const lost = this.#lost
    if (!lost || this.#find(log) !== journal.incarnation || this.#drive.log.head(journal.incarnation).seq < lost.seq) return
    this.#renew()
  }

  #renew(): void {
    this.#lost?.stop()
    this.#lost = null
    const { device, metadata } = this.#drive
    const incarnation = metadata.renew?.()
    if (!incarnation) return
    this.#sync.setOwn({ incarnation, device: device.publicKey })
    this.onNotice('this device goes on as a new incarnation')
  }

  // --- beginning anew -------------------------------------------------------

  /** Whether this device has to take all metadata anew: what it lacks is nowhere any more, or others have ended its log. */
  #lookWhetherAnew(): void {
    if (this.#taking || this.#isClosed) return
    const why = this.#whyAnew()
    if (why === undefined) return
    this.onNotice(`${why}: it takes their metadata, and does again what only it had`)
    this.#taking = new SnapshotLinks()
    // Those who are on this side have to begin anew themselves.
    this.#isEnded = [...this.#peers.keys()].some((peer) => this.#hasEndedUs(peer))
    for (const [peer, { link }] of this.#peers) if (this.#mayGiveUs(peer)) this.#taking.up(link)
    this.#drive.beginAnew!(this.#taking, (text) => this.onNotice(text))
  }

  /** What a peer says of its logs is not signed: only who may write is believed. */
  #isBelieved(peer: Peer): boolean { return this.#peers.get(peer)?.certificate?.role === 'full' }

  /** Whose metadata is taken in place of ours. */
  #mayGiveUs(peer: Peer): boolean {
    return this.#isEnded ? this.#hasEndedUs(peer) : this.#peers.get(peer)!.certificate?.role === 'full'
  }

  /** Whether a device that may write has ended the log of this one, and is not to begin anew itself: of two sides that have set each other aside, the one of fewer does. */
  #hasEndedUs(peer: Peer): boolean {
    const { log, journal, metadata } = this.#drive
    const { link, hello: { view }, certificate } = this.#peers.get(peer)!
    const id = log.incarnationId(journal.incarnation)
    if (certificate?.role !== 'full' || !view?.ended.some((e) => e.equals(id))) return false
    const own = metadata.view
    if (!own || !metadata.hasEnded?.(link.peer)) return true
    return view.writers > own.writers || (view.writers === own.writers && Buffer.compare(view.first, own.first) < 0)
  }

  #whyAnew(): string | undefined {
    const { metadata, members } = this.#drive
    if (!this.#drive.beginAnew || !metadata.asides) return undefined
    const stuck = this.#sync.stuck((peer) => this.#isBelieved(peer))
    const since = new Map<string, { seq: number; sinceMs: number }>()
    let due: LogName | undefined
    for (const { log, seq } of stuck) {
      const before = this.#stuck.get(logKey(log))
      since.set(logKey(log), before?.seq === seq ? before : { seq, sinceMs: this.#now() })
      if (before?.seq === seq && this.#now() - before.sinceMs >= STUCK_MS) due = log
    }
    this.#stuck = since
    const must = metadata.mustBeginAnew
    if (must !== undefined) return must
    if (!this.#drive.mayBeginAnew) return undefined
    if (due) return `this device was away for so long that the others have dropped what it lacks (of ${members.get(due.device)?.name ?? 'a device'})`
    for (const [peer, { link, certificate }] of this.#peers) {
      if (!this.#hasEndedUs(peer)) continue
      // The entry that says so would come, but what is before it may be nowhere any more.
      return metadata.hasEnded?.(link.peer) ? `this device and ${certificate!.name} were apart for so long that each has set the other aside` : `this device was away for so long that ${certificate!.name} has set it aside`
    }
    return undefined
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

  /** An entry came that does not go with those that are here. Who gave it may be honest: it passes on what it has. */
  #forked(log: LogName, accepted: number, signed: Buffer): void {
    const { log: held, metadata } = this.#drive
    if (metadata.forks.has(log)) return
    const inc = this.#find(log)
    const isSigned = (header: Buffer, device: Buffer) => held.isSignedBy(header, device)
    const ours = inc < 0 ? [] : [accepted, accepted + 1].flatMap((seq) => held.stored(inc, seq, 1).slice(0, 1))
    const one = ours.find((o) => isForkProof(log, o.signed, signed, isSigned))?.signed
    // Without proof (the entry is here no more) others are not told.
    if (one) this.#proven(log, { type: 'forked', ...log, one, other: signed }, accepted + 1)
    else this.#tellFork(log, accepted + 1)
  }

  #tellFork(log: LogName, seq: number): void {
    const name = this.#drive.members.get(log.device)?.name
    this.onNotice(`the device ${name === undefined ? '' : `${name}, `}${encodeZ32(log.device)} has written two histories (entry ${seq}): nothing more of it is taken`)
  }

  #suspect(peer: Peer, log: LogName, seq: number, headers: Buffer[]): void {
    const drive = this.#drive
    // Of whom may not write nothing is taken anyway, and nothing kept.
    if (drive.metadata.forks.has(log) || !drive.members.get(log.device)) return
    const inc = this.#find(log)
    const ours = inc < 0 ? undefined : drive.log.stored(inc, seq, 1)[0]?.signed
    const two = headers.length > 1 ? headers : ours ? [ours, headers[0]!] : []
    const isSigned = (signed: Buffer, device: Buffer) => drive.log.isSignedBy(signed, device)
    const pair = [two, two.slice().reverse()].find(([one, other]) => one && other && isForkProof(log, one, other, isSigned))
    if (!pair) {
      this.#do(this.#sync.lied(this.#now(), peer, log, 'it accused a device of a fork and proved none'))
      return
    }
    this.#proven(log, { type: 'forked', ...log, one: pair[0]!, other: pair[1]! }, seq)
  }

  #proven(log: LogName, proof: Forked, seq: number): void {
    const drive = this.#drive
    this.#tellFork(log, seq)
    // Others may have taken something of it and name it, though nothing of it comes here.
    const inc = drive.log.index(log.incarnation, log.device)
    // It outlives this session; and what is told to others is durable here.
    drive.metadata.forks.add(proof)
    drive.journal.touched()
    drive.journal.settle().then(() => {
      if (!this.#isClosed) this.#do(this.#sync.forked(this.#now(), proof))
    }, () => { /* stopped; every caller learns from check() */ })
    // Of our own, from before something was restored: what was written since is another's log from here on.
    if (inc === drive.journal.incarnation) this.#renew()
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
    this.#lookWhetherAnew()
    if (this.#drive.metadata.isCatchingUp && this.#sync.hasCaughtUp) this.#drive.metadata.caughtUp!()
    for (const { link } of this.#peers.values()) this.#drive.metadata.heard?.(link.peer)
    const { keepsEverything } = this.#drive
    if (keepsEverything !== this.#keepsEverything) this.chunks.statusChanged()
    this.#keepsEverything = keepsEverything
    this.#do(this.#sync.tick(this.#now()))
    this.#snapshots.tick()
    this.#keeper?.tick()
    this.chunks.tick()
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
