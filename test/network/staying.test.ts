/** A part of what staying.ts has; all of it: npm run test:namespaces. */
import test from 'brittle'
import { closeMembers } from '../helpers/member.js'
import { closeNetworks } from '../helpers/namespaces.js'
import { scratchDir } from '../helpers/scratch.js'
import { playLinkLocal, playRebinding, playRelayed, playStaying } from './staying.js'

const LONG = { timeout: 200_000 }

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void closeMembers().then(closeNetworks).then(() => process.exit(1)))

test('who knows one device is linked with all; restarts, other ports and other addresses come to one link each', LONG, async (t) => {
  await playStaying(scratchDir(t), ['met', 'other port', 'new address of a'], (text) => t.comment(text))
  t.pass()
})

test('a router with NAT forgets which port was whose: the link over hyperswarm comes again', LONG, async (t) => {
  await playRebinding(scratchDir(t), (text) => t.comment(text))
  t.pass()
})

test('two behind routers that defeat hole punching are linked through a third device of the drive', LONG, async (t) => {
  await playRelayed(scratchDir(t), (text) => t.comment(text))
  t.pass()
})

test('devices without any address but link-local ones find each other by multicast', LONG, async (t) => {
  await playLinkLocal(scratchDir(t), (text) => t.comment(text))
  t.pass()
})
