/** What scrub and repair could not bring back, as people read it. */
import type { Danger } from '../lib/api.js'
import type { Context } from './context.js'
import { EXIT } from './exit-codes.js'
import { formatBytes, visible, writeLine } from './output.js'

/** Lists paths and chunks, and warns; nothing if nothing is left. Gives the exit code. */
export async function tellDanger(context: Context, left: Danger): Promise<number> {
  if (isWhole(left)) return EXIT.ok
  for (const path of left.paths) await writeLine(`in danger: ${visible(path)}`)
  for (const id of left.unnamed) await writeLine(`in danger: chunk ${id}`)
  const kinds = [left.damaged > 0 && `${chunks(left.damaged)} damaged`, left.missing > 0 && `${chunks(left.missing)} missing`].filter(Boolean).join(' and ')
  context.warn(`${kinds}, ${formatBytes(left.bytes)}, and no device that is connected gave them${left.isAll ? '' : ' (not all are named)'}; ` +
    'they are fetched when one comes that has them, or run dfs repair then')
  return EXIT.damaged
}

export function isWhole(left: Danger): boolean {
  return left.damaged + left.missing === 0
}

export function chunks(n: number): string {
  return `${n} ${n === 1 ? 'chunk' : 'chunks'}`
}
