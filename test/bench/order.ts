/**
 * node dist/test/bench/order.js [--ops N] [--local N] [--entry N] [--dir DIR] [--every MS] [--shared]
 *
 * Late ops of another device, each older than the last N ops of this one: how
 * many are applied a second, by a drive on DIR through its inbox (signatures,
 * the log and commits included), and what stat and create on it take meanwhile.
 *
 * Stat and create come at fixed times, whether the one before is answered or
 * not, and what is measured is from then to the answer: a loop that stands still
 * counts for all that came due in it. They go through the same calls as a
 * mount's requests (lib/posix.ts).
 *
 * The other device makes directories and in them files: create, content, chmod,
 * rename, unlink. With --shared half of its files are in the directory that the
 * local ops work in. npm run bench:order does both.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Drive } from '../../lib/drive.js'
import { certify } from '../../lib/keys/certificate.js'
import { createDevice } from '../../lib/keys/device.js'
import { Writer } from '../../lib/log/codec.js'
import { encodeHeader, entryAad, entryHash, hashOf } from '../../lib/log/entry.js'
import { encodeOp, INO_HIGH, type Op } from '../../lib/log/ops.js'
import type { Stored } from '../../lib/inbox.js'
import { EntrySealer, signEntry } from '../../lib/seal/entry.js'
import { ROOT_INO, S_IFDIR, S_IFREG, type Inode } from '../../lib/tree/inode.js'

const FILES_A_DIR = 200
const OWNER = { uid: 0, gid: 0 }
/** Local index of the other device: any that is not ours; translated on the wire. */
const THEIRS = 2

/** The log of a device that never heard of what was done here since `nowMs`. */
class Writers {
  readonly device = createDevice()
  readonly #drive: Drive
  readonly #shared: number
  #seq = 0
  #previous: Buffer = Buffer.alloc(32)
  #nextOp = 1
  #nextIno = 1
  #clockMs: number
  #dir = 0
  #inDir = FILES_A_DIR
  #pending: Op[] = []

  constructor(drive: Drive, nowMs: number, shared: number) {
    this.#drive = drive
    this.#clockMs = nowMs
    this.#shared = shared
    drive.members.add(certify(drive.keys, { device: this.device.publicKey, role: 'full', name: 'other' }))
  }

  #ino(): number { return THEIRS * INO_HIGH + this.#nextIno++ }

