/**
 * Chunks on some devices and not on all (docs/simulation.md). Any number of
 * seeds: npm run sim -- --placed --seeds N.
 */
import test from 'brittle'
import type { SimDevice } from './devices/device.js'
import { runPlaced } from './devices/placed.js'

const SEEDS = 5

test(`seeds 1 to ${SEEDS}: nothing is lost by placing, dropping and letting go, and every copy is where the plan wants it in the end`, async (t) => {
  t.timeout(600_000)
  const total: Record<string, number> = {}
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { counts } = await runPlaced(seed)
    for (const [what, n] of Object.entries(counts)) total[what] = (total[what] ?? 0) + n
  }
  for (const what of ['chunk let go', 'chunk dropped', 'setting', 'crash', 'called lost', 'gone for good']) t.ok((total[what] ?? 0) > 0, `${what}: ${total[what]}`)
})

test('seed 104: what is written again while others drop it is not let go of on their word of before', async (t) => {
  t.timeout(300_000)
  const { counts } = await runPlaced(104)
  t.ok(counts['chunk let go']! > 0)
})

for (const [what, sabotage] of [
  ['that lets go of chunks without asking', (d: SimDevice) => { d.s.placing!.cache.holders!.confirm = (chunks) => Promise.resolve(chunks.map(() => true)) }],
  ['that fetches nothing of what it is to hold', (d: SimDevice) => { d.s.placing!.keeping.next = () => [] }],
] as const) {
  test(`it is noticed: a device ${what}`, async (t) => {
    t.timeout(300_000)
    for (let seed = 1; seed < 10; seed++) {
      try {
        await runPlaced(seed, { sabotage })
      } catch (e) {
        t.ok(/lets go of|lacks|after everything was healed|does not have/.test((e as Error).message), (e as Error).message.slice(0, 200))
        return
      }
    }
    t.fail('9 seeds found nothing')
  })
}
