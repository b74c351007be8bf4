/**
 * What stays here because a person wants it to: files, and what is below
 * directories; and because a program has it open (kept-open.ts). Which chunks these are is looked for anew after changes to the tree
 * (store/residents.ts keeps the result); those that are elsewhere are named as missing.
 */
import type { Timers } from './clock.js'
import { fail } from './errors.js'
import { KeptOpen } from './kept-open.js'
import type { Journal } from './log/journal.js'
import { ELSEWHERE } from './store/chunks.js'
import { PINNED, type Residents } from './store/residents.js'
import type { Inode } from './tree/inode.js'
import type { Tree } from './tree/tree.js'
import { extentsOf, filesBelow } from './tree/walk.js'

/** It is looked for at once, but at most a twentieth of the time. */
const SCAN_SHARE = 20
const SCAN_AFTER_MS = 500
/** Rows in one go of the loop. */
const SLICE_ROWS = 1024

export interface PinsParts {
  tree: Tree
  journal: Journal
  residents: Residents
  timers: Timers
  /** There may be pinned chunks to be fetched. */
  moreMissing(): void
  /** As KeptOpen has them. */
  unlinked(): Iterable<Inode>
  mayEvict(): boolean
}

export class Pins {
  readonly #p: PinsParts
  readonly open: KeptOpen
  /** What open files have is among what is pinned, or was when the last session ended. */
  #hasOpen: boolean
  #scanning: Promise<void> | null = null
  #isStale = true
  #scanAtMs = 0
  #seenOp = 0
  #cursor = { used: 0, num: 0 }
  #nothingMissing = false
  /** In the round under way. */
  #isAnyMissing = false
  #isAtEnd = false
  #isClosed = false

  constructor(parts: PinsParts) {
    this.#p = parts
    this.#hasOpen = parts.residents.pinnedFrom({ used: PINNED - 1, num: 0 }, 1).length > 0
    this.open = new KeptOpen({
      ...parts,
      named: (lacking) => {
        this.#hasOpen = true
        parts.residents.onChange()
        if (lacking > 0) this.#more()
      },
      fewer: () => this.changed(),
    })
  }

  /** Inodes that are pinned themselves. */
  get count(): number { return this.#p.residents.pins().length }

  /** What is pinned stays here, and what is created below a pinned directory too. */
  async pin(inode: Inode): Promise<void> {
    if (!inode.isDir && !inode.isFile) throw fail('EINVAL', 'only files and directories can be pinned')
    this.#p.residents.setPin(inode.ino, true)
    await this.#pinsChanged()
  }

  /** False: it was not pinned itself. */
  async unpin(inode: Inode): Promise<boolean> {
    const was = this.#p.residents.setPin(inode.ino, false)
    if (was) await this.#pinsChanged()
    return was
  }

  async #pinsChanged(): Promise<void> {
    this.#p.journal.touched()
    this.#isStale = true
    await this.#scan()
    await this.#p.journal.durable()
  }

  /** 'below': through a directory above it. */
  of(inode: Inode): 'no' | 'itself' | 'below' {
    const { tree, residents } = this.#p
    const pins = new Set(residents.pins())
    if (pins.size === 0) return 'no'
    if (pins.has(inode.ino)) return 'itself'
    for (let at = tree.get(inode.parent), depth = 0; at && depth < 4096; depth++) {
      if (pins.has(at.ino)) return 'below'
      if (at.parent === at.ino) break
      at = tree.get(at.parent)
    }
    return 'no'
  }

  /** Others changed the tree: pins may reach further. */
  changed(): void {
    this.#isStale = true
  }

  /** Pinned chunks that are elsewhere; [] at the end, or after a while: `moreMissing` says when there is more. */
  missing(limit: number): { id: Buffer; len: number }[] {
    if (this.#nothingMissing) return []
    if (this.#isAtEnd) {
      this.#isAtEnd = false
      return []
    }
    const { residents, timers, moreMissing } = this.#p
    const out: { id: Buffer; len: number }[] = []
    for (let slices = 0; slices < 4 && out.length < limit; slices++) {
      const rows = residents.pinnedFrom(this.#cursor, SLICE_ROWS)
      for (const r of rows) {
        this.#cursor = r
        if (r.isElsewhere && r.refs > 0) out.push(r)
        if (out.length < limit) continue
        this.#isAnyMissing = true
        return out
      }
      if (rows.length < SLICE_ROWS) {
        // A whole round without any: there is nothing more to do until something changes.
        this.#nothingMissing = !this.#isAnyMissing && out.length === 0
        this.#isAnyMissing = false
        this.#isAtEnd = out.length > 0
        this.#cursor = { used: 0, num: 0 }
        return out
      }
    }
    this.#isAnyMissing ||= out.length > 0
    if (out.length === 0) timers.soon(moreMissing)
    return out
  }

  /** Every few seconds. */
  tick(): void {
    const { journal, timers } = this.#p
    // Ops of this device may have moved something into a pinned directory.
    if (journal.nextOpCounter !== this.#seenOp && this.count > 0) this.#isStale = true
    this.#seenOp = journal.nextOpCounter
    this.open.tick()
    if (this.#isStale && timers.nowMs() >= this.#scanAtMs && !this.#scanning && (this.count > 0 || this.#hasOpen)) {
      this.#scan().catch((e: Error) => { if (!this.#isClosed) process.emitWarning(`looking for what is pinned: ${e.message}`) })
    }
  }

  /** Which chunks are pinned is known as the tree is now. */
  async settle(): Promise<void> {
    const isOpen = this.open.inodes.length > 0
    if (this.count === 0 && !isOpen && !this.#hasOpen) return
    if (this.#isStale || isOpen) await this.#scan()
  }

  #scan(): Promise<void> {
    return (this.#scanning ??= this.#scanPins().finally(() => { this.#scanning = null }))
  }

  async #scanPins(): Promise<void> {
    const { tree, journal, residents, timers, mayEvict } = this.#p
    const startMs = timers.nowMs()
    do {
      this.#isStale = false
      residents.beginScan()
      for (const ino of residents.pins()) {
        const inode = tree.get(ino)
        // Removed for good, or not yet: it may come back.
        if (!inode) continue
        for await (const file of filesBelow(tree, inode)) {
          if (this.#isClosed) return
          for await (const e of extentsOf(tree, file)) residents.pinned(e.chunk)
        }
      }
      const open = this.open.inodes
      for (const inode of open) {
        for await (const e of extentsOf(tree, inode)) {
          if (this.#isClosed) return
          if (e.seg === ELSEWHERE || mayEvict()) residents.pinned(e.chunk)
        }
      }
      if (this.#isClosed || journal.stopped) return
      this.#hasOpen = open.length > 0
      residents.endScan()
    } while (this.#isStale && timers.nowMs() - startMs < SCAN_AFTER_MS)
    this.#scanAtMs = timers.nowMs() + Math.max(SCAN_AFTER_MS, (timers.nowMs() - startMs) * SCAN_SHARE)
    this.#more()
  }

  #more(): void {
    this.#nothingMissing = this.#isAnyMissing = this.#isAtEnd = false
    this.#cursor = { used: 0, num: 0 }
    this.#p.moreMissing()
  }

  /** What is under way ends. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([this.#scanning, this.open.close()])
  }
}
