/** Chunks that are in another place than the store: a source of sealed bytes in memory, which does as it is told. */
import { Drive, type OpenOptions } from '../../lib/drive.js'
import type { ChunkSource, Urgency } from '../../lib/file/fetch.js'
import { sealedLength } from '../../lib/seal/chunk.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'

export interface Wanted { id: string; urgency: Urgency; signal: AbortSignal; answer: () => void; refuse: (why: string) => void }

export class Elsewhere implements ChunkSource {
  readonly sealed = new Map<string, Buffer>()
  /** What was asked for so far, in order. */
  readonly wanted: Wanted[] = []
  /** Answers wait for `answer` or `refuse` of each. */
  isSlow = false
  /** Given in place of the bytes. */
  lie: ((sealed: Buffer) => Buffer) | null = null
  #waiting: (() => void)[] = []

  async fetch(id: Buffer, { urgency, signal }: { urgency: Urgency; signal: AbortSignal }): Promise<Buffer> {
    const name = id.toString('hex')
    let settle!: { answer: () => void; refuse: (why: string) => void }
    const gate = new Promise<void>((resolve, reject) => (settle = { answer: resolve, refuse: (why) => reject(new Error(why)) }))
    this.wanted.push({ id: name, urgency, signal, ...settle })
    for (const w of this.#waiting.splice(0)) w()
    if (this.isSlow) await gate
    const sealed = this.sealed.get(name)
    if (!sealed) throw new Error('nobody has it')
    return this.lie ? this.lie(sealed) : Buffer.from(sealed)
  }

  /** Resolves when at least `n` were asked for. */
  async asked(n: number): Promise<void> {
    while (this.wanted.length < n) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }
}

/** Takes all chunks of a drive into `source`; the drive knows them as before. */
export async function takeAway(drive: Drive, source: Elsewhere): Promise<number> {
  await drive.gc() // small content too
  const rows = drive.db.sql.prepare('SELECT num, seg, off, len, id FROM chunk WHERE seg > 0').all() as { num: number; seg: number; off: number; len: number; id: Buffer }[]
  for (const r of rows) {
    source.sealed.set(r.id.toString('hex'), await drive.store.read(r.seg, r.off, sealedLength(r.len)))
    drive.chunks.move(r.num, ELSEWHERE, 0)
    drive.reader.forget(r.num)
  }
  drive.journal.touched()
  await drive.sync()
  return rows.length
}

/** A drive in `dir` with these files, whose content is all in `source`. */
export async function driveElsewhere(dir: string, files: Record<string, Buffer>, options: OpenOptions = {}): Promise<{ drive: Drive; source: Elsewhere }> {
  await (await Drive.create(dir)).close()
  const source = new Elsewhere()
  const drive = await Drive.open(dir, { source, ...options })
  for (const [path, content] of Object.entries(files)) {
    const f = await drive.open(path, 'w')
    for (let at = 0; at < content.length; at += 1 << 20) await f.write(at, content.subarray(at, at + (1 << 20)))
    await f.close()
  }
  await drive.sync()
  await takeAway(drive, source)
  return { drive, source }
}