  /** What one file takes. */
  #file(): void {
    const time = { sec: Math.floor(this.#clockMs / 1000), nsec: 0 }
    if (this.#inDir++ >= FILES_A_DIR) {
      this.#inDir = 0
      this.#dir = this.#ino()
      this.#pending.push({ type: 'create', parent: ROOT_INO, name: Buffer.from(`theirs-${this.#nextIno}`), ino: this.#dir, mode: S_IFDIR | 0o755, ...OWNER, rdev: 0, time })
    }
    const parent = this.#shared !== 0 && this.#inDir % 2 === 0 ? this.#shared : this.#dir
    const ino = this.#ino()
    const name = Buffer.from(`file-${this.#nextIno}.txt`)
    this.#pending.push({ type: 'create', parent, name, ino, mode: S_IFREG | 0o644, ...OWNER, rdev: 0, time })
    const h: Buffer = Buffer.alloc(32)
    h.writeUInt32BE(this.#nextIno, 2)
    this.#pending.push({
      type: 'content', ino, base: 0, cut: Infinity, size: 3000, chunks: [{ id: Buffer.from(h).reverse(), h, len: 3000 }],
      pieces: [{ off: 0, len: 3000, chunk: 0, coff: 0 }], mtime: time, ctime: time,
    })
    if (this.#nextIno % 3 === 0) this.#pending.push({ type: 'setattr', ino, mode: 0o600, ctime: time })
    if (this.#nextIno % 5 === 0) this.#pending.push({ type: 'rename', parent, name, ino, newParent: parent, newName: Buffer.from(`moved-${this.#nextIno}.txt`), over: 0, exchange: false, time })
    else if (this.#nextIno % 11 === 0) this.#pending.push({ type: 'unlink', parent, name, ino, dir: false, time })
  }

  next(count: number): Stored {
    while (this.#pending.length < count) this.#file()
    const ops = this.#pending.splice(0, count)
    const { keys, log } = this.#drive
    const w = new Writer(65536)
    const table = [THEIRS]
    for (const op of ops) {
      encodeOp(w, op, {
        outgoing: (inc) => (table.includes(inc) ? table.indexOf(inc) : table.push(inc) - 1),
        incoming: () => { throw new Error('writing') },
      })
    }
    const own = this.device.incarnation
    const sealed = new EntrySealer(keys).sealOps(w.take(), entryAad(keys.driveId, own, ++this.#seq))
    const header = encodeHeader({
      drive: keys.driveId, incarnation: own, seq: this.#seq, previous: this.#previous, clockMs: this.#clockMs++, firstOp: this.#nextOp, opCount: ops.length,
      incarnations: table.map((i) => (i === THEIRS ? own : log.incarnationId(i))), context: [], chunks: ops.flatMap((o) => (o.type === 'content' ? o.chunks.map((c) => c.id) : [])), opsHash: hashOf(sealed),
    })
    this.#nextOp += ops.length
    const signed = Buffer.concat([header, signEntry(header, this.device.secretKey)])
    this.#previous = entryHash(signed)
    return { signed, sealed }
  }
}

async function made(drive: Drive, parent: number, name: string, mode: number): Promise<Inode> {
  const inode = await drive.posix.make(parent, Buffer.from(name), mode, 0o022, OWNER)
  if (typeof inode === 'string') throw new Error(`${name}: ${inode}`)
  return inode
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      ops: { type: 'string', default: '100000' }, local: { type: 'string', default: '1000' }, entry: { type: 'string', default: '500' },
      dir: { type: 'string', default: tmpdir() }, every: { type: 'string', default: '5' }, shared: { type: 'boolean', default: false },
    },
  })
  const count = Number(values.ops)
  const dir = mkdtempSync(join(values.dir, 'dfs-order-'))
  const drive = await Drive.create(join(dir, 'store'))
  try {
    const ours = await made(drive, ROOT_INO, 'ours', S_IFDIR | 0o755)
    drive.share()
    const other = new Writers(drive, drive.clock.nowMs() - 3_600_000, values.shared ? ours.ino : 0)
    // Keys count on from the drive's beginning, one an entry: the local ones shall come after all of them.
    await new Promise((resolve) => setTimeout(resolve, count / Number(values.entry) + 100))
    for (let i = 0; i < Number(values.local); i++) await made(drive, ours.ino, `local-${i}`, S_IFREG | 0o644)
    drive.journal.commit()
    const batch = Array.from({ length: Math.ceil(count / Number(values.entry)) }, (_, i) => other.next(Math.min(Number(values.entry), count - i * Number(values.entry))))
    const name = { incarnation: other.device.incarnation, device: other.device.publicKey }

    const latencies: number[] = []
    let stopped = false
    const started = performance.now()
    const load = (async () => {
      let due = performance.now() + Number(values.every)
      for (let n = 0; !stopped; n++) {
        const wait = due - performance.now()
        if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait))
        if (n % 2 === 0) await made(drive, ours.ino, `meanwhile-${n}`, S_IFREG | 0o644)
        else if (typeof drive.posix.lookup(ours.ino, Buffer.from(`local-${n % 1000}`)) === 'string') throw new Error('a name is gone')
        latencies.push(performance.now() - due)
        due += Number(values.every)
      }
    })()
    // As the swarm has them: some at a time, the next when those are applied.
    const before = process.cpuUsage()
    let seconds = 0
    for (let at = 0; at < batch.length; at += 8) {
      const part = batch.slice(at, at + 8)
      const { accepted } = await drive.inbox.deliver(name, at + 1, part)
      if (accepted !== at + part.length) throw new Error(`${accepted} of ${at + part.length} entries`)
    }
    seconds = (performance.now() - started) / 1000
    const cpu = process.cpuUsage(before)
    stopped = true
    await load
    const first = drive.engine.timeline.tail.findIndex((e) => e.inc === drive.journal.incarnation)
    if (first !== batch.length) throw new Error(`${first} of ${batch.length} entries are older than the local ones`)
    latencies.sort((a, b) => a - b)
    const at = (q: number) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * q))]!.toFixed(1)
    console.log(`${count} late ops in ${seconds.toFixed(2)} s: ${Math.round(count / seconds).toLocaleString('en')} op/s; ${latencies.length} stat and create meanwhile, ms: median ${at(0.5)}, p99 ${at(0.99)}, most ${at(1)}`)
    console.log(`CPU ${((cpu.user + cpu.system) / 1e6).toFixed(2)} s: where that is much less than the time, others had the processors`)
    console.log(`RSS ${(process.memoryUsage.rss() / 2 ** 20).toFixed(0)} MiB; ${drive.engine.timeline.tail.length} entries not final; ${drive.engine.redone} ops applied anew`)
    const settle = performance.now()
    drive.engine.settle(drive.metadata.awaited())
    console.log(`looking for what is final: ${(performance.now() - settle).toFixed(1)} ms`)
    const report = await drive.fsck()
    if (report.problems.length) throw new Error(JSON.stringify(report.problems.slice(0, 5)))
  } finally {
    await drive.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

main().catch((e: unknown) => {
  console.error(e instanceof Error ? e.stack : String(e))
  process.exitCode = 1
})
