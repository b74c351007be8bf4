/** Directory entries, encoded as they come: struct fuse_dirent and fuse_direntplus. */
import type { Attr, DirSink } from '../operations.js'
import { DIRENT, DIRENTPLUS, ENTRY_OUT, OUT_HEADER, getU64, putEntry, putU64 } from './protocol.js'

const DOT = 0x2e

/** Of at most `limit` bytes. Its memory is its own, for the operation may wait while other requests are answered; reuse it after the reply. */
export class DirentSink implements DirSink {
  plus = false
  /** The header of the reply and the entries; `length` bytes are valid. */
  readonly bytes: Buffer
  length = OUT_HEADER
  readonly words: Uint32Array
  #limit = 0
  #entryTtl = 0
  #attrTtl = 0

  constructor(capacity: number) {
    const memory = new ArrayBuffer(OUT_HEADER + capacity)
    this.bytes = Buffer.from(memory)
    this.words = new Uint32Array(memory)
  }

  begin(plus: boolean, limit: number, entryTtl: number, attrTtl: number): void {
    this.plus = plus
    this.length = OUT_HEADER
    this.#limit = Math.min(this.bytes.length, OUT_HEADER + limit)
    this.#entryTtl = entryTtl
    this.#attrTtl = attrTtl
  }

  add(name: Buffer, ino: number, mode: number, cookie: number, attr?: Attr): boolean {
    const start = this.length
    const end = start + ((this.plus ? DIRENTPLUS : DIRENT) + name.length + 7 & ~7)
    if (end > this.#limit) return false
    const words = this.words
    let i = start / 4
    if (this.plus) {
      // nodeid 0: the kernel takes the name and type, and no inode
      if (attr === undefined || isDots(name)) words.fill(0, i, i + ENTRY_OUT / 4)
      else putEntry(words, i, attr, this.#entryTtl, this.#attrTtl)
      i += ENTRY_OUT / 4
    }
    putU64(words, i, ino)
    putU64(words, i + 2, cookie)
    words[i + 4] = name.length
    words[i + 5] = mode >>> 12 & 15
    // the padding (at most 7 bytes), before the name, which overwrites what it reaches
    words[end / 4 - 1] = 0
    if (end / 4 - 2 > i + 5) words[end / 4 - 2] = 0
    this.bytes.set(name, (i + 6) * 4)
    this.length = end
    return true
  }

  /** The inodes that entries of a readdirplus handed out, for a reply that could not be delivered. */
  handedOut(): number[] {
    const inos: number[] = []
    for (let at = OUT_HEADER; this.plus && at < this.length;) {
      const ino = getU64(this.words, at / 4)
      if (ino !== 0) inos.push(ino)
      at += DIRENTPLUS + this.words[(at + ENTRY_OUT) / 4 + 4]! + 7 & ~7
    }
    return inos
  }
}

export function isDots(name: Buffer): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT))
}
