/** Real daemons of one drive, one of which is away for so long that the others set it aside; it comes back with what was written on it. */
import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { existsSync, promises as fs } from 'node:fs'
import { join } from 'node:path'
import type { DeviceStatus } from '../../lib/api.js'
import { joinDrive, sameTree, TestDevice, until } from '../helpers/devices.js'
import { isAlive, isMounted, kill, processesOf } from '../helpers/mount.js'
import { must, sleep } from '../helpers/run.js'

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
  // So long is short: on a machine that is busy it may have been silent for as long once more.
  await until('it counts again', async () => !(await isAway()))
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

test('killed at every stage of beginning anew: what was written alone is there, once', { timeout: 300_000 }, async (t) => {
  const a = new TestDevice(t, 'anna', { DFS_ASIDE_AFTER_MS: ASIDE_AFTER_MS })
  const b = new TestDevice(t, 'bert')
  await a.mount()
  await joinDrive(a, b)
  await b.mount()
  await must('sh', ['-c', 'mkdir many && cd many && for i in $(seq 1500); do echo $i > f$i; done'], { cwd: a.dir })
  await fs.writeFile(a.path('both.txt'), 'base')
  await sameTree(a, b)
  await b.unmount()
  let n = 0
  await until('bert is set aside', async () => {
    await fs.writeFile(a.path('clock'), `${++n}`)
    return (await a.json<{ devices: DeviceStatus[] }>('devices')).devices.find((d) => d.name === 'bert')!.isAway
  })
  await fs.writeFile(a.path('both.txt'), 'anna')
  await a.unmount()
  await b.mount()
  await must('sh', ['-c', 'mkdir own && cd own && for i in $(seq 600); do echo mine $i > f$i; done; cd .. && rm many/f1'], { cwd: b.dir })
  await fs.writeFile(b.path('both.txt'), 'bert')
  await b.unmount()
  await a.mount()

  const daemons = () => processesOf(b.store)
  const stages: [what: string, isThere: () => boolean, laterMs: number][] = [
    ['the second index is there', () => existsSync(join(b.store, 'anew.db')), 0],
    ['it fills', () => existsSync(join(b.store, 'anew.db')), 60],
    ['the indexes have changed places', () => existsSync(join(b.store, 'before.db')), 0],
    ['what was there alone is done again', () => existsSync(join(b.store, 'before.db')), 120],
    ['the same again', () => existsSync(join(b.store, 'before.db')), 40],
  ]
  for (const [what, isThere, laterMs] of stages) {
    const mounting = b.dfs(['mount', b.dir])
    let isOver = false
    void mounting.then(() => { isOver = true })
    const since = performance.now()
    // It may be through already.
    while (!isThere() && !(isOver && performance.now() - since > 8_000)) await sleep(1)
    const wasThere = isThere()
    await sleep(laterMs)
    for (const pid of daemons()) {
      kill(pid)
      await until('it is dead', () => !isAlive(pid))
    }
    t.comment(`${what}: ${wasThere ? 'killed then' : 'it was through before'}`)
    await mounting
    for (const pid of daemons()) kill(pid)
    if (isMounted(b.dir)) await must('umount', ['-l', b.dir])
  }
  await b.mount()
  await until('all of it is on both', async () => {
    // In this order: each says, in an error, what is not there yet.
    await fs.readFile(a.path('own/f600'))
    const { length } = await fs.readdir(a.path('own'))
    if (length !== 600) throw new Error(`${length} files in own/ of anna; ${JSON.stringify(await Promise.all([a.status(), b.status()]))}`)
    return (await fs.readFile(b.path('both.txt'), 'utf8')).length > 0
  })
  await until('what was left of the way is gone', () => !existsSync(join(b.store, 'before.db')) && !existsSync(join(b.store, 'anew.db')))
  await sameTree(a, b)
  t.is((await fs.readdir(a.path('own'))).length, 600)
  t.is(await fs.readFile(a.path('own/f600'), 'utf8'), 'mine 600\n')
  t.absent(existsSync(a.path('many/f1')), 'a removal is done again, too')
  const both = (await fs.readdir(a.dir)).filter((name) => name.startsWith('both'))
  t.alike((await Promise.all(both.map((name) => fs.readFile(a.path(name), 'utf8')))).sort(), ['anna', 'bert'], 'both versions, each once')
})
