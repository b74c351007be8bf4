/** What people see: progress, sizes, names that cannot harm a terminal. */
import type { OnProgress, Progress } from '../lib/api.js'

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
/** Fast enough to look alive, slow enough to cost nothing. */
const PROGRESS_INTERVAL_MS = 100
/** Quick work shows none. */
const PROGRESS_DELAY_MS = 500

export function formatBytes(bytes: number): string {
  let unit = 0
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024
    unit++
  }
  return unit === 0 ? `${bytes} B` : `${bytes.toFixed(bytes < 10 ? 1 : 0)} ${UNITS[unit]}`
}

/** Waits while the reader of a pipe is slow. */
export async function write(data: string | Buffer): Promise<void> {
  if (process.stdout.write(data)) return
  await new Promise<void>((resolve) => process.stdout.once('drain', resolve))
}

export async function writeLine(text: string): Promise<void> {
  await write(`${text}\n`)
}

export async function writeJson(value: unknown): Promise<void> {
  await writeLine(JSON.stringify(value, null, process.stdout.isTTY ? 2 : undefined))
}

/** On a terminal control characters are shown, not obeyed: names come from others too. Else the bytes as they are. */
export function printable(name: Buffer | string): Buffer | string {
  return process.stdout.isTTY ? visible(name) : name
}

export function visible(name: Buffer | string): string {
  // eslint-disable-next-line no-control-regex
  return name.toString().replace(/[\u0000-\u001f\u007f-\u009f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** A name as JSON: text, and the bytes beside it where they are not UTF-8. */
export function nameFields(name: Buffer): { name: string; nameBase64?: string } {
  const text = name.toString()
  return Buffer.from(text).equals(name) ? { name: text } : { name: text, nameBase64: name.toString('base64') }
}

export interface ProgressLine {
  readonly update: OnProgress
  /** Clears the line; nothing is shown after. */
  end(): void
}

/** On standard error if that is a terminal, else nothing. */
export function progressLine(isQuiet: boolean): ProgressLine {
  if (isQuiet || !process.stderr.isTTY) return { update() {}, end() {} }
  const startMs = performance.now()
  let shownMs = 0
  let isShown = false
  let isOver = false
  return {
    update(progress) {
      const nowMs = performance.now()
      if (isOver || nowMs - startMs < PROGRESS_DELAY_MS || nowMs - shownMs < PROGRESS_INTERVAL_MS) return
      shownMs = nowMs
      isShown = true
      const width = process.stderr.columns ?? 80
      process.stderr.write(`\r\x1b[K${formatProgress(progress, (nowMs - startMs) / 1000).slice(0, width - 1)}`)
    },
    end() {
      isOver = true
      if (isShown) process.stderr.write('\r\x1b[K')
    },
  }
}

function formatProgress({ phase, done, total, unit }: Progress, seconds: number): string {
  const amount = (n: number) => (unit === 'bytes' ? formatBytes(n) : `${n} ${unit}`)
  const share = total > 0 ? ` of ${amount(total)} (${Math.min(100, Math.floor((100 * done) / total))} %)` : ''
  const rate = unit === 'bytes' && seconds > 0 ? `, ${formatBytes(Math.round(done / seconds))}/s` : ''
  return `${amount(done)}${share}${rate}  ${visible(phase)}`
}
