/** A command that must fail: with one line that says what happened and what to do, and nothing else. */
import type { Ran } from './run.js'

/** Exit code and message without the `dfs: `; throws unless it failed in good order. */
export function refused({ code, stdout, stderr }: Ran): [code: number, message: string] {
  const said = `exit code ${code}\n${stdout}${stderr}`
  if (code === 0 || stdout !== '' || !/^dfs: [^\n]+\n$/.test(stderr)) throw new Error(`not one line of error: ${said}`)
  if (/\bat .*:\d+:\d+|this should not have happened|\[object|undefined/.test(stderr)) throw new Error(`no error for people: ${said}`)
  return [code, stderr.slice(5, -1)]
}

/** The errno name that a call of node:fs ends with; 'none' if it succeeds. */
export async function errnoOf(call: Promise<unknown>): Promise<string> {
  return call.then(() => 'none', (error: NodeJS.ErrnoException) => error.code ?? String(error))
}
