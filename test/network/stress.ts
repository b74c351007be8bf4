/**
 * npm run test:stress: rounds of pairs.ts. Stops at the first that fails and keeps its stores.
 *
 *   --rounds N (20)  --seed S  --steps N of each lane (25)  --lanes N (5)  --devices 2|3  --ways W  --calm: without cuts and stops
 */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { closeMembers, removeAll } from '../helpers/member.js'
import { freePort } from '../bench/sync-pairs.js'
import { playPairs } from './pairs.js'
import { MEMORY_BYTES } from './trio.js'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' }, seed: { type: 'string' }, steps: { type: 'string', default: '25' }, lanes: { type: 'string', default: '5' },
    devices: { type: 'string' }, ways: { type: 'string' }, calm: { type: 'boolean', default: false }, bound: { type: 'string', default: '20' },
  },
})
process.env.UV_THREADPOOL_SIZE ??= '32'
const first = Number(values.seed ?? 1 + Math.floor(Math.random() * 1e6))
const parent = mkdtempSync(join(tmpdir(), 'dfs-stress-'))
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void closeMembers().then(() => removeAll(parent)).then(() => process.exit(130)))
}
for (let i = 0; i < Number(values.rounds); i++) {
  const seed = first + i
  const start = performance.now()
  const log = (text: string) => console.log(`${((performance.now() - start) / 1000).toFixed(1)} ${text}`)
  const devices = Number(values.devices ?? 2 + seed % 2)
  const ways = values.ways ?? ['none', 'lan', 'dht,lan'][seed % 3]!
  try {
    const peaks = await playPairs(parent, {
      seed, devices, ways, steps: Number(values.steps), lanes: Number(values.lanes), chaos: !values.calm, boundMs: Number(values.bound) * 1000,
      ports: await Promise.all(Array.from({ length: devices }, freePort)), log,
    })
    log(`seed ${seed}: ${devices} devices, ${ways}; at most ${peaks.map((p) => (p / 2 ** 20).toFixed(0)).join(', ')} MiB`)
    if (peaks.some((p) => p > MEMORY_BYTES)) throw new Error('that is too much memory')
  } catch (e) {
    console.log(`failed; stores in ${parent}`)
    console.log(e)
    process.exit(1)
  }
  await removeAll(join(parent, `pairs-${seed}`))
}
await removeAll(parent)
console.log(`${values.rounds} rounds passed`)
