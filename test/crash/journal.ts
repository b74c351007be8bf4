/**
 * What a writer said it would do and what it was told is done, one JSON object a
 * line, in a file outside the mount: the writers and their machine survive the
 * daemon's death, so the journal needs no sync.
 *
 * `begin` is written before an operation is tried, `done` after it succeeded;
 * between the two a crash leaves either state.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import type { Change } from './pattern.js'

/** `file` numbers contents over all writers of a run; `path` is relative to the mount. */
export type Step =
  /** A new file, empty. */
  | { op: 'create'; file: number; path: string }
  | { op: 'change'; file: number; change: Change }
  | { op: 'fsync'; file: number }
  /** Onto what may be there: `file` gets the name, and its old name goes. */
  | { op: 'rename'; file: number; from: string; to: string }
  | { op: 'link'; file: number; to: string }
  | { op: 'unlink'; path: string }
  /** fsync of a directory: everything so far is durable. */
  | { op: 'syncdir' }

export type Line = Step & { at: 'begin' | 'done' }

export class Journal {
  constructor(readonly path: string) {}

  /** Runs `action` between its two lines. When it throws, there is no second. */
  do<T>(step: Step, action: () => T): T {
    this.#add(step, 'begin')
    const result = action()
    this.#add(step, 'done')
    return result
  }

  #add(step: Step, at: Line['at']): void {
    appendFileSync(this.path, `${JSON.stringify({ ...step, at })}\n`)
  }
}

export function readJournal(path: string): Line[] {
  if (!existsSync(path)) return [] // killed before its first step
  // The writer itself is never killed in the middle of a line.
  return readFileSync(path, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line) as Line)
}
