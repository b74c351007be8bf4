/** Whom a device that joins believes. */
import test from 'brittle'
import { join } from 'node:path'
import { certify } from '../../lib/keys/certificate.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { createDevice } from '../../lib/keys/device.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { writeHello } from '../../lib/swarm/hello.js'
import { Net } from '../../lib/swarm/net/net.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

test('a device without a certificate of its own for the full role is not asked for metadata', { timeout: 60_000 }, async (t) => {
  const keys = DriveKeys.create()
  const device = createDevice()
  const certificates = {
    'says that it holds the full key': undefined,
    'shows the certificate of another': certify(keys, { device: createDevice().publicKey, role: 'full', name: 'other' }),
    'is enrolled for reading': certify(keys, { device: device.publicKey, role: 'read-only', name: 'reader' }),
    'shows that of another drive': certify(DriveKeys.create(), { device: device.publicKey, role: 'full', name: 'other' }),
  }
  for (const [what, certificate] of Object.entries(certificates)) {
    const net = new Net({
      device, driveId: keys.driveId, topic: keys.topic, proofKey: keys.proofKey, host: '127.0.0.1', dht: false, mdns: false,
      hello: () => writeHello({ kind: 'full', name: 'a liar', certificate }),
    })
    t.teardown(() => net.close(), { force: true })
    await net.ready()
    let asked = 0
    net.onLink = (link) => { link.onMessage = () => { asked++ } }
    const store = join(scratchDir(t), 'store')
    await prepareJoin(store, keys.capability('full'), { peers: [`127.0.0.1:${net.port}`] })
    const over = new AbortController()
    const notices: string[] = []
    const end = await codeOf(() => finishJoin(store, {
      network: { host: '127.0.0.1', dht: false, mdns: false }, signal: over.signal,
      onNotice: (text) => {
        notices.push(text)
        if (text.includes('cannot give')) over.abort()
      },
    }))
    t.is(end, 'EINTR', what)
    t.is(asked, 0)
    await net.close()
  }
})
