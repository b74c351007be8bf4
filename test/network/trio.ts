/**
 * Three devices of one drive, as daemons with addresses of their own, that write, are cut off from each other, write the
 * same names on both sides, are killed and started again, and meet again. Then all three must be the same, and nothing
 * that was fsynced may be lost that nobody took away who had seen it. One seed decides what is done; what the
 * machine's timing decides (where a kill falls) differs from run to run.
 */
import { createHash, randomBytes } from 'node:crypto'
import { chmod, link, mkdir, open, readdir, readFile, rename, rmdir, symlink, unlink, utimes } from 'node:fs/promises'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Member, until } from '../helpers/member.js'
import { Lan } from '../helpers/namespaces.js'
import { DFS, kill } from '../helpers/mount.js'
import { dhtOf } from '../helpers/cli.js'
import { must, sleep } from '../helpers/run.js'
import { spawn } from 'node:child_process'

export interface TrioOptions {
  seed: number
  /** How they find each other: told addresses, or a private DHT alone. */
  by: 'peer' | 'dht'
  /** Operations of each device in a phase. */
  ops: number
  kills: boolean
  log: (text: string) => void
}

export const NAMES = ['a', 'b', 'c'] as const
/** DESIGN, issue 3: of each daemon, through all of it. */
export const MEMORY_BYTES = 350 << 20

