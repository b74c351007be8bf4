/** Files that are made without a name (O_TMPFILE) and linked: other devices hear of them then. */
import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { S_IFREG } from '../../lib/tree/inode.js'
import { until } from '../helpers/devices.js'
import { first, joined, read } from '../helpers/storing.js'

const OWNER = { uid: 0, gid: 0 }
const XATTRS = 40

test('all that it holds and has comes with the name', { timeout: 60_000 }, async (t) => {
  const a = await first(t)
  const b = await joined(t, a)
  const { posix, files } = a.drive
  const make = () => {
    const inode = posix.makeUnlinked(1, S_IFREG | 0o640, 0, OWNER)
    if (typeof inode === 'string') throw new Error(inode)
    return inode
  }
  const full = make()
  const content = randomBytes(300_000)
  await files.write(full, 0, content)
  for (let i = 0; i < XATTRS; i++) t.is(await posix.setXattr(full.ino, Buffer.from(`user.${i}`), Buffer.from(`value ${i}`), 0, false), '')
  t.is(await posix.link(full.ino, 1, Buffer.from('full')), full)
  const empty = make()
  await posix.setattr(empty.ino, { mtime: { sec: 1_000_000_000, nsec: 5 } })
  t.is(await posix.link(empty.ino, 1, Buffer.from('empty')), empty)

  await until('they are seen', async () => (await b.drive.stat('/empty')).nlink === 1)
  t.ok((await read(b.drive, '/full')).equals(content))
  const names = (await b.drive.listXattrs('/full')).map(String)
  t.is(names.length, XATTRS)
  for (const name of names) t.is((await b.drive.getXattr('/full', Buffer.from(name))).toString(), `value ${name.slice('user.'.length)}`)
  for (const name of ['full', 'empty']) {
    const [here, there] = [await a.drive.stat(`/${name}`), await b.drive.stat(`/${name}`)]
    t.alike([there.mtimeMs, there.ctimeMs, there.mode, there.size], [here.mtimeMs, here.ctimeMs, here.mode, here.size], name)
  }
  // What follows extends the version that all have.
  await files.write(full, 10, Buffer.from('more'))
  await a.drive.sync()
  content.write('more', 10)
  await until('it is changed', async () => (await read(b.drive, '/full')).equals(content))
  t.alike((await b.drive.fsck({ data: true })).problems, [])
})
