/** Writers that wait for the disk when it takes nothing any more. */
import test from 'brittle'
import { fail } from '../../lib/errors.js'
import type { FileFlush } from '../../lib/file/file.js'
import { Files } from '../../lib/file/files.js'
import type { Space } from '../../lib/store/space.js'
import { Inode } from '../../lib/tree/inode.js'
import { codeOf } from '../helpers/scratch.js'

const LIMIT = 1 << 20

for (const [code, expected] of [['ENOSPC', 'none'], ['EIO', 'EIO']] as const) {
  test(`a writer does not wait for ever when its file cannot be stored (${code})`, { timeout: 20_000 }, async (t) => {
    const space = { dirtyLimit: LIMIT, take: () => {} } as unknown as Space
    const files = new Files({ clock: { nowMs: () => 0, now: () => ({ sec: 0, nsec: 0 }) }, space })
    t.teardown(() => files.close())
    const error = fail(code, 'it does not fit')
    let flushes = 0
    files.flusher = {
      inline: () => false,
      start: (list) => list.map((file) => {
        flushes++
        const flush: FileFlush = { file, ranges: [], cut: file.cut, size: file.inode.size, done: Promise.resolve(error) }
        flush.ranges = file.dirty.claim(flush)
        file.flushes.push(flush)
        files.taken(file)
        setImmediate(() => files.ended(flush, file.inode.ino === 1 ? error : null))
        return flush
      }),
    }
    const inode = new Inode(1)
    const file = files.open(inode, true)
    const write = files.write(inode, 0, Buffer.alloc(2 * LIMIT))
    t.ok(write, 'it is more than may wait')
    t.is(await codeOf(() => write), expected)
    t.ok(flushes > 0)
    t.is(file.error, error, 'and a sync tells why')
    // Nothing of that is left by now; what the first file holds stays, and is more than little.
    const other = new Inode(2)
    const wait = files.write(other, 0, Buffer.alloc(1000))
    t.is(await codeOf(() => wait), 'none', 'the writer of a file that can be stored is not told, nor held up for ever')
  })
}
