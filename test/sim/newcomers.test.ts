/**
 * Devices that join from a storage-only one while those that write are out of reach
 * (docs/simulation.md). Any number of seeds: npm run sim -- --newcomers --seeds N.
 */
import test from 'brittle'
import { runNewcomers } from './devices/newcomers.js'

const SEEDS = 16

test(`seeds 1 to ${SEEDS}: devices that join from what a storage device keeps, while others go on or are gone, have one tree with them in the end`, async (t) => {
  t.timeout(600_000)
  let anew = 0, synced = 0, again = 0
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { counts, synced: n } = await runNewcomers(seed)
    anew += counts['begun anew'] ?? 0
    again += counts['done again'] ?? 0
    synced += n
  }
  t.ok(synced > 500, `${synced} durable writes were looked for`)
  t.ok(anew > 3 && again > 20, `${anew} began anew since others had gone on, and did ${again} ops again`)
})

test('it is noticed: a device that takes the log of any newcomer', async (t) => {
  t.timeout(300_000)
  for (let seed = 85; seed < 140; seed++) {
    try {
      await runNewcomers(seed, { sabotage: (d) => { d.s.metadata.newcomers.isTaken = () => true } })
    } catch (e) {
      t.ok(/different trees|invariant|its log has|it is gone/.test((e as Error).message), (e as Error).message.slice(0, 200))
      return
    }
  }
  t.fail('55 seeds found nothing')
})
