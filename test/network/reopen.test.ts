/** A store that had to stop and was opened again goes on among the others; the port that others know stays. */
import test from 'brittle'
import { createServer } from 'node:net'
import { join } from 'node:path'
import type { NetworkConfig } from '../../lib/config.js'
import { Drive } from '../../lib/drive.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { ServedNetwork } from '../../lib/service/network.js'
import { until } from '../helpers/devices.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const QUIET = { onNotice() {} }
const ALONE: NetworkConfig = { peers: [], discovery: [] }

async function portOf(drive: Drive): Promise<number> { return (await drive.network!.status())!.port }

test('after a failed sync: reopened on its port, and the others are there again', { timeout: 120_000 }, async (t) => {
  const scratch = scratchDir(t)
  let a = await Drive.create(join(scratch, 'a'))
  t.teardown(() => a.close().catch(() => {}), { force: true })
  await ServedNetwork.start(a, ALONE, QUIET)
  const port = await portOf(a)
  await prepareJoin(join(scratch, 'b'), await a.key('full'), { peers: [`127.0.0.1:${port}`] })
  await finishJoin(join(scratch, 'b'), { network: { dht: false, mdns: false } })
  const b = await Drive.open(join(scratch, 'b'))
  t.teardown(() => b.close(), { force: true })
  await ServedNetwork.start(b, ALONE, QUIET)
  await until('they are connected', async () => (await a.peers()).length === 1 && (await b.peers()).length === 1)
  await a.mkdir('/before')
  await until('it comes', () => b.stat('/before').then(() => true))

  a.journal.stop(new Error('the disk refuses a sync'))
  t.is(await codeOf(() => a.mkdir('/lost')), 'STORE_STOPPED')
  a = await a.reopen()
  await ServedNetwork.start(a, ALONE, { ...QUIET, anyPort: true })
  t.is(await portOf(a), port)
  await a.mkdir('/after')
  await b.mkdir('/from b')
  await until('both ways again', () => Promise.all([b.stat('/after'), a.stat('/from b')]).then(() => true))
})

test('a port that was asked for and is taken is an error; one that was remembered gives way', { timeout: 60_000 }, async (t) => {
  const scratch = scratchDir(t)
  const drive = await Drive.create(join(scratch, 'store'))
  t.teardown(() => drive.close(), { force: true })
  await ServedNetwork.start(drive, ALONE, QUIET)
  const port = await portOf(drive)
  await drive.network!.close()
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(port, resolve))
  t.teardown(() => other.close(), { force: true })
  t.is(await codeOf(() => ServedNetwork.start(drive, { ...ALONE, port }, QUIET)), 'USAGE')
  await ServedNetwork.start(drive, ALONE, QUIET)
  t.not(await portOf(drive), port)
})
