/** Rows of text in columns. */
import { visible, writeLine } from './output.js'

/** Columns as wide as their longest value; `right` aligns those to the right. The first row is the heading. */
export async function writeTable(rows: string[][], right: readonly number[] = []): Promise<void> {
  const shown = rows.map((row) => row.map((cell) => visible(cell)))
  const widths = shown[0]!.map((_, column) => Math.max(...shown.map((row) => [...row[column]!].length)))
  for (const row of shown) {
    await writeLine(row.map((cell, column) => {
      const room = ' '.repeat(widths[column]! - [...cell].length)
      return right.includes(column) ? room + cell : cell + room
    }).join('  ').trimEnd())
  }
}

/** '3 minutes ago'. */
export function formatAge(ms: number, nowMs = Date.now()): string {
  const seconds = Math.max(0, Math.round((nowMs - ms) / 1000))
  for (const [unit, of] of [['day', 86_400], ['hour', 3600], ['minute', 60]] as const) {
    const n = Math.floor(seconds / of)
    if (n > 0) return `${n} ${unit}${n > 1 ? 's' : ''} ago`
  }
  return 'just now'
}
