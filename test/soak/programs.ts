/** A program on a mount of a soak: it changes what is its own, in all the ways there are, brings back what was, and checks all of it. */
import { constants, promises as fs } from 'node:fs'
import { dirname, join } from 'node:path'
import type { FileHandle } from 'node:fs/promises'
import type { RestoreOptions } from '../../lib/api.js'
import { isBetween, shaOfBytes, type Content } from './blocks.js'
import type { Version } from './expected.js'
import { Wrong } from './trouble.js'
import { readAll, readDirect, Worker, type ProgramParts } from './workers.js'

const NAMES = ['f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'd/f0', 'd/f1', 'd/f2']
/** From others' files, by restoring. */
const COPIES = ['r0', 'r1']
/** Nothing happened to a path for so long, before and after a time that it is restored to: writes of half a second are one step. */
const CALM_MS = 1200
/** Far enough from the end of the retention. */
const MOST_AGO_MS = 40_000
const MOST_HELD = 3

type Change = Map<string, Content | null>

/** Owns a folder. Each change is durable before the next begins. */
export class Program extends Worker {
  readonly #held: { file: FileHandle; content: Content; path: string; untilMs: number }[] = []
  #isMade = false

  constructor(p: ProgramParts, readonly folder: string, paceMs: number) {
    super(p, paceMs)
  }

  #path(name: string): string { return join(this.folder, name) }
  #there(): [string, Content][] {
    return NAMES.map((n) => [this.#path(n), this.p.expected.now(this.#path(n))] as const).filter((e): e is [string, Content] => !!e[1])
  }

  async step(): Promise<void> {
    if (!this.#isMade) {
      await fs.mkdir(this.at(this.folder), { recursive: true })
      this.#isMade = true
    }
    if (this.p.expected.unsureIn(this.folder).length > 0) return this.mend()
    const there = this.#there()
    const roll = this.p.random() * 100
    if (there.length < 3 || roll < 20) return this.#save()
    const [path, content] = this.pick(there)
    if (roll < 28) return this.#overwrite(path)
    if (roll < 38) return this.#writeInto(path, content)
    if (roll < 46) return this.#append(path, content)
    if (roll < 51) return this.#truncate(path, content)
    if (roll < 58) return this.#rename(path, content)
    if (roll < 70) return this.#remove(path, content, false)
    if (roll < 75) return this.#remove(path, content, this.#held.length < MOST_HELD)
    if (roll < 78) return this.#removeFolder()
    if (roll < 87) return this.#restore()
    if (roll < 89) return this.#restoreFolder()
    if (roll < 92) return this.#restoreOther()
    if (roll < 95) return this.#readHeld()
    return this.#check(path, content)
  }

  // --- changing -------------------------------------------------------------

  async #change(change: Change, act: () => Promise<void>): Promise<void> {
    const { expected } = this.p
    const before = new Map([...change.keys()].map((path) => [path, expected.now(path)!] as const))
    const fromMs = expected.changing(change.keys())
    try {
      await act()
      await this.#sync()
    } catch (e) {
      for (const [path, content] of change) expected.failed(path, [before.get(path)!, content])
      throw e
    }
    for (const [path, content] of change) expected.changed(path, content, fromMs)
  }

  /** All that was done so far is durable. */
  async #sync(): Promise<void> {
    const dir = await fs.open(this.at(this.folder))
    try { await dir.sync() } finally { await dir.close() }
  }

  async #put(path: string, content: Content): Promise<void> {
    await fs.mkdir(dirname(this.at(path)), { recursive: true })
    const temporary = join(dirname(this.at(path)), '.part')
    await fs.writeFile(temporary, content.bytes())
    await fs.rename(temporary, this.at(path))
  }

  async #save(): Promise<void> {
    const [path, content] = [this.#path(this.pick(NAMES)), this.p.blocks.content()]
    await this.#change(new Map([[path, content]]), () => this.#put(path, content))
    this.p.counts.written++
  }

  async #overwrite(path: string): Promise<void> {
    const content = this.p.blocks.content()
    await this.#change(new Map([[path, content]]), () => fs.writeFile(this.at(path), content.bytes()))
    this.p.counts.written++
  }

  async #into(path: string, content: Content, act: (file: FileHandle) => Promise<unknown>): Promise<void> {
    await this.#change(new Map([[path, content]]), async () => {
      const file = await fs.open(this.at(path), 'r+')
      try { await act(file) } finally { await file.close() }
    })
    this.p.counts.changed++
  }

  async #writeInto(path: string, before: Content): Promise<void> {
    const n = Math.floor(this.p.random() * before.pieces.length)
    const block = this.p.blocks.draw()
    const piece = { block, bytes: Math.min(block.length, before.pieces[n]!.bytes) }
    const left = before.pieces[n]!.bytes - piece.bytes
    // Where the new one is shorter, what lay behind it stays.
    if (left > 0) return this.#append(path, before)
    const at = before.pieces.slice(0, n).reduce((sum, p) => sum + p.bytes, 0)
    await this.#into(path, before.replaced(n, piece), (file) => file.write(block, 0, piece.bytes, at))
  }

  async #append(path: string, before: Content): Promise<void> {
    const piece = this.p.blocks.piece()
    // As large as they get.
    if (before.pieces.length > 8) return this.#overwrite(path)
    await this.#into(path, before.with(piece), (file) => file.write(piece.block, 0, piece.bytes, before.size))
  }

  async #truncate(path: string, before: Content): Promise<void> {
    const size = Math.floor(this.p.random() * before.size)
    await this.#into(path, before.cut(size), (file) => file.truncate(size))
  }

  async #rename(path: string, content: Content): Promise<void> {
    const to = this.#path(this.pick(NAMES))
    if (to === path) return
    await this.#change(new Map([[path, null], [to, content]]), async () => {
      await fs.mkdir(dirname(this.at(to)), { recursive: true })
      await fs.rename(this.at(path), this.at(to))
    })
    this.p.counts.changed++
  }

  /** `holds`: it is read before, and again and again afterwards. */
  async #remove(path: string, content: Content, holds: boolean): Promise<void> {
    const file = holds ? await fs.open(this.at(path), constants.O_RDONLY | constants.O_DIRECT) : undefined
    if (file) this.#held.push({ file, content, path, untilMs: Date.now() + (20 + 160 * this.p.random()) * 1000 })
    if (file) this.#is(path, content, await readAll(file))
    await this.#change(new Map([[path, null]]), () => fs.rm(this.at(path)))
    this.p.counts.removed++
  }

  async #removeFolder(): Promise<void> {
    const all = this.#there().map(([path]) => path).filter((path) => path.startsWith(`${this.#path('d')}/`))
    if (all.length === 0) return
    await this.#change(new Map(all.map((path) => [path, null])), () => fs.rm(this.at(this.#path('d')), { recursive: true, force: true }))
    this.p.counts.removed += all.length
  }

  // --- what was -------------------------------------------------------------

  #ago(): number { return Date.now() - 2000 - this.p.random() * (MOST_AGO_MS - 2000) }

  async #bring(path: string, options: RestoreOptions): Promise<void> {
    const { member, fleet, counts } = this.p
    const to = options.to === undefined ? [] : ['--to', `/${String(options.to)}`]
    if (this.p.random() < 0.25) await member.dfs('restore', `/${path}`, '--at', new Date(options.atMs).toISOString(), ...to, ...(options.force ? ['--force'] : []))
    else await fleet.ask(member, (d) => d.restore(`/${path}`, { ...options, ...(options.to !== undefined && { to: `/${String(options.to)}` }) }))
    counts.restored++
  }

  #then(path: string, atMs: number): Version | undefined { return this.p.expected.at(path, atMs, CALM_MS) }

  async #restore(): Promise<void> {
    for (let i = 0; i < 20; i++) {
      const path = this.#path(this.pick(NAMES))
      const atMs = this.#ago()
      const content = this.#then(path, atMs)?.content
      if (!content) continue
      // It may be in a folder that had another beginning then; that is not told apart here.
      await this.#change(new Map([[path, content]]), () => this.#bring(path, { atMs }))
      return this.#check(path, content)
    }
  }

  async #restoreFolder(): Promise<void> {
    const inside = NAMES.filter((n) => n.startsWith('d/')).map((n) => this.#path(n))
    for (let i = 0; i < 20; i++) {
      const atMs = this.#ago()
      const then = inside.map((path) => [path, this.p.expected.versions(path) === 0 ? null : this.#then(path, atMs)?.content] as const)
      if (then.some(([, content]) => content === undefined) || !then.some(([, content]) => content)) continue
      const change = new Map(then.filter((e): e is [string, Content] => !!e[1]))
      await this.#change(change, () => this.#bring(this.#path('d'), { atMs }))
      for (const [path, content] of change) await this.#check(path, content)
      return
    }
  }

  /** What somebody else had, to a place of our own. */
  async #restoreOther(): Promise<void> {
    const { expected, trouble } = this.p
    const paths = expected.paths.filter((path) => !path.startsWith(`${this.folder}/`))
    const atMs = Date.now() - 10_000 - this.p.random() * (MOST_AGO_MS - 10_000)
    for (let i = 0; i < 20 && paths.length > 0; i++) {
      const path = this.pick(paths)
      const content = expected.at(path, atMs, 3000)?.content
      if (!content) continue
      const to = this.#path(this.pick(COPIES))
      // Where it is known what the others did.
      const isKnown = !trouble.wasOn(atMs)
      try {
        await this.#change(new Map([[to, content]]), () => this.#bring(path, { atMs, to, force: true }))
      } catch (e) {
        if (isKnown) throw e
        return
      }
      if (isKnown) return this.#check(to, content)
      // It has become what that was by what was known here.
      expected.failed(to, [content, content])
      return this.mend(true)
    }
  }

  // --- checking -------------------------------------------------------------

  async #check(path: string, content: Content): Promise<void> {
    this.#is(path, content, await readDirect(this.at(path)))
    this.p.counts.reads++
  }

  #is(path: string, content: Content, found: Buffer | null, when = ''): void {
    if (found === null) throw new Wrong(`${this.p.member.name}: ${path} is not there${when}`)
    if (shaOfBytes(found) !== content.sha) throw new Wrong(`${this.p.member.name}: ${path} has other content${when}: ${differs(found, content)}`)
  }

  async #readHeld(): Promise<void> {
    const held = this.#held.length > 0 ? this.pick(this.#held) : undefined
    if (!held) return
    try {
      this.#is(held.path, held.content, await readAll(held.file), ', held open after it was removed')
      this.p.counts.held++
    } catch (e) {
      held.untilMs = 0
      throw e
    } finally {
      if (Date.now() > held.untilMs) {
        this.#held.splice(this.#held.indexOf(held), 1)
        await held.file.close().catch(() => undefined)
      }
    }
  }

  override async idle(): Promise<void> {
    for (const held of this.#held.splice(0)) await held.file.close().catch(() => undefined)
  }

  /** Looks what changes that failed have left, and makes it something that is known. `isAny`: whatever it is. */
  async mend(isAny = false): Promise<void> {
    const { expected, blocks, member } = this.p
    for (const [path, [before, after]] of expected.unsureIn(this.folder)) {
      const found = await readDirect(this.at(path))
      const isRight = isAny || (found === null ? before === null || after === null : isBetween(found, before?.bytes() ?? Buffer.alloc(0), after?.bytes() ?? Buffer.alloc(0)))
      if (!isRight) throw new Wrong(`${member.name}: ${path} is neither what it was nor what it was to be: ${found === null ? 'not there' : `${found.length} bytes`}, ${before?.size} bytes before, ${after?.size} after`)
      const content = blocks.content()
      const fromMs = expected.changing([path])
      await this.#put(path, content)
      await this.#sync()
      expected.changed(path, content, fromMs)
    }
    for (const dir of [this.folder, this.#path('d')]) await fs.rm(this.at(join(dir, '.part')), { force: true })
  }
}

/** Where it begins to be other than it should. */
function differs(found: Buffer, content: Content): string {
  const bytes = content.bytes()
  let at = 0
  while (at < found.length && at < bytes.length && found[at] === bytes[at]) at++
  return `${found.length} bytes for ${bytes.length}, first at ${at}${at < found.length && found.subarray(at, at + 64).every((b) => b === 0) ? ', zeros' : ''}`
}
