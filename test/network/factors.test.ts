/** As many copies of what is below a directory as it wants: on devices that read the drive, and on one that does not. */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import type { Drive } from '../../lib/drive.js'
import { isDfsError, type DfsErrorCode } from '../../lib/errors.js'
import type { StoragePeer } from '../../lib/storage-peer.js'
import { until } from '../helpers/devices.js'
import { first, joined, storing, write, type Device } from '../helpers/storing.js'

const LONG = { timeout: 240_000 }
/** What was shown a moment ago need not be waited for so long in a test. */
const SOON = { graceMs: 300 }

/** Chunks of the files below a directory, by their ids in hex. */
async function chunksBelow(drive: Drive, dir: string): Promise<string[]> {
  const ids: string[] = []
  const sql = drive.db.sql.prepare('SELECT DISTINCT hex(c.id) FROM chunk c JOIN extent e ON e.chunk = c.num WHERE e.ino = ?').pluck()
  drive.tree.rows.flush()
  for await (const entry of drive.opendir(dir)) ids.push(...sql.all((await drive.stat(`${dir}/${entry.name.toString()}`)).ino) as string[])
  return ids
}

interface Fleet { readers: Device[]; s: Device<StoragePeer>; all: (Drive | StoragePeer)[] }

/** Three that read, one that only stores; two copies of everything. */
async function fleet(t: Assert): Promise<Fleet> {
  const a = await first(t)
  const full = await a.drive.key('full')
  const b = await joined(t, a)
  const c = await joined(t, b, full)
  const s = await storing(t, await a.drive.key('storage'), [a.address, b.address, c.address], SOON)
  const readers = [a, b, c]
  const id = (await s.drive.status()).device
  await a.drive.addDevice(id, 'storage', 'shed')
  await a.drive.setConfig('replication', '2')
  for (const { drive } of readers) await a.drive.setDevice((await drive.status()).device, { capacity: '1G' })
  await a.drive.setDevice(id, { capacity: '1G' })
  for (const dir of ['/plain', '/precious', '/scratch']) {
    await a.drive.mkdir(dir)
    for (let i = 0; i < 6; i++) await write(a.drive, `${dir}/${i}`, randomBytes(100_000))
  }
  await until('the one that stores has heard of all', () => (s.drive.db.sql.prepare('SELECT count(*) FROM chunk').pluck().get() as number) >= 18)
  return { readers, s, all: [...readers, s].map((d) => d.drive) }
}

/** Who holds a chunk as the plan says, and who has it, by name. */
const nameOf = ({ readers, s }: Fleet, key: string) => ['a', 'b', 'c', 's'][[...readers, s].findIndex((d) => d.drive.device.publicKey.toString('hex') === key)]!
const hasIt = (drive: Drive | StoragePeer, id: string) => drive.chunks.isThere(drive.chunks.findById(Buffer.from(id, 'hex')), drive.store)

/** All agree that there are to be so many copies of what is below `dir`, and they are there. */
async function settled(f: Fleet, dir: string, copies: number): Promise<string[]> {
  const ids = await chunksBelow(f.readers[0]!.drive, dir)
  await until(`${dir} has ${copies} copies`, () => ids.every((hex) => {
    const id = Buffer.from(hex, 'hex')
    const plans = f.all.map((d) => d.keeping.plan)
    if (plans.some((plan) => plan?.copiesOf(id) !== copies || !plan.digest.equals(plans[0]!.digest))) return false
    const holders = plans[0]!.holdersOf(id).map((key) => nameOf(f, key))
    return holders.length === Math.min(copies, 4) && f.all.every((d, i) => !holders.includes('abcs'[i]!) || hasIt(d, hex))
  }))
  return ids
}

/** The one that only stores has of these exactly what it is to hold. */
async function storesItsShare({ s }: Fleet, ids: string[]): Promise<number> {
  const mine = () => ids.filter((id) => s.drive.keeping.plan!.isMine(Buffer.from(id, 'hex')))
  await until('what is not its share has gone', () => s.drive.keeping.isLaid && ids.every((id) => hasIt(s.drive, id) === mine().includes(id)))
  return mine().length
}

test('directories want more copies, or fewer: new files, old ones, moved ones, equal ones', LONG, async (t) => {
  const f = await fleet(t)
  const [a, b] = f.readers.map((d) => d.drive) as [Drive, Drive, Drive]
  await settled(f, '/plain', 2)
  await a.setConfig('replication', '4', '/precious')
  await b.setConfig('replication', '1', '/scratch')
  const precious = await settled(f, '/precious', 4)
  const scratch = await settled(f, '/scratch', 1)
  await settled(f, '/plain', 2)
  t.is(await storesItsShare(f, precious), precious.length)
  t.ok(await storesItsShare(f, scratch) < scratch.length)
  t.alike((await a.config()).filter((s) => s.path !== undefined).map((s) => [s.path, s.value]), [['/precious', '4'], ['/scratch', '1']])

  await write(b, '/precious/new', randomBytes(100_000))
  await until('it is seen', () => a.stat('/precious/new').then(() => true))
  await settled(f, '/precious', 4)
  // Moved, it is as others there.
  await a.rename('/precious/0', '/scratch/moved')
  await a.rename('/scratch/0', '/precious/moved')
  await until('it is seen', () => b.stat('/precious/moved').then(() => true))
  await settled(f, '/precious', 4)
  await storesItsShare(f, await settled(f, '/scratch', 1))
  // Equal content: the most that a file wants, and no less than the drive for one that wants nothing.
  const equal = randomBytes(100_000)
  await write(a, '/scratch/equal', equal)
  await settled(f, '/scratch', 1)
  await write(a, '/plain/equal', equal)
  const [id] = (await chunksBelow(a, '/plain')).filter((x) => a.keeping.plan!.copiesOf(Buffer.from(x, 'hex')) === 2).slice(-1)
  t.ok(id)
  await settled(f, '/plain', 2)
  // A hard link wants what the directory it is in does.
  await a.link('/scratch/1', '/precious/link')
  await settled(f, '/precious', 4)
  // A directory with all below it, into another.
  await a.mkdir('/scratch/sub')
  await write(a, '/scratch/sub/file', randomBytes(100_000))
  await settled(f, '/scratch/sub', 1)
  await a.rename('/scratch/sub', '/precious/sub')
  await settled(f, '/precious/sub', 4)
  await a.setConfig('replication', null, '/precious')
  await settled(f, '/precious/sub', 2)
  await a.setConfig('replication', '3', '/precious')
  await settled(f, '/precious/sub', 3)
  await a.waitPlaced()
  t.is((await a.status()).placement!.copiesOwed, 0)
  for (const d of f.all) t.alike((await d.fsck({ data: true })).problems, [])
})

