/** The kernel session with a file system in memory behind it: what programs do with files and directories. */
import test from 'brittle'
import { promises as fs } from 'node:fs'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import { shell, withMemMount } from '../helpers/memmount.js'

test('create, write, read, rename, link, unlink', async t => {
  const { dir, memfs } = await withMemMount(t)
  const data = randomBytes(3_000_001)
  await fs.writeFile(join(dir, 'a'), data)
  t.alike(await fs.readFile(join(dir, 'a')), data)
  await fs.mkdir(join(dir, 'd'))
  await fs.rename(join(dir, 'a'), join(dir, 'd', 'b'))
  await fs.link(join(dir, 'd', 'b'), join(dir, 'c'))
  t.is((await fs.stat(join(dir, 'c'))).nlink, 2)
  await fs.symlink('d/b', join(dir, 'l'))
  t.is(await fs.readlink(join(dir, 'l')), 'd/b')
  t.alike(await fs.readFile(join(dir, 'l')), data)
  await t.exception(fs.rmdir(join(dir, 'd')), /ENOTEMPTY/)
  await fs.unlink(join(dir, 'd', 'b'))
  await fs.rmdir(join(dir, 'd'))
  t.alike((await fs.readdir(dir)).sort(), ['c', 'l'])
  t.ok(memfs.count('getxattr') <= 1, 'no security.capability before each write')
  t.is(memfs.count('flush'), 0, 'no FLUSH at close')
})

test('times are exact, before 1970 too', async t => {
  const { dir } = await withMemMount(t)
  await shell('touch -d "1931-05-06 07:08:09.123456789 UTC" "$1/old"; touch -d "2446-01-01 00:00:00.999999999 UTC" "$1/new"', dir)
  t.is((await fs.stat(join(dir, 'old'), { bigint: true })).mtimeNs, BigInt(Date.UTC(1931, 4, 6, 7, 8, 9)) * 1_000_000n + 123_456_789n)
  t.is((await fs.stat(join(dir, 'new'), { bigint: true })).mtimeNs % 1_000_000_000n, 999_999_999n)
})

test('extended attributes', async t => {
  const { dir } = await withMemMount(t)
  const script = `
import os, sys, errno
f = sys.argv[1] + '/x'
open(f, 'w').close()
os.setxattr(f, 'user.a', b'v' * 60000)
assert os.getxattr(f, 'user.a') == b'v' * 60000
os.setxattr(f, 'user.b', b'')
assert sorted(os.listxattr(f)) == ['user.a', 'user.b']
try: os.setxattr(f, 'user.a', b'', os.XATTR_CREATE); raise SystemExit('created twice')
except OSError as e: assert e.errno == errno.EEXIST
os.removexattr(f, 'user.a')
try: os.getxattr(f, 'user.a'); raise SystemExit('still there')
except OSError as e: assert e.errno == errno.ENODATA`
  await shell('python3 -c "$2" "$1"', dir, script)
  t.pass()
})

test('a file is mapped, written through the map and seen by read', async t => {
  const { dir } = await withMemMount(t)
  const script = `
import mmap, os, sys
f = open(sys.argv[1] + '/m', 'w+b')
f.truncate(1 << 20)
m = mmap.mmap(f.fileno(), 1 << 20)
m[500000:500005] = b'hello'
m.flush()
assert os.pread(f.fileno(), 5, 500000) == b'hello'
m[0:3] = b'end'
m.close(); f.close()`
  await shell('python3 -c "$2" "$1"', dir, script)
  const found = await fs.readFile(join(dir, 'm'))
  t.is(found.subarray(500_000, 500_005).toString(), 'hello')
  t.is(found.subarray(0, 3).toString(), 'end')
})

test('holes, seeking, allocation, copying inside the file system, nameless files', async t => {
  const { dir, memfs } = await withMemMount(t)
  const script = `
import os, sys
d = sys.argv[1]
a = os.open(d + '/a', os.O_RDWR | os.O_CREAT)
os.posix_fallocate(a, 0, 100000)
assert os.fstat(a).st_size == 100000
os.pwrite(a, b'x' * 100000, 0)
b = os.open(d + '/b', os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(a, b, 100000) == 100000
assert os.pread(b, 100001, 0) == b'x' * 100000
assert os.lseek(a, 0, os.SEEK_HOLE) == 100000
try: os.lseek(a, 100000, os.SEEK_DATA); raise SystemExit('data past the end')
except OSError as e: assert e.errno == 6
n = os.open(d, os.O_TMPFILE | os.O_RDWR)
os.write(n, b'nameless')
assert os.pread(n, 9, 0) == b'nameless'
os.fsync(n)
e = os.open(d, os.O_RDONLY)
os.fsync(e)`
  await shell('python3 -c "$2" "$1"', dir, script)
  t.ok(memfs.count('copyFileRange') >= 1)
  t.is(memfs.count('fsyncdir'), 1, 'FSYNCDIR comes although OPENDIR was refused')
})

