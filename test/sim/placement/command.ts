import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { MAX_COPIES, MAX_PLACED_DEVICES, PLACEMENT_GROUPS } from '../../../lib/limits.js'
import { seeded } from '../network.js'
import { balance, type Balance } from './balance.js'
import { CHANGES, changes, type Movement } from './changes.js'
import { chunksPerGroup } from './chunks.js'
import { Churn, type Model, type Outcome } from './churn.js'
import { Fleet } from './fleet.js'
import { plot, powersOfTen, type Axis } from './plot.js'

class UsageError extends Error {}

const HELP = `npm run sim:placement -- [OPTIONS]

The real placement with more devices than there are: balance, what changes move, years of failures.
A seed replays exactly; only the times that computing takes differ.

  --devices N,N,...   sizes of the drive (5,10,100,1000,10000)
  --copies K,K,...    replication factors (2,3)
  --chunks N          chunks in the drive (100000000), of --chunk-bytes N each (131072)
  --seed S            (1)
  --trials N          fleets of which each is changed in each way, of 10 devices; fewer of larger ones, 4 at least (40)
  --failures N        failures that are simulated of 10 devices; fewer of larger drives, 4 at least (20)
  --rate R            of a device, failures a year (0.1), and --planned R: replacements in time (0.1)
  --grace HOURS       after which a silent device counts as lost (24), and --replace HOURS: until a new one comes (168)
  --bandwidth B       bytes a second that a device sends, and receives, for repair (10000000)
  --part P,P,...      of balance, moves, years, zones (all); each draws the same with and without the others
  --plots DIR         write balance.svg, moves.svg and losses.svg there, as far as these parts run
  --help
`

const { values } = parsed(() => parseArgs({ options: {
  devices: { type: 'string', default: '5,10,100,1000,10000' }, copies: { type: 'string', default: '2,3' }, chunks: { type: 'string', default: '100000000' },
  'chunk-bytes': { type: 'string', default: '131072' }, seed: { type: 'string', default: '1' }, trials: { type: 'string', default: '40' }, failures: { type: 'string', default: '20' },
  rate: { type: 'string', default: '0.1' }, planned: { type: 'string', default: '0.1' }, grace: { type: 'string', default: '24' }, replace: { type: 'string', default: '168' },
  bandwidth: { type: 'string', default: '10000000' }, part: { type: 'string', default: 'balance,moves,years,zones' }, plots: { type: 'string' }, help: { type: 'boolean' },
} }))

