/** The names of conflict copies: `name (conflict, DEVICE, DATE).ext`. */
import { MAX_NAME_BYTES } from '../limits.js'

/** What is longer is part of the name. */
const MAX_EXTENSION_BYTES = 32
const MARK = ' (conflict, '
/** The last second of the year 9999: what no date has is written as the nearest one that has. */
const MAX_SEC = 253_402_300_799

/** The first that is not taken. A copy's copy is called after the file. `sec`: since 1970. */
export function conflictName(name: Buffer, device: string, sec: number, isTaken: (name: Buffer) => boolean): Buffer {
  const { stem, ext } = parts(name)
  const author = Buffer.from((device || 'unknown').replace(/[/\0()]/g, '-')).toString('latin1')
  const date = new Date(Math.min(Math.max(sec, 0), MAX_SEC) * 1000).toISOString().slice(0, 10)
  for (let n = 1; ; n++) {
    const tail = `${MARK}${author}, ${date}${n > 1 ? ` ${n}` : ''})${ext}`
    const whole = Buffer.concat([cutUtf8(Buffer.from(stem, 'latin1'), MAX_NAME_BYTES - tail.length), Buffer.from(tail, 'latin1')])
    if (!isTaken(whole)) return whole
  }
}

/** As latin1: bytes stay what they are. */
function parts(name: Buffer): { stem: string; ext: string } {
  const plain = name.toString('latin1').replace(/ \(conflict, [^()]*\)/, '')
  const dot = plain.lastIndexOf('.')
  const hasExtension = dot > 0 && plain.length - dot <= MAX_EXTENSION_BYTES
  return hasExtension ? { stem: plain.slice(0, dot), ext: plain.slice(dot) } : { stem: plain, ext: '' }
}

/** Not within a character. */
function cutUtf8(name: Buffer, max: number): Buffer {
  if (name.length <= max) return name
  let end = max
  while (end > 0 && (name[end]! & 0xc0) === 0x80) end--
  return name.subarray(0, end)
}