/** mulberry32. */
export function random(seed: number): () => number {
  let s = seed >>> 0
  return () => {
    s = (s + 0x6d2b79f5) >>> 0
    let z = Math.imul(s ^ (s >>> 15), s | 1)
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61)
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Three mounts of one drive on a network of their own. */
export class Trio {
  readonly lan: Lan
  readonly members: Member[] = []
  #bootstrap: { pid: number } | undefined

  private constructor(lan: Lan) {
    this.lan = lan
  }

  static async make(parent: string, by: 'peer' | 'dht', options: { names?: readonly string[]; env?: NodeJS.ProcessEnv; joinArgs?: string[] } = {}): Promise<Trio> {
    const trio = new Trio(await Lan.make())
    try {
      await trio.#start(parent, by, options)
      return trio
    } catch (e) {
      await trio.close()
      throw e
    }
  }

  async #start(parent: string, by: 'peer' | 'dht', { names = NAMES, env: given = {}, joinArgs = [] }: { names?: readonly string[]; env?: NodeJS.ProcessEnv; joinArgs?: string[] }): Promise<void> {
    const { lan, members } = this
    const env: NodeJS.ProcessEnv = by === 'dht' ? { DFS_DISCOVERY: 'dht', DFS_BOOTSTRAP: await this.#private() } : { DFS_DISCOVERY: 'none' }
    for (const name of names) members.push(new Member(name, parent, { lan, address: await lan.host(name) }, { env: { ...env, ...given } }))
    const [first, ...others] = members
    await first!.mount()
    const key = await first!.key()
    for (const [i, other] of others.entries()) {
      // Each dials those before it.
      const told = by === 'peer' ? members.slice(0, i + 1).flatMap((m) => ['--peer', m.address]) : []
      await other.join(key, ...joinArgs, ...told)
      await other.mount()
    }
    await this.linked()
  }

  /** A host with a DHT of their own. Gives DFS_BOOTSTRAP. */
  async #private(): Promise<string> {
    const address = await this.lan.host('dht')
    const [command, ...args] = [...this.lan.prefix('dht'), process.execPath, DFS, 'bootstrap', '--host', address]
    const child = spawn(command!, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' })
    this.#bootstrap = { pid: child.pid! }
    return dhtOf(child)
  }

  member(name: string): Member { return this.members.find((m) => m.name === name)! }

  /** Each is connected to all others. */
  async linked(): Promise<void> {
    for (const m of this.members) {
      await until(`${m.name} is connected to all`, async () => (await m.status()).peers.length === this.members.length - 1)
    }
  }

  /** All show the same, and owe each other nothing. */
  async same(limitMs = 120_000): Promise<void> {
    // What is only buffered is nothing that others could have.
    for (const m of this.members) await syncDir(m.dir)
    let why = ''
    const is = async () => {
      const statuses = await Promise.all(this.members.map((m) => m.status()))
      for (const [i, s] of statuses.entries()) {
        why = `${this.members[i]!.name}: ${s.peers.length} peers, ${s.chunks.owed} chunks owed, ${s.peers.map((p) => `${p.name} -${p.owedToPeer} +${p.owedFromPeer}`).join(', ')}`
        if (s.peers.length !== this.members.length - 1 || s.chunks.owed > 0 || s.peers.some((p) => p.owedFromPeer > 0 || p.owedToPeer > 0)) return false
      }
      const [one, ...others] = await Promise.all(this.members.map((m) => m.listing()))
      const other = others.find((l) => l !== one)
      if (other !== undefined) why = `listings differ:\n${differences(one!, other)}`
      return other === undefined
    }
    await until('all are the same', is, limitMs, 100).catch((e: Error) => { throw new Error(`${e.message}\n${why}`) })
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.members.map((m) => m.close()))
    if (this.#bootstrap) kill(this.#bootstrap.pid)
    await this.lan.close()
  }
}

function differences(one: string, other: string): string {
  const [a, b] = [new Set(one.split('\n')), new Set(other.split('\n'))]
  return [...[...a].filter((l) => !b.has(l)).map((l) => `< ${l}`), ...[...b].filter((l) => !a.has(l)).map((l) => `> ${l}`)].slice(0, 30).join('\n')
}

async function syncDir(dir: string): Promise<void> {
  const handle = await open(dir, 'r')
  await handle.sync().finally(() => handle.close())
}

const sha = (data: Buffer) => createHash('sha256').update(data).digest('hex')

/** What was promised, and what was taken back by somebody who had seen it. */
class Oracle {
  /** Of contents that an fsync has promised: where and by whom. */
  readonly promised = new Map<string, string>()
  readonly #given = new Set<string>()

  /** Somebody who sees this content is about to change or remove it; whether that comes through is not known. */
  takes(content: Buffer): void { this.#given.add(sha(content)) }
  promise(content: Buffer, what: string): void { this.promised.set(sha(content), what) }
  lost(there: ReadonlySet<string>): string[] {
    return [...this.promised].filter(([hash]) => !this.#given.has(hash) && !there.has(hash)).map(([hash, what]) => `${what} (${hash.slice(0, 12)})`)
  }
}

/** Works on a mount, below some directories that are its own or, while it is cut off from the others who use them, shared. */
class Writer {
  #n = 0
  constructor(readonly member: Member, readonly random: () => number, readonly oracle: Oracle) {}

  #pick<T>(all: readonly T[]): T { return all[Math.floor(this.random() * all.length)]! }

  #fresh(): Buffer {
    const sizes = [20, 3000, 20_000, 300_000]
    const head = Buffer.from(`${this.member.name} ${this.#n++} `)
    return Buffer.concat([head, randomBytes(Math.floor(this.random() * this.#pick(sizes)) + 8)])
  }

  async #write(path: string, content: Buffer, flags: string): Promise<void> {
    const file = await open(path, flags)
    try {
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
  }

  /** One operation somewhere below `dir`; its errors are ordinary ones, or those of a mount whose daemon is gone. */
  async step(dir: string): Promise<void> {
    const entries = await readdir(dir, { withFileTypes: true })
    const files = entries.filter((e) => e.isFile()).map((e) => e.name)
    const dirs = entries.filter((e) => e.isDirectory()).map((e) => e.name)
    if (dirs.length > 0 && this.random() < 0.3) return this.step(join(dir, this.#pick(dirs)))
    const name = `${this.#pick(['f', 'g', 'h', 'i'])}${Math.floor(this.random() * 4)}`
    const path = join(dir, name)
    const one = files.length > 0 ? join(dir, this.#pick(files)) : undefined
    const by = (what: string) => `${what} ${path.slice(this.member.dir.length)} by ${this.member.name}`
    const roll = this.random()
    if (roll < 0.3 || !one) {
      if (dirs.includes(name)) return
      const before = await readFile(path).catch(() => undefined)
      if (before) this.oracle.takes(before)
      const content = this.#fresh()
      await this.#write(path, content, 'w')
      this.oracle.promise(content, by('write'))
    } else if (roll < 0.45) {
      const before = await readFile(one)
      this.oracle.takes(before)
      const more = this.#fresh()
      await this.#write(one, more, 'a')
      this.oracle.promise(Buffer.concat([before, more]), by(`append to ${one.slice(dir.length)} in`))
    } else if (roll < 0.6) {
      // As editors save.
      this.oracle.takes(await readFile(one))
      const content = this.#fresh()
      const temporary = join(dir, `.save-${this.member.name}`)
      await this.#write(temporary, content, 'w')
      await rename(temporary, one)
      this.oracle.promise(content, by(`save of ${one.slice(dir.length)} in`))
    } else if (roll < 0.68) {
      const over = await readFile(path).catch(() => undefined)
      if (over) this.oracle.takes(over)
      if (!dirs.includes(name)) await rename(one, path)
    } else if (roll < 0.74) {
      this.oracle.takes(await readFile(one))
      await unlink(one)
    } else if (roll < 0.82) {
      await mkdir(join(dir, `d${Math.floor(this.random() * 3)}`))
    } else if (roll < 0.86) {
      if (dirs.length > 0) await rename(join(dir, this.#pick(dirs)), join(dir, `e${Math.floor(this.random() * 3)}`))
    } else if (roll < 0.88) {
      if (dirs.length > 0) await rmdir(join(dir, this.#pick(dirs)))
    } else if (roll < 0.9) {
      await link(one, join(dir, `l${Math.floor(this.random() * 5)}`))
    } else if (roll < 0.92) {
      await symlink(`to-${this.#n++}`, join(dir, `s${Math.floor(this.random() * 5)}`))
    } else if (roll < 0.95) {
      await chmod(one, this.#pick([0o600, 0o644, 0o755]))
    } else if (roll < 0.98) {
      await must('setfattr', ['-n', `user.${this.#pick(['x', 'y'])}`, '-v', `${this.member.name}${this.#n++}`, one])
    } else {
      await utimes(one, 1_000_000 + this.#n, 2_000_000 + this.#n++)
    }
  }

  /** Until `ops` are done or the mount is gone. */
  async work(ops: number, dirs: readonly string[]): Promise<void> {
    for (let i = 0; i < ops; i++) {
      const dir = this.#pick(dirs)
      try {
        await this.step(this.member.at(dir))
      } catch (e) {
        const code = (e as NodeJS.ErrnoException).code ?? ''
        if (ORDINARY.has(code)) continue
        if (this.member.pid === 0) return
        if (!GONE.has(code)) throw e
        // It is being killed just now.
        await sleep(50)
        if (this.member.pid === 0) return
        throw e
      }
    }
  }
}

const ORDINARY = new Set(['EEXIST', 'ENOENT', 'ENOTDIR', 'EISDIR', 'ENOTEMPTY', 'EINVAL'])
const GONE = new Set(['ENOTCONN', 'ECONNABORTED', 'EIO', 'ENODEV', 'ECONNREFUSED'])

/** One round. Throws with what was wrong. */
export async function playTrio(parent: string, { seed, by, ops, kills, log }: TrioOptions): Promise<void> {
  const rnd = random(seed)
  const dir = join(parent, `trio-${seed}-${by}`)
  mkdirSync(dir)
  log(`seed ${seed}, found by ${by}`)
  const trio = await Trio.make(dir, by)
  try {
    const { members, lan } = trio
    const oracle = new Oracle()
    const writers = members.map((m, i) => new Writer(m, random(seed * 31 + i), oracle))
    for (const d of ['of-a', 'of-b', 'of-c', 'ac', 'bc']) await mkdir(members[0]!.at(d))
    await writers[0]!.work(10, ['ac', 'bc'])
    await trio.same()
    log('joined')

    const own = (m: Member) => `of-${m.name}`
    /** Kills one at some time, and starts it again. */
    const accident = async (during: Promise<unknown>) => {
      let over = false
      void during.then(() => { over = true }, () => { over = true })
      if (!kills) return during
      const victim = members[Math.floor(rnd() * members.length)]!
      const afterMs = rnd() * ops * 15
      await sleep(afterMs)
      log(`kill -9 ${victim.name} after ${afterMs.toFixed(0)} ms${over ? ', when all was done' : ''}`)
      await victim.kill()
      await during
      await victim.mount()
    }
    await accident(Promise.all(writers.map((w) => w.work(ops, [own(w.member)]))))
    await trio.same()
    log('written by all')

    // C is cut off: without a word, or by its cable.
    const cable = rnd() < 0.3
    if (cable) await lan.link('c', 'down')
    else await lan.split(['a', 'b', 'dht'], ['c'])
    log(cable ? 'the cable of c is pulled' : 'c is cut off')
    // On each side one alone uses what both have: what the others of its side saw is not known here.
    const shared: Record<string, string[]> = { a: ['of-a', 'ac'], b: ['of-b', 'bc'], c: ['of-c', 'ac', 'bc'] }
    await accident(Promise.all(writers.map((w) => w.work(ops, shared[w.member.name]!))))
    // One more of each kind of conflict that is always there.
    for (const [name, text] of [['a', 'ac'], ['c', 'ac'], ['b', 'bc'], ['c', 'bc']] as const) {
      const path = trio.member(name).at(text, 'both')
      const content = Buffer.from(`${text} as ${name} has it`)
      const file = await open(path, 'w')
      await file.writeFile(content)
      await file.sync()
      await file.close()
      oracle.promise(content, `${text}/both by ${name}`)
    }

    if (cable) await lan.link('c', 'up')
    else await lan.heal()
    log('healed')
    await accident(sleep(rnd() * 1000))
    await trio.same()
    log('the same again')

    const [one, ...others] = await Promise.all(members.map((m) => m.contents()))
    for (const [i, other] of others.entries()) {
      const name = members[i + 1]!.name
      for (const [path, sum] of one!.sums) if (other.sums.get(path) !== sum) throw new Error(`${path} has another content on ${name}`)
      if (one!.sums.size !== other.sums.size) throw new Error(`${name} has other files`)
      if (one!.xattrs !== other.xattrs) throw new Error(`${name} has other extended attributes:\n${differences(one!.xattrs, other.xattrs)}`)
    }
    const lost = oracle.lost(new Set(one!.sums.values()))
    if (lost.length > 0) throw new Error(`lost although fsynced:\n  ${lost.join('\n  ')}\n${await members[0]!.listing()}`)
    log(`${one!.sums.size} files, ${oracle.promised.size} fsynced contents, ${[...one!.sums.keys()].filter((p) => p.includes('(conflict')).length} conflict copies`)
    for (const m of members) {
      await m.unmount()
      await m.dfs('fsck', '--data')
      if (m.peak > MEMORY_BYTES) throw new Error(`${m.name} has used ${(m.peak / 2 ** 20).toFixed(0)} MB`)
    }
    log(`sound; at most ${members.map((m) => (m.peak / 2 ** 20).toFixed(0)).join(', ')} MB`)
  } catch (e) {
    for (const m of trio.members) log(`--- ${m.name}\n${m.log.slice(-3000)}`)
    throw e
  } finally {
    await trio.close()
  }
}
