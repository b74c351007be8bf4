/**
 * A source tree as a tar archive, the same for the same seed on any machine:
 * 5,247 text files in a few hundred directories, sizes log-normal as in real
 * trees (median 3 KiB, mean about 8 KiB, a few of 100 KiB and more), made of
 * words, so that git finds as much to compress as it would in code.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { random } from '../helpers/tree.js'

export const TREE_FILES = 5247
const BLOCK = 512
const MEDIAN_BYTES = 3000
const SIGMA = 1.35
const MAX_BYTES = 400_000

/** Writes the archive; gives the number of files and the sum of their bytes. */
export function writeSourceTar(path: string, seed: number, files = TREE_FILES): { files: number; bytes: number } {
  const rand = random(seed)
  const word = () => Array.from({ length: 2 + Math.floor(rand() * 9) }, () => String.fromCharCode(97 + Math.floor(rand() * 26))).join('')
  const words = Array.from({ length: 3000 }, word)
  const pick = () => words[Math.floor(rand() ** 3 * words.length)]!
  const text = pageOf(pick, rand, 1 << 20)
  const dirs = ['tree']
  while (dirs.length < files / 14) {
    const parent = dirs[Math.floor(rand() * Math.min(dirs.length, 40))]!
    // A ustar name has 99 bytes.
    if (parent.split('/').length < 6) dirs.push(`${parent}/${pick()}-${dirs.length}`)
  }
  const fd = openSync(path, 'w')
  let bytes = 0
  try {
    for (const dir of dirs) writeSync(fd, header(`${dir}/`, 0, '5'))
    for (let i = 0; i < files; i++) {
      // Box-Muller.
      const normal = Math.sqrt(-2 * Math.log(1 - rand())) * Math.cos(2 * Math.PI * rand())
      const size = Math.min(MAX_BYTES, Math.max(20, Math.floor(MEDIAN_BYTES * Math.exp(SIGMA * normal))))
      const start = Math.floor(rand() * (text.length - size))
      const padded = Buffer.alloc(Math.ceil(size / BLOCK) * BLOCK)
      text.copy(padded, 0, start, start + size)
      // Different in every file and for every seed, so that no round finds the chunks of another.
      padded.write(`// ${seed}.${i} `.padEnd(20, '/').slice(0, 20), 0, 'latin1')
      writeSync(fd, header(`${dirs[i % dirs.length]}/${pick()}${i}.ts`, size, '0'))
      writeSync(fd, padded)
      bytes += size
    }
    writeSync(fd, Buffer.alloc(2 * BLOCK))
  } finally {
    closeSync(fd)
  }
  return { files, bytes }
}

function pageOf(pick: () => string, rand: () => number, length: number): Buffer {
  const parts: string[] = []
  for (let n = 0; n < length;) {
    const piece = pick() + (rand() < 0.12 ? '\n  ' : rand() < 0.2 ? '(' : ' ')
    parts.push(piece)
    n += piece.length
  }
  return Buffer.from(parts.join(''), 'latin1').subarray(0, length)
}

/** POSIX.1-1988 ustar. */
function header(name: string, size: number, type: '0' | '5'): Buffer {
  const block = Buffer.alloc(BLOCK)
  if (name.length > 99) throw new Error(`too long for a ustar name: ${name}`)
  block.write(name, 0)
  const octal = (value: number, at: number, width: number) => block.write(value.toString(8).padStart(width - 1, '0'), at)
  octal(type === '5' ? 0o755 : 0o644, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(size, 124, 12)
  octal(1_700_000_000, 136, 12)
  block.write('        ', 148)
  block.write(type, 156)
  block.write('ustar\x0000', 257)
  const sum = block.reduce((a, b) => a + b, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return block
}
