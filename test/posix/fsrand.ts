/**
 * node dist/test/posix/fsrand.js [--ops N] [--seeds A,B] [--target DIR] [--reference DIR]
 *
 * The differential model test: N random operations a seed, as root and two
 * users, on a plain directory and on a fresh mount (or DIR). The defaults are the
 * 100,000 operations that a release must pass, in ten seeds.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { makeMount } from '../helpers/mount.js'
import { compareFsrand } from './compare.js'

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { ops: { type: 'string', default: '10000' }, seeds: { type: 'string', default: '1,2,3,4,5,6,7,8,9,10' }, target: { type: 'string' }, reference: { type: 'string', default: tmpdir() } } })
  const reference = mkdtempSync(join(values.reference, 'dfs-fsrand-'))
  const mount = values.target === undefined ? await makeMount() : undefined
  let differences = 0
  try {
    for (const seed of values.seeds.split(',').map(Number)) {
      const difference = await compareFsrand(reference, values.target ?? mount!.dir, { seed, ops: Number(values.ops) })
      if (difference) differences++
      console.log(difference ? difference.text : `seed ${seed}: ${values.ops} operations, no difference`)
    }
  } finally {
    await mount?.close()
    rmSync(reference, { recursive: true, force: true })
  }
  console.log(differences ? `${differences} seeds differ` : 'no difference')
  return differences ? 1 : 0
}

main().then((code) => { process.exitCode = code }, (e: unknown) => {
  console.error(e instanceof Error ? e.message : String(e))
  process.exitCode = 1
})
