/** From the rounds' values to the table: medians, medians of the paired ratios, and how each stands to its bar. */
import type { Phase } from './phases.js'

/** A phase that stays below this part of its bar needs a profile (see the project's speed table). */
export const SHORT_BELOW = 0.8

/** values[target][round] */
export type Values = Record<string, number[]>

export interface Row {
  id: string
  title: string
  unit: string
  /** Of each target, over the rounds. */
  medians: Record<string, number>
  /** Median over the rounds of the subject's value divided by the reference's of the same round; undefined without one. */
  ratio: number | undefined
  bar: string
  /** 1 = the bar exactly, above is better; undefined if it was not measured. */
  score: number | undefined
  verdict: 'pass' | 'short' | 'below 0.8 of the bar' | '-'
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

export function rowOf(phase: Phase, values: Values, subject: string): Row {
  const { against, value } = phase.bar
  const mine = values[subject]
  const theirs = against === 'absolute' ? undefined : values[against]
  let ratio: number | undefined
  if (mine && theirs && against !== subject) ratio = median(mine.map((v, round) => v / theirs[round]!))
  const measured = against === 'absolute' ? mine && median(mine) : ratio
  const score = measured === undefined ? undefined : phase.moreIsBetter ? measured / value : value / measured
  return {
    id: phase.id, title: phase.title, unit: phase.unit,
    medians: Object.fromEntries(Object.entries(values).map(([target, list]) => [target, median(list)])),
    ratio,
    bar: `${phase.moreIsBetter ? '>=' : '<='} ${value} ${against === 'absolute' ? phase.unit : `x ${against}`}`,
    score,
    verdict: score === undefined ? '-' : score >= 1 ? 'pass' : score >= SHORT_BELOW ? 'short' : 'below 0.8 of the bar',
  }
}

export function table(rows: readonly Row[], targets: readonly string[]): string {
  const cells = [
    ['phase', 'unit', ...targets, 'ratio', 'bar', 'verdict'],
    ...rows.map((r) => [r.title, r.unit, ...targets.map((t) => figure(r.medians[t])), r.ratio === undefined ? '' : r.ratio.toFixed(2), r.bar, r.verdict]),
  ]
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)))
  const numeric = (i: number) => i >= 2 && i < 3 + targets.length
  return cells.map((row) => row.map((c, i) => (numeric(i) ? c.padStart(widths[i]!) : c.padEnd(widths[i]!))).join('  ').trimEnd()).join('\n')
}

function figure(value: number | undefined): string {
  if (value === undefined) return '-'
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3)
}
