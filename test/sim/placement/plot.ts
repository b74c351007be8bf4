/** Plots as SVG: points with lines through them. Legible on light and dark ground. */

export interface Axis { label: string; isLog: boolean; min: number; max: number; ticks: number[] }
export interface Series { name: string; isDashed?: boolean; points: [x: number, y: number][] }

const WIDTH = 640
const HEIGHT = 360
const LEFT = 72
const RIGHT = 16
const TOP = 40
const BOTTOM = 48
const LEGEND_LINE = 16
const COLOURS = ['#2b7bba', '#d1495b', '#3a9d5d', '#b8860b', '#8e5ea2']
const INK = '#777'

export function plot(title: string, x: Axis, y: Axis, series: Series[]): string {
  const place = (axis: Axis, value: number, from: number, to: number) => {
    const [v, min, max] = axis.isLog ? [Math.log(value), Math.log(axis.min), Math.log(axis.max)] : [value, axis.min, axis.max]
    return (from + (v - min) / (max - min) * (to - from)).toFixed(1)
  }
  const across = (v: number) => place(x, v, LEFT, WIDTH - RIGHT)
  const up = (v: number) => place(y, v, HEIGHT - BOTTOM, TOP)
  const height = HEIGHT + LEGEND_LINE * series.length
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12" fill="${INK}">`,
    `<text x="${LEFT}" y="20" font-size="14">${escape(title)}</text>`,
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 10}" text-anchor="middle">${escape(x.label)}</text>`,
    `<text x="16" y="${(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" transform="rotate(-90 16 ${(TOP + HEIGHT - BOTTOM) / 2})">${escape(y.label)}</text>`,
  ]
  for (const tick of x.ticks) out.push(`<path d="M${across(tick)} ${TOP}V${HEIGHT - BOTTOM}" stroke="${INK}" stroke-opacity=".25"/><text x="${across(tick)}" y="${HEIGHT - BOTTOM + 16}" text-anchor="middle">${number(tick)}</text>`)
  for (const tick of y.ticks) out.push(`<path d="M${LEFT} ${up(tick)}H${WIDTH - RIGHT}" stroke="${INK}" stroke-opacity=".25"/><text x="${LEFT - 6}" y="${up(tick)}" dy="4" text-anchor="end">${number(tick)}</text>`)
  series.forEach((s, i) => {
    const colour = COLOURS[i % COLOURS.length]!
    const dash = s.isDashed ? ' stroke-dasharray="5 4"' : ''
    const at = HEIGHT + LEGEND_LINE * i
    if (s.points.length > 0) out.push(`<path d="M${s.points.map(([px, py]) => `${across(px)} ${up(py)}`).join('L')}" fill="none" stroke="${colour}" stroke-width="1.5"${dash}/>`)
    for (const [px, py] of s.points) out.push(`<circle cx="${across(px)}" cy="${up(py)}" r="3" fill="${colour}"/>`)
    out.push(`<path d="M${LEFT} ${at}h24" stroke="${colour}" stroke-width="2"${dash}/><text x="${LEFT + 32}" y="${at}" dy="4">${escape(s.name)}</text>`)
  })
  return `${out.join('\n')}\n</svg>\n`
}

/** A logarithmic axis over all of the values, with a tick at each power of ten. */
export function powersOfTen(label: string, values: number[]): Axis {
  if (values.length === 0) return { label, isLog: true, min: 1, max: 10, ticks: [1, 10] }
  const low = Math.floor(Math.log10(Math.min(...values)) + 1e-9)
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values)) - 1e-9))
  return { label, isLog: true, min: 10 ** low, max: 10 ** high, ticks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) }
}

function number(n: number): string { return n === 0 || (n >= 0.001 && n < 1e6) ? String(Number(n.toPrecision(6))) : n.toExponential(0).replace('e+', 'e') }

function escape(text: string): string { return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;') }
