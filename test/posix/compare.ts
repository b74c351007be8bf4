/** The same random operations (fsrand.c) on two folders, and the first line in which they differ. */
import { constants } from 'node:os'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { compile, must } from '../helpers/run.js'

const CONTEXT_LINES = 12
/** A short tree dump often shows a difference that the operations' own lines missed; it costs as much as 300 of them. */
const DUMP_EVERY_OPS = 500

export interface FsrandRun { seed: number; ops: number }
/** Lines before the first difference, then that line of each, as text to print. */
export interface Difference { line: number; text: string }

/** Runs on `reference` and on `target` in fresh folders; undefined if nothing differs. */
export async function compareFsrand(reference: string, target: string, { seed, ops }: FsrandRun): Promise<Difference | undefined> {
  const program = compile('test/posix/fsrand.c')
  const runIn = async (parent: string): Promise<string[]> => {
    const dir = mkdtempSync(join(parent, 'fsrand-'))
    try {
      return (await must(program, [dir, String(seed), String(ops), String(DUMP_EVERY_OPS)])).split('\n')
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }
  const wanted = await runIn(reference)
  const got = await runIn(target)
  const at = wanted.findIndex((line, i) => line !== got[i])
  if (at < 0 && wanted.length === got.length) return undefined
  const line = at < 0 ? wanted.length : at
  const text = [
    ...wanted.slice(Math.max(0, line - CONTEXT_LINES), line).map((l) => `    ${readable(l)}`),
    `  - ${readable(wanted[line] ?? '(ended)')}`,
    `  + ${readable(got[line] ?? '(ended)')}`,
    `fsrand: seed ${seed}, ${ops} operations: line ${line + 1} differs (- ${reference}, + ${target})`,
  ].join('\n')
  return { line, text }
}

const NAMES = new Map(Object.entries(constants.errno).map(([name, n]) => [n as number, name]))

function readable(line: string): string {
  return line.replace(/(?<=[=|] )E(\d+)/g, (all, n: string) => NAMES.get(Number(n)) ?? all)
}