function main(): void {
  if (values.help) return void process.stdout.write(HELP)
  const sizes = list('devices', 4, MAX_PLACED_DEVICES)
  const factors = list('copies', 1, MAX_COPIES - 1)
  const seed = count('seed', 0)
  const total = count('chunks', 1)
  const [trials, failures] = [count('trials', 1), count('failures', 1)]
  const model = {
    failures: amount('rate'), planned: amount('planned'), zoneFailures: 0, graceHours: amount('grace'), replaceHours: amount('replace'),
    bytesPerHour: amount('bandwidth') * 3600, chunkBytes: count('chunk-bytes', 1), knowsZones: true,
  }
  const parts = new Set(values.part.split(','))
  for (const part of parts) if (!['balance', 'moves', 'years', 'zones'].includes(part)) throw new UsageError(`--part: there is no ${part}`)
  if (model.failures === 0 || model.bytesPerHour === 0) throw new UsageError('--rate and --bandwidth are above 0')
  const cases = sizes.flatMap((devices) => factors.map((copies) => ({ devices, copies })))
  const draw = (what: number, { devices, copies } = { devices: 0, copies: 0 }) => seeded(seed * 1_000_003 + what * 101 + devices * 7919 + copies)
  const chunks = chunksPerGroup(total, draw(0))
  const x: Axis = { label: 'devices', isLog: true, ticks: sizes, min: Math.min(...sizes) / 1.5, max: Math.max(...sizes) * 1.5 }
  const drive = `${total.toLocaleString('en')} chunks of ${model.chunkBytes / 1024} KiB, seed ${seed}`
  // Larger drives take longer for each, and average over more devices in one.
  const fewer = (n: number, devices: number) => Math.max(4, Math.round(n / Math.max(1, devices / 10) ** (1 / 3)))

  if (values.plots !== undefined) mkdirSync(values.plots, { recursive: true })
  console.log(drive)

  if (parts.has('balance')) {
    console.log('\nBalance: bytes that a device holds / capped ideal\n')
    const balances = table(['devices', 'copies', 'std. deviation', 'least', '1st percentile', '99th', 'most', 'most, weights not fitted', 'weights', '65,536 groups'],
      each(cases, (c) => balance(c.devices, c.copies, chunks, draw(1, c))),
      (b) => [b.devices, b.copies, percent(b.deviation), ...[b.least, b.p01, b.p99, b.most, b.mostUnfitted].map(fixed), `${b.weightsMs.toFixed(1)} ms`, `${b.groupsMs.toFixed(0)} ms`])
    draws('balance', () => drawBalance(x, factors.at(-1)!, balances))
  }

  if (parts.has('moves')) {
    console.log('\nWhat a change moves, in copies of everything, and the least that it must\n')
    const movements = table(['devices', 'copies', 'trials', 'change', 'moved', 'least', 'ratio', 'worst trial', 'most moved beyond the least'], each(cases, (c) => changes(c.devices, c.copies, fewer(trials, c.devices), draw(2, c))), (m) => [
      m.devices, m.copies, m.trials, NAMES[m.change], ...[m.moved / m.trials, m.least / m.trials].map((n) => n.toPrecision(3)), ...isEnough(m) ? [fixed(m.moved / m.least), fixed(m.worst)] : ['-', '-'], fixed(m.mostExcess),
    ])
    draws('moves', () => drawMoves(x, factors.at(-1)!, movements))
  }

  if (parts.has('years')) {
    console.log(`\nYears: ${model.failures} failures and ${model.planned} replacements of a device a year, noticed after ${model.graceHours} h, replaced after ${model.replaceHours} h, repair at ${values.bandwidth} B/s each way\n`)
    const years = table(['devices', 'copies', 'years', 'failures', 'moved / least', 'too few copies, of all', 'repair, mean', 'longest', 'lost a year, counted', 'expected'], each(cases, (c) => ({ ...c, ...live(c.devices, 0, fewer(failures, c.devices), { ...model, copies: c.copies }, draw(3, c), chunks) })), (y) => [
      y.devices, y.copies, y.years.toPrecision(3), y.failures, fixed(y.moved / y.least), percent(y.underReplicated), hours(y.meanRepairHours), hours(y.longestRepairHours), (y.lostChunks / y.years).toPrecision(2), (y.expectedLostChunks).toPrecision(2),
    ])
    draws('losses', () => drawLosses(x, factors, years))
  }

  if (parts.has('zones')) {
    console.log('\nZones of four devices, 100 devices, that burn down as a whole (0.01 a year), and no other failures\n')
    const both = factors.flatMap((copies) => [true, false].map((knowsZones) => ({ copies, knowsZones })))
    const burnt = { ...model, failures: 0, planned: 0, zoneFailures: 0.01 }
    table(['copies', 'placement', 'years', 'burnt', 'lost a year'], each(both, (c) => ({ ...c, ...live(100, 4, fewer(failures, 100), { ...burnt, ...c }, draw(4, { devices: 100, copies: c.copies }), chunks) })), (o) => [
      o.copies, o.knowsZones ? 'knows the zones' : 'does not', o.years.toPrecision(3), o.failures / 4, (o.lostChunks / o.years).toPrecision(2),
    ])
  }
}

function draws(name: string, svg: () => string): void {
  if (values.plots !== undefined) writeFileSync(join(values.plots, `${name}.svg`), svg())
}

/** Whether so many groups move in all that their number says something: where the least is not counted, chance is in it. */
function isEnough(m: Movement): boolean { return m.least * PLACEMENT_GROUPS >= (m.change === 'zone' ? 300 : 1) }

function live(devices: number, perZone: number, failures: number, model: Model, random: () => number, chunks: Uint32Array): Outcome {
  const fleet = new Fleet(random)
  return new Churn(model, fleet.devices(devices, perZone), fleet, chunks, random).run(failures)
}

