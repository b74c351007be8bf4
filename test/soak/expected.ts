/**
 * What each path of a soak holds, and has held when: only one program changes it, and says so before and after. What a change that
 * failed has left is not known until that program has looked.
 */
import type { Content } from './blocks.js'

/** Versions are known for so long after they have gone. */
const KNOWN_MS = 900_000

/** Null: nothing is there. Milliseconds since 1970: the change to it began and was over, the next began and was over. */
export interface Version { content: Content | null; fromMs: number; sureMs: number; goneMs: number; goneSureMs: number }
/** What a change that failed may have left: one of these, or what lies between the two. */
export type Unsure = [before: Content | null, after: Content | null]

export class Expected {
  readonly #paths = new Map<string, Version[]>()
  readonly #unsure = new Map<string, Unsure>()

  get paths(): string[] { return [...this.#paths.keys()] }

  /** Undefined: that is not known. */
  now(path: string): Content | null | undefined {
    return this.#unsure.has(path) ? undefined : this.#last(path)?.content ?? null
  }

  /** Files that are there. */
  there(): Map<string, Content> {
    const out = new Map<string, Content>()
    for (const path of this.paths) {
      const content = this.now(path)
      if (content === undefined) throw new Error(`${path} is not known`)
      if (content) out.set(path, content)
    }
    return out
  }

  versions(path: string): number { return this.#paths.get(path)?.length ?? 0 }

  #last(path: string): Version | undefined { return this.#paths.get(path)?.at(-1) }

  /** These change, until `changed` or `failed`. */
  changing(paths: Iterable<string>): number {
    const now = Date.now()
    for (const path of paths) {
      const last = this.#last(path)
      // A change before it may have failed, and done what it was to do.
      if (last) last.goneMs = Math.min(last.goneMs, now)
    }
    return now
  }

  changed(path: string, content: Content | null, fromMs: number): void {
    const now = Date.now()
    const versions = this.#paths.get(path) ?? []
    if (versions.length > 0) versions.at(-1)!.goneSureMs = now
    const first = versions.findIndex((v) => v.goneSureMs > now - KNOWN_MS)
    if (first > 0) versions.splice(0, first)
    versions.push({ content, fromMs, sureMs: now, goneMs: Infinity, goneSureMs: Infinity })
    this.#paths.set(path, versions)
    this.#unsure.delete(path)
  }

  failed(path: string, unsure: Unsure): void { this.#unsure.set(path, unsure) }

  unsureIn(folder: string): [string, Unsure][] { return [...this.#unsure].filter(([path]) => path.startsWith(`${folder}/`)) }

  /** What surely was there at a time, when nothing happened to the path for `marginMs` on both sides; undefined if that is not so. */
  at(path: string, atMs: number, marginMs: number): Version | undefined {
    if (this.#unsure.has(path)) return undefined
    return this.#paths.get(path)?.find((v) => v.sureMs + marginMs < atMs && atMs < v.goneMs - marginMs)
  }

  /** Versions that somebody may see who reads from `sinceMs` on. */
  since(path: string, sinceMs: number): Version[] {
    return (this.#paths.get(path) ?? []).filter((v) => v.goneSureMs >= sinceMs)
  }

  describe(path: string): string {
    const now = Date.now()
    const ago = (ms: number) => (ms === Infinity ? 'now' : `-${((now - ms) / 1000).toFixed(2)}`)
    const versions = (this.#paths.get(path) ?? []).slice(-8).map((v) => `${ago(v.fromMs)}..${ago(v.sureMs)} to ${ago(v.goneMs)}..${ago(v.goneSureMs)}: ${v.content ? `${v.content.size} bytes, ${v.content.sha.slice(0, 12)}` : 'nothing'}`)
    return `${path}, seconds ago:\n  ${versions.join('\n  ')}${this.#unsure.has(path) ? '\n  a change failed' : ''}`
  }
}
