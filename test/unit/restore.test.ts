/** What was, on a real store: told by `versions`, brought back by `restore`, given up past the retention. */
import test from 'brittle'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Drive } from '../../lib/drive.js'
import { Drive as Store } from '../../lib/drive.js'
import { parseTime } from '../../bin/time.js'
import { errnoOf as refused } from '../helpers/refused.js'
import { scratchDir } from '../helpers/scratch.js'

const DAY_MS = 86_400_000
type T = Parameters<typeof scratchDir>[0] & { alike(a: unknown, b: unknown, why?: string): void }

async function openDrive(t: T, dir = scratchDir(t)): Promise<Drive> {
  const drive = Store.exists(dir) ? await Store.open(dir) : await Store.create(dir)
  t.teardown(() => drive.close())
  keep(drive, 30 * DAY_MS)
  return drive
}

/** All that programs write is a step. */
function keep(drive: Drive, retentionMs: number): void {
  const { history } = drive.metadata
  history.retentionMs = () => retentionMs
  history.grain = { burstMs: -1, coarseBurstMs: -1, coarseAfterMs: Infinity }
  history.isOn()
}

async function put(drive: Drive, path: string, data: string | Buffer, flags = 'w', at = 0): Promise<void> {
  const f = await drive.open(path, flags)
  await f.write(at, Buffer.from(data))
  await f.close()
  await drive.sync()
}

async function get(drive: Drive, path: string): Promise<string> {
  const f = await drive.open(path)
  const { size } = await f.stat()
  const data = await f.read(0, Math.max(1, size))
  await f.close()
  return data.toString()
}

/** A moment between what came before and what comes after. */
async function moment(drive: Drive): Promise<number> {
  await drive.sync()
  await sleep(3)
  const at = Date.now()
  await sleep(3)
  return at
}

async function names(drive: Drive, dir: string): Promise<string[]> {
  const out: string[] = []
  for await (const e of drive.opendir(dir)) out.push(e.name.toString())
  return out.sort()
}

async function sound(t: T, drive: Drive): Promise<void> {
  t.alike((await drive.fsck({ data: true })).problems, [], 'fsck finds nothing')
}

const what = async (drive: Drive, path: string) => (await drive.versions(path)).events.map((e) => `${e.what} ${e.path}${e.from ? ` from ${e.from}` : ''}${e.size === null ? '' : ` ${e.size}`}`)

test('a file has the content of any moment back, as a version of its own', async (t) => {
  const drive = await openDrive(t)
  await put(drive, '/f', 'first')
  const first = await moment(drive)
  await put(drive, '/f', 'the second, longer')
  const second = await moment(drive)
  await put(drive, '/f', 'XX', 'r+', 4)
  const third = await moment(drive)
  const f = await drive.open('/f', 'r+')
  await f.truncate(3)
  await f.close()
  const fourth = await moment(drive)
  for (const [at, content] of [[first, 'first'], [second, 'the second, longer'], [third, 'the XXcond, longer'], [fourth, 'the']] as const) {
    const report = await drive.restore('/f', { atMs: at })
    t.is(report.files, 1)
    t.is(await get(drive, '/f'), content)
  }
  t.alike(await drive.restore('/f', { atMs: fourth }), { files: 0, directories: 0, bytes: 0, unchanged: 1 }, 'it is so already')
  t.is((await drive.lstat('/f')).ino, (await drive.lstat('/f')).ino)
  t.ok((await drive.versions('/f')).events.length >= 8, 'each is a version')
  await sound(t, drive)
})

test('what was deleted comes back with its attributes, and with what was above it', async (t) => {
  const drive = await openDrive(t)
  await drive.mkdir('/a/b', { recursive: true })
  await drive.chmod('/a/b', 0o750)
  await put(drive, '/a/b/f', 'content')
  await drive.chmod('/a/b/f', 0o640)
  await drive.setXattr('/a/b/f', Buffer.from('user.x'), Buffer.from('value'))
  await drive.utimes('/a/b/f', 1e12, 1e12)
  await drive.symlink('f', '/a/b/link')
  await drive.link('/a/b/f', '/a/b/hard')
  const at = await moment(drive)
  await drive.rm('/a', { recursive: true })
  await drive.gc()
  t.alike(await names(drive, '/'), [])
  await drive.restore('/a/b/f', { atMs: at })
  t.is(await get(drive, '/a/b/f'), 'content')
  const stats = await drive.lstat('/a/b/f')
  t.is(stats.mode & 0o7777, 0o640)
  t.is(stats.mtimeMs, 1e12)
  t.is((await drive.getXattr('/a/b/f', Buffer.from('user.x'))).toString(), 'value')
  t.is((await drive.lstat('/a/b')).mode & 0o7777, 0o750)
  await drive.rm('/a', { recursive: true })
  const report = await drive.restore('/a', { atMs: at })
  t.is(report.directories, 2)
  t.alike(await names(drive, '/a/b'), ['f', 'hard', 'link'])
  t.is((await drive.lstat('/a/b/f')).ino, (await drive.lstat('/a/b/hard')).ino, 'names of one file are so again')
  t.is((await drive.readlink('/a/b/link')).toString(), 'f')
  await sound(t, drive)
})