function drawBalance(x: Axis, copies: number, balances: Balance[]): string {
  const shown = balances.filter((b) => b.copies === copies)
  const steps = Math.ceil(Math.max(...shown.map((b) => Math.max(b.most, b.mostUnfitted))) * 5)
  const y: Axis = { label: 'held / capped ideal', isLog: false, min: 0, max: steps / 5, ticks: Array.from({ length: steps + 1 }, (_, i) => i / 5) }
  const lines = [['most', 'most'], ['99th percentile', 'p99'], ['1st percentile', 'p01'], ['least', 'least'], ['most, were capacities the weights', 'mostUnfitted']] as const
  return plot(`What devices hold against the capped ideal, ${copies} copies`, x, y, lines.map(([name, key]) => ({ name, isDashed: key === 'mostUnfitted', points: shown.map((b) => [b.devices, b[key]]) })))
}

function drawMoves(x: Axis, copies: number, movements: Movement[]): string {
  const shown = movements.filter((m) => m.copies === copies && isEnough(m))
  const steps = Math.ceil((Math.max(1.2, ...shown.map((m) => m.moved / m.least)) - 0.95) * 20 - 1e-9)
  const y: Axis = { label: 'moved / least', isLog: false, min: 0.95, max: 0.95 + steps / 20, ticks: Array.from({ length: steps + 1 }, (_, i) => Number((0.95 + i / 20).toFixed(2))) }
  return plot(`What a change moves against the least that it must, ${copies} copies`, x, y, CHANGES.map((change) => (
    { name: NAMES[change], points: shown.filter((m) => m.change === change).map((m) => [m.devices, m.moved / m.least]) })))
}

function drawLosses(x: Axis, factors: number[], years: (Outcome & { devices: number; copies: number })[]): string {
  const series = factors.map((copies) => ({ name: `${copies} copies`, points: years.filter((y) => y.copies === copies && y.expectedLostChunks > 0).map((y): [number, number] => [y.devices, y.expectedLostChunks]) }))
  return plot('Chunks lost a year, expected', x, powersOfTen('chunks a year', series.flatMap((s) => s.points.map(([, lost]) => lost))), series)
}

const NAMES = { add: 'a device comes', remove: 'a device goes, or is drained', double: 'a device gets twice its capacity', zone: 'two devices turn out to share a zone', copies: 'one copy more' }

/** Each row when it is known. Gives what the rows are about. */
function table<T>(head: string[], all: Iterable<T>, row: (one: T) => (string | number)[]): T[] {
  console.log(`| ${head.join(' | ')} |\n|${head.map(() => '---|').join('')}`)
  const shown: T[] = []
  for (const one of all) {
    console.log(`| ${row(one).join(' | ')} |`)
    shown.push(one)
  }
  return shown
}

function* each<S, T>(of: S[], run: (one: S) => T | T[]): Generator<T> {
  for (const one of of) {
    const got = run(one)
    if (Array.isArray(got)) yield* got
    else yield got
  }
}

/** What is wrong with the options is one line. */
function parsed<T>(run: () => T): T {
  try {
    return run()
  } catch (e) {
    if (!(e instanceof UsageError || String((e as { code?: unknown }).code).startsWith('ERR_PARSE_ARGS'))) throw e
    console.error(`${(e as Error).message.split('. ')[0]}; see npm run sim:placement -- --help`)
    process.exit(2)
  }
}

function list(name: 'devices' | 'copies', min: number, max: number): number[] {
  const numbers = values[name].split(',').map(Number)
  for (const n of numbers) if (!Number.isInteger(n) || n < min || n > max) throw new UsageError(`--${name}: whole numbers from ${min} to ${max}`)
  return numbers
}

function count(name: 'seed' | 'chunks' | 'chunk-bytes' | 'trials' | 'failures', min: number): number {
  const n = Number(values[name])
  if (!Number.isInteger(n) || n < min || n >= 2 ** 32) throw new UsageError(`--${name}: a whole number from ${min} to 2^32 - 1`)
  return n
}

function amount(name: 'rate' | 'planned' | 'grace' | 'replace' | 'bandwidth'): number {
  const n = Number(values[name])
  if (!(n >= 0 && n < Infinity)) throw new UsageError(`--${name}: a number from 0`)
  return n
}

function fixed(n: number): string { return n.toFixed(3) }
function percent(n: number): string { return `${(n * 100).toPrecision(2)} %` }
function hours(n: number): string { return `${n.toFixed(1)} h` }

parsed(main)
