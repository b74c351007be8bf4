/** A process to be killed: appends and prints what was synced, or holds (or tries) the lock of a store. Arguments: what, directory. */
import { randomBytes } from 'node:crypto'
import { chunkId } from '../../lib/seal/chunk.js'
import { StoreLock } from '../../lib/store/lock.js'
import { SegmentStore } from '../../lib/store/segments.js'
import { codeOf } from './scratch.js'

const [what, dir] = process.argv.slice(2) as [string, string]

if (what === 'append') {
  const store = SegmentStore.open(dir, { driveId: Buffer.alloc(32, 5), segmentBytes: 3_000_000 })
  for (;;) {
    // Two of a small batch, the others of a bulk one.
    const records = Array.from({ length: 5 }, (_, i) => {
      const sealed = randomBytes((i < 2 ? 1 : 200_000) + Math.floor(Math.random() * 50_000))
      return { id: chunkId(sealed), plainLength: sealed.length, sealed }
    })
    const places = [...await store.append(records.slice(0, 2)), ...await store.append(records.slice(2))]
    await store.sync()
    process.stdout.write(places.map((p, i) => JSON.stringify({ ...p, length: records[i]!.sealed.length, id: records[i]!.id.toString('hex') }) + '\n').join(''))
  }
} else if (what === 'try-lock') {
  process.stdout.write(await codeOf(() => StoreLock.acquire(dir).release()))
} else {
  const lock = StoreLock.acquire(dir)
  process.stdout.write('held\n')
  setInterval(() => lock.dir, 1000)
}
