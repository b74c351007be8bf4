/** What a device does with what was written while its own log was held (lib/own-log.ts). */
import test from 'brittle'
import { S_IFREG } from '../../lib/log/mode.js'
import type { Op } from '../../lib/log/ops.js'
import { ROOT_INO } from '../../lib/tree/inode.js'
import type { SimDevice } from './devices/device.js'
import { dump } from './devices/dump.js'
import { World } from './devices/world.js'

function create(d: SimDevice, name: string): number {
  const ino = d.newIno()
  d.submit({ type: 'create', parent: ROOT_INO, name: Buffer.from(name), ino, mode: S_IFREG | 0o640, uid: 1, gid: 1, rdev: 0, time: d.clock.now() })
  return ino
}

function content(d: SimDevice, ino: number, text: string, off: number): Op {
  const time = d.clock.now()
  return { type: 'content', ino, base: d.s.metadata.tree.get(ino)!.version, cut: Infinity, size: off + 100, chunks: [d.chunk(text)], pieces: [{ off, len: 100, chunk: 0, coff: 0 }], mtime: time, ctime: time }
}

for (const isFinal of [false, true]) {
  test(`a file that was removed${isFinal ? ', for good,' : ''} while a write to it waited comes back with it, the same on all devices`, async (t) => {
    t.timeout(60_000)
    const world = new World(5)
    try {
      const [ada, bob, cyd] = ['ada', 'bob', 'cyd'].map((name) => world.add(name)) as [SimDevice, SimDevice, SimDevice]
      ada.create()
      bob.boot()
      cyd.boot()
      const stop = world.net.every(500, () => world.net.connectAll())
      await world.run(30_000, () => world.devices.every((d) => d.live))
      const wait = (ms: number) => world.run(world.net.nowMs + ms)
      await wait(2_000)
      const ino = create(ada, 'file')
      ada.submit(content(ada, ino, 'first', 0))
      await wait(2_000)
      const there = bob.lookup(ROOT_INO, 'file')
      t.ok(there > 0)
      if (isFinal) {
        // Bob states what it has while its program only looks.
        ada.submit({ type: 'unlink', parent: ROOT_INO, name: Buffer.from('file'), ino, dir: false, time: ada.clock.now() })
        await wait(200_000)
        t.absent(bob.s.metadata.tree.get(there), 'nothing of it is left')
      }
      bob.s.metadata.own.hold()
      const late: Promise<unknown>[] = []
      const base = bob.s.metadata.tree.get(there)?.version ?? 0
      late.push(bob.s.metadata.engine.submit({ ...content(bob, ROOT_INO, 'second', 100), ino: there, base } as Op) as Promise<unknown>)
      late.push(bob.s.metadata.engine.submit({ ...content(bob, ROOT_INO, 'third', 200), ino: there, base } as Op) as Promise<unknown>)
      if (!isFinal) ada.submit({ type: 'unlink', parent: ROOT_INO, name: Buffer.from('file'), ino, dir: false, time: ada.clock.now() })
      await wait(2_000)
      t.is(bob.lookup(ROOT_INO, 'file'), 0, 'the removal is known')
      bob.s.metadata.own.resume()
      t.alike(await Promise.all(late), ['', ''])
      await wait(150_000)
      const name = isFinal ? 'recovered' : 'file'
      const back = ada.lookup(ROOT_INO, name)
      t.ok(back > 0, 'it is there')
      t.is(ada.s.metadata.tree.rows.allExtents(back).length, isFinal ? 2 : 3, 'with what was written, and what it held')
      t.alike(dump(ada), dump(bob))
      t.alike(dump(ada), dump(cyd))
      stop()
    } finally {
      world.close()
    }
  })
}
