/** Two histories of one log: proven, kept, told; nothing more of it is taken. */
import { encodeZ32 } from '../keys/zbase32.js'
import { isForkProof } from './fork.js'
import type { SwarmHost } from './host.js'
import type { Forked, LogName, Peer } from './messages.js'

export interface ForkWatchParts {
  drive: SwarmHost
  /** Its local index; -1: nothing is here. */
  find(log: LogName): number
  /** A proof that is durable here. */
  proven(proof: Forked): void
  /** Our own log: what is written from here on is another's. */
  ours(): void
  lied(peer: Peer, log: LogName, why: string): void
  notice(text: string): void
}

export class ForkWatch {
  readonly #p: ForkWatchParts

  constructor(parts: ForkWatchParts) {
    this.#p = parts
  }

  /** An entry came that does not go with those that are here. Who gave it may be honest: it passes on what it has. */
  came(log: LogName, accepted: number, signed: Buffer): void {
    const { log: held, metadata } = this.#p.drive
    if (metadata.forks.has(log)) return
    const inc = this.#p.find(log)
    const isSigned = (header: Buffer, device: Buffer) => held.isSignedBy(header, device)
    const ours = inc < 0 ? [] : [accepted, accepted + 1].flatMap((seq) => held.stored(inc, seq, 1).slice(0, 1))
    const one = ours.find((o) => isForkProof(log, o.signed, signed, isSigned))?.signed
    // Without proof (the entry is here no more) others are not told.
    if (one) this.#proven(log, { type: 'forked', ...log, one, other: signed }, accepted + 1)
    else this.#tell(log, accepted + 1)
  }

  /** A peer has shown signed headers of entry `seq`: one, which differs from ours, or two. */
  suspected(peer: Peer, log: LogName, seq: number, headers: Buffer[]): void {
    const { log: held, metadata, members } = this.#p.drive
    // Of whom may not write nothing is taken anyway, and nothing kept.
    if (metadata.forks.has(log) || !members.get(log.device)) return
    const inc = this.#p.find(log)
    const ours = inc < 0 ? undefined : held.stored(inc, seq, 1)[0]?.signed
    const two = headers.length > 1 ? headers : ours ? [ours, headers[0]!] : []
    const isSigned = (signed: Buffer, device: Buffer) => held.isSignedBy(signed, device)
    const pair = [two, two.slice().reverse()].find(([one, other]) => one && other && isForkProof(log, one, other, isSigned))
    if (!pair) return this.#p.lied(peer, log, 'it accused a device of a fork and proved none')
    this.#proven(log, { type: 'forked', ...log, one: pair[0]!, other: pair[1]! }, seq)
  }

  #tell(log: LogName, seq: number): void {
    const name = this.#p.drive.members.get(log.device)?.name
    this.#p.notice(`the device ${name === undefined ? '' : `${name}, `}${encodeZ32(log.device)} has written two histories (entry ${seq}): nothing more of it is taken`)
  }

  #proven(log: LogName, proof: Forked, seq: number): void {
    const { log: held, metadata, journal } = this.#p.drive
    this.#tell(log, seq)
    // Others may have taken something of it and name it, though nothing of it comes here.
    const inc = held.index(log.incarnation, log.device)
    // It outlives this session; and what is told to others is durable here.
    metadata.forks.add(proof)
    journal.touched()
    journal.settle().then(() => this.#p.proven(proof), () => { /* stopped; every caller learns from check() */ })
    // From before something was restored.
    if (inc === journal.incarnation) this.#p.ours()
  }
}
