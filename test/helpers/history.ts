/**
 * What programs did to a drive, and what they were told is safe; and, after a
 * crash, whether the drive kept its promises (DESIGN 5). One `Writer` works alone
 * in a directory, so that what it did has an order.
 *
 * Invariant: an op is in the history before its call is made, so that the last
 * one may be there or not, while everything that was acknowledged certainly is.
 *
 * Checked, of each writer: its names are what they were after some number of its
 * name ops, at least those before its last fsync of anything; each file has
 * the content it had after some number of its ops, with a beginning of the next
 * write, but at least what it had at its last fsync, at the last fsync of a
 * directory, and at any rename or link of it that is there.
 */
import { constants, readFileSync } from 'node:fs'
import { copyFile, link, lstat, open, readdir, rename, truncate, unlink, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'

type ContentOp = { kind: 'write'; off: number; data: () => Buffer; length: number } | { kind: 'truncate'; size: number }
type NameOp = { text: string; set: [name: string, file: FileHistory | undefined][]; needs: [file: FileHistory, ops: number][] }

const CELL_BYTES = 16

export class FileHistory {
  readonly id: number
  /** Unknown while it is being made. */
  ino: number | undefined
  readonly ops: ContentOp[] = []
  /** Ops whose calls have returned, and those of them that must survive. */
  done = 0
  safe = 0
  size = 0
  links = 0

  constructor(id: number) {
    this.id = id
  }

  /** Bytes that tell whose they are: cells of file, op and offset. */
  pattern(op: number, off: number, length: number): Buffer {
    const first = Math.floor(off / CELL_BYTES)
    const cells = Math.ceil((off + length) / CELL_BYTES) - first
    const out = Buffer.allocUnsafe(cells * CELL_BYTES)
    for (let i = 0; i < cells; i++) {
      const at = i * CELL_BYTES
      out.writeUInt32LE(0xd0000000 + this.id, at)
      out.writeUInt32LE(op + 1, at + 4)
      out.writeUInt32LE(((first + i) ^ 0x5a5a5a5a) >>> 0, at + 8)
      out.writeUInt32LE(Math.imul(first + i + 1, 0x9e3779b1) >>> 0, at + 12)
    }
    return out.subarray(off - first * CELL_BYTES, off - first * CELL_BYTES + length)
  }

  /** The content after the first `ops` of its ops. */
  content(ops: number): Buffer {
    let content: Buffer = Buffer.alloc(0)
    for (const op of this.ops.slice(0, ops)) content = after(content, op)
    return content
  }

  /** The number of ops of which `found` is the outcome, at least `atLeast`; undefined if there is none. */
  match(found: Buffer, atLeast: number): number | undefined {
    let content = this.content(atLeast)
    for (let n = atLeast; ; n++) {
      if (content.equals(found)) return n
      const op = this.ops[n]
      if (!op) return undefined
      if (op.kind === 'write' && isBeginning(content, op.off, op.data(), found)) return n
      content = after(content, op)
    }
  }
}

function after(content: Buffer, op: ContentOp): Buffer {
  const size = op.kind === 'truncate' ? op.size : Math.max(content.length, op.off + op.length)
  // In place where it can be: histories are long.
  const next = size === content.length ? content : Buffer.concat([content.subarray(0, size)], size)
  if (op.kind === 'write') next.set(op.data(), op.off)
  return next
}

/** Whether `found` is `content` with only a beginning of `data` written at `off`. */
function isBeginning(content: Buffer, off: number, data: Buffer, found: Buffer): boolean {
  let length = found.length > content.length ? found.length - off : 0
  if (found.length <= content.length) while (length < data.length && off + length < found.length && found[off + length] === data[length]) length++
  if (length <= 0 || length > data.length) return false
  return after(Buffer.from(content), { kind: 'write', off, data: () => data.subarray(0, length), length }).equals(found)
}

export interface WriterOptions { dir: string; id: number; random: () => number }

export class Writer {
  readonly dir: string
  readonly #id: number
  readonly #random: () => number
  readonly names: NameOp[] = []
  namesDone = 0
  namesSafe = 0
  /** Every file that it ever made. */
  readonly files: FileHistory[] = []
  /** As they are now. */
  readonly current = new Map<string, FileHistory>()
  readonly counts = new Map<string, number>()
  #nextName = 0

  constructor({ dir, id, random }: WriterOptions) {
    this.dir = dir
    this.#id = id
    this.#random = random
  }

  /** Works until a call fails, and gives the error. `all`: everyone who writes to the drive. */
  async run(all: readonly Writer[], isOver: () => boolean): Promise<unknown> {
    try {
      while (!isOver()) await this.#step(all)
      return undefined
    } catch (error) {
      return error
    }
  }

  async #step(all: readonly Writer[]): Promise<void> {
    const file = this.#pick()
    const kind = this.#draw<string>([['make', 20], ['append', 20], ['log', 8], ['overwrite', 12], ['truncate', 6], ['save', 15], ['rename', 8],
      ['unlink', this.current.size > 12 ? 20 : 4], ['copy', 4], ['link', 3], ['stream', 4], ['sync', 4]])
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1)
    if (kind === 'make' || (!file && kind !== 'sync')) return this.#make(`f${this.#nextName++}`)
    switch (kind) {
      case 'append': return this.#with(file!, h => this.#write(h, file![1], file![1].size, 1 + this.#below(30_000)))
      case 'log': return this.#with(file!, async h => {
        for (let i = 0; i < 8; i++) {
          await this.#write(h, file![1], file![1].size, 4096)
          await this.#fsync(h, file![1])
        }
      }, false)
      case 'overwrite': return this.#with(file!, async h => {
        for (let i = 0; i < 5; i++) await this.#write(h, file![1], this.#below(file![1].size + 1), 1 + this.#below(9000))
      })
      case 'truncate': {
        const size = this.#below(file![1].size + 20_000)
        await this.#content(file![1], { kind: 'truncate', size }, () => truncate(join(this.dir, file![0]), size))
        return
      }
      case 'save': {
        const temporary = `t${this.#nextName++}`
        await this.#make(temporary)
        return this.#rename(temporary, file![0])
      }
      case 'rename': return this.#rename(file![0], `r${this.#nextName++}`)
      case 'unlink':
        await this.#name({ text: `unlink ${file![0]}`, set: [[file![0], undefined]], needs: [] }, () => unlink(join(this.dir, file![0])))
        return
      case 'copy': return this.#copy(file!)
      case 'link': {
        const name = `l${this.#nextName++}`
        await this.#name({ text: `link ${file![0]} ${name}`, set: [[name, file![1]]], needs: [[file![1], file![1].ops.length]] }, () => link(join(this.dir, file![0]), join(this.dir, name)))
        return
      }
      case 'stream': {
        const name = `s${this.#nextName++}`
        await this.#make(name)
        const made = this.current.get(name)!
        const bytes = (2 + this.#below(6)) << 20
        return this.#with([name, made], async h => {
          while (made.size < bytes) await this.#write(h, made, made.size, 1 << this.#draw([[16, 1], [18, 2], [20, 1]]))
        })
      }
      case 'sync': return this.#syncAll(all)
    }
  }

  /** A new file with something in it, or nothing. */
  async #make(name: string): Promise<void> {
    const file = new FileHistory(this.#id * 100_000 + this.files.length)
    this.files.push(file)
    const handle = await this.#name({ text: `create ${name}`, set: [[name, file]], needs: [] }, () => open(join(this.dir, name), 'wx'))
    try {
      file.ino = (await handle.stat()).ino
      const writes = this.#draw([[0, 1], [1, 6], [4, 2]])
      for (let i = 0; i < writes; i++) await this.#write(handle, file, file.size, 1 + this.#below(this.#draw([[200, 1], [8000, 3], [200_000, 1]])))
      if (this.#below(3) === 0) await this.#fsync(handle, file)
    } finally {
      await handle.close()
    }
  }

  async #copy([name, file]: [string, FileHistory]): Promise<void> {
    const to = `c${this.#nextName++}`
    await this.#make(to)
    const copy = this.current.get(to)!
    await this.#content(copy, { kind: 'truncate', size: 0 }, () => truncate(join(this.dir, to), 0))
    const content = file.content(file.ops.length)
    if (content.length === 0) return
    // COPYFILE_FICLONE is copy_file_range where there are no clones.
    await this.#content(copy, { kind: 'write', off: 0, data: () => content, length: content.length },
      () => copyFile(join(this.dir, name), join(this.dir, to), constants.COPYFILE_FICLONE))
    copy.size = content.length
  }

  async #with([name, file]: [string, FileHistory], work: (handle: FileHandle) => Promise<void>, mayFsync = true): Promise<void> {
    const handle = await open(join(this.dir, name), 'r+')
    try {
      await work(handle)
      if (mayFsync && this.#below(3) === 0) await this.#fsync(handle, file)
    } finally {
      await handle.close()
    }
  }

  async #write(handle: FileHandle, file: FileHistory, off: number, length: number): Promise<void> {
    const op = file.ops.length
    const data = () => file.pattern(op, off, length)
    await this.#content(file, { kind: 'write', off, data, length }, async () => {
      const { bytesWritten } = await handle.write(data(), 0, length, off)
      if (bytesWritten !== length) throw new Error(`wrote ${bytesWritten} of ${length} bytes`)
    })
  }

  async #fsync(handle: FileHandle, file: FileHistory): Promise<void> {
    const { done } = file
    const names = this.namesDone
    await (this.#below(2) === 0 ? handle.sync() : handle.datasync())
    file.safe = Math.max(file.safe, done)
    this.namesSafe = Math.max(this.namesSafe, names)
  }

  /** fsync of a directory: the whole drive, other writers' work too. */
  async #syncAll(all: readonly Writer[]): Promise<void> {
    const state = all.map(w => ({ writer: w, names: w.namesDone, files: w.files.map(file => ({ file, done: file.done })) }))
    const handle = await open(this.dir, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
    for (const { writer, names, files } of state) {
      writer.namesSafe = Math.max(writer.namesSafe, names)
      for (const { file, done } of files) file.safe = Math.max(file.safe, done)
    }
  }

  async #rename(from: string, to: string): Promise<void> {
    const file = this.current.get(from)!
    // POSIX: of two names of one file nothing happens.
    if (this.current.get(to) === file) return
    await this.#name({ text: `rename ${from} ${to}`, set: [[from, undefined], [to, file]], needs: [[file, file.ops.length]] }, () => rename(join(this.dir, from), join(this.dir, to)))
  }

  async #content(file: FileHistory, op: ContentOp, call: () => Promise<unknown>): Promise<void> {
    file.ops.push(op)
    await call()
    file.size = op.kind === 'truncate' ? op.size : Math.max(file.size, op.off + op.length)
    file.done = file.ops.length
  }

  async #name<T>(op: NameOp, call: () => Promise<T>): Promise<T> {
    this.names.push(op)
    const result = await call()
    this.namesDone = this.names.length
    for (const [name, file] of op.set) {
      if (file) this.current.set(name, file)
      else this.current.delete(name)
    }
    return result
  }

  #pick(): [string, FileHistory] | undefined {
    return [...this.current][this.#below(this.current.size)]
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n)
  }

  #draw<T>(choices: readonly (readonly [T, number])[]): T {
    let left = this.#random() * choices.reduce((sum, [, weight]) => sum + weight, 0)
    for (const [value, weight] of choices) if ((left -= weight) < 0) return value
    return choices.at(-1)![0]
  }
}

