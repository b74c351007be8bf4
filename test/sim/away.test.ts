/**
 * Devices that are away for months, or for ever (docs/simulation.md). Any number of seeds: npm run sim -- --away --seeds N.
 */
import test from 'brittle'
import { S_IFREG } from '../../lib/log/mode.js'
import { ROOT_INO } from '../../lib/tree/inode.js'
import type { Message } from '../../lib/swarm/messages.js'
import { encode } from '../../lib/swarm/wire.js'
import { chunkOf, type SimDevice } from './devices/device.js'
import { dump } from './devices/dump.js'
import type { Liar } from './devices/liar.js'
import { runAway } from './devices/scenario.js'
import { World } from './devices/world.js'

const SEEDS = 12

test(`seeds 1 to ${SEEDS}: devices that were away for months have one tree with the others in the end, with all that was durable`, async (t) => {
  t.timeout(600_000)
  let aside = 0, anew = 0, again = 0
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { counts } = await runAway(seed)
    aside += counts['aside'] ?? 0
    anew += counts['begun anew'] ?? 0
    again += counts['done again'] ?? 0
  }
  t.ok(aside > 10 && anew > 5 && again > 50, `${aside} ops set devices aside, ${anew} began anew, ${again} ops were done again`)
})

test('seeds that failed once', async (t) => {
  t.timeout(120_000)
  // A reader that had followed one of two sides met the other when nobody was left of its own, and waited for ever for what comes next.
  // A device that was started again said nothing of what it had taken before, which became final when somebody wrote.
  for (const seed of [26, 100152]) await t.execution(runAway(seed))
})

function create(d: SimDevice, name: string): number {
  const ino = d.newIno()
  const outcome = d.submit({ type: 'create', parent: ROOT_INO, name: Buffer.from(name), ino, mode: S_IFREG | 0o644, uid: 1, gid: 1, rdev: 0, time: d.clock.now() })
  if (outcome !== '') throw new Error(outcome)
  return ino
}

function write(d: SimDevice, ino: number, content: string): void {
  const time = d.clock.now()
  d.submit({ type: 'content', ino, base: d.s.metadata.tree.get(ino)!.version, cut: 0, size: 100, chunks: [d.chunk(content)], pieces: [{ off: 0, len: 100, chunk: 0, coff: 0 }], mtime: time, ctime: time })
}

/** A world in which these have joined. */
async function joined(names: string[]): Promise<{ world: World; devices: SimDevice[]; wait(ms: number): Promise<unknown> }> {
  const world = new World(7)
  const devices = names.map((name) => world.add(name))
  devices[0]!.create()
  for (const d of devices.slice(1)) d.boot()
  world.net.every(500, () => world.net.connectAll())
  await world.run(30_000, () => devices.every((d) => d.live))
  const wait = (ms: number) => world.run(world.net.nowMs + ms)
  await wait(3_000)
  return { world, devices, wait }
}

/** A day goes by, and somebody writes. */
async function days(world: World, d: SimDevice, count: number): Promise<void> {
  for (let day = 0; day < count; day++) {
    world.warp(1)
    create(d, `day ${world.wallMs}`)
    d.s.metadata.journal.commit()
    await world.run(world.net.nowMs + 300)
  }
}

test('a device that never comes back holds up nothing: log and undo records end where they did before', async (t) => {
  t.timeout(120_000)
  const { world, devices: [ada, bob, cyd], wait } = await joined(['ada', 'bob', 'cyd']) as { world: World; devices: [SimDevice, SimDevice, SimDevice]; wait(ms: number): Promise<unknown> }
  try {
    cyd.leave()
    await days(world, ada, 50)
    await wait(100_000)
    t.ok(ada.s.metadata.engine.timeline.tail.length >= 50, 'it is waited for')
    t.absent(ada.s.metadata.asides.isAway(cyd.publicKey))
    await days(world, ada, 20)
    await wait(200_000)
    for (const d of [ada, bob]) {
      const { asides, engine, log } = d.s.metadata
      t.ok(asides.isAway(cyd.publicKey) && asides.isGone(cyd.publicKey))
      t.ok(engine.timeline.tail.length <= 4, `${d.name} keeps ${engine.timeline.tail.length} entries that are not final`)
      const bytes = [...log.heads().keys()].reduce((n, inc) => n + log.head(inc).bytes, 0)
      t.ok(bytes < 3 * 8192, `and ${bytes} bytes of logs`)
    }
  } finally {
    world.close()
  }
})

test('what came before a restart is stated after it: nothing waits for somebody to write', async (t) => {
  const { world, devices: [ada, bob], wait } = await joined(['ada', 'bob']) as { world: World; devices: [SimDevice, SimDevice]; wait(ms: number): Promise<unknown> }
  try {
    await wait(100_000)
    for (const name of ['one', 'two', 'three']) create(ada, name)
    await wait(5_000)
    t.ok(bob.lookup(ROOT_INO, 'three') > 0)
    bob.crash(0)
    bob.boot()
    await wait(120_000)
    for (const d of [ada, bob]) t.ok(d.s.metadata.engine.timeline.tail.length <= 1, `${d.name} keeps ${d.s.metadata.engine.timeline.tail.length} entries that are not final`)
  } finally {
    world.close()
  }
})

