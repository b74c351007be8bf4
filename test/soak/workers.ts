/** What runs on the mounts of a soak, and stands still when it is told to; and what reads there, past the page cache. */
import { constants, promises as fs } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import type { Member } from '../helpers/member.js'
import { sleep } from '../helpers/run.js'
import { shaOfBytes, type Blocks } from './blocks.js'
import type { Expected } from './expected.js'
import type { SoakFleet } from './fleet.js'
import { Wrong, type Trouble } from './trouble.js'

export interface ProgramParts {
  member: Member
  fleet: SoakFleet
  blocks: Blocks
  expected: Expected
  trouble: Trouble
  counts: { written: number; changed: number; removed: number; restored: number; held: number; reads: number; excused: number }
  random(): number
  failed(e: Error): void
}

/** Others may show what was for so long; and fail to show anything. */
const LATE_MS = 30_000
const DEADLINE_MS = 150_000

/** Past the page cache; null: nothing is there. */
export async function readDirect(path: string): Promise<Buffer | null> {
  const file = await fs.open(path, constants.O_RDONLY | constants.O_DIRECT).catch((e: NodeJS.ErrnoException) => {
    if (e.code !== 'ENOENT') throw e
    return null
  })
  if (!file) return null
  try { return await readAll(file) } finally { await file.close() }
}

export async function readAll(file: FileHandle): Promise<Buffer> {
  const bytes = Buffer.alloc((await file.stat()).size + 1)
  let got = 0
  for (let n = 0; got < bytes.length && (n = (await file.read(bytes, got, bytes.length - got, got)).bytesRead) > 0;) got += n
  return bytes.subarray(0, got)
}

/** Of which many run at once: each does one thing after the other, and stands still when it is told to, or its device is down. */
export abstract class Worker {
  #state: 'running' | 'paused' | 'ended' = 'running'
  #isBusy = false

  constructor(readonly p: ProgramParts, readonly paceMs: number) {
    void this.#run()
  }

  async #run(): Promise<void> {
    // What it is made of is not there before its constructor is over.
    await sleep(1)
    while (this.#state !== 'ended') {
      if (this.#state === 'paused' || this.p.trouble.isDown(this.p.member)) {
        await this.idle()
        this.#isBusy = false
        await sleep(20)
        continue
      }
      this.#isBusy = true
      const startMs = Date.now()
      try {
        await this.step()
      } catch (e) {
        if (!this.p.trouble.excuses(e, startMs)) {
          this.#state = 'ended'
          this.p.failed(e as Error)
        }
        this.p.counts.excused++
        await sleep(500)
      }
      this.#isBusy = false
      await sleep(this.paceMs * 2 * this.p.random())
    }
    await this.idle()
  }

  abstract step(): Promise<void>
  /** Nothing of its device is in use. */
  async idle(): Promise<void> {}

  async pause(): Promise<void> {
    if (this.#state === 'running') this.#state = 'paused'
    await this.left()
  }

  async left(): Promise<void> { while (this.#isBusy) await sleep(10) }

  resume(): void { if (this.#state === 'paused') this.#state = 'running' }

  async end(): Promise<void> {
    this.#state = 'ended'
    await this.left()
  }

  pick<T>(all: readonly T[]): T { return all[Math.floor(this.p.random() * all.length)]! }

  at(path: string): string { return this.p.member.at(path) }
}

/** Reads what others write. */
export class Reader extends Worker {
  async step(): Promise<void> {
    const { expected, trouble, member, counts } = this.p
    const paths = expected.paths
    if (paths.length === 0) return
    const path = this.pick(paths)
    const startMs = Date.now()
    let seen = ''
    for (;;) {
      const fromMs = Date.now()
      try {
        const found = await readDirect(this.at(path))
        const sha = found && shaOfBytes(found)
        // Those that were apart see what was then.
        if (expected.since(path, trouble.wasOn(fromMs - LATE_MS) ? 0 : fromMs - LATE_MS).some((v) => (v.content?.sha ?? null) === sha)) break
        seen = found ? `${found.length} bytes, ${sha!.slice(0, 12)}` : 'nothing'
      } catch (e) {
        seen = (e as Error).message
      }
      if (trouble.isDown(member)) return
      if (Date.now() - Math.max(startMs, trouble.calmMs) > DEADLINE_MS) throw new Wrong(`${member.name} reads of ${path}: ${seen}; ${expected.describe(path)}`)
      await sleep(200)
    }
    counts.reads++
  }
}
