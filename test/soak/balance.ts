/**
 * npm run soak:balance: how much each of five devices of mixed capacities holds, with many chunks, against the capped ideal: its part
 * of everything by capacity, but no more than one copy. Real daemons; fails where one is off by more than a tenth.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { randomFillSync } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bytesOf, holdingsOf } from '../helpers/copies.js'
import type { Member } from '../helpers/member.js'
import { runAlone, SoakFleet } from './fleet.js'

const HELP = `npm run soak:balance -- [OPTION...]
  --chunks N          (100000)
  --capacities A,B,.. of the devices (4G,8G,12G,16G,20G)
  --dir DIR           where stores are made (${tmpdir()})`
const COPIES = 3
const MOST_OFF = 0.1
/** More than what lies in the index: a chunk each. */
const FILE_BYTES = 9000
const FILES_A_DIR = 1000
const LANES = 8
const MIB = 2 ** 20

const { values } = parseArgs({
  options: { chunks: { type: 'string', default: '100000' }, capacities: { type: 'string', default: '4G,8G,12G,16G,20G' }, dir: { type: 'string', default: tmpdir() }, help: { type: 'boolean', default: false } },
})
if (values.help) {
  console.log(HELP)
  process.exit(0)
}

async function main(parent: string): Promise<void> {
  const capacities = values.capacities.split(',')
  const fleet = await SoakFleet.make(capacities.length, { parent, copies: COPIES, capacity: (n) => capacities[n]!, log: console.log })
  let at = 0
  const [m] = fleet.members as [Member]
  const lane = async () => {
    const content = Buffer.alloc(FILE_BYTES)
    for (let i = at++; i < Number(values.chunks); i = at++) {
      const dir = m.at(String(Math.floor(i / FILES_A_DIR)))
      if (i % FILES_A_DIR < LANES) await mkdir(dir, { recursive: true })
      await writeFile(join(dir, String(i)), randomFillSync(content))
    }
  }
  await Promise.all(Array.from({ length: LANES }, lane))
  await fleet.settled()
  await fleet.evict()
  const live = holdingsOf(fleet.members[0]!.store).live
  const whole = bytesOf(live)
  console.log(`${live.size} chunks, ${(whole / MIB).toFixed(1)} MiB, ${COPIES} copies\n\n| device | capacity | share | ideal MiB | holds MiB | of the ideal | says | disk MiB |\n|---|---|---|---|---|---|---|---|`)
  let worst = 0
  for (const [i, device] of fleet.members.entries()) {
    const { placement: p } = await fleet.device(device)
    const here = bytesOf(holdingsOf(device.store).here)
    const ideal = p!.share! * whole
    worst = Math.max(worst, Math.abs(here / ideal - 1))
    const { disk } = await device.status()
    console.log(`| ${device.name} | ${capacities[i]} | ${p!.share!.toFixed(4)} | ${(ideal / MIB).toFixed(1)} | ${(here / MIB).toFixed(1)} | ${(here / ideal).toFixed(3)} | ${((p!.heldBytes ?? 0) / MIB).toFixed(1)} | ${(disk.segments / MIB).toFixed(1)} |`)
  }
  if (worst > MOST_OFF) throw new Error(`a device is off by ${(100 * worst).toFixed(1)} %`)
}

runAlone(join(values.dir, 'dfs-balance-'), main)
