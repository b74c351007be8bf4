/** Choosing between what was changed at once: several versions, directories, sides that are gone. Drives in this process, apart and together at will. */
import test, { type Assert } from 'brittle'
import { join } from 'node:path'
import type { FileHandle } from '../../lib/api.js'
import { Drive } from '../../lib/drive.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { ServedNetwork } from '../../lib/service/network.js'
import { until } from '../helpers/devices.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const LONG = { timeout: 120_000 }

/** Devices of one drive, the first of which all know; torn down with the test. */
class Group {
  readonly drives: Drive[] = []
  #port = 0

  static async of(t: Assert, names: string[]): Promise<Group> {
    const group = new Group()
    const dir = scratchDir(t)
    for (const name of names) {
      const store = join(dir, name)
      if (group.drives.length > 0) {
        await prepareJoin(store, await group.drives[0]!.key('full'), { deviceName: name, peers: [`127.0.0.1:${group.#port}`] })
        await finishJoin(store, { network: { dht: false, mdns: false } })
      }
      process.env.NODE_ID = name
      const drive = group.drives.length > 0 ? await Drive.open(store) : await Drive.create(store)
      delete process.env.NODE_ID
      t.teardown(() => drive.close(), { force: true })
      group.drives.push(drive)
      await group.#connect(drive)
      group.#port ||= (await drive.network!.status())!.port
    }
    await group.settled()
    return group
  }

  #connect(drive: Drive): Promise<void> {
    return ServedNetwork.start(drive, { peers: [], discovery: [] }, { onNotice() {} })
  }

  async apart(): Promise<void> {
    await this.settled()
    for (const drive of this.drives) {
      await drive.network!.close()
      drive.network = null
    }
  }

  /** In this order: the entries of the later have seen nothing of the earlier, and come after them. */
  async write(...of: ((drive: Drive) => Promise<unknown>)[]): Promise<void> {
    await this.apart()
    for (const [i, write] of of.entries()) {
      await write(this.drives[i]!)
      await this.drives[i]!.sync()
      // What has the time is the entry, and clocks count milliseconds.
      this.drives[i]!.journal.commit()
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    await this.together()
  }

  async together(): Promise<void> {
    for (const drive of this.drives) await this.#connect(drive)
    await this.settled()
  }

  /** All are connected to the first, which passes on what they write, and show the same. */
  async settled(): Promise<void> {
    await until('all are alike', async () => {
      const shown = await Promise.all(this.drives.map(async (drive) => JSON.stringify([await names(drive), (await drive.conflicts()).map((c) => c.aside.path)])))
      const connected = await Promise.all(this.drives.map(async (drive) => (await drive.peers()).filter((p) => p.owedToPeer + p.owedFromPeer === 0).length))
      return shown.every((s) => s === shown[0]) && connected.every((n, i) => n >= (i === 0 ? this.drives.length - 1 : 1))
    })
  }
}

async function names(drive: Drive): Promise<string[]> {
  const out: string[] = []
  for await (const { name } of drive.opendir('/')) out.push(name.toString('latin1'))
  return out.sort()
}

async function write(drive: Drive, path: string | Buffer, text: string): Promise<void> {
  const file = await drive.open(path, 'w')
  await file.write(0, Buffer.from(text))
  await file.close()
  await drive.sync()
}

async function read(drive: Drive, path: string): Promise<string> {
  const file = await drive.open(path)
  try { return (await file.read(0, 1000)).toString() } finally { await file.close() }
}

test('three versions: one has to be named to be kept, or the one with the name is', LONG, async (t) => {
  const group = await Group.of(t, ['anna', 'bert', 'carl'])
  const [a, , c] = group.drives as [Drive, Drive, Drive]
  for (const path of ['/f', '/g']) await write(a, path, 'base')
  await group.write(...['a', 'b', 'c'].map((text) => async (drive: Drive) => {
    await write(drive, '/f', text)
    await write(drive, '/g', text)
  }))
  t.is((await a.conflicts()).length, 4)
  t.is(await codeOf(() => a.resolveConflict('/f', 'mine')), 'EEXIST')
  t.is((await a.conflicts()).length, 4, 'and nothing was done')
  const mine = (await a.conflicts()).find((x) => x.aside.isThisDevice && x.plain?.path.toString() === '/f')!
  t.alike(await a.resolveConflict(mine.aside.path, 'mine'), [Buffer.from('/f')])
  await c.resolveConflict('/g', 'mine')
  await group.settled()
  t.is(await read(c, '/f'), 'a')
  t.is(await read(a, '/g'), 'c')
  t.alike((await names(a)).filter((n) => n.startsWith('g')), ['g'], 'both others are gone')
})

