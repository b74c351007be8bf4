/**
 * Collecting garbage while everything names chunks again (docs/simulation.md).
 * Any number of seeds: npm run sim -- --race --seeds N.
 */
import test from 'brittle'
import type { SimDevice } from './devices/device.js'
import type { SimKeeper } from './devices/keeper.js'
import { runRace } from './devices/race.js'

const SEEDS = 8

test(`seeds 1 to ${SEEDS}: whoever drops, lets go of or releases a chunk, nothing is lost that anybody can need`, async (t) => {
  t.timeout(300_000)
  const total: Record<string, number> = {}
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { counts } = await runRace(seed)
    for (const [what, n] of Object.entries(counts)) total[what] = (total[what] ?? 0) + n
  }
  for (const what of ['chunk dropped', 'chunk let go', 'chunk released', 'restored', 'copy', 'crash', 'open', 'setting']) t.ok((total[what] ?? 0) > 0, `${what}: ${total[what]}`)
})

test('a seed replays exactly', async (t) => {
  t.timeout(60_000)
  for (const seed of [4, 9]) t.is((await runRace(seed)).digest, (await runRace(seed)).digest)
})

/** Seeds that have failed once, and why. What a seed draws changes when the scenario does. */
const FAILED: [seed: number, why: string][] = [
  [37, 'a flush named what another had sealed, after that one had ended, its file was gone and gc had dropped the chunk'],
  [2069, 'a device was doubted that did not show what only a file that was open elsewhere and removed still had'],
  [100388, 'a file that two had made, empty, had gone for good from one when a program of the other wrote to it'],
]

for (const [seed, why] of FAILED) {
  test(`seed ${seed}: ${why}`, async (t) => {
    t.timeout(60_000)
    await runRace(seed)
    t.pass()
  })
}

const LOST = /last copy|is on no disk|where it is not|in which its index|not what it should be|reads|lacks|not sound/

/** `from`: the first seed of those that are run. */
const SABOTAGE: [what: string, how: { sabotage?: (d: SimDevice) => void; sabotageKeeper?: (k: SimKeeper) => void }, from: number][] = [
  ['a collector that does not look at the history', {
    sabotage: (d) => {
      const { drive, db, chunks, metadata } = d.s
      const collect = drive!.collect.bind(drive)
      drive!.collect = async (isFull) => {
        await collect(isFull)
        if (d.live?.metadata !== metadata) return
        for (const num of db.sql.prepare('SELECT DISTINCT chunk FROM history_extent WHERE len > 0 AND chunk NOT IN (SELECT chunk FROM extent)').pluck().all() as number[]) chunks.remove(num)
      }
    },
  }, 15],
  ['a device for which others always have a chunk', { sabotage: (d) => { d.s.drive!.cache.holders!.confirm = (chunks) => Promise.resolve(chunks.map(() => true)) } }, 9],
  ['a storage peer that releases without asking', {
    sabotageKeeper: ({ live }) => {
      const { log } = live!.sealed
      live!.releases!.ask = (ids) => Promise.resolve({ logs: [...log.heads()].map(([inc, seq]) => ({ incarnation: log.incarnationId(inc), device: log.deviceOf(inc), seq })), ids })
    },
  }, 13],
]

for (const [what, how, from] of SABOTAGE) {
  test(`it is noticed: ${what}`, async (t) => {
    t.timeout(300_000)
    for (let seed = from; seed < from + 30; seed++) {
      try {
        await runRace(seed, how)
      } catch (e) {
        t.ok(LOST.test((e as Error).message), `seed ${seed}: ${(e as Error).message.slice(0, 200)}`)
        return
      }
    }
    t.fail('30 seeds found nothing')
  })
}
