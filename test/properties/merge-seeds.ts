/**
 * node dist/test/properties/merge-seeds.js [--seeds N] [--from SEED] [--steps N] [--crowded]
 *
 * The courses of N seeds, one after the other. One that fails is printed and
 * plays again exactly: --from SEED --seeds 1. It belongs into merge.test.ts then.
 */
import { parseArgs } from 'node:util'
import { courseOf, runCourse } from '../helpers/merging.js'

const { values } = parseArgs({ options: { seeds: { type: 'string', default: '1000' }, from: { type: 'string', default: '1' }, steps: { type: 'string' }, crowded: { type: 'boolean', default: false } } })
const from = Number(values.from)
const count = Number(values.seeds)
const failed: number[] = []
for (let seed = from; seed < from + count; seed++) {
  const course = { ...courseOf(seed), crowded: values.crowded }
  try {
    runCourse(seed, values.steps ? { ...course, steps: Number(values.steps) } : course)
  } catch (e) {
    failed.push(seed)
    console.log(e instanceof Error ? e.message : String(e))
  }
}
console.log(failed.length ? `${failed.length} of ${count} seeds failed: ${failed.join(' ')}` : `${count} seeds, from ${from} on: no difference`)
process.exitCode = failed.length ? 1 : 0
