/**
 * What a device does so that what it holds stays whole: the scrub, the marks that it
 * leaves, and mending by what others hold. The same on a device that reads the drive
 * and on one that cannot.
 */
import type { DriveStatus, OnProgress, MendReport, ScrubReport } from './api.js'
import { Mending, type MendingParts } from './mending.js'
import { Scrubber, type ScrubParts } from './store/scrub.js'
import { Verifier } from './store/verifier.js'

/** What was found is told so long after the first of it: by then most of it is mended. */
const NOTICE_MS = 10_000

export interface CareParts extends Omit<ScrubParts, 'verifier' | 'found'>, Omit<MendingParts, 'db' | 'chunks' | 'timers'> {
  /** What a person should know. */
  onNotice(text: string): void
}

export class Care {
  readonly mending: Mending
  readonly scrubber: Scrubber
  readonly #p: CareParts
  /** Bad chunks that nobody was told of yet; what cancels telling. */
  #untold = 0
  #stopTelling: (() => void) | undefined
  #isClosed = false

  constructor(parts: CareParts) {
    this.#p = parts
    const { chunks, journal } = parts
    this.mending = new Mending(parts)
    this.scrubber = new Scrubber({
      ...parts, verifier: new Verifier(),
      found: (num) => {
        this.mending.mender?.damaged(num)
        this.#untold++
        if (!this.#isClosed) this.#stopTelling ??= parts.timers.after(NOTICE_MS, () => this.#tell())
      },
    })
    chunks.bad.onChange = () => { if (!journal.stopped) journal.touched('derived') }
  }

  /** For the status of the drive. */
  get status(): Pick<DriveStatus, 'damaged' | 'scrub'> {
    const { rate, last, pass, isHurried } = this.scrubber
    const running = pass && { beganMs: pass.beganMs, chunks: pass.chunks, bytes: pass.bytes, found: pass.found, mended: pass.mended, totalBytes: pass.totalBytes, isHurried }
    return { damaged: this.mending.damaged().length, scrub: { rate, last: last ? { ...last } : null, running: running ?? null } }
  }

  /** As DriveApi.scrub. */
  async scrub(options: { restart?: boolean }, onProgress?: OnProgress): Promise<ScrubReport> {
    // Counts what is mended after its end, too.
    const pass = await this.scrubber.run(options, onProgress)
    await this.mending.settle(false, onProgress)
    return { ...pass, left: await this.mending.danger() }
  }

  /** As DriveApi.mend. */
  async mend(onProgress?: OnProgress): Promise<MendReport> {
    const { mending, scrubber } = this
    const bad = new Set(mending.damaged())
    await scrubber.recheck(onProgress)
    for (const num of mending.damaged()) bad.add(num)
    const { chunks: missing } = mending.missing()
    await mending.settle(true, onProgress)
    const left = await mending.danger()
    const stillBad = new Set(mending.damaged())
    return { damaged: bad.size, missing, mended: [...bad].filter((num) => !stillBad.has(num)).length, fetched: Math.max(0, missing - left.missing), left }
  }

  #tell(): void {
    this.#stopTelling = undefined
    const left = this.mending.damaged().length
    const rest = left === 0 ? 'all is sound again' : `${left} are damaged now: dfs repair names the files that need them`
    this.#p.onNotice(`${this.#untold} chunks here were found damaged, and others asked for them; ${rest}`)
    this.#untold = 0
  }

  /** May be called twice. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#stopTelling?.()
    if (this.#untold > 0 && !this.#p.journal.stopped) this.#tell()
    this.mending.close()
    await this.scrubber.close()
  }
}