/** Every promise that is broken in the writer's directory, in words. */
export async function brokenPromises(writer: Writer): Promise<string[]> {
  const found = new Map<string, number>()
  try {
    for (const name of await readdir(writer.dir)) found.set(name, (await lstat(join(writer.dir, name))).ino)
  } catch (error) {
    return [`${writer.dir} cannot be listed: ${String(error)}`]
  }
  const names = new Map<string, FileHistory>()
  const needs = new Map<FileHistory, number>()
  let n = 0
  const apply = () => {
    const op = writer.names[n++]!
    for (const [name, file] of op.set) {
      if (file) names.set(name, file)
      else names.delete(name)
    }
    for (const [file, ops] of op.needs) needs.set(file, Math.max(needs.get(file) ?? 0, ops))
  }
  while (n < writer.namesSafe) apply()
  const atSafe = differences(names, found)
  while (differences(names, found).length > 0 && n < writer.names.length) apply()
  if (differences(names, found).length > 0) {
    return [`${writer.dir}: its names are those of no moment since its last fsync (${writer.namesSafe} of ${writer.names.length} name ops were safe). ` +
      `Against that moment: ${atSafe.slice(0, 6).join(', ')}. Against the end: ${differences(names, found).slice(0, 6).join(', ')}. ` +
      `Last ops: ${writer.names.slice(-6).map(op => op.text).join('; ')}`]
  }
  const broken: string[] = []
  for (const [name, file] of names) {
    const atLeast = Math.max(file.safe, needs.get(file) ?? 0)
    let content: Buffer
    try {
      // Not fs.promises.readFile: it takes a read that ends before an error for the end.
      content = readFileSync(join(writer.dir, name))
    } catch (error) {
      broken.push(`${writer.dir}/${name} cannot be read: ${String(error)}`)
      continue
    }
    if (file.match(content, atLeast) !== undefined) continue
    const earlier = file.match(content, 0)
    broken.push(`${writer.dir}/${name} (file ${file.id}, ${content.length} bytes) is no prefix of its ${file.ops.length} ops with at least ${atLeast} of them ` +
      `(${file.safe} were fsynced, ${needs.get(file) ?? 0} done when it was renamed or linked): ` +
      (earlier !== undefined ? `it is as after ${earlier}` : describe(file, content, atLeast)))
  }
  return broken
}

function differences(names: Map<string, FileHistory>, found: Map<string, number>): string[] {
  const out: string[] = []
  for (const [name, file] of names) {
    const ino = found.get(name)
    if (ino === undefined) out.push(`${name} is missing`)
    else if (file.ino !== undefined && ino !== file.ino) out.push(`${name} is another file`)
  }
  for (const name of found.keys()) if (!names.has(name)) out.push(`${name} should not be there`)
  return out
}

/** Where the content leaves what it should be at least. */
function describe(file: FileHistory, content: Buffer, atLeast: number): string {
  const wanted = file.content(atLeast)
  let at = 0
  while (at < Math.min(wanted.length, content.length) && wanted[at] === content[at]) at++
  const zeros = content.subarray(at, at + 64).every(b => b === 0)
  const ops = file.ops.slice(Math.max(0, atLeast - 2), atLeast + 4).map(op => op.kind === 'write' ? `write ${op.off}+${op.length}` : `truncate ${op.size}`)
  return `against op ${atLeast} (${wanted.length} bytes) it differs from ${at} on, where it has ${zeros ? 'zeros' : content.subarray(at, at + 16).toString('hex')}; ops around: ${ops.join(', ')}`
}
