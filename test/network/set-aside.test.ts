/** Real daemons of one drive, one of which is away for so long that the others set it aside; it comes back with what was written on it. */
import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { existsSync, promises as fs } from 'node:fs'
import { join } from 'node:path'
import type { DeviceStatus } from '../../lib/api.js'
import { joinDrive, sameTree, TestDevice, until } from '../helpers/devices.js'

/** So long is 60 days, for one of them. */
const ASIDE_AFTER_MS = '1500'

test('set aside, and back with what was written meanwhile: one tree, nothing lost, content that is here not fetched again', { timeout: 300_000 }, async (t) => {
  const a = new TestDevice(t, 'anna', { DFS_ASIDE_AFTER_MS: ASIDE_AFTER_MS })
  const b = new TestDevice(t, 'bert')
  await a.mount()
  await joinDrive(a, b)
  await b.mount()
  const big = randomBytes(6_000_000)
  await fs.writeFile(a.path('big'), big)
  await fs.mkdir(a.path('folder'))
  for (const name of ['mine.txt', 'both.txt', 'moved.txt', 'gone.txt', 'folder/deleted by anna.txt']) await fs.writeFile(a.path(name), `base of ${name}`)
  await sameTree(a, b)
  await until('all content is on both', async () => (await b.status()).chunks.owed === 0)
  await b.unmount()

  const isAway = async () => (await a.json<{ devices: DeviceStatus[] }>('devices')).devices.find((d) => d.name === 'bert')!.isAway
  let n = 0
  await until('bert is set aside', async () => {
    await fs.writeFile(a.path('clock'), `${++n}`)
    return isAway()
  })
  t.ok((await a.ok('devices')).includes('set aside'))
  await fs.writeFile(a.path('both.txt'), 'anna')
  await fs.rm(a.path('folder'), { recursive: true })
  await fs.writeFile(a.path('of anna'), 'anna')
  await a.unmount()

  await b.mount()
  await fs.writeFile(b.path('mine.txt'), 'bert alone')
  await fs.writeFile(b.path('both.txt'), 'bert')
  await fs.rename(b.path('moved.txt'), b.path('elsewhere.txt'))
  await fs.rm(b.path('gone.txt'))
  await fs.writeFile(b.path('folder/deleted by anna.txt'), 'written by bert')
  const own = randomBytes(300_000)
  await fs.mkdir(b.path('new/deep'), { recursive: true })
  await fs.writeFile(b.path('new/deep/own'), own)
  await fs.symlink('own', b.path('new/deep/link'))

  await a.mount()
  // The mount of bert goes and comes: what is asked of it meanwhile fails.
  await until('it is there, and back', async () => existsSync(a.path('new/deep/own')) && (await fs.readFile(b.path('of anna'), 'utf8')) === 'anna')
  const tree = await sameTree(a, b)
  t.alike(await isAway(), false, 'it counts again')
  for (const d of [a, b]) {
    t.is(await fs.readFile(d.path('mine.txt'), 'utf8'), 'bert alone')
    t.is(await fs.readFile(d.path('elsewhere.txt'), 'utf8'), 'base of moved.txt')
    t.is(await fs.readFile(d.path('folder/deleted by anna.txt'), 'utf8'), 'written by bert', 'a write wins over a removal that did not see it')
    t.ok((await fs.readFile(d.path('new/deep/own'))).equals(own))
    t.absent(existsSync(d.path('moved.txt')) || existsSync(d.path('gone.txt')))
    const both = (await fs.readdir(d.dir)).filter((name) => name.startsWith('both'))
    t.alike((await Promise.all(both.map((name) => fs.readFile(d.path(name), 'utf8')))).sort(), ['anna', 'bert'], 'both versions')
    t.ok((await fs.readFile(d.path('big'))).equals(big))
  }
  t.ok(tree.includes('new/deep/link'))
  const status = await b.status()
  t.is(status.chunks.owed, 0)
  t.ok(status.peers[0]!.bytesIn < big.length / 2, `${status.peers[0]!.bytesIn} bytes came: content that was here stayed`)
  await until('what was left of the way is gone', () => !existsSync(join(b.store, 'before.db')) && !existsSync(join(b.store, 'anew.db')))

  await fs.writeFile(b.path('after'), 'bert')
  await until('it goes on', () => existsSync(a.path('after')))
  await b.unmount()
  await b.mount()
  await sameTree(a, b)
})
