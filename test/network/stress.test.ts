/** What one device writes another reads, from the first second on and while connections break: a short round of `npm run test:stress`. */
import test from 'brittle'
import { freePort } from '../bench/sync-pairs.js'
import { closeMembers } from '../helpers/member.js'
import { scratchDir } from '../helpers/scratch.js'
import { playPairs } from './pairs.js'
import { MEMORY_BYTES } from './trio.js'

process.env.UV_THREADPOOL_SIZE ??= '32'

test('two devices that have just met read what the other writes, and their kernels keep nothing old', { timeout: 300_000 }, async (t) => {
  // Before the folder's own: after an error they run in the order in which they were given.
  t.teardown(closeMembers, { force: true })
  const parent = scratchDir(t)
  const peaks = await playPairs(parent, { seed: 6, steps: 6, devices: 2, ways: 'none', lanes: 4, chaos: true, boundMs: 60_000, ports: [await freePort(), await freePort()], log: (text) => t.comment(text) })
  t.ok(peaks.every((p) => p < MEMORY_BYTES), `at most ${peaks.map((p) => (p / 2 ** 20).toFixed(0)).join(' and ')} MiB`)
})