test('a path is what had that name then, whatever was renamed since', async (t) => {
  const drive = await openDrive(t)
  await drive.mkdir('/old')
  await put(drive, '/old/f', 'one')
  const at = await moment(drive)
  await drive.rename('/old', '/new')
  await put(drive, '/new/f', 'two')
  await put(drive, '/new/tmp', 'three')
  const before = await moment(drive)
  await drive.rename('/new/tmp', '/new/f')
  await drive.restore('/old/f', { atMs: at })
  t.is(await get(drive, '/old/f'), 'one')
  t.is(await get(drive, '/new/f'), 'three', 'what it is now stays')
  await drive.restore('/new/f', { atMs: before, to: '/other/place' })
  t.is(await get(drive, '/other/place'), 'two')
  t.is(await refused(drive.restore('/new/f', { atMs: at })), 'ENOENT', 'it had another name')
  t.alike(await what(drive, '/new/f'), ['renamed /new/f from /new/tmp 5', 'written /new/f 5', 'created /new/f 0', 'written /new/f 3', 'written /new/f 3', 'created /new/f 0'])
  await sound(t, drive)
})

test('a directory is as it was, and what was made in it since stays', async (t) => {
  const drive = await openDrive(t)
  await drive.mkdir('/d/sub', { recursive: true })
  for (const name of ['a', 'b', 'sub/c']) await put(drive, `/d/${name}`, `first ${name}`)
  const at = await moment(drive)
  await put(drive, '/d/a', 'changed')
  await drive.rm('/d/b')
  await drive.rm('/d/sub', { recursive: true })
  await put(drive, '/d/new', 'new')
  const report = await drive.restore('/d', { atMs: at })
  t.alike([report.files, report.directories], [3, 1])
  t.alike(await names(drive, '/d'), ['a', 'b', 'new', 'sub'])
  for (const name of ['a', 'b', 'sub/c']) t.is(await get(drive, `/d/${name}`), `first ${name}`)
  await drive.restore('/d', { atMs: at, to: '/copy' })
  t.alike(await names(drive, '/copy'), ['a', 'b', 'sub'])
  await sound(t, drive)
})

test('what stands in the way is told before anything has changed', async (t) => {
  const drive = await openDrive(t)
  await drive.mkdir('/d')
  await put(drive, '/d/a', 'a')
  await put(drive, '/d/b', 'b')
  const at = await moment(drive)
  await drive.rm('/d/a')
  await drive.rm('/d/b')
  await drive.mkdir('/d/b')
  await put(drive, '/d/b/inside', 'x')
  t.is(await refused(drive.restore('/d', { atMs: at })), 'EEXIST')
  t.alike(await names(drive, '/d'), ['b'])
  t.is(await refused(drive.restore('/d/a', { atMs: at, to: '/d/b' })), 'EEXIST')
  await drive.restore('/d', { atMs: at, force: true })
  t.is(await get(drive, '/d/b'), 'b')
  t.is(await refused(drive.restore('/d', { atMs: Date.now() + 1e6 })), 'EINVAL', 'a time to come')
  t.is(await refused(drive.restore('/d', { atMs: at - 1e9 })), 'ENOENT', 'before anything was kept')
  t.is(await refused(drive.restore('/nothing', { atMs: at })), 'ENOENT')
  t.is(await refused(drive.restore('/d/a/x', { atMs: at })), 'ENOTDIR')
  t.is(await refused(drive.versions('/nothing')), 'ENOENT')
  await drive.restore('/', { atMs: at })
  await sound(t, drive)
})

test('the log of a directory and of what is there no more', async (t) => {
  const drive = await openDrive(t)
  await drive.mkdir('/d')
  await put(drive, '/d/a', 'a')
  await moment(drive)
  await drive.rename('/d/a', '/d/b')
  await moment(drive)
  await drive.rm('/d/b')
  await moment(drive)
  await drive.mkdir('/d/x')
  await drive.rename('/d/x', '/x')
  t.alike(await what(drive, '/d'), ['renamed /x from /d/x', 'created /d/x', 'deleted /d/b 1', 'renamed /d/b from /d/a 1', 'created /d/a 0', 'created /d'])
  t.alike(await what(drive, '/d/b'), ['deleted /d/b 1', 'renamed /d/b from /d/a 1', 'written /d/b 1', 'created /d/b 0'])
  t.alike((await what(drive, '/d/a')).slice(0, 1), ['renamed /d/b from /d/a 1'])
  t.is((await drive.versions('/d', { limit: 2 })).events.length, 2)
  const [last] = (await drive.versions('/d/b')).events
  t.ok(last!.isThisDevice && last!.deviceName.length > 0 && last!.device !== null)
})

