/** A device that writes two histories: what the others do, with the real log, order and sync code (docs/simulation.md). */
import test from 'brittle'
import { decodeHeader, encodeHeader } from '../../lib/log/entry.js'
import { S_IFREG } from '../../lib/log/mode.js'
import { ROOT_INO } from '../../lib/tree/inode.js'
import { SIGNATURE_BYTES, signEntry } from '../../lib/seal/entry.js'
import type { Message } from '../../lib/swarm/messages.js'
import { encode } from '../../lib/swarm/wire.js'
import type { Liar } from './devices/liar.js'
import type { SimDevice } from './devices/device.js'
import { World } from './devices/world.js'

/** To bob goes another entry than to the others: of a minute later, and as well signed. */
function forks(self: SimDevice, m: Message): Message {
  if (m.type !== 'entries' || !m.incarnation.equals(self.device.incarnation)) return m
  return {
    ...m,
    entries: m.entries.map((e, i) => {
      if (i < m.entries.length - 1) return e
      const header = decodeHeader(e.signed.subarray(0, -SIGNATURE_BYTES))
      const bytes = encodeHeader({ ...header, clockMs: header.clockMs + 60_000 })
      return { sealed: e.sealed, signed: Buffer.concat([bytes, signEntry(bytes, self.device.secretKey)]) }
    }),
  }
}

function touch(d: SimDevice, name: string): void {
  const outcome = d.submit({ type: 'create', parent: ROOT_INO, name: Buffer.from(name), ino: d.newIno(), mode: S_IFREG | 0o644, uid: 1, gid: 1, rdev: 0, time: d.clock.now() })
  if (outcome !== '') throw new Error(outcome)
}

test('a fork is proven, kept over a restart, told to whoever comes, and holds up nobody', async (t) => {
  const world = new World(1)
  const [ada, bob, cyd, eve] = ['ada', 'bob', 'cyd', 'eve'].map((name) => world.add(name)) as [SimDevice, SimDevice, SimDevice, SimDevice]
  try {
    ada.create()
    for (const d of [bob, cyd, eve]) d.boot()
    const stop = world.net.every(500, () => world.net.connectAll())
    await world.run(20_000, () => world.devices.every((d) => d.live))
    await world.run(world.net.nowMs + 3_000)
    touch(eve, 'one')
    await world.run(world.net.nowMs + 3_000)
    world.net.partition([['bob'], ['ada', 'cyd', 'eve']])
    let isLying = false
    world.liars.set(eve, { tamper: (m: Message, bytes: Buffer) => [isLying ? encode(forks(eve, m)) : bytes] } as unknown as Liar)
    touch(eve, 'two')
    await world.run(world.net.nowMs + 3_000)
    isLying = true
    world.net.partition([['bob', 'eve'], ['ada', 'cyd']])
    await world.run(world.net.nowMs + 5_000)
    t.ok(ada.lookup(ROOT_INO, 'two') && bob.lookup(ROOT_INO, 'two'), 'each has an entry of that number')
    world.net.partition([['bob', 'ada', 'cyd'], ['eve']])
    await world.run(world.net.nowMs + 30_000)
    for (const d of [ada, bob, cyd]) {
      t.is(d.s.metadata.forks.all().length, 1, `${d.name} has the proof`)
      t.ok(d.notices.some((n) => n.includes('has written two histories')), `${d.name} says so`)
    }
    cyd.crash(0)
    cyd.boot()
    t.is(cyd.s.metadata.forks.all().length, 1, 'it outlives a power cut')
    touch(ada, 'after')
    await world.run(world.net.nowMs + 10_000)
    t.ok(bob.lookup(ROOT_INO, 'after') && cyd.lookup(ROOT_INO, 'after'), 'the others go on')
    isLying = false
    world.net.heal()
    touch(eve, 'three')
    await world.run(world.net.nowMs + 10_000)
    for (const d of [ada, bob, cyd]) t.ok(d.lookup(ROOT_INO, 'three') > 0 && d.s.metadata.forks.all().length === 1, `it has heard of it, and goes on as a new incarnation, which ${d.name} takes`)
    stop()
  } finally {
    world.close()
  }
})
