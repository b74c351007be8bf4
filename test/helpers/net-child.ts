/** One device of the network tests in a process of its own, to be killed. */
import { DriveKeys } from '../../lib/keys/derive.js'
import { deviceFromSeed } from '../../lib/keys/device.js'
import { Net } from '../../lib/swarm/net/net.js'
import { HOST, type ChildSetup } from './net.js'

const { key, seed, incarnation, wire, peers, bootstrap } = JSON.parse(process.argv[2]!) as ChildSetup
const keys = DriveKeys.fromCapability(key)
const net = new Net({
  device: deviceFromSeed(Buffer.from(seed, 'hex'), Buffer.from(incarnation, 'hex')),
  driveId: keys.driveId, topic: keys.topic, proofKey: keys.proofKey, host: HOST, peers, mdns: false,
  tcp: wire === 'tcp', dht: wire === 'udx', ...(bootstrap && { bootstrap }), hello: () => Buffer.from('child'),
})
net.onLink = (link) => link.send(Buffer.from('hello from the child'), 'now')
process.once('disconnect', () => process.exit())