test('past the retention everything goes, and the disk gets it back', async (t) => {
  const drive = await openDrive(t)
  const big = Buffer.alloc(4 << 20)
  for (let i = 0; i < big.length; i += 4) big.writeUInt32LE(i * 2654435761 % 2 ** 32, i)
  await put(drive, '/f', big)
  const at = await moment(drive)
  await drive.rm('/f')
  await drive.gc()
  t.ok((await drive.status()).disk.segments > 4 << 20, 'it is kept')
  t.is((await drive.status()).files, 0, 'and not counted')
  const { history } = drive.metadata
  history.retentionMs = () => 1
  await sleep(3)
  await drive.gc()
  const { disk, chunks } = await drive.status()
  t.is(chunks.here, 0)
  t.ok(disk.segments < 1 << 20, `${disk.segments} bytes are left`)
  t.is(await refused(drive.restore('/f', { atMs: at })), 'ENOENT')
  await sound(t, drive)
})

test('without a retention nothing is kept, and with one again only what came after', async (t) => {
  const drive = await openDrive(t)
  const { history } = drive.metadata
  await put(drive, '/f', 'one')
  const one = await moment(drive)
  await put(drive, '/f', 'two')
  history.retentionMs = () => 0
  t.is(await refused(drive.restore('/f', { atMs: one })), 'EINVAL')
  await put(drive, '/f', 'not known')
  await drive.rm('/f')
  keep(drive, DAY_MS)
  const again = await moment(drive)
  t.is(await refused(drive.restore('/f', { atMs: one })), 'ENOENT', 'there is a gap since')
  await put(drive, '/f', 'three')
  const three = await moment(drive)
  await drive.rm('/f')
  t.is(await refused(drive.restore('/f', { atMs: again })), 'ENOENT', 'it was not there')
  await drive.restore('/f', { atMs: three })
  t.is(await get(drive, '/f'), 'three')
  await drive.gc()
  await sound(t, drive)
})

test('it is there when the store is opened again, and on a drive that others have joined', async (t) => {
  const dir = scratchDir(t)
  const first = await openDrive(t, dir)
  await put(first, '/f', 'one')
  await put(first, '/gone', 'gone')
  const at = await moment(first)
  await put(first, '/f', 'two')
  await first.rm('/gone')
  await first.close()
  const drive = await openDrive(t, dir)
  drive.share()
  await put(drive, '/f', 'three')
  await drive.rm('/f')
  // Not final: another device is waited for.
  for (const settles of [false, true]) {
    if (settles) t.ok(drive.engine.settle([[drive.journal.incarnation]]) > 0)
    await drive.restore('/', { atMs: at, to: `/then ${settles}` })
    t.is(await get(drive, `/then ${settles}/f`), 'one')
    t.is(await get(drive, `/then ${settles}/gone`), 'gone')
    t.alike(await what(drive, '/f'), ['deleted /f 5', 'written /f 5', 'written /f 3', 'written /f 3', 'created /f 0'])
  }
  await sound(t, drive)
})

test('a file that is open when it is deleted, one without a name, and what is written late', async (t) => {
  const drive = await openDrive(t)
  await put(drive, '/f', 'before')
  const at = await moment(drive)
  const f = await drive.open('/f', 'r+')
  await drive.rm('/f')
  await f.write(0, Buffer.from('after!!'))
  await f.sync()
  await drive.sync()
  await f.close()
  await drive.restore('/f', { atMs: at })
  t.is(await get(drive, '/f'), 'before')
  await sound(t, drive)
})

test('times as people give them', (t) => {
  const now = Date.UTC(2026, 4, 20, 12)
  t.is(parseTime('3d', now), now - 3 * DAY_MS)
  t.is(parseTime('2h30m ago', now), now - 9_000_000)
  t.is(parseTime('2026-05-01T14:30:00.5Z', now), Date.UTC(2026, 4, 1, 14, 30, 0, 500))
  t.is(parseTime('2026-05-01 14:30:07+02:00', now), Date.UTC(2026, 4, 1, 12, 30, 7, 999), 'the end of that second')
  t.is(parseTime('2026-05-01', now), new Date(2026, 4, 1).getTime(), 'midnight here')
  for (const bad of ['', 'soon', '3', '2026-13-01', '2026-05-01T25:00', '3 days later']) t.exception(() => parseTime(bad, now), /is no time/)
})