test('two that have set each other aside: the side of fewer begins anew, once, and what each wrote is there', async (t) => {
  t.timeout(120_000)
  const { world, devices, wait } = await joined(['ada', 'bob', 'cyd'])
  const [ada, bob, cyd] = devices as [SimDevice, SimDevice, SimDevice]
  try {
    const file = create(ada, 'file')
    write(ada, file, 'base')
    await wait(5_000)
    const global = ada.globalId(file)
    const inoAt = (d: SimDevice) => d.lookup(ROOT_INO, 'file')
    t.is(cyd.globalId(inoAt(cyd)), global)
    world.net.partition([['ada', 'bob'], ['cyd']])
    for (let i = 0; i < 7; i++) {
      await days(world, ada, 10)
      await days(world, cyd, 10)
    }
    await wait(30_000)
    write(ada, inoAt(ada), 'of ada')
    write(cyd, inoAt(cyd), 'of cyd')
    create(cyd, 'only cyd')
    await wait(100_000)
    t.ok(ada.s.metadata.asides.isAway(cyd.publicKey) && cyd.s.metadata.asides.isAway(ada.publicKey), 'each side has set the other aside')
    world.net.heal()
    await wait(120_000)
    t.alike(devices.map((d) => d.notices.filter((n) => n.includes('it takes their metadata')).length), [0, 0, 1])
    t.alike(dump(bob), dump(ada))
    t.alike(dump(cyd), dump(ada))
    t.ok(ada.lookup(ROOT_INO, 'only cyd') > 0)
    const contents = dump(ada).filter((line) => line.startsWith('["extent"')).join()
    for (const content of ['of ada', 'of cyd']) t.ok(contents.includes(chunkOf(content).h.toString('hex').toUpperCase()), `${content} is there`)
    t.absent(ada.s.metadata.asides.isAway(cyd.publicKey))
  } finally {
    world.close()
  }
})

test('who only reads, and has followed the side that has begun anew, follows the other: whoever it meets', async (t) => {
  t.timeout(240_000)
  for (const met of ['ada', 'cyd']) {
    const { world, devices, wait } = await joined(['ada', 'bob', 'cyd'])
    const [ada, , cyd] = devices as [SimDevice, SimDevice, SimDevice]
    try {
      const tv = world.add('tv', world.readKeys)
      tv.boot()
      create(ada, 'file')
      await wait(10_000)
      world.net.partition([['ada', 'bob'], ['cyd', 'tv']])
      for (let i = 0; i < 7; i++) {
        await days(world, ada, 10)
        await days(world, cyd, 10)
      }
      await wait(130_000)
      create(cyd, 'only cyd')
      await wait(5_000)
      t.ok(cyd.s.metadata.asides.isAway(ada.publicKey) && tv.s.metadata.asides.isAway(ada.publicKey), 'the reader knows it from one side')
      world.net.partition([['ada', 'bob', 'cyd'], ['tv']])
      await wait(120_000)
      t.is(cyd.notices.filter((n) => n.includes('it takes their metadata')).length, 1)
      world.net.partition([['ada', 'bob', 'cyd'].filter((name) => name !== met), [met, 'tv']])
      await wait(60_000)
      create(ada, 'after')
      world.net.heal()
      await wait(60_000)
      t.is(tv.notices.filter((n) => n.includes('it takes their metadata')).length, 1, `it has met ${met}`)
      t.alike(dump(tv), dump(ada))
    } finally {
      world.close()
    }
  }
})

test('what a device that may not write claims to hold does not make another begin anew; of one that may, it costs a transfer', async (t) => {
  t.timeout(120_000)
  const { world, devices: [ada, bob], wait } = await joined(['ada', 'bob']) as { world: World; devices: [SimDevice, SimDevice]; wait(ms: number): Promise<unknown> }
  try {
    const tv = world.add('tv', world.readKeys)
    tv.boot()
    await wait(10_000)
    const claims = { tamper: (m: Message, bytes: Buffer) => [m.type === 'have' ? encode({ ...m, logs: m.logs.map((log) => ({ ...log, first: 900, seq: 1000 })) }) : bytes] } as unknown as Liar
    for (const liar of [tv, bob]) {
      world.liars.set(liar, claims)
      world.net.disconnect('ada', liar.name)
      world.net.partition([['ada', liar.name], ['tv', 'bob'].filter((name) => name !== liar.name)])
      create(ada, `while ${liar.name} lies`)
      await wait(40_000)
      t.is(ada.notices.filter((n) => n.includes('it takes their metadata')).length, liar === tv ? 0 : 1, `${liar.name} lies`)
    }
    t.ok(ada.lookup(ROOT_INO, 'while tv lies') > 0 && ada.lookup(ROOT_INO, 'while bob lies') > 0)
  } finally {
    world.close()
  }
})
