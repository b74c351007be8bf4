/** dfs bootstrap: a DHT of one's own, enough for devices to meet. */
import test from 'brittle'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createDevice } from '../../lib/keys/device.js'
import { DFS, makeCli } from '../helpers/cli.js'
import { HOST, place } from '../helpers/net.js'

const LONG = { timeout: 120_000 }

test('devices that know nothing but its address meet, and go over to TCP', LONG, async (t) => {
  const port = 20_000 + Math.floor(Math.random() * 20_000)
  const child = spawn(process.execPath, [DFS, 'bootstrap', '--json', '--host', HOST, '--port', String(port)], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  const told = JSON.parse(line.toString()) as { address: string; host: string; ports: number[] }
  t.alike(told, { address: `${HOST}:${port}`, host: HOST, ports: [port, port + 1, port + 2, port + 3] })

  const here = await place(t, 'tcp')
  const met = { bootstrap: [told.address], dht: true, device: createDevice() }
  const a = await here.node(met)
  const b = await here.node({ ...met, device: createDevice() })
  const [atA, atB] = await Promise.all([a.until(() => a.open.find(({ link }) => link.via === 'lan')), b.until(() => b.open.find(({ link }) => link.via === 'lan'))])
  atA.link.send(Buffer.from('met'), 'now')
  await b.until(() => atB.messages.length > 0)
  t.is(atB.messages[0]!.toString(), 'met')

  const cli = makeCli(t)
  const [code, message] = await cli.fails('bootstrap', '--host', HOST, '--port', String(port + 1))
  t.is(code, 2, message)
  t.ok(message.includes('choose another with --port'), message)
  t.is((await cli.fails('bootstrap', '--host', 'nowhere'))[0], 2)
  t.is((await cli.fails('bootstrap', '--port', 'x'))[0], 2)

  child.kill('SIGINT')
  t.alike(await once(child, 'exit'), [0, null], 'ctrl-C ends it well')
})
