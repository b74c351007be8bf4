/** A device that does nothing but sync logs: LogSync on a fake disk and a simulated network. */
import { entryHash } from '../../lib/log/entry.js'
import { MAX_HELD_BYTES, MAX_UNDURABLE_BYTES } from '../../lib/swarm/intake.js'
import { LogSync, type SyncEffect, type Verdict } from '../../lib/swarm/sync.js'
import { MAX_ENTRY_BYTES, logKey, type Forked, type LogName, type Message, type SignedEntry, type SyncMessage } from '../../lib/swarm/messages.js'
import { decode, encode } from '../../lib/swarm/wire.js'
import { FakeDevice, FakeDisk, headOf, isWhole, seqOf, verifiedHeader, type FakeLog } from './fake-log.js'
import type { SimNetwork } from './network.js'

export class LogNode {
  readonly name: string
  readonly device: FakeDevice
  readonly disk = new FakeDisk()
  own: LogName
  readonly net: SimNetwork
  sync!: LogSync
  isUp = false
  /** Peers that were caught, and with what. */
  readonly caught: { peer: string; why: string }[] = []
  readonly snapshotsNeeded: string[] = []
  receipts = new Map<string, number>()
  /** It may not write until it has its own tail back. */
  isBehindItself = false
  mostBytes = 0
  deliveredEntries = 0
  /** Changes what is sent: a liar. */
  tamper: (peer: string, m: SyncMessage) => SyncMessage[] = (_peer, m) => [m]
  #incarnations = 0
  #stops: (() => void)[] = []
  readonly #effects: SyncEffect[] = []
  #isActing = false
  #life = 0
  readonly #pushFrom = new Map<string, number>()
  readonly #delivered = new Map<string, number>()

  constructor(net: SimNetwork, name: string) {
    this.net = net
    this.name = name
    this.device = new FakeDevice(name)
    this.own = this.#newIncarnation()
    this.disk.queued = (peer) => net.queuedBytes(name, peer)
  }

