/** Sizes and times as people write them. */

const UNIT_BYTES: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40, p: 2 ** 50 }
const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000, y: 31_536_000_000 }

/** '20G', '1.5TiB', '500 M', '0': bytes, in powers of 1024; undefined: it is none, or not a safe integer. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim())
  const bytes = match ? Math.round(Number(match[1]) * UNIT_BYTES[match[2]!.toLowerCase()]!) : NaN
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

/** '90s', '30d', '1.5h': milliseconds; undefined: it is none, or not a safe integer. A number alone needs a unit, but for 0. */
export function parseDuration(text: string): number | undefined {
  if (text.trim() === '0') return 0
  const match = /^(\d+(?:\.\d+)?)\s*(ms|[smhdwy])$/.exec(text.trim())
  const ms = match ? Math.round(Number(match[1]) * UNIT_MS[match[2]!]!) : NaN
  return Number.isSafeInteger(ms) ? ms : undefined
}