test('where neither is its own, "mine" is what has the name; names that are not UTF-8', LONG, async (t) => {
  const group = await Group.of(t, ['anna', 'bert', 'carl'])
  const [a, b, c] = group.drives as [Drive, Drive, Drive]
  const path = Buffer.from('/\xff.txt', 'latin1')
  for (const p of [path, '/g']) await write(a, p, 'base')
  await group.write(...['a', 'b'].map((text) => async (drive: Drive) => { for (const p of [path, '/g']) await write(drive, p, text) }))
  const [one] = (await c.conflicts()).filter((x) => x.plain!.path.equals(path))
  t.ok(one!.aside.path.includes(0xff) && one!.aside.deviceName === 'anna' && !one!.aside.isThisDevice && !one!.plain!.isThisDevice)
  await c.resolveConflict(path, 'mine')
  await c.resolveConflict('g', 'theirs')
  await group.settled()
  t.alike(await names(b), ['g', '\xff.txt'])
  t.is(await read(b, '/g'), 'a')
})

test('directories are never removed as a whole; they get a name of their own', LONG, async (t) => {
  const group = await Group.of(t, ['anna', 'bert'])
  const [a, b] = group.drives as [Drive, Drive]
  await a.mkdir('/x')
  await a.mkdir('/y')
  await write(a, '/x/1', '1')
  await write(a, '/y/2', '2')
  await group.write((d) => d.rename('/x', '/z'), (d) => d.rename('/y', '/z'))
  const [one] = await a.conflicts()
  t.is(one!.aside.type, 'directory')
  t.is(await codeOf(() => a.resolveConflict('/z', 'mine')), 'EISDIR')
  t.is(await codeOf(() => a.resolveConflict('/z', 'theirs')), 'EISDIR')
  t.alike(await b.resolveConflict('/z', 'both'), [Buffer.from('/z'), Buffer.from('/z (2)')])
  await group.settled()
  t.alike(await names(a), ['z', 'z (2)'])

  await group.write((d) => d.mkdir('/n'), (d) => write(d, '/n', 'a file'))
  const [file] = await a.conflicts()
  t.is(file!.plain!.type, 'directory', 'the directory has the name')
  t.is(await codeOf(() => b.resolveConflict('/n', 'mine')), 'EISDIR')
  t.alike(await a.resolveConflict('/n', 'mine'), [Buffer.from('/n')])
  await group.settled()
  t.alike(await names(b), ['n', 'z', 'z (2)'])
})

test('the other side is gone: what is left is kept under the plain name, or removed', LONG, async (t) => {
  const group = await Group.of(t, ['anna', 'bert'])
  const [a, b] = group.drives as [Drive, Drive]
  await group.write((d) => write(d, '/f.txt', 'a'), (d) => write(d, '/f.txt', 'b'))
  await b.rm('/f.txt')
  await group.settled()
  const [one] = await a.conflicts()
  t.is(one!.plain, null)
  t.is(await codeOf(() => a.resolveConflict(one!.aside.path, 'mine')), 'ENOENT')
  t.is(await codeOf(() => a.resolveConflict('/f.txt', 'both')), 'ENOENT')
  t.alike(await a.resolveConflict(one!.aside.path, 'both'), [Buffer.from('/f.txt')])
  await group.settled()
  t.is(await read(b, '/f.txt'), 'a')
  t.alike(await b.conflicts(), [])
})

test('two programs make the same file and write to it later: both are kept, however long it takes', LONG, async (t) => {
  const group = await Group.of(t, ['anna', 'bert'])
  const [a, b] = group.drives as [Drive, Drive]
  const open: FileHandle[] = []
  const make = async (d: Drive) => { open.push(await d.open('/f.txt', 'w'), await d.open('/g.txt', 'w')) }
  await group.write(make, make)
  const [f, g, fOfB, gOfB] = open as [FileHandle, FileHandle, FileHandle, FileHandle]
  // Both are empty, which makes no copy; but who has it open may write.
  t.is((await f.stat()).nlink, 1)
  for (const [i, d] of group.drives.entries()) {
    await d.mkdir(`/${i}`)
    await group.settled()
  }
  const had = group.drives.map((d) => d.engine.has())
  await a.mkdir('/more')
  await group.settled()
  await b.mkdir('/even more')
  await group.settled()
  await until('that is final', () => group.drives.every((d, i) => [...had[i]!].every(([inc, seq]) => d.engine.finalSeq(inc) >= seq)))

  await f.write(0, Buffer.from('a'))
  await fOfB.write(0, Buffer.from('b'))
  for (const file of [f, fOfB]) {
    await file.sync()
    await file.close()
  }
  await group.settled()
  const [conflict] = (await a.conflicts()).filter((c) => String(c.aside.path).startsWith('/f'))
  for (const d of group.drives) {
    await until('both are there', async () => await read(d, '/f.txt') === 'b' && await read(d, String(conflict!.aside.path)) === 'a')
  }
  // Closed as it was, it needs no copy.
  await g.close()
  await gOfB.close()
  await group.settled()
  for (const d of group.drives) {
    t.is((await d.conflicts()).length, 1)
    t.alike((await names(d)).filter((n) => n.startsWith('g')), ['g.txt'])
  }
})