test('a restart goes on where it was; a directory that goes wants nothing any more', LONG, async (t) => {
  const f = await fleet(t)
  const [a] = f.readers as [Device]
  await a.drive.setConfig('replication', '4', '/precious')
  await settled(f, '/precious', 4)
  const { digest } = a.drive.keeping.plan!
  // It listens at another port then.
  a.peers = f.readers.slice(1).map((d) => d.address)
  await a.stop()
  await a.start()
  t.ok(a.drive.keeping.plan!.digest.equals(digest), 'the plan is at once what it was')
  t.ok(a.drive.keeping.isLaid, 'and nothing is looked through again')
  f.s.peers = f.readers.map((d) => d.address)
  await f.s.stop()
  await f.s.start()
  t.ok(f.s.drive.keeping.plan!.digest.equals(digest))
  const again = { ...f, all: [...f.readers, f.s].map((d) => d.drive) }
  await settled(again, '/precious', 4)
  await a.drive.rename('/precious', '/scratch/was precious')
  await settled(again, '/scratch/was precious', 4)
  await a.drive.rm('/scratch/was precious', { recursive: true })
  await until('all plans are without it', () => again.all.every((d) => d.keeping.plan?.factors.length === 1))
})

test('what a directory wants is known after a restart before which nobody had looked at it', LONG, async (t) => {
  const a = await first(t)
  const told = async (dir?: string) => (await a.drive.config(dir)).filter((s) => s.name === 'replication').map((s) => [s.path, s.value])
  for (const dir of ['/dir', '/dir/below', '/other']) await a.drive.mkdir(dir)
  const { tree, placing } = a.drive
  placing.settings.setBelow(tree.get((await a.drive.stat('/dir')).ino)!, '4')
  await a.stop()
  await a.start()
  t.alike(await told('/dir'), [['/dir', '4']])
  t.alike(await told('/dir/below/../below'), [['/dir', '4']], 'and of what is below it')
  t.alike(await told('/other'), [[undefined, null]])
  await a.drive.symlink('/dir/below', '/other/link')
  t.alike(await told('/other/link'), [['/dir', '4']], 'by a link too')
  t.alike(await told(), [[undefined, null], ['/dir', '4']])
  const { tree: now } = a.drive
  a.drive.placing.settings.setBelow(now.get((await a.drive.stat('/dir')).ino)!, null)
  await a.stop()
  await a.start()
  t.alike(await told('/dir'), [[undefined, null]], 'nor that it wants nothing any more is lost')
  t.is(a.drive.keeping.plan?.factors.length ?? 1, 1)
})

test('what cannot be wanted is refused, and says why', LONG, async (t) => {
  const { drive } = await first(t)
  await drive.mkdir('/dir')
  await write(drive, '/file', Buffer.from('content'))
  const refused = async (what: Promise<void>, code: DfsErrorCode, text: RegExp) => {
    try {
      await what
      t.fail('it was taken')
    } catch (e) {
      t.ok(isDfsError(e, code) && text.test(e.message), String(e))
    }
  }
  await refused(drive.setConfig('replication', '17', '/dir'), 'USAGE', /1 to 16/)
  await refused(drive.setConfig('replication', 'all', '/dir'), 'USAGE', /whole drive/)
  await refused(drive.setConfig('retention', '1d', '/dir'), 'USAGE', /whole drive/)
  await refused(drive.setConfig('replication', '2', '/file'), 'ENOTDIR', /directory/)
  await refused(drive.setConfig('replication', '2', '/nowhere'), 'ENOENT', /nowhere/)
  await drive.setConfig('replication', '2')
  for (const n of [3, 4, 5, 6]) await drive.mkdir(`/dir/${n}`)
  for (const n of [3, 4, 5]) await drive.setConfig('replication', `${n}`, `/dir/${n}`)
  await refused(drive.setConfig('replication', '6', '/dir/6'), 'USAGE', /3, 4, 5 already/)
  await drive.setConfig('replication', '5', '/dir/6')
  t.is((await drive.config()).filter((s) => s.path !== undefined).length, 4)
  t.alike((await drive.listXattrs('/dir/6')).map(String), [], 'programs do not see it')
})