  #newIncarnation(): LogName {
    const incarnation = Buffer.alloc(16)
    incarnation.write(`${this.name} ${++this.#incarnations}`)
    return { incarnation, device: this.device.key }
  }

  // --- life ---

  start(): void {
    this.isUp = true
    this.#life++
    this.#delivered.clear()
    this.#pushFrom.clear()
    this.isBehindItself = false
    this.sync = new LogSync(this.disk, this.own)
    this.net.add(this.name, {
      onUp: (peer) => this.#do(this.sync.peerUp(this.net.nowMs, peer)),
      onDown: (peer) => this.#do(this.sync.peerDown(this.net.nowMs, peer)),
      onDrain: (peer) => this.#do(this.sync.drained(this.net.nowMs, peer)),
      onMessage: (peer, bytes) => this.#onMessage(peer, bytes),
    })
    this.#stops = [
      this.net.every(100, () => this.#do(this.sync.tick(this.net.nowMs))),
      this.net.every(this.net.between(20, 400), () => this.syncDisk()),
    ]
  }

  crash(): void {
    this.isUp = false
    for (const stop of this.#stops) stop()
    this.#effects.length = 0
    this.disk.forget()
    this.net.remove(this.name)
  }

  // --- work ---

  write(content: Buffer): void {
    if (this.isBehindItself) return
    const log = this.disk.open(this.own)
    if (!this.#pushFrom.has(logKey(this.own))) this.#pushFrom.set(logKey(this.own), seqOf(log) + 1)
    this.disk.append(log, this.device.entry(this.own, seqOf(log) + 1, headOf(log), content))
  }

  syncDisk(): void {
    const changed = this.disk.sync()
    if (changed.length === 0) return
    const ownKey = logKey(this.own)
    const mine = changed.find((log) => logKey(log.name) === ownKey)
    const others = changed.filter((log) => log !== mine)
    if (others.length > 0) this.#do(this.sync.durable(this.net.nowMs, others.map((log) => this.disk.heldLog(log))))
    const from = this.#pushFrom.get(ownKey)
    if (mine && from !== undefined) {
      this.#pushFrom.delete(ownKey)
      this.#do(this.sync.localEntries(this.net.nowMs, this.disk.heldLog(mine), from, mine.entries.slice(from - mine.first)))
    } else if (mine) this.#do(this.sync.durable(this.net.nowMs, [this.disk.heldLog(mine)]))
  }

  /** Old entries go: they are stable, say. */
  truncate(name: LogName, first: number): void {
    const log = this.disk.open(name)
    log.entries = log.entries.slice(first - log.first)
    log.first = first
    this.syncDisk()
  }

  /** What a snapshot gives: another device's logs up to their heads, without entries. */
  adopt(other: LogNode): void {
    const logs: FakeLog[] = []
    for (const log of other.disk.logs.values()) {
      const mine = this.disk.open(log.name)
      if (seqOf(mine) >= seqOf(log)) continue
      Object.assign(mine, { first: seqOf(log) + 1, entries: [], hashes: [headOf(log)] })
      logs.push(mine)
    }
    this.disk.sync()
    for (const log of logs) this.#delivered.delete(logKey(log.name))
    this.#do(this.sync.adopted(this.net.nowMs, logs.map((log) => this.disk.heldLog(log))))
  }

  // --- effects ---

  #onMessage(peer: string, bytes: Buffer): void {
    let m: Message
    try { m = decode(bytes) } catch {
      this.caught.push({ peer, why: 'damaged message' })
      return this.net.disconnect(this.name, peer)
    }
    this.#do(this.sync.message(this.net.nowMs, peer, m as SyncMessage))
  }

  /** In order, also when one effect leads to another event. */
  #do(effects: SyncEffect[]): void {
    this.#effects.push(...effects)
    if (this.#isActing) return
    this.#isActing = true
    for (let e = this.#effects.shift(); e; e = this.#effects.shift()) this.#act(e)
    this.#isActing = false
    this.#check()
  }

  #act(e: SyncEffect): void {
    switch (e.type) {
      case 'send': for (const m of this.tamper(e.peer, e.message)) this.net.send(this.name, e.peer, encode(m), e.priority); break
      case 'deliver': this.#judge(e); break
      case 'suspect': this.#suspect(e); break
      case 'ownAhead': this.#onOwnAhead(); break
      case 'needSnapshot': this.snapshotsNeeded.push(e.peer); break
      case 'receipt': this.receipts.set(e.peer, e.seq); break
      case 'lying':
        this.caught.push({ peer: e.peer, why: e.why })
        this.net.disconnect(this.name, e.peer)
        break
      case 'certificates': break
    }
  }

  /** Writes nothing until the tail is here; what was not synced would fork the log. After a while the claim was false. */
  #onOwnAhead(): void {
    this.isBehindItself = true
    const key = logKey(this.own)
    if (this.#pushFrom.delete(key)) this.disk.accepted.delete(key)
    const life = this.#life
    this.net.after(3000, () => { if (life === this.#life) this.isBehindItself = false })
  }

  /** Verifying takes its time, as it does in a worker. */
  #judge(e: SyncEffect & { type: 'deliver' }): void {
    const key = logKey(e.log)
    const before = this.#delivered.get(key) ?? seqOf(this.disk.open(e.log))
    if (e.from !== before + 1) throw new Error(`${this.name}: entry ${e.from} was delivered after ${before}`)
    const life = this.#life
    this.net.after(this.net.between(0, 30), () => {
      if (life !== this.#life || !this.isUp) return
      const verdict = this.#verdict(e.log, e.from, e.entries)
      this.#delivered.set(key, verdict.accepted)
      this.#do(this.sync.verdict(this.net.nowMs, e.log, verdict))
    })
  }

  #verdict(name: LogName, from: number, entries: SignedEntry[]): Verdict {
    const log = this.disk.open(name)
    for (const [i, entry] of entries.entries()) {
      const seq = from + i
      const header = verifiedHeader(entry.signed)
      if (!header || !isWhole(entry) || logKey(header) !== logKey(name) || header.seq !== seq) return { accepted: seq - 1, then: 'invalid' }
      if (seq === seqOf(log) + 1 && !header.previous.equals(headOf(log))) {
        this.#prove({ type: 'forked', ...log.name, one: log.entries.at(-1)!.signed, other: entry.signed })
        return { accepted: seq - 1, then: 'forked' }
      }
      if (seq !== seqOf(log) + 1) throw new Error(`${this.name}: ${seq} accepted after ${seqOf(log)}`)
      this.disk.append(log, entry)
      this.deliveredEntries++
    }
    if (this.isBehindItself && logKey(name) === logKey(this.own)) {
      this.#renew()
    }
    return { accepted: from + entries.length - 1 }
  }

  #renew(): void {
    this.isBehindItself = false
    this.#pushFrom.delete(logKey(this.own))
    this.own = this.#newIncarnation()
    this.sync.setOwn(this.own)
  }

  #suspect(e: SyncEffect & { type: 'suspect' }): void {
    const one = e.headers[0]!
    const other = e.headers[1] ?? this.disk.read(e.log, e.seq, e.seq, 1e9)[0]?.signed
    const a = verifiedHeader(one), b = other && verifiedHeader(other)
    const isProof = a && b && logKey(a) === logKey(e.log) && logKey(b) === logKey(e.log)
      && ((a.seq === b.seq && !entryHash(one).equals(entryHash(other))) || (b.seq === a.seq + 1 && !b.previous.equals(entryHash(one))))
    if (isProof) this.#prove({ type: 'forked', ...e.log, one, other })
    else this.#do(this.sync.lied(this.net.nowMs, e.peer, e.log, 'a suspicion that is false'))
  }

  #prove(proof: Forked): void {
    if (this.disk.proofs.some((p) => logKey(p) === logKey(proof))) return
    this.disk.proofs.push(proof)
    if (logKey(proof) === logKey(this.own)) this.#renew()
    this.#do(this.sync.forked(this.net.nowMs, proof))
  }

  #check(): void {
    const { asked, kept, judged, undurable } = this.sync.bytes
    const sum = asked + kept + judged
    if (Math.min(asked, kept, judged, undurable) < 0) throw new Error(`${this.name}: counted below zero: ${JSON.stringify(this.sync.bytes)}`)
    if (sum > MAX_HELD_BYTES) throw new Error(`${this.name}: ${sum} bytes held`)
    if (undurable + judged > MAX_UNDURABLE_BYTES + MAX_ENTRY_BYTES) throw new Error(`${this.name}: ${undurable} bytes not durable`)
    this.mostBytes = Math.max(this.mostBytes, sum)
  }
}

/** Every log as text, to compare devices. */
export function dump(node: LogNode): string {
  return [...node.disk.logs.values()].filter((log) => seqOf(log) > 0)
    .map((log) => `${log.name.incarnation.toString('latin1')} ${log.name.device.toString('hex').slice(0, 8)} ${seqOf(log)} ${headOf(log).toString('hex').slice(0, 12)}`)
    .sort().join('\n')
}
