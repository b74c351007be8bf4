/** All of staying.ts, then rounds of trio.ts: `npm run test:namespaces -- --rounds N [--seed S] [--ops N]`. Stops at the first that fails and keeps its stores. */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { closeMembers, removeAll } from '../helpers/member.js'
import { closeNetworks } from '../helpers/namespaces.js'
import { CASES, playLinkLocal, playRebinding, playRelayed, playRoutes, playStaying } from './staying.js'
import { playTrio } from './trio.js'

const given = (name: string, standard: number) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? standard : Number(process.argv[at + 1])
}
const rounds = given('rounds', 10)
const first = given('seed', 1 + Math.floor(Math.random() * 1e6))
const ops = given('ops', 60)

process.env.UV_THREADPOOL_SIZE ??= '16'
const parent = mkdtempSync(join(tmpdir(), 'dfs-namespaces-'))
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void closeMembers().then(closeNetworks).then(() => removeAll(parent)).then(() => process.exit(130)))
}
const log = (text: string) => console.log(`  ${text}`)
try {
  await playStaying(join(parent, 'staying'), Object.keys(CASES), log)
  await playRoutes(join(parent, 'routes'), log)
  await playLinkLocal(join(parent, 'link-local'), log)
  await playRelayed(join(parent, 'relayed'), log)
  await playRebinding(join(parent, 'rebinding'), log, 3)
} catch (e) {
  console.log(`failed; stores in ${parent}`)
  console.log(e)
  process.exit(1)
}
for (let i = 0; i < rounds; i++) {
  const seed = first + i
  const start = performance.now()
  const by = seed % 2 === 0 ? 'peer' : 'dht'
  try {
    await playTrio(parent, { seed, by, ops, kills: true, log: (text) => console.log(`  ${((performance.now() - start) / 1000).toFixed(1)} ${text}`) })
  } catch (e) {
    console.log(`seed ${seed} failed; stores in ${parent}`)
    console.log(e)
    process.exit(1)
  }
  await removeAll(join(parent, `trio-${seed}-${by}`))
}
await removeAll(parent)
console.log(`${rounds} rounds passed`)
