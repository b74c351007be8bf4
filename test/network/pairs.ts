/**
 * Two or three devices on this machine, started afresh, that work on the same files at once: what one has written all
 * others must read, by way of their kernels' caches, within a bounded time; while connections are cut and daemons
 * stand still. One seed decides what is done; when things happen the machine decides.
 *
 * Several lanes run side by side, each in a folder of its own: one device changes something there, all others look at
 * it already (so that they remember that it is missing, or what it was), and look until they see the change.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmod, constants, mkdir, open, readFile, rename, stat, truncate, unlink, writeFile } from 'node:fs/promises'
import { mkdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { Client } from '../../lib/client.js'
import { Member, until } from '../helpers/member.js'
import { DFS, isMounted, kill } from '../helpers/mount.js'
import { dhtOf } from '../helpers/cli.js'
import { run, sleep } from '../helpers/run.js'
import { attributes, differences, namesIn, shown } from '../helpers/shown.js'
import { random } from './trio.js'

export interface PairsOptions {
  seed: number
  /** Changes in each lane. */
  steps: number
  /** Devices, 2 or 3. */
  devices: number
  lanes: number
  /** DFS_DISCOVERY; a DHT is a private one. Addresses are told in any case. */
  ways: string
  /** Cuts connections and stops daemons meanwhile. */
  chaos: boolean
  /** How long a change may take to be seen, milliseconds; a daemon that stands still not counted. */
  boundMs: number
  /** TCP port of the first device; the others follow. */
  ports: number[]
  log: (text: string) => void
}

const SIZES = [1, 100, 4096, 5000, 70_000, 400_000, 3_000_000]
const NAMES = 6

/** What a name stands for; null: nothing. */
type State = { content: Buffer; mode: number } | null

/** Bytes of which none is zero: a zero that is read was never written. */
function content(rnd: () => number): Buffer {
  const size = SIZES[Math.floor(rnd() ** 2 * SIZES.length)]!
  const bytes = randomBytes(size)
  for (let i = 0; i < size; i++) if (bytes[i] === 0) bytes[i] = 1
  return bytes
}

class Stale extends Error {
  constructor(readonly member: Member, readonly path: string, what: string) {
    super(`${member.name}: ${path}: ${what}`)
  }
}

class Pairs {
  readonly members: Member[] = []
  readonly clients = new Map<Member, Client>()
  readonly slow: { ms: number; what: string }[] = []
  readonly #o: PairsOptions
  readonly #rnd: () => number
  #isOver = false
  /** Since the start, milliseconds that some daemon stood still. */
  #pausedMs = 0
  #did: string[] = []
  #bootstrap: ChildProcess | undefined

  constructor(options: PairsOptions) {
    this.#o = options
    this.#rnd = random(options.seed)
  }

  #pick<T>(all: readonly T[], rnd = this.#rnd): T { return all[Math.floor(rnd() * all.length)]! }

  #note(text: string): void {
    this.#did.push(`${performance.now().toFixed(0)} ${text}`)
    if (this.#did.length > 400) this.#did.shift()
  }

