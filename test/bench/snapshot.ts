/**
 * npm run bench:snapshot -- [--files N]: what it takes to give a snapshot of a large drive and to keep it, and how long it holds the loop
 * at a time: pieces are made and kept one in each turn.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { randomBytes } from 'node:crypto'
import { Drive } from '../../lib/drive.js'
import { prepareJoin } from '../../lib/join.js'
import { S_IFREG } from '../../lib/log/mode.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import { readMeta } from '../../lib/snapshot.js'
import { StoragePeer } from '../../lib/storage-peer.js'
import { PiecesHash } from '../../lib/swarm/snapshot.js'
import { ROOT_INO } from '../../lib/tree/inode.js'

const { values } = parseArgs({ options: { files: { type: 'string' } } })
const files = Number(values.files ?? 200_000)
const dir = mkdtempSync(join(tmpdir(), 'dfs-bench-snapshot-'))
/** Turns of one kind: how long all took, and the longest. */
class Turns {
  n = 0
  allMs = 0
  longestMs = 0
  /** Of the processor, of this process: what the machine does besides is not in it. */
  cpuMs = 0
  longestCpuMs = 0

  take<T>(work: () => T): T {
    const start = performance.now()
    const cpu = process.cpuUsage()
    try {
      return work()
    } finally {
      const ms = performance.now() - start
      const used = process.cpuUsage(cpu)
      const cpuMs = (used.user + used.system) / 1000
      this.cpuMs += cpuMs
      this.longestCpuMs = Math.max(this.longestCpuMs, cpuMs)
      this.n++
      this.allMs += ms
      this.longestMs = Math.max(this.longestMs, ms)
    }
  }

  toString(): string { return `${this.n} turns, ${Math.round(this.allMs)} ms, the longest ${this.longestMs.toFixed(1)} ms; of the processor ${Math.round(this.cpuMs)} ms, the longest ${this.longestCpuMs.toFixed(1)} ms` }
}
const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`
const pause = () => new Promise((resolve) => setImmediate(resolve))

try {
  const drive = await Drive.create(join(dir, 'a'))
  drive.share()
  for (let i = 0; i < files; i++) {
    const ino = drive.journal.newIno()
    const time = { sec: 1_700_000_000 + i, nsec: i }
    drive.engine.submitNow({ type: 'create', parent: ROOT_INO, name: Buffer.from(`a file of some length ${i}`), ino, mode: S_IFREG | 0o644, uid: 1000, gid: 1000, rdev: 0, time })
    const chunk = { id: randomBytes(32), h: randomBytes(32), len: 4096, num: 0, seg: ELSEWHERE, off: 0 }
    drive.engine.submitNow({ type: 'content', ino, base: 0, cut: -1, size: 4096, isLost: false, chunks: [chunk], pieces: [{ off: 0, len: 4096, chunk: 0, coff: 0 }], mtime: time, ctime: time } as never)
    if (i % 2000 === 0) await pause()
  }
  await drive.sync()
  await prepareJoin(join(dir, 's'), await drive.key('storage'))
  const s = await StoragePeer.open(join(dir, 's'))
  const before = process.memoryUsage.rss()
  let most = 0
  const [begin, give, keep] = [new Turns(), new Turns(), new Turns()]
  const gift = await begin.take(() => drive.snapshot(true))
  const hash = new PiecesHash()
  let bytes = 0
  s.kept.begin(readMeta(gift.meta, drive.keys.driveId))
  for (let piece = give.take(() => gift.next()); piece; piece = give.take(() => gift.next())) {
    const { kind, bytes: b } = piece
    hash.add(kind, b)
    bytes += b.length
    keep.take(() => s.kept.piece(kind, b))
    if (give.n % 16 === 0) most = Math.max(most, process.memoryUsage.rss())
    await pause()
  }
  const digest = hash.digest()
  const head = gift.end(digest)
  gift.close()
  const [complete, naming] = [new Turns(), performance.now()]
  complete.take(() => s.kept.complete(digest, head))
  while (!s.kept.knowsAllChunks) await pause()
  console.log(`${files} files, a snapshot of ${mib(bytes)} (said: ${mib(gift.totalBytes)})`)
  console.log(`begin: ${begin}\ngive:  ${give}\nkeep:  ${keep}\nwhole: ${complete}; chunks known after ${Math.round(performance.now() - naming)} ms`)
  console.log(`memory: ${mib(before)} before, at most ${mib(most)}`)
  await s.close()
  await drive.close()
} finally {
  rmSync(dir, { recursive: true, force: true })
}
