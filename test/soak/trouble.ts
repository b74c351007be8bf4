/**
 * What happens to the devices of a soak, one thing at a time, with calm between: a daemon is killed and started again, or stopped for a
 * while; one device is cut off from the others, or halves are from each other, and programs go on on both sides.
 */
import { kill } from '../helpers/mount.js'
import { until, type Member } from '../helpers/member.js'
import type { Lan } from '../helpers/namespaces.js'
import { sleep } from '../helpers/run.js'

export interface TroubleParts {
  lan: Lan
  /** Those with a mount. */
  members: readonly Member[]
  /** The one that only stores. */
  shed: Member
  random(): number
  log(text: string): void
  /** Nothing is at work on that device any more; its mount may go and come. */
  left(member: Member): Promise<void>
}

const LINK_MS = 180_000
/** What follows a trouble may be late, or fail, for so long. */
export const AFTER_MS = 40_000
/** These are not excused by any. */
const NEVER = new Set(['ENOENT', 'EEXIST', 'ENOTEMPTY', 'ENOTDIR', 'EISDIR', 'ENOSPC', 'EINVAL', 'EROFS'])

/** What was read is not what was written. */
export class Wrong extends Error {}

export class Trouble {
  readonly counts = { kills: 0, stops: 0, cuts: 0, splits: 0 }
  readonly #p: TroubleParts
  readonly #down = new Set<Member>()
  #isOn = false
  #endedMs = 0
  #isOver = false
  #isPaused = false
  #running: Promise<void> | undefined

  constructor(parts: TroubleParts) {
    this.#p = parts
  }

  isDown(member: Member): boolean { return this.#down.has(member) }

  /** Whether something was wrong, or has just been, at `sinceMs` or after. */
  wasOn(sinceMs: number): boolean { return this.#isOn || this.#endedMs > sinceMs - AFTER_MS }

  /** When it became calm; now, if it is not. */
  get calmMs(): number { return this.#isOn ? Date.now() : this.#endedMs }

  /** Whether an error of what began at `sinceMs` may come of it. */
  excuses(e: unknown, sinceMs: number): boolean {
    return this.wasOn(sinceMs) && !(e instanceof Wrong) && !NEVER.has((e as { code?: string }).code ?? '')
  }

  /** Goes on until `end`; what it fails with is given to `failed`. */
  start(failed: (e: Error) => void): void {
    this.#running = this.#run().catch(failed)
  }

  async #run(): Promise<void> {
    const { random } = this.#p
    while (!this.#isOver) {
      // Nothing is let go of while somebody is away: there must be time for it.
      await this.#sleep((random() < 0.35 ? 110 : 15 + random() * 30) * 1000)
      if (this.#isOver || this.#isPaused) {
        await sleep(100)
        continue
      }
      this.#isOn = true
      await this.#one()
      await this.linked()
      this.#endedMs = Date.now()
      this.#isOn = false
    }
  }

  async #sleep(ms: number): Promise<void> {
    for (const end = performance.now() + ms; performance.now() < end && !this.#isOver && !this.#isPaused;) await sleep(100)
  }

  async #one(): Promise<void> {
    const { members, shed, random, lan, log, left, counts } = { ...this.#p, counts: this.counts }
    const all = [...members, shed]
    const one = all[Math.floor(random() * all.length)]!
    const roll = random()
    if (roll < 0.4) {
      const ms = (random() < 0.5 ? 1 : 40 * random()) * 1000
      log(`${one.name} is killed for ${(ms / 1000).toFixed(0)} s`)
      counts.kills++
      this.#down.add(one)
      await one.kill()
      await left(one)
      await this.#sleep(ms)
      await this.revive(one)
    } else if (roll < 0.6) {
      const ms = (3 + 40 * random()) * 1000
      log(`${one.name} is stopped for ${(ms / 1000).toFixed(0)} s`)
      counts.stops++
      kill(one.pid, 'SIGSTOP')
      try { await this.#sleep(ms) } finally { kill(one.pid, 'SIGCONT') }
    } else if (roll < 0.85) {
      // Now and then for longer than what was is kept.
      const ms = (random() < 0.3 ? 100 : 10 + 50 * random()) * 1000
      log(`${one.name} is cut off for ${(ms / 1000).toFixed(0)} s`)
      counts.cuts++
      await lan.split(all.filter((m) => m !== one).map((m) => m.name), [one.name])
      await this.#sleep(ms)
      await lan.heal()
    } else {
      const half = new Set([...all].sort(() => random() - 0.5).slice(0, 2).map((m) => m.name))
      const ms = (10 + 50 * random()) * 1000
      log(`${[...half].join(' and ')} are cut off together for ${(ms / 1000).toFixed(0)} s`)
      counts.splits++
      await lan.split(all.map((m) => m.name).filter((n) => !half.has(n)), [...half])
      await this.#sleep(ms)
      await lan.heal()
    }
  }

  async revive(one: Member): Promise<void> {
    const peers = [...this.#p.members, this.#p.shed].filter((m) => m !== one).flatMap((m) => ['--peer', m.address])
    if (one === this.#p.shed) await one.serve(...peers)
    else await one.mount(...peers)
    this.#down.delete(one)
  }

  /** Every device is connected to all others. */
  async linked(): Promise<void> {
    const { members, shed } = this.#p
    for (const m of [...members, shed]) await until(`${m.name} is connected to all`, async () => (await m.status()).peers.length === members.length, LINK_MS, 200)
  }

  /** What is on ends now, and nothing begins until `resume`. */
  async pause(): Promise<void> {
    this.#isPaused = true
    while (this.#isOn) await sleep(50)
  }

  resume(): void { this.#isPaused = false }

  async end(): Promise<void> {
    this.#isOver = true
    await this.#running
  }
}