  async start(parent: string): Promise<void> {
    const { devices, ports } = this.#o
    // With more than one way to each other they have more than one connection, and one is made the link in place of another.
    const env = { DFS_DISCOVERY: this.#o.ways, ...(this.#o.ways.includes('dht') && { DFS_BOOTSTRAP: await this.#private() }) }
    for (let i = 0; i < devices; i++) this.members.push(new Member('abc'[i]!, parent, { port: ports[i]! }, { env }))
    const [first, ...others] = this.members
    await first!.mount()
    const key = await first!.key()
    await mkdir(first!.at('lanes'))
    await mkdir(first!.at('elsewhere'))
    for (let i = 0; i < this.#o.lanes; i++) await mkdir(first!.at('lanes', String(i)))
    for (const [i, other] of others.entries()) {
      // Both ends know the other's address before long, and dial at once.
      const told = this.members.slice(0, i + 1).flatMap((m) => ['--peer', m.address])
      await other.join(key, ...told, ...(this.#rnd() < 0.3 ? ['--cache', '64M'] : []))
      await other.mount()
    }
  }

  /** A DHT of their own. Gives DFS_BOOTSTRAP. */
  #private(): Promise<string> {
    const child = this.#bootstrap = spawn(process.execPath, [DFS, 'bootstrap', '--host', '127.0.0.1', '--port', String(this.#o.ports[0])], { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' })
    return dhtOf(child)
  }

  /** Without waiting for anything first: the first seconds are the worst. */
  async play(): Promise<void> {
    const chaos = this.#o.chaos ? this.#chaos() : undefined
    try {
      await Promise.all(Array.from({ length: this.#o.lanes }, (_, i) => this.#lane(i)))
    } finally {
      this.#isOver = true
      await chaos
    }
  }

  async #lane(number: number): Promise<void> {
    const rnd = random(this.#o.seed * 1000 + number)
    let dir = join('lanes', String(number))
    /** What is in it, by name. */
    const states = new Map<string, State>()
    const name = () => 'fghijk'[Math.floor(rnd() * NAMES)]!
    await Promise.all(this.members.map((m) => this.#sees(m, dir, undefined, async () => (await stat(m.at(dir))).isDirectory())))
    for (let i = 0; i < this.#o.steps && !this.#isOver; i++) {
      const writer = this.#pick(this.members, rnd)
      if (rnd() < 0.06) dir = await this.#moves(writer, dir, number, rnd, states)
      const called = name()
      const path = join(dir, called)
      const before = states.get(called) ?? null
      const changes = new Map<string, State>()
      const roll = rnd()
      let fresh = content(rnd)
      // A change that cannot be seen is not waited for, and the next one would be concurrent.
      while (before && fresh.equals(before.content)) fresh = content(rnd)
      const at = writer.at(path)
      const others = this.members.filter((m) => m !== writer)
      // What is there, or that nothing is, comes into their kernels' caches; one looks while it changes.
      await Promise.all(others.map((m) => readFile(m.at(path)).catch(() => {})))
      let what: string
      if (before === null || roll < 0.2) {
        what = before ? 'overwrite' : 'create'
        await writeFile(at, fresh, { mode: 0o644 })
        changes.set(path, { content: fresh, mode: before?.mode ?? 0o644 })
      } else if (roll < 0.35) {
        what = 'append'
        await writeFile(at, fresh, { flag: 'a' })
        changes.set(path, { content: Buffer.concat([before.content, fresh]), mode: before.mode })
      } else if (roll < 0.5) {
        what = 'write into'
        const file = await open(at, 'r+')
        const offset = Math.floor(rnd() * before.content.length)
        await file.write(fresh, 0, fresh.length, offset)
        if (rnd() < 0.5) await file.sync()
        await file.close()
        const now = Buffer.alloc(Math.max(before.content.length, offset + fresh.length))
        before.content.copy(now)
        fresh.copy(now, offset)
        changes.set(path, { content: now, mode: before.mode })
      } else if (roll < 0.65) {
        what = 'save'
        const temporary = writer.at(dir, `.save-${i}`)
        await writeFile(temporary, fresh, { mode: 0o600 })
        await rename(temporary, at)
        changes.set(path, { content: fresh, mode: 0o600 })
      } else if (roll < 0.75 && before.content.length > 0) {
        what = 'truncate'
        const size = Math.floor(rnd() * before.content.length)
        await truncate(at, size)
        changes.set(path, { content: before.content.subarray(0, size), mode: before.mode })
      } else if (roll < 0.82) {
        what = 'chmod'
        const mode = before.mode ^ 0o011
        await chmod(at, mode)
        changes.set(path, { content: before.content, mode })
      } else if (roll < 0.9) {
        what = 'unlink'
        await unlink(at)
        changes.set(path, null)
      } else {
        const to = join(dir, name())
        what = `rename to ${to}`
        await rename(at, writer.at(to))
        if (to !== path) changes.set(path, null)
        changes.set(to, before)
      }
      this.#note(`${writer.name}: ${what} ${path}, ${[...changes.values()].map((s) => (s ? `${s.content.length} bytes` : 'gone')).join(', ')}`)
      for (const [p, state] of changes) states.set(basename(p), state)
      const done = performance.now()
      await Promise.all(this.members.flatMap((m) => [...changes].map(([p, state]) => this.#shows(m, p, before, state))))
      const took = performance.now() - done
      if (took > 3000) this.slow.push({ ms: took, what: `${writer.name}: ${what} ${path}` })
      if (rnd() < 0.2 && before) await this.#evicted(this.#pick(others, rnd), path, states.get(called) ?? null)
    }
  }

  /** The folder of a lane gets another name, mostly beside the old one; what is in it, some have in their caches, and some look at while it moves. */
  async #moves(writer: Member, from: string, number: number, rnd: () => number, states: ReadonlyMap<string, State>): Promise<string> {
    const free = [join('lanes', String(number)), join('lanes', `${number}-moved`), join('elsewhere', String(number))].filter((path) => path !== from)
    const to = free[rnd() < 0.7 ? 0 : 1]!
    await Promise.all(this.members.map((m) => stat(m.at(to)).then(() => { throw new Stale(m, to, 'there before it was moved there') }, absent)))
    await rename(writer.at(from), writer.at(to))
    this.#note(`${writer.name}: move ${from} to ${to}`)
    await Promise.all(this.members.map(async (m) => {
      await this.#sees(m, to, undefined, async () => (await stat(m.at(to))).isDirectory())
      await this.#sees(m, from, null, () => stat(m.at(from)).then(() => false, absent).then((there) => there !== false))
      await Promise.all([...states].map(([name, state]) => this.#shows(m, join(to, name), state, state)))
    }))
    return to
  }

  /** As `state`, in the end; and never something that was not written. */
  async #shows(m: Member, path: string, before: State, state: State): Promise<void> {
    await this.#sees(m, path, state, async () => {
      const found = await stat(m.at(path)).catch(absent)
      if (!found || !state) return !found && !state
      const bytes = await readFile(m.at(path)).catch(absent)
      if (!bytes) return false
      if (bytes.includes(0)) throw new Stale(m, path, `zeros that nobody wrote: ${bytes.length} bytes, the first at ${bytes.indexOf(0)}; before ${before?.content.length}, now ${state.content.length}`)
      return bytes.equals(state.content) && found.size === state.content.length && (found.mode & 0o777) === state.mode
    })
  }

  async #sees(m: Member, path: string, state: State | undefined, is: () => Promise<boolean>): Promise<void> {
    const start = performance.now(), paused = this.#pausedMs
    for (let n = 0; ; n++) {
      try {
        if (await is()) return
      } catch (e) {
        if (e instanceof Stale) throw e
        const { code } = e as NodeJS.ErrnoException
        // Missing content is EIO after a while: that is late, too.
        if (code !== 'ENOENT' && code !== 'EIO') throw e
      }
      const waited = performance.now() - start - (this.#pausedMs - paused)
      if (waited > this.#o.boundMs) throw new Stale(m, path, `${state === null ? 'still there' : state ? `not as written (${state.content.length} bytes)` : 'not there'} after ${(waited / 1000).toFixed(0)} s`)
      await sleep(n < 20 ? 1 : 20)
    }
  }

  /** What was let go of comes back, past the page cache. */
  async #evicted(m: Member, path: string, state: State): Promise<void> {
    if (!state) return
    const client = await this.client(m)
    await client.evict(`/${path}`).catch(() => { /* not everybody has it yet, or it keeps everything */ })
    const file = await open(m.at(path), constants.O_RDONLY | constants.O_DIRECT)
    try {
      const bytes = Buffer.alloc(state.content.length + 1)
      let got = 0
      const start = performance.now(), paused = this.#pausedMs
      for (let n = 0; (n = (await file.read(bytes, got, bytes.length - got, got)).bytesRead) > 0;) got += n
      const took = performance.now() - start - (this.#pausedMs - paused)
      if (took > this.#o.boundMs) throw new Stale(m, path, `read again after it was let go of: ${(took / 1000).toFixed(0)} s`)
      if (!bytes.subarray(0, got).equals(state.content)) throw new Stale(m, path, `other bytes after it was let go of: ${got} of ${state.content.length}`)
    } finally {
      await file.close()
    }
  }

  async client(m: Member): Promise<Client> {
    const client = this.clients.get(m) ?? await Client.connect(m.store)
    if (!client) throw new Error(`${m.name}: no daemon`)
    this.clients.set(m, client)
    return client
  }

  async #chaos(): Promise<void> {
    const rnd = random(this.#o.seed + 77)
    while (!this.#isOver) {
      for (const end = performance.now() + rnd() * 2500; performance.now() < end && !this.#isOver;) await sleep(50)
      if (this.#isOver) return
      const m = this.#pick(this.members, rnd)
      if (rnd() < 0.6) {
        this.#note(`cut ${m.name}`)
        // Of its port, and those that it made itself.
        await run('ss', ['-K', 'sport', '=', m.address.split(':')[1]!])
      } else {
        // Longer than a link lives without an answer, now and then.
        const ms = rnd() < 0.15 ? 9000 : rnd() * 1500
        this.#note(`stop ${m.name} for ${ms.toFixed(0)} ms`)
        const start = performance.now()
        kill(m.pid, 'SIGSTOP')
        try { await sleep(ms) } finally { kill(m.pid, 'SIGCONT') }
        this.#pausedMs += performance.now() - start
      }
    }
  }

  /** All at work in one folder at once, whatever comes of it; then everybody shows the same, and the same as a mount that has cached nothing. */
  async quarrel(): Promise<void> {
    const dir = 'together'
    await mkdir(this.members[0]!.at(dir))
    await Promise.all(this.members.map((m) => this.#sees(m, dir, undefined, async () => (await stat(m.at(dir))).isDirectory())))
    await Promise.all(this.members.map((m, i) => this.#mess(m, dir, random(this.#o.seed * 77 + i))))
    await this.settled()
    await this.#like(this.members)
  }

  async #mess(m: Member, dir: string, rnd: () => number): Promise<void> {
    const name = () => m.at(dir, 'pqrstu'[Math.floor(rnd() * 6)]!)
    for (let i = 0; i < this.#o.steps; i++) {
      const roll = rnd()
      try {
        if (roll < 0.25) await writeFile(name(), content(rnd).subarray(0, 5000))
        else if (roll < 0.4) await writeFile(name(), content(rnd).subarray(0, 500), { flag: 'a' })
        else if (roll < 0.5) await unlink(name())
        else if (roll < 0.62) await rename(name(), name())
        else if (roll < 0.7) await chmod(name(), this.#pick([0o600, 0o640, 0o644], rnd))
        else if (roll < 0.75) await mkdir(`${name()}-dir`)
        else if (roll < 0.8) await writeFile(join(`${name()}-dir`, 'inside'), `${m.name} ${i}`)
        else if (roll < 0.83) await rename(`${name()}-dir`, `${name()}-dir`)
        else if (roll < 0.9) await m.listing()
        else await readFile(name())
      } catch (e) {
        if (!['ENOENT', 'EEXIST', 'ENOTDIR', 'EISDIR', 'ENOTEMPTY'].includes((e as NodeJS.ErrnoException).code ?? '') && !/find/.test((e as Error).message)) throw e
      }
    }
  }

  /** Nobody owes anybody anything. */
  async settled(): Promise<void> {
    for (const m of this.members) {
      const handle = await open(m.dir, 'r')
      await handle.sync().finally(() => handle.close())
    }
    let calm = 0
    await until('nothing is owed', async () => {
      const all = await Promise.all(this.members.map(async (m) => (await this.client(m)).status()))
      const is = all.every((s) => s.peers.length === this.members.length - 1 && s.dirtyBytes === 0 && s.peers.every((p) => p.owedFromPeer === 0 && p.owedToPeer === 0))
      return is ? ++calm > 3 : ((calm = 0), false)
    }, 60_000)
  }

  async #like(members: Member[]): Promise<void> {
    let first: string | undefined
    for (const m of members) {
      const fresh = `${m.dir}-fresh`
      mkdirSync(fresh, { recursive: true })
      await m.dfs('mount', fresh)
      try {
        const names = await namesIn(fresh)
        for (const show of [(dir: string) => attributes(dir, names), shown]) {
          const [cached, uncached] = [await show(m.dir), await show(fresh)]
          if (cached !== uncached) throw new Stale(m, '.', `its kernel's caches are not what the drive is:\n${differences(uncached, cached)}`)
          if (show !== shown) continue
          first ??= cached
          if (cached !== first) throw new Stale(m, '.', `another tree than ${members[0]!.name} shows:\n${differences(first, cached)}`)
        }
      } finally {
        await m.dfs('unmount', fresh)
      }
    }
  }

  /** What each knows of the path that was not as it should be, and of the others. */
  async explain(e: unknown): Promise<string> {
    const lines = [`last changes:\n  ${this.#did.slice(-30).join('\n  ')}`]
    for (const m of this.members) {
      lines.push(`--- ${m.name}${isMounted(m.dir) ? '' : ', not mounted'}`)
      const path = e instanceof Stale ? e.path : undefined
      if (path) {
        const seen = await Promise.race([stat(m.at(path)).then((s) => `mode ${(s.mode & 0o777).toString(8)}, ${s.size} bytes, inode ${s.ino}`, (x: Error) => x.message), sleep(5000).then(() => 'stat hangs')])
        const bytes = await Promise.race([readFile(m.at(path)).then((b) => `${b.length} bytes`, (x: Error) => x.message), sleep(35_000).then(() => 'read hangs')])
        const known = await m.tried('status', `/${path}`)
        lines.push(`on its mount: ${seen}; read: ${bytes}`, `in its daemon: ${known.stdout}${known.stderr}`)
      }
      const status = await Promise.race([this.client(m).then((c) => c.status()), sleep(5000).then(() => 'does not answer')]).catch((x: Error) => x.message)
      lines.push(JSON.stringify(status), m.log.slice(-1500))
    }
    return lines.join('\n')
  }

  async close(): Promise<void> {
    this.#isOver = true
    await Promise.allSettled([...this.clients.values()].map((c) => c.close()))
    await Promise.allSettled(this.members.map((m) => m.close()))
    this.#bootstrap?.kill('SIGKILL')
  }
}

function absent(e: NodeJS.ErrnoException): undefined {
  if (e.code !== 'ENOENT') throw e
}

/** One round. Throws with what was wrong and all that is known of it. Gives the peak memory of each daemon, bytes. */
export async function playPairs(parent: string, options: PairsOptions): Promise<number[]> {
  const dir = join(parent, `pairs-${options.seed}`)
  mkdirSync(dir)
  const pairs = new Pairs(options)
  try {
    await pairs.start(dir)
    await pairs.play()
    await pairs.quarrel()
  } catch (e) {
    throw new Error(`seed ${options.seed}: ${(e as Error).message}\n${await pairs.explain(e)}`, { cause: e })
  } finally {
    await pairs.close()
  }
  for (const s of pairs.slow) options.log(`slow: ${s.ms.toFixed(0)} ms: ${s.what}`)
  return pairs.members.map((m) => m.peak)
}
