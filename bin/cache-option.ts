/** --cache: how much of the drive's content this device keeps. */
import { Option } from 'commander'
import { parseBytes } from '../lib/quantities.js'
import { usage } from './context.js'

export function cacheOption(): Option {
  return new Option('--cache <size>', 'keep as much content as fits this size, as 20G or 500M, and fetch the rest when it is read; "all" keeps everything (default: as last time, everything at first)')
}

/** Undefined if the option was not given; null: everything. */
export function parseCache(text: string | undefined): number | null | undefined {
  if (text === undefined) return undefined
  if (text === 'all') return null
  const bytes = parseBytes(text)
  if (bytes === undefined) throw usage(`--cache takes a size such as 20G or 500M, or "all"; not "${text}"`)
  return bytes
}

export function parseSize(name: string, text: string): number {
  const bytes = parseBytes(text)
  if (bytes === undefined) throw usage(`${name} takes a size such as 20G or 500M; not "${text}"`)
  return bytes
}
