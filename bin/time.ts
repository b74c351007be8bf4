/** Times as people give them. */
import { usage } from './context.js'

const UNIT_MS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 7 * 86_400_000 }

/**
 * Milliseconds since 1970 of '3d', '2h30m' or '90s' (so long before `nowMs`; 'ago' may follow), of 'yesterday', or of a date in ISO 8601, with or
 * without a time: without a zone it is local. USAGE for anything else.
 */
export function parseTime(given: string, nowMs: number): number {
  const said = given.trim()
  const ago = /^((?:\d+(?:\.\d+)?\s*[smhdw]\s*)+)(?:ago)?$/i.exec(said)
  if (ago) {
    let ms = 0
    for (const [, n, unit] of ago[1]!.matchAll(/(\d+(?:\.\d+)?)\s*([smhdw])/gi)) ms += Number(n) * UNIT_MS[unit!.toLowerCase()]!
    return nowMs - ms
  }
  if (said === 'now') return nowMs
  if (said === 'yesterday') return nowMs - UNIT_MS['d']!
  const iso = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)\s*(Z|[+-]\d\d:?\d\d)?)?$/i.exec(said)
  // A date alone is that midnight here, not in Greenwich.
  const ms = iso ? Date.parse(`${iso[1]}T${(iso[2] ?? '00:00').replace(',', '.')}${iso[3]?.replace(/^([+-]\d\d)(\d\d)$/, '$1:$2').toUpperCase() ?? ''}`) : NaN
  if (Number.isNaN(ms)) throw usage(`'${given}' is no time; write 2026-05-01 14:30, or how long ago: 3d, 2h, 90s`)
  const isToSecond = /^\d\d:\d\d:\d\d$/.test(iso![2] ?? '')
  return isToSecond && ms <= nowMs ? Math.min(ms + 999, nowMs) : ms
}

/** Local, to the second. */
export function formatTime(ms: number): string { return new Date(ms).toLocaleString('sv-SE') }

/** 30d, 12h, 90s. */
export function formatSpan(ms: number): string {
  for (const unit of ['d', 'h', 'm']) if (ms >= UNIT_MS[unit]! && ms % UNIT_MS[unit]! === 0) return `${ms / UNIT_MS[unit]!}${unit}`
  return `${ms / 1000}s`
}
