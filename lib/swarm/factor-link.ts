/**
 * Carries what directories want of chunks (lib/store/factor-table.ts) to devices that cannot read
 * the tree: such a one asks a device that may write, now and then, whether it has the same, and is
 * given the buckets that are otherwise.
 */
import type { Certificate } from '../keys/certificate.js'
import { MAX_BUCKET_CHUNKS } from '../limits.js'
import type { SwarmHost } from './host.js'
import type { AskFactors, Factors, Peer } from './messages.js'

const EVERY_MS = 3000
/** A device that is busy takes its time; then another is asked. */
const ANSWER_MS = 30_000
/** Chunks in one answer, but for its last bucket. */
const ANSWER_CHUNKS = 16_384

export interface FactorLinkHost {
  drive: SwarmHost
  peers: ReadonlyMap<Peer, { certificate: Certificate | undefined }>
  nowMs(): number
  send(peer: Peer, m: AskFactors | Factors): void
}

export class FactorLink {
  readonly #p: FactorLinkHost
  /** Who was asked, and until when it may answer. */
  #asked: { peer: Peer; untilMs: number } | null = null
  #askAtMs = 0
  #turn = 0

  constructor(host: FactorLinkHost) {
    this.#p = host
  }

  /** Every second or so. */
  tick(): void {
    const { drive, nowMs } = this.#p
    if (!drive.takePlan || !drive.factors || (drive.keeping?.plan?.factors.length ?? 1) === 1) return
    if (this.#asked && nowMs() < this.#asked.untilMs) return
    this.#asked = null
    if (nowMs() >= this.#askAtMs) this.#ask()
  }

  #ask(): void {
    const { drive, peers, nowMs, send } = this.#p
    const full = [...peers].filter(([, p]) => p.certificate?.role === 'full').map(([peer]) => peer)
    if (full.length === 0) return
    const peer = full[this.#turn++ % full.length]!
    this.#asked = { peer, untilMs: nowMs() + ANSWER_MS }
    this.#askAtMs = nowMs() + EVERY_MS
    send(peer, { type: 'askFactors', hashes: drive.factors!.hashes() })
  }

  /** Of who was not asked it counts for nothing. */
  answered(peer: Peer, { buckets }: Factors): void {
    const { drive } = this.#p
    if (this.#asked?.peer !== peer || drive.journal.stopped) return
    this.#asked = null
    if (buckets.length === 0) return
    for (const { bucket, chunks } of buckets) drive.factors!.setBucket(bucket, chunks)
    drive.journal.touched('derived')
    // There may be more.
    this.#askAtMs = 0
  }

  asked(peer: Peer, { hashes }: AskFactors): void {
    const { drive, send } = this.#p
    const buckets: Factors['buckets'] = []
    let chunks = 0
    for (const bucket of drive.keys.canWrite ? drive.factors?.differing(hashes) ?? [] : []) {
      const some = drive.factors!.bucket(bucket, MAX_BUCKET_CHUNKS)
      buckets.push({ bucket, chunks: some })
      chunks += some.length
      if (chunks >= ANSWER_CHUNKS) break
    }
    send(peer, { type: 'factors', buckets })
  }

  down(peer: Peer): void {
    if (this.#asked?.peer === peer) this.#asked = null
  }
}
