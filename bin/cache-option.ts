/** --cache: how much of the drive's content this device keeps. */
import { Option } from 'commander'
import { usage } from './context.js'

const UNITS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }

export function cacheOption(): Option {
  return new Option('--cache <size>', 'keep as much content as fits this size, as 20G or 500M, and fetch the rest when it is read; "all" keeps everything (default: as last time, everything at first)')
}

/** Undefined if the option was not given; null: everything. */
export function parseCache(text: string | undefined): number | null | undefined {
  if (text === undefined) return undefined
  if (text === 'all') return null
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim())
  const bytes = match ? Math.round(Number(match[1]) * UNITS[match[2]!.toLowerCase()]!) : NaN
  if (!Number.isSafeInteger(bytes)) throw usage(`--cache takes a size such as 20G or 500M, or "all"; not "${text}"`)
  return bytes
}