test('a name of 255 bytes works, one of 256 does not, nor does a missing one of that length', async t => {
  const { dir } = await withMemMount(t)
  await fs.writeFile(join(dir, 'n'.repeat(255)), 'x')
  t.alike(await fs.readdir(dir), ['n'.repeat(255)])
  await t.exception(fs.stat(join(dir, 'n'.repeat(256))), /ENAMETOOLONG/)
  await t.exception(fs.writeFile(join(dir, 'm'.repeat(256)), ''), /ENAMETOOLONG/)
})

test('a directory of 100,000 entries is listed whole, with attributes, then without a request', { timeout: 120_000 }, async t => {
  const { dir, memfs } = await withMemMount(t)
  const many = 100_000
  for (let i = 0; i < many; i++) memfs.put(1, `entry-${i}`, Buffer.alloc(i % 3))
  const count = async () => Number(await shell('ls -f "$1" | wc -l', dir)) - 2
  t.is(await count(), many)
  const sizes = await shell('ls -lU "$1" | awk \'{ sum += $5 } END { print sum }\'', dir)
  t.is(Number(sizes), Array.from({ length: many }, (_, i) => i % 3).reduce((a, b) => a + b))
  const requests = () => memfs.count('readdir') + memfs.count('readdirplus')
  // the kernel may drop pages of a listing at any time, and then keeps the next whole one
  let asked = Infinity
  for (let i = 0; i < 8 && asked > 0; i++) {
    const before = requests()
    t.is(await count(), many)
    asked = requests() - before
  }
  t.is(asked, 0, 'the kernel answers a warm listing')
  await fs.writeFile(join(dir, 'one-more'), '')
  t.is(await count(), many + 1, 'and forgets it when a name is added')
})

test('every lookup given is forgotten, and the file system told of the end', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  await shell('cd "$1"; mkdir -p a/b/c; touch a/b/c/x a/y; ls -lR . >/dev/null; rm -r a/b; cat a/y; rm a/y; touch keep', dir)
  await mount.unmount()
  t.ok(memfs.destroyed)
  for (let i = 0; i < 50 && memfs.nodes.size > 3; i++) await new Promise(resolve => setTimeout(resolve, 20))
  t.is(memfs.nodes.size, 3, 'root, a, keep')
})

test('what an operation answers later is delivered, with other requests in between', async t => {
  const { dir, memfs } = await withMemMount(t)
  memfs.put(1, 'slow', Buffer.from('slow'))
  memfs.readHook = () => new Promise(resolve => setTimeout(() => resolve([Buffer.from('s'), Buffer.from('low')]), 100))
  const slow = fs.readFile(join(dir, 'slow'), 'utf8')
  for (let i = 0; i < 20; i++) await fs.writeFile(join(dir, `quick-${i}`), 'x')
  t.is(await slow, 'slow')
})

test('what an operation throws is an I/O error, and reported', async t => {
  const reported: unknown[] = []
  const { dir, memfs } = await withMemMount(t, {}, { report: error => reported.push(error) })
  memfs.put(1, 'bad', Buffer.from('bad'))
  memfs.readHook = () => { throw new TypeError('a mistake') }
  await t.exception(fs.readFile(join(dir, 'bad')), /EIO/)
  memfs.readHook = () => Promise.reject(new TypeError('another'))
  await t.exception(fs.readFile(join(dir, 'bad')), /EIO/)
  t.ok(reported.length >= 2)
})

test('an idle mount uses no CPU', async t => {
  const { dir } = await withMemMount(t)
  await fs.writeFile(join(dir, 'x'), 'x')
  await new Promise(resolve => setTimeout(resolve, 100))
  const before = process.cpuUsage()
  await new Promise(resolve => setTimeout(resolve, 1000))
  const used = process.cpuUsage(before)
  t.ok(used.user + used.system < 50_000, `${used.user + used.system} us in a second`)
})
