/**
 * Where logs begin on a device that needs no snapshot: others drop entries that
 * are stable, so what is missing here may be nowhere any more. Then the log goes
 * on from the first entry that somebody has. A step machine.
 *
 * What a peer says of the first entry is not signed: only devices that the drive
 * has enrolled as full are believed, or a stranger could make a log skip.
 */
import { MAX_PEER_LOGS, logKey, type Have, type HeldLog, type LogName, type Peer } from './messages.js'

/** The log has not moved for so long: nobody, a storage peer neither, gives what precedes. */
const WAIT_MS = 10_000

export class LogStarts {
  readonly #claims = new Map<Peer, Map<string, HeldLog>>()
  readonly #stuck = new Map<string, { seq: number; sinceMs: number }>()

  /** A full device has said what it holds. */
  heard(peer: Peer, have: Have): void {
    let logs = this.#claims.get(peer)
    if (!logs || have.isFull) this.#claims.set(peer, (logs = new Map()))
    for (const held of have.logs) {
      const key = logKey(held)
      if (logs.has(key) || logs.size < MAX_PEER_LOGS) logs.set(key, held)
    }
  }

  down(peer: Peer): void { this.#claims.delete(peer) }

  /** Logs that go on at `first`. `seqOf`: the last entry that is here. */
  due(nowMs: number, seqOf: (log: LogName) => number): { log: LogName; first: number }[] {
    const firsts = new Map<string, { log: LogName; first: number }>()
    for (const logs of this.#claims.values()) {
      for (const [key, held] of logs) {
        if (held.seq <= seqOf(held) || held.first > held.seq) continue
        const best = firsts.get(key)
        if (!best || held.first < best.first) firsts.set(key, { log: { incarnation: held.incarnation, device: held.device }, first: held.first })
      }
    }
    for (const key of this.#stuck.keys()) if (!firsts.has(key)) this.#stuck.delete(key)
    const due: { log: LogName; first: number }[] = []
    for (const [key, start] of firsts) {
      const seq = seqOf(start.log)
      const stuck = this.#stuck.get(key)
      if (start.first <= seq + 1) this.#stuck.delete(key)
      else if (stuck?.seq !== seq) this.#stuck.set(key, { seq, sinceMs: nowMs })
      else if (nowMs - stuck.sinceMs >= WAIT_MS) {
        this.#stuck.delete(key)
        due.push(start)
      }
    }
    return due
  }
}
